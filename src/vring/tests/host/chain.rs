// SPDX-License-Identifier: GPL-2.0

//! Walking descriptor chains, direct and indirect, and every malformed chain that a guest can
//! write.

use vring::{
    Chain, Desc, Fault, GetWork, Unmapped, UserAddr, DESC_F_INDIRECT, DESC_F_NEXT, MAX_CHAIN_DESCS,
    MAX_CHAIN_SEGMENTS,
};

use crate::for_both_formats;
use crate::mock::driver::desc_bytes;
use crate::mock::{
    indirect, segment, table, Bench, Buf, DriverSide, Format, Rig, SetUp, RAM, RAM_SIZE,
};

/// Makes the chain at `head` available; the test has written its descriptors.
pub fn push(bench: &mut Bench, head: u16) {
    bench.driver.push_head(&bench.memory, head);
    bench.driver.publish(&bench.memory);
}

/// Writes an indirect table at guest address `at`.
pub fn write_table(bench: &Bench, at: u64, descs: &[Desc]) {
    let bytes: Vec<_> = descs.iter().flat_map(|desc| desc_bytes(*desc)).collect();
    bench.memory.poke(RAM + at, &bytes);
}

/// Expects `fault` twice, then takes a valid chain in place of the faulty one.
pub fn refused(bench: &mut Bench, fault: Fault) {
    let base = bench.ring.base();
    assert_eq!(bench.next(), Err(fault));
    assert_eq!(bench.next(), Err(fault), "the chain stays available");
    assert_eq!(bench.ring.base(), base);
    bench.driver.avail = base;
    let good = Buf::read(3, 4).desc(None);
    bench.driver.write_desc(&bench.memory, 0, good);
    push(bench, 0);
    let (chain, segments) = bench.next().unwrap().unwrap();
    assert_eq!((chain.id, chain.len), (0, 4));
    assert_eq!(segments, [segment(RAM + 3, 4)]);
}

/// Expects `fault` twice, for a chain that stays available.
pub fn refused_by<F: Format>(bench: &mut Rig<F>, fault: Fault) {
    let base = bench.ring.base();
    assert_eq!(bench.next(), Err(fault));
    assert_eq!(bench.next(), Err(fault), "the chain stays available");
    assert_eq!(bench.ring.base(), base);
}

#[test]
fn a_chain_tells_what_it_cost() {
    let mut bench = Bench::new(4096);
    let cost = |bench: &mut Bench| {
        let (chain, _) = bench.next().unwrap().unwrap();
        (chain.slots, chain.descs)
    };
    // One buffer, not empty and empty.
    bench.offer(&[Buf::read(0, 1)]);
    assert_eq!(cost(&mut bench), (1, 1));
    bench.offer(&[Buf::write(0, 0)]);
    assert_eq!(cost(&mut bench), (1, 1));
    // The largest number of buffers, all but one of them empty.
    let mut bufs = vec![Buf::write(0, 0); MAX_CHAIN_DESCS as usize - 1];
    bufs.push(Buf::write(0, 1));
    bench.offer(&bufs);
    assert_eq!(cost(&mut bench), (2048, 2048));

    // The descriptor of the table counts in `descs`, and is the only one in `slots`.
    let mut bench = Bench::new(8);
    let user = UserAddr(RAM + 0x1000);
    for count in [1, 17, MAX_CHAIN_DESCS as usize - 1] {
        let bufs = &bufs[bufs.len() - count..];
        let driver = &mut bench.driver;
        driver.add_indirect(&bench.memory, 0x1000, user, bufs);
        driver.publish(&bench.memory);
        assert_eq!(cost(&mut bench), (1, 1 + count as u32));
    }

    // Buffers before and after a table of two, whose descriptors are not consecutive.
    let first = Buf::write(0x20, 2).desc(Some(3));
    let last = Buf::write(0x30, 3).desc(None);
    write_table(&bench, 0x1000, &[first, last, last, last]);
    let table = Desc {
        flags: DESC_F_INDIRECT | DESC_F_NEXT,
        next: 5,
        ..indirect(0x1000, 4)
    };
    for (index, desc) in [
        (1, Buf::read(0x10, 1).desc(Some(4))),
        (4, table),
        (5, Buf::write(0x40, 4).desc(None)),
    ] {
        bench.driver.write_desc(&bench.memory, index, desc);
    }
    push(&mut bench, 1);
    assert_eq!(cost(&mut bench), (3, 5));
}

#[test]
fn loops_end() {
    for size in [1u16, 2, 8, 32768] {
        let mut bench = Bench::new(size);
        // Every descriptor leads to the next, the last to the first.
        for index in 0..size {
            let next = Some((index + 1) % size);
            let desc = Buf::read(0, 0).desc(next);
            bench.driver.write_desc(&bench.memory, index, desc);
        }
        push(&mut bench, size - 1);
        bench.memory.take_log();
        assert_eq!(bench.next(), Err(Fault::ChainTooLong));
        assert!(bench.memory.take_log().len() <= 2048 + 4);
        refused(&mut bench, Fault::ChainTooLong);
    }
}

#[test]
fn next_has_to_be_in_the_ring() {
    for next in [8, 9, 0xffff] {
        let mut bench = Bench::new(8);
        let desc = Buf::read(0, 1).desc(Some(next));
        bench.driver.write_desc(&bench.memory, 2, desc);
        push(&mut bench, 2);
        let fault = Fault::DescIndex {
            index: u32::from(next),
            size: 8,
        };
        refused(&mut bench, fault);
    }
}

#[test]
fn next_counts_only_with_its_flag() {
    let mut bench = Bench::new(8);
    let desc = Desc {
        next: 0xffff,
        ..Buf::read(0, 1).desc(None)
    };
    bench.driver.write_desc(&bench.memory, 2, desc);
    push(&mut bench, 2);
    assert_eq!(bench.next().unwrap().unwrap().0.len, 1);
}

#[test]
fn every_fault_has_its_own_name_and_text() {
    let faults = [
        Fault::AvailIndex { last: 1, avail: 2 },
        Fault::DescIndex { index: 3, size: 4 },
        Fault::ChainTooLong,
        Fault::TooManySegments,
        Fault::IndirectLength { len: 5 },
        Fault::NestedIndirect,
        Fault::ReadableAfterWritable,
        Fault::OutsideMemory { addr: 6, len: 7 },
        Fault::Unmapped(Unmapped(UserAddr(0xdead_beef))),
        Fault::Direction,
        Fault::ShortHeader { len: 8 },
    ];
    for (position, fault) in faults.iter().enumerate() {
        let text = fault.to_string();
        assert!(!text.contains("dead"), "no address of the host in {text}");
        for other in &faults[..position] {
            assert_ne!(fault.name(), other.name());
            assert_ne!(text, other.to_string());
        }
        let word = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(fault.name().chars().all(word), "{}", fault.name());
    }
}

#[test]
fn readable_does_not_follow_writable_from_ring_to_table() {
    let mut bench = Bench::new(8);
    write_table(&bench, 0x1000, &[Buf::read(0, 1).desc(None)]);
    let first = Buf::write(0, 1).desc(Some(3));
    bench.driver.write_desc(&bench.memory, 2, first);
    bench
        .driver
        .write_desc(&bench.memory, 3, indirect(0x1000, 1));
    push(&mut bench, 2);
    refused(&mut bench, Fault::ReadableAfterWritable);
}

fn readable_and_writable_parts_are_counted_and_kept_in_order<F: Format>() {
    let mut bench = Rig::<F>::new(8);
    let head = bench.offer(&[
        Buf::read(0x100, 12),
        Buf::read(0x3000, 1),
        Buf::write(0x200, 1500),
        Buf::write(0, 1),
    ]);
    let (chain, segments) = bench.next().unwrap().unwrap();
    let expect = Chain {
        id: head,
        slots: 4,
        descs: 4,
        readable: 2,
        writable: 2,
        len: 12 + 1 + 1500 + 1,
    };
    assert_eq!(chain, expect);
    let expect = [(0x100, 12), (0x3000, 1), (0x200, 1500), (0, 1)];
    assert_eq!(segments, expect.map(|(addr, len)| segment(RAM + addr, len)));
}

fn a_thousand_one_byte_descriptors_make_a_chain<F: Format>() {
    let bufs: Vec<_> = (0..1000).map(|i| Buf::write(3 * i, 1)).collect();
    let expect: Vec<_> = (0..1000).map(|i| segment(RAM + 3 * i, 1)).collect();
    let mut bench = Rig::<F>::new(1024);
    bench.offer(&bufs);
    // The same loop in a table.
    let user = UserAddr(RAM + 0x8000);
    bench
        .driver
        .add_indirect(&bench.memory, 0x8000, user, &bufs)
        .unwrap();
    bench.driver.publish(&bench.memory);
    for _ in 0..2 {
        let (chain, segments) = bench.next().unwrap().unwrap();
        assert_eq!((chain.readable, chain.writable, chain.len), (0, 1000, 1000));
        assert_eq!(segments, expect);
    }
}

fn a_full_list_refuses_the_chain<F: Format>() {
    let mut bench = Rig::<F>::new(8);
    bench.offer(&[Buf::read(0, 1), Buf::read(8, 1)]);
    for room in 0..3 {
        let mut storage = vec![segment(0, 0); room];
        let mut out = vring::Segments::new(&mut storage);
        let result = bench.ring.next_chain(&bench.memory, &bench.table, &mut out);
        if room < 2 {
            assert_eq!(result, Err(Fault::TooManySegments));
            assert!(out.is_empty());
        } else {
            assert_eq!(result.unwrap().unwrap().readable, 2);
        }
    }
}

fn empty_descriptors_are_nothing<F: Format>() {
    let mut bench = Rig::<F>::new(8);
    // The address of empty buffers does not matter.
    let empty = Buf::read(u64::MAX, 0);
    bench.offer(&[
        empty,
        Buf::read(5, 6),
        empty,
        Buf::write(9, 0),
        Buf::write(1, 2),
    ]);
    let (chain, segments) = bench.next().unwrap().unwrap();
    assert_eq!((chain.readable, chain.writable, chain.len), (1, 1, 8));
    assert_eq!(segments, [segment(RAM + 5, 6), segment(RAM + 1, 2)]);
    // An empty writable buffer may be followed by a readable one.
    bench.offer(&[Buf::write(0, 0), Buf::read(1, 1)]);
    assert_eq!(bench.next().unwrap().unwrap().0.readable, 1);
    bench.offer(&[empty]);
    let (chain, segments) = bench.next().unwrap().unwrap();
    assert_eq!((chain.readable, chain.writable, chain.len), (0, 0, 0));
    assert_eq!(segments, []);
}

fn readable_does_not_follow_writable<F: Format>() {
    let mut bench = Rig::<F>::new(8);
    bench.offer(&[Buf::read(0, 1), Buf::write(0, 1), Buf::read(0, 1)]);
    refused_by(&mut bench, Fault::ReadableAfterWritable);
}

fn buffers_lie_in_memory<F: Format>() {
    let end = RAM_SIZE as u64;
    for (buf, addr, len) in [
        (Buf::read(end, 1), end, 1),
        (Buf::write(end - 1, 2), end, 1),
        (Buf::read(0, u32::MAX), end, u64::from(u32::MAX) - end),
        (Buf::read(u64::MAX, 2), u64::MAX, 2),
    ] {
        let mut bench = Rig::<F>::new(8);
        bench.offer(&[Buf::read(0, 1), buf]);
        refused_by(&mut bench, Fault::outside(addr, len));
    }
}

fn buffers_may_span_regions_but_not_holes<F: Format>() {
    let regions = |hole: u64| {
        table(&[
            (0, 0x1000, RAM),
            (0x1000 + hole, 0x1000, RAM + 0x8000),
            (0x2000 + hole, 0x1000, RAM + 0x4000),
        ])
    };
    let mut bench = Rig::<F>::new(8);
    bench.table = regions(0);
    bench.offer(&[Buf::write(0xff0, 0x1020)]);
    let (chain, segments) = bench.next().unwrap().unwrap();
    assert_eq!((chain.readable, chain.writable, chain.len), (0, 3, 0x1020));
    let expect = [(0xff0, 0x10), (0x8000, 0x1000), (0x4000, 0x10)];
    assert_eq!(segments, expect.map(|(addr, len)| segment(RAM + addr, len)));

    for hole in [1, 0x1000] {
        let mut bench = Rig::<F>::new(8);
        bench.table = regions(hole);
        bench.offer(&[Buf::write(0xff0, 0x1020)]);
        let fault = Fault::OutsideMemory {
            addr: 0x1000,
            len: 0x1010,
        };
        refused_by(&mut bench, fault);
    }
}

fn a_chain_has_at_most_so_many_segments<F: Format>() {
    for count in [MAX_CHAIN_SEGMENTS, MAX_CHAIN_SEGMENTS + 1] {
        let mut bench = Rig::<F>::new(2048);
        bench.offer(&vec![Buf::read(0, 1); count]);
        if count == MAX_CHAIN_SEGMENTS {
            assert_eq!(bench.next().unwrap().unwrap().0.readable, count);
        } else {
            refused_by(&mut bench, Fault::TooManySegments);
        }
    }
}

fn endless_empty_descriptors_are_too_long<F: Format>() {
    // The ring is so large that its size does not end the walk.
    for (count, good) in [(2048, true), (2049, false), (32768, false)] {
        let mut bench = Rig::<F>::new(32768);
        bench.offer(&vec![Buf::read(0, 0); count]);
        if good {
            assert_eq!(bench.next().unwrap().unwrap().0.len, 0);
        } else {
            refused_by(&mut bench, Fault::ChainTooLong);
        }
    }
}

for_both_formats!(
    readable_and_writable_parts_are_counted_and_kept_in_order,
    a_thousand_one_byte_descriptors_make_a_chain,
    a_full_list_refuses_the_chain,
    empty_descriptors_are_nothing,
    readable_does_not_follow_writable,
    buffers_lie_in_memory,
    buffers_may_span_regions_but_not_holes,
    a_chain_has_at_most_so_many_segments,
    endless_empty_descriptors_are_too_long,
);
