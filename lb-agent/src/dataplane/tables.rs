//! The maps as Rust values: everything that is pinned, opened and typed.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use lb_common::{
    Reason,
    layout::{
        Addr, Backend, CONFIG_VERSION, Client, ClientKey, Config, Conn, ConnKey, FlowLine, Kept, Lease, Link,
        LinkKey, LocalPort, LocalPortKey, Name, NameKey, Neighbour, Peer, PeerKey, Plain, ReasonCount,
        Reverse, ReverseKey, Row, STATE_VERSION, Service, ServiceKey, Source, SourceKey, SourcePrefix,
        Spread, SpreadKey, Versions, Vip,
    },
};
use lb_core::maps::{Maps, Op, Sizes};

use super::{array::ArrayMap, counters::Counters, error::Error};

/// Names of the maps that are pinned.
pub const NAMES: [&str; 26] = [
    VERSIONS,
    "CONFIG",
    "LEASE",
    "LINKS",
    "NEIGHBOURS",
    "PEERS",
    "VIPS",
    "SPREAD",
    "CLIENTS",
    "SERVICES",
    "TABLE",
    "BACKENDS",
    "KEPT",
    "FLOWS",
    "CONNS",
    "REVERSE",
    "LOCAL_PORTS",
    "SOURCES",
    "NAMES",
    "REASONS",
    "SERVICE_STATS",
    "BACKEND_STATS",
    "VIP_STATS",
    "ECHO_BUDGET",
    "EVENTS",
    "EVENT_BUDGET",
];

/// The map that says how the others are to be read.
pub const VERSIONS: &str = "VERSIONS";

/// Maps that only make sense together: if one of them has to be made anew, all of them are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// How the others are to be read.
    Versions,
    /// `FLOWS`: its backends are indexes into config maps, but it is a cache, and can be emptied.
    Flows,
    /// `CONNS` and `REVERSE`, the truth about connections.
    Connections,
    /// `EVENTS` and their budget, which name nothing by index that a reader could not find out.
    Events,
    /// All that a plan says, and the counters by its indexes.
    Config,
}

impl Group {
    /// The group of a map.
    pub fn of(name: &str) -> Self {
        match name {
            VERSIONS => Self::Versions,
            "FLOWS" => Self::Flows,
            "CONNS" | "REVERSE" => Self::Connections,
            "EVENTS" | "EVENT_BUDGET" => Self::Events,
            _ => Self::Config,
        }
    }

    /// Whether maps of the group that were made with these versions hold what this build means by them.
    pub fn is_readable(self, made_with: Versions) -> bool {
        match self {
            Self::Versions => true,
            Self::Flows | Self::Connections => made_with.state == STATE_VERSION,
            Self::Events | Self::Config => made_with.config == CONFIG_VERSION,
        }
    }
}

/// With which versions the maps in a directory were made; of none if they do not say.
///
/// # Errors
/// The kernel's.
pub fn versions(dir: &Path) -> Result<Versions, Error> {
    let path = dir.join(VERSIONS);
    if !path.exists() {
        return Ok(Versions::default());
    }
    let map = MapData::from_pin(&path).and_then(Map::from_map_data);
    let map = map.map_err(|source| Error::Map { map: VERSIONS, source })?;
    Ok(ArrayMap::new(VERSIONS, map)?.read()?.first().copied().unwrap_or_default())
}

/// Entries of the map; `None` for one whose size is in the object.
pub fn max_entries(name: &str, sizes: &Sizes, cpus: u32) -> Option<u32> {
    Some(match name {
        "LINKS" => sizes.links,
        "NEIGHBOURS" => sizes.neighbours(),
        "PEERS" => sizes.peers,
        "VIPS" => sizes.vips,
        "VIP_STATS" => sizes.vip_stats,
        "SPREAD" => sizes.spread,
        "CLIENTS" => sizes.clients,
        "SERVICES" => sizes.services,
        "SERVICE_STATS" => sizes.service_stats,
        "TABLE" => sizes.table,
        "BACKENDS" | "KEPT" => sizes.backends,
        "BACKEND_STATS" => sizes.backend_stats,
        "FLOWS" => sizes.flow_lines * cpus,
        "CONNS" | "REVERSE" => sizes.conns,
        "LOCAL_PORTS" => sizes.local_ports,
        "SOURCES" => sizes.sources,
        "NAMES" => sizes.names(),
        _ => return None,
    })
}

/// Bytes of all pinned maps (`memlock` in fdinfo; kernel: `bpf_map_memory_usage`).
pub fn bytes(dir: &Path) -> Result<u64, Error> {
    let mut sum = 0;
    for name in NAMES {
        let map = MapData::from_pin(dir.join(name)).map_err(|source| Error::Map { map: name, source })?;
        let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Kernel { what: "the size of a map", source })?;
        let memlock = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok());
        sum += memlock.unwrap_or(0);
    }
    Ok(sum)
}

/// Entries of `KEPT` that say something.
pub(super) fn kept_somewhere(kept: &ArrayMap<Kept>) -> Result<BTreeMap<u32, Kept>, Error> {
    Ok((0..).zip(kept.read()?).filter(|(_, kept)| *kept != Kept::default()).collect())
}

/// A plain value as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct AsPod<T>(T);

// SAFETY: `Plain` asks for what `Pod` asks for, and more; the wrapper is transparent.
unsafe impl<T: Plain> Pod for AsPod<T> {}

impl<T> AsPod<T> {
    /// Wraps it.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// What is wrapped.
    pub fn into_inner(self) -> T {
        self.0
    }
}

pub(super) type Hash<K, V> = HashMap<MapData, AsPod<K>, AsPod<V>>;

/// All maps, typed.
pub struct Tables {
    versions: ArrayMap<Versions>,
    config: ArrayMap<Config>,
    lease: ArrayMap<Lease>,
    links: Hash<LinkKey, Link>,
    neighbours: ArrayMap<Neighbour>,
    peers: Hash<PeerKey, Peer>,
    vips: Hash<Addr, Vip>,
    spread: Hash<SpreadKey, Spread>,
    clients: Hash<ClientKey, Client>,
    services: Hash<ServiceKey, Service>,
    table: ArrayMap<Row>,
    backends: ArrayMap<Backend>,
    kept: ArrayMap<Kept>,
    flows: ArrayMap<FlowLine>,
    conns: Hash<ConnKey, Conn>,
    reverse: Hash<ReverseKey, Reverse>,
    local_ports: Hash<LocalPortKey, LocalPort>,
    sources: LpmTrie<MapData, AsPod<SourcePrefix>, AsPod<Source>>,
    names: Hash<NameKey, Name>,
    counters: Counters,
}

impl Tables {
    /// From maps by name; those that user space has no use for are not taken.
    ///
    /// # Errors
    /// One is missing, or is of another type or size.
    pub fn new(mut take: impl FnMut(&'static str) -> Result<Map, Error>) -> Result<Self, Error> {
        Ok(Self {
            versions: ArrayMap::new(VERSIONS, take(VERSIONS)?)?,
            config: ArrayMap::new("CONFIG", take("CONFIG")?)?,
            lease: ArrayMap::new("LEASE", take("LEASE")?)?,
            links: typed("LINKS", take("LINKS")?)?,
            neighbours: ArrayMap::new("NEIGHBOURS", take("NEIGHBOURS")?)?,
            peers: typed("PEERS", take("PEERS")?)?,
            vips: typed("VIPS", take("VIPS")?)?,
            spread: typed("SPREAD", take("SPREAD")?)?,
            clients: typed("CLIENTS", take("CLIENTS")?)?,
            services: typed("SERVICES", take("SERVICES")?)?,
            table: ArrayMap::new("TABLE", take("TABLE")?)?,
            backends: ArrayMap::new("BACKENDS", take("BACKENDS")?)?,
            kept: ArrayMap::new("KEPT", take("KEPT")?)?,
            flows: ArrayMap::new("FLOWS", take("FLOWS")?)?,
            conns: typed("CONNS", take("CONNS")?)?,
            reverse: typed("REVERSE", take("REVERSE")?)?,
            local_ports: typed("LOCAL_PORTS", take("LOCAL_PORTS")?)?,
            sources: typed("SOURCES", take("SOURCES")?)?,
            names: typed("NAMES", take("NAMES")?)?,
            counters: Counters::new(take)?,
        })
    }

    /// From the pins in a directory.
    ///
    /// # Errors
    /// As [`Self::new`], or nothing is pinned there.
    pub fn pinned(dir: &Path) -> Result<Self, Error> {
        Self::new(|name| {
            let path = dir.join(name);
            if !path.exists() {
                return Err(Error::NotLoaded { dir: dir.to_owned() });
            }
            let map = MapData::from_pin(&path).and_then(Map::from_map_data);
            map.map_err(|source| Error::Map { map: name, source })
        })
    }

    /// What the config maps hold, with the rows of all services.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self) -> Result<Maps, Error> {
        let mut maps = self.read_without_rows()?;
        for service in maps.services.values().filter(|service| service.table_length > 0) {
            let rows = self.table.read_part(service.table_offset, service.table_length)?;
            maps.rows.insert(service.table_offset, rows.into());
        }
        Ok(maps)
    }

    /// What the config maps hold, but for what there is most of.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_without_rows(&self) -> Result<Maps, Error> {
        let config = self.config.read()?.first().copied().unwrap_or_default();
        let mut sources = BTreeMap::new();
        for entry in self.sources.iter() {
            let (key, value) = entry.map_err(|source| Error::Map { map: "SOURCES", source })?;
            let SourcePrefix { service, address } = key.data().0;
            sources.insert(SourceKey { prefix_length: key.prefix_len(), service, address }, value.0);
        }
        Ok(Maps {
            config,
            links: entries("LINKS", &self.links)?,
            neighbours: self.neighbours.read()?,
            peers: entries("PEERS", &self.peers)?,
            vips: entries("VIPS", &self.vips)?,
            spread: entries("SPREAD", &self.spread)?,
            services: entries("SERVICES", &self.services)?,
            rows: BTreeMap::new(),
            backends: self.backends.read()?,
            local_ports: entries("LOCAL_PORTS", &self.local_ports)?,
            sources,
            names: entries("NAMES", &self.names)?,
        })
    }

    /// Carries out a change.
    ///
    /// # Errors
    /// The kernel's.
    pub fn apply(&mut self, op: &Op) -> Result<(), Error> {
        match op {
            Op::SetConfig(config) => self.config.write(0, &[*config]),
            Op::SetLink(key, value) => set("LINKS", &mut self.links, key, value),
            Op::RemoveLink(key) => remove("LINKS", &mut self.links, key),
            Op::WriteNeighbours { offset, neighbours } => self.neighbours.write(*offset, neighbours),
            Op::SetPeer(key, value) => set("PEERS", &mut self.peers, key, value),
            Op::RemovePeer(key) => remove("PEERS", &mut self.peers, key),
            Op::SetVip(key, value) => set("VIPS", &mut self.vips, key, value),
            Op::RemoveVip(key) => remove("VIPS", &mut self.vips, key),
            Op::SetSpread(key, value) => set("SPREAD", &mut self.spread, key, value),
            Op::RemoveSpread(key) => remove("SPREAD", &mut self.spread, key),
            Op::SetService(key, value) => set("SERVICES", &mut self.services, key, value),
            Op::RemoveService(key) => remove("SERVICES", &mut self.services, key),
            Op::WriteRows { offset, rows } => self.table.write(*offset, rows),
            Op::WriteBackends { offset, backends } => self.backends.write(*offset, backends),
            Op::SetLocalPort(key, value) => set("LOCAL_PORTS", &mut self.local_ports, key, value),
            Op::RemoveLocalPort(key) => remove("LOCAL_PORTS", &mut self.local_ports, key),
            Op::SetSource(key, value) => {
                let done = self.sources.insert(&lpm_key(key), AsPod(*value), 0);
                done.map_err(|source| Error::Map { map: "SOURCES", source })
            }
            Op::RemoveSource(key) => removed("SOURCES", self.sources.remove(&lpm_key(key))),
            Op::SetName(key, value) => set("NAMES", &mut self.names, key, value),
            Op::RemoveName(key) => remove("NAMES", &mut self.names, key),
            Op::ClearStats(place) => self.counters.clear(*place),
        }
    }

    /// Says with which versions the maps were made.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_versions(&mut self, versions: Versions) -> Result<(), Error> {
        self.versions.write(0, &[versions])
    }

    /// `CONFIG[0]`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn config(&self) -> Result<Config, Error> {
        Ok(self.config.read()?.first().copied().unwrap_or_default())
    }

    /// Promises to be there until then.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_lease(&mut self, lease: Lease) -> Result<(), Error> {
        self.lease.write(0, &[lease])
    }

    /// `KEPT`, without backends that are kept nowhere.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kept(&self) -> Result<BTreeMap<u32, Kept>, Error> {
        kept_somewhere(&self.kept)
    }

    /// `FLOWS`, all lines of all queues.
    ///
    /// # Errors
    /// The kernel's.
    pub fn flows(&self) -> Result<Vec<FlowLine>, Error> {
        self.flows.read()
    }

    /// Empties `FLOWS`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear_flows(&mut self) -> Result<(), Error> {
        self.flows.write(0, &vec![FlowLine::default(); self.flows.length() as usize])
    }

    /// `CONNS`. Entries that come and go while it is read may be missing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn conns(&self) -> Result<BTreeMap<ConnKey, Conn>, Error> {
        entries("CONNS", &self.conns)
    }

    /// `REVERSE`. Entries that come and go while it is read may be missing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reverse(&self) -> Result<BTreeMap<ReverseKey, Reverse>, Error> {
        entries("REVERSE", &self.reverse)
    }

    /// `CLIENTS`. Entries that come and go while it is read may be missing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clients(&self) -> Result<BTreeMap<ClientKey, Client>, Error> {
        entries("CLIENTS", &self.clients)
    }

    /// Puts a connection into `CONNS`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_conn(&mut self, key: &ConnKey, conn: &Conn) -> Result<(), Error> {
        set("CONNS", &mut self.conns, key, conn)
    }

    /// Puts a connection into `REVERSE`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_reverse(&mut self, key: &ReverseKey, reverse: &Reverse) -> Result<(), Error> {
        set("REVERSE", &mut self.reverse, key, reverse)
    }

    /// Empties `CONNS` and `REVERSE`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear_connections(&mut self) -> Result<(), Error> {
        for key in self.conns()?.keys() {
            remove("CONNS", &mut self.conns, key)?;
        }
        for key in self.reverse()?.keys() {
            remove("REVERSE", &mut self.reverse, key)?;
        }
        Ok(())
    }

    /// What the programs have counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// `REASONS`, summed over CPUs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reasons(&self) -> Result<BTreeMap<Reason, ReasonCount>, Error> {
        self.counters.reasons()
    }
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(name: &'static str, map: Map) -> Result<T, Error> {
    T::try_from(map).map_err(|source| Error::Map { map: name, source })
}

pub(super) fn entries<K: Plain + Ord, V: Plain>(
    name: &'static str,
    map: &Hash<K, V>,
) -> Result<BTreeMap<K, V>, Error> {
    let mut all = BTreeMap::new();
    for entry in map.iter() {
        let (key, value) = entry.map_err(|source| Error::Map { map: name, source })?;
        all.insert(key.0, value.0);
    }
    Ok(all)
}

fn set<K: Plain, V: Plain>(
    name: &'static str,
    map: &mut Hash<K, V>,
    key: &K,
    value: &V,
) -> Result<(), Error> {
    map.insert(AsPod(*key), AsPod(*value), 0).map_err(|source| Error::Map { map: name, source })
}

fn remove<K: Plain, V: Plain>(name: &'static str, map: &mut Hash<K, V>, key: &K) -> Result<(), Error> {
    removed(name, map.remove(&AsPod(*key)))
}

/// What is not there need not be removed.
fn removed(name: &'static str, result: Result<(), MapError>) -> Result<(), Error> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(source) => Err(Error::Map { map: name, source }),
    }
}

fn lpm_key(key: &SourceKey) -> Key<AsPod<SourcePrefix>> {
    Key::new(key.prefix_length, AsPod(SourcePrefix { service: key.service, address: key.address }))
}
