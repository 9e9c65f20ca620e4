// SPDX-License-Identifier: GPL-2.0

//! A device made for one case: memory, two rings full of buffers, a tap, and maybe a peer.

use super::case::{Case, Direction, HEADER, Mode};
use super::ring::{Buffer, Ring};
use crate::driver::memory::GuestMemory;
use crate::driver::setup::GUEST_BASE;
use crate::driver::uapi::{VringAddr, feature};
use crate::driver::vhost::{RX, TX, Vhost};
use crate::host::peer::Peer;
use crate::host::procfs;
use crate::host::tap::{OFFLOAD_CSUM, OFFLOAD_TSO4, Tap, TapConfig};
use crate::packet::frame;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;

/// An EtherType that nobody handles, and that no peer's socket is bound to: what the network stack
/// does with a frame is then as little as possible.
const UNSEEN: [u8; 2] = [0x88, 0xb6];
/// Coprime to any number of regions that is a power of two.
const STEP: usize = 199;

/// Tells whether the frames go to the peer's own socket, or to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Nobody listens, the network stack drops what the guest sends.
    Silent,
    /// A peer that receives too.
    Peer,
}

/// A frame of the case, as the guest or the peer sends it.
#[must_use]
pub fn frame_of(case: &Case, wire: Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    if case.segmented() {
        // For another host by its address, so that the IP layer drops it first thing.
        frame::build_tcp(1, 1, case.frame, &mut bytes);
    } else {
        frame::build(1, 1, case.frame, &mut bytes);
        if wire == Wire::Silent {
            bytes[12..14].copy_from_slice(&UNSEEN);
        }
    }
    bytes
}

/// The tap that a case needs.
///
/// # Errors
///
/// What the kernel answers.
pub fn tap_of(case: &Case, name: &str, multiqueue: bool) -> Result<Tap> {
    let offloads = if case.segmented() {
        OFFLOAD_CSUM | OFFLOAD_TSO4
    } else {
        0
    };
    Tap::new(
        name,
        TapConfig {
            header: u8::try_from(HEADER)?,
            offloads,
            multiqueue,
        },
    )
}

/// The peer that a case needs.
///
/// # Errors
///
/// What the kernel answers.
pub fn peer_of(case: &Case, tap: &Tap) -> Result<Peer> {
    if case.segmented() {
        Peer::with_headers(tap.if_index())
    } else {
        Peer::new(tap.if_index())
    }
}

/// Where buffers of both rings lie.
#[derive(Debug)]
struct Buffers {
    tx: Vec<u64>,
    rx: Vec<u64>,
    table: Option<(u64, usize)>,
}

/// A device made for one case.
#[derive(Debug)]
pub struct Rig {
    /// The receive ring.
    pub rx: Ring,
    /// The transmit ring.
    pub tx: Ring,
    /// The wire.
    pub tap: Tap,
    /// What the frames are.
    pub frame: Vec<u8>,
    /// What is measured.
    pub case: Case,
    memory: Arc<GuestMemory>,
    buffers: Buffers,
    _vhost: Vhost,
}

impl Rig {
    /// Makes the device at `path` on `tap`, with `frame` in all transmit buffers.
    ///
    /// # Errors
    ///
    /// When anything on the way fails.
    pub fn new(path: &Path, case: Case, tap: Tap, frame: Vec<u8>) -> Result<Self> {
        let memory = Arc::new(layout(&case)?);
        let rx = Ring::new(&memory, case.queue, case.features())?;
        let tx = Ring::new(&memory, case.queue, case.features())?;
        let buffers = Buffers::new(&memory, &case)?;
        let vhost = Vhost::owned(path)?;
        vhost
            .set_features(case.features())
            .context("SET_FEATURES")?;
        vhost.set_memory(&memory.table()).context("SET_MEM_TABLE")?;
        let mut rig = Self {
            rx,
            tx,
            tap,
            frame,
            case,
            memory,
            buffers,
            _vhost: vhost,
        };
        rig.fill()?;
        for (index, ring) in [(RX, &rig.rx), (TX, &rig.tx)] {
            rig.start(index, ring)?;
        }
        Ok(rig)
    }

    fn fill(&mut self) -> Result<()> {
        let bytes = self.case.packet(&self.frame);
        for index in 0..self.case.queue {
            let slot = usize::from(index);
            self.memory.write(self.buffers.tx[slot], &bytes);
            for direction in [Direction::Tx, Direction::Rx] {
                let pieces = self.case.pieces(self.case.buffer(direction));
                let table = self.buffers.table(&self.case, direction, slot);
                let (ring, addr) = match direction {
                    Direction::Tx => (&mut self.tx, self.buffers.tx[slot]),
                    Direction::Rx => (&mut self.rx, self.buffers.rx[slot]),
                };
                let buffer = Buffer {
                    addr,
                    writable: direction == Direction::Rx,
                    pieces: &pieces,
                    table,
                };
                ring.set_buffer(index, buffer)?;
            }
        }
        Ok(())
    }

    fn start(&self, index: u32, ring: &Ring) -> Result<()> {
        let vhost = &self._vhost;
        let size = u32::from(ring.size());
        vhost.set_num(index, size).context("SET_VRING_NUM")?;
        vhost
            .set_base(index, ring.base())
            .context("SET_VRING_BASE")?;
        let address = VringAddr {
            index,
            ..ring.place()
        };
        vhost.set_addr(address).context("SET_VRING_ADDR")?;
        let call = ring.call.as_fd().as_raw_fd();
        vhost.set_call(index, call).context("SET_VRING_CALL")?;
        let kick = ring.kick.as_fd().as_raw_fd();
        vhost.set_kick(index, kick).context("SET_VRING_KICK")?;
        vhost
            .set_backend(index, self.tap.number())
            .context("NET_SET_BACKEND")
    }

    /// Checks that the frame that began in receive descriptor `first` is the one that was sent.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn check_received(&self, first: u16) -> Result<()> {
        let len = self.case.buffer(Direction::Rx);
        let whole = HEADER + self.frame.len();
        let mut got = Vec::new();
        for part in 0..usize::from(self.case.parts()) {
            let slot = (usize::from(first) + part) % usize::from(self.case.queue);
            let mut bytes = vec![0; len.min(whole - got.len())];
            self.memory.read(self.buffers.rx[slot], &mut bytes);
            got.extend_from_slice(&bytes);
        }
        frame::expect("received", 0, &self.frame, &got[HEADER..])
    }
}

impl Buffers {
    fn new(memory: &GuestMemory, case: &Case) -> Result<Self> {
        let pieces = table_size(case);
        let table = if case.mode == Mode::Indirect {
            let tables = 2 * usize::from(case.queue);
            Some((memory.alloc(tables * pieces * 16, 16)?, pieces))
        } else {
            None
        };
        let place = |direction| -> Result<Vec<u64>> {
            let len = case.buffer(direction);
            (0..usize::from(case.queue))
                .map(|slot| memory.alloc_in(region_of(case, slot), len, 64))
                .collect()
        };
        Ok(Self {
            tx: place(Direction::Tx)?,
            rx: place(Direction::Rx)?,
            table,
        })
    }

    fn table(&self, case: &Case, direction: Direction, slot: usize) -> Option<u64> {
        let (addr, entries) = self.table?;
        let first = match direction {
            Direction::Tx => 0,
            Direction::Rx => usize::from(case.queue),
        };
        Some(addr + ((first + slot) * entries * 16) as u64)
    }
}

fn region_of(case: &Case, slot: usize) -> usize {
    if case.scattered {
        slot * STEP % case.regions
    } else {
        0
    }
}

/// Entries of the longest indirect table.
fn table_size(case: &Case) -> usize {
    let longest = case.buffer(Direction::Tx).max(case.buffer(Direction::Rx));
    case.pieces(longest).len()
}

/// Guest memory with room for both rings, and holes between regions.
fn layout(case: &Case) -> Result<GuestMemory> {
    let queue = usize::from(case.queue);
    let stride = |direction| case.buffer(direction).next_multiple_of(64);
    let pair = stride(Direction::Tx) + stride(Direction::Rx);
    let each = if case.scattered {
        queue.div_ceil(case.regions) * pair
    } else {
        queue * pair
    };
    let tables = 2 * queue * table_size(case) * 16;
    let first = each + tables + 64 * queue + (1 << 16);
    let rest = if case.scattered { each } else { 1 };
    let mut regions = vec![(GUEST_BASE, first)];
    let mut next = GUEST_BASE + first.next_multiple_of(1 << 21) as u64;
    for _ in 1..case.regions {
        regions.push((next, rest));
        next += 2 * rest.next_multiple_of(1 << 12) as u64;
    }
    GuestMemory::new(&regions)
}

/// Why the device at `path` cannot take part in `case`, if so.
///
/// # Errors
///
/// When the device is missing.
pub fn obstacle(path: &Path, case: &Case) -> Result<Option<String>> {
    let vhost = Vhost::owned(path)?;
    let offered = vhost.features().context("GET_FEATURES")?;
    let missing = case.features() & !offered;
    for (bit, name) in [
        (feature::RING_PACKED, "RING_PACKED"),
        (feature::IN_ORDER, "IN_ORDER"),
    ] {
        if missing & bit != 0 {
            return Ok(Some(format!("{name} is not offered")));
        }
    }
    if missing != 0 {
        return Ok(Some(format!("features {missing:#x} are not offered")));
    }
    if case.regions > 1 {
        let table = layout(case)?.table();
        vhost
            .set_features(case.features())
            .context("SET_FEATURES")?;
        if let Err(error) = vhost.set_memory(&table) {
            return Ok(Some(format!("{} memory regions: {error}", case.regions)));
        }
    }
    Ok(None)
}

/// Packets that interface `name` took from the guest so far.
///
/// # Errors
///
/// When there is no such interface.
pub fn packets_from_guest(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/self/net/dev").context("interface counters")?;
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'));
    let Some(count) = line.and_then(|line| line.split_whitespace().nth(1)) else {
        bail!("no counters of {name}");
    };
    count.parse().context("interface counters")
}

/// Run time and slices of all workers of this process together, once they are idle.
///
/// # Errors
///
/// When they do not come to rest.
pub fn workers_at_rest() -> Result<procfs::Schedule> {
    procfs::idle()?;
    workers_now()
}

/// Run time and slices of all workers of this process together.
///
/// # Errors
///
/// When one is gone.
pub fn workers_now() -> Result<procfs::Schedule> {
    let mut sum = procfs::Schedule {
        run_ns: 0,
        slices: 0,
    };
    for thread in procfs::workers()? {
        let one = procfs::schedule(thread.tid)?;
        sum.run_ns += one.run_ns;
        sum.slices += one.slices;
    }
    Ok(sum)
}
