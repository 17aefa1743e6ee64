//! What the programs have counted, summed over CPUs.

use std::{collections::BTreeMap, path::Path};

use aya::{
    maps::{Map, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use lb_common::{
    Reason,
    layout::{Plain, ReasonCount, Stats, VipStats},
};
use lb_core::maps::StatsPlace;

use super::{error::Error, tables::AsPod};

/// The counting maps.
pub struct Counters {
    reasons: Counts<ReasonCount>,
    services: Counts<Stats>,
    backends: Counts<Stats>,
    vips: Counts<VipStats>,
}

struct Counts<V: Plain> {
    name: &'static str,
    map: PerCpuArray<MapData, AsPod<V>>,
}

impl Counters {
    /// From maps by name.
    ///
    /// # Errors
    /// One is missing, or is of another type or size.
    pub fn new(mut take: impl FnMut(&'static str) -> Result<Map, Error>) -> Result<Self, Error> {
        Ok(Self {
            reasons: Counts::new("REASONS", take("REASONS")?)?,
            services: Counts::new("SERVICE_STATS", take("SERVICE_STATS")?)?,
            backends: Counts::new("BACKEND_STATS", take("BACKEND_STATS")?)?,
            vips: Counts::new("VIP_STATS", take("VIP_STATS")?)?,
        })
    }

    /// From the pins in a directory, beside whoever else has them open.
    ///
    /// # Errors
    /// As [`Self::new`], or nothing is pinned there.
    pub fn pinned(dir: &Path) -> Result<Self, Error> {
        Self::new(|name| {
            let map = MapData::from_pin(dir.join(name)).and_then(Map::from_map_data);
            map.map_err(|source| Error::Map { map: name, source })
        })
    }

    /// `REASONS`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reasons(&self) -> Result<BTreeMap<Reason, ReasonCount>, Error> {
        let count = |reason: &Reason| Ok((*reason, self.reasons.get(*reason as u32)?));
        Reason::ALL.iter().map(count).collect()
    }

    /// `SERVICE_STATS` at [`lb_common::layout::ServiceId::index`]; `None` for one that is beyond, and not counted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn service(&self, index: u32) -> Result<Option<Stats>, Error> {
        self.services.get_within(index)
    }

    /// `BACKEND_STATS`; `None` for one that is beyond, and not counted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn backend(&self, index: u32) -> Result<Option<Stats>, Error> {
        self.backends.get_within(index)
    }

    /// `VIP_STATS` at [`lb_common::layout::Vip::stats`].
    ///
    /// # Errors
    /// The kernel's, for one that there is no such place.
    pub fn vip(&self, index: u32) -> Result<VipStats, Error> {
        self.vips.get(index)
    }

    /// Counts from zero again at this place, if it is counted there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear(&mut self, place: StatsPlace) -> Result<(), Error> {
        match place {
            StatsPlace::Vip(index) => self.vips.clear(index),
            StatsPlace::Service(index) => self.services.clear(index),
            StatsPlace::Backend(index) => self.backends.clear(index),
        }
    }
}

impl<V: Plain + Sum> Counts<V> {
    fn new(name: &'static str, map: Map) -> Result<Self, Error> {
        let map = map.try_into().map_err(|source| Error::Map { map: name, source })?;
        Ok(Self { name, map })
    }

    fn get(&self, index: u32) -> Result<V, Error> {
        let values = self.map.get(&index, 0).map_err(|source| self.failed(source))?;
        let mut sum = V::default();
        values.iter().for_each(|value| sum.add(&value.into_inner()));
        Ok(sum)
    }

    fn get_within(&self, index: u32) -> Result<Option<V>, Error> {
        if index < self.map.len() { self.get(index).map(Some) } else { Ok(None) }
    }

    fn clear(&mut self, index: u32) -> Result<(), Error> {
        if index >= self.map.len() {
            return Ok(());
        }
        let cpus = nr_cpus().map_err(|(_, source)| Error::Kernel { what: "CPUs", source })?;
        let zeros = PerCpuValues::try_from(vec![AsPod::new(V::default()); cpus]);
        let zeros = zeros.map_err(|source| Error::Kernel { what: "CPUs", source })?;
        self.map.set(index, zeros, 0).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: MapError) -> Error {
        Error::Map { map: self.name, source }
    }
}

/// What counts of CPUs add up to.
trait Sum: Default {
    fn add(&mut self, other: &Self);
}

impl Sum for ReasonCount {
    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl Sum for Stats {
    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.new_flows += other.new_flows;
        self.delivered += other.delivered;
        self.answered += other.answered;
        self.completed += other.completed;
    }
}

impl Sum for VipStats {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.answers += other.answers;
        self.left += other.left;
    }
}
