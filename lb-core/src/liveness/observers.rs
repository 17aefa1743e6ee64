//! Who probes whom: computed alike by everybody, from nothing but the legs of a segment.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::verdict::Leg;

/// The others of a segment in the order in which they observe a leg: legs stand in a ring by their hashes, and the next ones after it
/// that can do so are its observers. So each observes as many as any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    ring: Arc<[Leg]>,
    place: usize,
}

impl Order {
    /// The others, those first that come first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Leg> + '_ {
        let (before, after) = self.ring.split_at(self.place);
        after.iter().skip(1).chain(before).copied()
    }

    /// Those that this leg observes, if each has so many observers and these can be such: it stands behind them in the ring, with too few
    /// others between.
    pub(super) fn observed(&self, observers: usize, can_observe: impl Fn(Leg) -> bool) -> Vec<Leg> {
        let (before, after) = self.ring.split_at(self.place);
        let mut between = 0;
        let backwards = before.iter().rev().chain(after.iter().skip(1).rev()).copied();
        let is_observed = |leg: &Leg| {
            let is_near = between < observers;
            between += usize::from(can_observe(*leg));
            is_near
        };
        backwards.take_while(is_observed).collect()
    }
}

/// The order of each leg of a segment.
pub(super) fn orders(legs: &BTreeSet<Leg>) -> BTreeMap<Leg, Order> {
    let mut ring: Vec<(u64, Leg)> = legs.iter().map(|leg| (hash(*leg), *leg)).collect();
    ring.sort_unstable();
    let ring: Arc<[Leg]> = ring.into_iter().map(|(_, leg)| leg).collect();
    let order = |(place, leg): (usize, &Leg)| (*leg, Order { ring: Arc::clone(&ring), place });
    ring.iter().enumerate().map(order).collect()
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
        let observers = before.values().flat_map(|order| order.iter().take(2));
        observers.for_each(|leg| *duties.entry(leg).or_default() += 1);
        assert!(duties.len() == 100 && duties.values().all(|count| *count == 2), "{duties:?}");

        let gone = IpAddr::from([10, 0, 0, 100]);
        for (leg, order) in orders(&legs(99)) {
            let kept: Vec<Leg> = before[&leg].iter().filter(|observer| *observer != gone).collect();
            assert_eq!(order.iter().collect::<Vec<_>>(), kept, "{leg}");
        }
    }

    #[test]
    fn whom_a_leg_observes_is_what_the_observers_of_all_say() {
        let orders = orders(&legs(40));
        let can_observe = |leg: Leg| hash(leg).is_multiple_of(3);
        for (own, order) in &orders {
            let is_able = |leg: &Leg| leg == own || can_observe(*leg);
            let observes = |order: &Order| order.iter().filter(is_able).take(2).any(|leg| leg == *own);
            let others = orders.iter().filter(|(leg, order)| *leg != own && observes(order));
            let observed: BTreeSet<Leg> = order.observed(2, can_observe).into_iter().collect();
            assert_eq!(observed, others.map(|(leg, _)| *leg).collect(), "{own}");
        }
    }

    #[test]
    fn nobody_observes_itself_and_two_observe_each_other() {
        assert!(orders(&legs(1)).values().all(|order| order.iter().count() == 0));
        let pair = orders(&legs(2));
        assert!(pair.iter().all(|(leg, order)| order.iter().all(|other| other != *leg)));
        assert!(pair.values().all(|order| order.iter().count() == 1));
    }
}
