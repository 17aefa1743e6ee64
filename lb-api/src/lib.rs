//! Kubernetes objects, decoded into [`lb_core::model`]; what is wrong with them is said for each object and field.
//!
//! [`decode()`] takes files and gives a snapshot with everything that is right, and [`Problem`]s for the rest. It reads nothing itself.

mod allocation;
mod annotations;
mod bgp;
mod config_map;
pub mod crd;
mod decode;
mod document;
mod memory;
mod mirror;
mod names;
mod node;
mod objects;
mod pool;
mod problem;
mod secret;
mod selector;
mod service;
mod shared;
mod slice;
mod together;

pub use decode::{Decoded, Reading, decode, objects};
pub use memory::{Memory, Settled};
pub use mirror::{Changed, Mirror, Sizer};
pub use node::duration;
pub use objects::{CLUSTER, key_of};
pub use pool::is_configuration;
pub use problem::{ObjectKey, Problem, ProblemKind, Severity};
pub use service::{ALLOCATED_FROM, FORWARDING, TABLE_GROWN, TABLE_SIZE};
