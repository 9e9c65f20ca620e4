// SPDX-License-Identifier: GPL-2.0

//! The calls around the IOTLB: reads that wait, messages that are wrong, and its coming and going.

use crate::cases::common::frames::{expect_no_errors, send_one, single, take_one};
use crate::cases::common::iommu::Behind;
use crate::cases::common::{
    Case, Context, Role, accepts, case, check, owners, refuses, ring_case, role, wake_c,
};
use crate::driver::device::Setup;
use crate::driver::iommu::PAGE;
use crate::driver::iotlb::{
    ACCESS_FAIL, BACKEND_MSG_V2, INVALIDATE, LEN, MISS, Message, READ, VERSION_1, VERSION_2, WRITE,
};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX, Vhost};
use crate::host::procfs;
use crate::sys::mapping::user_end;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::io;
use std::process::Stdio;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ring_case("iotlb.read", 30, read),
    ring_case("iotlb.read_woken", 60, read_woken),
    case("iotlb.read_killed", 60, read_killed),
    case("iotlb.malformed", 60, malformed),
    ring_case("iotlb.bind_unmapped", 30, bind_unmapped),
    ring_case("iotlb.switch", 60, switch),
    ring_case("iotlb.switch_live", 60, switch_live),
    ring_case("iotlb.reset_owner", 60, reset_owner),
];

pub(crate) const ROLES: &[Role] = &[role("iotlb-reader", reader)];

/// An owned device with an IOTLB, and nothing that could miss.
fn bare(ctx: &Context) -> Result<Vhost> {
    let vhost = ctx.owned()?;
    accepts(
        "SET_FEATURES",
        vhost.set_features(feature::VERSION_1 | feature::ACCESS_PLATFORM),
    )?;
    Ok(vhost)
}

fn readable(vhost: &Vhost) -> Result<bool> {
    Deadline::after(Duration::ZERO).readable(&[vhost])
}

/// A device whose receive queue misses as soon as it is bound and kicked.
fn missing(ctx: &Context, version: u32) -> Result<Behind> {
    let mut behind = Behind::prepare(ctx, single(0), version)?;
    // Misses are read here, not by the thread.
    behind.iommu.stop()?;
    let [_, _, used] = behind.device.rx.layout.areas();
    let page = used.addr / PAGE * PAGE;
    let entry = Message::update(page, PAGE, behind.device.memory.user(page));
    accepts("UPDATE", behind.device.vhost.send(version, entry))?;
    Ok(behind)
}

/// What is readable when, and what is read into how much room.
fn read(ctx: &Context) -> Result<()> {
    for version in [VERSION_1, VERSION_2] {
        let mut behind = missing(ctx, version)?;
        let device = &mut behind.device;
        check(!readable(&device.vhost)?, || {
            "a miss of an idle device".into()
        })?;
        device.bind(RX)?;
        device.rx_fill()?;
        device.rx.flush()?;
        let vhost = &device.vhost;
        let came = Deadline::patient().readable(&[vhost])?;
        check(came, || "no miss to read".into())?;
        for room in [0, 1, 40, LEN - 1] {
            let got = accepts("a short read", vhost.read(&mut vec![0; room]))?;
            check(got == 0, || format!("{got} bytes read in room for {room}"))?;
        }
        check(readable(vhost)?, || "a short read took the miss".into())?;
        let mut bytes = [0xff; 2 * LEN];
        let got = accepts("a long read", vhost.read(&mut bytes))?;
        check(got == LEN && bytes[LEN..] == [0xff; LEN], || {
            format!("{got} bytes read, not {LEN}")
        })?;
        let mut message = [0; LEN];
        message.copy_from_slice(&bytes[..LEN]);
        let [descriptors, ..] = device.rx.layout.areas();
        let expected = Message {
            iova: descriptors.addr,
            // The device writes those of a packed ring, too, and asks for that.
            perm: if descriptors.written { WRITE } else { READ },
            kind: MISS,
            ..Message::default()
        };
        let parsed = accepts("padding that is zero", Message::parse(&message))?;
        check(parsed == (version, expected), || {
            format!("{parsed:x?} read")
        })?;
        // A queue asks once, however often it is kicked.
        for _ in 0..3 {
            device.rx.kick.force()?;
            procfs::idle()?;
        }
        check(!readable(vhost)?, || "the same miss twice".into())?;
        refuses("a read of nothing", libc::EAGAIN, vhost.receive())?;
    }
    Ok(())
}

/// Runs `wake` while a thread waits in a read of the device, and answers what it read.
fn blocked(vhost: &Vhost, wake: impl FnOnce() -> Result<()>) -> Result<io::Result<(u32, Message)>> {
    let name = "iotlb-reader";
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new()
            .name(name.into())
            .spawn_scoped(scope, || vhost.receive())?;
        Deadline::patient().until("the reader to sleep", || {
            let threads = procfs::threads(std::process::id())?;
            let found = threads.iter().find(|thread| thread.name == name);
            Ok(found.is_some_and(|thread| procfs::state(thread.tid).is_ok_and(|s| s == 'S')))
        })?;
        check(!reader.is_finished(), || "the read did not wait".into())?;
        wake()?;
        Ok(reader.join().expect("the reader does not panic"))
    })
}

/// A read waits for a miss, and ends with the IOTLB.
fn read_woken(ctx: &Context) -> Result<()> {
    for round in 0..5 {
        let vhost = bare(ctx)?;
        let got = blocked(&vhost, || {
            accepts("SET_FEATURES", vhost.set_features(feature::VERSION_1))
        })?;
        refuses("a read without IOTLB", libc::EBADFD, got)?;
        let vhost = bare(ctx)?;
        let got = blocked(&vhost, || accepts("RESET_OWNER", vhost.reset_owner()))?;
        refuses("a read without owner", libc::EBADFD, got)?;
        let mut behind = missing(ctx, VERSION_1)?;
        let device = &mut behind.device;
        device.vhost.set_blocking(true)?;
        device.rx_fill()?;
        let got = blocked(&device.vhost, || {
            let tap = device.tap.number();
            accepts("NET_SET_BACKEND", device.vhost.set_backend(RX, tap))?;
            device.rx.flush()?;
            Ok(())
        })?;
        let (_, miss) = accepts("a read", got)?;
        let [descriptors, ..] = device.rx.layout.areas();
        check(miss.kind == MISS && miss.iova == descriptors.addr, || {
            format!("round {round}: {miss:x?} read")
        })?;
    }
    Ok(())
}

/// Waits in a read for ever.
fn reader(ctx: &Context) -> Result<()> {
    let vhost = bare(ctx)?;
    owners::say_ready()?;
    let got = vhost.receive();
    anyhow::bail!("the read ended: {got:?}")
}

fn read_killed(ctx: &Context) -> Result<()> {
    for round in 0..10 {
        let child = owners::start(ctx, "iotlb-reader", Stdio::null())?;
        owners::kill(child, Duration::from_millis(10 * round))?;
        drop(bare(ctx)?);
    }
    Ok(())
}

/// Messages that are refused change nothing.
fn malformed(ctx: &Context) -> Result<()> {
    for version in [VERSION_1, VERSION_2] {
        Behind::start(ctx, Setup::new(feature::VERSION_1), version)?
            .run(|device, iommu| {
                traffic::exchange(device, Plan::new(ctx.seed, 50, |_| 200))?;
                refuse_all(
                    &device.vhost,
                    version,
                    device.memory.user(crate::driver::device::GUEST_BASE),
                )?;
                traffic::exchange(device, Plan::new(ctx.seed + 1, 50, |_| 200))?;
                let _ = iommu.take_misses();
                expect_no_errors(device)
            })
            .with_context(|| format!("version {version}"))?;
    }
    Ok(())
}

fn refuse_all(vhost: &Vhost, version: u32, user: u64) -> Result<()> {
    let good = Message::update(1 << 40, PAGE, user);
    let invalidate = Message {
        kind: INVALIDATE,
        ..good
    };
    let bytes = good.bytes(version);
    for len in [0, 1, 3, 4, 7, 8, 39] {
        let what = format!("a message of {len} bytes");
        refuses(&what, libc::EINVAL, vhost.write(&bytes[..len]))?;
    }
    for other in [0, 3, 0x0100_0000, u32::MAX] {
        let what = format!("version {other}");
        refuses(&what, libc::EINVAL, vhost.send(other, good))?;
    }
    for kind in [0, MISS, ACCESS_FAIL, 5, 255] {
        let what = format!("a message of kind {kind}");
        refuses(
            &what,
            libc::EFAULT,
            vhost.send(version, Message { kind, ..good }),
        )?;
    }
    let kernel = 0xffff_8880_0000_0000;
    for (what, errno, message) in [
        ("an empty UPDATE", libc::EINVAL, Message { size: 0, ..good }),
        (
            "an empty INVALIDATE",
            libc::EFAULT,
            Message {
                size: 0,
                ..invalidate
            },
        ),
        (
            "a mapping to the kernel",
            libc::EFAULT,
            Message {
                user: kernel,
                ..good
            },
        ),
        (
            "a mapping past user space",
            libc::EFAULT,
            Message {
                size: user_end(),
                ..good
            },
        ),
        (
            "a mapping of all there is",
            libc::EFAULT,
            Message {
                iova: 0,
                size: u64::MAX,
                ..good
            },
        ),
        (
            "a user address that wraps",
            libc::EFAULT,
            Message {
                user: u64::MAX - 100,
                ..good
            },
        ),
        (
            "an IO address that wraps",
            libc::EFAULT,
            Message {
                iova: u64::MAX - 100,
                ..good
            },
        ),
    ] {
        refuses(what, errno, vhost.send(version, message))?;
    }
    for (what, message) in [
        ("an UPDATE", good),
        ("the same once more", good),
        ("a mapping of no rights", Message { perm: 0, ..good }),
        (
            "the last page there is",
            Message {
                iova: u64::MAX - 4095,
                ..good
            },
        ),
        ("a mapping of one byte", Message { size: 1, ..good }),
        ("an INVALIDATE", invalidate),
        ("an INVALIDATE of nothing", invalidate),
        (
            "an INVALIDATE of the last page",
            Message {
                iova: u64::MAX - 4095,
                ..invalidate
            },
        ),
    ] {
        accepts(what, vhost.send(version, message))?;
    }
    Ok(())
}

/// A queue cannot be bound while the part that only the device writes is not mapped; QEMU maps it
/// first.
fn bind_unmapped(ctx: &Context) -> Result<()> {
    let behind = Behind::prepare(ctx, single(0), VERSION_2)?;
    behind.iommu.hold();
    for index in [RX, TX] {
        let result = behind
            .device
            .vhost
            .set_backend(index, behind.device.tap.number());
        refuses("a backend with an unmapped part", libc::EFAULT, result)?;
    }
    behind.iommu.release()?;
    behind.bind(RX)?;
    behind.bind(TX)?;
    behind.run(|device, _| traffic::exchange(device, Plan::new(ctx.seed, 50, |_| 200)))
}

/// The same device with an IOTLB, without, and with one again.
fn switch(ctx: &Context) -> Result<()> {
    let mut setup = single(feature::EVENT_IDX);
    setup.scattered = false;
    let mut behind = Behind::start(ctx, setup, VERSION_2)?;
    for round in 0..6 {
        let _ = behind.iommu.take_misses();
        let device = &mut behind.device;
        traffic::exchange(device, Plan::new(ctx.seed + round, 100, |_| 500))
            .with_context(|| format!("round {round}"))?;
        let asked = !behind.iommu.take_misses().is_empty();
        check(asked == (round % 2 == 0), || {
            format!("round {round}: misses: {asked}")
        })?;
        for index in [RX, TX] {
            device.unbind(index)?;
        }
        device.setup.features ^= feature::ACCESS_PLATFORM;
        device.configure()?;
        for index in [RX, TX] {
            if round % 2 == 0 {
                behind.device.bind(index)?;
            } else {
                behind.bind(index)?;
            }
        }
    }
    behind.run(|device, _| expect_no_errors(device))
}

/// With a queue bound its ring is nowhere after the switch, until it is placed again.
fn switch_live(ctx: &Context) -> Result<()> {
    Behind::start(ctx, single(0), VERSION_1)?.run(|device, iommu| {
        for round in 0..6 {
            traffic::exchange(device, Plan::new(ctx.seed + round, 100, |_| 500))
                .with_context(|| format!("round {round}"))?;
            device.setup.features ^= feature::ACCESS_PLATFORM;
            let features = device.setup.features;
            accepts("SET_FEATURES", device.vhost.set_features(features))?;
            send_one(ctx, device, TX, round)?;
            procfs::idle()?;
            let went = device.peer.receive(&mut Vec::new())?.is_some();
            check(!went, || {
                "a frame went out of a ring that is nowhere".into()
            })?;
            let _ = iommu.take_misses();
            for index in [RX, TX] {
                let place = if index == RX {
                    device.address(&device.rx)
                } else {
                    device.address(&device.tx)
                };
                accepts("SET_VRING_ADDR", device.vhost.set_addr(place))?;
                // C does not look at a ring because it moves.
                wake_c(ctx, device.queue(index))?;
            }
            take_one(ctx, device, TX, round)?;
        }
        expect_no_errors(device)
    })
}

/// Giving up ownership forgets mappings, and misses that nobody answered.
fn reset_owner(ctx: &Context) -> Result<()> {
    for version in [VERSION_1, VERSION_2] {
        let behind = Behind::start(ctx, single(0), version)?;
        behind.run(|device, iommu| {
            for round in 0..4 {
                traffic::exchange(device, Plan::new(ctx.seed + round, 50, |_| 500))
                    .with_context(|| format!("round {round}"))?;
                procfs::idle()?;
                iommu.hold();
                let (start, len) = device.tx.buffers();
                iommu.unmap(start, len as u64)?;
                send_one(ctx, device, TX, round)?;
                Deadline::patient().until("a miss", || Ok(!iommu.waiting().is_empty()))?;
                accepts("RESET_OWNER", device.vhost.reset_owner())?;
                check(!readable(&device.vhost)?, || "a miss of nobody".into())?;
                iommu.forget();
                accepts("SET_OWNER", device.vhost.set_owner())?;
                let backend = if version == VERSION_2 {
                    BACKEND_MSG_V2
                } else {
                    0
                };
                accepts(
                    "backend features",
                    device.vhost.set_backend_features(backend),
                )?;
                device.configure()?;
                for index in [RX, TX] {
                    iommu.bind(device, index)?;
                }
                take_one(ctx, device, TX, round)?;
                let asked = iommu.take_misses().len();
                check(asked > 1, || "mappings were kept".into())?;
            }
            expect_no_errors(device)
        })?;
    }
    Ok(())
}
