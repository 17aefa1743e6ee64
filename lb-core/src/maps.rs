//! The contents of the *config* maps, as user space keeps them, and the operations that change them.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::layout::{
    Addr, Backend, Config, Link, LinkKey, LocalPort, LocalPortKey, MAX_BACKENDS, MAX_SEGMENTS, Name, NameKey,
    Neighbour, Peer, PeerKey, Row, Service, ServiceKey, Source, SourceKey, Spread, SpreadKey, Vip,
};

/// How many entries each map has; everything that is planned fits in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// `LINKS`.
    pub links: u32,
    /// Nodes, each with [`MAX_SEGMENTS`] entries of `NEIGHBOURS`.
    pub nodes: u32,
    /// `PEERS`.
    pub peers: u32,
    /// `VIPS`.
    pub vips: u32,
    /// `SPREAD`: segments of all VIPs that are spread over nodes.
    pub spread: u32,
    /// `CLIENTS`.
    pub clients: u32,
    /// `SERVICES`.
    pub services: u32,
    /// Rows of `TABLE`.
    pub table: u32,
    /// `BACKENDS`.
    pub backends: u32,
    /// Lines of `FLOWS` for each receive queue, a power of two; there are as many queues as CPUs.
    pub flow_lines: u32,
    /// `CONNS` and `REVERSE`.
    pub conns: u32,
    /// `LOCAL_PORTS`.
    pub local_ports: u32,
    /// `SOURCES`.
    pub sources: u32,
    /// `VIP_STATS`, whose first place is for none: each CPU has as many. VIPs that find no place are not counted.
    pub vip_stats: u32,
    /// `SERVICE_STATS`: each CPU has as many. Those of `SERVICES` beyond are not counted.
    pub service_stats: u32,
    /// `BACKEND_STATS`: each CPU has as many. Those of `BACKENDS` beyond are not counted.
    pub backend_stats: u32,
}

/// On machines with more CPUs than these, what each CPU or queue has for itself is smaller.
const CPUS: u32 = 4;

impl Default for Sizes {
    /// Those for 4 CPUs.
    fn default() -> Self {
        Self::of_cpus(CPUS)
    }
}

impl Sizes {
    /// Sizes that sum to less than 48 MiB, whatever the number of CPUs is: a pod's limit of memory is one for all machines. With more
    /// than four CPUs each queue's part of `FLOWS` is smaller, a cache that costs look-ups where it does not hit; and so is the number
    /// of VIPs, services and backends that are counted, which each CPU does for itself.
    pub fn of_cpus(cpus: u32) -> Self {
        let cpus = cpus.max(1);
        let share =
            |all: u32| (u64::from(all) * u64::from(CPUS) / u64::from(cpus)).clamp(1, all.into()) as u32;
        Self {
            links: 64,
            nodes: 1024,
            peers: 8192,
            vips: 8192,
            spread: 8192,
            clients: 1 << 14,
            services: 8192,
            table: 1 << 19,
            backends: 1 << 15,
            // The largest power of two that is not above.
            flow_lines: 1 << share(1 << 15).ilog2(),
            conns: 1 << 16,
            local_ports: 8192,
            sources: 8192,
            vip_stats: share(8192) + 1,
            service_stats: share(8192),
            backend_stats: share(1 << 15),
        }
    }
}

/// A size that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no size of a map: {expected}")]
pub struct SizeError {
    /// What was given.
    pub text: String,
    /// What could be given.
    pub expected: &'static str,
}

impl Sizes {
    /// Sets one from `NAME=NUMBER`, by the map's name.
    ///
    /// # Errors
    /// There is no such map, or it cannot have so many entries.
    pub fn set(&mut self, text: &str) -> Result<(), SizeError> {
        let error = |expected| SizeError { text: text.to_owned(), expected };
        let (name, number) = text.split_once('=').ok_or_else(|| error("expected NAME=NUMBER"))?;
        let number: u32 = number.parse().map_err(|_| error("expected a number of entries"))?;
        let (place, most) = match name {
            "LINKS" => (&mut self.links, 1 << 12),
            "NEIGHBOURS" => (&mut self.nodes, 1 << 12),
            "PEERS" => (&mut self.peers, 1 << 20),
            "VIPS" => (&mut self.vips, 1 << 16),
            "SPREAD" => (&mut self.spread, 1 << 20),
            "CLIENTS" => (&mut self.clients, 1 << 20),
            "SERVICES" => (&mut self.services, 1 << 16),
            "TABLE" => (&mut self.table, 1 << 26),
            "BACKENDS" => (&mut self.backends, MAX_BACKENDS),
            "FLOWS" => (&mut self.flow_lines, 1 << 24),
            "CONNS" => (&mut self.conns, 1 << 26),
            "LOCAL_PORTS" => (&mut self.local_ports, 1 << 20),
            "SOURCES" => (&mut self.sources, 1 << 20),
            "VIP_STATS" => (&mut self.vip_stats, (1 << 16) + 1),
            "SERVICE_STATS" => (&mut self.service_stats, 1 << 16),
            "BACKEND_STATS" => (&mut self.backend_stats, MAX_BACKENDS),
            _ => {
                return Err(error(
                    "the maps are LINKS, NEIGHBOURS (nodes), PEERS, VIPS, SPREAD, CLIENTS, SERVICES, TABLE, BACKENDS, FLOWS (lines of a \
                     queue), CONNS (and REVERSE), LOCAL_PORTS, SOURCES, VIP_STATS, SERVICE_STATS and BACKEND_STATS",
                ));
            }
        };
        if number == 0 || number > most {
            return Err(error("too few or too many entries"));
        }
        if name == "FLOWS" && !number.is_power_of_two() {
            return Err(error("FLOWS needs a power of two"));
        }
        *place = number;
        Ok(())
    }

    /// Entries of `NEIGHBOURS`.
    pub const fn neighbours(&self) -> u32 {
        self.nodes * MAX_SEGMENTS
    }

    /// Entries of `NAMES`: one for each node and service.
    pub const fn names(&self) -> u32 {
        self.nodes + self.services
    }
}

/// What the config maps hold. Arrays are as long as their maps; hashes have only the entries that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maps {
    /// `CONFIG[0]`. The lease deadline is the data plane's own and is left out of every comparison (0 here).
    pub config: Config,
    /// `LINKS`.
    pub links: BTreeMap<LinkKey, Link>,
    /// `NEIGHBOURS`, by node × [`MAX_SEGMENTS`] + segment.
    pub neighbours: Vec<Neighbour>,
    /// `PEERS`.
    pub peers: BTreeMap<PeerKey, Peer>,
    /// `VIPS`.
    pub vips: BTreeMap<Addr, Vip>,
    /// `SPREAD`.
    pub spread: BTreeMap<SpreadKey, Spread>,
    /// `SERVICES`.
    pub services: BTreeMap<ServiceKey, Service>,
    /// `TABLE`, by the first slot of each service's rows; those that nobody has asked for are not in it.
    pub rows: BTreeMap<u32, Arc<[Row]>>,
    /// `BACKENDS`.
    pub backends: Vec<Backend>,
    /// `LOCAL_PORTS`.
    pub local_ports: BTreeMap<LocalPortKey, LocalPort>,
    /// `SOURCES`.
    pub sources: BTreeMap<SourceKey, Source>,
    /// `NAMES`.
    pub names: BTreeMap<NameKey, Name>,
}

impl Maps {
    /// Maps just created: no entry in the hashes, zeros in the arrays.
    pub fn empty(sizes: &Sizes) -> Self {
        Self {
            neighbours: vec![Neighbour::default(); sizes.neighbours() as usize],
            backends: vec![Backend::default(); sizes.backends as usize],
            ..Self::without_arrays()
        }
    }

    /// Nothing, and no room for anything in arrays.
    pub(crate) fn without_arrays() -> Self {
        Self {
            config: Config::default(),
            links: BTreeMap::new(),
            neighbours: Vec::new(),
            peers: BTreeMap::new(),
            vips: BTreeMap::new(),
            spread: BTreeMap::new(),
            services: BTreeMap::new(),
            rows: BTreeMap::new(),
            backends: Vec::new(),
            local_ports: BTreeMap::new(),
            sources: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    /// The row at a slot of `TABLE`, if it is known.
    pub fn row(&self, slot: u32) -> Option<&Row> {
        let (offset, rows) = self.rows.range(..=slot).next_back()?;
        rows.get((slot - offset) as usize)
    }

    /// The rows of a service; none if they are not known.
    pub fn rows_of(&self, service: &Service) -> &[Row] {
        let known = self.rows.get(&service.table_offset).map_or(&[][..], |rows| rows);
        if known.len() == service.table_length as usize { known } else { &[] }
    }

    /// What was there before is there no more, not even the rest of it.
    fn write_rows(&mut self, offset: u32, rows: &Arc<[Row]>) {
        let end = offset.saturating_add(rows.len() as u32);
        let reaches = |(first, known): (&u32, &Arc<[Row]>)| {
            (*first < end && first.saturating_add(known.len() as u32) > offset).then_some(*first)
        };
        let covered: Vec<u32> = self.rows.iter().filter_map(reaches).collect();
        covered.iter().for_each(|first| drop(self.rows.remove(first)));
        self.rows.insert(offset, Arc::clone(rows));
    }

    /// Carries out an operation. What lies outside an array is left out, as the kernel would refuse it.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::SetConfig(value) => self.config = *value,
            Op::SetLink(key, value) => set(&mut self.links, key, value),
            Op::RemoveLink(key) => remove(&mut self.links, key),
            Op::WriteNeighbours { offset, neighbours } => write(&mut self.neighbours, *offset, neighbours),
            Op::SetPeer(key, value) => set(&mut self.peers, key, value),
            Op::RemovePeer(key) => remove(&mut self.peers, key),
            Op::SetVip(key, value) => set(&mut self.vips, key, value),
            Op::RemoveVip(key) => remove(&mut self.vips, key),
            Op::SetSpread(key, value) => set(&mut self.spread, key, value),
            Op::RemoveSpread(key) => remove(&mut self.spread, key),
            Op::SetService(key, value) => set(&mut self.services, key, value),
            Op::RemoveService(key) => remove(&mut self.services, key),
            Op::WriteRows { offset, rows } => self.write_rows(*offset, rows),
            Op::WriteBackends { offset, backends } => write(&mut self.backends, *offset, backends),
            Op::SetLocalPort(key, value) => set(&mut self.local_ports, key, value),
            Op::RemoveLocalPort(key) => remove(&mut self.local_ports, key),
            Op::SetSource(key, value) => set(&mut self.sources, key, value),
            Op::RemoveSource(key) => remove(&mut self.sources, key),
            Op::SetName(key, value) => set(&mut self.names, key, value),
            Op::RemoveName(key) => remove(&mut self.names, key),
            // Counters are no content.
            Op::ClearStats(_) => {}
        }
    }
}

/// One change of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes `CONFIG[0]`, all but the lease deadline.
    SetConfig(Config),
    /// Puts an entry.
    SetLink(LinkKey, Link),
    /// Removes an entry.
    RemoveLink(LinkKey),
    /// Writes consecutive entries.
    WriteNeighbours {
        /// Index of the first.
        offset: u32,
        /// The entries.
        neighbours: Vec<Neighbour>,
    },
    /// Puts an entry.
    SetPeer(PeerKey, Peer),
    /// Removes an entry.
    RemovePeer(PeerKey),
    /// Puts an entry.
    SetVip(Addr, Vip),
    /// Removes an entry.
    RemoveVip(Addr),
    /// Puts an entry.
    SetSpread(SpreadKey, Spread),
    /// Removes an entry.
    RemoveSpread(SpreadKey),
    /// Puts an entry.
    SetService(ServiceKey, Service),
    /// Removes an entry.
    RemoveService(ServiceKey),
    /// Writes consecutive rows.
    WriteRows {
        /// Index of the first.
        offset: u32,
        /// The rows.
        rows: Arc<[Row]>,
    },
    /// Writes consecutive backends.
    WriteBackends {
        /// Index of the first.
        offset: u32,
        /// The backends.
        backends: Vec<Backend>,
    },
    /// Puts an entry.
    SetLocalPort(LocalPortKey, LocalPort),
    /// Removes an entry.
    RemoveLocalPort(LocalPortKey),
    /// Puts an entry.
    SetSource(SourceKey, Source),
    /// Removes an entry.
    RemoveSource(SourceKey),
    /// Puts an entry.
    SetName(NameKey, Box<Name>),
    /// Removes an entry.
    RemoveName(NameKey),
    /// Counts from zero again.
    ClearStats(StatsPlace),
}

/// A place of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsPlace {
    /// Of `VIP_STATS`.
    Vip(u32),
    /// Of `SERVICE_STATS`.
    Service(u32),
    /// Of `BACKEND_STATS`.
    Backend(u32),
}

fn set<K: Copy + Ord, V: Copy>(map: &mut BTreeMap<K, V>, key: &K, value: &V) {
    map.insert(*key, *value);
}

fn remove<K: Ord, V>(map: &mut BTreeMap<K, V>, key: &K) {
    map.remove(key);
}

fn write<T: Copy>(array: &mut [T], offset: u32, values: &[T]) {
    let places = array.iter_mut().skip(offset as usize);
    places.zip(values).for_each(|(place, value)| *place = *value);
}

#[cfg(test)]
mod tests {
    use lb_common::layout::{FlowLine, Stats, VipStats};

    use super::Sizes;

    const MIB: u64 = 1 << 20;

    /// Bytes of what each CPU has for itself.
    fn of_all_cpus(sizes: &Sizes, cpus: u32) -> (u64, u64) {
        let flows = u64::from(sizes.flow_lines) * size_of::<FlowLine>() as u64;
        let stats = u64::from(sizes.service_stats + sizes.backend_stats) * size_of::<Stats>() as u64;
        let vip_stats = u64::from(sizes.vip_stats) * size_of::<VipStats>() as u64;
        (flows * u64::from(cpus), (stats + vip_stats) * u64::from(cpus))
    }

    #[test]
    fn maps_do_not_grow_with_the_number_of_cpus() {
        for cpus in 1..=1024 {
            let sizes = Sizes::of_cpus(cpus);
            let (flows, counters) = of_all_cpus(&sizes, cpus);
            assert!(flows <= 8 * MIB && counters <= 9 * MIB, "{cpus}: {flows} {counters}");
            assert!(sizes.flow_lines.is_power_of_two());
            // Nor are they smaller than they may be.
            let is_full = sizes.flow_lines == 1 << 15 && sizes.backend_stats == sizes.backends;
            assert!(is_full || flows > 4 * MIB, "{cpus}: {flows}");
            let rest = Sizes {
                flow_lines: 1 << 15,
                vip_stats: 8193,
                service_stats: 8192,
                backend_stats: 1 << 15,
                ..sizes
            };
            assert_eq!(rest, Sizes::default(), "{cpus}");
        }
        assert_eq!(Sizes::of_cpus(0), Sizes::of_cpus(1));
        assert_eq!(Sizes::of_cpus(u32::MAX).flow_lines, 1);
    }
}
