// SPDX-License-Identifier: GPL-2.0

//! The IOTLB of a queue: the mappings of the guest's virtual IOMMU that the owner has sent.
//!
//! Each queue has its own, so that an update by the owner waits for one queue at a time.

use kernel::prelude::*;
use vring::IotlbEntry;

/// The most mappings in an IOTLB, as `max_iotlb_entries` of the in-tree vhost.
const MAX_ENTRIES: usize = 2048;

/// An IOTLB of fixed size.
pub(crate) type Iotlb = vring::Iotlb<Entries>;

/// The storage of an [`Iotlb`].
pub(crate) struct Entries(KVVec<IotlbEntry>);

impl AsRef<[IotlbEntry]> for Entries {
    fn as_ref(&self) -> &[IotlbEntry] {
        &self.0
    }
}

impl AsMut<[IotlbEntry]> for Entries {
    fn as_mut(&mut self) -> &mut [IotlbEntry] {
        &mut self.0
    }
}

/// An IOTLB without mappings.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn empty() -> Result<Iotlb> {
    let entries = KVVec::from_elem(IotlbEntry::default(), MAX_ENTRIES, GFP_KERNEL)?;
    Ok(Iotlb::new(Entries(entries)))
}
