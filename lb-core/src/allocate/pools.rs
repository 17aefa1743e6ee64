//! The pools: which one an address is of, in what order they are tried, how full they are.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    error::Purpose,
    intervals::{AddressSet, count_buggy, len},
};
use crate::model::{AddressRange, Family, ObjectName, Pool, Service, Snapshot};

/// How full a pool is, in addresses. A pool with more than can be counted has [`u64::MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// That Services have, each once.
    pub assigned: Count,
    /// That are free: without those that nobody is given.
    pub available: Count,
    /// Parts of the pool that nobody is given, because they are there for something else.
    pub left_out: Vec<(AddressRange, Purpose)>,
}

/// Addresses of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// IPv4.
    pub v4: u64,
    /// IPv6.
    pub v6: u64,
}

impl Count {
    fn of_mut(&mut self, family: Family) -> &mut u64 {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// A pool and its name.
pub(super) type NamedPool<'a> = (&'a str, &'a Pool);

/// The pools of a snapshot.
pub(super) struct Pools<'a> {
    snapshot: &'a Snapshot,
    /// By the first address; they do not overlap.
    ranges: BTreeMap<IpAddr, (AddressRange, &'a str)>,
    /// Addresses that are there for something else.
    in_use: Vec<(AddressRange, Purpose)>,
    never: AddressSet,
}

impl<'a> Pools<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let of_pool = |(name, pool): (&'a String, &'a Pool)| {
            pool.ranges.iter().map(move |range| (range.first(), (*range, name.as_str())))
        };
        let nodes = snapshot.nodes.iter().flat_map(|(name, node)| {
            let of_node = node.addresses.iter().filter_map(|address| AddressRange::new(*address, *address));
            of_node.map(|range| (range, Purpose::Node(name.to_string())))
        });
        let service_cidrs = snapshot.service_cidrs.iter().flat_map(|(name, networks)| {
            let ranges = networks.iter().copied().map(AddressRange::from);
            ranges.map(|range| (range, Purpose::ServiceCidr(name.clone())))
        });
        let in_use: Vec<_> = nodes.chain(service_cidrs).collect();
        let mut never = AddressSet::default();
        in_use.iter().for_each(|(range, _)| never.insert_range(range));
        Self { snapshot, ranges: snapshot.pools.iter().flat_map(of_pool).collect(), in_use, never }
    }

    pub fn get(&self, name: &str) -> Option<NamedPool<'a>> {
        self.snapshot.pools.get_key_value(name).map(|(name, pool)| (name.as_str(), pool))
    }

    /// The pool that has an address in one of its ranges.
    pub fn of(&self, address: &IpAddr) -> Option<NamedPool<'a>> {
        let (_, (range, name)) = self.ranges.range(..=*address).next_back()?;
        self.get(name).filter(|_| range.contains(address))
    }

    /// For what an address is there, if nobody is given it.
    pub fn purpose_of(&self, address: &IpAddr) -> Option<&Purpose> {
        let is_never = self.never.contains(address);
        let mut uses = self.in_use.iter().filter(|_| is_never);
        uses.find(|(range, _)| range.contains(address)).map(|(_, purpose)| purpose)
    }

    pub fn never(&self) -> &AddressSet {
        &self.never
    }

    pub fn admits(&self, pool: &Pool, name: &ObjectName, service: &Service) -> bool {
        pool.service_allocation.as_ref().is_none_or(|restriction| {
            let namespace_labels = self.snapshot.namespaces.get(&*name.namespace);
            restriction.admits(&name.namespace, namespace_labels, &service.labels)
        })
    }

    /// Those from which a Service gets addresses without asking: first those that are restricted to it and others, in the order of
    /// their priorities, then those for all (MetalLB: `internal/allocator/allocator.go`). Only if none of the first has anything the
    /// second are looked at.
    pub fn open_to(&self, name: &ObjectName, service: &Service) -> [Vec<NamedPool<'a>>; 2] {
        let open = self.snapshot.pools.iter().filter(|(_, pool)| pool.auto_assign);
        let open = open.filter(|(_, pool)| self.admits(pool, name, service));
        let open = open.map(|(name, pool)| (name.as_str(), pool));
        let (mut restricted, for_all): (Vec<_>, Vec<_>) =
            open.partition(|(_, pool)| pool.service_allocation.is_some());
        restricted.sort_by_key(|(_, pool)| {
            let priority = pool.service_allocation.as_ref().and_then(|restriction| restriction.priority);
            (priority.is_none(), priority)
        });
        [restricted, for_all]
    }

    pub fn counts<'b>(&self, held: impl Iterator<Item = &'b IpAddr>) -> BTreeMap<String, PoolCounts> {
        let mut counts: BTreeMap<&str, PoolCounts> = BTreeMap::new();
        for (name, pool) in &self.snapshot.pools {
            let of_pool = counts.entry(name).or_default();
            for range in &pool.ranges {
                let count =
                    |range: &AddressRange| len(range) - if pool.avoid_buggy { count_buggy(range) } else { 0 };
                let size = count(range) - self.never.within(range).map(|part| count(&part)).sum::<u128>();
                let available = of_pool.available.of_mut(Family::of(&range.first()));
                *available = available.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
                of_pool.left_out.extend(self.in_use_within(range));
            }
        }
        for address in held {
            let Some((name, pool)) = self.of(address) else { continue };
            let of_pool = counts.entry(name).or_default();
            let family = Family::of(address);
            *of_pool.assigned.of_mut(family) += 1;
            let is_countable = *of_pool.available.of_mut(family) < u64::MAX;
            // What was never free is not less free now.
            if is_countable && self.purpose_of(address).is_none() && !(pool.avoid_buggy && is_buggy(address))
            {
                let available = of_pool.available.of_mut(family);
                *available = available.saturating_sub(1);
            }
        }
        counts.into_iter().map(|(name, counts)| (name.to_owned(), counts)).collect()
    }

    fn in_use_within(&self, range: &AddressRange) -> impl Iterator<Item = (AddressRange, Purpose)> + '_ {
        let range = *range;
        let within =
            move |(part, purpose): &(AddressRange, Purpose)| Some((part.within(&range)?, purpose.clone()));
        self.in_use.iter().filter_map(within)
    }
}

/// Addresses that some devices take for a network's own, or its broadcast.
pub(super) fn is_buggy(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255))
}
