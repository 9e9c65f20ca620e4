// SPDX-License-Identifier: GPL-2.0

//! A device whose addresses are translated by its owner (`VIRTIO_F_ACCESS_PLATFORM`).

use super::{Case, Context, Skip, accepts, case, check, refuses};
use crate::device::{NetDevice, Setup};
use crate::frame;
use crate::iotlb::{Answers, Iotlb};
use crate::sys::mapping::PAGE;
use crate::traffic::{self, Plan};
use crate::uapi::{NetHeader, feature, message};
use crate::vhost::{RX, TX, Vhost};
use crate::wait::{Deadline, is_readable};
use anyhow::{Context as _, Result, bail};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    case("iotlb.first_miss", 20, first_miss),
    case("iotlb.refused", 20, refused),
    case("iotlb.blocked_read", 60, blocked_read),
    case("iotlb.pages", 120, pages),
    case("iotlb.invalidate", 120, invalidate),
    case("iotlb.permission", 60, permission),
];

const FEATURES: u64 = feature::VERSION_1 | feature::ACCESS_PLATFORM;

/// A device with an IOTLB in which there is nothing yet, and its owner.
fn prepare(ctx: &Context, format: u32) -> Result<(NetDevice, Iotlb)> {
    if ctx.open()?.features()? & feature::ACCESS_PLATFORM == 0 {
        bail!(Skip("the device has no IOTLB".into()));
    }
    let device = NetDevice::prepare(&ctx.device, Setup::new(FEATURES), "tap0", false)?;
    let backend = if format == message::V2 {
        feature::BACKEND_MSG_V2
    } else {
        0
    };
    device.vhost.set_backend_features(backend)?;
    let iotlb = Iotlb::new(&device, format)?;
    Ok((device, iotlb))
}

/// A queue reports one miss, and no other before that is answered.
fn first_miss(ctx: &Context) -> Result<()> {
    for format in [message::V1, message::V2] {
        let (device, iotlb) = prepare(ctx, format)?;
        let vhost = &device.vhost;
        check(!is_readable(vhost)?, || "a miss out of nothing".into())?;
        vhost.set_nonblocking(true)?;
        let mut buffer = [0; message::BYTES];
        refuses("reading", libc::EAGAIN, vhost.receive(&mut buffer))?;

        let used = device.memory.user(device.tx.layout.used);
        let bind = || vhost.set_backend(TX, device.tap.number());
        check(bind().is_err(), || "started without a ring".into())?;
        check(is_readable(vhost)?, || "no miss of the used ring".into())?;
        let read = accepts("a short read", vhost.receive(&mut buffer[1..]))?;
        check(read == 0, || format!("{read} bytes of a message"))?;
        let (got, miss) = iotlb.next_miss(Deadline::patient())?;
        check(got == format, || format!("format {got}, not {format}"))?;
        check((used..used + 4).contains(&miss.iova), || {
            format!("{miss:x?}, the used ring is at {used:#x}")
        })?;
        check([message::READ, message::WRITE].contains(&miss.perm), || {
            format!("access {}", miss.perm)
        })?;

        // Not again before it is answered, and another range is no answer.
        check(bind().is_err(), || "started without a ring".into())?;
        accepts("elsewhere", iotlb.map(0x1000, 0x1000, used & !4095, 3))?;
        check(bind().is_err(), || "started without a ring".into())?;
        refuses("reading again", libc::EAGAIN, vhost.receive(&mut buffer))?;
        check(!is_readable(vhost)?, || "reported twice".into())?;
        // The other queue has its own.
        check(device.bind(RX).is_err(), || "started without a ring".into())?;
        let (_, other) = iotlb.next_miss(Deadline::patient())?;
        let used = device.memory.user(device.rx.layout.used);
        check((used..used + 4).contains(&other.iova), || {
            format!("{other:x?}, the used ring is at {used:#x}")
        })?;

        iotlb.map_page(miss.iova)?;
        iotlb.bind(&device, TX)?;
        iotlb.map_page(other.iova)?;
        iotlb.bind(&device, RX)?;
    }
    Ok(())
}

fn refused(ctx: &Context) -> Result<()> {
    let (device, iotlb) = prepare(ctx, message::V2)?;
    let user = device.memory.table()[0].user;
    let page = PAGE as u64;
    for (what, iova, size, user, perm) in [
        ("a range that wraps", u64::MAX - page, 2 * page + 1, user, 3),
        ("memory of the kernel", 0, page, 0xffff_8880_0000_0000, 3),
        ("memory that wraps", 0, page, u64::MAX - 1, 1),
    ] {
        refuses(what, libc::EFAULT, iotlb.map(iova, size, user, perm))?;
    }
    refuses("nothing", libc::EINVAL, iotlb.map(0, 0, user, 3))?;
    refuses("without nothing", libc::EFAULT, iotlb.unmap(0, 0))?;
    accepts("a page", iotlb.map(0, page, user, 3))?;
    accepts("without what is not there", iotlb.unmap(8 * page, page))?;
    accepts("without everything", iotlb.unmap(0, u64::MAX))?;
    accepts(
        "SET_FEATURES",
        device.vhost.set_features(feature::VERSION_1),
    )?;
    refuses(
        "without IOTLB",
        libc::EFAULT,
        iotlb.map(0, page, user, message::READ_WRITE),
    )?;
    refuses("without IOTLB", libc::EFAULT, iotlb.unmap(0, page))
}

/// Who waits for a message gets the next one, or is told when there will be none.
fn blocked_read(ctx: &Context) -> Result<()> {
    type End = fn(&NetDevice) -> Result<()>;
    let ends: [(&str, Option<i32>, End); 3] = [
        ("a miss", None, |device| {
            check(device.bind(TX).is_err(), || "started without a ring".into())
        }),
        ("SET_FEATURES", Some(libc::EBADFD), |device| {
            Ok(device.vhost.set_features(feature::VERSION_1)?)
        }),
        ("RESET_OWNER", Some(libc::EBADFD), |device| {
            Ok(device.vhost.reset_owner()?)
        }),
    ];
    for (what, errno, end) in ends {
        let (device, _) = prepare(ctx, message::V1)?;
        let vhost = Vhost::from_fd(device.vhost.as_fd().try_clone_to_owned()?);
        let reader = std::thread::spawn(move || vhost.receive(&mut [0; message::BYTES]));
        // Long enough for the reader to sleep, most of the time; it need not.
        std::thread::sleep(Duration::from_millis(50));
        check(!reader.is_finished(), || "nothing was waited for".into())?;
        end(&device)?;
        Deadline::patient().until(what, || Ok(reader.is_finished()))?;
        let Ok(read) = reader.join() else {
            bail!("the reader panicked");
        };
        match errno {
            None => {
                let read = accepts(what, read)?;
                check(read == message::BYTES, || format!("{read} bytes"))?;
            }
            Some(errno) => refuses(what, errno, read)?,
        }
    }
    Ok(())
}

/// A device with nothing but what it asked for carries every frame.
fn pages(ctx: &Context) -> Result<()> {
    for format in [message::V1, message::V2] {
        let (mut device, iotlb) = prepare(ctx, format)?;
        iotlb.bind(&device, TX)?;
        iotlb.bind(&device, RX)?;
        let answers = Answers::start(Arc::new(iotlb))?;
        let moved = traffic::exchange(&mut device, Plan::new(ctx.seed, 1000, |_| 1500));
        let count = answers.stop()?;
        moved.with_context(|| format!("after {count} misses"))?;
        // Of the 256 receive buffers, two to a page, each was used.
        check(count >= 128, || format!("only {count} misses"))?;
    }
    Ok(())
}

/// What was taken away is asked for again.
fn invalidate(ctx: &Context) -> Result<()> {
    let (mut device, iotlb) = prepare(ctx, message::V2)?;
    iotlb.bind(&device, TX)?;
    iotlb.bind(&device, RX)?;
    let iotlb = Arc::new(iotlb);
    for round in 0..5 {
        let answers = Answers::start(iotlb.clone())?;
        let moved = traffic::exchange(&mut device, Plan::new(ctx.seed + round, 300, |_| 1000));
        let count = answers.stop()?;
        moved.with_context(|| format!("round {round}, after {count} misses"))?;
        check(count > 0, || format!("no miss in round {round}"))?;
        iotlb.unmap_all()?;
    }
    Ok(())
}

/// A queue stops where it may not do what it has to, and goes on when it may.
fn permission(ctx: &Context) -> Result<()> {
    let (mut device, iotlb) = prepare(ctx, message::V2)?;
    let region = device.memory.table()[0];
    let allow = |perm| {
        // A translation does not replace another.
        accepts("invalidate", iotlb.unmap(region.guest, region.size))?;
        let (iova, size) = (region.guest, region.size);
        accepts("buffers", iotlb.map(iova, size, region.user, perm))
    };
    let rings = iotlb.map(region.user, region.size, region.user, message::READ_WRITE);
    accepts("rings", rings)?;
    device.bind(TX)?;
    device.bind(RX)?;
    let mut frame = Vec::new();
    frame::build(ctx.seed, 0, 200, &mut frame);

    allow(message::READ)?;
    traffic::transmit(&mut device, Plan::new(ctx.seed, 100, |_| 200))?;
    device.rx_fill()?;
    device.rx.flush()?;
    device.peer.send(NetHeader::default(), &frame)?;
    check(Deadline::patient().readable(&[&device.rx.err])?, || {
        "wrote to what it may only read".into()
    })?;
    let mut got = Vec::new();
    check(device.rx_take(&mut got)?.is_none(), || {
        "used a buffer that it may not write".into()
    })?;
    check(!is_readable(&device.vhost)?, || {
        "missed what is there".into()
    })?;
    allow(message::READ_WRITE)?;
    device.rx.kick.signal()?;
    Deadline::patient().until("the frame", || Ok(device.rx_take(&mut got)?.is_some()))?;
    frame::expect("received", 0, &frame, &got)?;

    allow(message::WRITE)?;
    check(device.tx_post(NetHeader::default(), &frame)?, || {
        "no room".into()
    })?;
    device.tx.flush()?;
    device.tx.kick.signal()?;
    check(Deadline::patient().readable(&[&device.tx.err])?, || {
        "read what it may only write".into()
    })?;
    allow(message::READ_WRITE)?;
    device.tx.kick.signal()?;
    Deadline::patient().until("the buffer", || Ok(device.tx_reap()? == 1))?;
    let seen = device.peer.receive(&mut got)?;
    check(seen.is_some(), || "the frame is lost".into())?;
    frame::expect("transmitted", 0, &frame, &got)
}
