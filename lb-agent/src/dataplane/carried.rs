//! Counting what this node carries, in parts: the maps may be large, and what is read of them is not kept.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::maps::{Map, MapData, MapError};
use aya_obj::generated::bpf_cmd;
use lb_common::layout::{
    Backend, BackendRef, Config, Conn, ConnKey, FlowLine, Plain, backend_state, conn_kind,
};
use lb_core::drain::{self, Flows, is_carried};

use super::{
    array::{ArrayMap, Batch, call},
    error::Error,
    loader::tick,
};

/// Entries that are read at a time.
const PART: u32 = 4096;

/// The maps in which flows are, and what the last count has to tell the next.
pub struct Carried {
    pin_dir: PathBuf,
    config: ArrayMap<Config>,
    flows: ArrayMap<FlowLine>,
    backends: ArrayMap<Backend>,
    conns: MapData,
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
        let Map::LruHashMap(conns) = open(CONNS)? else {
            return Err(Error::Map { map: CONNS, source: MapError::InvalidMapType { map_type: 0 } });
        };
        let info = conns.info().map_err(|source| Error::Map { map: CONNS, source })?;
        for (size, expected) in
            [(info.key_size(), size_of::<ConnKey>()), (info.value_size(), size_of::<Conn>())]
        {
            if size as usize != expected {
                let source = MapError::InvalidValueSize { size: expected, expected: size as usize };
                return Err(Error::Map { map: CONNS, source });
            }
        }
        Ok(Self {
            pin_dir: dir.to_owned(),
            config: ArrayMap::new("CONFIG", open("CONFIG")?)?,
            flows: ArrayMap::new("FLOWS", open("FLOWS")?)?,
            backends: ArrayMap::new("BACKENDS", open("BACKENDS")?)?,
            conns,
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
        let mut parts = Parts::new(&self.conns);
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

const CONNS: &str = "CONNS";

/// `CONNS`, a part at a time. What comes and goes meanwhile may be missing or twice there, as with any hash map.
struct Parts<'a> {
    map: &'a MapData,
    keys: Vec<u8>,
    values: Vec<u8>,
    /// The kernel's own mark; none before the first part.
    position: Option<u32>,
    is_over: bool,
}

/// Entries in one bucket of a hash map: more are none of this world.
const LARGEST_PART: u32 = 1 << 20;

impl<'a> Parts<'a> {
    fn new(map: &'a MapData) -> Self {
        let mut parts = Self { map, keys: Vec::new(), values: Vec::new(), position: None, is_over: false };
        parts.make_room(PART);
        parts
    }

    fn make_room(&mut self, count: u32) {
        self.keys.resize(count as usize * size_of::<ConnKey>(), 0);
        self.values.resize(count as usize * size_of::<Conn>(), 0);
    }

    /// `None` at the end.
    fn next(&mut self) -> Result<Option<impl Iterator<Item = (ConnKey, Conn)> + '_>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let count = loop {
            let room = (self.keys.len() / size_of::<ConnKey>()) as u32;
            let mut next = 0_u32;
            let mut batch = Batch {
                in_batch: self.position.as_ref().map_or(0, |position| std::ptr::from_ref(position) as u64),
                out_batch: std::ptr::from_mut(&mut next) as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: room,
            };
            // SAFETY: the buffers have room for so many keys and values, whose sizes were compared with the map's; the marks are the
            // four bytes that a hash map's are (kernel: `__htab_map_lookup_and_delete_batch`).
            let done = unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, self.map, &mut batch) };
            match done.map_err(|error| (error.raw_os_error(), error)) {
                Ok(()) => {
                    self.position = Some(next);
                    break batch.count;
                }
                Err((Some(libc::ENOENT), _)) => {
                    self.is_over = true;
                    break batch.count;
                }
                // The next bucket has more entries than there is room for.
                Err((Some(libc::ENOSPC), _)) if room < LARGEST_PART => self.make_room(2 * room),
                Err((_, source)) => return Err(failed(room, source)),
            }
        };
        let keys = self.keys.chunks_exact(size_of::<ConnKey>()).filter_map(ConnKey::from_bytes);
        let values = self.values.chunks_exact(size_of::<Conn>()).filter_map(Conn::from_bytes);
        Ok(Some(keys.zip(values).take(count as usize)))
    }
}

fn failed(count: u32, source: io::Error) -> Error {
    Error::Batch { map: CONNS, offset: 0, count: count as usize, source }
}
