// SPDX-License-Identifier: GPL-2.0

//! The driver side of the model: what it has made available, and what it waits for.

use vring::UserAddr;

use crate::mock::{Buf, DriverSide, Format, MockMemory, Op, RAM};

/// What the driver may do at any time.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Publishes the added chains.
    Publish,
    /// Takes the used chains.
    Poll,
    /// Asks for a call after so many more completions, and sleeps unless they have occurred.
    Sleep(u16),
    /// Continues without calls.
    Wake,
}

/// A chain as the driver made it.
pub struct Offer {
    pub id: u16,
    pub slots: u16,
    pub bufs: Vec<Buf>,
}

/// The guest, and what the device knew before it slept.
pub struct Guest<F: Format> {
    pub driver: F::Driver,
    pub offers: Vec<Offer>,
    pub polled: usize,
    /// Whether it waits for a call.
    pub asleep: bool,
    pub kicked: bool,
    /// The place up to which chains were published when the device last looked.
    pub seen: u16,
    /// The place up to which the device then knew chains to be available.
    pub known: u16,
    /// Whether the device looks in order to await a kick, not to take chains.
    pub awaits: bool,
}

/// The byte at `offset` of the data of chain `serial` in one direction.
pub fn pattern(serial: usize, write: bool, offset: u64) -> u8 {
    (serial as u64 * 31 + offset * 7 + u64::from(write) * 101) as u8
}

pub fn bytes(serial: usize, write: bool, len: u64) -> Vec<u8> {
    (0..len).map(|at| pattern(serial, write, at)).collect()
}

pub fn total(bufs: &[Buf], write: bool) -> u64 {
    let lens = bufs.iter().filter(|buf| buf.write == write);
    lens.map(|buf| u64::from(buf.len)).sum()
}

impl<F: Format> Guest<F> {
    pub fn add(&mut self, memory: &MockMemory, read: &[u32], write: &[u32], indirect: bool) {
        let serial = self.offers.len();
        // Far fewer chains than slots are in flight.
        let slot = serial as u64 % 64 * 0x400;
        let mut at = slot;
        let mut bufs = Vec::new();
        let lens = read.iter().map(|&len| (len, false));
        for (len, write) in lens.chain(write.iter().map(|&len| (len, true))) {
            let addr = at;
            bufs.push(Buf { addr, len, write });
            at += u64::from(len) + 1;
        }
        let id = if indirect {
            let table = 0x2_0000 + slot;
            let user = UserAddr(RAM + table);
            self.driver.add_indirect(memory, table, user, &bufs)
        } else {
            self.driver.add(memory, &bufs)
        };
        let Some(id) = id else {
            return;
        };
        let slots = if indirect { 1 } else { bufs.len() as u16 };
        let content = bytes(serial, false, total(&bufs, false));
        let mut content = content.as_slice();
        for buf in bufs.iter().filter(|buf| !buf.write) {
            let (now, later) = content.split_at(buf.len as usize);
            memory.poke(RAM + buf.addr, now);
            content = later;
        }
        self.offers.push(Offer { id, slots, bufs });
    }

    pub fn act(&mut self, memory: &MockMemory, act: Act) {
        match act {
            Act::Publish => self.kicked |= self.driver.publish(memory),
            Act::Poll => {
                while let Some((id, len)) = self.driver.poll(memory) {
                    let offer = &self.offers[self.polled];
                    assert_eq!(
                        id, offer.id,
                        "a chain was lost: they are used in the order of completion"
                    );
                    let expect = total(&offer.bufs, true);
                    assert_eq!(u64::from(len), expect);
                    let writable = offer.bufs.iter().filter(|buf| buf.write);
                    let got: Vec<_> = writable
                        .flat_map(|buf| memory.peek(RAM + buf.addr, buf.len as usize))
                        .collect();
                    assert_eq!(got, bytes(self.polled, true, expect));
                    self.polled += 1;
                    self.asleep = false;
                }
            }
            Act::Sleep(more) => {
                self.driver.want_calls(memory, more);
                self.asleep = !self.driver.is_due(memory);
            }
            Act::Wake => {
                self.driver.no_calls(memory);
                self.asleep = false;
            }
        }
    }

    /// Records what the device learns from an access.
    pub fn note(&mut self, op: &Op) {
        let Some(known) = self.driver.known_by(op) else {
            return;
        };
        self.seen = self.driver.published();
        if !self.awaits {
            self.known = known;
        }
    }

    /// Whether it sleeps although the event that it waits for has occurred.
    pub fn is_due(&self, memory: &MockMemory) -> bool {
        self.asleep && self.driver.is_due(memory)
    }
}
