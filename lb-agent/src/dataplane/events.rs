//! What the data path tells of, from its ring buffer.

use std::{
    os::fd::{AsRawFd, RawFd},
    path::Path,
    time::Duration,
};

use aya::maps::{Map, MapData, RingBuf};
use lb_common::layout::{ClaimEvent, Plain};

use super::{clock::boot_time, error::Error};

/// `EVENTS`, read. There is one reader: what it has taken is gone.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    /// From the pin in a directory.
    ///
    /// # Errors
    /// Nothing is pinned there, or something else.
    pub fn pinned(dir: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Map { map: "EVENTS", source };
        let map = MapData::from_pin(dir.join("EVENTS")).and_then(Map::from_map_data).map_err(failed)?;
        Ok(Self { ring: map.try_into().map_err(failed)? })
    }

    /// How long ago an event was.
    ///
    /// # Errors
    /// The kernel's.
    pub fn age(event: &ClaimEvent) -> Result<Duration, Error> {
        Ok(boot_time()?.saturating_sub(Duration::from_nanos(event.time)))
    }

    /// The next that was not taken yet.
    pub fn take(&mut self) -> Option<ClaimEvent> {
        loop {
            let record = self.ring.next()?;
            // Programs of another version may still write another record.
            if let Some(event) = ClaimEvent::from_bytes(&record) {
                return Some(event);
            }
        }
    }
}

/// Readable while something is there that was not taken yet.
impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
