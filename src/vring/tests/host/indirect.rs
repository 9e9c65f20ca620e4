// SPDX-License-Identifier: GPL-2.0

//! Indirect tables: where they may lie, what may be in them, and in which order.
//!
//! In a split ring's table each descriptor names the next one, may refer to another table, and more
//! descriptors may follow the one that refers to the table; the tests of that have no counterpart.

use vring::{
    Desc, Fault, Unmapped, UserAddr, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_SIZE,
};

use crate::chain::{push, refused, refused_by, write_table};
use crate::for_both_formats;
use crate::mock::driver::desc_bytes;
use crate::mock::{indirect, segment, table, Bench, Buf, DriverSide, Format, Rig, RAM, RAM_SIZE};

/// Makes a chain of one descriptor available.
fn offer_desc<F: Format>(bench: &mut Rig<F>, desc: Desc) {
    let added = bench.driver.add_desc(&bench.memory, desc);
    added.expect("a free descriptor");
    bench.driver.publish(&bench.memory);
}

#[test]
fn loops_in_tables_end() {
    for count in [1u16, 2, 17, 4000] {
        let mut bench = Bench::new(8);
        let descs: Vec<_> = (0..count)
            .map(|index| Buf::read(0, 0).desc(Some((index + count / 2) % count)))
            .collect();
        write_table(&bench, 0x1000, &descs);
        let desc = indirect(0x1000, u32::from(count));
        bench.driver.write_desc(&bench.memory, 3, desc);
        push(&mut bench, 3);
        refused(&mut bench, Fault::ChainTooLong);
    }
}

#[test]
fn next_has_to_be_in_the_table() {
    for next in [3, 4, 0xffff] {
        let mut bench = Bench::new(8);
        write_table(&bench, 0x1000, &[Buf::read(0, 1).desc(Some(next)); 4]);
        bench
            .driver
            .write_desc(&bench.memory, 2, indirect(0x1000, 3));
        push(&mut bench, 2);
        let fault = Fault::DescIndex {
            index: u32::from(next),
            size: 3,
        };
        refused(&mut bench, fault);
    }
}

#[test]
fn tables_may_be_as_large_as_an_index_reaches() {
    let mut bench = Bench::new(8);
    bench.table = table(&[
        (0, RAM_SIZE as u64, RAM),
        (0x100_0000, 1 << 20, 0x8000_0000),
    ]);
    bench.memory.map(0x8000_0000, 1 << 20);
    let first = Buf::read(0, 1).desc(Some(0xffff));
    let last = Buf::read(1, 1).desc(None);
    bench.memory.poke(0x8000_0000, &desc_bytes(first));
    bench
        .memory
        .poke(0x8000_0000 + (1 << 20) - 16, &desc_bytes(last));
    bench
        .driver
        .write_desc(&bench.memory, 2, indirect(0x100_0000, 0x1_0000));
    push(&mut bench, 2);
    let (chain, segments) = bench.next().unwrap().unwrap();
    assert_eq!(chain.readable, 2);
    assert_eq!(segments, [segment(RAM, 1), segment(RAM + 1, 1)]);
}

#[test]
fn tables_do_not_nest() {
    for more in [0, DESC_F_NEXT] {
        let mut bench = Bench::new(8);
        let inner = Desc {
            flags: DESC_F_INDIRECT | more,
            ..indirect(0x1000, 1)
        };
        write_table(&bench, 0x1000, &[Buf::read(0, 1).desc(Some(1)), inner]);
        bench
            .driver
            .write_desc(&bench.memory, 2, indirect(0x1000, 2));
        push(&mut bench, 2);
        refused(&mut bench, Fault::NestedIndirect);
    }
}

#[test]
fn tables_stand_anywhere_in_a_chain_and_ignore_the_write_flag() {
    let mut bench = Bench::new(8);
    write_table(
        &bench,
        0x1000,
        &[
            Buf::read(0x20, 2).desc(Some(1)),
            Buf::read(0x30, 3).desc(None),
        ],
    );
    let table = Desc {
        flags: DESC_F_INDIRECT | DESC_F_NEXT | DESC_F_WRITE,
        next: 5,
        ..indirect(0x1000, 2)
    };
    bench
        .driver
        .write_desc(&bench.memory, 1, Buf::read(0x10, 1).desc(Some(4)));
    bench.driver.write_desc(&bench.memory, 4, table);
    bench
        .driver
        .write_desc(&bench.memory, 5, Buf::write(0x40, 4).desc(None));
    push(&mut bench, 1);
    let (chain, segments) = bench.next().unwrap().unwrap();
    assert_eq!((chain.readable, chain.writable, chain.len), (3, 1, 10));
    let expect = [(0x10, 1), (0x20, 2), (0x30, 3), (0x40, 4)];
    assert_eq!(segments, expect.map(|(addr, len)| segment(RAM + addr, len)));
}

#[test]
fn tables_are_followed_in_any_order() {
    // Back and forth over more than one window.
    let order = [0u16, 99, 1, 50, 49, 51, 98, 2, 33, 17, 16, 15, 31, 32];
    let mut descs = vec![Buf::read(u64::MAX, 1).desc(None); 100];
    for (position, &index) in order.iter().enumerate() {
        let next = order.get(position + 1).copied();
        descs[usize::from(index)] = Buf::write(u64::from(index) * 8, 1).desc(next);
    }
    let mut bench = Bench::new(8);
    write_table(&bench, 0x1000, &descs);
    bench
        .driver
        .write_desc(&bench.memory, 0, indirect(0x1000, 100));
    push(&mut bench, 0);
    let (_, segments) = bench.next().unwrap().unwrap();
    let expect = order.map(|index| segment(RAM + u64::from(index) * 8, 1));
    assert_eq!(segments, expect);
}

fn tables_have_a_whole_number_of_descriptors<F: Format>() {
    for len in [0, 1, 15, 17, 0x10_0010, 0x20_0000, u32::MAX, !15] {
        let mut bench = Rig::<F>::new(8);
        let desc = Desc {
            len,
            ..indirect(0x1000, 1)
        };
        offer_desc(&mut bench, desc);
        refused_by(&mut bench, Fault::IndirectLength { len });
    }
}

fn tables_cross_regions_anywhere<F: Format>() {
    let bufs: Vec<_> = (0..40).map(|i| Buf::write(i * 32, 5)).collect();
    let bytes = F::Driver::table(&bufs);
    let expect: Vec<_> = (0..40).map(|i| segment(RAM + i * 32, 5)).collect();
    for cut in 1..bytes.len() {
        let mut bench = Rig::<F>::new(8);
        // Guest memory has no gap here, but the owner's memory has.
        let start = 0x10_0000;
        let (low, high) = (0x4000_0000, 0x5000_0001);
        bench.table = table(&[
            (0, RAM_SIZE as u64, RAM),
            (start, cut as u64, low),
            (start + cut as u64, (bytes.len() - cut) as u64, high),
        ]);
        bench.memory.map(low, cut);
        bench.memory.map(high, bytes.len() - cut);
        bench.memory.poke(low, &bytes[..cut]);
        bench.memory.poke(high, &bytes[cut..]);
        offer_desc(&mut bench, indirect(start, 40));
        let (_, segments) = bench.next().unwrap().unwrap();
        assert_eq!(segments, expect, "cut at {cut}");
    }
}

fn a_table_may_lie_in_many_small_regions<F: Format>() {
    for pieces in [2u64, 16, 17, 200] {
        let mut bench = Rig::<F>::new(8);
        let mut regions = vec![(0, RAM_SIZE as u64, RAM)];
        // All but the last are one byte.
        regions.extend((0..pieces).map(|i| {
            let size = if i + 1 == pieces { 256 } else { 1 };
            (0x10_0000 + i, size, 0x4000_0000 + i)
        }));
        bench.table = table(&regions);
        bench.memory.map(0x4000_0000, 300);
        let bytes = F::Driver::table(&[Buf::read(0, 1)]);
        bench.memory.poke(0x4000_0000, &bytes);
        // A split ring's table ends with its first descriptor, a packed ring's with empty buffers.
        offer_desc(&mut bench, indirect(0x10_0000, 16));
        assert_eq!(bench.next().unwrap().unwrap().0.len, 1);
    }
}

fn tables_lie_in_memory<F: Format>() {
    let end = RAM_SIZE as u64;
    for (at, missing) in [
        (end, (end, 32)),
        (end - 16, (end, 16)),
        (end - 8, (end, 24)),
        (u64::MAX - 7, (u64::MAX - 7, 32)),
    ] {
        let mut bench = Rig::<F>::new(8);
        offer_desc(&mut bench, indirect(at, 2));
        let (addr, len) = missing;
        refused_by(&mut bench, Fault::OutsideMemory { addr, len });
    }
}

fn tables_do_not_wrap<F: Format>() {
    // Guest memory up to the top of the address space, and a table that ends beyond it.
    let top = 0u64.wrapping_sub(0x1000);
    let mut bench = Rig::<F>::new(8);
    bench.table = table(&[(0, RAM_SIZE as u64, RAM), (top, 0x1000, 0x4000_0000)]);
    bench.memory.map(0x4000_0000, 0x1000);
    let bytes = F::Driver::table(&[Buf::read(0, 0); 300]);
    bench.memory.poke(0x4000_0000, &bytes[..0x1000]);
    offer_desc(&mut bench, indirect(top, 300));
    let fault = bench.next().unwrap_err();
    assert!(matches!(fault, Fault::OutsideMemory { .. }), "{fault:?}");
    refused_by(&mut bench, fault);
}

fn an_unmapped_table_is_told<F: Format>() {
    let mut bench = Rig::<F>::new(8);
    let user = UserAddr(RAM + 0x1000);
    let driver = &mut bench.driver;
    driver.add_indirect(&bench.memory, 0x1000, user, &[Buf::read(0, 1)]);
    driver.publish(&bench.memory);
    bench.memory.punch(user.0, DESC_SIZE);
    refused_by(&mut bench, Fault::Unmapped(Unmapped(user)));
    bench.memory.mend();
    assert_eq!(bench.next().unwrap().unwrap().0.len, 1);
}

for_both_formats!(
    tables_have_a_whole_number_of_descriptors,
    tables_cross_regions_anywhere,
    a_table_may_lie_in_many_small_regions,
    tables_lie_in_memory,
    tables_do_not_wrap,
    an_unmapped_table_is_told,
);
