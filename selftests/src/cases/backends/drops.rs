// SPDX-License-Identifier: GPL-2.0

//! Frames of the guest that the host's network drops: they are gone, and the next ones go out.

use crate::cases::common::stats::Stats;
use crate::cases::common::{Case, Context, case, check, lets_c_off};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::uapi::feature;
use crate::host::procfs;
use crate::host::wire::{Kind, Wire};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    case("drops.filter", 60, filter),
    case("drops.full_queue", 60, full_queue),
];

/// Posts a frame, which is not published yet.
fn post(device: &mut NetDevice, bytes: &[u8]) -> Result<()> {
    check(device.tx_post(NetHeader::default(), bytes)?, || {
        "no room".into()
    })
}

/// Waits for a frame at the peer.
fn expect(device: &mut NetDevice, sequence: u64, bytes: &[u8]) -> Result<()> {
    let mut got = Vec::new();
    Deadline::patient().until("a frame", || Ok(device.peer.receive(&mut got)?.is_some()))?;
    frame::expect("sent", sequence, bytes, &got)
}

fn all_back(device: &mut NetDevice) -> Result<()> {
    Deadline::patient().until("all chains to come back", || {
        device.tx_reap()?;
        Ok(device.tx.ring.pending() == 0)
    })
}

/// A filter drops frames of one type, and says so to whoever sends them: those behind them go out,
/// and the worker rests.
fn filter(ctx: &Context) -> Result<()> {
    for events in [0, feature::EVENT_IDX] {
        let wire = Wire::new(Kind::Packet, 0)?;
        let mut device =
            NetDevice::start_on(&ctx.device, &wire, Setup::new(feature::VERSION_1 | events))?;
        wire.drop_type(frame::ETHERTYPE + 1)?;
        let bad = frame::unseen(ctx.seed, 300);
        let mut good = Vec::new();
        for round in 0..10 {
            // Together, or each by itself.
            for sequence in [2 * round, 2 * round + 1] {
                frame::build(ctx.seed, sequence, 200, &mut good);
                post(&mut device, &good)?;
                if sequence % 2 == 0 {
                    post(&mut device, &bad)?;
                }
                if round % 2 == 0 {
                    device.tx.flush()?;
                }
            }
            device.tx.flush()?;
            frame::build(ctx.seed, 2 * round, 200, &mut good);
            expect(&mut device, 2 * round, &good)?;
            if lets_c_off(ctx)? {
                // C sends the dropped frame again and again, until nobody drops it.
                wire.drop_none()?;
            }
            frame::build(ctx.seed, 2 * round + 1, 200, &mut good);
            expect(&mut device, 2 * round + 1, &good)
                .with_context(|| format!("round {round}, features {events:#x}"))?;
            all_back(&mut device)?;
            procfs::idle()?;
            if lets_c_off(ctx)? {
                wire.drop_type(frame::ETHERTYPE + 1)?;
            }
        }
        let errors = device.tx.err.take()?;
        check(errors == 0, || {
            format!("{errors} errors for dropped frames")
        })?;
        // One in each round.
        Stats::of(ctx, &device)?.expect("tx_dropped", &[("refused", 10)])?;
    }
    Ok(())
}

/// The interface's queue is full for longer than any frame waits: what it does not take is dropped,
/// and the worker rests.
fn full_queue(ctx: &Context) -> Result<()> {
    let wire = Wire::new(Kind::Packet, 0)?;
    let mut device = NetDevice::start_on(&ctx.device, &wire, Setup::new(feature::VERSION_1))?;
    wire.shut()?;
    let bytes = frame::unseen(ctx.seed, 1000);
    for _ in 0..3 {
        for _ in 0..20 {
            post(&mut device, &bytes)?;
        }
        device.tx.flush()?;
        if lets_c_off(ctx)? {
            // C sends the first one that is dropped again and again, until it is not.
            wire.open()?;
        }
        all_back(&mut device)?;
        procfs::idle()?;
        if lets_c_off(ctx)? {
            wire.shut()?;
        }
    }
    wire.open()?;
    let mut good = Vec::new();
    for sequence in 0..20 {
        frame::build(ctx.seed, sequence, 200, &mut good);
        post(&mut device, &good)?;
        device.tx.flush()?;
        expect(&mut device, sequence, &good)?;
    }
    all_back(&mut device)
}
