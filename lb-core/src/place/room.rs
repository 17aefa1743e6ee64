//! Where in the maps there is room.

use std::{collections::BTreeSet, ops::Range};

use lb_common::layout::{Backend, ServiceId, backend_state};

use super::Local;
use crate::maps::Sizes;

/// Parts of the maps that are taken.
pub(super) struct Used {
    /// Runs of rows.
    pub(super) tables: Vec<Range<u32>>,
    /// Runs of backends.
    pub(super) blocks: Vec<Range<u32>>,
    /// Indexes of services.
    pub(super) ids: BTreeSet<u32>,
}

impl Used {
    /// A service's id.
    pub(super) fn id(&mut self, local: &Local) -> Option<ServiceId> {
        let index = (0..local.sizes.services.min(1 << 16)).find(|index| !self.ids.contains(index))?;
        self.ids.insert(index);
        // Another second, another generation: nobody remembers flows for a day.
        Some(ServiceId::new(index as u16, (local.now % u32::from(u16::MAX)) as u16 + 1))
    }

    /// The first of so many free rows.
    pub(super) fn table(&mut self, sizes: &Sizes, length: u32) -> Option<u32> {
        let free = first_fit(&mut self.tables, sizes.table, length)?;
        Some(free.start)
    }

    /// Backends that are in no block.
    pub(super) fn outside_blocks<'a>(&self, backends: &'a [Backend]) -> impl Iterator<Item = &'a [Backend]> {
        let mut blocks = self.blocks.clone();
        blocks.sort_unstable_by_key(|block| block.start);
        let end = backends.len() as u32;
        blocks.push(end..end);
        let mut begin = 0;
        blocks.into_iter().filter_map(move |block| {
            let gap = begin as usize..block.start as usize;
            begin = begin.max(block.end);
            backends.get(gap)
        })
    }

    /// A run of free places among the backends.
    pub(super) fn block(&mut self, backends: &[Backend], length: u32) -> Option<Range<u32>> {
        let mut taken = self.blocks.clone();
        let busy = |(_, backend): &(usize, &Backend)| backend.state != backend_state::FREE;
        taken.extend(
            backends.iter().enumerate().filter(busy).map(|(index, _)| index as u32..index as u32 + 1),
        );
        let free = first_fit(&mut taken, backends.len() as u32, length)?;
        self.blocks.push(free.clone());
        Some(free)
    }
}

/// The first gap that is long enough; it is taken then.
fn first_fit(taken: &mut Vec<Range<u32>>, end: u32, length: u32) -> Option<Range<u32>> {
    taken.sort_unstable_by_key(|range| range.start);
    let mut start = 0;
    for range in taken.iter().filter(|range| !range.is_empty()) {
        if range.start >= start + length {
            break;
        }
        start = start.max(range.end);
    }
    let free = start..start.checked_add(length)?;
    (free.end <= end).then(|| {
        taken.push(free.clone());
        free
    })
}
