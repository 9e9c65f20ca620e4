// SPDX-License-Identifier: GPL-2.0
//! `rnetctl doctor`: whether the host is fit.

use std::io::Write;
use std::path::Path;

use crate::cli::DoctorArgs;
use crate::doctor;
use crate::exit::Error;

/// Writes what was found about the host whose files are below `root`.
///
/// # Errors
///
/// [`Error::Unfit`] after the report if something is a problem, and those of `out`.
pub fn run(root: &Path, args: &DoctorArgs, out: &mut dyn Write) -> Result<(), Error> {
    let findings = doctor::examine(root);
    if args.json {
        doctor::write_json(out, &findings)?;
    } else {
        doctor::write(out, &findings)?;
    }
    out.flush()?;
    match doctor::problems(&findings) {
        0 => Ok(()),
        problems => Err(Error::Unfit(problems)),
    }
}
