// SPDX-License-Identifier: GPL-2.0

//! Completions that fail because memory is unmapped, and are repeated when it is mapped again.

use std::mem;

use vring::{
    ByteOrder, CompleteWork, DirtyLog, Fault, GuestAddr, Iotlb, IotlbEntry, KickControl, Mapping,
    Mediated, Memory, Notes, Permission, RawUsed, UserAddr,
};

use crate::for_both_formats;
use crate::mock::{ram, Buf, DriverSide, Format, Op, Ram, Rig, SetUp, Setup, PLACE};

/// Sizes of the ring: within one page, and on several.
const SIZES: [u16; 2] = [16, 512];

/// Where the ring starts: at the start, before the end of a page or of a ring, and before the end of a
/// split ring's index.
const STARTS: [u16; 5] = [0, 5, 253, 0xfff9, 0xffff];

/// The chains of one completion, in groups.
#[derive(Clone, Copy, Debug)]
enum Batch {
    /// So many chains, completed without groups.
    Chains(u16),
    /// Groups of chains.
    Groups(&'static [u16]),
}

const BATCHES: [Batch; 6] = [
    Batch::Chains(1),
    Batch::Chains(5),
    // A batch of a whole packed ring would call for any event.
    Batch::Chains(15),
    Batch::Groups(&[1, 1, 1]),
    Batch::Groups(&[4]),
    Batch::Groups(&[1, 3, 2, 1, 1, 4, 1]),
];

impl Batch {
    /// The number of chains in each group.
    fn groups(self) -> Vec<u16> {
        match self {
            Self::Chains(count) => vec![1; usize::from(count)],
            Self::Groups(groups) => groups.to_vec(),
        }
    }
}

/// A ring whose device has taken the chains of a batch.
struct Taken<F: Format> {
    bench: Rig<F>,
    batch: Batch,
    /// Ids of each group's chains.
    ids: Vec<Vec<u16>>,
    /// The entry of each group.
    entries: Vec<RawUsed>,
}

impl<F: Format> Taken<F> {
    /// The driver asks for a call when `more + 1` of the chains have been used.
    fn new(size: u16, index: u16, batch: Batch, more: u16) -> Self {
        let mut bench = Rig::<F>::with(Setup {
            size,
            index,
            event_idx: true,
            ..Setup::default()
        });
        // From here on decisions depend on the driver's event.
        let _ = bench.ring.needs_call(&bench.memory);
        let (mut ids, mut entries) = (Vec::new(), Vec::new());
        for (number, chains) in (0..).zip(batch.groups()) {
            let mut group = Vec::new();
            let mut members = Vec::new();
            for chain in 0..chains {
                // Where there is room, chains of several descriptors.
                let slots = if size > 64 { 1 + chain % 3 } else { 1 };
                let id = bench.offer(&vec![Buf::write(0x1000, 64); usize::from(slots)]);
                let (chain, _) = bench.next().unwrap().expect("a chain");
                assert_eq!(chain.id, id);
                group.push(id);
                members.push(F::Ring::used_entry(id, chain.slots, 7 * number));
            }
            ids.push(group);
            entries.push(F::Ring::group(&members));
        }
        bench.driver.want_calls(&bench.memory, more);
        bench.memory.take_log();
        Self {
            bench,
            batch,
            ids,
            entries,
        }
    }

    /// Completes the batch; behind an IOTLB if there is one.
    fn complete(&mut self, iotlb: Option<&Iotlb<Vec<IotlbEntry>>>) -> Result<(), Fault> {
        let Some(iotlb) = iotlb else {
            let memory = mem::take(&mut self.bench.memory);
            let result = self.complete_in(&memory);
            self.bench.memory = memory;
            return result;
        };
        let memory = Mediated {
            memory: mem::take(&mut self.bench.memory),
            table: &Ram(ram()),
            iotlb: Some(iotlb),
            log: DirtyLog {
                base: UserAddr(0),
                buffers: false,
                used: None,
            },
            order: ByteOrder::Little,
            ring: PLACE,
            notes: Notes::default(),
        };
        let result = self.complete_in(&&memory);
        self.bench.memory = memory.memory;
        result
    }

    fn complete_in<M: Memory>(&mut self, memory: &M) -> Result<(), Fault> {
        let ring = &mut self.bench.ring;
        match self.batch {
            Batch::Chains(_) => ring.complete(memory, &self.entries),
            Batch::Groups(groups) => ring.complete_in_order(memory, &self.entries, groups),
        }
    }

    /// The driver gets the whole batch and, after that, another chain.
    fn arrives(&mut self) {
        let Rig { memory, driver, .. } = &mut self.bench;
        for (number, ids) in (0..).zip(&self.ids) {
            let group = driver.poll_group(memory);
            assert_eq!(group, Some((ids.clone(), 7 * number)));
        }
        assert!(!driver.has_used(memory));
        let id = self.bench.offer(&[Buf::write(0x1000, 64)]);
        assert_eq!(self.bench.head(), id);
        self.bench.complete(id);
        assert_eq!(self.bench.driver.poll(&self.bench.memory), Some((id, 0)));
    }
}

/// Makes a completion fail at each of its accesses in turn, `times` in a row, and repeats it.
fn check<F: Format>(
    size: u16,
    start: u16,
    batch: Batch,
    iotlb: Option<&Iotlb<Vec<IotlbEntry>>>,
    in_part: bool,
    times: usize,
) {
    let chains: u16 = batch.groups().iter().sum();
    // The event is within the batch, and behind it.
    for (passed, more) in [(true, chains - 1), (false, chains)] {
        let mut access = 0;
        loop {
            let mut taken = Taken::<F>::new(size, start, batch, more);
            if in_part {
                taken.bench.memory.fail_in_part();
            }
            taken.bench.memory.fail_in(access);
            let Err(fault) = taken.complete(iotlb) else {
                break;
            };
            for _ in 1..times {
                taken.bench.memory.fail_in(access);
                assert!(taken.complete(iotlb).is_err());
            }
            assert!(matches!(fault, Fault::Unmapped(_)), "{batch:?}: {fault:?}");
            let Rig {
                memory,
                driver,
                ring,
                ..
            } = &mut taken.bench;
            assert!(!driver.has_used(memory), "{batch:?}, access {access}");
            // What a round may do before the retry, when the driver has added nothing.
            ring.disable_kick(memory).unwrap();
            assert!(!ring.needs_call(memory), "there is nothing to call for");
            memory.take_log();
            taken.complete(iotlb).unwrap();
            let Rig { memory, ring, .. } = &mut taken.bench;
            let log = memory.take_log();
            let last = log.iter().rfind(|op| op.is_store());
            assert!(
                matches!(
                    last,
                    Some(Op::StoreRelease(..) | Op::StoreDesc { release: true, .. })
                ),
                "it becomes visible last: {log:?}"
            );
            assert_eq!(ring.needs_call(memory), passed);
            taken.arrives();
            access += 1;
        }
        // All but one of the accesses of a completion across the end of the ring.
        assert!(access + 1 >= F::COMPLETION, "{access} accesses that fail");
        assert!(access > 0);
    }
}

fn a_completion_that_failed_anywhere_can_be_made_again<F: Format>() {
    for batch in BATCHES {
        for size in SIZES {
            for start in STARTS {
                for in_part in [false, true] {
                    for times in [1, 3] {
                        check::<F>(size, start, batch, None, in_part, times);
                    }
                }
            }
        }
    }
}

fn so_can_one_behind_an_iotlb<F: Format>() {
    let size = SIZES[0];
    let mut ring = F::Ring::default();
    assert!(ring.set_size(u32::from(size)));
    ring.set_features(true, false);
    let [desc, avail, used] = ring.extents();
    // The IOTLB maps the ring to the same addresses, but in pieces: each descriptor is one, and so is
    // half a split ring's entry.
    let mut iotlb = Iotlb::new(vec![IotlbEntry::default(); 200]);
    let mut map = |at: UserAddr, len: u64, piece: u64| {
        for offset in (0..len).step_by(piece as usize) {
            let (at, size) = (at.wrapping_add(offset), piece.min(len - offset));
            let mapping = Mapping::new(GuestAddr(at.0), size, at, Permission::READ_WRITE);
            iotlb.update(mapping.unwrap()).unwrap();
        }
    };
    map(PLACE.desc, desc, 16);
    map(PLACE.avail, avail, avail);
    map(PLACE.used, used, 4);
    for batch in BATCHES {
        for start in [0, 5, 0xfff9] {
            for in_part in [false, true] {
                check::<F>(size, start, batch, Some(&iotlb), in_part, 2);
            }
        }
    }
}

for_both_formats!(
    a_completion_that_failed_anywhere_can_be_made_again,
    so_can_one_behind_an_iotlb,
);
