//! Counting what this node carries, in parts: the maps may be large, and what is read of them is not kept.

use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData};
use lb_common::layout::{Backend, BackendRef, Config, Conn, ConnKey, FlowLine, backend_state, conn_kind};
use lb_core::drain::{self, Flows, is_carried};

use super::{array::ArrayMap, error::Error, hash::LruHash, loader::tick};

/// Entries that are read at a time.
const PART: u32 = 4096;

/// The maps in which flows are, and what the last count has to tell the next.
pub struct Carried {
    pin_dir: PathBuf,
    config: ArrayMap<Config>,
    flows: ArrayMap<FlowLine>,
    backends: ArrayMap<Backend>,
    conns: LruHash<ConnKey, Conn>,
    counted: drain::Carried,
}

impl Carried {
    /// From the pins in a directory.
    ///
    /// # Errors
    /// Nothing is pinned there, or something else.
    pub fn pinned(dir: &Path) -> Result<Self, Error> {
        let open = |name| {
            let map = MapData::from_pin(dir.join(name)).map_err(|source| Error::Map { map: name, source })?;
            Map::from_map_data(map).map_err(|source| Error::Map { map: name, source })
        };
        Ok(Self {
            pin_dir: dir.to_owned(),
            config: ArrayMap::new("CONFIG", open("CONFIG")?)?,
            flows: ArrayMap::new("FLOWS", open("FLOWS")?)?,
            backends: ArrayMap::new("BACKENDS", open("BACKENDS")?)?,
            conns: LruHash::new("CONNS", open("CONNS")?)?,
            counted: drain::Carried::default(),
        })
    }

    /// What this node carries now. It takes a while where maps are large: not for a thread that must not wait.
    ///
    /// # Errors
    /// The kernel's.
    pub fn count(&mut self) -> Result<Flows, Error> {
        let config = self.config.read()?.first().copied().unwrap_or_default();
        let mut flows = Flows::default();
        for offset in (0..self.flows.length()).step_by(PART as usize) {
            let lines = self.flows.read_part(offset, PART)?;
            let tick = tick(&self.pin_dir, config.tick_shift)?;
            flows.entering += self.counted.flows(offset as usize, &lines, tick);
        }
        let mut states = Vec::with_capacity(self.backends.length() as usize);
        for offset in (0..self.backends.length()).step_by(PART as usize) {
            let part = self.backends.read_part(offset, PART)?;
            states.extend(part.iter().map(|backend| (backend.generation, backend.state)));
        }
        let is_there = |backend: BackendRef| {
            states.get(backend.index() as usize).is_some_and(|(generation, state)| {
                *generation == backend.generation()
                    && matches!(*state, backend_state::READY | backend_state::DRAINING)
            })
        };
        let mut parts = self.conns.parts(PART);
        while let Some(part) = parts.next()? {
            let tick = tick(&self.pin_dir, config.tick_shift)?;
            for (key, conn) in part {
                if is_carried(key.protocol, &conn, is_there(conn.backend), tick) {
                    let count = match conn.kind {
                        conn_kind::LOCAL => &mut flows.to_pods,
                        _ => &mut flows.entering,
                    };
                    *count += 1;
                }
            }
        }
        Ok(flows)
    }
}
