// SPDX-License-Identifier: GPL-2.0

//! Messages about IO addresses, read from and written to a device that has no IOTLB.

use crate::cases::common::{Case, Context, accepts, case, check, refuses};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::iotlb::{self, LEN, Message, VERSION_1, VERSION_2};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::Vhost;
use crate::wait::is_readable;
use anyhow::Result;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use rustix::event::{Timespec, epoll};
use std::io::IoSlice;

pub(crate) const CASES: &[Case] = &[
    case("messages.none", 20, none),
    case("messages.epoll", 20, poll_set),
    case("messages.cut_off", 20, cut_off),
    case("messages.meaning", 20, meaning),
    case("messages.pieces", 20, pieces),
    case("messages.garbage", 60, garbage),
];

/// A message that is right in every way.
const UPDATE: Message = Message::update(0x1000, 0x1000, 0x10_0000);

/// Both formats.
const FORMATS: [u32; 2] = [VERSION_1, VERSION_2];

/// Bytes of a message up to where it means something.
const NEEDED: usize = 40;

/// Fails unless reading finds no message and `poll` reports that none will come.
fn nothing_to_read(vhost: &Vhost) -> Result<()> {
    let mut buffer = [0; 2 * LEN];
    check(!is_readable(vhost)?, || "something to read".into())?;
    for (nonblocking, errno) in [(false, libc::EBADFD), (true, libc::EAGAIN)] {
        vhost.set_blocking(!nonblocking)?;
        for len in [0, 1, LEN - 1] {
            let read = accepts("a short read", vhost.read(&mut buffer[..len]))?;
            check(read == 0, || format!("{read} bytes of a message in {len}"))?;
        }
        for len in [LEN, LEN + 1, buffer.len()] {
            let what = format!("reading {len} bytes, nonblocking: {nonblocking}");
            refuses(&what, errno, vhost.read(&mut buffer[..len]))?;
        }
    }
    vhost.set_blocking(true)?;
    check(buffer.iter().all(|byte| *byte == 0), || {
        "a refused read wrote something".into()
    })
}

fn none(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    nothing_to_read(&vhost)?;
    accepts("SET_OWNER", vhost.set_owner())?;
    nothing_to_read(&vhost)?;
    accepts("SET_FEATURES", vhost.set_features(feature::VERSION_1))?;
    nothing_to_read(&vhost)?;
    accepts("RESET_OWNER", vhost.reset_owner())?;
    nothing_to_read(&vhost)
}

/// A device may be closed while another thread waits for its messages.
fn poll_set(ctx: &Context) -> Result<()> {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let nothing = |when: &str| {
        let mut events = Vec::with_capacity(4);
        let now = Timespec::default();
        let to = rustix::buffer::spare_capacity(&mut events);
        let count = epoll::wait(&set, to, Some(&now))?;
        check(count == 0, || format!("{count} events while {when}"))
    };
    for round in 0..3 {
        let vhost = ctx.owned()?;
        let all = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        epoll::add(&set, &vhost, epoll::EventData::new_u64(round), all)?;
        nothing("open")?;
        drop(vhost);
        nothing("closed")?;
    }
    Ok(())
}

/// A write as long as `struct vhost_iotlb_msg` is a message, even if the padding behind it is
/// missing.
fn cut_off(ctx: &Context) -> Result<()> {
    let vhost = ctx.owned()?;
    for format in FORMATS {
        let mut bytes = UPDATE.bytes(format).to_vec();
        bytes.extend([0xa5; 100]);
        for len in 0..bytes.len() {
            let errno = if len < NEEDED {
                libc::EINVAL
            } else {
                libc::EFAULT
            };
            let what = format!("{len} bytes of a message of format {format}");
            refuses(
                &what,
                errno,
                vhost.write_pieces(&[IoSlice::new(&bytes[..len])]),
            )?;
        }
    }
    Ok(())
}

fn meaning(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    for owned in [false, true] {
        if owned {
            accepts("SET_OWNER", vhost.set_owner())?;
        }
        for format in [0, 3, 0x100, 0x0100_0000, u32::MAX] {
            let what = format!("format {format:#x}");
            refuses(&what, libc::EINVAL, vhost.send(format, UPDATE))?;
        }
        for format in FORMATS {
            for kind in 0..=u8::MAX {
                for size in [0, 1, 0x1000, u64::MAX] {
                    let empty = kind == iotlb::UPDATE && size == 0;
                    let errno = if empty { libc::EINVAL } else { libc::EFAULT };
                    let what = format!("type {kind} of {size:#x} bytes, format {format}");
                    let message = Message {
                        size,
                        kind,
                        ..UPDATE
                    };
                    refuses(&what, errno, vhost.send(format, message))?;
                }
            }
            // The padding of version 1, the address space identifier of version 2.
            let mut bytes = UPDATE.bytes(format);
            bytes[4..8].fill(0xff);
            let what = format!("address space, format {format}");
            refuses(
                &what,
                libc::EFAULT,
                vhost.write_pieces(&[IoSlice::new(&bytes)]),
            )?;
        }
    }
    nothing_to_read(&vhost)
}

/// A message may come from several buffers.
fn pieces(ctx: &Context) -> Result<()> {
    let vhost = ctx.owned()?;
    for format in FORMATS {
        let bytes = UPDATE.bytes(format);
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let parts = [IoSlice::new(first), IoSlice::new(second)];
            let what = format!("cut after {cut} bytes, format {format}");
            refuses(&what, libc::EFAULT, vhost.write_pieces(&parts))?;
            let parts = [IoSlice::new(first), IoSlice::new(&second[..1])];
            let whole = cut + 1 >= NEEDED;
            let errno = if whole { libc::EFAULT } else { libc::EINVAL };
            let what = format!("ended after {cut} and 1 bytes, format {format}");
            refuses(&what, errno, vhost.write_pieces(&parts))?;
        }
    }
    Ok(())
}

/// Messages that a running device refuses do not disturb it.
fn garbage(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    let mut rng = SmallRng::seed_from_u64(ctx.seed);
    for round in 0..10 {
        for _ in 0..100 {
            let mut bytes = [0; LEN + 8];
            rng.fill(&mut bytes);
            // Mostly with a version that the device knows, so that it looks at the rest.
            if rng.random_ratio(3, 4) {
                let format = FORMATS[rng.random_range(0..2)];
                bytes[..4].copy_from_slice(&format.to_ne_bytes());
            }
            let len = rng.random_range(0..=bytes.len());
            match device.vhost.write_pieces(&[IoSlice::new(&bytes[..len])]) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EFAULT)) => {
                }
                other => anyhow::bail!("{len} bytes of garbage: {other:?}"),
            }
        }
        check(!is_readable(&device.vhost)?, || "something to read".into())?;
        traffic::exchange(&mut device, Plan::new(ctx.seed + round, 50, |_| 200))?;
    }
    nothing_to_read(&device.vhost)
}
