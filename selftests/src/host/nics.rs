// SPDX-License-Identifier: GPL-2.0

//! Emulated network cards that a machine has for the tests, connected in pairs.

use crate::host::wire;
use crate::sys::net;
use crate::wait::Deadline;
use anyhow::{Context, Result};
use std::fs;
use std::process::Command;

/// A network card of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// Its model, which has the name of its driver.
    pub model: &'static str,
    /// The pair that it belongs to.
    pub pair: u8,
    /// Whether it is the one that receives.
    pub far: bool,
}

impl Card {
    /// Its Ethernet address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("52:54:00:00:{:02x}:{:02x}", self.pair, u8::from(self.far))
    }
}

const fn card(model: &'static str, pair: u8, far: bool) -> Card {
    Card { model, pair, far }
}

/// All cards that a machine has to have.
///
/// The cards that receive are of a model that leaves frames with the sender while it has no room
/// for them, and whose driver goes on after memory was short.
pub const ALL: [Card; 8] = [
    card("e1000e", 0, false),
    card("e1000e", 0, true),
    card("igb", 1, false),
    card("e1000e", 1, true),
    card("vmxnet3", 2, false),
    card("e1000e", 2, true),
    card("igb", 3, false),
    card("e1000e", 3, true),
];

/// Two cards that are connected, in this process's network namespace.
///
/// They go back to the machine's own with the namespace.
#[derive(Debug)]
pub struct Pair {
    /// The model of the card that sends.
    pub model: &'static str,
    /// The card that sends.
    pub near: String,
    /// The card that receives: as they come, and whomever they are for.
    pub far: String,
}

impl Pair {
    /// All pairs, up and with a link.
    ///
    /// # Errors
    ///
    /// When the machine lacks a card or its driver, or a card cannot be moved here or does not come
    /// up.
    pub fn all() -> Result<Vec<Self>> {
        let models = ALL.map(|card| card.model);
        wire::feed(Command::new("modprobe").arg("-a").args(models), "")?;
        let mut fetch = String::new();
        for card in ALL {
            // A network namespace that ends gives its cards back a moment later.
            let mut old = None;
            Deadline::patient().until(&format!("the {} {}", card.model, card.address()), || {
                old = interface(&card.address())?;
                Ok(old.is_some())
            })?;
            let (old, here) = (old.context("no card")?, std::process::id());
            fetch += &format!("link set {old} netns {here} name {}\n", name(card));
        }
        let mut there = Command::new("nsenter");
        there.args(["--net=/proc/1/ns/net", "ip", "-batch", "-"]);
        wire::feed(&mut there, &fetch)?;
        let (mut links, mut queues) = (String::new(), String::new());
        for card in ALL {
            let name = name(card);
            if card.far {
                // Segments are to arrive as they were sent.
                wire::feed(
                    Command::new("ethtool").args(["-K", &name, "gro", "off"]),
                    "",
                )?;
                links += &format!("link set {name} promisc on\n");
            }
            links += &format!("link set {name} up\n");
            // Room for all segments of a burst.
            queues += &format!("qdisc replace dev {name} root pfifo limit 10000\n");
        }
        wire::tc(&queues)?;
        wire::ip(&links)?;
        for card in ALL {
            let name = name(card);
            Deadline::patient().until(&format!("the link of {name}"), || {
                Ok(net::if_running(&name)?)
            })?;
        }
        let senders = ALL.iter().filter(|card| !card.far);
        let pairs = senders.map(|card| Self {
            model: card.model,
            near: name(*card),
            far: name(Card { far: true, ..*card }),
        });
        Ok(pairs.collect())
    }

    /// The index of the card that receives.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn far_index(&self) -> Result<i32> {
        net::if_index(&self.far).with_context(|| self.far.clone())
    }
}

/// The name of a card in the network namespace of a case.
fn name(card: Card) -> String {
    format!("{}{}", if card.far { "far" } else { "near" }, card.pair)
}

/// The interface with this Ethernet address in the machine's own network namespace, if it is there.
fn interface(address: &str) -> Result<Option<String>> {
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        // An interface may go between the listing and this.
        let found = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
        if found.trim() == address {
            return Ok(entry.file_name().into_string().ok());
        }
    }
    Ok(None)
}
