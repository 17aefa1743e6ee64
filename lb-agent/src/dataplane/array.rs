//! Arrays of plain values, read and written many entries at a time (aya has no batch operations).

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd},
};

use aya::maps::{Map, MapData};
use aya_obj::generated::{bpf_attr, bpf_cmd};
use lb_common::layout::Plain;

use super::error::Error;

/// An array map with values of type `V`.
#[derive(Debug)]
pub struct ArrayMap<V> {
    name: &'static str,
    /// Programs that are not loaded yet name the map by this very descriptor.
    data: MapData,
    length: u32,
    values: PhantomData<V>,
}

impl<V: Plain> ArrayMap<V> {
    /// # Errors
    /// The map is of another type or has values of another size.
    pub fn new(name: &'static str, map: Map) -> Result<Self, Error> {
        let wrong = || Error::Map { map: name, source: aya::maps::MapError::InvalidMapType { map_type: 0 } };
        let Map::Array(data) = map else { return Err(wrong()) };
        let info = data.info().map_err(|source| Error::Map { map: name, source })?;
        if info.value_size() as usize != size_of::<V>() {
            let source = aya::maps::MapError::InvalidValueSize {
                size: size_of::<V>(),
                expected: info.value_size() as usize,
            };
            return Err(Error::Map { map: name, source });
        }
        let length = info.max_entries();
        Ok(Self { name, data, length, values: PhantomData })
    }

    /// Entries.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// All entries.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self) -> Result<Vec<V>, Error> {
        self.read_part(0, self.length)
    }

    /// So many entries from there on, or fewer at the end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_part(&self, offset: u32, count: u32) -> Result<Vec<V>, Error> {
        let length = count.min(self.length.saturating_sub(offset)) as usize;
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut values = vec![0_u8; length * size_of::<V>()];
        let mut keys = vec![0_u32; length];
        let mut next = 0_u32;
        // The kernel begins behind the key that it is given.
        let before = offset.checked_sub(1);
        let mut batch = Batch {
            in_batch: before.as_ref().map_or(0, |key| std::ptr::from_ref(key) as u64),
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: length as u32,
        };
        match self.call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut batch) {
            // The kernel says ENOENT when it has reached the end.
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(source) => return Err(Error::Batch { map: self.name, offset, count: length, source }),
        }
        Ok(values.chunks_exact(size_of::<V>()).filter_map(V::from_bytes).collect())
    }

    /// Writes consecutive entries.
    ///
    /// # Errors
    /// The kernel's, for one that entries lie outside the array.
    pub fn write(&self, offset: u32, values: &[V]) -> Result<(), Error> {
        if values.is_empty() {
            return Ok(());
        }
        let keys: Vec<u32> = (offset..).take(values.len()).collect();
        let count = values.len() as u32;
        let mut batch = Batch {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count,
        };
        self.call(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut batch).map_err(|source| Error::Batch {
            map: self.name,
            offset,
            count: values.len(),
            source,
        })
    }

    fn call(&self, command: bpf_cmd, batch: &mut Batch) -> io::Result<()> {
        // SAFETY: keys and values are buffers of the caller's for `count` entries of the sizes that `new` has compared.
        unsafe { call(command, &self.data, batch) }
    }
}

/// A batch operation; afterwards the count is that of the entries that it was done with.
///
/// # Safety
/// Keys and values are buffers for `count` entries of the map's sizes; what else is not null is as the operation asks for.
pub(super) unsafe fn call(command: bpf_cmd, map: &MapData, batch: &mut Batch) -> io::Result<()> {
    // SAFETY: an all-zero attribute is the kernel's own default.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.batch.in_batch = batch.in_batch;
    attr.batch.out_batch = batch.out_batch;
    attr.batch.keys = batch.keys;
    attr.batch.values = batch.values;
    attr.batch.count = batch.count;
    attr.batch.map_fd = map.fd().as_fd().as_raw_fd() as u32;
    // SAFETY: the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as i32, &raw mut attr, size_of::<bpf_attr>()) };
    // SAFETY: the kernel has left the part of the attribute that it was given.
    batch.count = unsafe { attr.batch.count };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The part of `bpf_attr` that is for batches: addresses, and how many entries there is room for.
pub(super) struct Batch {
    pub in_batch: u64,
    pub out_batch: u64,
    pub keys: u64,
    pub values: u64,
    pub count: u32,
}
