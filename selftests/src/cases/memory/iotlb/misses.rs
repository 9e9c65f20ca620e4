// SPDX-License-Identifier: GPL-2.0

//! A device that waits for a mapping, or may not have it.

use crate::cases::common::frames::{expect_no_errors, send_one, single, take_one};
use crate::cases::common::iommu::Behind;
use crate::cases::common::{Case, Context, check, ring_case, wake_c};
use crate::driver::iommu::{Iommu, PAGE};
use crate::driver::iotlb::{Message, READ, VERSION_1, VERSION_2, WRITE};
use crate::driver::layout::Layout;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::procfs;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::os::fd::AsFd;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ring_case("iotlb.park", 60, park),
    ring_case("iotlb.permissions", 60, permissions),
    ring_case("iotlb.ring_permissions", 60, ring_permissions),
    ring_case("iotlb.asked_again", 90, asked_again),
];

/// The pages of a range that have nothing else on them.
fn inner((start, len): (u64, usize)) -> (u64, usize) {
    let (first, end) = (start.next_multiple_of(PAGE), start + len as u64);
    // CAST: less than a length.
    (first, (end / PAGE * PAGE - first) as usize)
}

/// Waits for a miss that nobody answers, and fails if it is not in the range.
fn expect_miss(iommu: &Iommu, (start, len): (u64, usize), perm: u8) -> Result<()> {
    Deadline::patient().until("a miss", || Ok(!iommu.waiting().is_empty()))?;
    procfs::idle()?;
    let waiting = iommu.waiting();
    let inside = |miss: &Message| {
        let range = start / PAGE * PAGE..start + len as u64;
        range.contains(&miss.iova) && miss.perm == perm
    };
    check(waiting.len() == 1 && inside(&waiting[0]), || {
        format!("{waiting:x?}, not one in {len} bytes at {start:#x}")
    })
}

/// A queue waits for a mapping, alone, and goes on with it without a kick.
fn park(ctx: &Context) -> Result<()> {
    for events in [0, feature::EVENT_IDX] {
        Behind::start(ctx, single(events), VERSION_2)?.run(|device, iommu| {
            let parts = |layout: Layout| {
                layout.areas().map(|area| {
                    // What may be written serves for reading too.
                    let perm = if area.written { WRITE } else { READ };
                    (area.addr, area.len, perm)
                })
            };
            let ((rx, rx_len), (tx, tx_len)) =
                (inner(device.rx.buffers()), inner(device.tx.buffers()));
            let mut places = vec![(RX, (rx, rx_len, WRITE)), (TX, (tx, tx_len, READ))];
            places.extend(parts(device.rx.layout).map(|part| (RX, part)));
            places.extend(parts(device.tx.layout).map(|part| (TX, part)));
            traffic::exchange(device, Plan::new(ctx.seed, 20, |_| 100))?;
            device.rx_fill()?;
            device.rx.flush()?;
            for (round, (index, (start, len, perm))) in (0..).zip(places) {
                // Both queues are at rest, with all there is mapped, before some of it goes.
                procfs::idle()?;
                let first = crate::driver::device::GUEST_BASE;
                iommu.map(first, usize::try_from(tx + tx_len as u64 - first)?)?;
                iommu.hold();
                iommu.unmap(start, len as u64)?;
                send_one(ctx, device, index, round)?;
                expect_miss(iommu, (start, len), perm)?;
                let moved = if index == RX {
                    device.rx.ring.poll()?.is_some()
                } else {
                    device.tx_reap()? > 0
                };
                check(!moved, || "the device went on without a mapping".into())?;
                iommu.release()?;
                take_one(ctx, device, index, round)
                    .with_context(|| format!("queue {index}, {len} bytes at {start:#x}"))?;
            }
            expect_no_errors(device)
        })?;
    }
    Ok(())
}

fn set_all_rights(iommu: &Iommu, (start, len): (u64, usize), rights: u8) -> Result<()> {
    for page in start / PAGE..=(start + len as u64 - 1) / PAGE {
        iommu.set_rights(page * PAGE, rights)?;
    }
    Ok(())
}

/// Buffers that may only be read are not written, and the other way around.
fn permissions(ctx: &Context) -> Result<()> {
    [0, feature::EVENT_IDX]
        .into_iter()
        .try_for_each(|events| permissions_with(ctx, events))
}

fn permissions_with(ctx: &Context, events: u64) -> Result<()> {
    Behind::start(ctx, single(events), VERSION_2)?.run(|device, iommu| {
        traffic::exchange(device, Plan::new(ctx.seed, 20, |_| 100))?;
        device.rx_fill()?;
        device.rx.flush()?;
        // The device knows what it may not do, or has to ask for a mapping first.
        for (round, (index, wrong, known)) in (0..).zip([
            (RX, READ, true),
            (TX, WRITE, true),
            (RX, READ, false),
            (TX, WRITE, false),
            (RX, 0, true),
            (TX, 0, true),
        ]) {
            let range = inner(device.queue(index).buffers());
            set_all_rights(iommu, range, wrong)?;
            if known {
                iommu.map(range.0, range.1)?;
            }
            let mut before = device.memory.content(range.0, range.1);
            send_one(ctx, device, index, round)?;
            if index == TX {
                before = device.memory.content(range.0, range.1);
            }
            // Told by a miss that asks for more, or by the error descriptor.
            let err = device.queue(index).err.as_fd().try_clone_to_owned()?;
            Deadline::patient().until("a sign that rights are missing", || {
                let told = Deadline::after(Duration::ZERO).readable(&[&err])?;
                Ok(told || !iommu.take_refused().is_empty())
            })?;
            procfs::idle()?;
            check(device.memory.content(range.0, range.1) == before, || {
                format!("queue {index}: buffers were written")
            })?;
            let nothing = device.peer.receive(&mut Vec::new())?.is_none();
            check(
                nothing && device.queue(index).ring.poll()?.is_none(),
                || format!("queue {index}: a frame went through"),
            )?;
            let _ = iommu.take_refused();
            set_all_rights(iommu, range, READ | WRITE)?;
            iommu.map(range.0, range.1)?;
            // C takes a denied buffer for a broken ring.
            wake_c(ctx, device.queue(index))?;
            take_one(ctx, device, index, round).with_context(|| format!("queue {index}"))?;
            device.rx_fill()?;
            device.rx.flush()?;
        }
        traffic::exchange(device, Plan::new(ctx.seed + 1, 50, |_| 100))
    })
}

/// A used ring that may only be read is not written.
fn ring_permissions(ctx: &Context) -> Result<()> {
    Behind::start(ctx, single(0), VERSION_1)?.run(|device, iommu| {
        traffic::exchange(device, Plan::new(ctx.seed, 20, |_| 100))?;
        let used = device.tx.layout.entries();
        let used = (used.addr, used.len);
        for round in 0..3 {
            procfs::idle()?;
            set_all_rights(iommu, used, READ)?;
            iommu.map(used.0, used.1)?;
            send_one(ctx, device, TX, round)?;
            let before = device.memory.content(used.0, used.1);
            procfs::idle()?;
            check(device.memory.content(used.0, used.1) == before, || {
                "the used ring was written".into()
            })?;
            let _ = iommu.take_refused();
            set_all_rights(iommu, used, READ | WRITE)?;
            iommu.map(used.0, used.1)?;
            // Of a ring that is denied C asks for no translation, so that none wakes it.
            wake_c(ctx, &device.tx)?;
            take_one(ctx, device, TX, round).with_context(|| format!("transmitted {round}"))?;
        }
        // Buffers for all frames that come: the last ones of the exchange may have taken some.
        device.rx_fill()?;
        device.rx.flush()?;
        let used = device.rx.layout.entries();
        let used = (used.addr, used.len);
        procfs::idle()?;
        set_all_rights(iommu, used, READ)?;
        iommu.map(used.0, used.1)?;
        send_one(ctx, device, RX, 0)?;
        procfs::idle()?;
        // Packets from outside do not run into the fault again and again.
        device.rx.err.take()?;
        for round in 1..50 {
            send_one(ctx, device, RX, round)?;
        }
        procfs::idle()?;
        let errors = device.rx.err.take()?;
        check(errors == 0, || format!("{errors} errors by packets"))?;
        let _ = iommu.take_refused();
        set_all_rights(iommu, used, READ | WRITE)?;
        iommu.map(used.0, used.1)?;
        wake_c(ctx, &device.rx)?;
        for round in 0..50 {
            take_one(ctx, device, RX, round).with_context(|| format!("received {round}"))?;
        }
        traffic::exchange(device, Plan::new(ctx.seed + 1, 50, |_| 100))
    })
}

/// A miss without an answer is not the end: a queue that is set up anew asks again.
fn asked_again(ctx: &Context) -> Result<()> {
    Behind::start(ctx, single(0), VERSION_2)?.run(|device, iommu| {
        let plan = Plan::new(ctx.seed, 10, |_| 100);
        traffic::exchange(device, plan)?;
        let (first, len) = inner(device.tx.buffers());
        let pages = || (first..first + len as u64).step_by(PAGE as usize);
        for page in pages() {
            iommu.set_rights(page, 0)?;
        }
        send_one(ctx, device, TX, 0)?;
        Deadline::patient().until("a miss that is refused", || {
            Ok(!iommu.take_refused().is_empty())
        })?;
        for page in pages() {
            iommu.set_rights(page, READ | WRITE)?;
        }
        device.reset_queue(TX, 0)?;
        traffic::exchange(device, plan)?;
        expect_no_errors(device)
    })
}
