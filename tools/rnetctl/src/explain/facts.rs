// SPDX-License-Identifier: GPL-2.0
//! What is known of a queue before anything is said about it.

use crate::debugfs::{QueueState, Wait};
use crate::device::{Device, Direction, Kind, Queue};
use crate::host::Host;
use crate::output::escaped;
use crate::scan::DebugFs;

/// The flag of an interface that is up, `IFF_UP`.
const IFF_UP: u32 = 1;

/// What `/sys/class/net` says of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The administrator has set it up.
    pub up: bool,
    /// Its other side is connected; unknown while it is down.
    pub carrier: Option<bool>,
}

impl Link {
    /// That of the interface `name`; `None` if this network namespace has none of that name.
    #[must_use]
    pub fn read(host: &Host, name: &str) -> Option<Self> {
        // A name that came from a file of another program is no path.
        if name.contains('/') || name.starts_with('.') {
            return None;
        }
        let folder = host.sys("class/net").join(name);
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let flags = read("flags")?;
        let flags = u32::from_str_radix(flags.trim().strip_prefix("0x")?, 16).ok()?;
        Some(Self {
            up: flags & IFF_UP != 0,
            carrier: read("carrier").and_then(|text| match text.trim() {
                "1" => Some(true),
                "0" => Some(false),
                _ => None,
            }),
        })
    }
}

/// The facts about a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The device.
    pub device: &'a Device,
    /// The queue's direction.
    pub direction: Direction,
    /// How debugfs could be read.
    pub debugfs: DebugFs,
    /// The interface that the queue's packets go to or come from, if it is known.
    pub interface: Option<&'a str>,
    /// That interface's state, if this network namespace has it.
    pub link: Option<Link>,
    /// Whether a second look has found the queue at the same entry of its ring.
    pub stands_still: bool,
}

impl<'a> Facts<'a> {
    /// Those of a queue of `device`, as it was found.
    #[must_use]
    pub fn of(host: &Host, device: &'a Device, direction: Direction, debugfs: DebugFs) -> Self {
        let state = device.queue(direction).state.as_ref();
        let mut names = device.interfaces.iter();
        let interface = state
            .and_then(|state| state.interface.as_deref())
            .or_else(|| {
                names
                    .next()
                    .map(String::as_str)
                    .filter(|_| names.next().is_none())
            });
        Self {
            device,
            direction,
            debugfs,
            interface,
            link: interface.and_then(|name| Link::read(host, name)),
            stands_still: false,
        }
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &'a Queue {
        self.device.queue(self.direction)
    }

    /// Its state, if debugfs shows it.
    #[must_use]
    pub fn state(&self) -> Option<&'a QueueState> {
        self.queue().state.as_ref()
    }

    /// What it waits for, if it is known.
    #[must_use]
    pub fn waits_for(&self) -> Option<Wait> {
        self.state()?.waits_for
    }

    /// One of its counters; zero if the module does not have it.
    #[must_use]
    pub fn count(&self, key: &str) -> u64 {
        self.queue().counters.get(key).unwrap_or_default()
    }

    /// Whether vhost-net serves the device.
    #[must_use]
    pub fn is_net(&self) -> bool {
        self.device.kind == Kind::Net
    }

    /// Whether the queue takes packets from the guest.
    #[must_use]
    pub fn is_tx(&self) -> bool {
        self.direction == Direction::Tx
    }

    /// The interface in a sentence; it is escaped.
    #[must_use]
    pub fn interface_name(&self) -> String {
        self.interface
            .map_or_else(|| "the backend's interface".to_owned(), escaped)
    }

    /// Whether the guest has work in the ring, and the queue waits for a kick all the same: if that
    /// lasts, the kick was lost.
    #[must_use]
    pub fn may_have_lost_kick(&self) -> bool {
        let available = self.state().and_then(|state| state.available);
        available == Some(true) && self.waits_for() == Some(Wait::Kick)
    }
}
