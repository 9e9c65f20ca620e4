// SPDX-License-Identifier: GPL-2.0
//! The steps of scenarios: what the guest does, and the checks of the result.

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rnet_e2e::host::{self, Tap, run};
use rnet_e2e::machine::{Machine, RING_PACKED, count};
use rnet_e2e::stream::{self, Counts};
use serde_json::{Value, json};

/// A step of a scenario.
pub type Step = fn(&mut Run<'_>) -> Result<()>;

/// The MTU of jumbo frames, in bytes.
const JUMBO: u32 = 9000;

/// Sizes that a ring is given in turn, in descriptors.
const SIZES: &[u32] = &[64, 128, 512, 256, 1024];

/// Sizes of a packed ring, likewise: it can have any.
const PACKED_SIZES: &[u32] = &[300, 64, 999, 201, 1024];

/// The largest transmit ring that QEMU has with a tap.
const MAX_TX: u32 = 256;

/// Connections at a time, so that some hash to different queues.
const CONNECTIONS: u32 = 8;

/// How long a server's end may take to see the end of a connection.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where debugfs is mounted.
const DEBUGFS: &str = "/sys/kernel/debug";

/// A guest, running.
pub struct Run<'a> {
    /// The guest; none after its end.
    pub guest: Option<Machine>,
    /// Its tap.
    pub tap: Tap,
    /// Feature bits that it must have negotiated, or must not have.
    pub features: &'static [(usize, bool)],
    /// Whether its rings must be packed.
    pub packed: bool,
    /// The number of its queue pairs.
    pub queues: u32,
    /// Results of the server's ends of connections.
    pub streams: &'a Receiver<Result<Counts>>,
}

impl Run<'_> {
    fn guest(&mut self) -> Result<&mut Machine> {
        self.guest.as_mut().context("the guest has ended")
    }

    fn sh(&mut self, line: &str) -> Result<String> {
        self.guest()?.shell.run(line)
    }

    /// Compares the counts that the guest's end of a connection printed with those of the other end.
    fn agree(&self, said: &str) -> Result<()> {
        let counts: Counts = serde_json::from_str(said).with_context(|| said.to_owned())?;
        stream::agree(counts, stream::next(self.streams, PATIENCE)?)
    }

    /// Calls `disturb` while a connection has traffic both ways, and checks that all of it arrives.
    fn under_traffic(&mut self, disturb: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let host = host::ADDRESS;
        self.sh("rm -f /tmp/stop")?;
        self.sh(&format!(
            "rnet-stream {host} --until /tmp/stop > /tmp/stream 2>&1 &"
        ))?;
        // Disturbed before it is established, the connection would give up.
        let connected = format!("grep -q ':{:04X} 01 ' /proc/net/tcp", stream::PORT);
        self.sh(&format!(
            "for i in $(seq 300); do {connected} && break; sleep 0.1; done; sleep 0.3"
        ))?;
        disturb(self)?;
        let said = self.sh("sleep 0.3; touch /tmp/stop; wait; cat /tmp/stream")?;
        self.agree(&said)
    }

    fn ping_host(&mut self, address: &str, options: &str) -> Result<()> {
        let said = self.sh(&format!("ping -q -c 5 -i 0.1 -W 5 {options} {address}"))?;
        ensure!(said.contains("5 packets received"), "{said}");
        Ok(())
    }
}

/// The guest has negotiated the features of its scenario.
pub fn features(run: &mut Run<'_>) -> Result<()> {
    let format = (RING_PACKED, run.packed);
    for (bit, wanted) in run.features.iter().copied().chain([format]) {
        let found = run.guest()?.negotiated(bit)?;
        ensure!(found == wanted, "bit {bit} is {found}");
    }
    Ok(())
}

/// The host answers pings.
pub fn ping(run: &mut Run<'_>) -> Result<()> {
    run.ping_host(host::ADDRESS, "")
}

/// Known content arrives, both ways.
pub fn stream(run: &mut Run<'_>) -> Result<()> {
    let said = run.sh(&format!("rnet-stream {}", host::ADDRESS))?;
    run.agree(&said)
}

/// The traffic went through vhost.
pub fn vhost(run: &mut Run<'_>) -> Result<()> {
    run.guest()?.used_vhost()
}

/// The operator sees the guest's device, what its queues have moved, and what they wait for.
pub fn rnetctl(run: &mut Run<'_>) -> Result<()> {
    let is_on_rnet = run.guest()?.is_on_rnet();
    let program = std::env::current_exe()?.with_file_name("rnetctl");
    let json = |words: &[&str]| -> Result<Value> {
        let text = host::output(&program, words)?;
        serde_json::from_str(&text).with_context(|| text)
    };
    if !Path::new(DEBUGFS).join("vhost_rnet").exists() {
        host::run("mount", &["-t", "debugfs", "none", DEBUGFS])?;
    }
    let listed = json(&["list", "--json"])?;
    let kind = if is_on_rnet {
        "vhost-rnet"
    } else {
        "vhost-net"
    };
    let device = &listed["devices"][0];
    let interfaces = json!([host::TAP]);
    ensure!(
        device["kind"] == kind && device["interfaces"] == interfaces,
        "{listed:#}"
    );
    let explained = json(&["explain", "--json", host::TAP])?;
    let queues = explained[0]["queues"].as_array();
    for queue in queues.context("no queues")? {
        // A queue in good health is nothing for the operator to mend; of C's nothing is known.
        let is_told = if is_on_rnet {
            queue["turn"]
                .as_str()
                .is_some_and(|turn| turn != "operator")
        } else {
            queue["rule"] == "vhost_net"
        };
        ensure!(is_told, "{explained:#}");
    }
    if is_on_rnet {
        let counted = host::output(&program, &["stat", "--prometheus", host::TAP])?;
        let moved = |queue: &str| {
            let label = format!("queue=\"{queue}\"");
            let mut lines = counted.lines().filter(|line| {
                line.starts_with("vhost_rnet_packets_total{") && line.contains(&label)
            });
            lines.any(|line| !line.ends_with(" 0"))
        };
        ensure!(moved("rx") && moved("tx"), "{counted}");
    }
    Ok(())
}

/// The guest shuts down in an orderly way.
pub fn end(run: &mut Run<'_>) -> Result<()> {
    run.guest.take().context("the guest has ended")?.finish()
}

/// Traffic on a VLAN.
pub fn vlan(run: &mut Run<'_>) -> Result<()> {
    let tagged = format!("{}.5", host::TAP);
    let words = format!("link add link {} name {tagged} type vlan id 5", host::TAP);
    ip(&words)?;
    ip(&format!("address add 10.77.5.1/24 dev {tagged}"))?;
    ip(&format!("link set {tagged} up"))?;
    run.sh(
        "vconfig add eth0 5 && ip address add 10.77.5.2/24 dev eth0.5 && ip link set eth0.5 up",
    )?;
    run.ping_host("10.77.5.1", "")?;
    let said = run.sh("rnet-stream 10.77.5.1")?;
    run.agree(&said)?;
    run.sh("vconfig rem eth0.5")?;
    ip(&format!("link delete {tagged}"))
}

/// Frames of 9000 bytes.
pub fn jumbo(run: &mut Run<'_>) -> Result<()> {
    ip(&format!("link set {} mtu {JUMBO}", host::TAP))?;
    run.sh(&format!("ip link set eth0 mtu {JUMBO}"))?;
    let before = run.tap.packets()?;
    run.ping_host(host::ADDRESS, &format!("-s {}", JUMBO - 28))?;
    let after = run.tap.packets()?;
    // One frame per ping, and a few for ARP.
    let frames = after.0 - before.0;
    ensure!((5..10).contains(&frames), "{frames} frames for 5 pings");
    stream(run)
}

/// Queues are reset, and come back with other sizes, under traffic.
pub fn queue_sizes(run: &mut Run<'_>) -> Result<()> {
    let known = run.sh("ethtool -g eth0")?;
    let most = known.lines().find_map(|line| line.strip_prefix("RX:"));
    let most: u32 = most.context("ethtool tells no size")?.trim().parse()?;
    run.under_traffic(|run| {
        let sizes = if run.packed { PACKED_SIZES } else { SIZES };
        for size in sizes.iter().filter(|size| **size <= most) {
            run.sh(&format!(
                "ethtool -G eth0 rx {size} tx {} && sleep 0.2",
                size.min(&MAX_TX)
            ))?;
        }
        Ok(())
    })?;
    ping(run)
}

/// The driver leaves the device and comes back, and is unloaded and loaded, under traffic.
pub fn driver_reload(run: &mut Run<'_>) -> Result<()> {
    let device = run.sh("basename $(readlink -f /sys/class/net/eth0/device)")?;
    run.under_traffic(|run| {
        for _ in 0..3 {
            run.sh(&format!(
                "echo {device} > /sys/bus/virtio/drivers/virtio_net/unbind"
            ))?;
            run.sh(&format!(
                "echo {device} > /sys/bus/virtio/drivers/virtio_net/bind"
            ))?;
            run.guest()?.address()?;
            run.sh("sleep 0.3")?;
        }
        run.sh("rmmod virtio_net && insmod /modules/virtio_net.ko")?;
        run.guest()?.address()
    })?;
    features(run)?;
    ping(run)
}

/// Memory is plugged in under traffic, and packets are placed in it.
pub fn hotplug(run: &mut Run<'_>) -> Result<()> {
    let total = |run: &mut Run<'_>| -> Result<u64> {
        let said = run.sh("sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo")?;
        Ok(said.parse()?)
    };
    let before = total(run)?;
    run.under_traffic(|run| {
        let qmp = &mut run.guest()?.qmp;
        let memory = json!({"qom-type": "memory-backend-ram", "id": "more", "size": 512 << 20});
        qmp.run("object-add", &memory)?;
        let dimm = json!({"driver": "pc-dimm", "id": "dimm", "memdev": "more"});
        qmp.run("device_add", &dimm)?;
        for _ in 0..100 {
            if total(run)? >= before + (500 << 10) {
                return Ok(());
            }
            run.sh("sleep 0.1")?;
        }
        anyhow::bail!("the guest does not see its new memory")
    })?;
    // With the old memory full, packets go to the new memory.
    run.sh("mkdir -p /full && mount -t tmpfs -o size=400M tmpfs /full")?;
    run.sh("dd if=/dev/zero of=/full/file bs=1M count=300 2> /dev/null")?;
    let said = run.sh(&format!("rnet-stream {}", host::ADDRESS))?;
    run.sh("umount /full")?;
    run.agree(&said)
}

/// Several queues have traffic.
pub fn spread(run: &mut Run<'_>) -> Result<()> {
    let queues = run.queues;
    run.sh(&format!("ethtool -L eth0 combined {queues}"))?;
    let before = per_queue(run)?;
    let host = host::ADDRESS;
    run.sh(&format!(
        "for i in $(seq {CONNECTIONS}); do rnet-stream {host} --seed $i > /tmp/stream$i 2>&1 & done; wait"
    ))?;
    let mut ends = Vec::new();
    for number in 1..=CONNECTIONS {
        let said = run.sh(&format!("cat /tmp/stream{number}"))?;
        let counts: Counts = serde_json::from_str(&said).context(said)?;
        ends.push((counts.sent, counts.received));
    }
    let mut others = Vec::new();
    for _ in 0..CONNECTIONS {
        let counts = stream::next(run.streams, PATIENCE)?;
        others.push((counts.received, counts.sent));
    }
    ends.sort_unstable();
    others.sort_unstable();
    ensure!(
        ends == others,
        "sent and received: {ends:?}; the other ends: {others:?}"
    );
    let after = per_queue(run)?;
    ensure!(after.len() == queues as usize, "{} queues", after.len());
    let busy = before.iter().zip(&after).filter(|(b, a)| a > b).count();
    ensure!(busy >= 2, "interrupts by queue: {before:?}, then {after:?}");
    for counted in run.guest()?.counters()? {
        // One vhost device per queue pair; vhost-net has no counters.
        ensure!(
            counted.is_empty() || count(&counted, "tx.faults") == 0,
            "{counted:?}"
        );
    }
    Ok(())
}

/// Interrupts that the guest had from each of its receive queues.
fn per_queue(run: &mut Run<'_>) -> Result<Vec<u64>> {
    let said = run.sh("grep -e '-input' /proc/interrupts")?;
    let counts = said.lines().map(|line| {
        // The guest has one processor, whose count is in the column after the interrupt number.
        let count = line.split_whitespace().nth(1);
        Ok(count.context("no count")?.parse()?)
    });
    counts.collect()
}

/// The guest's IOMMU translates for its network device.
pub fn translates(run: &mut Run<'_>) -> Result<()> {
    let kind = run.sh("cat $(readlink -f /sys/class/net/eth0/device/../iommu_group)/type")?;
    ensure!(
        kind.starts_with("DMA"),
        "the device's IOMMU group is {kind}"
    );
    Ok(())
}

fn ip(words: &str) -> Result<()> {
    run("ip", &words.split_whitespace().collect::<Vec<_>>())
}
