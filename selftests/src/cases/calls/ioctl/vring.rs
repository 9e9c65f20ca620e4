// SPDX-License-Identifier: GPL-2.0

//! Ring size, base, addresses, event descriptors and backend.

use crate::cases::common::{Case, Context, Kind, accepts, case, check, refuses};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{self, VringAddr, feature};
use crate::driver::vhost::{RX, TX, Vhost};
use crate::eventfd::EventFd;
use crate::host::tap::{self, Tap, TapConfig};
use crate::sys::mapping::Mapping;
use crate::sys::net;
use anyhow::{Context as _, Result};
use rustix::event::epoll;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

pub(crate) const CASES: &[Case] = &[
    case("ioctl.vring_num", 20, num),
    case("ioctl.vring_base", 20, base),
    case("ioctl.vring_addr", 20, addr),
    case("ioctl.vring_index", 20, index),
    case("ioctl.vring_eventfd", 20, eventfds),
    case("ioctl.backend_wrong", 30, backend_wrong),
    case("ioctl.backend_order", 30, backend_order),
    case("ioctl.busy", 60, busy),
];

fn num(ctx: &Context) -> Result<()> {
    let vhost = ctx.owned()?;
    for bits in 0..16 {
        accepts(&format!("size 2^{bits}"), vhost.set_num(RX, 1 << bits))?;
    }
    for bad in [
        0,
        3,
        5,
        255,
        257,
        32767,
        65535,
        65536,
        1 << 20,
        1 << 31,
        u32::MAX,
    ] {
        refuses(&format!("size {bad}"), libc::EINVAL, vhost.set_num(TX, bad))?;
    }
    Ok(())
}

fn base(ctx: &Context) -> Result<()> {
    let vhost = ctx.owned()?;
    for good in [0, 1, 32767, 32768, 65535] {
        accepts(&format!("base {good}"), vhost.set_base(RX, good))?;
        check(vhost.base(RX)? == good, || {
            format!("base {good} is not kept")
        })?;
    }
    for bad in [65536, 1 << 16 | 5, 1 << 31, u32::MAX] {
        refuses(
            &format!("base {bad}"),
            libc::EINVAL,
            vhost.set_base(RX, bad),
        )?;
    }
    check(vhost.base(RX)? == 65535, || {
        "a refused base was taken".into()
    })?;
    check(vhost.base(TX)? == 0, || {
        "the other queue's base changed".into()
    })
}

/// The transmit queue's ring, at the start of a mapping of 64 KiB.
fn ring_in(map: &Mapping) -> VringAddr {
    let start = map.addr() as u64;
    VringAddr {
        index: TX,
        desc: start,
        avail: start + 0x4000,
        used: start + 0x8000,
        ..VringAddr::default()
    }
}

fn addr(ctx: &Context) -> Result<()> {
    let vhost = ctx.owned()?;
    let map = Mapping::new(1 << 16)?;
    let good = ring_in(&map);
    accepts("aligned addresses", vhost.set_addr(good))?;
    for flags in [2, 4, 1 << 31, 3, u32::MAX] {
        let result = vhost.set_addr(VringAddr { flags, ..good });
        refuses(&format!("flags {flags:#x}"), libc::EOPNOTSUPP, result)?;
    }
    let odd = |change: fn(&mut VringAddr)| {
        let mut address = good;
        change(&mut address);
        vhost.set_addr(address)
    };
    refuses("avail + 1", libc::EINVAL, odd(|a| a.avail += 1))?;
    for step in 1..4 {
        let result = vhost.set_addr(VringAddr {
            used: good.used + step,
            ..good
        });
        refuses(&format!("used + {step}"), libc::EINVAL, result)?;
        let result = vhost.set_addr(VringAddr { log: step, ..good });
        refuses(&format!("log + {step}"), libc::EINVAL, result)?;
    }
    accepts("avail on two bytes", odd(|a| a.avail += 2))?;
    accepts("used on four bytes", odd(|a| a.used += 4))
}

/// Calls on a queue, with structures that start with its index.
const INDEXED: &[(&str, u64)] = &[
    ("SET_VRING_NUM", uapi::SET_VRING_NUM.number()),
    ("SET_VRING_ADDR", uapi::SET_VRING_ADDR.number()),
    ("SET_VRING_BASE", uapi::SET_VRING_BASE.number()),
    ("GET_VRING_BASE", uapi::GET_VRING_BASE.number()),
    ("SET_VRING_KICK", uapi::SET_VRING_KICK.number()),
    ("SET_VRING_CALL", uapi::SET_VRING_CALL.number()),
    ("SET_VRING_ERR", uapi::SET_VRING_ERR.number()),
    ("NET_SET_BACKEND", uapi::NET_SET_BACKEND.number()),
    ("SET_VRING_ENDIAN", uapi::SET_VRING_ENDIAN.number()),
    ("GET_VRING_ENDIAN", uapi::GET_VRING_ENDIAN.number()),
    (
        "SET_VRING_BUSYLOOP_TIMEOUT",
        uapi::SET_VRING_BUSYLOOP_TIMEOUT.number(),
    ),
    (
        "GET_VRING_BUSYLOOP_TIMEOUT",
        uapi::GET_VRING_BUSYLOOP_TIMEOUT.number(),
    ),
];

fn index(ctx: &Context) -> Result<()> {
    let vhost = ctx.owned()?;
    let map = Mapping::new(4096)?;
    for bad in [2u32, 3, 255, 1 << 16, 1 << 31, u32::MAX] {
        for (name, number) in INDEXED {
            map.fill(0, 64, 0);
            map.write(0, &bad.to_ne_bytes());
            // A value that would be good for each call that has one.
            map.write(4, &1u32.to_ne_bytes());
            let what = format!("{name} of queue {bad}");
            refuses(&what, libc::ENOBUFS, vhost.raw(*number, &map, 0))?;
        }
    }
    Ok(())
}

fn eventfds(ctx: &Context) -> Result<()> {
    type Set = fn(&Vhost, u32, i32) -> io::Result<()>;
    let calls: [(&str, Set); 3] = [
        ("SET_VRING_KICK", Vhost::set_kick),
        ("SET_VRING_CALL", Vhost::set_call),
        ("SET_VRING_ERR", Vhost::set_err),
    ];
    let vhost = ctx.owned()?;
    let event = EventFd::new()?;
    let file: OwnedFd = std::fs::File::open("/proc/self/stat")?.into();
    let closed = file.as_raw_fd() + 500;
    for (name, set) in calls {
        for queue in [RX, TX] {
            accepts(name, set(&vhost, queue, event.as_fd().as_raw_fd()))?;
            accepts(name, set(&vhost, queue, event.as_fd().as_raw_fd()))?;
            refuses(name, libc::EBADF, set(&vhost, queue, closed))?;
            refuses(name, libc::EBADF, set(&vhost, queue, -2))?;
            refuses(name, libc::EINVAL, set(&vhost, queue, file.as_raw_fd()))?;
            refuses(
                name,
                libc::EINVAL,
                set(&vhost, queue, vhost.as_fd().as_raw_fd()),
            )?;
            accepts(name, set(&vhost, queue, -1))?;
            accepts(name, set(&vhost, queue, -1))?;
        }
    }
    Ok(())
}

/// Descriptors that are no backend, by name.
fn wrong_backends() -> Result<Vec<(&'static str, OwnedFd)>> {
    let (pipe, _) = rustix::pipe::pipe()?;
    Ok(vec![
        ("a file", std::fs::File::open("/proc/self/stat")?.into()),
        ("a pipe", pipe),
        (
            "an epoll descriptor",
            epoll::create(epoll::CreateFlags::CLOEXEC)?,
        ),
        (
            "an event descriptor",
            EventFd::new()?.as_fd().try_clone_to_owned()?,
        ),
        (
            "a raw IP socket",
            net::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?,
        ),
        (
            "a UDP socket",
            net::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?,
        ),
        (
            "a TCP socket",
            net::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?,
        ),
        (
            "a unix socket",
            net::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?,
        ),
        (
            "a netlink socket",
            net::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)?,
        ),
        (
            "a cooked packet socket",
            net::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?,
        ),
    ])
}

fn backend_wrong(ctx: &Context) -> Result<()> {
    let setup = Setup::new(feature::VERSION_1);
    let mut device = NetDevice::prepare(&ctx.device, setup, "tap0", false)?;
    let vhost = &device.vhost;
    for queue in [RX, TX] {
        for (what, fd) in wrong_backends()? {
            let result = vhost.set_backend(queue, fd.as_raw_fd());
            refuses(what, libc::ENOTSOCK, result)?;
        }
        let own = vhost.as_fd().as_raw_fd();
        refuses("itself", libc::ENOTSOCK, vhost.set_backend(queue, own))?;
        refuses(
            "a closed descriptor",
            libc::ENOTSOCK,
            vhost.set_backend(queue, own + 500),
        )?;
        refuses(
            "descriptor -2",
            libc::ENOTSOCK,
            vhost.set_backend(queue, -2),
        )?;
        let unattached = tap::open_unattached()?;
        let result = vhost.set_backend(queue, unattached.as_raw_fd());
        refuses("a tun descriptor without interface", libc::EINVAL, result)?;
    }
    // After all that, a good one works, and a bad one on top does not take it away.
    device.bind(RX)?;
    device.bind(TX)?;
    for queue in [RX, TX] {
        for (what, fd) in wrong_backends()? {
            let result = device.vhost.set_backend(queue, fd.as_raw_fd());
            refuses(what, libc::ENOTSOCK, result)?;
        }
    }
    traffic::exchange(&mut device, Plan::new(ctx.seed, 200, |_| 100))
}

fn backend_order(ctx: &Context) -> Result<()> {
    let tap = Tap::new(
        "tap9",
        TapConfig {
            header: 12,
            offloads: 0,
            multiqueue: false,
        },
    )?;
    let vhost = ctx.owned()?;
    refuses(
        "no memory table",
        libc::EFAULT,
        vhost.set_backend(TX, tap.number()),
    )?;
    if ctx.kind == Kind::C {
        // C looks at the memory table even to unbind. Nothing is bound then, so `vhost_rnet` may
        // as well say yes: QEMU takes a refusal for a bug of its own.
        refuses("unbinding early", libc::EFAULT, vhost.set_backend(TX, -1))?;
    } else {
        accepts("unbinding early", vhost.set_backend(TX, -1))?;
    }
    let map = Mapping::new(1 << 16)?;
    let table = [uapi::MemoryRegion {
        guest: 0,
        size: map.len() as u64,
        user: map.addr() as u64,
        padding: 0,
    }];
    accepts("SET_MEM_TABLE", vhost.set_memory(&table))?;
    refuses(
        "no addresses",
        libc::EFAULT,
        vhost.set_backend(TX, tap.number()),
    )?;
    accepts("SET_VRING_NUM", vhost.set_num(TX, 16))?;
    let bad = VringAddr {
        index: TX,
        desc: 0xffff_8880_0000_0000,
        avail: 0xffff_8880_0000_0000,
        used: 0xffff_8880_0000_0000,
        ..VringAddr::default()
    };
    accepts(
        "addresses are not looked at before binding",
        vhost.set_addr(bad),
    )?;
    refuses(
        "addresses of the kernel",
        libc::EFAULT,
        vhost.set_backend(TX, tap.number()),
    )?;
    let good = ring_in(&map);
    accepts("good addresses", vhost.set_addr(good))?;
    accepts(
        "no descriptors for events at all",
        vhost.set_backend(TX, tap.number()),
    )?;
    accepts("the same once more", vhost.set_backend(TX, tap.number()))?;
    accepts("unbind", vhost.set_backend(TX, -1))?;
    accepts("unbind once more", vhost.set_backend(TX, -1))
}

/// What must not change under a running ring, and what may.
fn busy(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    for queue in [RX, TX] {
        let vhost = &device.vhost;
        refuses("SET_VRING_NUM live", libc::EBUSY, vhost.set_num(queue, 256))?;
        refuses(
            "SET_VRING_NUM live, bad size",
            libc::EBUSY,
            vhost.set_num(queue, 3),
        )?;
        refuses("SET_VRING_BASE live", libc::EBUSY, vhost.set_base(queue, 0))?;
        refuses(
            "SET_VRING_BASE live, bad base",
            libc::EBUSY,
            vhost.set_base(queue, 1 << 20),
        )?;
        let place = device.queue(queue).ring.place();
        let place = VringAddr {
            index: queue,
            ..place
        };
        let vhost = &device.vhost;
        accepts("SET_VRING_ADDR live", vhost.set_addr(place))?;
        let kernel = 0xffff_8880_0000_0000;
        let live = |address| vhost.set_addr(address);
        refuses(
            "kernel desc",
            libc::EINVAL,
            live(VringAddr {
                desc: kernel,
                ..place
            }),
        )?;
        refuses(
            "kernel avail",
            libc::EINVAL,
            live(VringAddr {
                avail: kernel,
                ..place
            }),
        )?;
        refuses(
            "kernel used",
            libc::EINVAL,
            live(VringAddr {
                used: kernel,
                ..place
            }),
        )?;
        refuses(
            "odd used live",
            libc::EINVAL,
            live(VringAddr {
                used: place.used + 1,
                ..place
            }),
        )?;
        refuses(
            "flags live",
            libc::EOPNOTSUPP,
            live(VringAddr { flags: 2, ..place }),
        )?;
    }
    traffic::exchange(&mut device, Plan::new(ctx.seed, 300, |_| 100))
        .context("after calls that were refused")?;
    device.unbind(RX)?;
    device.unbind(TX)?;
    for queue in [RX, TX] {
        accepts("SET_VRING_NUM", device.vhost.set_num(queue, 256))?;
        let used = device.vhost.base(queue)?;
        let seen = device.queue(queue).ring.base();
        check(used == seen, || {
            format!("queue {queue} stopped at {used}, the driver at {seen}")
        })?;
        device.bind(queue)?;
    }
    traffic::exchange(&mut device, Plan::new(ctx.seed + 1, 300, |_| 100))
}
