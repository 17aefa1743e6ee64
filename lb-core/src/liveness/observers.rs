//! Who probes whom: computed alike by everybody, from nothing but the legs of a segment.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use sha2::{Digest, Sha256};

use super::verdict::Leg;

/// The observers of a leg in the order in which they are asked, best first; as many as are ever needed.
pub(super) type Order = Vec<Leg>;

/// Longest order that is kept: if so many die together, the rest of the cluster has other ways to notice.
const DEPTH: usize = 8;

/// For each leg of a segment its observers: legs stand in a ring by their hashes, and the next ones after a leg observe it. So each
/// observes as many as any other, and never more than [`DEPTH`], whoever dies.
pub(super) fn orders(legs: &BTreeSet<Leg>) -> BTreeMap<Leg, Order> {
    let mut ring: Vec<(u64, Leg)> = legs.iter().map(|leg| (hash(*leg), *leg)).collect();
    ring.sort_unstable();
    let after = |place: usize| ring.iter().cycle().skip(place + 1).map(|(_, observer)| *observer);
    let depth = DEPTH.min(ring.len().saturating_sub(1));
    ring.iter().enumerate().map(|(place, (_, leg))| (*leg, after(place).take(depth).collect())).collect()
}

fn hash(leg: Leg) -> u64 {
    let digest = match leg {
        IpAddr::V4(v4) => Sha256::digest(v4.octets()),
        IpAddr::V6(v6) => Sha256::digest(v6.octets()),
    };
    digest.iter().take(8).fold(0, |word, octet| word << 8 | u64::from(*octet))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legs(count: u8) -> BTreeSet<Leg> {
        (1..=count).map(|host| IpAddr::from([10, 0, 0, host])).collect()
    }

    #[test]
    fn the_load_is_even_and_a_leg_that_goes_changes_only_its_own_duties() {
        let before = orders(&legs(100));
        let mut duties: BTreeMap<Leg, usize> = BTreeMap::new();
        before.values().flat_map(|order| &order[..2]).for_each(|leg| *duties.entry(*leg).or_default() += 1);
        assert!(duties.len() == 100 && duties.values().all(|count| *count == 2), "{duties:?}");

        let gone = IpAddr::from([10, 0, 0, 100]);
        for (leg, order) in orders(&legs(99)) {
            let kept: Vec<Leg> = before[&leg].iter().copied().filter(|observer| *observer != gone).collect();
            assert!(order.starts_with(&kept), "{leg}: {order:?} was {:?}", before[&leg]);
        }
    }

    #[test]
    fn nobody_observes_itself_and_two_observe_each_other() {
        assert_eq!(orders(&legs(1)).values().map(Vec::len).sum::<usize>(), 0);
        let pair = orders(&legs(2));
        assert!(pair.iter().all(|(leg, order)| order.len() == 1 && order[0] != *leg));
    }
}
