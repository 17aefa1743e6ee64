//! The map entries that change with liveness, and what of them is written: only what differs costs a system call.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::layout::{Addr, Client, ClientKey, Kept, Neighbour, Vip};
use lb_core::spread::Own;

use crate::dataplane::{Error, LiveMaps};

/// The maps, and what they hold as this thread has written or read it. What cannot be written is logged, and still differs the next
/// time.
pub(super) struct Written {
    maps: LiveMaps,
    /// By place.
    neighbours: Vec<Neighbour>,
    vips: BTreeMap<Addr, Vip>,
    spread: Own,
    kept: BTreeMap<u32, Kept>,
    /// Something could not be written, or not be read, since that was asked last.
    has_failed: bool,
}

impl Written {
    /// Nothing is known of what the maps hold: [`Self::read_back`] comes first.
    pub(super) fn new(maps: LiveMaps) -> Self {
        Self {
            maps,
            neighbours: Vec::new(),
            vips: BTreeMap::new(),
            spread: Own::new(),
            kept: BTreeMap::new(),
            has_failed: false,
        }
    }

    /// Whether something could not be written, or not be read, since this was asked last.
    pub(super) fn take_failure(&mut self) -> bool {
        std::mem::take(&mut self.has_failed)
    }

    /// Reads which VIPs the map says that this node owns: the data path gives them up when nobody renews the lease. Whether it says
    /// something else than was written.
    pub(super) fn read_back_vips(&mut self) -> bool {
        match self.maps.vips() {
            Ok(vips) => {
                let is_other = self.vips != vips;
                self.vips = vips;
                is_other
            }
            Err(error) => {
                tracing::error!(%error, "the VIPs cannot be read back; it is tried again");
                self.has_failed = true;
                false
            }
        }
    }

    /// Reads what the maps hold: a pass may have written there from older news. Whether they hold something else than was written.
    pub(super) fn read_back(&mut self) -> bool {
        let read = || {
            Ok::<_, Error>((
                self.maps.neighbours()?,
                self.maps.vips()?,
                self.maps.spread()?,
                self.maps.kept()?,
            ))
        };
        match read() {
            Ok((neighbours, vips, spread, kept)) => {
                let known = (&self.neighbours, &self.vips, &self.spread, &self.kept);
                let is_other = known != (&neighbours, &vips, &spread, &kept);
                (self.neighbours, self.vips, self.spread, self.kept) = (neighbours, vips, spread, kept);
                is_other
            }
            Err(error) => {
                tracing::error!(%error, "the maps cannot be read back; it is tried again");
                self.has_failed = true;
                false
            }
        }
    }

    /// Whether it was written; if not, that is remembered.
    fn is_written(&mut self, result: Result<(), Error>, what: &'static str) -> bool {
        if let Err(error) = &result {
            tracing::error!(%error, "{what} is not written; it is tried again");
            self.has_failed = true;
        }
        result.is_ok()
    }

    /// How nodes stand.
    pub(super) fn set_neighbours(&mut self, wanted: impl Iterator<Item = (u32, Neighbour)>) {
        for (place, neighbour) in wanted {
            if self.neighbours.get(place as usize) == Some(&neighbour) {
                continue;
            }
            let result = self.maps.set_neighbour(place, neighbour);
            if self.is_written(result, "a node's state")
                && let Some(known) = self.neighbours.get_mut(place as usize)
            {
                *known = neighbour;
            }
        }
    }

    /// Which shares of VIPs this node answers.
    pub(super) fn set_spread(&mut self, wanted: &Own) {
        for (key, shares) in wanted {
            if self.spread.get(key) == Some(shares) {
                continue;
            }
            let result = self.maps.set_spread(*key, *shares);
            if self.is_written(result, "a VIP's shares") {
                self.spread.insert(*key, *shares);
            }
        }
    }

    /// Which VIPs this node owns.
    pub(super) fn set_vips(&mut self, wanted: impl Iterator<Item = (Addr, Vip)>) {
        for (address, vip) in wanted {
            if self.vips.get(&address) == Some(&vip) {
                continue;
            }
            let result = self.maps.set_vip(address, vip);
            if self.is_written(result, "a VIP's owner") {
                self.vips.insert(address, vip);
            }
        }
    }

    /// Which backends are not avoided, though their nodes are; all others are.
    pub(super) fn set_kept(&mut self, wanted: &BTreeMap<u32, Kept>) {
        let backends: BTreeSet<u32> = self.kept.keys().chain(wanted.keys()).copied().collect();
        for backend in backends {
            let [known, kept] =
                [&self.kept, wanted].map(|all| all.get(&backend).copied().unwrap_or_default());
            if known == kept {
                continue;
            }
            let result = self.maps.set_kept(backend, kept);
            if self.is_written(result, "that a backend is kept") {
                self.kept.insert(backend, kept);
            }
        }
    }

    /// Promises to be there for so long.
    pub(super) fn renew_lease(&mut self, lease: Duration) {
        let result = self.maps.renew_lease(lease);
        self.is_written(result, "the lease");
    }

    /// Clients that have asked for VIPs.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn clients(&self) -> Result<BTreeMap<ClientKey, Client>, Error> {
        self.maps.clients()
    }
}
