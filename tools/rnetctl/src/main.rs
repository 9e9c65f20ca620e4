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
//! rates, prometheus      counters from one look to the next, and in Prometheus' format
//! explain/               what a queue waits for, a table of rules
//! cpus                   lists of processors
//! doctor/                whether the host is fit: kernel, module, device, guests, taps
//! top/                   what queues do in a second, and its screen
//! cli                    the command line
//! commands/              a file for each command
//! ```

mod cli;
mod commands;
mod cpus;
mod debugfs;
mod device;
mod doctor;
mod exit;
mod explain;
mod fdinfo;
mod fields;
#[cfg(test)]
mod fixture;
mod host;
mod output;
mod prometheus;
mod rates;
mod scan;
mod top;

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
        Command::Stat(args) => commands::stat::run(&host, args, out),
        Command::Explain(args) => commands::explain::run(&host, args, out),
        Command::Wake(args) => commands::wake::run(&host, args, out),
        Command::Pin(args) => commands::pin::run(&host, args, out),
        Command::Top(args) => commands::top::run(&host, args, out),
        Command::Doctor(args) => commands::doctor::run(&cli.root, args, out),
        Command::Completions(args) => commands::completions::run(args, out),
        Command::Man => commands::man::run(out),
    }
}
