//! What Magnetite decides, without doing any of it: snapshots in, plans out.
//!
//! Nothing here reads a clock, opens a socket or knows a runtime; the compiler keeps it so by the list of dependencies.

pub mod allocate;
pub mod announce;
pub mod armed;
pub mod claims;
pub mod diff;
pub mod drain;
pub mod election;
pub mod few;
pub mod frames;
pub mod host;
pub mod kept;
pub mod legs;
pub mod liveness;
pub mod maps;
pub mod model;
pub mod moves;
pub mod ownership;
mod pace;
pub mod place;
pub mod plan;
pub mod probing;
pub mod rows;
pub mod spread;
pub mod table_size;
