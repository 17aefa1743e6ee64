//! Tables of VIPs that are spread over nodes.

use std::collections::BTreeMap;

use lb_common::layout::vip_flags;

use super::Placer;
use crate::{liveness::Leg, spread::Shares};

impl Placer<'_> {
    /// A table for each set of nodes that may own in a segment: VIPs with the same nodes have it in common. What finds no room in
    /// `SPREAD` has one owner.
    pub(super) fn place_shares(&mut self) {
        let spread = self.plan.vips.iter().filter(|(_, planned)| planned.spread).map(|(address, _)| *address);
        let wanted: Vec<_> = spread.map(Into::into).filter(|vip| self.armed.vips.contains_key(vip)).collect();
        let count = wanted.iter().map(|vip| self.armed.vips[vip].ranked.len()).sum();
        let mut room = self.room("SPREAD", self.local.sizes.spread, count);
        let mut known: BTreeMap<(u16, Vec<Leg>), usize> = BTreeMap::new();
        for vip in wanted {
            let Some(armed) = self.armed.vips.get_mut(&vip) else { continue };
            if armed.ranked.len() > room {
                continue;
            }
            room -= armed.ranked.len();
            armed.entry.flags |= vip_flags::SPREAD;
            for (segment, ranked) in &armed.ranked {
                let mut legs = ranked.clone();
                legs.sort_unstable();
                let tables = &mut self.armed.tables;
                let table = *known.entry((*segment, legs)).or_insert_with_key(|(segment, legs)| {
                    tables.push((*segment, Shares::new(&self.maps.config.row_key, legs)));
                    tables.len() - 1
                });
                armed.tables.insert(*segment, table);
            }
        }
    }
}
