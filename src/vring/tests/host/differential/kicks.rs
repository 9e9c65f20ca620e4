// SPDX-License-Identifier: GPL-2.0

//! Completions, calls and kicks of both implementations compared.

use proptest::prelude::*;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};
use vring::{CompleteWork, GetWork, KickControl, SplitRing};

use super::guest::{Guest, AVAIL, DESC, RANGES, USED};
use crate::mock::driver::desc_bytes;
use crate::mock::Buf;

const SIZE: u16 = 16;
/// Offsets of the event fields.
const USED_EVENT: u64 = AVAIL + 4 + 2 * SIZE as u64;
const AVAIL_EVENT: u64 = USED + 4 + 8 * SIZE as u64;

/// The device's ring as it lies in memory.
fn used_ring(guest: &Guest) -> Vec<u8> {
    let mut bytes = vec![0; 6 + 8 * usize::from(SIZE)];
    guest
        .memory
        .read_slice(&mut bytes, GuestAddress(USED))
        .unwrap();
    bytes
}

fn put(guest: &Guest, addr: u64, value: u16) {
    guest.write(addr, &value.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn completions_and_calls_are_alike(
        start in any::<u16>(),
        event_idx in any::<bool>(),
        steps in proptest::collection::vec((0..=SIZE, 0..24u16), 1..20),
    ) {
        let [ours, theirs] = [(); 2].map(|()| Guest::new(SIZE, &RANGES));
        let (mut ring, mut queue) = (ours.ring(), theirs.queue());
        ring.set_features(event_idx, false);
        queue.set_event_idx(event_idx);
        for guest in [&ours, &theirs] {
            put(guest, USED + 2, start);
        }
        ring.start(&ours).unwrap();
        queue.set_next_used(start);
        // The ring's first decision after a start is always to call.
        prop_assert!(ring.needs_call(&ours));
        let _ = queue.needs_notification(&theirs.memory);
        for (count, event) in steps {
            let used = |id: u16| SplitRing::used_entry(id, 1, u32::from(id) << 20);
            ring.complete(&ours, &(0..count).map(used).collect::<Vec<_>>()).unwrap();
            for id in 0..count {
                queue.add_used(&theirs.memory, id, u32::from(id) << 20).unwrap();
            }
            prop_assert_eq!(used_ring(&ours), used_ring(&theirs));
            let event = queue.next_used().wrapping_sub(event);
            for guest in [&ours, &theirs] {
                put(guest, USED_EVENT, event);
            }
            let call = queue.needs_notification(&theirs.memory).unwrap();
            prop_assert_eq!(ring.needs_call(&ours), call);
        }
    }
}

/// `virtio-queue` has no `VRING_AVAIL_F_NO_INTERRUPT`: without event indexes it always calls.
#[test]
fn the_drivers_flag_is_not_known_there() {
    let guest = Guest::new(SIZE, &RANGES);
    let (mut ring, mut queue) = (guest.ring(), guest.queue());
    for flags in [0, 1] {
        put(&guest, AVAIL, flags);
        assert_eq!(ring.needs_call(&guest), flags == 0);
        assert!(queue.needs_notification(&guest.memory).unwrap());
    }
}

/// `virtio-queue` counts completions since the last decision modulo 2^16.
#[test]
fn a_whole_turn_is_no_news_there() {
    let guest = Guest::new(SIZE, &RANGES);
    let (mut ring, mut queue) = (guest.ring(), guest.queue());
    ring.set_features(true, false);
    queue.set_event_idx(true);
    assert!(ring.needs_call(&guest));
    for turn in 0..0x1_0000u32 {
        let id = (turn % u32::from(SIZE)) as u16;
        ring.complete(&guest, &[SplitRing::used_entry(id, 1, 0)])
            .unwrap();
        queue.add_used(&guest.memory, id, 0).unwrap();
    }
    put(&guest, USED_EVENT, 7);
    assert!(ring.needs_call(&guest));
    assert!(!queue.needs_notification(&guest.memory).unwrap());
}

/// `virtio-queue` asks for a kick from the next chain to be taken on, and answers "look again" as
/// long as one is available: after a rewind it does so for ever.
///
/// The ring asks from the last index seen on, and answers "look again" once.
#[test]
fn chains_given_back_are_news_there() {
    for event_idx in [false, true] {
        let guest = Guest::new(SIZE, &RANGES);
        let (mut ring, mut queue) = (guest.ring(), guest.queue());
        ring.set_features(event_idx, false);
        queue.set_event_idx(event_idx);
        guest.write(DESC, &desc_bytes(Buf::read(0, 1).desc(None)));
        put(&guest, AVAIL + 2, 3);

        // Both report new chains and ask for kicks in the same way.
        assert!(ring.enable_kick(&guest).unwrap());
        assert!(queue.enable_notification(&guest.memory).unwrap());
        let base = ring.base();
        ring.set_base(3);
        queue.set_next_avail(3);
        assert!(!ring.enable_kick(&guest).unwrap());
        let ours = used_ring(&guest);
        assert!(!queue.enable_notification(&guest.memory).unwrap());
        assert_eq!(used_ring(&guest), ours);

        // Three chains are rewound.
        ring.rewind(3, 0);
        queue.set_next_avail(base);
        for _ in 0..3 {
            assert!(!ring.enable_kick(&guest).unwrap());
            assert!(queue.enable_notification(&guest.memory).unwrap());
        }
        if event_idx {
            let event = guest.memory.read_obj::<u16>(GuestAddress(AVAIL_EVENT));
            assert_eq!(u16::from_le(event.unwrap()), base);
            assert!(!ring.enable_kick(&guest).unwrap());
            let event = guest.memory.read_obj::<u16>(GuestAddress(AVAIL_EVENT));
            assert_eq!(u16::from_le(event.unwrap()), 3);
        }
    }
}
