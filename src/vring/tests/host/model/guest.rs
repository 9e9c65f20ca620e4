// SPDX-License-Identifier: GPL-2.0

//! The driver's side of the model: what it made available, and what it waits for.

use vring::UserAddr;

use crate::mock::driver::passed;
use crate::mock::{Buf, Driver, MockMemory, RAM};

/// What the driver may do at any time.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Makes visible what it added.
    Publish,
    /// Takes what was used.
    Poll,
    /// Asks for a call after so many more completions, and sleeps unless they are there.
    Sleep(u16),
    /// Goes on without calls.
    Wake,
}

/// A chain as the driver made it.
pub struct Offer {
    pub head: u16,
    pub bufs: Vec<Buf>,
}

/// The guest, and what is known of the device's sleep.
pub struct Guest {
    pub driver: Driver,
    pub offers: Vec<Offer>,
    pub polled: usize,
    /// Position from which a call is due, while asleep.
    pub asleep: Option<u16>,
    pub kicked: bool,
    /// The index that the device read last.
    pub seen: u16,
    /// The one that it read last in order to take what is before it.
    pub avail: u16,
    /// Whether it reads for another reason.
    pub awaits: bool,
}

/// The byte at `offset` of what passes through chain `serial` in one direction.
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

impl Guest {
    pub fn add(&mut self, memory: &MockMemory, read: &[u32], write: &[u32], indirect: bool) {
        let serial = self.offers.len();
        // Far fewer chains than slots are under way.
        let slot = serial as u64 % 64 * 0x400;
        let mut at = slot;
        let mut bufs = Vec::new();
        let lens = read.iter().map(|&len| (len, false));
        for (len, write) in lens.chain(write.iter().map(|&len| (len, true))) {
            let addr = at;
            bufs.push(Buf { addr, len, write });
            at += u64::from(len) + 1;
        }
        let head = if indirect {
            let table = 0x2_0000 + slot;
            let user = UserAddr(RAM + table);
            self.driver.add_indirect(memory, table, user, &bufs)
        } else {
            self.driver.add(memory, &bufs)
        };
        let Some(head) = head else {
            return;
        };
        let content = bytes(serial, false, total(&bufs, false));
        let mut content = content.as_slice();
        for buf in bufs.iter().filter(|buf| !buf.write) {
            let (now, later) = content.split_at(buf.len as usize);
            memory.poke(RAM + buf.addr, now);
            content = later;
        }
        self.offers.push(Offer { head, bufs });
    }

    pub fn act(&mut self, memory: &MockMemory, act: Act) {
        match act {
            Act::Publish => self.kicked |= self.driver.publish(memory),
            Act::Poll => {
                while let Some((head, len)) = self.driver.poll(memory) {
                    let offer = &self.offers[self.polled];
                    assert_eq!(
                        head, offer.head,
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
                    self.asleep = None;
                }
            }
            Act::Sleep(more) => {
                let more = if self.driver.event_idx { more } else { 0 };
                let event = self.driver.last_used.wrapping_add(more);
                self.driver.want_calls(memory, event);
                self.asleep = Some(event);
                if self.is_due(memory) {
                    self.asleep = None;
                }
            }
            Act::Wake => {
                self.driver.no_calls(memory);
                self.asleep = None;
            }
        }
    }

    /// Makes flags and event such that it does not kick for what it publishes next.
    pub fn ask_for_no_kick(&self, memory: &MockMemory) {
        let used = self.driver.addrs.used.0;
        memory.poke16(used, 1);
        let event = used + 4 + 8 * u64::from(self.driver.size);
        memory.poke16(event, self.driver.published.wrapping_sub(1));
    }

    /// Whether it sleeps although what it sleeps for is there.
    pub fn is_due(&self, memory: &MockMemory) -> bool {
        let used = self.driver.used_index(memory);
        self.asleep
            .is_some_and(|event| passed(event, self.driver.last_used, used))
    }
}
