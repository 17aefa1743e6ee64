//! Clusters of the real liveness machine on a virtual clock: for tests, for benchmarks, and behind real sockets as the neighbours of a
//! real agent.

mod cluster;
mod node;

pub use cluster::{Cluster, Distribution, Faults, Outgoing, seeds};
pub use node::{NodeNumber, leg, vip};
