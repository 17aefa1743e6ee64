//! Hash maps that are read many entries at a time: they change while they are read, and going from key to key would begin anew
//! whenever the last one has gone.

use std::{collections::BTreeMap, io, marker::PhantomData};

use aya::maps::{Map, MapData, MapError};
use aya_obj::generated::bpf_cmd;
use lb_common::layout::Plain;

use super::{
    array::{Batch, call},
    error::Error,
};

/// An LRU hash map, to be read.
pub struct LruHash<K, V> {
    name: &'static str,
    data: MapData,
    entries: PhantomData<(K, V)>,
}

/// Entries in one call, where all are read at once.
const AT_ONCE: u32 = 4096;

impl<K: Plain, V: Plain> LruHash<K, V> {
    /// # Errors
    /// The map is of another type, or its keys or values are of another size.
    pub fn new(name: &'static str, map: Map) -> Result<Self, Error> {
        let failed = |source| Error::Map { map: name, source };
        let Map::LruHashMap(data) = map else {
            return Err(failed(MapError::InvalidMapType { map_type: 0 }));
        };
        let info = data.info().map_err(failed)?;
        let (keys, values) = (info.key_size() as usize, info.value_size() as usize);
        if keys != size_of::<K>() {
            return Err(failed(MapError::InvalidKeySize { size: size_of::<K>(), expected: keys }));
        }
        if values != size_of::<V>() {
            return Err(failed(MapError::InvalidValueSize { size: size_of::<V>(), expected: values }));
        }
        Ok(Self { name, data, entries: PhantomData })
    }

    /// All entries. What comes and goes meanwhile may be missing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self) -> Result<BTreeMap<K, V>, Error>
    where
        K: Ord,
    {
        let mut all = BTreeMap::new();
        let mut parts = self.parts(AT_ONCE);
        while let Some(part) = parts.next()? {
            all.extend(part);
        }
        Ok(all)
    }

    /// The entries, about so many at a time.
    pub fn parts(&self, count: u32) -> Parts<'_, K, V> {
        let mut parts =
            Parts { map: self, keys: Vec::new(), values: Vec::new(), position: None, is_over: false };
        parts.make_room(count);
        parts
    }
}

/// A map, a part at a time. What comes and goes meanwhile may be missing or twice there.
pub struct Parts<'a, K, V> {
    map: &'a LruHash<K, V>,
    keys: Vec<u8>,
    values: Vec<u8>,
    /// The kernel's own mark; none before the first part.
    position: Option<u32>,
    is_over: bool,
}

/// Entries in one bucket of a hash map: more are none of this world.
const LARGEST_PART: u32 = 1 << 20;

impl<K: Plain, V: Plain> Parts<'_, K, V> {
    fn make_room(&mut self, count: u32) {
        self.keys.resize(count as usize * size_of::<K>(), 0);
        self.values.resize(count as usize * size_of::<V>(), 0);
    }

    /// `None` at the end.
    ///
    /// # Errors
    /// The kernel's (the call is there from 5.6 on).
    pub fn next(&mut self) -> Result<Option<impl Iterator<Item = (K, V)> + '_>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let count = loop {
            let room = (self.keys.len() / size_of::<K>()) as u32;
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
            let done = unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &self.map.data, &mut batch) };
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
                Err((_, source)) => return Err(self.failed(room, source)),
            }
        };
        let keys = self.keys.chunks_exact(size_of::<K>()).filter_map(K::from_bytes);
        let values = self.values.chunks_exact(size_of::<V>()).filter_map(V::from_bytes);
        Ok(Some(keys.zip(values).take(count as usize)))
    }

    fn failed(&self, count: u32, source: io::Error) -> Error {
        Error::Batch { map: self.map.name, offset: 0, count: count as usize, source }
    }
}
