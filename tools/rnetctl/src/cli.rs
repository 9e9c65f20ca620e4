// SPDX-License-Identifier: GPL-2.0
//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::cpus::CpuList;
use crate::device::Direction;

/// Shows and mends the vhost-rnet devices of this host.
#[derive(Debug, Parser)]
#[command(
    name = "rnetctl",
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong command line, 3 no such device or more \
                  than one, 4 the host lacks what is needed, 5 not permitted, 6 doctor has found a \
                  problem."
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
    /// Show what queues have moved, and how fast.
    Stat(StatArgs),
    /// Say in words what queues wait for, and what to do.
    Explain(ExplainArgs),
    /// Have queues look for work again.
    Wake(WakeArgs),
    /// Let workers run on some processors only.
    Pin(PinArgs),
    /// Show what queues do, live, or once as a table where no terminal is.
    Top(TopArgs),
    /// Look whether this host is fit for vhost-rnet, and how to mend what is not.
    Doctor(DoctorArgs),
    /// Write a script that completes the command line in a shell.
    Completions(CompletionsArgs),
    /// Write this program's manual page.
    Man,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Show the names of the features that owners have set.
    #[arg(short, long, conflicts_with = "json")]
    pub features: bool,
    /// Write JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `stat`.
#[derive(Debug, Args)]
pub struct StatArgs {
    /// The device (all of them without this): a process id, PID:FD, a device's number as #N, the
    /// name of a virtual machine or of an interface.
    pub device: Option<String>,
    /// Show rates too, every so many seconds.
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    pub interval: Option<Duration>,
    /// Show rates so many times, then end.
    #[arg(short, long, value_name = "N", requires = "interval")]
    pub count: Option<u64>,
    /// Write whole numbers rather than short ones.
    #[arg(short, long)]
    pub exact: bool,
    /// Show every counter that is not zero.
    #[arg(short, long, conflicts_with = "prometheus")]
    pub all: bool,
    /// Write JSON; a line for each interval.
    #[arg(long, conflicts_with_all = ["prometheus", "all"])]
    pub json: bool,
    /// Write what the textfile collector of Prometheus' node exporter reads.
    #[arg(long, conflicts_with = "interval")]
    pub prometheus: bool,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The device: a process id, PID:FD, a device's number as #N, the name of a virtual machine or
    /// of an interface.
    pub device: String,
    /// Write JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `wake`.
#[derive(Debug, Args)]
pub struct WakeArgs {
    /// The device, as for `explain`.
    pub device: String,
    /// The queue; both without this.
    pub queue: Option<Direction>,
}

/// Arguments of `pin`.
#[derive(Debug, Args)]
pub struct PinArgs {
    /// The device, as for `explain`.
    pub device: String,
    /// The processors, as a list such as 0-3,5.
    pub cpus: CpuList,
    /// Only the worker of this queue.
    #[arg(long)]
    pub queue: Option<Direction>,
}

/// The longest interval of `stat`: a day.
const LONGEST: f64 = 86_400.0;

/// Seconds with a fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=LONGEST).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("not a number of seconds from 0.01 to {LONGEST}")),
    }
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds between two looks.
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: Duration,
    /// Write one table after one interval.
    #[arg(long)]
    pub once: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Cli, seconds};

    #[test]
    fn the_description_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn intervals_are_positive_and_finite() {
        assert_eq!(seconds("1.5").map(|time| time.as_millis()), Ok(1500));
        for text in ["0", "-1", "nan", "inf", "1e9", "x", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn options_that_make_no_sense_together_are_refused() {
        let refused = [
            ["rnetctl", "stat", "--json", "--prometheus"].as_slice(),
            &["rnetctl", "stat", "--count", "3"],
            &["rnetctl", "pin", "x", "3-1"],
            &["rnetctl", "pin", "x", ""],
            &["rnetctl", "wake", "x", "both"],
        ];
        for words in refused {
            assert!(Cli::try_parse_from(words).is_err(), "{words:?}");
        }
    }
}
