// SPDX-License-Identifier: GPL-2.0

//! All `unsafe` code: calls of `glue.c`, calls from the kernel's code, and access to its memory.
//!
//! A queue, its memory and the function that [`pause_with`] sets belong to one thread.

#![expect(unsafe_code, reason = "the other side is C")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{self, NonNull};
use std::rc::Rc;

use vring::{RingAddrs, UserAddr};

/// Alignment of blocks that are as long as a page, in bytes: the driver takes them for pages.
const PAGE: usize = 4096;

/// Alignment of other blocks, in bytes: that of `malloc()`.
const ALIGN: usize = 16;

/// One buffer of a chain: an address that the driver passes on to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Buf {
    /// Guest address, which nothing accesses.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// 1 if the device writes it, 0 if the device reads it.
    write: u32,
}

impl Buf {
    /// A buffer that the device reads.
    #[must_use]
    pub const fn readable(addr: u64, len: u32) -> Self {
        Self {
            addr,
            len,
            write: 0,
        }
    }

    /// A buffer that the device writes.
    #[must_use]
    pub const fn writable(addr: u64, len: u32) -> Self {
        Self {
            addr,
            len,
            write: 1,
        }
    }

    /// Whether the device writes it.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.write == 1
    }
}

/// Negotiated features of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `VIRTIO_F_RING_PACKED`.
    pub packed: bool,
    /// `VIRTIO_F_IN_ORDER`.
    pub in_order: bool,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
}

impl Features {
    /// The feature bits, with `VIRTIO_F_VERSION_1`.
    fn bits(self) -> u64 {
        let bit = |is_set: bool, bit: u32| u64::from(is_set) << bit;
        bit(self.indirect, 28)
            | bit(self.event_idx, 29)
            | bit(true, 32)
            | bit(self.packed, 34)
            | bit(self.in_order, 35)
    }
}

/// `struct linux_driver_queue` of `glue.c`.
#[repr(C)]
struct Raw {
    _opaque: [u8; 0],
}

// As defined in `glue.c`.
unsafe extern "C" {
    fn linux_driver_new(size: u32, features: u64) -> *mut Raw;
    fn linux_driver_del(queue: *mut Raw);
    fn linux_driver_addrs(queue: *const Raw, addrs: *mut [u64; 3]);
    fn linux_driver_num_free(queue: *const Raw) -> u32;
    fn linux_driver_is_broken(queue: *const Raw) -> bool;
    fn linux_driver_add(
        queue: *mut Raw,
        bufs: *const Buf,
        readable: u32,
        writable: u32,
        token: usize,
    ) -> i32;
    fn linux_driver_kick_prepare(queue: *mut Raw) -> bool;
    fn linux_driver_get_buf(queue: *mut Raw, len: *mut u32) -> usize;
    fn linux_driver_disable_cb(queue: *mut Raw);
    fn linux_driver_enable_cb(queue: *mut Raw) -> bool;
    fn linux_driver_enable_cb_delayed(queue: *mut Raw) -> bool;
    fn linux_driver_interrupt(queue: *mut Raw) -> bool;
}

/// A virtqueue of the kernel's, with its ring.
///
/// # Invariants
///
/// `raw` is what `linux_driver_new()` has returned, and only this value has it. C code runs on it only
/// during calls of this value's functions, which take `&mut self` wherever C changes something.
pub struct Queue {
    raw: NonNull<Raw>,
}

impl Queue {
    /// Creates a queue of `size` descriptors; `None` if the kernel has none of this size.
    #[must_use]
    pub fn new(size: u16, features: Features) -> Option<Self> {
        // SAFETY: the function may be called at any time with any values.
        let raw = unsafe { linux_driver_new(u32::from(size), features.bits()) };
        // INVARIANT: new, and not stored anywhere else.
        let queue = Self {
            raw: NonNull::new(raw)?,
        };
        let RingAddrs { desc, avail, used } = queue.addrs();
        BLOCKS.with_borrow_mut(|blocks| {
            for part in [desc, avail, used] {
                let found = usize::try_from(part.0).ok().and_then(|at| {
                    let (_, block) = blocks.range_mut(..=at).next_back()?;
                    Some(block)
                });
                found.expect("the ring is allocated").is_ring = true;
            }
        });
        Some(queue)
    }

    /// Calls C on the queue; goes on with a panic that a function of [`pause_with`] had meanwhile.
    fn call<T>(&mut self, call: impl FnOnce(*mut Raw) -> T) -> T {
        let result = call(self.raw.as_ptr());
        match PANIC.with_borrow_mut(Option::take) {
            Some(panic) => resume_unwind(panic),
            None => result,
        }
    }

    /// Where the ring lies.
    #[must_use]
    pub fn addrs(&self) -> RingAddrs {
        let mut addrs = [0; 3];
        // SAFETY: by the invariant the queue is alive, and C does not use it now; there is room for
        // three addresses.
        unsafe { linux_driver_addrs(self.raw.as_ptr(), &raw mut addrs) };
        let [desc, avail, used] = addrs.map(UserAddr);
        RingAddrs { desc, avail, used }
    }

    /// Number of free descriptors.
    #[must_use]
    pub fn num_free(&self) -> u32 {
        // SAFETY: by the invariant the queue is alive, and C does not use it now.
        unsafe { linux_driver_num_free(self.raw.as_ptr()) }
    }

    /// Whether the device has broken a rule.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        // SAFETY: by the invariant the queue is alive, and C does not use it now.
        unsafe { linux_driver_is_broken(self.raw.as_ptr()) }
    }

    /// `virtqueue_add_sgs()`: makes a chain of `bufs` available, readable ones first.
    ///
    /// # Panics
    ///
    /// If the kernel refuses the chain, or `token` is 0, which means no chain.
    pub fn add(&mut self, bufs: &[Buf], token: usize) {
        assert_ne!(token, 0);
        let writable = bufs.iter().filter(|buf| buf.is_writable()).count() as u32;
        let readable = bufs.len() as u32 - writable;
        // SAFETY: by the invariant the queue is alive, and C does not use it now. There are as many
        // buffers as both numbers together say, and C keeps no pointer to them.
        let result = self
            .call(|raw| unsafe { linux_driver_add(raw, bufs.as_ptr(), readable, writable, token) });
        assert_eq!(result, 0, "virtqueue_add_sgs");
    }

    /// `virtqueue_kick_prepare()`: whether the device wants a kick for what has been added.
    #[must_use]
    pub fn kick_prepare(&mut self) -> bool {
        // SAFETY: by the invariant the queue is alive, and C does not use it now.
        self.call(|raw| unsafe { linux_driver_kick_prepare(raw) })
    }

    /// `virtqueue_get_buf()`: the token of the next used chain, and its length.
    #[must_use]
    pub fn get_buf(&mut self) -> Option<(usize, u32)> {
        let mut len = 0;
        // SAFETY: by the invariant the queue is alive, and C does not use it now. C keeps no pointer to
        // the length.
        let token = self.call(|raw| unsafe { linux_driver_get_buf(raw, &raw mut len) });
        (token != 0).then_some((token, len))
    }

    /// `virtqueue_disable_cb()`: asks for no calls.
    pub fn disable_cb(&mut self) {
        // SAFETY: by the invariant the queue is alive, and C does not use it now.
        self.call(|raw| unsafe { linux_driver_disable_cb(raw) });
    }

    /// `virtqueue_enable_cb()`: asks for a call; `false` if there are used chains already.
    #[must_use]
    pub fn enable_cb(&mut self) -> bool {
        // SAFETY: by the invariant the queue is alive, and C does not use it now.
        self.call(|raw| unsafe { linux_driver_enable_cb(raw) })
    }

    /// `virtqueue_enable_cb_delayed()`: asks for a call when most chains have been used; `false` if many
    /// have been already.
    #[must_use]
    pub fn enable_cb_delayed(&mut self) -> bool {
        // SAFETY: by the invariant the queue is alive, and C does not use it now.
        self.call(|raw| unsafe { linux_driver_enable_cb_delayed(raw) })
    }

    /// `vring_interrupt()`: a call arrives; returns whether the driver's callback has run.
    pub fn interrupt(&mut self) -> bool {
        // SAFETY: by the invariant the queue is alive, and C does not use it now.
        self.call(|raw| unsafe { linux_driver_interrupt(raw) })
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Queue").field(&self.addrs()).finish()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: by the invariant the queue is alive, and nobody uses it afterwards.
        unsafe { linux_driver_del(self.raw.as_ptr()) };
    }
}

/// A block of memory that the driver has allocated.
#[derive(Clone, Copy)]
struct Block {
    layout: Layout,
    /// Whether a part of a ring lies in it. Nothing else does then, and the kernel's code trusts
    /// nothing that it reads there.
    is_ring: bool,
}

thread_local! {
    /// Blocks that the driver has allocated, by address. Each block is alive while it is in here.
    static BLOCKS: RefCell<BTreeMap<usize, Block>> = const { RefCell::new(BTreeMap::new()) };
    /// What is called at the driver's barriers.
    static PAUSE: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) };
    /// A panic of it, which must not unwind through C.
    static PANIC: RefCell<Option<Box<dyn Any + Send>>> = const { RefCell::new(None) };
}

/// Has `pause` called at the barriers of this thread's drivers.
pub fn pause_with(pause: Option<Rc<dyn Fn()>>) {
    PAUSE.set(pause);
}

/// Number of blocks that this thread's drivers have allocated and not freed.
#[must_use]
pub fn allocated() -> usize {
    BLOCKS.with_borrow(BTreeMap::len)
}

/// Called at the driver's barriers.
#[unsafe(no_mangle)]
extern "C" fn linux_driver_pause() {
    let pause = PAUSE.with_borrow(Clone::clone);
    if let Some(pause) = pause.filter(|_| PANIC.with_borrow(Option::is_none)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| pause())) {
            PANIC.set(Some(panic));
        }
    }
}

/// Takes the place of `malloc()`; the block is zeroed, since the kernel's flag for that is ignored.
#[unsafe(no_mangle)]
extern "C" fn linux_driver_alloc(len: usize) -> *mut c_void {
    let align = if len < PAGE { ALIGN } else { PAGE };
    let Ok(layout) = Layout::from_size_align(len.max(1), align) else {
        return ptr::null_mut();
    };
    // SAFETY: the layout has a size.
    let start = unsafe { alloc_zeroed(layout) };
    if !start.is_null() {
        let is_ring = false;
        let block = Block { layout, is_ring };
        BLOCKS.with_borrow_mut(|blocks| blocks.insert(start.expose_provenance(), block));
    }
    start.cast()
}

/// Takes the place of `free()`.
#[unsafe(no_mangle)]
extern "C" fn linux_driver_free(start: *mut c_void) {
    if start.is_null() {
        return;
    }
    let block = BLOCKS.with_borrow_mut(|blocks| blocks.remove(&start.addr()));
    // A panic here ends the process: what follows a wrong call of free() is not defined.
    let block = block.expect("the driver frees a block that it has");
    // SAFETY: the block was allocated with this layout and has not been freed since, or it would not
    // have been found.
    unsafe { dealloc(start.cast(), block.layout) };
}

/// A value of which any bytes are valid.
pub(crate) trait Plain: Copy + sealed::Sealed {}

mod sealed {
    /// Limits the types to those of this file.
    pub(crate) trait Sealed {}
}

macro_rules! plain {
    ($($type:ty)*) => {
        $(impl sealed::Sealed for $type {}
        impl Plain for $type {})*
    };
}

plain!(u8 u16 u32 u64);

/// A pointer to a value in a block of the driver's, and whether the block is a ring's; `None` if the
/// address is not aligned or the value not within one block.
///
/// The pointer is valid for loads and stores until the driver frees the block.
fn within<T: Plain>(addr: u64) -> Option<(*mut T, bool)> {
    let at = usize::try_from(addr).ok()?;
    let (start, block) = BLOCKS.with_borrow(|blocks| {
        let last = blocks.range(..=at).next_back();
        last.map(|(start, block)| (*start, *block))
    })?;
    let end = at.checked_add(size_of::<T>())?;
    (end <= start + block.layout.size() && at % align_of::<T>() == 0)
        .then(|| (ptr::with_exposed_provenance_mut(at), block.is_ring))
}

/// Loads a value from a block of the driver's.
pub(crate) fn load<T: Plain>(addr: u64) -> Option<T> {
    let (value, _) = within(addr)?;
    // SAFETY: `within` gives pointers that are valid and aligned. Nothing frees the block meanwhile,
    // and nothing writes to it: it belongs to this thread. Any bytes are a value.
    Some(unsafe { ptr::read_volatile(value) })
}

/// Stores a value in a ring.
pub(crate) fn store<T: Plain>(addr: u64, value: T) -> Option<()> {
    let (place, true) = within(addr)? else {
        return None;
    };
    // SAFETY: `within` gives pointers that are valid and aligned. Nothing frees the block meanwhile,
    // and nobody has a reference to it: it belongs to C, which expects other writers in a ring.
    unsafe { ptr::write_volatile(place, value) };
    Some(())
}
