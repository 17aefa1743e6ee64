//! What the allocator remembers: what it has given, and what was given up lately.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use super::{Allocation, holders::Terms};
use crate::model::{ObjectName, Service, Snapshot};

/// Addresses of which it is remembered who gave them up.
const MOST_FREED: usize = 65_536;

/// What was given, and given up.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// By Service: what it has, and the terms on which it got it.
    settled: BTreeMap<ObjectName, Settled>,
    freed: BTreeMap<IpAddr, Freed>,
    by_time: BTreeSet<(Instant, IpAddr)>,
    by_service: BTreeMap<ObjectName, BTreeSet<IpAddr>>,
}

#[derive(Clone, Debug)]
struct Settled {
    addresses: Vec<IpAddr>,
    pool: Option<String>,
    terms: Terms,
}

#[derive(Clone, Debug)]
struct Freed {
    at: Instant,
    by: ObjectName,
}

impl Past {
    /// What a Service was given, if anything.
    pub fn given(&self, name: &ObjectName) -> Option<&[IpAddr]> {
        self.settled.get(name).map(|settled| settled.addresses.as_slice())
    }

    /// The pool of which that was.
    pub fn pool(&self, name: &ObjectName) -> Option<&str> {
        self.settled.get(name)?.pool.as_deref()
    }

    /// Whether a Service got what it has on the terms of now.
    pub fn is_unchanged(&self, name: &ObjectName, service: &Service) -> bool {
        self.settled.get(name).is_some_and(|settled| settled.terms == Terms::of(service))
    }

    /// Addresses that a Service of this name has had, and nobody since.
    pub fn former(&self, name: &ObjectName) -> impl Iterator<Item = IpAddr> + '_ {
        self.by_service.get(name).into_iter().flatten().copied()
    }

    /// Addresses that were given up since then.
    pub fn freed_since(&self, since: Option<Instant>) -> impl Iterator<Item = IpAddr> + '_ {
        self.by_time
            .iter()
            .rev()
            .map_while(move |(at, address)| since.is_none_or(|since| *at > since).then_some(*address))
    }

    /// Services that are gone give up what they had.
    pub fn forget_gone(&mut self, snapshot: &Snapshot, now: Instant) {
        let gone = self.settled.extract_if(.., |name, _| !snapshot.services.contains_key(name));
        let gone: Vec<_> = gone.collect();
        for (name, settled) in gone {
            settled.addresses.into_iter().for_each(|address| self.free(address, &name, now));
        }
    }

    /// What Services have from now on.
    pub fn settle(&mut self, snapshot: &Snapshot, allocation: &Allocation, now: Instant) {
        let before = std::mem::take(&mut self.settled);
        for (name, addresses) in &allocation.addresses {
            if let Some(service) = snapshot.services.get(name) {
                let settled = Settled {
                    addresses: addresses.clone(),
                    pool: allocation.pools.get(name).cloned(),
                    terms: Terms::of(service),
                };
                self.settled.insert(name.clone(), settled);
            }
        }
        let given: BTreeSet<IpAddr> = allocation.addresses.values().flatten().copied().collect();
        for (name, settled) in before {
            let lost = settled.addresses.into_iter().filter(|address| !given.contains(address));
            lost.for_each(|address| self.free(address, &name, now));
        }
        given.iter().for_each(|address| self.unfree(address));
        while self.freed.len() > MOST_FREED {
            let Some((_, oldest)) = self.by_time.first().copied() else { return };
            self.unfree(&oldest);
        }
    }

    fn free(&mut self, address: IpAddr, by: &ObjectName, now: Instant) {
        self.unfree(&address);
        self.by_time.insert((now, address));
        self.by_service.entry(by.clone()).or_default().insert(address);
        self.freed.insert(address, Freed { at: now, by: by.clone() });
    }

    fn unfree(&mut self, address: &IpAddr) {
        let Some(freed) = self.freed.remove(address) else { return };
        self.by_time.remove(&(freed.at, *address));
        if let Some(addresses) = self.by_service.get_mut(&freed.by) {
            addresses.remove(address);
            if addresses.is_empty() {
                self.by_service.remove(&freed.by);
            }
        }
    }
}
