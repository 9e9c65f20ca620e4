// SPDX-License-Identifier: GPL-2.0

//! Completions that fail because memory is unmapped, and are repeated when it is mapped again.

use vring::{
    ByteOrder, CompleteWork, DirtyLog, Fault, GuestAddr, Iotlb, IotlbEntry, KickControl, Mapping,
    Mediated, Memory, Notes, Permission, RawUsed, SplitRing, UserAddr,
};

use crate::mock::{Bench, MockMemory, Op, Ram, Setup, PLACE};

const SIZE: u16 = 16;
/// Contents of the used ring before the device writes to it.
const UNTOUCHED: u8 = 0xaa;

/// The chains of one completion.
#[derive(Clone, Copy, Debug)]
enum Batch {
    /// So many chains, one entry each.
    Chains(u16),
    /// Groups of chains.
    Groups(&'static [u16]),
}

const BATCHES: [Batch; 6] = [
    Batch::Chains(1),
    Batch::Chains(5),
    Batch::Chains(SIZE),
    Batch::Groups(&[1, 1, 1]),
    Batch::Groups(&[4]),
    Batch::Groups(&[1, 3, 2, 1, 1, 4, 1]),
];

impl Batch {
    fn complete<M: Memory>(self, memory: &M, ring: &mut SplitRing) -> Result<(), Fault> {
        let entries = |count: u16| -> Vec<RawUsed> {
            (0..count)
                .map(|id| SplitRing::used_entry(0x100 + id, 1, 7 * u32::from(id)))
                .collect()
        };
        match self {
            Self::Chains(count) => ring.complete(memory, &entries(count)),
            Self::Groups(groups) => {
                ring.complete_in_order(memory, &entries(groups.len() as u16), groups)
            }
        }
    }

    fn chains(self) -> u16 {
        match self {
            Self::Chains(count) => count,
            Self::Groups(groups) => groups.iter().sum(),
        }
    }
}

fn bench(index: u16) -> Bench {
    let bench = Bench::with(Setup {
        size: SIZE,
        index,
        event_idx: true,
        ..Setup::default()
    });
    let image = vec![UNTOUCHED; 8 * usize::from(SIZE)];
    bench.memory.poke(PLACE.used.0 + 4, &image);
    bench
}

/// The used ring without its flags and its event.
fn image(memory: &MockMemory) -> Vec<u8> {
    memory.peek(PLACE.used.0 + 2, 2 + 8 * usize::from(SIZE))
}

/// The used index, as the driver sees it.
fn index(memory: &MockMemory) -> u16 {
    memory.peek16(PLACE.used.0 + 2)
}

/// Makes a completion fail at each of its accesses in turn, `times` in a row, and repeats it.
///
/// `mock` is the memory under `memory`.
fn check<M: Memory>(memory: &M, mock: &MockMemory, start: u16, batch: Batch, times: usize) {
    let fresh = || {
        let image = vec![UNTOUCHED; 8 * usize::from(SIZE)];
        mock.poke(PLACE.used.0 + 4, &image);
        mock.poke16(PLACE.used.0 + 2, start);
        let mut ring = SplitRing::default();
        assert!(ring.set_size(u32::from(SIZE)));
        ring.set_features(true, false);
        ring.set_addrs(PLACE);
        ring.set_base(start);
        ring.start(memory).unwrap();
        // From here on decisions depend on the driver's event.
        let _ = ring.needs_call(memory);
        mock.take_log();
        ring
    };
    // The event is within the batch, and behind it.
    for passed in [true, false] {
        let chains = batch.chains();
        let event = start.wrapping_add(if passed { chains - 1 } else { chains });
        mock.poke16(PLACE.avail.0 + 4 + 2 * u64::from(SIZE), event);
        let mut ring = fresh();
        batch.complete(memory, &mut ring).unwrap();
        let expect = image(mock);
        let stores = mock.take_log().iter().filter(|op| op.is_store()).count();
        assert_eq!(ring.needs_call(memory), passed);
        assert!(stores >= 2);

        for access in 0..stores {
            let mut ring = fresh();
            for _ in 0..times {
                mock.fail_in(access);
                let fault = batch.complete(memory, &mut ring);
                assert!(matches!(fault, Err(Fault::Unmapped(_))), "{batch:?}");
                assert_eq!(index(mock), start, "{batch:?}, access {access}");
            }
            // What a round may do before the retry, when the driver has added nothing.
            ring.disable_kick(memory).unwrap();
            assert!(!ring.needs_call(memory), "there is nothing to call for");
            mock.take_log();
            batch.complete(memory, &mut ring).unwrap();
            let log = mock.take_log();
            let moves = log.iter().filter(|op| matches!(op, Op::StoreRelease(..)));
            assert_eq!(moves.count(), 1, "the index moves once");
            assert_eq!(image(mock), expect, "{batch:?}, access {access}");
            assert_eq!(ring.needs_call(memory), passed);
            // The next entry is written at its place.
            let next = SplitRing::used_entry(0x99, 1, 0x77);
            ring.complete(memory, &[next]).unwrap();
            let end = start.wrapping_add(chains);
            let slot = PLACE.used.0 + 4 + 8 * u64::from(end % SIZE);
            assert_eq!(mock.peek(slot, 8), next.map(u32::to_ne_bytes).concat());
            assert_eq!(index(mock), end.wrapping_add(1));
        }
    }
}

#[test]
fn a_completion_that_failed_anywhere_can_be_made_again() {
    for batch in BATCHES {
        for start in [0, 5, 0xfff9, 0xffff] {
            for in_part in [false, true] {
                for times in [1, 3] {
                    let bench = bench(start);
                    if in_part {
                        bench.memory.fail_in_part();
                    }
                    check(&bench.memory, &bench.memory, start, batch, times);
                }
            }
        }
    }
}

#[test]
fn so_can_one_behind_an_iotlb() {
    for batch in BATCHES {
        for start in [0, 0xfff9] {
            for in_part in [false, true] {
                // The IOTLB maps the ring to the same addresses, but in pieces of half an entry.
                let mut iotlb = Iotlb::new(vec![IotlbEntry::default(); 200]);
                let mut map = |at: UserAddr, size, permission| {
                    let mapping = Mapping::new(GuestAddr(at.0), size, at, permission);
                    iotlb.update(mapping.unwrap()).unwrap();
                };
                let bench = bench(start);
                let [desc, avail, used] = bench.ring.extents();
                map(PLACE.desc, desc, Permission::READ);
                map(PLACE.avail, avail, Permission::READ);
                for at in (0..used).step_by(4) {
                    map(PLACE.used.wrapping_add(at), 4, Permission::READ_WRITE);
                }
                if in_part {
                    bench.memory.fail_in_part();
                }
                let memory = Mediated {
                    memory: bench.memory,
                    table: &Ram(bench.table),
                    iotlb: Some(&iotlb),
                    log: DirtyLog {
                        base: UserAddr(0),
                        buffers: false,
                        used: None,
                    },
                    order: ByteOrder::Little,
                    ring: PLACE,
                    notes: Notes::default(),
                };
                check(&&memory, &memory.memory, start, batch, 2);
            }
        }
    }
}
