// SPDX-License-Identifier: GPL-2.0

//! Who may call what, and bad pointers everywhere.

use crate::cases::common::{Case, Context, Role, accepts, case, check, refuses, role};
use crate::driver::uapi;
use crate::driver::vhost::{RX, TX, Vhost};
use crate::runner;
use crate::sys::ioctl::BadPointer;
use crate::sys::mapping::Mapping;
use anyhow::{Context as _, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

pub(crate) const CASES: &[Case] = &[
    case("ioctl.owner", 20, owner),
    case("ioctl.no_owner", 20, no_owner),
    case("ioctl.foreign_mm", 20, foreign),
    case("ioctl.bad_pointer", 20, bad_pointer),
    case("ioctl.unknown", 20, unknown),
];

pub(crate) const ROLES: &[Role] = &[role("foreign-mm", foreign_role)];

/// Every call that reads or writes through its pointer, and whether it needs an owner.
const CALLS: &[(&str, u64, bool)] = &[
    ("GET_FEATURES", uapi::GET_FEATURES.number(), false),
    ("SET_FEATURES", uapi::SET_FEATURES.number(), false),
    (
        "GET_FEATURES_ARRAY",
        uapi::GET_FEATURES_ARRAY.number(),
        false,
    ),
    (
        "SET_FEATURES_ARRAY",
        uapi::SET_FEATURES_ARRAY.number(),
        false,
    ),
    (
        "GET_BACKEND_FEATURES",
        uapi::GET_BACKEND_FEATURES.number(),
        false,
    ),
    (
        "SET_BACKEND_FEATURES",
        uapi::SET_BACKEND_FEATURES.number(),
        false,
    ),
    ("SET_MEM_TABLE", uapi::SET_MEM_TABLE.number(), true),
    ("SET_VRING_NUM", uapi::SET_VRING_NUM.number(), true),
    ("SET_VRING_ADDR", uapi::SET_VRING_ADDR.number(), true),
    ("SET_VRING_BASE", uapi::SET_VRING_BASE.number(), true),
    ("GET_VRING_BASE", uapi::GET_VRING_BASE.number(), true),
    ("SET_VRING_KICK", uapi::SET_VRING_KICK.number(), true),
    ("SET_VRING_CALL", uapi::SET_VRING_CALL.number(), true),
    ("SET_VRING_ERR", uapi::SET_VRING_ERR.number(), true),
    ("NET_SET_BACKEND", uapi::NET_SET_BACKEND.number(), true),
];

fn owner(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    refuses(
        "RESET_OWNER without owner",
        libc::EPERM,
        vhost.reset_owner(),
    )?;
    for round in 0..3 {
        accepts("SET_OWNER", vhost.set_owner())?;
        refuses("second SET_OWNER", libc::EBUSY, vhost.set_owner())?;
        accepts("SET_VRING_NUM", vhost.set_num(RX, 16 << round))?;
        accepts("SET_VRING_BASE", vhost.set_base(TX, 100 + round))?;
        check(vhost.base(TX)? == 100 + round, || {
            "the base is not kept".into()
        })?;
        accepts("RESET_OWNER", vhost.reset_owner())?;
        refuses(
            "GET_VRING_BASE after RESET_OWNER",
            libc::EPERM,
            vhost.base(TX),
        )?;
        refuses("second RESET_OWNER", libc::EPERM, vhost.reset_owner())?;
    }
    accepts("SET_OWNER", vhost.set_owner())?;
    check(vhost.base(TX)? == 0, || {
        "RESET_OWNER did not reset the base".into()
    })
}

fn no_owner(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    let map = Mapping::new(4096)?;
    for (name, number, owned) in CALLS {
        map.fill(0, 4096, 0);
        let result = vhost.raw(*number, &map, 0);
        if *owned {
            refuses(name, libc::EPERM, result)?;
        } else {
            accepts(name, result)?;
        }
    }
    Ok(())
}

fn refused_to_others(vhost: &Vhost) -> Result<()> {
    let map = Mapping::new(4096)?;
    for (name, number, owned) in CALLS {
        map.fill(0, 4096, 0);
        let result = vhost.raw(*number, &map, 0);
        if *owned {
            refuses(name, libc::EPERM, result)?;
        } else {
            accepts(name, result)?;
        }
    }
    refuses("RESET_OWNER", libc::EPERM, vhost.reset_owner())?;
    refuses("SET_OWNER", libc::EBUSY, vhost.set_owner())
}

/// Gets the parent's device as standard input.
fn foreign_role(_ctx: &Context) -> Result<()> {
    let fd: OwnedFd = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("inherited device")?;
    refused_to_others(&Vhost::from_fd(fd))
}

fn foreign(ctx: &Context) -> Result<()> {
    let vhost = ctx.owned()?;
    accepts("SET_VRING_BASE", vhost.set_base(RX, 77))?;
    let fd = vhost.as_fd().try_clone_to_owned()?;
    let mut child = runner::again(ctx, "--role", "foreign-mm")?;
    let status = child
        .stdin(Stdio::from(fd))
        .status()
        .context("run the other process")?;
    check(status.success(), || {
        format!("the other process ended with {status}")
    })?;
    check(vhost.base(RX)? == 77, || {
        "the other process changed the device".into()
    })?;
    accepts("RESET_OWNER by the owner", vhost.reset_owner())
}

fn bad_pointer(ctx: &Context) -> Result<()> {
    let vhost = ctx.owned()?;
    accepts("SET_VRING_BASE", vhost.set_base(RX, 55))?;
    for pointer in [BadPointer::Null, BadPointer::Kernel, BadPointer::Top] {
        for (name, number, _) in CALLS {
            let what = format!("{name} at {pointer:?}");
            refuses(&what, libc::EFAULT, vhost.bad(*number, pointer))?;
        }
    }
    // A structure that starts on the last mapped bytes and ends beyond them.
    let map = Mapping::new(4096)?;
    for (name, number, _) in CALLS {
        // Index zero, so that the queue exists.
        map.fill(0, 4096, 0);
        let what = format!("{name} over the end of a mapping");
        refuses(&what, libc::EFAULT, vhost.raw(*number, &map, 4096 - 4))?;
    }
    check(vhost.base(RX)? == 55, || {
        "a failed call changed the base".into()
    })
}

fn unknown(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    let map = Mapping::new(4096)?;
    let number = uapi::UNKNOWN.number();
    refuses(
        "unknown call before SET_OWNER",
        libc::EPERM,
        vhost.raw(number, &map, 0),
    )?;
    accepts("SET_OWNER", vhost.set_owner())?;
    refuses("unknown call", libc::ENOTTY, vhost.raw(number, &map, 0))?;
    refuses(
        "call of another family",
        libc::ENOTTY,
        vhost.raw(0x5401, &map, 0),
    )
}
