//! The agent: everything that has a clock, a socket or a file descriptor. Decisions are `lb_core`'s and `lb_common`'s.

mod chain;
pub mod cluster;
pub mod commands;
pub mod controller;
pub mod dataplane;
pub mod liveness;
pub mod logind;
pub mod memory;
pub mod metrics;
pub mod migrate;
pub mod network;
pub mod node;
pub mod output;
pub mod source;

/// The BPF object; empty if it was not built before the agent (`cargo xtask build-ebpf`).
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/magnetite.o"));
