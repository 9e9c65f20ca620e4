// SPDX-License-Identifier: GPL-2.0

//! Split virtqueues (virtio 1.3, section 2.7).
//!
//! Index arithmetic: `last_avail`, `avail` and `last_used` count modulo 2^16 and are masked to a
//! ring position only when an address is made. The driver owns the entries of the available ring
//! from `avail` on; the device owns those from `last_avail` up to `avail`, the first
//! `prefetch.len - prefetch.next` of which it has already read.
//!
//! What the ring knows of memory (`avail` and `seen`, the prefetch, `kicks`, `called`) it knows of the
//! memory at its addresses, as its features lay it out: calls that change either make it forget that.
//! `last_avail` and `last_used` stay, as with the in-tree vhost: they are the owner's to move.

use crate::addr::UserAddr;
use crate::chain::{Chain, Walk, Window};
use crate::desc::{
    offset_of_entry, Desc, RawDesc, RawUsed, AVAIL_ENTRY_SIZE, AVAIL_F_NO_INTERRUPT,
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_SIZE, OFFSET_ENTRIES, OFFSET_FLAGS, OFFSET_INDEX,
    USED_ENTRY_SIZE, USED_F_NO_NOTIFY,
};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::region::Hint;
use crate::segment::{Segments, Translate};

/// The largest ring, in descriptors (virtio 1.3, section 2.7).
pub const MAX_RING_SIZE: u16 = 32768;

/// How many chains the ring reads ahead, at most.
pub const PREFETCH: usize = 64;

/// Where the three parts of a ring lie in the owner's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingAddrs {
    /// The descriptor table.
    pub desc: UserAddr,
    /// The available ring (driver area).
    pub avail: UserAddr,
    /// The used ring (device area).
    pub used: UserAddr,
}

/// Chains read ahead of being asked for.
#[derive(Debug)]
struct Prefetch {
    heads: [u16; PREFETCH],
    descs: [RawDesc; PREFETCH],
    /// The next to hand out.
    next: usize,
    /// How many there are.
    len: usize,
}

/// What the driver has been asked for, as the flags in memory say or, with event indexes, the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kicks {
    /// To kick.
    On,
    /// Not to kick.
    Off,
    /// Not known: it was at another place, or in another way, or the last store failed.
    Unknown,
}

/// The device side of a split ring.
#[derive(Debug)]
pub struct SplitRing {
    /// A power of two, at most [`MAX_RING_SIZE`].
    size: u16,
    addrs: RingAddrs,
    event_idx: bool,
    notify_on_empty: bool,
    /// The next entry of the available ring to hand out.
    last_avail: u16,
    /// The driver's index as last read and found good.
    avail: u16,
    /// The driver's index as last read, good or not.
    seen: u16,
    /// The next entry of the used ring to fill.
    last_used: u16,
    /// `last_used` at the last decision whether to call; `None` when that is too long ago to count.
    called: Option<u16>,
    kicks: Kicks,
    prefetch: Prefetch,
    window: Window,
    hint: Hint,
}

impl Default for SplitRing {
    /// A ring of one descriptor, without addresses: as a device starts.
    // Inline, so that it is made where it stays: it is large for the kernel's stack.
    #[inline(always)]
    fn default() -> Self {
        Self {
            size: 1,
            addrs: RingAddrs::default(),
            event_idx: false,
            notify_on_empty: false,
            last_avail: 0,
            avail: 0,
            seen: 0,
            last_used: 0,
            called: None,
            kicks: Kicks::Unknown,
            prefetch: Prefetch {
                heads: [0; PREFETCH],
                descs: [[0; 2]; PREFETCH],
                next: 0,
                len: 0,
            },
            window: Window::default(),
            hint: Hint::default(),
        }
    }
}

/// Set-up, by the owner.
impl SplitRing {
    /// Back to the state of [`SplitRing::default`]. What was read ahead stays where it is, unused.
    pub fn reset(&mut self) {
        // All of them named, so that none is forgotten.
        let Self {
            size,
            addrs,
            event_idx,
            notify_on_empty,
            last_avail,
            avail,
            seen,
            last_used,
            called,
            kicks,
            prefetch: _,
            window: _,
            hint,
        } = self;
        *size = 1;
        *addrs = RingAddrs::default();
        *event_idx = false;
        *notify_on_empty = false;
        *last_avail = 0;
        *avail = 0;
        *seen = 0;
        *last_used = 0;
        *called = None;
        *kicks = Kicks::Unknown;
        *hint = Hint::default();
        self.forget_prefetch();
    }

    /// Forgets where the last buffer was found: buffers are looked up in another table from now on.
    pub fn forget_hint(&mut self) {
        self.hint = Hint::default();
    }

    /// Sets the number of descriptors; `false`, and no change, unless it is a power of two from 1
    /// to [`MAX_RING_SIZE`].
    #[must_use]
    pub fn set_size(&mut self, size: u32) -> bool {
        match u16::try_from(size) {
            Ok(size) if size.is_power_of_two() => {
                self.size = size;
                self.forget_memory();
                true
            }
            _ => false,
        }
    }

    /// Number of descriptors.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Moves the ring; nothing at the old place is accessed any more, and nothing known of it counts
    /// at the new one.
    pub fn set_addrs(&mut self, addrs: RingAddrs) {
        self.addrs = addrs;
        self.forget_memory();
    }

    /// Forgets all that is known of memory: it is read again, and the driver is told again whether to
    /// kick.
    ///
    /// For a ring whose addresses stay, while what they mean changes: their translation, or the order
    /// of the bytes there. The other half of that is [`SplitRing::forget_hint`].
    pub fn forget_memory(&mut self) {
        self.forget_prefetch();
        self.forget_index();
        self.kicks = Kicks::Unknown;
        self.called = None;
    }

    /// Forgets the driver's index: all that is before it is looked for again.
    #[inline]
    fn forget_index(&mut self) {
        self.avail = self.last_avail;
        // With the index in memory there, nothing is available.
        self.seen = self.last_avail;
    }

    /// Where the ring lies.
    #[must_use]
    pub const fn addrs(&self) -> RingAddrs {
        self.addrs
    }

    /// Lengths of the descriptor table, the available ring and the used ring, in bytes.
    #[must_use]
    pub fn extents(&self) -> [u64; 3] {
        let size = u64::from(self.size);
        let event = if self.event_idx { 2 } else { 0 };
        // No wrap: at most 2^15 entries of at most 16 bytes.
        let ring = |entry: u64| {
            size.wrapping_mul(entry)
                .wrapping_add(OFFSET_ENTRIES)
                .wrapping_add(event)
        };
        [
            size.wrapping_mul(DESC_SIZE),
            ring(AVAIL_ENTRY_SIZE),
            ring(USED_ENTRY_SIZE),
        ]
    }

    /// Takes over what driver and owner negotiated: `VIRTIO_F_EVENT_IDX` and
    /// `VIRTIO_F_NOTIFY_ON_EMPTY`.
    pub fn set_features(&mut self, event_idx: bool, notify_on_empty: bool) {
        if event_idx != self.event_idx {
            // The driver has been told in a way that no longer counts, and what it wished so far was
            // about other calls.
            self.kicks = Kicks::Unknown;
            self.called = None;
        }
        self.event_idx = event_idx;
        self.notify_on_empty = notify_on_empty;
    }

    /// Sets the entry of the available ring to continue with.
    pub fn set_base(&mut self, base: u16) {
        self.last_avail = base;
        self.forget_index();
        self.forget_prefetch();
    }

    /// The entry of the available ring to continue with: chains handed out and not rewound are
    /// before it.
    #[must_use]
    pub const fn base(&self) -> u16 {
        self.last_avail
    }

    /// Starts the ring: takes over the used index found in memory and tells the driver whether to
    /// kick, as it was when the ring stopped; if that is not known, to kick.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`] when the used ring cannot be accessed; the ring then goes on where it was.
    pub fn start<M: Memory>(&mut self, memory: &M) -> Result<(), Fault> {
        let (kicks, flags) = match self.kicks {
            Kicks::Off => (Kicks::Off, USED_F_NO_NOTIFY),
            Kicks::On | Kicks::Unknown => (Kicks::On, 0),
        };
        self.set_kicks(memory, kicks, OFFSET_FLAGS, flags)?;
        // For `kicks_are_on`: the driver knows before any look for work. Pairs with its full barrier
        // between moving the index and reading the wish.
        memory.full_barrier();
        self.last_used = u16::from_le(memory.load(self.used_at(OFFSET_INDEX))?);
        self.called = None;
        // Others may have served the ring meanwhile.
        self.forget_index();
        self.forget_prefetch();
        Ok(())
    }
}

/// Get work.
impl SplitRing {
    /// Takes the next available chain; its segments are appended to `out`.
    ///
    /// `None` when the driver has made nothing more available.
    ///
    /// # Errors
    ///
    /// Any [`Fault`]; the chain stays available and `out` is as before.
    #[inline(always)]
    pub fn next_chain<M: Memory, T: Translate>(
        &mut self,
        memory: &M,
        table: &T,
        out: &mut Segments<'_>,
    ) -> Result<Option<Chain>, Fault> {
        if self.prefetch.next >= self.prefetch.len && !self.read_ahead(memory)? {
            return Ok(None);
        }
        let next = self.prefetch.next;
        let (Some(&head), Some(&raw)) =
            (self.prefetch.heads.get(next), self.prefetch.descs.get(next))
        else {
            return Ok(None);
        };
        let first = out.len();
        let desc = Desc::from_raw(raw);
        let chain = if desc.has(DESC_F_NEXT | DESC_F_INDIRECT) {
            self.walk(memory, table, head, desc, out)
        } else {
            let mut chain = Chain::new(head);
            let appended = chain.append(table, &mut self.hint, &desc, out);
            appended.map(|()| chain)
        };
        match chain {
            Ok(chain) => {
                self.prefetch.next = next.wrapping_add(1);
                self.last_avail = self.last_avail.wrapping_add(1);
                Ok(Some(chain))
            }
            Err(fault) => {
                out.truncate(first);
                // Read it again when asked again: the driver may have mended it.
                self.forget_prefetch();
                Err(fault)
            }
        }
    }

    /// Gives back the last `chains` chains taken: they are available again.
    pub fn rewind(&mut self, chains: u16) {
        self.last_avail = self.last_avail.wrapping_sub(chains);
        self.prefetch.next = match self.prefetch.next.checked_sub(usize::from(chains)) {
            Some(next) => next,
            None => {
                self.prefetch.len = 0;
                0
            }
        };
    }

    /// Forgets what was read ahead: the next chain's entry and descriptors are read from memory again.
    ///
    /// For a chain that is given back because it is of no use to the device, which the ring cannot
    /// know: with [`SplitRing::rewind`] alone it comes again as it was, although the driver may have
    /// mended it. After a [`Fault`] of the ring's own there is no need.
    #[inline]
    pub fn forget_prefetch(&mut self) {
        self.prefetch.next = 0;
        self.prefetch.len = 0;
    }

    /// Whether a chain can be taken, as far as the indexes tell.
    ///
    /// # Errors
    ///
    /// As [`SplitRing::next_chain`], of the index alone.
    #[inline]
    pub fn has_work<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        if self.avail == self.last_avail {
            self.read_avail_index(memory)?;
        }
        Ok(self.avail != self.last_avail)
    }

    /// Reads the driver's index; whether it moved since it was last read.
    #[inline]
    fn read_avail_index<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        let avail = self.load_avail_index(memory)?;
        self.seen = avail;
        if !self.is_in_bounds(avail) {
            return Err(Fault::AvailIndex {
                last: self.last_avail,
                avail,
            });
        }
        let moved = avail != self.avail;
        self.avail = avail;
        // No driver may move its index back. One that does takes back what was read ahead: else the
        // device would run past the index, and 2^16 entries on before it looked at it again.
        let ahead = usize::from(avail.wrapping_sub(self.last_avail));
        let end = self.prefetch.next.wrapping_add(ahead);
        self.prefetch.len = self.prefetch.len.min(end);
        Ok(moved)
    }

    /// Loads the driver's index.
    #[inline(always)]
    fn load_avail_index<M: Memory>(&self, memory: &M) -> Result<u16, Fault> {
        // Pairs with the driver's write barrier between filling the ring and moving the index.
        Ok(u16::from_le(
            memory.load_acquire(self.avail_at(OFFSET_INDEX))?,
        ))
    }

    /// Whether the driver's index may be `avail`: it makes no more available than the ring has entries.
    #[inline(always)]
    fn is_in_bounds(&self, avail: u16) -> bool {
        avail.wrapping_sub(self.last_avail) <= self.size
    }

    /// Fills the empty prefetch; `false` if nothing is available.
    #[inline]
    fn read_ahead<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        if !self.has_work(memory)? {
            return Ok(false);
        }
        let position = self.last_avail & self.mask();
        // Up to the end of the ring: one run of entries. No wrap: position < size.
        let run = self.size.wrapping_sub(position);
        let want = usize::from(self.avail.wrapping_sub(self.last_avail).min(run)).min(PREFETCH);
        self.forget_prefetch();
        // One page of many may be out of reach: then what lies before it still counts.
        if self.read_entries(memory, position, want).is_err() {
            self.read_entries(memory, position, 1)?;
        }
        Ok(true)
    }

    /// Reads `want` entries from ring position `position` and their first descriptors.
    #[inline]
    fn read_entries<M: Memory>(
        &mut self,
        memory: &M,
        position: u16,
        want: usize,
    ) -> Result<(), Fault> {
        let size = self.size;
        let entry = self.avail_at(offset_of_entry(position, AVAIL_ENTRY_SIZE));
        let heads = self.prefetch.heads.get_mut(..want).unwrap_or_default();
        let descs = self.prefetch.descs.get_mut(..want).unwrap_or_default();
        // Up to the first bad index, so that the chains before it are served.
        let good = memory.load_entries(entry, self.addrs.desc, size, heads, descs)?;
        if let (0, Some(&head)) = (good, heads.first()) {
            return Err(Fault::DescIndex {
                index: u32::from(head),
                size: u32::from(size),
            });
        }
        self.prefetch.next = 0;
        self.prefetch.len = good;
        Ok(())
    }

    /// Translates a chain from its first descriptor on.
    #[inline(never)]
    fn walk<M: Memory, T: Translate>(
        &mut self,
        memory: &M,
        table: &T,
        head: u16,
        first: Desc,
        out: &mut Segments<'_>,
    ) -> Result<Chain, Fault> {
        let mut walk = Walk::new(memory, table, &mut self.hint, &mut self.window, out, head);
        let mut desc = first;
        // More steps than the table has descriptors are a loop.
        for before in 0..self.size {
            walk.append(&desc)?;
            if !desc.has(DESC_F_NEXT) {
                // No wrap: before < size.
                return Ok(walk.end(before.wrapping_add(1)));
            }
            if desc.next >= self.size {
                return Err(Fault::DescIndex {
                    index: u32::from(desc.next),
                    size: u32::from(self.size),
                });
            }
            let mut raw = [RawDesc::default()];
            memory.gather_descs(self.addrs.desc, &[desc.next], &mut raw)?;
            let [raw] = raw;
            desc = Desc::from_raw(raw);
        }
        Err(Fault::ChainTooLong)
    }
}

/// Complete work.
impl SplitRing {
    /// Gives chains back to the driver: `used` has head and bytes written of each, as
    /// [`used_entry`](SplitRing::used_entry) makes them.
    ///
    /// The driver sees all of them at once, when the index moves.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`]; the driver then sees none of them, and the same call may be made again when
    /// the memory is back.
    #[inline]
    pub fn complete<M: Memory>(&mut self, memory: &M, used: &[RawUsed]) -> Result<(), Fault> {
        // CAST: batches are far smaller than 2^16.
        let new = self.last_used.wrapping_add(used.len() as u16);
        let position = self.last_used & self.mask();
        // No wrap: position < size.
        if used.len() <= usize::from(self.size.wrapping_sub(position)) {
            let entry = self.used_at(offset_of_entry(position, USED_ENTRY_SIZE));
            let index = self.used_at(OFFSET_INDEX);
            memory.publish_used(entry, used, index, new.to_le())?;
            self.count_used(new);
            return Ok(());
        }
        self.store_used(memory, self.last_used, used)?;
        self.publish_used(memory, new)
    }

    /// As [`SplitRing::complete`], in groups of chains that were made available one after the other:
    /// `used` has the last chain of each group, `chains` the number of chains in it.
    ///
    /// For `VIRTIO_F_IN_ORDER` (virtio 1.3, section 2.7.8): the entry of a group is where that of
    /// its first chain would be, and the others are skipped.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`]; the driver then sees none of them, and the same call may be made again when
    /// the memory is back.
    pub fn complete_in_order<M: Memory>(
        &mut self,
        memory: &M,
        used: &[RawUsed],
        chains: &[u16],
    ) -> Result<(), Fault> {
        let mut at = self.last_used;
        let mut used = used;
        let mut chains = chains;
        while !used.is_empty() {
            // Entries follow each other up to the first group of more than one chain.
            let ones = chains.iter().take_while(|count| **count == 1).count();
            let run = ones.wrapping_add(1).min(used.len());
            let (now, later) = used.split_at_checked(run).unwrap_or((used, &[]));
            let (counts, later_counts) = chains.split_at_checked(run).unwrap_or((chains, &[]));
            self.store_used(memory, at, now)?;
            at = counts.iter().fold(at, |at, count| at.wrapping_add(*count));
            used = later;
            chains = later_counts;
        }
        self.publish_used(memory, at)
    }

    /// Stores elements of the used ring from index `at` on.
    #[inline]
    fn store_used<M: Memory>(&self, memory: &M, at: u16, used: &[RawUsed]) -> Result<(), Fault> {
        let mut at = at;
        let mut rest = used;
        // A driver that does not wait for its buffers may be owed more than the ring has entries.
        while !rest.is_empty() {
            let position = at & self.mask();
            // No wrap: position < size.
            let run = usize::from(self.size.wrapping_sub(position)).min(rest.len());
            let (now, later) = rest.split_at_checked(run).unwrap_or((rest, &[]));
            let entry = self.used_at(offset_of_entry(position, USED_ENTRY_SIZE));
            memory.store_used(entry, now)?;
            // CAST: no larger than the ring.
            at = at.wrapping_add(run as u16);
            rest = later;
        }
        Ok(())
    }

    /// Moves the used index to `new`, behind the elements that have been stored.
    #[inline]
    fn publish_used<M: Memory>(&mut self, memory: &M, new: u16) -> Result<(), Fault> {
        // Pairs with the driver's read barrier between seeing the index and reading the entries.
        memory.store_release(self.used_at(OFFSET_INDEX), new.to_le())?;
        self.count_used(new);
        Ok(())
    }

    /// Takes note of the used index that the driver has been told.
    #[inline]
    fn count_used(&mut self, new: u16) {
        let old = self.last_used;
        self.last_used = new;
        // Without a call for 2^16 completions the old mark would come round again.
        if let Some(called) = self.called {
            if new.wrapping_sub(called) < new.wrapping_sub(old) {
                self.called = None;
            }
        }
    }

    /// The used entry of a chain into which `len` bytes were written.
    #[inline]
    #[must_use]
    pub fn used_entry(head: u16, len: u32) -> RawUsed {
        [u32::from(head).to_le(), len.to_le()]
    }

    /// Decides, after [`SplitRing::complete`], whether the driver wants a call.
    ///
    /// When it cannot be found out the answer is to call: a call too many is harmless, a missing
    /// one hangs the guest.
    #[must_use]
    #[inline]
    pub fn needs_call<M: Memory>(&mut self, memory: &M) -> bool {
        // The used index has to be visible before the driver's wish is read, and before a call. Pairs
        // with the driver's full barrier between stating its wish and looking for used buffers.
        if self.notify_on_empty && self.avail == self.last_avail {
            memory.full_barrier();
            return true;
        }
        if !self.event_idx {
            return match memory.load_after_barrier(self.avail_at(OFFSET_FLAGS)) {
                Ok(flags) => u16::from_le(flags) & AVAIL_F_NO_INTERRUPT == 0,
                Err(_) => true,
            };
        }
        let new = self.last_used;
        let Some(old) = self.called.replace(new) else {
            memory.full_barrier();
            return true;
        };
        let event = self.avail_at(offset_of_entry(self.size, AVAIL_ENTRY_SIZE));
        match memory.load_after_barrier(event) {
            Ok(event) => passed_event(u16::from_le(event), new, old),
            Err(_) => true,
        }
    }
}

/// Kicks on and off.
impl SplitRing {
    /// Whether the driver kicks for all that it makes available: since before the device last looked
    /// for work, so that who has been kicked for nothing more may wait.
    ///
    /// Never with event indexes, which name the one next kick, nor when it is not known.
    #[inline]
    #[must_use]
    pub fn kicks_are_on(&self) -> bool {
        self.kicks == Kicks::On && !self.event_idx
    }

    /// Whether all chains that the last look for work found have been taken.
    #[inline]
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.avail == self.last_avail
    }

    /// Asks the driver not to kick: the device is looking anyway.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`]; the driver may then kick or not.
    #[inline]
    pub fn disable_kick<M: Memory>(&mut self, memory: &M) -> Result<(), Fault> {
        if self.kicks == Kicks::Off {
            return Ok(());
        }
        if self.event_idx {
            // Not moving the event is enough.
            self.kicks = Kicks::Off;
            return Ok(());
        }
        self.set_kicks(memory, Kicks::Off, OFFSET_FLAGS, USED_F_NO_NOTIFY)
    }

    /// Asks the driver to kick when it makes more available than the device has seen.
    ///
    /// `true`: more came meanwhile, for which no kick may come; look again.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`], [`Fault::AvailIndex`].
    #[must_use = "what came meanwhile is lost unless looked for again"]
    #[inline]
    pub fn enable_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        self.ask_for_kick(memory, self.avail)?;
        self.read_avail_index(memory)
    }

    /// Asks the driver to kick when it publishes something, wherever its index stands: for a queue that
    /// stops for a [`Fault`] of the guest, be it of the index itself.
    ///
    /// `true`: the index is not where the device has last read it, and no kick may come for that; look
    /// again. Neither the index that the ring goes by nor the chains read ahead change: what the queue
    /// has stopped at is still the next.
    ///
    /// # No publication is missed
    ///
    /// Let `seen` be the index as the device has last read it, in a look for work or here. To publish,
    /// a driver stores another index and then, behind a full barrier, loads the flags or the event.
    /// Here flags or event are stored, and then, behind a full barrier, the index is loaded. So of the
    /// two loads at least one sees the other side's store:
    ///
    /// - The load here sees another index than `seen`. The answer is `true`, and that index is `seen`
    ///   for the next call of this function.
    /// - Or it sees `seen` still, and the driver's load, for whatever it publishes from there, sees
    ///   what was stored here. If that is flags, they are zero, and it kicks.
    /// - If it is an event and `seen` is an index that the ring takes, the event is `seen`. Any step
    ///   that leads on from it passes it, back or out of bounds as well: `new - seen - 1` is less than
    ///   `new - seen` modulo 2^16 for all `new` but `seen`.
    /// - If `seen` is out of bounds, the event is `avail`, the last index that was not. A driver comes
    ///   back in bounds by a step from `seen`, or from `avail` if `seen` was never an index of its own.
    ///   Either passes `avail` on its way to any index that makes more available than `avail` did,
    ///   since no such index lies between `seen` and `avail`, modulo 2^16. Steps that stay out of
    ///   bounds may go without a kick: there is nothing to look for.
    ///
    /// A driver whose index is back at `seen` before the load has published nothing.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`] only.
    #[must_use = "what came meanwhile is lost unless looked for again"]
    #[cold]
    pub fn await_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        let event = if self.is_in_bounds(self.seen) {
            self.seen
        } else {
            self.avail
        };
        self.ask_for_kick(memory, event)?;
        let index = self.load_avail_index(memory)?;
        let seen = core::mem::replace(&mut self.seen, index);
        Ok(index != seen)
    }

    /// Asks the driver to kick, with event indexes when it moves its index on from `event`; the index
    /// has to be read after it.
    #[inline(always)]
    fn ask_for_kick<M: Memory>(&mut self, memory: &M, event: u16) -> Result<(), Fault> {
        let (offset, value) = if self.event_idx {
            (offset_of_entry(self.size, USED_ENTRY_SIZE), event)
        } else {
            (OFFSET_FLAGS, 0)
        };
        self.set_kicks(memory, Kicks::On, offset, value)?;
        // The wish has to be visible before the index is read. Pairs with the driver's full barrier
        // between moving the index and reading the wish.
        memory.full_barrier();
        Ok(())
    }

    /// Tells the driver whether to kick, by a value in the used ring.
    #[inline(always)]
    fn set_kicks<M: Memory>(
        &mut self,
        memory: &M,
        kicks: Kicks,
        offset: u64,
        value: u16,
    ) -> Result<(), Fault> {
        // A store that fails may have been done, or not.
        self.kicks = Kicks::Unknown;
        memory.store(self.used_at(offset), value.to_le())?;
        self.kicks = kicks;
        Ok(())
    }
}

impl SplitRing {
    #[inline(always)]
    fn mask(&self) -> u16 {
        // No wrap: the size is a power of two.
        self.size.wrapping_sub(1)
    }

    #[inline(always)]
    fn avail_at(&self, offset: u64) -> UserAddr {
        self.addrs.avail.wrapping_add(offset)
    }

    #[inline(always)]
    fn used_at(&self, offset: u64) -> UserAddr {
        self.addrs.used.wrapping_add(offset)
    }
}

/// Whether moving an index from `old` to `new` passed `event` (virtio 1.3, section 2.7.10).
#[inline(always)]
fn passed_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
