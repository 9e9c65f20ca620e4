// SPDX-License-Identifier: GPL-2.0

//! A split ring as a ring of any format.

use super::SplitRing;
use crate::chain::Chain;
use crate::desc::RawUsed;
use crate::fault::Fault;
use crate::memory::Memory;
use crate::ring::{CompleteWork, GetWork};
use crate::segment::{Segments, Translate};

impl GetWork for SplitRing {
    #[inline(always)]
    fn size(&self) -> u16 {
        self.size()
    }

    #[inline(always)]
    fn next_chain<M: Memory, T: Translate>(
        &mut self,
        memory: &M,
        table: &T,
        out: &mut Segments<'_>,
    ) -> Result<Option<Chain>, Fault> {
        self.next_chain(memory, table, out)
    }

    #[inline(always)]
    fn rewind(&mut self, chains: u16, _slots: u16) {
        self.rewind(chains);
    }

    #[inline(always)]
    fn has_work<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        self.has_work(memory)
    }

    #[inline(always)]
    fn is_drained(&self) -> bool {
        self.is_drained()
    }

    #[inline(always)]
    fn kicks_are_on(&self) -> bool {
        self.kicks_are_on()
    }

    #[inline(always)]
    fn disable_kick<M: Memory>(&mut self, memory: &M) -> Result<(), Fault> {
        self.disable_kick(memory)
    }

    #[inline(always)]
    fn enable_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        self.enable_kick(memory)
    }

    #[inline(always)]
    fn await_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        self.await_kick(memory)
    }
}

impl CompleteWork for SplitRing {
    #[inline(always)]
    fn used_entry(head: u16, len: u32) -> RawUsed {
        Self::used_entry(head, len)
    }

    #[inline(always)]
    fn complete<M: Memory>(&mut self, memory: &M, used: &[RawUsed]) -> Result<(), Fault> {
        self.complete(memory, used)
    }

    #[inline(always)]
    fn complete_in_order<M: Memory>(
        &mut self,
        memory: &M,
        used: &[RawUsed],
        chains: &[u16],
    ) -> Result<(), Fault> {
        self.complete_in_order(memory, used, chains)
    }

    #[inline(always)]
    fn needs_call<M: Memory>(&mut self, memory: &M) -> bool {
        self.needs_call(memory)
    }
}
