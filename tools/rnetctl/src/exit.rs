// SPDX-License-Identifier: GPL-2.0
//! How the program ends.

use std::io;
use std::process::ExitCode;

/// Why a command did not do what it was asked for. Each kind has an exit status of its own; 2 is
/// that of a wrong command line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that should work failed.
    #[error("{0}")]
    Failed(String),
    /// No device is meant by these words, or more than one.
    #[error("{0}")]
    Device(String),
    /// The host lacks what the command needs: the module, debugfs, a file of another version.
    #[error("{0}")]
    Lacking(String),
    /// The user may not do this.
    #[error("{0}")]
    Denied(String),
    /// `doctor` has found that many problems.
    #[error("this host is not fit; problems found: {0}")]
    Unfit(usize),
    /// The output could not be written.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// The exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Output(_) => 1,
            Self::Device(_) => 3,
            Self::Lacking(_) => 4,
            Self::Denied(_) => 5,
            Self::Unfit(_) => 6,
        }
    }

    /// An error of the system about `what`, told by its kind.
    #[must_use]
    pub fn system(what: &str, error: &io::Error) -> Self {
        let text = format!("{what}: {error}");
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied(format!("{text}; run as root")),
            io::ErrorKind::NotFound => Self::Lacking(text),
            _ => Self::Failed(text),
        }
    }
}

/// The exit code of a result, with a sentence on standard error if there is one to say.
///
/// A reader of the output that closed it early, such as `head`, is no error.
pub fn code(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell of an error of standard error itself.
            let _ = crate::output::complain(&error.to_string());
            ExitCode::from(error.status())
        }
    }
}
