//! The few entries that change with the liveness of nodes, and the lease: written by another thread than all else, which waits for
//! nobody.

use std::{collections::BTreeMap, path::Path, time::Duration};

use aya::maps::{Map, MapData, MapError};
use lb_common::layout::{Addr, Client, ClientKey, Kept, Lease, Neighbour, Plain, Spread, SpreadKey, Vip};

use super::{
    array::ArrayMap,
    clock::boot_time,
    error::Error,
    hash::LruHash,
    tables::{AsPod, Hash, entries, kept_somewhere, typed},
};

/// Parts of `NEIGHBOURS`, `VIPS` and `SPREAD`, `KEPT` and `LEASE`; and `CLIENTS`, which is only read.
pub struct LiveMaps {
    neighbours: ArrayMap<Neighbour>,
    kept: ArrayMap<Kept>,
    vips: Hash<Addr, Vip>,
    spread: Hash<SpreadKey, Spread>,
    clients: LruHash<ClientKey, Client>,
    lease: ArrayMap<Lease>,
}

/// Only where there is an entry (kernel: `BPF_EXIST`): what the agent has removed meanwhile does not come back.
const EXIST: u64 = 2;

impl LiveMaps {
    /// From the pins in a directory.
    ///
    /// # Errors
    /// Nothing is pinned there, or something else.
    pub fn pinned(dir: &Path) -> Result<Self, Error> {
        let open = |name| {
            let map = MapData::from_pin(dir.join(name)).and_then(Map::from_map_data);
            map.map_err(|source| Error::Map { map: name, source })
        };
        Ok(Self {
            neighbours: ArrayMap::new("NEIGHBOURS", open("NEIGHBOURS")?)?,
            vips: typed("VIPS", open("VIPS")?)?,
            spread: typed("SPREAD", open("SPREAD")?)?,
            clients: LruHash::new("CLIENTS", open("CLIENTS")?)?,
            kept: ArrayMap::new("KEPT", open("KEPT")?)?,
            lease: ArrayMap::new("LEASE", open("LEASE")?)?,
        })
    }

    /// Promises to be there for so long.
    ///
    /// # Errors
    /// The kernel's.
    pub fn renew_lease(&self, lease: Duration) -> Result<(), Error> {
        let deadline = boot_time()?.saturating_add(lease).as_nanos();
        self.lease.write(0, &[Lease { deadline: deadline.try_into().unwrap_or(u64::MAX) }])
    }

    /// `NEIGHBOURS`, by place.
    ///
    /// # Errors
    /// The kernel's.
    pub fn neighbours(&self) -> Result<Vec<Neighbour>, Error> {
        self.neighbours.read()
    }

    /// `VIPS`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn vips(&self) -> Result<BTreeMap<Addr, Vip>, Error> {
        entries("VIPS", &self.vips)
    }

    /// `SPREAD`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn spread(&self) -> Result<BTreeMap<SpreadKey, Spread>, Error> {
        entries("SPREAD", &self.spread)
    }

    /// `CLIENTS`. Entries that come and go while it is read may be missing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clients(&self) -> Result<BTreeMap<ClientKey, Client>, Error> {
        self.clients.read()
    }

    /// What `KEPT` holds, without backends that are kept nowhere.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kept(&self) -> Result<BTreeMap<u32, Kept>, Error> {
        kept_somewhere(&self.kept)
    }

    /// Replaces an entry of `KEPT`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_kept(&self, backend: u32, kept: Kept) -> Result<(), Error> {
        self.kept.write(backend, &[kept])
    }

    /// Replaces an entry of `NEIGHBOURS`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_neighbour(&self, place: u32, neighbour: Neighbour) -> Result<(), Error> {
        self.neighbours.write(place, &[neighbour])
    }

    /// Replaces an entry of `VIPS`, if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_vip(&mut self, address: Addr, vip: Vip) -> Result<(), Error> {
        replace("VIPS", &mut self.vips, address, vip)
    }

    /// Replaces an entry of `SPREAD`, if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_spread(&mut self, key: SpreadKey, spread: Spread) -> Result<(), Error> {
        replace("SPREAD", &mut self.spread, key, spread)
    }
}

fn replace<K: Plain, V: Plain>(
    name: &'static str,
    map: &mut Hash<K, V>,
    key: K,
    value: V,
) -> Result<(), Error> {
    match map.insert(AsPod::new(key), AsPod::new(value), EXIST) {
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result.map_err(|source| Error::Map { map: name, source }),
    }
}
