//! Services: their tables and backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
};

use lb_common::layout::{
    Addr, Backend, NO_NODE, NameKey, Port, Row, Service, ServiceId, backend_state, name_kind, service_flags,
};

use super::{Placer, Previous, block_of, identity, name_of, retire, room::Used, service_key};
use crate::{
    kept::Carriers,
    plan::{Frontend, KernelReason, ServicePlan},
    rows::{RowBackend, build},
};

impl Placer<'_> {
    pub(super) fn place_services(&mut self) {
        let mut tables: Vec<Range<u32>> = Vec::new();
        let mut blocks: Vec<Range<u32>> = Vec::new();
        let mut ids: BTreeSet<u32> = BTreeSet::new();
        // What lives keeps its place, and what is to go is still in use until it has gone.
        for service in self.current.services.values().filter(|service| service.id.raw != 0) {
            tables.push(service.table_offset..service.table_offset + service.table_length);
            ids.insert(service.id.index());
        }
        for frontend in self.plan.services.keys() {
            blocks.extend(self.current.services.get(&service_key(frontend)).map(block_of));
        }
        self.retire(&blocks);
        let mut used = Used { tables, blocks, ids };
        // Without an entry in `VIPS` nobody answers for an address.
        let known: BTreeSet<&IpAddr> = self.plan.vips.keys().take(self.local.sizes.vips as usize).collect();
        for (frontend, planned) in &self.plan.services {
            if !known.contains(&frontend.address) {
                self.without_room.insert(*frontend, KernelReason::NoRoom { map: "VIPS" });
                continue;
            }
            let known = self.current.services.get(&service_key(frontend)).copied();
            let Some(id) = known.map(|known| known.id).or_else(|| used.id(self.local)) else {
                self.without_room.insert(*frontend, KernelReason::NoRoom { map: "SERVICES" });
                continue;
            };
            let service = self.place_service(frontend, id, known, &mut used).unwrap_or_else(|map| {
                self.without_room.insert(*frontend, KernelReason::NoRoom { map });
                Service { id, flags: service_flags::KERNEL, ..Service::default() }
            });
            self.maps.services.insert(service_key(frontend), service);
            let key = NameKey { kind: name_kind::SERVICE, index: id.raw };
            self.maps.names.insert(key, name_of(&format!("{} {frontend}", planned.service)));
        }
    }

    /// On which nodes each service has its backends.
    pub(super) fn place_carriers(&mut self) {
        let services = self.maps.services.iter().filter(|(_, service)| service.table_length > 0);
        self.carriers =
            services.map(|(key, service)| (*key, carriers(&self.maps.backends, block_of(service)))).collect();
    }

    /// Backends of no service any more are gone, unless their endpoint lives on in a larger block: what has begun with them goes
    /// on. Those that have been gone for long enough are free.
    fn retire(&mut self, blocks: &[Range<u32>]) {
        let endpoints = self.plan.services.values().flat_map(|planned| planned.endpoints.keys());
        let living: BTreeSet<(Addr, Port)> = endpoints.map(identity).collect();
        let mut in_block = vec![false; self.maps.backends.len()];
        for block in blocks {
            in_block[block.start as usize..block.end as usize].fill(true);
        }
        for (backend, _) in self.maps.backends.iter_mut().zip(in_block).filter(|(_, in_block)| !in_block) {
            retire(backend, &living, self.local.now);
        }
    }

    pub(super) fn place_service(
        &mut self,
        frontend: &Frontend,
        id: ServiceId,
        known: Option<Service>,
        used: &mut Used,
    ) -> Result<Service, &'static str> {
        let planned = &self.plan.services[frontend];
        let block =
            self.place_backends(planned, known.map(|known| block_of(&known)), used).ok_or("BACKENDS")?;
        let flags = match planned.kernel {
            Some(KernelReason::NoEndpoints) => service_flags::NO_ENDPOINTS,
            Some(_) => service_flags::KERNEL,
            None => 0,
        };
        let affinity = if planned.affinity { service_flags::AFFINITY } else { 0 };
        let mut service = Service {
            id,
            table_offset: 0,
            table_length: 0,
            backend_offset: block.start,
            backend_length: block.end - block.start,
            flags: flags | affinity,
        };
        if planned.kernel.is_none() {
            service = match known.filter(|known| self.has_same_rows(frontend, known, &block)) {
                Some(Service { table_offset, table_length, .. }) => {
                    Service { table_offset, table_length, ..service }
                }
                None => {
                    let rows = self.rows(planned, &block);
                    service.table_length = rows.len() as u32;
                    service.table_offset = self.place_rows(rows, known, used).ok_or("TABLE")?;
                    service
                }
            };
        }
        Ok(service)
    }

    /// Backends that are known keep index and generation; those that are in no slice are gone, and rest.
    fn place_backends(
        &mut self,
        planned: &ServicePlan,
        known: Option<Range<u32>>,
        used: &mut Used,
    ) -> Option<Range<u32>> {
        let now = self.local.now;
        let wanted: BTreeMap<_, _> =
            planned.endpoints.iter().map(|(key, endpoint)| (identity(key), endpoint)).collect();
        let mut block = known.unwrap_or(0..0);
        for index in block.clone() {
            let backend = &mut self.maps.backends[index as usize];
            if !wanted.contains_key(&(backend.address, backend.port)) {
                retire(backend, &BTreeSet::new(), now);
            }
        }
        let is_wanted = |backend: &Backend| {
            backend.state != backend_state::FREE && wanted.contains_key(&(backend.address, backend.port))
        };
        let places = &self.maps.backends[block.start as usize..block.end as usize];
        let kept = places.iter().filter(|backend| is_wanted(backend)).count();
        let free = places.iter().filter(|backend| backend.state == backend_state::FREE).count();
        if kept + free < wanted.len() {
            let length = (wanted.len() as u32 * 3 / 2).next_power_of_two().max(8);
            let larger = used.block(&self.maps.backends, length)?;
            let living = wanted.keys().copied().collect();
            for index in block {
                retire(&mut self.maps.backends[index as usize], &living, now);
            }
            block = larger;
        }
        for ((address, port), endpoint) in wanted {
            let mut places = block.clone();
            let same = |backend: &Backend| {
                backend.state != backend_state::FREE && (backend.address, backend.port) == (address, port)
            };
            let index = match places.clone().find(|index| same(&self.maps.backends[*index as usize])) {
                Some(index) => index,
                None => {
                    places.find(|index| self.maps.backends[*index as usize].state == backend_state::FREE)?
                }
            };
            let place = &mut self.maps.backends[index as usize];
            let generation =
                if same(place) { place.generation } else { place.generation.wrapping_add(1).max(1) };
            let node =
                endpoint.node.as_ref().and_then(|node| self.nodes.get(node)).copied().unwrap_or(NO_NODE);
            let state = if endpoint.ready { backend_state::READY } else { backend_state::DRAINING };
            let since = if same(place) && place.state == state { place.since } else { now };
            *place = Backend { address, port, node, state, generation, pad: 0, since };
        }
        Some(block)
    }

    /// The service's rows, with places in its block for candidates. Draining backends are candidates too: they are not picked, but
    /// the walk finds them.
    fn rows(&self, planned: &ServicePlan, block: &Range<u32>) -> Vec<Row> {
        let (ready, draining): (Vec<_>, Vec<_>) =
            planned.endpoints.iter().partition(|(_, endpoint)| endpoint.ready);
        let [ready, draining] = [ready, draining].map(|endpoints| {
            let row_backend = |(key, _)| {
                let (address, port) = identity(key);
                RowBackend { address, port }
            };
            endpoints.into_iter().map(row_backend).collect::<Vec<_>>()
        });
        let places: Vec<u16> = ready
            .iter()
            .chain(&draining)
            .map(|backend| {
                let is_it = |index: &u32| {
                    let place = &self.maps.backends[*index as usize];
                    place.state != backend_state::FREE
                        && (place.address, place.port) == (backend.address, backend.port)
                };
                let index = block.clone().find(is_it).unwrap_or(block.start);
                (index - block.start) as u16
            })
            .collect();
        let mut rows = build(&self.maps.config.row_key, &ready, &draining, planned.table);
        for candidate in rows.iter_mut().flat_map(|row| &mut row.candidates) {
            *candidate = places.get(usize::from(*candidate)).copied().unwrap_or(*candidate);
        }
        rows
    }

    /// Whether a service has the rows that it had by the previous plan, in the place where they were: rows are a function of what is
    /// compared here.
    fn has_same_rows(&self, frontend: &Frontend, known: &Service, block: &Range<u32>) -> bool {
        let Some(Previous { plan, placed }) = self.previous else { return false };
        let before = (plan.services.get(frontend), placed.maps.services.get(&service_key(frontend)));
        let (Some(planned), Some(placed_before)) = before else { return false };
        let now = &self.plan.services[frontend];
        known.table_length > 0
            && placed_before == known
            && block_of(known) == *block
            && (&planned.endpoints, planned.table) == (&now.endpoints, now.table)
            && placed.maps.config.row_key == self.maps.config.row_key
    }

    fn place_rows(&mut self, rows: Vec<Row>, known: Option<Service>, used: &mut Used) -> Option<u32> {
        let are_there = |known: &Service| self.current.rows_of(known) == rows;
        let offset = match known.filter(are_there) {
            Some(known) => known.table_offset,
            None => used.table(&self.local.sizes, rows.len() as u32)?,
        };
        self.maps.rows.insert(offset, rows.into());
        Some(offset)
    }
}

/// On which nodes a block has backends that take new flows, and where it has any there.
pub(super) fn carriers(backends: &[Backend], block: Range<u32>) -> Carriers {
    let backends = &backends[block.start as usize..block.end as usize];
    let mut carriers: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    for backend in backends.iter().filter(|backend| backend.state == backend_state::READY) {
        carriers.entry(backend.node).or_default();
    }
    for (backend, index) in backends.iter().zip(block).filter(|(b, _)| b.state != backend_state::FREE) {
        carriers.entry(backend.node).and_modify(|places| places.push(index));
    }
    carriers.into_iter().map(|(node, places)| (node, places.into())).collect()
}
