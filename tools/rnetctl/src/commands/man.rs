// SPDX-License-Identifier: GPL-2.0
//! `rnetctl man`: the manual page.

use std::io::Write;

use clap::CommandFactory;

use crate::cli::Cli;
use crate::exit::Error;

/// Writes the page in the format of man(1).
///
/// # Errors
///
/// Those of `out`.
pub fn run(out: &mut dyn Write) -> Result<(), Error> {
    Ok(clap_mangen::Man::new(Cli::command()).render(out)?)
}
