// SPDX-License-Identifier: GPL-2.0

//! The byte order of legacy rings, `VHOST_SET_VRING_ENDIAN`.

use crate::cases::common::{Case, Context, Kind, Skip, accepts, case, check, frames, refuses};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{self, feature};
use crate::driver::vhost::{RX, TX, Vhost};
use crate::sys::ioctl::BadPointer;
use anyhow::{Context as _, Result, bail};

pub(crate) const CASES: &[Case] = &[
    case("endian.arguments", 30, arguments),
    case("endian.exchange", 90, exchange),
];

fn expect(vhost: &Vhost, index: u32, order: u32) -> Result<()> {
    let got = accepts("GET_VRING_ENDIAN", vhost.endian(index))?;
    check(got == order, || {
        format!("queue {index} has order {got}, not {order}")
    })
}

fn arguments(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    refuses("before SET_OWNER", libc::EPERM, vhost.set_endian(RX, 0))?;
    let mut device = NetDevice::prepare(&ctx.device, Setup::new(0), "tap0", false)?;
    let vhost = &device.vhost;
    refuses("no such queue", libc::ENOBUFS, vhost.set_endian(2, 0))?;
    if ctx.kind == Kind::C && vhost.endian(RX).is_err() {
        // Only some kernels are built with it (`CONFIG_VHOST_CROSS_ENDIAN_LEGACY`).
        for index in [RX, TX] {
            refuses("GET_VRING_ENDIAN", libc::ENOTTY, vhost.endian(index))?;
            for order in [0, 1, 2] {
                let result = vhost.set_endian(index, order);
                refuses("SET_VRING_ENDIAN", libc::ENOTTY, result)?;
            }
        }
        return Ok(());
    }
    for number in [
        uapi::SET_VRING_ENDIAN.number(),
        uapi::GET_VRING_ENDIAN.number(),
    ] {
        let what = format!("call {number:#x} on a bad pointer");
        refuses(&what, libc::EFAULT, vhost.bad(number, BadPointer::Kernel))?;
    }
    for order in [2, 0x0100_0000, u32::MAX] {
        let what = format!("order {order}");
        refuses(&what, libc::EINVAL, vhost.set_endian(RX, order))?;
    }
    expect(vhost, RX, 0)?;
    accepts("big-endian", vhost.set_endian(TX, 1))?;
    expect(vhost, RX, 0)?;
    expect(vhost, TX, 1)?;
    accepts("little-endian", vhost.set_endian(TX, 0))?;
    expect(vhost, TX, 0)?;
    for index in [RX, TX] {
        device.bind(index)?;
        for order in [0, 1, 2] {
            let result = device.vhost.set_endian(index, order);
            refuses("with a backend", libc::EBUSY, result)?;
        }
        expect(&device.vhost, index, 0)?;
    }
    traffic::exchange(&mut device, Plan::new(ctx.seed, 50, |_| 100))
}

/// The driver of a big-endian machine.
fn exchange(ctx: &Context) -> Result<()> {
    let device = NetDevice::prepare(&ctx.device, Setup::new(0), "tap0", false)?;
    if ctx.kind == Kind::C && device.vhost.endian(RX).is_err() {
        bail!(Skip("this kernel's vhost-net has one order only".into()));
    }
    drop(device);
    for features in [
        0,
        feature::EVENT_IDX,
        feature::INDIRECT | feature::MRG_RXBUF,
        feature::EVENT_IDX | feature::INDIRECT | feature::MRG_RXBUF,
    ] {
        let mut setup = frames::roomy(features);
        setup.big_endian = true;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        traffic::exchange(&mut device, Plan::new(ctx.seed, 300, frames::all_sizes))
            .with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}
