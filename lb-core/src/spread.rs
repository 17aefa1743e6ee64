//! Who answers which clients of a VIP that is spread over nodes.

use std::collections::BTreeMap;

use lb_common::{
    hash::HashKey,
    layout::{Client, ClientKey, Port, Row, SHARES, Spread, SpreadKey},
    spread::share_of,
};

use crate::{
    announce::{Place, Recipient},
    armed::ArmedSegment,
    liveness::{Leg, Standing},
    rows::{self, RowBackend},
};

/// Tables of shares: who may answer each, best first. A pure function of the legs, whatever their order: whoever knows the same
/// nodes has the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The best first.
    classes: Vec<Class>,
}

/// Nodes that share alike.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Class {
    legs: Vec<Leg>,
    rows: Vec<Row>,
}

impl Shares {
    /// The tables for these legs, all of them in one segment, the best class of them first; with the key of the cluster's rows.
    pub fn new(key: &HashKey, classes: &[Vec<Leg>]) -> Self {
        Self { classes: classes.iter().map(|legs| Class::new(key, legs)).collect() }
    }

    /// The owner of each share, as nodes stand: of the class that has the best that is well, and if none is, the least bad. Nobody only
    /// if nobody may own.
    pub fn owners(&self, standing: &Standing) -> Vec<Option<Leg>> {
        let all: Vec<Leg> = self.classes.iter().flat_map(|class| &class.legs).copied().collect();
        let class = standing.owner(&all).and_then(|best| self.classes.get(self.class_of(best)?));
        class.map_or_else(|| vec![None; SHARES as usize], |class| class.owners(standing))
    }

    /// In which class a leg is; the first is the best.
    pub fn class_of(&self, leg: Leg) -> Option<usize> {
        self.classes.iter().position(|class| class.legs.contains(&leg))
    }

    /// The shares of one leg.
    pub fn of(&self, leg: Leg, standing: &Standing) -> Spread {
        let mut own = Spread::default();
        let owners = (0..SHARES).zip(self.owners(standing));
        owners.filter(|(_, owner)| *owner == Some(leg)).for_each(|(share, _)| own.add(share));
        own
    }
}

impl Class {
    fn new(key: &HashKey, legs: &[Leg]) -> Self {
        let mut legs = legs.to_vec();
        legs.sort_unstable();
        legs.dedup();
        let nodes: Vec<RowBackend> =
            legs.iter().map(|leg| RowBackend { address: (*leg).into(), port: Port::default() }).collect();
        Self { rows: rows::shares(key, &nodes), legs }
    }

    /// The owner of each share: the best ranked of its first few that is well. Where none of them is, all that are as well as any take
    /// turns.
    fn owners(&self, standing: &Standing) -> Vec<Option<Leg>> {
        let condition = standing.owner(&self.legs).map(|best| standing.condition(best));
        let best: Vec<Leg> =
            self.legs.iter().copied().filter(|leg| Some(standing.condition(*leg)) == condition).collect();
        let owner = |(share, row): (usize, &Row)| {
            let candidates = row.candidates.iter().filter_map(|place| self.legs.get(usize::from(*place)));
            let other = share.checked_rem(best.len()).map(|turn| best[turn]);
            let order: Vec<Leg> = candidates.copied().chain(other).collect();
            standing.owner(&order)
        };
        self.rows.iter().enumerate().map(owner).collect()
    }
}

/// This node's shares of VIPs, by VIP and segment.
pub type Own = BTreeMap<SpreadKey, Spread>;

/// The shares that are new.
pub fn gained(before: &Own, now: &Own) -> Own {
    let mut gained = now.clone();
    for (key, spread) in &mut gained {
        let known = before.get(key).copied().unwrap_or_default();
        spread.words.iter_mut().zip(known.words).for_each(|(word, known)| *word &= !known);
    }
    gained.retain(|_, spread| *spread != Spread::default());
    gained
}

/// Whether a client of a VIP is among these shares.
pub fn is_among(shares: &Own, segment: u32, client: &ClientKey) -> bool {
    let key = SpreadKey { vip: client.vip, segment };
    shares.get(&key).is_some_and(|spread| spread.has(share_of(&client.vip, &client.client)))
}

/// Of the known clients those that are among these shares: where to tell whom. Of links that have gone nobody is told.
pub fn clients_of(
    shares: &Own,
    clients: &BTreeMap<ClientKey, Client>,
    segments: &BTreeMap<u16, ArmedSegment>,
) -> Vec<(Place, Recipient)> {
    let among = clients.iter().filter(|(key, client)| is_among(shares, u32::from(client.segment), key));
    among
        .filter_map(|(key, client)| {
            let device = segments.get(&client.segment)?.link_of(client.ifindex)?;
            Some(((key.vip, device), Recipient { address: key.client, mac: client.mac }))
        })
        .collect()
}

#[cfg(test)]
mod tests;
