// SPDX-License-Identifier: GPL-2.0
//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Shows and mends the vhost-rnet devices of this host.
#[derive(Debug, Parser)]
#[command(
    name = "rnetctl",
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong command line, 3 no such device or more \
                  than one, 4 the host lacks what is needed, 5 not permitted."
)]
pub struct Cli {
    /// Look for /proc, /sys and /dev below this folder.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/",
        global = true,
        hide = true
    )]
    pub root: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the open devices of this host.
    List(ListArgs),
    /// Write a script that completes the command line in a shell.
    Completions(CompletionsArgs),
    /// Write this program's manual page.
    Man,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Write JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: clap_complete::Shell,
}
