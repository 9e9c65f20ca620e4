// SPDX-License-Identifier: GPL-2.0
//! Live migration under traffic from one vhost device to another, reported in KTAP.
//!
//! Before the guest runs at the target, its memory there is compared with that at the source: a page
//! that differs was written, by the device or on its behalf, and not logged.

use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use rnet_e2e::files::Files;
use rnet_e2e::machine::{Machine, RING_PACKED};
use rnet_e2e::qemu::Options;
use rnet_e2e::stream::{self, Counts};
use rnet_e2e::{host, memory};
use serde_json::{Value, json};

/// The guest's memory, in MiB.
const MEMORY: u64 = 256;

/// The same, for `-m`.
const MEMORY_OPTION: &str = "256M";

/// The socket for migration.
const SOCKET: &str = "/tmp/move";

/// The taps of the two QEMUs.
const TAPS: [&str; 2] = ["rnet1", "rnet2"];

/// Time limit of a migration.
const PATIENCE: Duration = Duration::from_secs(180);

/// Migration bandwidth in bytes per second, and the longest downtime in milliseconds, which let
/// nearly no page be left to move: the migration cannot end while the guest dirties memory.
const SLOW: (u64, u64) = (32 << 20, 1);

/// The same after the guest has been seen to dirty memory. It does so to much memory in each second.
const FAST: (u64, u64) = (1 << 30, 5000);

/// Migrates a guest once between the devices of each way.
#[derive(Parser)]
struct Cli {
    /// A way, as two devices with a colon between them, and ":packed" for packed rings. May be
    /// repeated.
    #[arg(long = "way", required = true)]
    ways: Vec<String>,
    #[command(flatten)]
    files: Files,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let _kvm = host::load_kvm()?;
    let streams = stream::serve()?;
    println!("KTAP version 1\n1..{}", cli.ways.len());
    let mut failed = 0;
    for (number, way) in (1..).zip(&cli.ways) {
        match go(&cli.files, way, &streams) {
            Ok(said) => println!("# {said}\nok {number} {way}"),
            Err(error) => {
                failed += 1;
                for line in format!("{error:#}").lines() {
                    println!("# {line}");
                }
                println!("not ok {number} {way}");
            }
        }
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Moves a guest along `way`; answers how that went.
fn go(files: &Files, way: &str, streams: &Receiver<Result<Counts>>) -> Result<String> {
    let name = way.replace("/dev/", "").replace(':', "-");
    let parts: Vec<&str> = way.split(':').collect();
    let (from, to, packed) = match *parts.as_slice() {
        [from, to] => (from, to, false),
        [from, to, "packed"] => (from, to, true),
        _ => bail!("{way} is no way"),
    };
    let names = ["from", "to"].map(|side| format!("{name}-{side}"));
    let [source, target] = names.each_ref().map(String::as_str);
    files.attempt(&[source, target], || {
        // Results of an earlier guest must not count for this one.
        while streams.try_recv().is_ok() {}
        let _bridge = Bridge::new()?;
        let options = &Options {
            memory: MEMORY_OPTION,
            nic: if packed { ",packed=on" } else { "" },
            // KVM writes the time to the guest's memory when it gets the target's registers.
            append: "no-kvmclock",
            ..Options::USUAL
        };
        let mut source = Machine::start(files, source, from, TAPS[0], options, None)?;
        source.boot()?;
        let found = source.negotiated(RING_PACKED)?;
        ensure!(found == packed, "rings are packed: {found}");
        let incoming = Some(Path::new(SOCKET));
        let target = Machine::start(files, target, to, TAPS[1], options, incoming)?;
        go_under_traffic(source, target, streams)
    })
}

/// Moves the guest from `source` to `target`; answers how that went.
fn go_under_traffic(
    mut source: Machine,
    mut target: Machine,
    streams: &Receiver<Result<Counts>>,
) -> Result<String> {
    // With the pause, received data lies in memory for a while that only the device has written.
    let line = format!(
        "rnet-stream {} --pause 10 --until /tmp/stop > /tmp/stream 2>&1 &",
        host::ADDRESS
    );
    source.shell.run(&line)?;
    let ram = migrate(&mut source, &mut target)?;
    source.used_vhost()?;
    source.finish()?;
    let said = target
        .shell
        .run("sleep 1; touch /tmp/stop; wait; cat /tmp/stream")?;
    let counts = serde_json::from_str(&said).context(said)?;
    agree(counts, streams)?;
    // A connection that starts only after the migration.
    let said = target
        .shell
        .run(&format!("rnet-stream {} --seed 2", host::ADDRESS))?;
    agree(serde_json::from_str(&said).context(said)?, streams)?;
    target.used_vhost()?;
    target.finish()?;
    Ok(format!(
        "{} rounds, {} MiB sent and {} MiB received by the connection across",
        ram["dirty-sync-count"],
        counts.sent >> 20,
        counts.received >> 20
    ))
}

fn agree(counts: Counts, streams: &Receiver<Result<Counts>>) -> Result<()> {
    stream::agree(counts, stream::next(streams, PATIENCE)?)
}

/// Migrates the guest; returns QEMU's statistics about its memory.
fn migrate(source: &mut Machine, target: &mut Machine) -> Result<Value> {
    set_limits(source, SLOW)?;
    let uri = json!({"uri": format!("unix:{SOCKET}")});
    source.qmp.run("migrate", &uri)?;
    let mut hurried = false;
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let info = source.qmp.run("query-migrate", &json!({}))?;
        match info["status"].as_str() {
            Some("completed") => {
                ensure!(hurried, "it moved before it wrote anything: {info}");
                wait_for(target, "paused")?;
                memory::same([source, target], MEMORY << 20)
                    .context("not all that was written has moved")?;
                target.qmp.run("cont", &json!({}))?;
                wait_for(target, "running")?;
                return Ok(info["ram"].clone());
            }
            Some("failed" | "cancelled") => bail!("the guest does not move: {info}"),
            _ => {}
        }
        // Only the second synchronisation of the dirty bitmap has pages that the device has logged.
        if !hurried && info["ram"]["dirty-sync-count"].as_u64() >= Some(2) {
            set_limits(source, FAST)?;
            hurried = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("the guest is still on its way")
}

/// Sets the bandwidth and the downtime of a migration.
fn set_limits(source: &mut Machine, (bandwidth, downtime): (u64, u64)) -> Result<()> {
    let limits = json!({"max-bandwidth": bandwidth, "downtime-limit": downtime});
    source.qmp.run("migrate-set-parameters", &limits)?;
    Ok(())
}

/// Waits for the target to be in the state `wanted`, after those in which its guest arrives.
fn wait_for(target: &mut Machine, wanted: &str) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let status = target.qmp.run("query-status", &json!({}))?;
        match status["status"].as_str() {
            Some(state) if state == wanted => return Ok(()),
            Some("inmigrate" | "paused") => {}
            _ => bail!("the guest is not to be {wanted}: {status}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("the guest is not {wanted} in time")
}

/// A bridge with the host's address and both taps. Removed when dropped.
struct Bridge;

impl Bridge {
    fn new() -> Result<Self> {
        let name = host::TAP;
        host::run("ip", &["link", "add", name, "type", "bridge"])?;
        let bridge = Self;
        let address = format!("{}/24", host::ADDRESS);
        host::run("ip", &["address", "add", &address, "dev", name])?;
        for tap in TAPS {
            host::add_tap(tap, 1)?;
            host::run("ip", &["link", "set", tap, "master", name, "up"])?;
        }
        host::run("ip", &["link", "set", name, "up"])?;
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        host::remove(&[TAPS[0], TAPS[1], host::TAP]);
    }
}
