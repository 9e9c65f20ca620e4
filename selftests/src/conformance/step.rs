// SPDX-License-Identifier: GPL-2.0

//! A call as data, so that the same can be made on two devices and be printed.

use crate::sys::ioctl::BadPointer;
use std::fmt;

/// A descriptor that a call is given, one of each kind per device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fd {
    /// -1.
    Unbind,
    /// -2.
    Negative,
    /// A number that is not open.
    Closed,
    /// An event descriptor that is never signalled; the only one that kicks a queue.
    Kick,
    /// An event descriptor for the device to signal.
    Call,
    /// An open file.
    File,
    /// The reading end of a pipe.
    Pipe,
    /// An epoll descriptor.
    Epoll,
    /// The device itself.
    Device,
    /// A tap with an interface.
    Tap,
    /// A descriptor of the tun driver without an interface.
    Unattached,
    /// A raw packet socket.
    Packet,
    /// A packet socket without link-layer header.
    CookedPacket,
    /// A UDP socket.
    Udp,
    /// A unix socket.
    Unix,
}

impl Fd {
    /// All kinds.
    pub const ALL: &[Self] = &[
        Self::Unbind,
        Self::Negative,
        Self::Closed,
        Self::Kick,
        Self::Call,
        Self::File,
        Self::Pipe,
        Self::Epoll,
        Self::Device,
        Self::Tap,
        Self::Unattached,
        Self::Packet,
        Self::CookedPacket,
        Self::Udp,
        Self::Unix,
    ];
}

/// A number in an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// The same for both devices.
    Const(u64),
    /// An address, as an offset into the memory behind the device's rings.
    Memory(u64),
    /// A descriptor.
    Fd(Fd),
}

/// A number in an argument, with its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// One byte.
    Byte(u8),
    /// Four bytes.
    Word(Value),
    /// Eight bytes.
    Long(Value),
}

impl Field {
    /// Four bytes, the same for both devices.
    #[must_use]
    pub fn word(value: u32) -> Self {
        Self::Word(Value::Const(value.into()))
    }

    /// Eight bytes, the same for both devices.
    #[must_use]
    pub fn long(value: u64) -> Self {
        Self::Long(Value::Const(value))
    }

    /// A descriptor.
    #[must_use]
    pub fn fd(fd: Fd) -> Self {
        Self::Word(Value::Fd(fd))
    }

    /// An address in the memory behind the rings.
    #[must_use]
    pub fn memory(offset: u64) -> Self {
        Self::Long(Value::Memory(offset))
    }
}

/// Where an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory, with more of it behind.
    Memory,
    /// Only so many of its bytes are in memory.
    End(usize),
    /// Nowhere.
    Bad(BadPointer),
}

/// What an ioctl's pointer points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// The numbers, without padding.
    pub fields: Vec<Field>,
    /// Where they are.
    pub place: Place,
}

impl Argument {
    /// An argument in memory.
    #[must_use]
    pub fn new(fields: Vec<Field>) -> Self {
        Self {
            fields,
            place: Place::Memory,
        }
    }

    /// Whether the first `len` bytes can be read.
    #[must_use]
    pub fn has(&self, len: usize) -> bool {
        match self.place {
            Place::Memory => true,
            Place::End(end) => end >= len,
            Place::Bad(_) => false,
        }
    }

    /// The 32-bit number `index`, if it is the same for both devices.
    #[must_use]
    pub fn word(&self, index: usize) -> Option<u32> {
        let with = |filler| {
            let bytes = self.bytes(|value| match value {
                Value::Const(value) => Some(value),
                Value::Fd(Fd::Unbind) => Some(u64::MAX),
                Value::Memory(_) | Value::Fd(_) => Some(filler),
            });
            let word = bytes?.chunks_exact(4).nth(index)?.try_into().ok()?;
            Some(u32::from_ne_bytes(word))
        };
        // What depends on a value that is each device's own changes with it.
        with(0).filter(|_| with(0) == with(u64::MAX))
    }

    /// The bytes, with `resolve` for the values.
    pub fn bytes(&self, resolve: impl Fn(Value) -> Option<u64>) -> Option<Vec<u8>> {
        bytes(&self.fields, resolve)
    }
}

/// The bytes of `fields`, with `resolve` for the values.
pub fn bytes(fields: &[Field], resolve: impl Fn(Value) -> Option<u64>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for field in fields {
        match *field {
            Field::Byte(byte) => bytes.push(byte),
            // CAST: the low half is meant.
            Field::Word(value) => bytes.extend((resolve(value)? as u32).to_ne_bytes()),
            Field::Long(value) => bytes.extend(resolve(value)?.to_ne_bytes()),
        }
    }
    Some(bytes)
}

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The process that tests.
    Main,
    /// Another thread of it.
    Thread,
    /// A child, with memory of its own.
    Child,
}

/// What is done with the device's descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// An ioctl.
    Ioctl(u64, Argument),
    /// Reads so many bytes at most.
    Read(usize),
    /// Writes a message.
    Write(Vec<Field>),
    /// Asks which events are there, without waiting.
    Poll,
    /// Moves the file position to so many bytes.
    Seek(u64),
    /// Makes reading non-blocking, or blocking.
    Nonblock(bool),
}

/// A call with who makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The call's name.
    pub name: String,
    /// The call.
    pub action: Action,
    /// Who makes it.
    pub caller: Caller,
}

impl Step {
    /// A call by the process that tests.
    #[must_use]
    pub fn new(name: impl Into<String>, action: Action) -> Self {
        Self {
            name: name.into(),
            action,
            caller: Caller::Main,
        }
    }

    /// The call after which reads do not wait for messages.
    #[must_use]
    pub fn nonblocking() -> Self {
        Self::new("nonblock", Action::Nonblock(true))
    }

    /// The same call by `caller`.
    #[must_use]
    pub fn by(mut self, caller: Caller) -> Self {
        self.caller = caller;
        self
    }

    /// Whether the device is the same after the call, even if it succeeds.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        match self.action {
            Action::Ioctl(..) => self.name.starts_with("GET_"),
            Action::Poll | Action::Seek(_) => true,
            Action::Read(_) | Action::Write(_) | Action::Nonblock(_) => false,
        }
    }

    /// The argument, if this is the ioctl `number`.
    #[must_use]
    pub fn argument_of(&self, number: u64) -> Option<&Argument> {
        match &self.action {
            Action::Ioctl(own, argument) if *own == number => Some(argument),
            _ => None,
        }
    }
}

/// What a call did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What it returned, or the error number.
    pub result: Result<u64, i32>,
    /// The bytes it changed in its argument, by offset; what was read.
    pub written: Vec<(usize, u8)>,
}

impl Outcome {
    /// Whether it failed with the error number `errno`.
    #[must_use]
    pub fn is(&self, errno: i32) -> bool {
        self.result == Err(errno)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Const(value) => write!(to, "{value:#x}"),
            Self::Memory(offset) => write!(to, "memory+{offset:#x}"),
            Self::Fd(fd) => write!(to, "{fd:?}"),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte(byte) => write!(to, "{byte:#04x}"),
            Self::Word(value) | Self::Long(value) => value.fmt(to),
        }
    }
}

/// The most fields that are printed of one argument.
const SHOWN: usize = 12;

fn show(fields: &[Field], to: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, field) in fields.iter().take(SHOWN).enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        write!(to, "{comma}{field}")?;
    }
    match fields.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => write!(to, ", {more} more"),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.name)?;
        match &self.action {
            Action::Ioctl(number, argument) => {
                write!(to, " [{number:#x}] (")?;
                show(&argument.fields, to)?;
                to.write_str(")")?;
                match argument.place {
                    Place::Memory => {}
                    Place::End(len) => write!(to, ", {len} bytes of it mapped")?,
                    Place::Bad(pointer) => write!(to, " at {pointer:?}")?,
                }
            }
            Action::Read(len) => write!(to, " ({len} bytes)")?,
            Action::Write(fields) => {
                to.write_str(" (")?;
                show(fields, to)?;
                to.write_str(")")?;
            }
            Action::Seek(offset) => write!(to, " ({offset})")?,
            Action::Nonblock(on) => write!(to, " ({on})")?,
            Action::Poll => {}
        }
        match self.caller {
            Caller::Main => Ok(()),
            Caller::Thread => to.write_str(" by a thread"),
            Caller::Child => to.write_str(" by a child"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.result {
            Ok(value) => write!(to, "{value}")?,
            Err(errno) => write!(to, "{}", std::io::Error::from_raw_os_error(errno))?,
        }
        let mut next = None;
        for (offset, byte) in self.written.iter().take(64) {
            if next != Some(*offset) {
                write!(to, " @{offset}:")?;
            }
            write!(to, " {byte:02x}")?;
            next = Some(offset + 1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Argument, Fd, Field};

    #[test]
    fn words_are_found_among_addresses() {
        let fields = vec![
            Field::word(7),
            Field::fd(Fd::Tap),
            Field::memory(0),
            Field::Byte(1),
            Field::Byte(0),
            Field::Byte(0),
            Field::Byte(2),
            Field::fd(Fd::Unbind),
        ];
        let argument = Argument::new(fields);
        let words: Vec<_> = (0..7).map(|index| argument.word(index)).collect();
        let last = Some(u32::MAX);
        assert_eq!(
            words,
            [Some(7), None, None, None, Some(0x0200_0001), last, None]
        );
    }
}
