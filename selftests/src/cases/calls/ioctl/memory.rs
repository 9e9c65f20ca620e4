// SPDX-License-Identifier: GPL-2.0

//! The memory table.

use crate::cases::common::{Case, Context, Kind, accepts, case, check, refuses};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{self, MemoryRegion, feature};
use crate::sys::mapping::{Mapping, PAGE};
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    case("ioctl.memory", 20, memory),
    case("ioctl.memory_limit", 60, limit),
    case("ioctl.memory_keep", 60, keep),
];

/// How many regions `vhost_rnet` takes.
const RNET_REGIONS: usize = 1024;

fn region(guest: u64, size: u64, user: u64) -> MemoryRegion {
    MemoryRegion {
        guest,
        size,
        user,
        padding: 0,
    }
}

/// Regions whose guest addresses no driver may take.
fn bad_guest(user: u64) -> Vec<(&'static str, MemoryRegion)> {
    let page = PAGE as u64;
    vec![
        (
            "guest addresses that wrap",
            region(u64::MAX - page + 2, page, user),
        ),
        ("a huge region that wraps", region(page, u64::MAX, user)),
        ("a region of size zero", region(page, 0, user)),
    ]
}

/// Regions whose user addresses no driver may take under a bound queue. In C an idle device takes
/// them and refuses the backend instead.
fn bad_user(user: u64) -> Vec<(&'static str, MemoryRegion)> {
    let page = PAGE as u64;
    vec![
        (
            "user addresses that wrap",
            region(page, page, u64::MAX - page + 2),
        ),
        (
            "user addresses of the kernel",
            region(page, page, 0xffff_8880_0000_0000),
        ),
        (
            "a region that reaches into the kernel",
            region(page, 1 << 62, user),
        ),
        ("all of the address space", region(0, 0, user)),
    ]
}

fn memory(ctx: &Context) -> Result<()> {
    let vhost = ctx.owned()?;
    let map = Mapping::new(4 * PAGE)?;
    let user = map.addr() as u64;
    let page = PAGE as u64;
    accepts("no regions", vhost.set_memory(&[]))?;
    accepts("one region", vhost.set_memory(&[region(0, page, user)]))?;
    accepts(
        "the last page of guest memory",
        vhost.set_memory(&[region(0u64.wrapping_sub(page), page, user)]),
    )?;
    let good = [region(0, page, user), region(4 * page, page, user + page)];
    accepts("two regions", vhost.set_memory(&good))?;
    let padded = vhost.set_memory_padded(&good, 1);
    refuses("padding", libc::EOPNOTSUPP, padded)?;
    for (what, bad) in bad_guest(user) {
        refuses(what, libc::EFAULT, vhost.set_memory(&[bad]))?;
        refuses(what, libc::EFAULT, vhost.set_memory(&[good[0], bad]))?;
    }
    // Two regions announced, room for one and a half before the mapping ends.
    let short = Mapping::new(PAGE)?;
    let offset = PAGE - 8 - 32 - 16;
    short.write(offset, &2u32.to_ne_bytes());
    let number = uapi::SET_MEM_TABLE.number();
    refuses(
        "a table cut short",
        libc::EFAULT,
        vhost.raw(number, &short, offset),
    )?;
    accepts("two regions after failures", vhost.set_memory(&good))
}

/// How many regions the device takes; the in-tree driver has a parameter for it.
fn regions_taken(ctx: &Context) -> Result<usize> {
    if ctx.kind == Kind::Rnet {
        return Ok(RNET_REGIONS);
    }
    let path = "/sys/module/vhost/parameters/max_mem_regions";
    let text = std::fs::read_to_string(path).context(path)?;
    text.trim().parse().context("max_mem_regions")
}

/// The limit is exact, and frames pass with a table of that many regions.
fn limit(ctx: &Context) -> Result<()> {
    let most = regions_taken(ctx)?;
    let mut setup = Setup::new(feature::VERSION_1);
    let far = 1u64 << 32;
    setup.regions = (1..most as u64)
        .map(|i| (far + i * 2 * PAGE as u64, PAGE))
        .collect();
    let mut device = NetDevice::start(&ctx.device, setup)?;
    traffic::exchange(&mut device, Plan::new(ctx.seed, 100, |_| 200))?;
    let mut table = device.memory.table();
    check(table.len() == most, || "the table is not full".into())?;
    // Any order will do.
    table.reverse();
    accepts("a full table in reverse", device.vhost.set_memory(&table))?;
    traffic::exchange(&mut device, Plan::new(ctx.seed + 1, 100, |_| 200))?;
    table.push(region(1 << 40, PAGE as u64, table[0].user));
    refuses(
        "one region too many",
        libc::E2BIG,
        device.vhost.set_memory(&table),
    )?;
    let count = u32::MAX.to_ne_bytes();
    let map = Mapping::new(PAGE)?;
    map.write(0, &count);
    let number = uapi::SET_MEM_TABLE.number();
    refuses(
        "a count of 2^32-1",
        libc::E2BIG,
        device.vhost.raw(number, &map, 0),
    )
}

/// A table that is refused leaves the one in use alone.
fn keep(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    traffic::exchange(&mut device, Plan::new(ctx.seed, 50, |_| 300))?;
    let table = device.memory.table();
    let user = table[0].user;
    let bad = [bad_guest(user), bad_user(user)].concat();
    for (round, (what, bad)) in bad.into_iter().enumerate() {
        refuses(what, libc::EFAULT, device.vhost.set_memory(&[bad]))?;
        let seed = ctx.seed + 1 + round as u64;
        traffic::exchange(&mut device, Plan::new(seed, 50, |_| 300)).context(what)?;
    }
    Ok(())
}
