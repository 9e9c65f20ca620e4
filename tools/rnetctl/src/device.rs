// SPDX-License-Identifier: GPL-2.0
//! The model of an open device, and how a word of the command line chooses some.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use crate::debugfs::QueueState;
use crate::exit::Error;
use crate::fdinfo::Counters;
use crate::host::process::{Process, Worker};
use crate::output::escaped;

/// Which module serves a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This project's.
    Rnet,
    /// The kernel's own vhost-net.
    Net,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rnet => "vhost-rnet",
            Self::Net => "vhost-net",
        })
    }
}

/// A queue by the direction of its packets, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Direction {
    /// To the guest.
    Rx,
    /// From the guest.
    Tx,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Rx, Self::Tx];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
        })
    }
}

/// A queue of an open device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Its counters; empty for vhost-net, which has none.
    pub counters: Counters,
    /// Its state; `None` if debugfs does not show it.
    pub state: Option<QueueState>,
}

/// A device that a process has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Which module serves it.
    pub kind: Kind,
    /// The process that was found to have it open, its owner if that is one of several.
    pub process: Process,
    /// The descriptor in that process.
    pub fd: i32,
    /// The module's number of the open device.
    pub number: Option<u64>,
    /// The process that owns it, as the module says.
    pub owner: Option<i32>,
    /// The network interfaces that packets go to. Without a word of the module these are all that
    /// the process has open, see `certain`.
    pub interfaces: BTreeSet<String>,
    /// The names of the features that the owner has set.
    pub features: Option<Vec<String>>,
    /// The threads that serve it. Without a word of the module these are all vhost workers of the
    /// process, see `certain`.
    pub workers: Vec<Worker>,
    /// Whether the module itself has named the interfaces and workers of this very device.
    pub certain: bool,
    /// The queue to the guest.
    pub rx: Queue,
    /// The queue from the guest.
    pub tx: Queue,
    /// The device's folder in debugfs.
    pub folder: Option<PathBuf>,
}

impl Device {
    /// A queue by its direction.
    #[must_use]
    pub fn queue(&self, direction: Direction) -> &Queue {
        match direction {
            Direction::Rx => &self.rx,
            Direction::Tx => &self.tx,
        }
    }

    /// How a command line names exactly this device.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}:{}", self.process.pid, self.fd)
    }

    /// Its interfaces with commas between them, not escaped; a dash if there is none.
    #[must_use]
    pub fn interface_list(&self) -> String {
        let names: Vec<_> = self.interfaces.iter().map(String::as_str).collect();
        if names.is_empty() {
            "-".to_owned()
        } else {
            names.join(",")
        }
    }

    /// The device with its process in a sentence: `4711:9 (web, tap0)`. It is escaped.
    #[must_use]
    pub fn described(&self) -> String {
        let mut words = vec![escaped(self.process.known_as())];
        words.extend(self.interfaces.iter().map(|name| escaped(name)));
        format!("{} ({})", self.id(), words.join(", "))
    }

    /// Whether `word` means this device, as a process, a descriptor, a number or a name.
    fn is_meant(&self, word: &str) -> bool {
        let number = |text: &str| {
            let number: Option<u64> = text.parse().ok();
            number.is_some() && number == self.number
        };
        word == self.id()
            || word == self.process.pid.to_string()
            || word.strip_prefix('#').map_or(number(word), number)
            || self.process.vm.as_deref() == Some(word)
            || self.interfaces.contains(word)
    }
}

/// The devices that `word` means: one, or several of the same process.
///
/// # Errors
///
/// [`Error::Device`] with a sentence that names candidates, if there are none or those of several
/// processes.
pub fn select<'a>(devices: &'a [Device], word: &str) -> Result<Vec<&'a Device>, Error> {
    let found: Vec<_> = devices
        .iter()
        .filter(|device| device.is_meant(word))
        .collect();
    let processes: BTreeSet<_> = found.iter().map(|device| device.process.pid).collect();
    match processes.len() {
        1 => Ok(found),
        0 => Err(Error::Device(if devices.is_empty() {
            format!("no device is called {word:?}: none is open, as far as this user can see")
        } else {
            format!(
                "no device is called {word:?}; there are {}",
                candidates(devices.iter())
            )
        })),
        _ => Err(Error::Device(format!(
            "{word:?} means more than one device: {}",
            candidates(found.iter().copied())
        ))),
    }
}

/// The first of `devices` in a sentence, and how many more there are.
fn candidates<'a>(devices: impl ExactSizeIterator<Item = &'a Device>) -> String {
    const NAMED: usize = 8;
    let more = devices.len().saturating_sub(NAMED);
    let named: Vec<_> = devices.take(NAMED).map(Device::described).collect();
    let named = named.join(", ");
    match more {
        0 => named,
        _ => format!("{named} and {more} more"),
    }
}
