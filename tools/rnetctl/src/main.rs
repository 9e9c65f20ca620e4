// SPDX-License-Identifier: GPL-2.0
//! `rnetctl` shows the vhost-rnet devices of a host, says what their queues wait for, and mends what
//! an operator can mend.
//!
//! Each part imports only from those above it in this list:
//!
//! ```text
//! output, exit, fields   what the program writes, how it ends, lines of keys and values
//! fdinfo, debugfs        what the module says of a device
//! host/                  /proc, /sys and /dev below a root; processes and threads
//! device                 the model of an open device, and how one is chosen
//! scan                   one pass over all processes
//! cli                    the command line
//! commands/              a file for each command
//! ```

mod cli;
mod commands;
mod debugfs;
mod device;
mod exit;
mod fdinfo;
mod fields;
mod host;
mod output;
mod scan;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use exit::Error;
use host::Host;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = output::stdout();
    let done = run(&cli, &mut out).and_then(|()| Ok(out.flush()?));
    exit::code(done)
}

/// Does what the command line asks for.
fn run(cli: &Cli, out: &mut dyn Write) -> Result<(), Error> {
    let host = Host::new(&cli.root);
    match &cli.command {
        Command::List(args) => commands::list::run(&host, args, out),
        Command::Completions(args) => commands::completions::run(args, out),
        Command::Man => commands::man::run(out),
    }
}
