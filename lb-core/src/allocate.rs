//! Which addresses Services get: a pure function of what is there, so that nodes without a controller agree.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::model::{Family, ObjectName, Pool, Service, Snapshot};

/// Addresses of Services, and why others have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// By Service, in the order of its families.
    pub addresses: BTreeMap<ObjectName, Vec<IpAddr>>,
    /// By Service.
    pub errors: BTreeMap<ObjectName, AllocationError>,
}

/// Why a Service has no address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum AllocationError {
    /// Asked for an address that no pool has.
    #[error("{address} is in no IPAddressPool: add it to one, or {claim}")]
    OutsidePools {
        /// The address.
        address: IpAddr,
        /// By what it is wanted.
        claim: Claim,
    },
    /// Asked for an address that another Service has.
    #[error("{address} belongs to Service {holder}, {precedence}: {claim}, or let that Service give it up")]
    Taken {
        /// The address.
        address: IpAddr,
        /// By what it is wanted.
        claim: Claim,
        /// Who has it.
        holder: ObjectName,
        /// Why it has it.
        precedence: Precedence,
    },
    /// Asked for an address that ends with 0 or 255.
    #[error("{address} ends with 0 or 255, and its IPAddressPool {pool} has avoidBuggyIPs: {claim}")]
    Buggy {
        /// The address.
        address: IpAddr,
        /// By what it is wanted.
        claim: Claim,
        /// Its pool.
        pool: String,
    },
    /// Asked for a pool that is not there.
    #[error("there is no IPAddressPool {pool}")]
    NoPool {
        /// The pool.
        pool: String,
    },
    /// Asked for an address of a pool that is not for it.
    #[error(
        "{address} is of IPAddressPool {pool}, whose serviceAllocation does not admit this Service: {claim}"
    )]
    Reserved {
        /// The address.
        address: IpAddr,
        /// By what it is wanted.
        claim: Claim,
        /// Its pool.
        pool: String,
    },
    /// Asked for a pool that is not for it.
    #[error(
        "the serviceAllocation of IPAddressPool {pool} does not admit this Service: ask for another pool"
    )]
    NotAdmitted {
        /// The pool.
        pool: String,
    },
    /// No pool has what is needed.
    #[error(
        "no IPAddressPool that is open to the Service has a free address of each family that it needs ({families})"
    )]
    Exhausted {
        /// The families, for people.
        families: String,
    },
}

/// By what a Service wants an address; it shows as what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Claim {
    /// Its status says that it has it.
    #[error("take it out of this status, and the Service gets another")]
    Held,
    /// Its annotation, or `spec.loadBalancerIP`.
    #[error("ask for another address")]
    Requested,
}

/// Why of two Services that want one address this one has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Precedence {
    /// By its status, and the other asks for it.
    #[error("which has it already, by its status.loadBalancer.ingress")]
    Held,
    /// By `metadata.creationTimestamp`.
    #[error("which is older")]
    Older,
    /// The other has no `metadata.creationTimestamp`.
    #[error("which has a metadata.creationTimestamp, as this one has not")]
    Dated,
    /// Neither is older.
    #[error("which comes first by namespace and name")]
    First,
}

/// Services keep the addresses that they have; then those that ask for one get it; then all others, the lowest that is free. In each
/// of the three the oldest comes first, and those whose age is not known come last, by namespace and name.
pub fn allocate(snapshot: &Snapshot) -> Allocation {
    let mut allocator = Allocator { snapshot, holders: BTreeMap::new(), allocation: Allocation::default() };
    let mut services: Vec<_> = snapshot.services.iter().collect();
    services.sort_by(|(_, a), (_, b)| by_age(a, b));
    let (has, wants): (Vec<_>, Vec<_>) = services.into_iter().partition(|(_, service)| is_held(service));
    for (name, service) in has {
        allocator.take(name, service, Claim::Held);
    }
    let (asks, any): (Vec<_>, Vec<_>) =
        wants.into_iter().partition(|(_, service)| !service.requested.is_empty());
    for (name, service) in asks {
        allocator.take(name, service, Claim::Requested);
    }
    for (name, service) in any {
        allocator.choose(name, service);
    }
    allocator.allocation
}

struct Allocator<'a> {
    snapshot: &'a Snapshot,
    holders: BTreeMap<IpAddr, (&'a ObjectName, &'a Service)>,
    allocation: Allocation,
}

impl<'a> Allocator<'a> {
    fn take(&mut self, name: &'a ObjectName, service: &'a Service, claim: Claim) {
        let addresses = match claim {
            Claim::Held => &service.ingress,
            Claim::Requested => &service.requested,
        };
        for address in addresses {
            if let Err(error) = self.check(name, service, *address, claim) {
                self.allocation.errors.insert(name.clone(), error);
                return;
            }
        }
        self.give(name, service, addresses.clone());
    }

    fn check(
        &self,
        name: &ObjectName,
        service: &Service,
        address: IpAddr,
        claim: Claim,
    ) -> Result<(), AllocationError> {
        if let Some((holder, held_by)) = self.holders.get(&address) {
            let precedence = Precedence::of(held_by, service);
            return Err(AllocationError::Taken { address, claim, holder: (*holder).clone(), precedence });
        }
        let holds = |pool: &Pool| pool.ranges.iter().any(|range| range.contains(&address));
        match self.snapshot.pools.iter().find(|(_, pool)| holds(pool)) {
            None => Err(AllocationError::OutsidePools { address, claim }),
            Some((pool_name, pool)) if pool.avoid_buggy && is_buggy(&address) => {
                Err(AllocationError::Buggy { address, claim, pool: pool_name.clone() })
            }
            Some((pool_name, pool)) if !self.admits(pool, name, service) => {
                Err(AllocationError::Reserved { address, claim, pool: pool_name.clone() })
            }
            Some(_) => Ok(()),
        }
    }

    fn choose(&mut self, name: &'a ObjectName, service: &'a Service) {
        let found = match &service.requested_pool {
            Some(pool) => match self.snapshot.pools.get(pool) {
                None => Err(AllocationError::NoPool { pool: pool.clone() }),
                Some(found) if !self.admits(found, name, service) => {
                    Err(AllocationError::NotAdmitted { pool: pool.clone() })
                }
                Some(found) => Ok(self.free(found, &service.families)),
            },
            None => {
                let mut pools: Vec<&Pool> = self.snapshot.pools.values().collect();
                pools.retain(|pool| pool.auto_assign && self.admits(pool, name, service));
                pools.sort_by_key(|pool| order(pool));
                Ok(pools.into_iter().find_map(|pool| self.free(pool, &service.families)))
            }
        };
        match found {
            Ok(Some(addresses)) => self.give(name, service, addresses),
            Ok(None) => {
                let families: Vec<_> = service.families.iter().map(|family| format!("{family:?}")).collect();
                let error = AllocationError::Exhausted { families: families.join(", ") };
                self.allocation.errors.insert(name.clone(), error);
            }
            Err(error) => {
                self.allocation.errors.insert(name.clone(), error);
            }
        }
    }

    fn admits(&self, pool: &Pool, name: &ObjectName, service: &Service) -> bool {
        pool.service_allocation.as_ref().is_none_or(|restriction| {
            let namespace_labels = self.snapshot.namespaces.get(&name.namespace);
            restriction.admits(&name.namespace, namespace_labels, &service.labels)
        })
    }

    /// The lowest free address of each family; `None` if one has none.
    fn free(&self, pool: &Pool, families: &[Family]) -> Option<Vec<IpAddr>> {
        families.iter().map(|family| self.lowest(pool, *family)).collect()
    }

    fn lowest(&self, pool: &Pool, family: Family) -> Option<IpAddr> {
        for range in pool.ranges.iter().filter(|range| Family::of(&range.first()) == family) {
            // At most as many steps as addresses are held, and two in each 256 that are left out.
            let mut next = Some(range.first());
            while let Some(address) = next.filter(|address| range.contains(address)) {
                let is_out = pool.avoid_buggy && is_buggy(&address);
                if !is_out && !self.holders.contains_key(&address) {
                    return Some(address);
                }
                next = successor(address);
            }
        }
        None
    }

    fn give(&mut self, name: &'a ObjectName, service: &'a Service, addresses: Vec<IpAddr>) {
        for address in &addresses {
            self.holders.insert(*address, (name, service));
        }
        self.allocation.addresses.insert(name.clone(), addresses);
    }
}

impl Precedence {
    /// Of two Services of which the first has an address that the second wants.
    fn of(holder: &Service, other: &Service) -> Self {
        match (is_held(holder) && !is_held(other), by_age(holder, other), other.created) {
            (true, ..) => Self::Held,
            (false, Ordering::Less, Some(_)) => Self::Older,
            (false, Ordering::Less, None) => Self::Dated,
            (false, Ordering::Equal | Ordering::Greater, _) => Self::First,
        }
    }
}

fn is_held(service: &Service) -> bool {
    !service.ingress.is_empty()
}

fn by_age(a: &Service, b: &Service) -> Ordering {
    let key = |service: &Service| (service.created.is_none(), service.created);
    key(a).cmp(&key(b))
}

/// Pools with `serviceAllocation` come first, among them those with a priority, the lowest first (MetalLB:
/// `internal/allocator/allocator.go`).
fn order(pool: &Pool) -> impl Ord + use<> {
    let priority = pool.service_allocation.as_ref().map(|restriction| restriction.priority);
    (priority.is_none(), priority.flatten().is_none(), priority)
}

fn is_buggy(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255))
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroI64;

    use crate::model::{
        Operator, Requirement, Selector, ServiceAllocation,
        testing::{name, pool, service},
    };

    fn snapshot(services: &[(&str, Service)]) -> Snapshot {
        Snapshot {
            services: services.iter().map(|(n, service)| (name(n), service.clone())).collect(),
            pools: [("main".to_owned(), pool("192.0.2.0-192.0.2.3,2001:db8::1-2001:db8::2"))].into(),
            ..Snapshot::default()
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    #[test]
    fn what_is_had_stays_what_is_asked_for_comes_next_and_the_rest_by_name() {
        let mut has = service();
        has.ingress = vec![address("192.0.2.1")];
        let mut asks = service();
        asks.requested = vec![address("192.0.2.0")];
        let allocation = allocate(&snapshot(&[("a", service()), ("b", asks), ("c", has), ("d", service())]));
        let addresses: Vec<_> =
            allocation.addresses.values().map(|addresses| addresses[0].to_string()).collect();
        assert_eq!(addresses, ["192.0.2.2", "192.0.2.0", "192.0.2.1", "192.0.2.3"]);
        assert_eq!(allocation.errors, BTreeMap::new());
    }

    #[test]
    fn two_that_ask_for_one_address_and_one_that_asks_for_none_of_ours() {
        let asking = |text| Service { requested: vec![address(text)], ..service() };
        let services = [("a", asking("192.0.2.1")), ("b", asking("192.0.2.1")), ("c", asking("203.0.113.1"))];
        let allocation = allocate(&snapshot(&services));
        let taken = AllocationError::Taken {
            address: address("192.0.2.1"),
            claim: Claim::Requested,
            holder: name("a"),
            precedence: Precedence::First,
        };
        let outside =
            AllocationError::OutsidePools { address: address("203.0.113.1"), claim: Claim::Requested };
        assert_eq!(allocation.errors, [(name("b"), taken), (name("c"), outside)].into());
    }

    #[test]
    fn the_oldest_gets_the_address_that_several_ask_for_unless_one_has_it() {
        let asking = |created| Service { created, requested: vec![address("192.0.2.1")], ..service() };
        let holding = |created| Service { created, ingress: vec![address("192.0.2.1")], ..service() };
        for (a, b, expected) in [
            (asking(Some(2)), asking(Some(1)), ("b", Precedence::Older)),
            (asking(None), asking(Some(1)), ("b", Precedence::Dated)),
            (asking(Some(1)), asking(Some(1)), ("a", Precedence::First)),
            (asking(None), asking(None), ("a", Precedence::First)),
            (asking(Some(1)), holding(Some(2)), ("b", Precedence::Held)),
            (holding(Some(2)), holding(Some(1)), ("b", Precedence::Older)),
        ] {
            let errors = allocate(&snapshot(&[("a", a), ("b", b)])).errors.into_values();
            let found: Vec<_> = errors
                .map(|error| match error {
                    AllocationError::Taken { holder, precedence, .. } => (holder, precedence),
                    other => panic!("{other}"),
                })
                .collect();
            assert_eq!(found, [(name(expected.0), expected.1)]);
        }
    }

    #[test]
    fn the_oldest_chooses_first() {
        let of = |created| Service { created, ..service() };
        let allocation =
            allocate(&snapshot(&[("a", of(None)), ("b", of(Some(2))), ("c", of(Some(1))), ("d", of(None))]));
        let given: Vec<_> = allocation.addresses.values().map(|addresses| addresses[0].to_string()).collect();
        assert_eq!(given, ["192.0.2.2", "192.0.2.1", "192.0.2.0", "192.0.2.3"]);
    }

    #[test]
    fn both_families_come_from_one_pool_or_not_at_all() {
        let dual = Service { families: vec![Family::V6, Family::V4], ..service() };
        let allocation = allocate(&snapshot(&[("a", dual.clone()), ("b", dual.clone()), ("c", dual)]));
        let b = vec![address("2001:db8::2"), address("192.0.2.1")];
        assert_eq!(allocation.addresses.get(&name("b")), Some(&b));
        assert!(matches!(allocation.errors[&name("c")], AllocationError::Exhausted { .. }));
    }

    fn restricted(ranges: &str, restriction: ServiceAllocation) -> Pool {
        Pool { service_allocation: Some(restriction), ..pool(ranges) }
    }

    fn with_label(key: &str) -> Vec<Selector> {
        vec![Selector { requirements: vec![Requirement { key: key.to_owned(), operator: Operator::Exists }] }]
    }

    #[test]
    fn a_pool_gives_to_those_that_its_service_allocation_admits_and_to_no_others() {
        let mut labelled = service();
        labelled.labels.insert("tier".to_owned(), "a".to_owned());
        let mut asks = service();
        asks.requested = vec![address("198.51.100.9")];
        let mut pinned = service();
        pinned.requested_pool = Some("lab".to_owned());
        let services = [("a", labelled), ("b", service()), ("asks", asks), ("pinned", pinned)];
        let allowed = |restriction: ServiceAllocation, namespaces: &[(&str, &str)]| {
            let mut snapshot = snapshot(&services);
            snapshot.pools =
                [("lab".to_owned(), restricted("198.51.100.1-198.51.100.9", restriction))].into();
            snapshot.namespaces = namespaces
                .iter()
                .map(|(name, label)| ((*name).to_owned(), [((*label).to_owned(), String::new())].into()))
                .collect();
            let allocation = allocate(&snapshot);
            let count = allocation.addresses.len();
            let names = allocation.addresses.into_keys().map(|service| service.name);
            (names.collect::<Vec<_>>().join(" "), count, allocation.errors)
        };
        let by_label = ServiceAllocation { service_selectors: with_label("tier"), ..Default::default() };
        let (names, _, errors) = allowed(by_label, &[]);
        assert_eq!(names, "a");
        let reserved = AllocationError::Reserved {
            address: address("198.51.100.9"),
            claim: Claim::Requested,
            pool: "lab".to_owned(),
        };
        assert_eq!(errors[&name("asks")], reserved);
        assert_eq!(errors[&name("pinned")], AllocationError::NotAdmitted { pool: "lab".to_owned() });
        assert!(matches!(errors[&name("b")], AllocationError::Exhausted { .. }));

        let by_name = |namespace: &str| ServiceAllocation {
            namespaces: [namespace.to_owned()].into(),
            ..Default::default()
        };
        assert_eq!(allowed(by_name("default"), &[]).1, 4);
        assert_eq!(allowed(by_name("other"), &[]).1, 0);
        let by_namespace_label =
            || ServiceAllocation { namespace_selectors: with_label("team"), ..Default::default() };
        assert_eq!(allowed(by_namespace_label(), &[("default", "team")]).1, 4);
        assert_eq!(allowed(by_namespace_label(), &[("default", "x"), ("other", "team")]).1, 0);
        assert_eq!(allowed(by_namespace_label(), &[]).1, 0, "no Namespace is known: nobody is admitted");
        let both = ServiceAllocation { namespaces: ["default".to_owned()].into(), ..by_namespace_label() };
        assert_eq!(allowed(both, &[]).1, 4);
    }

    #[test]
    fn restricted_pools_come_first_by_priority_then_by_name() {
        let of = |priority| ServiceAllocation { priority: NonZeroI64::new(priority), ..Default::default() };
        let mut snapshot = snapshot(&[]);
        for (pool_name, last, restriction) in
            [("a", 1, None), ("b", 2, Some(0)), ("c", 3, Some(0)), ("d", 4, Some(20)), ("e", 5, Some(3))]
        {
            let mut one = pool(&format!("203.0.113.{last}-203.0.113.{last}"));
            one.service_allocation = restriction.map(of);
            snapshot.pools.insert(pool_name.to_owned(), one);
        }
        snapshot.services = ["1", "2", "3", "4", "5"].iter().map(|n| (name(n), service())).collect();
        let addresses = allocate(&snapshot).addresses.into_values();
        let given: Vec<_> = addresses.map(|addresses| addresses[0].to_string()).collect();
        assert_eq!(given, ["203.0.113.5", "203.0.113.4", "203.0.113.2", "203.0.113.3", "203.0.113.1"]);
    }

    #[test]
    fn buggy_addresses_are_left_out() {
        let mut snapshot = snapshot(&[("a", service())]);
        snapshot.pools.values_mut().for_each(|pool| pool.avoid_buggy = true);
        assert_eq!(allocate(&snapshot).addresses[&name("a")], [address("192.0.2.1")]);
    }
}
