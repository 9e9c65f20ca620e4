// SPDX-License-Identifier: GPL-2.0
//! The guest's end of checked TCP traffic.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use rnet_e2e::stream;

/// Sends to, and receives from, the server in level 1; prints how much.
#[derive(Parser)]
struct Cli {
    /// The server's address.
    host: String,
    /// The seed of the content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds after which to end.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// Milliseconds to wait before each read of a block, so that received data stays in memory unread.
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// End when this file exists instead.
    #[arg(long)]
    until: Option<PathBuf>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let start = Instant::now();
    let counts = stream::client(
        &cli.host,
        cli.seed,
        Duration::from_millis(cli.pause),
        || match &cli.until {
            Some(file) => file.exists(),
            None => start.elapsed() >= Duration::from_secs(cli.seconds),
        },
    )?;
    println!("{}", serde_json::to_string(&counts)?);
    Ok(())
}
