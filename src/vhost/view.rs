// SPDX-License-Identifier: GPL-2.0

//! What an operator sees of a device in debugfs, and its way to wake a queue.
//!
//! Each device with an owner has a directory, called after the owner's process and the device's
//! number. Reading waits for nobody: a mutex that is taken just now is not waited for, and guest
//! memory is read only where it is resident.

use kernel::mm::Mm;
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::seq_print;
use kernel::str::CString;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

use super::class::Class;
use super::device::{Device, Queue};
use super::features::{self, Features, WORDS};
use super::queues::Target;
use super::virtqueue::look::{Looked, WaitsFor};
use super::worker::Waker;
use crate::kapi::{Dir, PokeFile, ShowFile, Top};

/// Number of feature bits.
// CAST: two words.
const FEATURE_BITS: u32 = u64::BITS.wrapping_mul(WORDS as u32);

/// A device and its owner's memory.
///
/// It refers to the device that holds the directory; [`Device::stop`] breaks this reference cycle.
struct View<C: Class> {
    device: Arc<Device<C>>,
    mm: ARef<Mm>,
}

/// One queue of a device.
struct QueueView<C: Class> {
    view: Arc<View<C>>,
    index: usize,
}

/// Makes the directories of a device whose owner, with the memory `mm`, has just been set.
///
/// The device works without them, so that an error is none of the owner's: there are then fewer of
/// them.
pub(crate) fn dirs<C: Class>(device: &Arc<Device<C>>, mm: &ARef<Mm>) -> KVec<Dir> {
    let mut dirs = KVec::new();
    if let Some(top) = Top::dir() {
        let _ = fill(&mut dirs, &top, device, mm);
    }
    dirs
}

/// Adds the directories to `dirs`, until an error.
fn fill<C: Class>(
    dirs: &mut KVec<Dir>,
    top: &Arc<Dir>,
    device: &Arc<Device<C>>,
    mm: &ARef<Mm>,
) -> Result {
    let view = Arc::new(
        View {
            device: device.clone(),
            mm: mm.clone(),
        },
        GFP_KERNEL,
    )?;
    let owner = device.owner_pid();
    let name = CString::try_from_fmt(fmt!("{}-{}", owner, device.number))?;
    let mut dir = Dir::new(&name, Some(top))?;
    dir.show(c"state", view.clone())?;
    let dir = Arc::new(dir, GFP_KERNEL)?;
    for queue in device.queues() {
        let name = CString::try_from_fmt(fmt!("{}", C::name(queue.index)))?;
        let view = view.clone();
        let index = queue.index;
        let queue = Arc::new(QueueView { view, index }, GFP_KERNEL)?;
        let mut dir = Dir::new(&name, Some(&dir))?;
        dir.show(c"state", queue.clone())?;
        dir.poke(c"wake", queue)?;
        dirs.push(dir, GFP_KERNEL)?;
    }
    Ok(())
}

impl<C: Class> ShowFile for View<C> {
    fn show(&self, to: &SeqFile) {
        let device = &self.device;
        seq_print!(to, "owner:\t{}\n", device.owner_pid());
        let mut queues = device.queues().iter();
        // Both have the same features. A worker runs one of them at a time.
        let features = queues.find_map(|queue| queue.vq.try_lock().map(|vq| vq.features));
        if let Some(features) = features {
            show_features::<C>(&features, to);
        }
        if let Some(Some(owner)) = device.owner.try_lock().as_deref() {
            seq_print!(to, "workers:\t");
            for (place, tid) in owner.workers.tids().enumerate() {
                let blank = if place == 0 { "" } else { " " };
                seq_print!(to, "{}{}", blank, tid);
            }
            seq_print!(to, "\n");
        }
    }
}

/// Writes the names of features, and their bits.
fn show_features<C: Class>(features: &Features, to: &SeqFile) {
    seq_print!(to, "features:\t");
    let mut blank = "";
    for bit in (0..FEATURE_BITS).filter(|bit| features.has(*bit)) {
        let mut names = Iterator::chain(features::NAMES.iter(), C::FEATURE_NAMES);
        match names.find(|(named, _)| *named == bit) {
            Some((_, name)) => seq_print!(to, "{}{}", blank, name),
            None => seq_print!(to, "{}bit_{}", blank, bit),
        }
        blank = " ";
    }
    match features.words() {
        [low, 0] => seq_print!(to, "\nfeatures_hex:\t{:#x}\n", low),
        [low, high] => seq_print!(to, "\nfeatures_hex:\t{:#x}{:016x}\n", high, low),
    }
}

impl<C: Class> QueueView<C> {
    fn queue(&self) -> Option<&Queue<C>> {
        self.view.device.queue(self.index)
    }
}

impl<C: Class> ShowFile for QueueView<C> {
    fn show(&self, to: &SeqFile) {
        let Some(queue) = self.queue() else {
            return;
        };
        // Dropped after the mutex: if the owner has ended meanwhile, that frees its memory.
        let mm = self.view.mm.mmget_not_zero();
        let looked = self.view.device.look(queue, mm.as_deref());
        seq_print!(to, "running:\t{}\n", yes(looked.is_none()));
        if let Some(looked) = &looked {
            seq_print!(to, "started:\t{}\n", yes(looked.started));
            seq_print!(to, "stopped:\t{}\n", yes(looked.stopped));
        }
        seq_print!(to, "fault:\t{}\n", queue.stats.last_fault());
        if let Some(looked) = &looked {
            show_ring(looked, to);
            show_target::<C>(looked, self.index, to);
        }
        let tid = queue.waker.lock().as_ref().and_then(Waker::tid);
        if let Some(tid) = tid {
            seq_print!(to, "worker:\t{}\n", tid);
        }
    }
}

/// Writes what the ring is and how far both sides have come.
fn show_ring(looked: &Looked, to: &SeqFile) {
    let format = if looked.is_packed { "packed" } else { "split" };
    seq_print!(to, "format:\t{}\nsize:\t{}\n", format, looked.size);
    if let Some(addrs) = looked.addrs {
        seq_print!(to, "descriptors:\t{:#x}\n", addrs.desc.0);
        seq_print!(to, "driver_area:\t{:#x}\n", addrs.avail.0);
        seq_print!(to, "device_area:\t{:#x}\n", addrs.used.0);
    }
    seq_print!(to, "iotlb:\t{}\n", yes(looked.iotlb));
    seq_print!(to, "log:\t{}\n", yes(looked.log));
    let progress = &looked.progress;
    seq_print!(to, "taken:\t{}\nseen:\t{}\n", progress.taken, progress.seen);
    if let Some(index) = looked.offer.and_then(|offer| offer.index) {
        seq_print!(to, "driver:\t{}\n", index);
    }
    seq_print!(to, "used:\t{}\n", progress.used);
    if let Some(offer) = looked.offer {
        seq_print!(to, "available:\t{}\n", yes(offer.available));
    }
    if let Some(kicks) = progress.wants_kicks {
        seq_print!(to, "kicks:\t{}\n", wanted(kicks));
    }
    if let Some(calls) = looked.wants_calls {
        seq_print!(to, "calls:\t{}\n", wanted(calls));
    }
}

/// Writes what queue `index` waits for, and its backend.
fn show_target<C: Class>(looked: &Looked, index: usize, to: &SeqFile) {
    let waits_for = match looked.waits_for {
        WaitsFor::Nothing => "nothing",
        WaitsFor::Kick => "kick",
        WaitsFor::Backend => C::Target::event_name(index),
        WaitsFor::Translation => "translation",
        WaitsFor::Retry => "retry",
    };
    seq_print!(to, "waits_for:\t{}\n", waits_for);
    seq_print!(to, "backend:\t{}\n", looked.backend.unwrap_or("none"));
    if let Some(name) = &looked.interface {
        seq_print!(to, "interface:\t{}\n", name);
    }
}

impl<C: Class> PokeFile for QueueView<C> {
    /// Lets the queue look for work, as a kick does.
    fn poke(&self) {
        if let Some(queue) = self.queue() {
            queue.wake();
        }
    }
}

/// A truth, for the operator.
fn yes(is_so: bool) -> &'static str {
    if is_so {
        "yes"
    } else {
        "no"
    }
}

/// A wish, for the operator.
fn wanted(is_wanted: bool) -> &'static str {
    if is_wanted {
        "wanted"
    } else {
        "unwanted"
    }
}
