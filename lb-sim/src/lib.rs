//! Clusters of the real liveness machine on a virtual clock: for tests, for benchmarks, and behind real sockets as the neighbours of a
//! real agent.

mod cluster;
mod distribution;
mod node;

pub use cluster::{Cluster, Faults, Outgoing};
pub use distribution::{Distribution, seeds};
pub use node::{NodeNumber, leg, vip};
