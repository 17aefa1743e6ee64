//! Everything that touches bpf(2), and nothing that decides.

mod array;
mod carried;
mod clock;
mod counters;
mod detach;
mod egress;
mod error;
mod events;
mod hash;
mod live;
mod loader;
mod tables;

pub use carried::Carried;
pub use clock::Clock;
pub use counters::Counters;
pub use egress::EgressMode;
pub use error::Error;
pub use events::Events;
pub use live::LiveMaps;
pub use loader::{Dataplane, Entry, LinkMode, Options, Unloaded, cpus, tick, unload};
pub use tables::Tables;
