// SPDX-License-Identifier: GPL-2.0
//! One guest on one backend.

use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rnet_e2e::Report;

use crate::Cli;
use crate::host::{self, Iperf, Tap};
use crate::transcript::Transcript;

/// Blocks of 64 KiB that the guest sends to be echoed.
const ECHO_BLOCKS: u64 = 16;

/// Seconds a guest may take besides its traffic.
const PATIENCE: u64 = 150;

/// Runs the guest and tells how it fared, be it badly.
pub fn report(cli: &Cli, backend: &str) -> Report {
    let mut report = Report {
        backend: if backend == "off" {
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
    if let Err(error) = run(cli, backend, &mut report) {
        report.error = Some(format!("{error:#}"));
    }
    report
}

fn run(cli: &Cli, backend: &str, report: &mut Report) -> Result<()> {
    let tap = Tap::new()?;
    let _iperf = Iperf::new()?;
    let mut transcript = Transcript::default();
    let ran = boot(cli, backend, report, &mut transcript);
    report.packets = tap.packets()?;
    // What the guest told is the better reason, if it told a bad thing.
    let read = read(cli, &transcript, report);
    match (ran, read) {
        (Ok(()), read) => read,
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(read)) => Err(anyhow!("{error:#}; {read:#}")),
    }
}

/// Takes the results from the transcript, as far as it goes.
fn read(cli: &Cli, transcript: &Transcript, report: &mut Report) -> Result<()> {
    let (sent, answered, mean) = transcript.ping()?;
    report.ping = (sent, answered);
    ensure!(
        sent > 0 && answered == sent,
        "{answered} of {sent} pings answered"
    );
    report.ping_ms = mean;
    report.echoed = transcript.echoed()?;
    ensure!(
        report.echoed == ECHO_BLOCKS << 16,
        "only {} bytes echoed",
        report.echoed
    );
    report.guest_sends = transcript.throughput("sends")?;
    report.guest_receives = transcript.throughput("receives")?;
    ensure!(
        report.guest_sends > 0.0 && report.guest_receives > 0.0,
        "no TCP throughput"
    );
    if cli.bench {
        report.udp_sends = transcript.throughput("udp_sends")?;
        report.udp_receives = transcript.throughput("udp_receives")?;
        report.requests = transcript.requests()?;
    }
    report.calls = transcript.interrupts()?;
    transcript.ended()
}

/// Runs QEMU to its end, with the guest's lines going to `transcript`.
fn boot(cli: &Cli, backend: &str, report: &mut Report, transcript: &mut Transcript) -> Result<()> {
    let start = Instant::now();
    let limit = Duration::from_secs(PATIENCE + 4 * u64::from(cli.seconds));
    let mut child = qemu(cli, backend)?;
    let stdout = child.stdout.take().context("QEMU has no output")?;
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut result = Ok(());
    loop {
        match lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
            Ok(line) => {
                if line == "@@booted" {
                    report.boot_seconds = start.elapsed().as_secs_f64();
                }
                transcript.push(line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                result = Err(anyhow!("the guest did not finish in {} s", limit.as_secs()));
                break;
            }
        }
    }
    if result.is_err() {
        child.kill().context("killing QEMU")?;
    }
    let status = child.wait()?;
    drop(lines);
    reader.join().map_err(|_| anyhow!("the reader panicked"))?;
    result?;
    ensure!(status.success(), "QEMU ended with {status}");
    Ok(())
}

/// Starts the guest.
fn qemu(cli: &Cli, backend: &str) -> Result<Child> {
    let name = backend.trim_start_matches("/dev/");
    // Under emulated SVM every access to a device's register costs the better
    // part of a millisecond: the guest gets few devices and skips self-tests.
    let mut append = format!(
        "console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable no_timer_check \
         8250.nr_uarts=1 cryptomgr.notests initcall_blacklist=load_system_certificate_list \
         rnet.host={} rnet.address={} \
         rnet.seconds={} rnet.echo_port={} rnet.blocks={ECHO_BLOCKS}",
        host::ADDRESS,
        host::GUEST_ADDRESS,
        cli.seconds,
        host::ECHO_PORT
    );
    if cli.bench {
        append.push_str(" rnet.bench=yes");
    }
    if host::emulated() {
        // Emulated SVM restores too little of the extended state.
        append.push_str(" noxsave");
    }
    let vhost = if backend == "off" {
        "vhost=off"
    } else {
        exists(Path::new(backend))?;
        "vhost=on,vhostfd=3"
    };
    let words = format!(
        "qemu-system-x86_64 -accel kvm -cpu host -M q35,i8042=off,hpet=off,sata=off,smbus=off \
         -smp 1 -m 512M -nodefaults \
         -no-user-config -display none -no-reboot \
         -kernel {kernel} -initrd {initrd} -serial file:{logs}/guest-{name}.log \
         -netdev tap,id=net,ifname={tap},script=no,downscript=no,{vhost} \
         -device virtio-net-pci,netdev=net,romfile= \
         -chardev file,id=report,path=/proc/self/fd/1 \
         -device virtio-serial-pci -device virtserialport,chardev=report,name=report",
        kernel = cli.kernel.display(),
        initrd = cli.initramfs.display(),
        logs = cli.logs.display(),
        tap = host::TAP,
    );
    // The shell opens the device, as any program may that hands it to QEMU.
    let script = match backend {
        "off" => r#"shift; exec "$@""#,
        _ => r#"exec 3<>"$1" || exit 1; shift; exec "$@""#,
    };
    Command::new("sh")
        .args(["-c", script, "launch", backend])
        .args(words.split_whitespace())
        .args(["-append", &append])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting QEMU")
}

/// Fails with a clear message if there is no such device.
fn exists(device: &Path) -> Result<()> {
    match std::fs::metadata(device) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("there is no {}", device.display())
        }
        Err(error) => Err(error.into()),
    }
}
