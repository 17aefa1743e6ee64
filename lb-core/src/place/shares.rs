//! Tables of VIPs that are spread over nodes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lb_common::layout::{Addr, vip_flags};

use super::Placer;
use crate::{armed::Armed, liveness::Leg, ownership::Ranking, spread::Shares};

/// Legs of those that may own, the best class first.
type Classes = Vec<Vec<Leg>>;

impl Placer<'_> {
    /// A table for each set of nodes that may own in a segment: VIPs with the same nodes have it in common. What finds no room in
    /// `SPREAD` has one owner.
    pub(super) fn place_shares(&mut self) {
        let is_known = |vip: &IpAddr| self.armed.vips.contains_key(&Addr::from(*vip));
        let spread = self.plan.vips.iter().filter(|(vip, planned)| planned.spread && is_known(vip));
        let wanted: Vec<(Addr, BTreeMap<u16, Classes>)> =
            spread.map(|(vip, _)| ((*vip).into(), self.classes(vip))).collect();
        let count = wanted.iter().map(|(_, segments)| segments.len()).sum();
        let mut room = self.room("SPREAD", self.local.sizes.spread, count);
        let mut known: BTreeMap<(u16, Classes), usize> = BTreeMap::new();
        for (vip, segments) in wanted {
            let Armed { vips, tables, .. } = Arc::make_mut(&mut self.armed);
            let Some(armed) = vips.get_mut(&vip).filter(|_| segments.len() <= room) else { continue };
            room -= segments.len();
            armed.entry.flags |= vip_flags::SPREAD;
            let table = |(segment, classes)| {
                let table = known.entry((segment, classes)).or_insert_with_key(|(segment, classes)| {
                    tables.push((*segment, Shares::new(&self.maps.config.row_key, classes)));
                    tables.len() - 1
                });
                (segment, *table)
            };
            armed.tables = segments.into_iter().map(table).collect();
        }
    }

    /// Who may own a VIP, by segment: in each class the order of names counts for nothing.
    fn classes(&self, vip: &IpAddr) -> BTreeMap<u16, Classes> {
        let of = |(name, ranking): (&String, &Ranking)| {
            let classes = ranking.classes().map(|nodes| {
                let mut legs: Vec<Leg> = self.claims_as(name, nodes).collect();
                legs.sort_unstable();
                legs
            });
            Some((*self.segments.get(name)?, classes.collect()))
        };
        self.plan.vips.get(vip).into_iter().flat_map(|planned| &planned.segments).filter_map(of).collect()
    }
}
