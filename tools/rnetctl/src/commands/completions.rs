// SPDX-License-Identifier: GPL-2.0
//! `rnetctl completions`: a shell's script.

use std::io::Write;

use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs};
use crate::exit::Error;

/// Writes the script for the shell that `args` names.
///
/// # Errors
///
/// Those of `out`.
pub fn run(args: &CompletionsArgs, out: &mut dyn Write) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rnetctl", &mut script);
    Ok(out.write_all(&script)?)
}
