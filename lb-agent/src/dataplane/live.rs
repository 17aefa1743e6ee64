//! The few entries that change with the liveness of nodes, and the lease: written by another thread than all else, which waits for
//! nobody.

use std::{collections::BTreeMap, path::Path, time::Duration};

use aya::maps::{HashMap, Map, MapData, MapError};
use lb_common::layout::{Addr, Lease, Neighbour, Vip};

use super::{array::ArrayMap, clock::boot_time, error::Error, tables::AsPod};

/// Parts of `NEIGHBOURS` and `VIPS`, and `LEASE`.
pub struct LiveMaps {
    neighbours: ArrayMap<Neighbour>,
    vips: HashMap<MapData, AsPod<Addr>, AsPod<Vip>>,
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
        let vips = open("VIPS")?.try_into().map_err(|source| Error::Map { map: "VIPS", source })?;
        Ok(Self {
            neighbours: ArrayMap::new("NEIGHBOURS", open("NEIGHBOURS")?)?,
            vips,
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

    /// What both maps hold: by place, and by address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self) -> Result<(Vec<Neighbour>, BTreeMap<Addr, Vip>), Error> {
        let mut vips = BTreeMap::new();
        for entry in self.vips.iter() {
            let (address, vip) = entry.map_err(|source| Error::Map { map: "VIPS", source })?;
            vips.insert(address.into_inner(), vip.into_inner());
        }
        Ok((self.neighbours.read()?, vips))
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
        match self.vips.insert(AsPod::new(address), AsPod::new(vip), EXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(())
            }
            result => result.map_err(|source| Error::Map { map: "VIPS", source }),
        }
    }
}
