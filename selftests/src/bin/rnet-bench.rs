// SPDX-License-Identifier: GPL-2.0

//! Instructions of the worker per packet, for a machine whose clock counts instructions.
//!
//! Under `-icount shift=0` one nanosecond of a thread's run time is one instruction. On any other
//! machine the figures are nanoseconds, and as noisy as that machine is.

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use selftests::device::{NetDevice, Setup, Shape};
use selftests::uapi::{NetHeader, feature};
use selftests::{frame, procfs, sys, tap, wait};
use std::path::{Path, PathBuf};

/// Frames between two looks at the ring.
const BATCH: u64 = 64;
/// A second EtherType that nobody handles, so that the peer's socket adds no cost to the path.
const UNSEEN: [u8; 2] = [0x88, 0xb6];

/// Measures the worker's run time per packet.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Device nodes, measured in turn.
    #[arg(long = "device", default_values = ["/dev/vhost-rnet"])]
    devices: Vec<PathBuf>,
    /// Packets of each measured run.
    #[arg(long, default_value_t = 12_800)]
    packets: u64,
    /// Runs of each case and device, devices taking turns.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Runs only cases whose name contains one of these.
    filter: Vec<String>,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    transmit: bool,
    len: usize,
    features: u64,
}

const fn case(name: &'static str, transmit: bool, len: usize, extra: u64) -> Case {
    Case {
        name,
        transmit,
        len,
        features: feature::VERSION_1 | extra,
    }
}

const CASES: &[Case] = &[
    case("tx-60", true, 60, 0),
    case("rx-60", false, 60, 0),
    case("tx-1500", true, 1500, 0),
    case("rx-1500", false, 1500, 0),
    case("tx-60-event", true, 60, feature::EVENT_IDX),
    case("rx-60-event", false, 60, feature::EVENT_IDX),
    case("tx-60-indirect", true, 60, feature::INDIRECT),
    case("rx-1500-merge", false, 1500, feature::MRG_RXBUF),
    case("tx-9000", true, 9000, 0),
];

/// Sends batches from the guest and waits for each to be used.
fn transmit(device: &mut NetDevice, bytes: &[u8], count: u64) -> Result<()> {
    for _ in 0..count / BATCH {
        for _ in 0..BATCH {
            if !device.tx_post(NetHeader::default(), bytes)? {
                bail!("no room in the ring");
            }
        }
        device.tx.flush()?;
        let mut back = device.tx_reap()?;
        while back < BATCH as usize {
            if !device.tx.arm()? {
                readable(&device.tx.call)?;
            }
            back += device.tx_reap()?;
        }
    }
    Ok(())
}

/// Sends batches to the guest and waits for each to arrive.
fn receive(device: &mut NetDevice, bytes: &[u8], count: u64) -> Result<()> {
    let mut got = Vec::new();
    for _ in 0..count / BATCH {
        device.rx_fill()?;
        device.rx.flush()?;
        for _ in 0..BATCH {
            device.peer.send(NetHeader::default(), bytes)?;
        }
        let mut seen = 0;
        while seen < BATCH {
            if !device.rx.arm()? {
                readable(&device.rx.call)?;
            }
            while device.rx_take(&mut got)?.is_some() {
                seen += 1;
            }
        }
        if got != bytes {
            bail!("a frame was changed on its way");
        }
    }
    Ok(())
}

fn readable(call: &selftests::eventfd::EventFd) -> Result<()> {
    if wait::Deadline::patient().readable(&[call])? {
        return Ok(());
    }
    bail!("no call from the device")
}

/// Run time of all workers together.
fn run_time() -> Result<u64> {
    procfs::workers()?
        .iter()
        .map(|thread| Ok(procfs::schedule(thread.tid)?.run_ns))
        .sum()
}

/// Run time per packet, in hundredths.
fn measure(path: &Path, case: Case, packets: u64) -> Result<u64> {
    let mut setup = Setup::new(case.features);
    setup.tx_buffers = (256, case.len.max(2036) + 12);
    let indirect = case.features & feature::INDIRECT != 0;
    setup.tx_shape = Shape {
        indirect,
        own_header: indirect,
        ..Shape::WHOLE
    };
    let mut device = NetDevice::start(path, setup)?;
    let mut bytes = Vec::new();
    frame::build(1, 1, case.len, &mut bytes);
    bytes[12..14].copy_from_slice(&UNSEEN);
    let go = if case.transmit { transmit } else { receive };
    let packets = packets.next_multiple_of(BATCH);
    go(&mut device, &bytes, packets).context("warm-up")?;
    let before = run_time()?;
    go(&mut device, &bytes, packets)?;
    Ok((run_time()? - before) * 100 / packets)
}

fn main() -> Result<()> {
    let options = Options::parse();
    tap::private_network()?;
    // Else the worker would wake in the middle of a batch that is being sent to it.
    sys::process::run_first().context("run before the worker")?;
    let wanted = |case: &&Case| {
        options.filter.is_empty() || options.filter.iter().any(|part| case.name.contains(part))
    };
    let mut records = Vec::new();
    println!(
        "{:<16} {:<20} {:>3} {:>12}",
        "case", "device", "run", "per packet"
    );
    for case in CASES.iter().filter(wanted) {
        for run in 1..=options.runs {
            for path in &options.devices {
                let hundredths = measure(path, *case, options.packets)
                    .with_context(|| format!("{} on {}", case.name, path.display()))?;
                let (whole, part) = (hundredths / 100, hundredths % 100);
                let device = path.display().to_string();
                println!(
                    "{:<16} {device:<20} {run:>3} {whole:>9}.{part:02}",
                    case.name
                );
                records.push(serde_json::json!({
                    "case": case.name,
                    "device": device,
                    "run": run,
                    "packets": options.packets,
                    "worker_ns_per_packet": hundredths as f64 / 100.0,
                }));
            }
        }
    }
    println!("{}", serde_json::to_string(&records)?);
    Ok(())
}
