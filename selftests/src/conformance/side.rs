// SPDX-License-Identifier: GPL-2.0

//! One of the two devices, with everything that calls on it may refer to.

use super::step::{self, Action, Argument, Caller, Fd, Outcome, Place, Step, Value};
use crate::driver::vhost::Vhost;
use crate::eventfd::EventFd;
use crate::host::tap::{self, Tap, TapConfig};
use crate::sys::ioctl::{call_bad, call_raw};
use crate::sys::mapping::{Mapping, PAGE};
use crate::sys::{net, process};
use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::fs::{SeekFrom, seek};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Bytes of memory behind the rings.
pub const MEMORY: usize = 4 << 20;

/// Bytes for an argument: a memory table of more regions than any device takes.
const ARGUMENT: usize = 12 * PAGE;

/// Bytes behind an argument in which a write would be noticed.
const BEHIND: usize = 256;

/// What fills memory that a call has no reason to touch.
const FILLER: u8 = 0xa5;

/// A device with descriptors and memory of its own.
#[derive(Debug)]
pub struct Side {
    path: PathBuf,
    vhost: Vhost,
    memory: Mapping,
    argument: Mapping,
    answer: Mapping,
    kick: EventFd,
    call: EventFd,
    tap: Tap,
    file: OwnedFd,
    pipe: OwnedFd,
    epoll: OwnedFd,
    unattached: OwnedFd,
    packet: OwnedFd,
    cooked: OwnedFd,
    udp: OwnedFd,
    unix: OwnedFd,
}

impl Side {
    /// Opens the device at `path`, and makes a tap called `tap` for it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses any of what is needed.
    pub fn new(path: &Path, tap: &str) -> Result<Self> {
        let config = TapConfig {
            header: 12,
            offloads: 0,
            multiqueue: false,
        };
        let (pipe, _) = rustix::pipe::pipe()?;
        Ok(Self {
            path: path.to_owned(),
            vhost: Vhost::open(path)?,
            memory: Mapping::new(MEMORY)?,
            argument: Mapping::new(ARGUMENT)?,
            answer: Mapping::new(PAGE)?,
            kick: EventFd::new()?,
            call: EventFd::new()?,
            tap: Tap::new(tap, config)?,
            file: File::open("/proc/self/stat")?.into(),
            pipe,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            unattached: tap::open_unattached()?,
            packet: net::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?,
            cooked: net::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?,
            udp: net::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?,
            unix: net::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?,
        })
    }

    /// Closes the device and opens it again.
    ///
    /// # Errors
    ///
    /// When the kernel has no memory.
    pub fn reopen(&mut self) -> Result<()> {
        self.vhost = Vhost::open(&self.path)?;
        Ok(())
    }

    /// Puts a device that was just opened behind the descriptor, whatever calls are being made on
    /// it; none waits for messages.
    ///
    /// # Errors
    ///
    /// When the kernel has no memory.
    pub fn replace(&self) -> Result<()> {
        let fresh = Vhost::open(&self.path)?;
        fresh.set_blocking(false)?;
        Ok(process::replace(self.vhost.as_fd(), fresh.as_fd())?)
    }

    /// Puts another queue of no interface, or a file, behind the descriptor of the tap.
    ///
    /// # Errors
    ///
    /// When the process has too many descriptors.
    pub fn spoil_tap(&self, with: Fd) -> Result<()> {
        let other = if with == Fd::Unattached {
            &self.unattached
        } else {
            &self.file
        };
        Ok(process::replace(self.tap.as_fd(), other.as_fd())?)
    }

    /// Writes a word into the memory behind the rings.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub fn write_memory(&self, offset: usize, word: u16) {
        self.memory.store_u16(offset, word, Ordering::Relaxed);
    }

    /// Kicks all queues that have the descriptor for it.
    ///
    /// # Errors
    ///
    /// When the count is at its end.
    pub fn kick(&self) -> Result<()> {
        self.kick.signal()
    }

    fn fd(&self, fd: Fd) -> i32 {
        let number = |fd: BorrowedFd<'_>| fd.as_raw_fd();
        match fd {
            Fd::Unbind => -1,
            Fd::Negative => -2,
            Fd::Closed => 900,
            Fd::Kick => number(self.kick.as_fd()),
            Fd::Call => number(self.call.as_fd()),
            Fd::File => number(self.file.as_fd()),
            Fd::Pipe => number(self.pipe.as_fd()),
            Fd::Epoll => number(self.epoll.as_fd()),
            Fd::Device => number(self.vhost.as_fd()),
            Fd::Tap => self.tap.number(),
            Fd::Unattached => number(self.unattached.as_fd()),
            Fd::Packet => number(self.packet.as_fd()),
            Fd::CookedPacket => number(self.cooked.as_fd()),
            Fd::Udp => number(self.udp.as_fd()),
            Fd::Unix => number(self.unix.as_fd()),
        }
    }

    fn resolve(&self, value: Value) -> Option<u64> {
        Some(match value {
            Value::Const(value) => value,
            Value::Memory(offset) => self.memory.addr() as u64 + offset,
            // CAST: descriptors take four bytes, which are kept as they are.
            Value::Fd(fd) => u64::from(self.fd(fd) as u32),
        })
    }

    /// Makes the call that `step` describes.
    ///
    /// # Errors
    ///
    /// When it cannot be made at all; that it fails is an outcome.
    pub fn run(&self, step: &Step) -> Result<Outcome> {
        match &step.action {
            Action::Ioctl(number, argument) => self.ioctl(step.caller, *number, argument),
            Action::Read(len) => {
                let len = *len;
                let result = self.called(step.caller, || {
                    let mut bytes = vec![0; len];
                    let len = rustix::io::read(self.vhost.as_fd(), &mut bytes)?;
                    // A child answers through memory that the parent sees.
                    self.argument.write(0, &bytes[..len]);
                    Ok(len)
                })?;
                // CAST: no more than was asked for.
                let mut bytes = vec![0; result.unwrap_or(0) as usize];
                self.argument.read(0, &mut bytes);
                Ok(Outcome {
                    result,
                    written: bytes.into_iter().enumerate().collect(),
                })
            }
            Action::Write(fields) => {
                let bytes = step::bytes(fields, |value| self.resolve(value));
                let bytes = bytes.context("a message without bytes")?;
                self.plain(step.caller, || {
                    Ok(rustix::io::write(self.vhost.as_fd(), &bytes)?)
                })
            }
            Action::Poll => self.plain(step.caller, || {
                let mut fds = [PollFd::new(&self.vhost, PollFlags::all())];
                poll(&mut fds, Some(&rustix::event::Timespec::default()))?;
                Ok(usize::from(fds[0].revents().bits()))
            }),
            Action::Seek(offset) => self.plain(step.caller, || {
                // CAST: offsets are small.
                Ok(seek(self.vhost.as_fd(), SeekFrom::Start(*offset))? as usize)
            }),
            Action::Nonblock(on) => self.plain(step.caller, || {
                self.vhost.set_blocking(!on)?;
                Ok(0)
            }),
        }
    }

    fn plain(
        &self,
        caller: Caller,
        call: impl Fn() -> io::Result<usize> + Sync,
    ) -> Result<Outcome> {
        Ok(Outcome {
            result: self.called(caller, call)?,
            written: Vec::new(),
        })
    }

    fn ioctl(&self, caller: Caller, number: u64, argument: &Argument) -> Result<Outcome> {
        let bytes = argument.bytes(|value| self.resolve(value));
        let mut bytes = bytes.context("an argument without bytes")?;
        ensure!(bytes.len() + BEHIND <= ARGUMENT, "the argument is too long");
        let fd = self.vhost.as_fd();
        let offset = match argument.place {
            Place::Memory => 0,
            Place::End(len) => ARGUMENT - len,
            Place::Bad(pointer) => {
                return self.plain(caller, || value(call_bad(fd, number, pointer)?));
            }
        };
        let seen = (ARGUMENT - offset).min(bytes.len() + BEHIND);
        bytes.resize(seen, FILLER);
        self.argument.write(offset, &bytes);
        let result = self.called(caller, || {
            value(call_raw(fd, number, &self.argument, offset)?)
        })?;
        let mut after = vec![0; seen];
        self.argument.read(offset, &mut after);
        let changed = after.into_iter().zip(bytes).enumerate();
        let written = changed.filter_map(|(at, (new, old))| (new != old).then_some((at, new)));
        Ok(Outcome {
            result,
            written: written.collect(),
        })
    }

    /// Runs `call` as `caller`.
    fn called(
        &self,
        caller: Caller,
        call: impl Fn() -> io::Result<usize> + Sync,
    ) -> Result<Result<u64, i32>> {
        let outcome = || match call() {
            Ok(value) => Ok(value as u64),
            Err(error) => Err(error.raw_os_error().unwrap_or(-1)),
        };
        match caller {
            Caller::Main => Ok(outcome()),
            Caller::Thread => {
                let joined = std::thread::scope(|scope| scope.spawn(outcome).join());
                joined.map_err(|_| anyhow::anyhow!("the calling thread panicked"))
            }
            Caller::Child => {
                process::in_child(|| {
                    let (failed, value) = match outcome() {
                        Ok(value) => (0, value),
                        // CAST: kept as it is.
                        Err(errno) => (1u64, errno as u64),
                    };
                    self.answer.write(0, &failed.to_ne_bytes());
                    self.answer.write(8, &value.to_ne_bytes());
                })
                .context("run a child")?;
                let word = |offset| {
                    let mut bytes = [0; 8];
                    self.answer.read(offset, &mut bytes);
                    u64::from_ne_bytes(bytes)
                };
                Ok(match word(0) {
                    0 => Ok(word(8)),
                    // CAST: back to what it was.
                    _ => Err(word(8) as i32),
                })
            }
        }
    }
}

/// What a call that did not fail returned.
fn value(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(io::Error::other)
}
