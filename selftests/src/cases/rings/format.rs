// SPDX-License-Identifier: GPL-2.0

//! What calls take where the format of rings matters, and the change from one format to the other.

use crate::cases::common::{Case, Context, Kind, Skip, accepts, case, check, refuses};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::ring::Format;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{VringAddr, feature};
use crate::driver::vhost::{RX, TX, Vhost};
use crate::sys::mapping::Mapping;
use anyhow::{Context as _, Result, bail};

pub(crate) const CASES: &[Case] = &[
    case("format.base", 60, base),
    case("format.sizes", 60, sizes),
    case("format.alignment", 20, alignment),
    case("format.beyond", 30, beyond),
    case("format.change", 120, change),
];

const PACKED: u64 = Format::Packed.features();

/// Skips a case on vhost-net, which has no packed rings.
fn offered(ctx: &Context) -> Result<()> {
    if ctx.kind == Kind::C {
        bail!(Skip("vhost-net has no packed rings".into()));
    }
    Ok(())
}

/// A device with an owner that has accepted packed rings.
fn packed(ctx: &Context) -> Result<Vhost> {
    offered(ctx)?;
    let vhost = ctx.owned()?;
    accepts("SET_FEATURES", vhost.set_features(PACKED))?;
    Ok(vhost)
}

/// Fails unless the base is as expected.
fn expect_base(vhost: &Vhost, index: u32, want: u32) -> Result<()> {
    let got = accepts("GET_VRING_BASE", vhost.base(index))?;
    check(got == want, || format!("base {got:#x}, not {want:#x}"))
}

/// A base has the places of both sides with their wrap counters, and is read as it was set; a ring that
/// is started without that of the device has both at the same, as DPDK's virtio-user needs it.
fn base(ctx: &Context) -> Result<()> {
    let vhost = packed(ctx)?;
    accepts("SET_VRING_NUM", vhost.set_num(TX, 300))?;
    expect_base(&vhost, TX, 0x8000_8000).context("a fresh ring")?;
    for base in [
        0x8000_8000,
        0x812b_812b,
        0x012b_012b,
        // The device still has chains of the end of the last turn.
        0x8120_0003,
        0x8000,
        0x0005,
        0,
        // Not in this ring, whose size may yet change.
        0xffff_ffff,
    ] {
        accepts("SET_VRING_BASE", vhost.set_base(TX, base))?;
        expect_base(&vhost, TX, base)?;
    }
    expect_base(&vhost, RX, 0x8000_8000).context("the other queue")?;
    accepts("RESET_OWNER", vhost.reset_owner())?;
    accepts("SET_OWNER", vhost.set_owner())?;
    accepts("SET_FEATURES", vhost.set_features(PACKED))?;
    expect_base(&vhost, TX, 0x8000_8000).context("after a reset")?;
    for count in [0, 1, 255, 256, 300, 511] {
        let mut setup = Setup::new(PACKED);
        setup.base = count;
        let device = NetDevice::prepare(&ctx.device, setup, "tap0", false)?;
        exchange(ctx, device, |base| base & 0xffff)
            .with_context(|| format!("only the driver's place, after {count} descriptors"))?;
    }
    // Places that the ring does not have, of the driver, of the device and of both.
    for base in [
        0x80ff_8100,
        0x8100_80ff,
        0x8100_8100,
        0x0100_0100,
        0xffff_ffff,
    ] {
        let device = NetDevice::prepare(&ctx.device, Setup::new(PACKED), "tap0", false)?;
        accepts("SET_VRING_BASE", device.vhost.set_base(TX, base))?;
        let result = device.vhost.set_backend(TX, device.tap.number());
        refuses("such a base", libc::EFAULT, result)
            .with_context(|| format!("a ring of 256 begins at {base:#x}"))?;
    }
    Ok(())
}

/// Starts both queues at what `change` makes of their bases, and moves frames, with stops in between.
fn exchange(ctx: &Context, mut device: NetDevice, change: fn(u32) -> u32) -> Result<()> {
    for index in [RX, TX] {
        let base = change(device.queue(index).ring.base());
        accepts("SET_VRING_BASE", device.vhost.set_base(index, base))?;
        device.bind(index)?;
    }
    for round in 0..4 {
        // So many that the next round begins in another turn, with the other wrap counter.
        let plan = Plan::new(ctx.seed + round, 300, |_| 100);
        traffic::exchange(&mut device, plan).with_context(|| format!("round {round}"))?;
        for index in [RX, TX] {
            device.unbind(index)?;
            let seen = device.queue(index).ring.base();
            expect_base(&device.vhost, index, seen).with_context(|| format!("queue {index}"))?;
            // It goes on there, without being told.
            device.bind(index)?;
        }
    }
    Ok(())
}

/// A packed ring may have any size up to 32768. A size that the format does not have is refused as
/// soon as both are known.
fn sizes(ctx: &Context) -> Result<()> {
    let vhost = packed(ctx)?;
    for size in [1, 2, 3, 300, 32767, 32768] {
        accepts("SET_VRING_NUM", vhost.set_num(TX, size))?;
    }
    for size in [0, 32769, 65536, u32::MAX] {
        refuses("SET_VRING_NUM", libc::EINVAL, vhost.set_num(TX, size))?;
    }
    let mut setup = Setup::new(PACKED);
    setup.tx_size = 300;
    let device = NetDevice::prepare(&ctx.device, setup, "tap0", false)?;
    let vhost = &device.vhost;
    let bind = || vhost.set_backend(TX, device.tap.number());
    accepts("SET_FEATURES", vhost.set_features(feature::VERSION_1))?;
    refuses("a split ring of 300", libc::EINVAL, bind())?;
    refuses("SET_VRING_NUM", libc::EINVAL, vhost.set_num(TX, 300))?;
    accepts("SET_FEATURES", vhost.set_features(PACKED))?;
    accepts("SET_VRING_BASE", vhost.set_base(TX, device.tx.ring.base()))?;
    accepts("a packed ring of 300", bind())
}

/// Descriptors of a packed ring are aligned to 16 bytes, its event suppression structures to four;
/// addresses that were set for a split ring are judged again when a backend is set.
fn alignment(ctx: &Context) -> Result<()> {
    let vhost = packed(ctx)?;
    let map = Mapping::new(1 << 16)?;
    let start = map.addr() as u64;
    let good = VringAddr {
        index: TX,
        desc: start,
        avail: start + 0x4000,
        used: start + 0x8000,
        ..VringAddr::default()
    };
    accepts("aligned addresses", vhost.set_addr(good))?;
    for step in 1..16 {
        let wrong = VringAddr {
            desc: good.desc + step,
            ..good
        };
        let what = format!("descriptors + {step}");
        refuses(&what, libc::EINVAL, vhost.set_addr(wrong))?;
    }
    for step in 1..4 {
        let driver = VringAddr {
            avail: good.avail + step,
            ..good
        };
        let device = VringAddr {
            used: good.used + step,
            ..good
        };
        for wrong in [driver, device] {
            let what = format!("an event suppression structure + {step}");
            refuses(&what, libc::EINVAL, vhost.set_addr(wrong))?;
        }
    }
    let moved = VringAddr {
        desc: good.desc + 16,
        avail: good.avail + 4,
        used: good.used + 4,
        ..good
    };
    accepts("moved by their alignment", vhost.set_addr(moved))?;
    let device = NetDevice::prepare(&ctx.device, Setup::new(PACKED), "tap0", false)?;
    let vhost = &device.vhost;
    let good = device.address(&device.tx);
    for (desc, avail) in [(8, 0), (0, 2)] {
        let wrong = VringAddr {
            desc: good.desc + desc,
            avail: good.avail + avail,
            ..good
        };
        accepts("SET_FEATURES", vhost.set_features(feature::VERSION_1))?;
        accepts("addresses of a split ring", vhost.set_addr(wrong))?;
        accepts("SET_FEATURES", vhost.set_features(PACKED))?;
        let bound = vhost.set_backend(TX, device.tap.number());
        refuses("a packed ring there", libc::EINVAL, bound)?;
    }
    accepts("SET_VRING_ADDR", vhost.set_addr(good))?;
    device.bind(TX)
}

/// A packed ring of which a part is not in user space is refused: when a backend is set, and while
/// there is one.
fn beyond(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    let mut device = NetDevice::prepare(&ctx.device, Setup::new(PACKED), "tap0", false)?;
    let good = device.address(&device.tx);
    // Of the kernel, and around the end of all addresses.
    let places = [0xffff_8880_0000_0000, u64::MAX - 15];
    let wrong = places.into_iter().flat_map(|at| {
        let (mut desc, mut avail, mut used) = (good, good, good);
        (desc.desc, avail.avail, used.used) = (at, at, at);
        [desc, avail, used]
    });
    for addr in wrong.clone() {
        accepts("addresses of no backend", device.vhost.set_addr(addr))?;
        let bound = device.vhost.set_backend(TX, device.tap.number());
        refuses("a packed ring there", libc::EFAULT, bound)?;
    }
    accepts("SET_VRING_ADDR", device.vhost.set_addr(good))?;
    for index in [RX, TX] {
        device.bind(index)?;
    }
    for addr in wrong {
        let moved = device.vhost.set_addr(addr);
        refuses("a move of a running ring", libc::EINVAL, moved)?;
    }
    traffic::exchange(&mut device, Plan::new(ctx.seed, 300, |_| 100))
}

/// The format changes on one open device, as from firmware to an operating system; never while a
/// queue runs.
fn change(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    let vhost = ctx.owned()?;
    for round in 0..6 {
        let features = [0, PACKED][round % 2] | feature::VERSION_1 | feature::EVENT_IDX;
        let mut setup = Setup::new(features);
        setup.rx_size = [256, 300][round % 2];
        let mut device = NetDevice::prepare(&ctx.device, setup, "tap0", false)?;
        // All on the device that was there before.
        device.vhost = vhost.duplicate()?;
        device.configure()?;
        for index in [RX, TX] {
            device.bind(index)?;
            let other = features ^ feature::RING_PACKED;
            let result = device.vhost.set_features(other);
            refuses("another format of a running ring", libc::EBUSY, result)?;
        }
        traffic::exchange(&mut device, Plan::new(ctx.seed, 700, |_| 100))
            .with_context(|| format!("round {round}"))?;
        for index in [RX, TX] {
            device.unbind(index)?;
        }
    }
    Ok(())
}
