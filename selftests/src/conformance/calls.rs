// SPDX-License-Identifier: GPL-2.0

//! The table of calls: every ioctl with legal and illegal arguments, and the other file operations.

use super::ioctls::{IOCTLS, of, undefined};
use super::step::{Action, Argument, Fd, Field, Place, Step};
use crate::driver::uapi::feature;
use crate::sys::ioctl::BadPointer;

/// Bytes of the guest's memory in the usual table, from guest address zero.
pub const GUEST: u64 = 2 << 20;
/// Where the log's bits are, behind the guest's memory.
pub const LOG: u64 = 3 << 20;
/// Distance between two queues' rings.
pub const QUEUE: u64 = 1 << 20;
/// Where the available ring is, behind a descriptor table of the most entries.
pub const AVAIL: u64 = 0x8_0000;
/// Where the used ring is.
pub const USED: u64 = 0xa_0000;
/// An address of the kernel.
const KERNEL: u64 = 0xffff_8880_0000_0000;

/// The message types of `linux/vhost_types.h` (`VHOST_IOTLB_MSG`, `VHOST_IOTLB_MSG_V2`).
const MESSAGES: [u32; 2] = [1, 2];

/// The ioctl called `name` on `fields`.
#[must_use]
pub fn ioctl(name: &'static str, fields: Vec<Field>) -> Step {
    Step::new(name, Action::Ioctl(of(name), Argument::new(fields)))
}

/// The ioctl called `name` on a queue's number.
#[must_use]
pub fn state(name: &'static str, index: u32, num: u32) -> Step {
    ioctl(name, vec![Field::word(index), Field::word(num)])
}

/// The ioctl called `name` on a queue's descriptor.
#[must_use]
pub fn file(name: &'static str, index: u32, fd: Fd) -> Step {
    ioctl(name, vec![Field::word(index), Field::fd(fd)])
}

/// The usual place of a queue's ring: flags, descriptors, used, available, log.
fn ring(index: u32) -> [Field; 6] {
    let base = u64::from(index) * QUEUE;
    [
        Field::word(index),
        Field::word(0),
        Field::memory(base),
        Field::memory(base + USED),
        Field::memory(base + AVAIL),
        Field::long(0),
    ]
}

/// `SET_VRING_ADDR` with the usual place of a queue's ring.
#[must_use]
pub fn addresses(index: u32) -> Step {
    ioctl("SET_VRING_ADDR", ring(index).to_vec())
}

/// A memory table of regions given by guest address, size and user address.
#[must_use]
pub fn memory(regions: &[(u64, u64, Field)]) -> Step {
    // CAST: the longest table has some thousand entries.
    let mut fields = vec![Field::word(regions.len() as u32), Field::word(0)];
    for &(guest, size, user) in regions {
        fields.extend([Field::long(guest), Field::long(size), user, Field::long(0)]);
    }
    ioctl("SET_MEM_TABLE", fields)
}

/// The usual memory table.
#[must_use]
pub fn usual_memory() -> Step {
    memory(&[(0, GUEST, Field::memory(0))])
}

/// A message about IO addresses: layout, kind, IO address, size, user address, permissions.
#[must_use]
pub fn message(layout: u32, kind: u8, iova: Field, size: u64, user: Field, perm: u8) -> Step {
    let mut fields = vec![Field::word(layout), Field::word(0), iova];
    fields.extend([
        Field::long(size),
        user,
        Field::Byte(perm),
        Field::Byte(kind),
    ]);
    // The message is padded to 64 bytes behind its head of 8.
    fields.extend([Field::Byte(0); 38]);
    Step::new("write", Action::Write(fields))
}

/// Calls that a device answers the same way however often, to see whether others changed it.
#[must_use]
pub fn observers() -> Vec<Step> {
    let mut steps = vec![
        ioctl("GET_FEATURES", vec![Field::long(0)]),
        ioctl("GET_BACKEND_FEATURES", vec![Field::long(0)]),
        ioctl("GET_FORK_FROM_OWNER", vec![Field::Byte(0)]),
        Step::new("poll", Action::Poll),
    ];
    for index in 0..2 {
        steps.push(state("GET_VRING_BASE", index, 0));
        steps.push(state("GET_VRING_BUSYLOOP_TIMEOUT", index, 0));
    }
    steps
}

/// Every ioctl on arguments that say nothing: bad pointers, half an argument, zeros, ones.
fn plain() -> Vec<Step> {
    let mut steps = Vec::new();
    for known in IOCTLS {
        let step = |fields, place| {
            let argument = Argument { fields, place };
            Step::new(known.name, Action::Ioctl(known.number(), argument))
        };
        for pointer in [BadPointer::Null, BadPointer::Kernel, BadPointer::Top] {
            steps.push(step(Vec::new(), Place::Bad(pointer)));
        }
        if known.size == 0 {
            steps.push(step(Vec::new(), Place::Memory));
            continue;
        }
        let mut cuts = vec![1, 3, 4, 7, 8, 12, known.size.saturating_sub(1)];
        // Where workers can be made, part of the id is written before the end is noticed.
        let least = if known.name == "NEW_WORKER" { 4 } else { 1 };
        cuts.retain(|cut| *cut >= least);
        cuts.sort_unstable();
        cuts.dedup();
        let size = known.size.max(8);
        for byte in [0, 0xff] {
            let fields = vec![Field::Byte(byte); size];
            for &cut in &cuts {
                steps.push(step(fields.clone(), Place::End(cut)));
            }
            steps.push(step(fields, Place::Memory));
        }
    }
    steps
}

/// Queue indexes, good ones first.
const INDEXES: [u32; 6] = [0, 1, 2, 255, 1 << 31, u32::MAX];

/// Ioctls on a number of a queue.
fn states() -> Vec<Step> {
    let mut steps = Vec::new();
    for index in INDEXES {
        for bits in [0, 1, 8, 14, 15, 16, 31] {
            steps.push(state("SET_VRING_NUM", index, 1 << bits));
        }
        for num in [0, 3, 255, 257, 32767, 32769, 65535, 65537, u32::MAX] {
            steps.push(state("SET_VRING_NUM", index, num));
        }
        for num in [0, 1, 255, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x8000_8000] {
            steps.push(state("SET_VRING_BASE", index, num));
        }
        steps.push(state("SET_VRING_BASE", index, u32::MAX));
        for name in ["GET_VRING_BASE", "GET_VRING_BUSYLOOP_TIMEOUT"] {
            steps.push(state(name, index, 0x1234));
        }
        for num in [0, 50, 1000] {
            steps.push(state("SET_VRING_BUSYLOOP_TIMEOUT", index, num));
        }
        for num in [0, 1, 2, u32::MAX] {
            steps.push(state("SET_VRING_ENDIAN", index, num));
            steps.push(state("ATTACH_VRING_WORKER", index, num));
        }
        for name in ["GET_VRING_ENDIAN", "GET_VRING_WORKER"] {
            steps.push(state(name, index, 7));
        }
    }
    for id in INDEXES {
        steps.push(ioctl("FREE_WORKER", vec![Field::word(id)]));
    }
    for mode in [0, 1, 2, 255] {
        steps.push(ioctl("SET_FORK_FROM_OWNER", vec![Field::Byte(mode)]));
    }
    steps
}

/// Ioctls on a descriptor.
fn files() -> Vec<Step> {
    let mut steps = Vec::new();
    for &fd in Fd::ALL {
        for index in INDEXES {
            for name in [
                "SET_VRING_KICK",
                "SET_VRING_CALL",
                "SET_VRING_ERR",
                "NET_SET_BACKEND",
            ] {
                steps.push(file(name, index, fd));
            }
        }
        steps.push(ioctl("SET_LOG_FD", vec![Field::fd(fd)]));
    }
    steps
}

/// Places of rings.
fn rings() -> Vec<Step> {
    let mut steps = Vec::new();
    for index in INDEXES {
        steps.push(ioctl("SET_VRING_ADDR", ring(index.min(2)).to_vec()));
    }
    for index in 0..2 {
        let base = u64::from(index) * QUEUE;
        let mut with = |at: usize, field| {
            let mut fields = ring(index).to_vec();
            fields[at] = field;
            steps.push(ioctl("SET_VRING_ADDR", fields));
        };
        for flags in [1, 2, 3, 4, 1 << 31, u32::MAX] {
            with(1, Field::word(flags));
        }
        for step in [1, 2, 3, 4, 8] {
            with(2, Field::memory(base + step));
            with(3, Field::memory(base + USED + step));
            with(4, Field::memory(base + AVAIL + step));
            with(5, Field::long(step));
        }
        for at in 2..5 {
            for address in [0, 0x1000, KERNEL, !7, 0x7fff_ffff_f000, 0x7fff_ffff_eff0] {
                with(at, Field::long(address));
            }
        }
        for log in [GUEST, 1 << 47, 1 << 62, !3, !0] {
            with(5, Field::long(log));
        }
        for log in [0, GUEST, 1 << 62, !3] {
            let mut fields = ring(index).to_vec();
            fields[1] = Field::word(1);
            fields[5] = Field::long(log);
            steps.push(ioctl("SET_VRING_ADDR", fields));
        }
    }
    steps
}

/// Features in one word and in many.
fn features() -> Vec<Step> {
    let mut steps = Vec::new();
    let two = [
        feature::VERSION_1 | feature::ACCESS_PLATFORM,
        feature::VERSION_1 | feature::LOG_ALL,
        feature::VERSION_1 | feature::LOG_ALL | feature::ACCESS_PLATFORM,
        feature::VERSION_1 | feature::MRG_RXBUF | feature::NET_HDR,
        0,
        !0,
    ];
    let bits = (0..64).map(|bit| 1 << bit).chain(two);
    for word in bits {
        steps.push(ioctl("SET_FEATURES", vec![Field::long(word)]));
        steps.push(ioctl("SET_BACKEND_FEATURES", vec![Field::long(word)]));
        let array = vec![Field::long(2), Field::long(word), Field::long(0)];
        steps.push(ioctl("SET_FEATURES_ARRAY", array));
        let array = vec![Field::long(2), Field::long(0), Field::long(word)];
        steps.push(ioctl("SET_FEATURES_ARRAY", array));
    }
    let counts = [0, 1, 2, 3, 4, 500, 1 << 20, 1 << 31, 1 << 32];
    for count in counts.into_iter().chain([1 << 61, !0]) {
        let last: [&[u64]; 5] = [&[], &[0], &[0, 0], &[0, 0, 0], &[0, 0, 0, 1]];
        for words in last {
            for name in ["GET_FEATURES_ARRAY", "SET_FEATURES_ARRAY"] {
                let mut fields = vec![Field::long(count)];
                fields.extend(words.iter().map(|&word| Field::long(word)));
                let end = Place::End(fields.len() * 8);
                for place in [Place::Memory, end] {
                    let fields = fields.clone();
                    let argument = Argument { fields, place };
                    steps.push(Step::new(name, Action::Ioctl(of(name), argument)));
                }
            }
        }
    }
    steps
}

/// Memory tables.
fn tables() -> Vec<Step> {
    let user = Field::memory(0);
    let page = 4096;
    let mut steps = vec![usual_memory()];
    for (guest, size) in [
        (0, 1),
        (1, 1),
        (0, page),
        (page, page),
        (0, 0),
        (1, 0),
        (page, 0),
        (!0, 0),
        (!0, 1),
        (!0, 2),
        (0, !0),
        (1, !0),
        (0, 1 << 47),
        (page, 1 << 62),
        (0u64.wrapping_sub(page), page),
        (0u64.wrapping_sub(page), page + 1),
    ] {
        steps.push(memory(&[(guest, size, user)]));
        steps.push(memory(&[
            (1 << 40, page, user),
            (guest, size, user),
            (1 << 41, page, user),
        ]));
        for address in [0, 1, KERNEL, !0, 0u64.wrapping_sub(page), 0x7fff_ffff_e000] {
            steps.push(memory(&[(guest, size, Field::long(address))]));
        }
    }
    // Regions on top of each other, and one twice.
    steps.push(memory(&[(0, 2 * page, user), (page, 2 * page, user)]));
    steps.push(memory(&[(0, page, user), (0, page, user)]));
    for count in [0, 2, 3, 63, 64, 65, 512, 1023, 1024, 1025] {
        let regions: Vec<_> = (0..count).map(|i| (i * page, page, user)).collect();
        let step = memory(&regions);
        if let Action::Ioctl(number, argument) = &step.action {
            let mut argument = argument.clone();
            // Half of the last region is missing.
            argument.place = Place::End((8 + 32 * regions.len()).saturating_sub(16).max(4));
            steps.push(Step::new(
                "SET_MEM_TABLE",
                Action::Ioctl(*number, argument.clone()),
            ));
            argument.place = Place::Memory;
            for padding in [1, u32::MAX] {
                argument.fields[1] = Field::word(padding);
                let argument = argument.clone();
                steps.push(Step::new("SET_MEM_TABLE", Action::Ioctl(*number, argument)));
            }
        }
        steps.push(step);
    }
    for count in [1 << 16, 1 << 27, 1 << 31, u32::MAX] {
        let fields = vec![Field::word(count), Field::word(0)];
        steps.push(ioctl("SET_MEM_TABLE", fields));
    }
    for base in [0, 1, 4096, KERNEL, 1 << 47, !0, 0x7fff_ffff_f000] {
        steps.push(ioctl("SET_LOG_BASE", vec![Field::long(base)]));
    }
    steps.push(ioctl("SET_LOG_BASE", vec![Field::memory(LOG)]));
    steps
}

/// Reading, writing and what else a file can do.
fn operations() -> Vec<Step> {
    let mut steps = vec![Step::new("poll", Action::Poll)];
    for len in [0, 1, 8, 67, 68, 72, 100, 4096] {
        steps.push(Step::new("read", Action::Read(len)));
        steps.push(Step::new("write", Action::Write(vec![Field::Byte(0); len])));
        for layout in MESSAGES {
            let mut bytes = vec![Field::word(layout)];
            bytes.resize(len.saturating_sub(3).max(1), Field::Byte(0));
            steps.push(Step::new("write", Action::Write(bytes)));
        }
    }
    for layout in [0, 3, u32::MAX] {
        let iova = Field::long(0x1000);
        steps.push(message(layout, 2, iova, 4096, Field::memory(0), 3));
    }
    for layout in MESSAGES {
        for kind in [0, 1, 2, 3, 4, 5, 6, 255] {
            let mut add = |iova, size, user, perm| {
                steps.push(message(layout, kind, iova, size, user, perm));
            };
            let user = Field::memory(0);
            for size in [0, 1, 4096, 1 << 47, !0] {
                add(Field::long(0x1000), size, user, 3);
            }
            for perm in [0, 1, 2, 4, 255] {
                add(Field::long(0x1000), 4096, user, perm);
                add(Field::long(0x1000), 4096, Field::long(KERNEL), perm);
            }
            add(Field::long(0), !0, Field::long(0), 3);
            add(Field::long(!0), 2, user, 3);
        }
    }
    for offset in [0, 5] {
        steps.push(Step::new("seek", Action::Seek(offset)));
    }
    steps
}

/// Every defined ioctl, and the other operations. Reading never waits if the device's descriptor is
/// non-blocking.
#[must_use]
pub fn defined() -> Vec<Step> {
    [
        plain(),
        states(),
        files(),
        rings(),
        features(),
        tables(),
        operations(),
    ]
    .concat()
}

/// Calls that may hold up a queue that runs, for minutes.
#[must_use]
pub fn long() -> Vec<Step> {
    let times = [1 << 20, 1 << 31, u32::MAX].into_iter();
    let pairs = times.flat_map(|num| [(0, num), (1, num)]);
    pairs
        .map(|(index, num)| state("SET_VRING_BUSYLOOP_TIMEOUT", index, num))
        .collect()
}

/// Ioctls that are not defined.
#[must_use]
pub fn strange() -> Vec<Step> {
    let mut steps = Vec::new();
    for (at, (name, number)) in (0..).zip(undefined()) {
        // Now a queue that there is, now one that is not.
        let argument = Argument::new(vec![Field::word(at % 3); 10]);
        steps.push(Step::new(name, Action::Ioctl(number, argument)));
    }
    steps
}
