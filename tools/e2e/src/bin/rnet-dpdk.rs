// SPDX-License-Identifier: GPL-2.0
//! DPDK's virtio-user driver on a vhost device, reported in KTAP.
//!
//! `dpdk-testpmd` is the guest: it sends back each frame that it receives, with the two addresses
//! exchanged. A socket on the tap sends known frames and checks all of those that come back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use selftests::driver::uapi::feature;
use selftests::host::peer::Peer;
use selftests::host::tap;
use selftests::packet::frame;
use selftests::packet::header::NetHeader;
use selftests::wait::Deadline;

/// The tap, which `dpdk-testpmd` makes.
const TAP: &str = "dpdk0";

/// What `dpdk-testpmd` prints once it forwards.
const READY: &str = "Press enter to exit";

/// What it prints before the features that it has agreed on with the device, in hexadecimal.
const FEATURES: &str = "features after negotiate = ";

/// What it prints, if there are several queues, for each that had a frame.
const BUSY: &str = "Forward Stats for RX";

/// The seed of all frames.
const SEED: u64 = 1;

/// Frames of a run: several times as many as a ring has descriptors.
const FRAMES: u64 = 3000;

/// Frames that are on their way at a time; their buffers fill a ring if the frames are long.
const WINDOW: u64 = 64;

/// Lengths of frames that fit one buffer, in bytes.
const SHORT: &[usize] = &[60, 61, 127, 128, 590, 1000];

/// Lengths of frames that span 2 to 7 mergeable buffers, and go back by an indirect table.
///
/// They are for split rings only. In a table of a packed ring, DPDK marks the header of a frame to
/// be sent as a buffer for the device to write (`vring_desc_init_indirect_packed()`), which the
/// specification forbids, and QEMU refuses too.
const MEDIUM: &[usize] = &[1025, 1514, 4096, 7240];

/// Lengths of frames that span more, and go back by a chain.
const LONG: &[usize] = &[7241, 9014];

/// The MTU for the longest of them, in bytes.
const MTU: i32 = 9000;

/// Options of `dpdk-testpmd` for them: buffers for 1024 bytes, and several of them for a frame, both
/// ways.
const LONG_OPTIONS: &[&str] = &[
    "--mbuf-size=1152",
    "--max-pkt-len=9014",
    "--enable-scatter",
    "--tx-offloads=0x8000",
];

/// How long `dpdk-testpmd` may take to load its drivers, or to end.
const START: Duration = Duration::from_secs(120);

/// Runs DPDK's test program on a vhost device.
#[derive(Parser)]
struct Cli {
    /// The device.
    #[arg(long)]
    device: PathBuf,
    /// Directory for logs.
    #[arg(long)]
    logs: PathBuf,
}

/// How the rings are used.
#[derive(Clone, Copy)]
struct Variant {
    packed: bool,
    mergeable: bool,
    in_order: bool,
    queues: usize,
    size: u16,
}

impl Variant {
    /// All that a device can take part in.
    fn all(packed_too: bool) -> Vec<Self> {
        let plain = Self {
            packed: false,
            mergeable: false,
            in_order: false,
            queues: 1,
            size: 256,
        };
        let mergeable = Self {
            mergeable: true,
            ..plain
        };
        let split = [
            plain,
            // Not mergeable: DPDK does not know that one used entry may stand for several buffers
            // that the device has filled, as a frame does that spans them.
            Self {
                in_order: true,
                ..plain
            },
            Self {
                queues: 2,
                ..mergeable
            },
        ];
        let mut all = split.to_vec();
        if packed_too {
            let packed = |variant| Self {
                packed: true,
                ..variant
            };
            all.extend(split.map(packed));
            // A packed ring may have any size.
            all.push(Self {
                size: 300,
                ..packed(mergeable)
            });
        }
        all
    }

    /// The properties of the driver's device, which name the variant too.
    fn properties(self) -> String {
        format!(
            "packed_vq={},mrg_rxbuf={},in_order={},queues={},queue_size={}",
            u8::from(self.packed),
            u8::from(self.mergeable),
            u8::from(self.in_order),
            self.queues,
            self.size
        )
    }

    /// The lengths of its frames.
    fn lengths(self) -> Vec<usize> {
        let parts: &[_] = match (self.mergeable, self.packed) {
            (false, _) => &[SHORT],
            (true, false) => &[SHORT, MEDIUM, LONG],
            (true, true) => &[SHORT, LONG],
        };
        parts.concat()
    }
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    tap::private_network()?;
    // Only our device has packed rings.
    let variants = Variant::all(cli.device.ends_with("vhost-rnet"));
    println!("KTAP version 1\n1..{}", variants.len());
    let mut failed = 0;
    for (number, variant) in (1..).zip(variants) {
        let name = variant.properties();
        let log = PathBuf::from(format!("/tmp/dpdk-{number}.log"));
        let result = go(&cli.device, variant, &log);
        let kept = cli.logs.join(log.file_name().context("no name")?);
        fs::copy(&log, &kept).with_context(|| kept.display().to_string())?;
        if let Err(error) = result {
            failed += 1;
            println!("# {error:#}, see {}", kept.display());
            print!("not ");
        }
        println!("ok {number} {name}");
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs `variant` on `device`.
fn go(device: &Path, variant: Variant, log: &Path) -> Result<()> {
    let mut program = Testpmd::start(device, variant, log)?;
    program.wait()?;
    variant.check_features(&program.said()?)?;
    // The tap spreads IPv4 frames over its queues by their ports, which differ from frame to frame.
    let mut peer = Peer::with_headers(tap::bring_up(TAP, MTU)?)?;
    exchange(&mut peer, &variant.lengths())?;
    let said = program.finish()?;
    let busy = said.matches(BUSY).count();
    ensure!(
        variant.queues == 1 || busy == variant.queues,
        "{busy} queues had frames"
    );
    Ok(())
}

impl Variant {
    /// Fails unless the driver and the device have agreed on the features of the variant.
    fn check_features(self, said: &str) -> Result<()> {
        let line = said.lines().find_map(|line| line.split_once(FEATURES));
        let (_, bits) = line.context("no features in the log")?;
        let bits = u64::from_str_radix(bits.trim(), 16).with_context(|| bits.to_owned())?;
        for (bit, wanted) in [
            (feature::VERSION_1, true),
            (feature::RING_PACKED, self.packed),
            (feature::MRG_RXBUF, self.mergeable),
            (feature::IN_ORDER, self.in_order),
        ] {
            ensure!((bits & bit != 0) == wanted, "bit {bit:#x} of {bits:#x}");
        }
        Ok(())
    }
}

/// Sends frames of these lengths, and checks what comes back.
fn exchange(peer: &mut Peer, lengths: &[usize]) -> Result<()> {
    let mut missing = BTreeMap::new();
    let mut lengths = lengths.iter().cycle();
    let mut got = Vec::new();
    let mut sequence = 0;
    while sequence < FRAMES || !missing.is_empty() {
        if sequence < FRAMES && (missing.len() as u64) < WINDOW {
            let mut bytes = Vec::new();
            let len = lengths.next().context("no lengths")?;
            frame::build_tcp(SEED, sequence, *len, &mut bytes);
            peer.send(NetHeader::default(), &bytes)?;
            missing.insert(sequence, bytes);
            sequence += 1;
            continue;
        }
        if peer.receive(&mut got)?.is_none() {
            let more = Deadline::patient().readable(&[peer.as_fd()])?;
            ensure!(more, "{} of {sequence} frames are missing", missing.len());
            continue;
        }
        let number = swap_addresses(&mut got)?;
        match missing.remove(&number) {
            Some(sent) => frame::expect("returned", number, &sent, &got)?,
            None => bail!("frame {number} came back, which was not on its way"),
        }
    }
    Ok(())
}

/// Exchanges the addresses of a frame again, and answers the number that is in the first.
fn swap_addresses(bytes: &mut [u8]) -> Result<u64> {
    let addresses = bytes.get_mut(..12).context("a frame without addresses")?;
    addresses.rotate_left(6);
    match addresses {
        [_, high, low, ..] => Ok(u64::from(*high) << 8 | u64::from(*low)),
        _ => bail!("a frame without addresses"),
    }
}

/// `dpdk-testpmd`, running. Killed when dropped.
struct Testpmd {
    child: Child,
    log: PathBuf,
}

impl Testpmd {
    /// Starts it with its own tap and `device`, with output to `log`.
    fn start(device: &Path, variant: Variant, log: &Path) -> Result<Self> {
        let out = File::create(log).with_context(|| log.display().to_string())?;
        let vdev = format!(
            "--vdev=net_virtio_user0,path={},iface={TAP},{}",
            device.display(),
            variant.properties()
        );
        // By lines, as otherwise the log is empty until the program ends.
        let mut command = Command::new("stdbuf");
        command
            .args(["--output=L", "dpdk-testpmd"])
            .args(["-l", "0,1", "--no-huge", "-m", "128", "--iova-mode=va"])
            .args(["--no-pci", "--no-telemetry", "--no-shconf"])
            .arg("--log-level=pmd.net.virtio.init:debug")
            .arg(vdev)
            .args(["--", "--forward-mode=macswap", "--total-num-mbufs=4096"])
            .args(["rxq", "txq"].map(|kind| format!("--{kind}={}", variant.queues)));
        if variant.mergeable {
            command.args(LONG_OPTIONS);
        }
        let child = command
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("starting dpdk-testpmd")?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// All that it has printed.
    fn said(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())
    }

    /// Waits until it forwards.
    fn wait(&mut self) -> Result<()> {
        let deadline = Deadline::after(START);
        while !self.said()?.contains(READY) {
            if let Some(status) = self.child.try_wait()? {
                bail!("dpdk-testpmd ended with {status}");
            }
            ensure!(!deadline.passed(), "dpdk-testpmd does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends it in an orderly way; answers all that it has printed.
    fn finish(mut self) -> Result<String> {
        drop(self.child.stdin.take());
        let status = Deadline::after(START).ended(&mut self.child)?;
        let status = status.context("dpdk-testpmd does not end")?;
        ensure!(status.success(), "dpdk-testpmd ended with {status}");
        self.said()
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // An error means that it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
