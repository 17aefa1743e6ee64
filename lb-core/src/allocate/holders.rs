//! Who has which address, and who may have it as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
};

use super::error::{Obstacle, Standing};
use crate::model::{AddressRange, Labels, ObjectName, Service, TrafficPolicy};

/// A Service as a holder of addresses.
#[derive(Clone, Copy)]
pub(super) struct Holder<'a> {
    pub name: &'a ObjectName,
    pub service: &'a Service,
    pub standing: Standing,
}

/// On which terms a Service shares an address: with others of the same terms, and of other ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Terms {
    /// Empty where it shares with nobody.
    key: String,
    /// None if it does not matter which pods stand behind.
    backends: Option<Labels>,
    ports: BTreeSet<Port>,
}

type Port = (&'static str, NonZeroU16);

impl Terms {
    pub fn of(service: &Service) -> Self {
        let balanced = service.ports.iter().map(|port| (port.protocol.name(), port.port));
        let others = service.sctp_ports.iter().map(|port| ("SCTP", *port));
        Self {
            key: service.sharing_key.clone(),
            backends: (service.policy == TrafficPolicy::Local).then(|| service.selector.clone()),
            ports: balanced.chain(others).collect(),
        }
    }

    fn obstacle(&self, holder: &Self) -> Option<Obstacle> {
        if holder.key.is_empty() {
            return Some(Obstacle::HolderHasNoKey);
        }
        if self.key.is_empty() {
            return Some(Obstacle::NoKey);
        }
        if self.key != holder.key {
            return Some(Obstacle::OtherKey);
        }
        if self.backends != holder.backends {
            return Some(Obstacle::OtherBackends);
        }
        let (protocol, port) = self.ports.intersection(&holder.ports).next()?;
        Some(Obstacle::Port { port: *port, protocol })
    }
}

/// Who has which address.
#[derive(Default)]
pub(super) struct Holders<'a> {
    by_address: BTreeMap<IpAddr, Vec<(Holder<'a>, Terms)>>,
    by_key: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl<'a> Holders<'a> {
    /// Whoever has the address and cannot share it with a Service of these terms, and why.
    pub fn obstacle(&self, address: &IpAddr, terms: &Terms) -> Option<(Holder<'a>, Obstacle)> {
        let holders = self.by_address.get(address)?;
        holders.iter().find_map(|(holder, of_holder)| Some((*holder, terms.obstacle(of_holder)?)))
    }

    /// The lowest address of a range that others have and that a Service of these terms can have as well.
    pub fn lowest_shared(&self, range: &AddressRange, terms: &Terms) -> Option<IpAddr> {
        let shared = self.by_key.get(&terms.key).filter(|_| !terms.key.is_empty())?;
        let mut within = shared.range(range.first()..=range.last());
        within.find(|address| self.obstacle(address, terms).is_none()).copied()
    }

    pub fn insert(&mut self, address: IpAddr, holder: Holder<'a>, terms: Terms) {
        if !terms.key.is_empty() {
            self.by_key.entry(terms.key.clone()).or_default().insert(address);
        }
        self.by_address.entry(address).or_default().push((holder, terms));
    }

    /// The Service has the address no more.
    pub fn remove(&mut self, address: &IpAddr, name: &ObjectName) {
        let Some(holders) = self.by_address.get_mut(address) else { return };
        holders.retain(|(holder, _)| holder.name != name);
        if holders.is_empty() {
            self.by_address.remove(address);
        }
        // Under its key it is still looked for: what is found there is looked at anyway.
    }

    pub fn addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.by_address.keys()
    }
}
