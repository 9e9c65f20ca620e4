// SPDX-License-Identifier: GPL-2.0

//! The host has no memory left for a while: for pages of the guest, or for the kernel.

use crate::cases::common::{Case, Context, Skip, a_while, check, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::ring::Segment;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::sys::mapping::{Mapping, PAGE};
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mount::{MountFlags, UnmountFlags};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;

pub(crate) const CASES: &[Case] = &[
    ring_case("shortage.full_tmpfs", 90, full_tmpfs),
    ring_case("shortage.empty_hugetlb", 90, empty_hugetlb),
];

/// Receive buffers, each in pages of its own.
const BUFFERS: usize = 64;
/// Where they are in guest memory.
const AT: u64 = 1 << 40;
/// The length of each.
const LEN: u32 = 2048;
/// Frames that come while memory is short.
const EARLY: u64 = 6;
/// Frames that come later.
const LATE: u64 = 20;

/// Receive buffers in memory that is not there yet: the driver never touches it.
struct Untouched<'a> {
    map: &'a Mapping,
    /// Bytes from one buffer to the next.
    stride: usize,
    /// Buffers posted so far; each once.
    posted: usize,
}

impl Untouched<'_> {
    /// Posts as many of them.
    fn post(&mut self, device: &mut NetDevice, count: usize) -> Result<()> {
        for slot in self.posted..self.posted + count {
            let buffer = Segment {
                addr: AT + (slot * self.stride) as u64,
                len: LEN,
                writable: true,
            };
            device.rx.ring.add(&[buffer], None, u32::try_from(slot)?)?;
        }
        self.posted += count;
        device.rx.flush()?;
        Ok(())
    }

    /// The next frame that was received, without its header.
    fn take(&self, device: &mut NetDevice) -> Result<Option<Vec<u8>>> {
        let Some(used) = device.rx.ring.poll()? else {
            return Ok(None);
        };
        let mut bytes = vec![0; used.len as usize];
        self.map.read(used.token as usize * self.stride, &mut bytes);
        bytes.drain(..device.setup.header());
        Ok(Some(bytes))
    }
}

/// Sends frames to a guest whose buffers in `map` cannot be had until `relieve`: with all of its
/// ring posted before, or with more to post afterwards.
fn receive(
    ctx: &Context,
    map: &Mapping,
    features: u64,
    full: bool,
    relieve: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut setup = Setup::new(feature::VERSION_1 | features);
    setup.rx_size = u16::try_from(BUFFERS)?;
    setup.rx_buffers.0 = 0;
    let mut device = NetDevice::start(&ctx.device, setup)?;
    device.plug(AT, map)?;
    let mut buffers = Untouched {
        map,
        stride: map.len() / BUFFERS,
        posted: 0,
    };
    buffers.post(&mut device, if full { BUFFERS } else { BUFFERS / 4 })?;
    let mut expected = Vec::new();
    for sequence in 0..EARLY {
        frame::build(ctx.seed, sequence, 200, &mut expected);
        device.peer.send(NetHeader::default(), &expected)?;
    }
    a_while();
    traffic::transmit(&mut device, Plan::new(ctx.seed, 20, |_| 200))
        .context("the transmit queue")?;
    relieve()?;
    if !full {
        buffers.post(&mut device, BUFFERS / 2)?;
    }
    for sequence in EARLY..EARLY + LATE {
        frame::build(ctx.seed, sequence, 200, &mut expected);
        device.peer.send(NetHeader::default(), &expected)?;
    }
    let mut next = 0;
    Deadline::patient().until("the last frame", || {
        while let Some(got) = buffers.take(&mut device)? {
            frame::build(ctx.seed, next, 200, &mut expected);
            while next < EARLY && expected != got {
                next += 1;
                frame::build(ctx.seed, next, 200, &mut expected);
            }
            frame::expect("received", next, &expected, &got)?;
            next += 1;
        }
        Ok(next == EARLY + LATE)
    })
}

/// As [`receive`], in all ways; `memory` makes what cannot be had, and answers how to relieve that.
fn receive_all<R: FnOnce() -> Result<()>>(
    ctx: &Context,
    mut memory: impl FnMut() -> Result<(Mapping, R)>,
) -> Result<()> {
    for features in [
        0,
        feature::EVENT_IDX,
        feature::MRG_RXBUF,
        feature::MRG_RXBUF | feature::EVENT_IDX,
    ] {
        for full in [false, true] {
            let (map, relieve) = memory()?;
            receive(ctx, &map, features, full, relieve)
                .with_context(|| format!("features {features:#x}, all posted: {full}"))?;
        }
    }
    Ok(())
}

/// A file system in memory, with room for the buffers and little more.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new() -> Result<Self> {
        let place = std::env::temp_dir().join(format!("tmpfs-{}", std::process::id()));
        fs::create_dir(&place)?;
        let size = format!("size={}", 2 * BUFFERS * PAGE);
        let options = std::ffi::CString::new(size)?;
        rustix::mount::mount(
            "tmpfs",
            &place,
            "tmpfs",
            MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .context("mount tmpfs")?;
        Ok(Self(place))
    }

    /// Takes all room there is, until the file is removed.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("filler");
        let mut file = File::create(&path)?;
        let error = loop {
            if let Err(error) = file.write_all(&[1; PAGE]) {
                break error;
            }
        };
        check(error.raw_os_error() == Some(libc::ENOSPC), || {
            format!("{error}")
        })?;
        Ok(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // What is left goes with the machine.
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

/// The file system that guest memory is in is full: frames are lost until there is room, and none
/// after that.
fn full_tmpfs(ctx: &Context) -> Result<()> {
    let tmpfs = Tmpfs::new()?;
    receive_all(ctx, || {
        let path = tmpfs.0.join("guest");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        let len = BUFFERS * PAGE;
        file.set_len(len as u64)?;
        let map = Mapping::of_file(file.as_fd(), len, PAGE)?;
        let filler = tmpfs.fill()?;
        Ok((map, move || {
            fs::remove_file(path)?;
            Ok(fs::remove_file(filler)?)
        }))
    })
}

/// The pages of the pool, which goes back to what it was.
struct Pool(String);

impl Pool {
    const PATH: &str = "/proc/sys/vm/nr_hugepages";

    fn new() -> Result<Self> {
        if !fs::exists(Self::PATH)? {
            return Err(Skip("this kernel has no huge pages".into()).into());
        }
        Ok(Self(fs::read_to_string(Self::PATH)?))
    }

    fn set(pages: usize) -> Result<()> {
        fs::write(Self::PATH, pages.to_string()).context("size of the pool")?;
        let got = fs::read_to_string(Self::PATH)?;
        check(got.trim() == pages.to_string(), || {
            format!("{} huge pages, not {pages}", got.trim())
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // What is left goes with the machine.
        let _ = fs::write(Self::PATH, &self.0);
    }
}

/// Guest memory is huge pages of which there are none: frames are lost until there are, and none
/// after that.
fn empty_hugetlb(ctx: &Context) -> Result<()> {
    /// The usual size, which is that of the pool.
    const HUGE: usize = 2 << 20;
    const PAGES: usize = 4;
    let _pool = Pool::new()?;
    receive_all(ctx, || {
        Pool::set(0)?;
        let file = memfd_create("guest", MemfdFlags::HUGETLB).context("huge pages")?;
        ftruncate(&file, (PAGES * HUGE) as u64)?;
        let map = Mapping::of_file(file.as_fd(), PAGES * HUGE, HUGE)?;
        Ok((map, || Pool::set(PAGES)))
    })
}
