// SPDX-License-Identifier: GPL-2.0
//! One guest on one backend.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rnet_e2e::Report;
use rnet_e2e::host::{self, Iperf, Tap};
use rnet_e2e::machine::Machine;
use rnet_e2e::qemu::{NO_VHOST, Options};
use rnet_e2e::shell::Shell;
use rnet_e2e::stream::{self, Counts};

use crate::Cli;
use crate::parse;

/// The guest's name.
pub fn name(backend: &str) -> &str {
    backend.trim_start_matches("/dev/")
}

/// Runs the guest and reports the result, also of a failure.
pub fn report(cli: &Cli, backend: &str, streams: &Receiver<Result<Counts>>) -> Report {
    let mut report = Report {
        backend: if backend == NO_VHOST {
            "vhost=off"
        } else {
            backend
        }
        .to_owned(),
        error: None,
        ping: (0, 0),
        ping_ms: 0.0,
        echoed: 0,
        guest_sends: 0.0,
        guest_receives: 0.0,
        udp_sends: 0.0,
        udp_receives: 0.0,
        requests: 0.0,
        packets: (0, 0),
        calls: 0,
        boot_seconds: 0.0,
    };
    if let Err(error) = run(cli, backend, streams, &mut report) {
        report.error = Some(format!("{error:#}"));
    }
    report
}

fn run(
    cli: &Cli,
    backend: &str,
    streams: &Receiver<Result<Counts>>,
    report: &mut Report,
) -> Result<()> {
    // Results of an earlier guest must not count for this one.
    while streams.try_recv().is_ok() {}
    let tap = Tap::new(1)?;
    let _iperf = Iperf::new()?;
    let start = Instant::now();
    let options = Options::USUAL;
    let mut guest = Machine::start(
        &cli.files,
        name(backend),
        backend,
        host::TAP,
        &options,
        None,
    )?;
    guest.boot()?;
    report.boot_seconds = start.elapsed().as_secs_f64();
    let measured = measure(cli, &mut guest, streams, report);
    report.packets = tap.packets()?;
    measured?;
    if backend != NO_VHOST {
        guest.used_vhost()?;
    }
    guest.finish()
}

/// Runs the guest's traffic.
fn measure(
    cli: &Cli,
    guest: &mut Machine,
    streams: &Receiver<Result<Counts>>,
    report: &mut Report,
) -> Result<()> {
    let host = host::ADDRESS;
    let seconds = cli.seconds;
    let shell = &mut guest.shell;
    let said = shell.run(&format!("ping -q -c 10 -i 0.1 -W 5 {host}"))?;
    let (sent, answered, mean) = parse::pings(&said)?;
    report.ping = (sent, answered);
    report.ping_ms = mean;
    ensure!(
        sent > 0 && answered == sent,
        "{answered} of {sent} pings answered"
    );
    let said = shell.run(&format!("rnet-stream {host}"))?;
    let counts: Counts = serde_json::from_str(&said).context(said)?;
    stream::agree(counts, stream::next(streams, stream::PATIENCE)?)?;
    report.echoed = counts.sent + counts.received;
    let mut iperf = |options: &str| -> Result<f64> {
        parse::throughput(&shell.run(&format!("iperf3 -c {host} -t {seconds} -J {options}"))?)
    };
    report.guest_sends = iperf("")?;
    report.guest_receives = iperf("-R")?;
    ensure!(
        report.guest_sends > 0.0 && report.guest_receives > 0.0,
        "no TCP throughput"
    );
    if cli.bench {
        // No rate limit, and datagrams that fit one frame.
        report.udp_sends = iperf("-u -b 0 -l 1400")?;
        // A flooded guest drops what its programs have no time for, and the more the faster the flood
        // is. So the bytes that its network device has received are counted.
        let before = received(shell)?;
        shell.run(&format!("iperf3 -c {host} -t {seconds} -u -b 0 -l 1400 -R"))?;
        report.udp_receives = (received(shell)? - before) * 8.0 / f64::from(seconds);
        report.requests = parse::requests(&shell.run(&format!("ping -q -A -c 1000 {host}"))?)?;
    }
    report.calls = parse::interrupts(&shell.run("cat /proc/interrupts")?);
    Ok(())
}

/// Bytes that the guest's network device has received.
fn received(shell: &mut Shell) -> Result<f64> {
    let said = shell.run("cat /sys/class/net/eth0/statistics/rx_bytes")?;
    said.parse().context(said)
}
