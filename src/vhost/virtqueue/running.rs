// SPDX-License-Identifier: GPL-2.0

//! How a virtqueue runs a round, compiled separately for each ring format and each way to guest
//! memory.

use vring::{Access, Fault, Miss, Ring, RingAddrs, Rings};

use super::{Path, Virtqueue};
use crate::kapi::{BusyTime, OwnerMemory};
use crate::vhost::access::Mediation;
use crate::vhost::memory::Table;
use crate::vhost::queues::Queues;
use crate::vhost::round::{Next, Round, Running};

/// A queue for a round, its memory table and mediation, and the place to store a miss.
type Parts<'a, Q, R> = (
    Running<'a, Q, R>,
    &'a Table,
    &'a Mediation,
    &'a mut Option<Miss>,
);

impl<Q: Queues> Virtqueue<Q> {
    /// Runs a round of the queue, if the queue has everything that a round needs.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the guest, or of the owner's dirty log.
    #[inline(always)]
    pub(crate) fn run(
        &mut self,
        owner: OwnerMemory<'_>,
        round: impl Round<Q>,
    ) -> Result<Next, Fault> {
        match self.path {
            Path::Split => run_direct(self.parts(Rings::split), owner, round),
            Path::Packed => self.run_packed(owner, round),
            Path::Nowhere => Ok(Next::Wait),
            Path::Mediated => self.run_mediated(owner, round),
        }
    }

    /// Runs a round on a packed ring, with direct access to the owner's memory.
    // A separate function, so that no stack frame has room for both formats.
    #[inline(never)]
    fn run_packed(&mut self, owner: OwnerMemory<'_>, round: impl Round<Q>) -> Result<Next, Fault> {
        run_direct(self.parts(Rings::packed), owner, round)
    }

    /// Runs a round on memory behind an IOTLB, a dirty log or a change of byte order.
    #[cold]
    #[inline(never)]
    fn run_mediated(
        &mut self,
        owner: OwnerMemory<'_>,
        round: impl Round<Q>,
    ) -> Result<Next, Fault> {
        let (addrs, extents) = (self.rings.addrs(), self.rings.extents());
        let reach = Reach {
            owner,
            addrs,
            extents,
            descs: self.rings.desc_access(),
        };
        match self.rings.is_packed() {
            false => run_mediated(self.parts(Rings::split), &reach, round),
            true => run_mediated(self.parts(Rings::packed), &reach, round),
        }
    }

    /// Collects the parts for a round on `ring`, if all exist.
    #[inline(always)]
    fn parts<R>(&mut self, ring: impl FnOnce(&mut Rings) -> &mut R) -> Option<Parts<'_, Q, R>> {
        let queue = Running {
            ring: ring(&mut self.rings),
            features: self.features,
            state: &mut self.state,
            backend: self.backend.as_mut()?,
            call: self.call.as_ref(),
            busy: BusyTime::new(self.busy_timeout),
            woken: !core::mem::take(&mut self.again),
            scratch: &mut self.scratch,
            lost_to: &mut self.lost_to,
        };
        let table = &**self.table.as_ref()?;
        Some((queue, table, &self.mediation, &mut self.missed))
    }
}

/// Runs a round with direct access to the owner's memory.
#[inline(always)]
fn run_direct<Q: Queues, R: Ring>(
    parts: Option<Parts<'_, Q, R>>,
    owner: OwnerMemory<'_>,
    round: impl Round<Q>,
) -> Result<Next, Fault> {
    match parts {
        Some((queue, table, ..)) => round.run(queue, owner, table),
        None => Ok(Next::Wait),
    }
}

/// The owner's memory and the ring in it, for mediated access.
struct Reach<'a> {
    owner: OwnerMemory<'a>,
    addrs: RingAddrs,
    /// Lengths of the ring's three parts in bytes.
    extents: [u64; 3],
    /// How the device accesses descriptors.
    descs: Access,
}

/// Runs a round on memory behind an IOTLB, a dirty log or a change of byte order.
#[inline(never)]
fn run_mediated<Q: Queues, R: Ring>(
    parts: Option<Parts<'_, Q, R>>,
    reach: &Reach<'_>,
    round: impl Round<Q>,
) -> Result<Next, Fault> {
    let Some((queue, table, mediation, missed)) = parts else {
        return Ok(Next::Wait);
    };
    let memory = mediation.memory(reach.owner, table, &queue.features, reach.addrs);
    let next = mediation
        .log_owed(&memory)
        .and_then(|()| memory.prefetch(reach.extents, reach.descs))
        .and_then(|()| round.run(queue, &memory, &memory));
    let next = mediation.conclude(&memory, next, missed)?;
    Ok(next.unwrap_or(Next::Translate))
}
