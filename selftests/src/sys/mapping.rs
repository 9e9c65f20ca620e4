// SPDX-License-Identifier: GPL-2.0

//! Memory shared with a device: never a reference into it, only copies and atomic words.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// The page size of every machine the tests run on.
pub const PAGE: usize = 4096;

/// How far below [`user_end()`] a mapping of [`Mapping::high`] starts: above the kernel's own choices on
/// machines with more than 48 bits, in bytes.
const BELOW_END: u64 = 1 << 40;

/// The end of the addresses that a process can have, on x86-64 but for the last page before it.
///
/// It depends on the processor: 2^47 or 2^56 on x86-64, 2^48 or 2^52 on arm64.
#[must_use]
pub fn user_end() -> u64 {
    static END: LazyLock<u64> = LazyLock::new(|| {
        let mut ends = [56, 52, 48].map(|bits| 1 << bits).into_iter();
        let found = ends.find(|end| can_be_mapped(end - 2 * PAGE as u64));
        found.unwrap_or(1 << 47)
    });
    *END
}

/// Whether a process can have the page at `addr`, mapped or not.
fn can_be_mapped(addr: u64) -> bool {
    let place = std::ptr::without_provenance_mut(addr as usize);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: nothing that exists is replaced, and what was mapped here is unmapped again.
    unsafe {
        let mapped = libc::mmap(place, PAGE, libc::PROT_NONE, flags, -1, 0);
        if mapped == libc::MAP_FAILED {
            return io::Error::last_os_error().raw_os_error() == Some(libc::EEXIST);
        }
        libc::munmap(mapped, PAGE);
        mapped == place
    }
}

/// Shared memory with an inaccessible page behind it.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
    /// What was set aside for it, and is given up with it.
    _place: Place,
}

// SAFETY: the mapping is plain memory, reached only through copies and atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; concurrent access is what the type is for.
unsafe impl Sync for Mapping {}

/// Addresses at which nothing can be accessed, until something is mapped there.
#[derive(Debug)]
struct Place {
    start: *mut u8,
    len: usize,
}

impl Place {
    /// At `hint`, if that is not zero and nothing is there.
    fn new(len: usize, hint: u64) -> io::Result<Self> {
        let start = reserve(len, hint)?;
        Ok(Self { start, len })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: the addresses were set aside in `new`, and nobody uses them any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

impl Mapping {
    /// Maps `len` bytes of new memory, rounded up to pages, and touches each page once.
    ///
    /// # Errors
    ///
    /// When the kernel has no room.
    pub fn new(len: usize) -> io::Result<Self> {
        Self::touched(len, 0)
    }

    /// As [`Mapping::new`], at the upper end of the addresses that a process can have, if there is room.
    ///
    /// # Errors
    ///
    /// When the kernel has no room.
    pub fn high(len: usize) -> io::Result<Self> {
        Self::touched(len, user_end() - BELOW_END)
    }

    fn touched(len: usize, hint: u64) -> io::Result<Self> {
        let len = len.next_multiple_of(PAGE).max(PAGE);
        let map = Self::fixed(len, hint, PAGE, libc::MAP_ANONYMOUS, -1)?;
        for page in (0..len).step_by(PAGE) {
            map.write(page, &[0]);
        }
        Ok(map)
    }

    /// Maps the first `len` bytes of a file, whole pages of size `page`, and touches none of them.
    ///
    /// # Errors
    ///
    /// When the kernel has no room, or the file cannot be mapped.
    pub fn of_file(file: BorrowedFd<'_>, len: usize, page: usize) -> io::Result<Self> {
        Self::fixed(len, 0, page, 0, file.as_raw_fd())
    }

    /// Maps memory at a place of its own that starts at a page.
    fn fixed(len: usize, hint: u64, page: usize, flags: i32, file: i32) -> io::Result<Self> {
        let place = Place::new(page + len + PAGE, hint)?;
        let base = place.start.map_addr(|addr| addr.next_multiple_of(page));
        let flags = flags | libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: what is replaced are addresses that were just set aside.
        let mapped = unsafe { libc::mmap(base.cast(), len, prot, flags, file, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            base,
            len,
            _place: place,
        })
    }

    /// The same memory at other addresses, with access rights of its own, and an inaccessible page
    /// behind it too.
    ///
    /// # Errors
    ///
    /// When the kernel has no room.
    pub fn alias(&self) -> io::Result<Self> {
        let place = Place::new(self.len + PAGE, 0)?;
        let alias = Self {
            base: place.start,
            len: self.len,
            _place: place,
        };
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: with a length of zero shared pages stay where they are and get a second address,
        // which is that of pages that were just reserved.
        let moved = unsafe { libc::mremap(self.base.cast(), 0, self.len, flags, alias.base) };
        if moved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(alias)
    }

    /// The address, for the kernel's use.
    #[must_use]
    pub fn addr(&self) -> usize {
        self.base.addr()
    }

    /// The usable length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped; never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes a range of pages accessible or not, for the device too.
    ///
    /// # Errors
    ///
    /// When the range is not made of whole pages of the mapping.
    pub fn protect(&self, offset: usize, len: usize, accessible: bool) -> io::Result<()> {
        let prot = if accessible {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_NONE
        };
        self.set_protection(offset, len, prot)
    }

    /// Makes a range of pages readable only, for the device too.
    ///
    /// # Errors
    ///
    /// When the range is not made of whole pages of the mapping.
    pub fn protect_writes(&self, offset: usize, len: usize) -> io::Result<()> {
        self.set_protection(offset, len, libc::PROT_READ)
    }

    /// Takes a range of pages out of memory, to swap; an access brings a page back.
    ///
    /// # Errors
    ///
    /// When the range is not made of whole pages of the mapping.
    pub fn page_out(&self, offset: usize, len: usize) -> io::Result<()> {
        self.check_range(offset, len)?;
        // SAFETY: the range lies inside this mapping, whose content stays as it is.
        super::check(unsafe {
            libc::madvise(self.base.add(offset).cast(), len, libc::MADV_PAGEOUT)
        })?;
        Ok(())
    }

    /// Gives a range of pages up with its content; the next access finds zeroes.
    ///
    /// # Errors
    ///
    /// When the range is not made of whole pages of the mapping.
    pub fn discard(&self, offset: usize, len: usize) -> io::Result<()> {
        self.check_range(offset, len)?;
        // SAFETY: the range lies inside this mapping, which no Rust reference points into.
        super::check(unsafe {
            libc::madvise(self.base.add(offset).cast(), len, libc::MADV_REMOVE)
        })?;
        Ok(())
    }

    /// Unmaps a range of pages, for the device too, until they are put back with their content.
    ///
    /// Meanwhile the process must map nothing, which might get the addresses.
    ///
    /// # Errors
    ///
    /// When the range is not made of whole pages of the mapping.
    pub fn unmap(&self, offset: usize, len: usize) -> io::Result<Unmapped<'_>> {
        self.check_range(offset, len)?;
        let unmapped = Unmapped {
            home: self,
            offset,
            len,
            away: reserve(len, 0)?,
        };
        move_pages(self.at(offset, len), unmapped.away, len)?;
        Ok(unmapped)
    }

    fn check_range(&self, offset: usize, len: usize) -> io::Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(())
    }

    fn set_protection(&self, offset: usize, len: usize, prot: i32) -> io::Result<()> {
        self.check_range(offset, len)?;
        // SAFETY: the range was just checked to lie inside this mapping; an access to a closed
        // page faults, it does not reach other memory.
        super::check(unsafe { libc::mprotect(self.base.add(offset).cast(), len, prot) })?;
        Ok(())
    }

    /// Takes the page with a byte out of the page table, but not its content: the next access to
    /// it, of whomever, faults it in again.
    ///
    /// # Errors
    ///
    /// When the byte is outside.
    pub fn unmap_page(&self, offset: usize) -> io::Result<()> {
        let page = self.at(offset / PAGE * PAGE, PAGE);
        // SAFETY: the page was just checked to lie inside this mapping, which is shared: the page
        // stays where it is, and with it what was written.
        super::check(unsafe { libc::madvise(page.cast(), PAGE, libc::MADV_DONTNEED) })?;
        Ok(())
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.len),
            "access outside of the mapping"
        );
        // SAFETY: `offset` was just checked to lie inside the mapping.
        unsafe { self.base.add(offset) }
    }

    /// Copies out of the mapping.
    ///
    /// # Panics
    ///
    /// When the range leaves the mapping.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        // SAFETY: `from` is valid for the length, and `to` is Rust memory outside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) }
    }

    /// Copies into the mapping.
    ///
    /// # Panics
    ///
    /// When the range leaves the mapping.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        // SAFETY: `to` is valid for the length, and `from` is Rust memory outside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
    }

    /// Fills a range with one byte.
    ///
    /// # Panics
    ///
    /// When the range leaves the mapping.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) {
        let to = self.at(offset, len);
        // SAFETY: `to` is valid for the length.
        unsafe { std::ptr::write_bytes(to, byte, len) }
    }

    fn word(&self, offset: usize) -> &AtomicU16 {
        assert!(offset % 2 == 0, "index words are aligned");
        // SAFETY: in bounds, aligned, and every byte pattern is an `AtomicU16`; the device
        // accesses such words as a unit too.
        unsafe { AtomicU16::from_ptr(self.at(offset, 2).cast()) }
    }

    fn double_word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset % 4 == 0, "event words are aligned");
        // SAFETY: in bounds, aligned, and every byte pattern is an `AtomicU32`; the device
        // accesses such words as a unit too.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    /// Reads an aligned 32-bit word.
    ///
    /// # Panics
    ///
    /// When the word leaves the mapping or is misaligned.
    #[must_use]
    pub fn load_u32(&self, offset: usize, order: Ordering) -> u32 {
        u32::from_le(self.double_word(offset).load(order))
    }

    /// Writes an aligned 32-bit word.
    ///
    /// # Panics
    ///
    /// When the word leaves the mapping or is misaligned.
    pub fn store_u32(&self, offset: usize, value: u32, order: Ordering) {
        self.double_word(offset).store(value.to_le(), order);
    }

    /// Reads an aligned 16-bit word.
    ///
    /// # Panics
    ///
    /// When the word leaves the mapping or is misaligned.
    #[must_use]
    pub fn load_u16(&self, offset: usize, order: Ordering) -> u16 {
        u16::from_le(self.word(offset).load(order))
    }

    /// Takes an aligned 16-bit word and leaves zero, in one step.
    ///
    /// # Panics
    ///
    /// When the word leaves the mapping or is misaligned.
    #[must_use]
    pub fn take_u16(&self, offset: usize) -> u16 {
        u16::from_le(self.word(offset).swap(0, Ordering::AcqRel))
    }

    /// Writes an aligned 16-bit word.
    ///
    /// # Panics
    ///
    /// When the word leaves the mapping or is misaligned.
    pub fn store_u16(&self, offset: usize, value: u16, order: Ordering) {
        self.word(offset).store(value.to_le(), order);
    }
}

/// Sets addresses aside at which nothing can be accessed.
fn reserve(len: usize, hint: u64) -> io::Result<*mut u8> {
    let hint = std::ptr::without_provenance_mut(hint as usize);
    // SAFETY: a fresh mapping where the kernel finds room touches nothing of ours.
    let place = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        libc::mmap(hint, len, libc::PROT_NONE, flags, -1, 0)
    };
    if place == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(place.cast())
}

/// Pages of a mapping that are somewhere else for now.
#[derive(Debug)]
#[must_use]
pub struct Unmapped<'a> {
    home: &'a Mapping,
    offset: usize,
    len: usize,
    away: *mut u8,
}

impl Unmapped<'_> {
    /// Puts the pages back where they were.
    ///
    /// # Errors
    ///
    /// When something has been mapped there.
    pub fn put_back(self) -> io::Result<()> {
        let home = self.home.at(self.offset, self.len);
        // SAFETY: with this flag nothing that is mapped is replaced.
        let place = unsafe {
            let flags = libc::MAP_PRIVATE
                | libc::MAP_ANONYMOUS
                | libc::MAP_NORESERVE
                | libc::MAP_FIXED_NOREPLACE;
            libc::mmap(home.cast(), self.len, libc::PROT_NONE, flags, -1, 0)
        };
        if place == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        move_pages(self.away, home, self.len)
    }
}

/// Moves pages, with their content, in place of others that nobody uses.
fn move_pages(from: *mut u8, to: *mut u8, len: usize) -> io::Result<()> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: both callers pass pages of a `Mapping`, which no Rust reference points into, and
    // pages that were just mapped to make room for them.
    let moved = unsafe { libc::mremap(from.cast(), len, len, flags, to) };
    if moved == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
