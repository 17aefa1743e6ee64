//! A cluster in network namespaces: three nodes with agents on a LAN, clients on it and behind a router, a node off the segment,
//! pods with real servers.
//!
//! ```text
//!            c3          n4 ── pods
//!             └─── wan ───┘              198.51.100.0/24  2001:db8:0:2::/64
//!                   r
//!    ┌────┬─────── lan ─────┬────┐       192.0.2.0/24     2001:db8:0:1::/64
//!   c1   c2      n1   n2   n3
//!                 └─ pods ─┘             10.244.N.0/24    fd00:10:244:N::/64
//! ```

mod agent;
mod client;
mod cluster;
mod controller;
mod crowd;
mod kube_proxy;
mod limits;
mod listener;
mod namespace;
mod objects;
mod pod;
mod runs;
mod topology;

pub use agent::{Node, agent_program, last_lines};
pub use client::{Answer, Client, Connection, lost};
pub use cluster::{EMPTY, KERNEL, Lab, Lost, REMOTE, WEB, WEB_V6, frontend};
pub use controller::{Controller, controller_log};
pub use crowd::{CROWD_MACS, Crowd};
pub use limits::{Limits, cannot_limit};
pub use listener::{Heard, Listener};
pub use namespace::{Namespace, ip, run};
pub use objects::{Endpoint, Objects, SECRET, memberlist, node, pool, service, slice};
pub use pod::{POD_PORT, Pod, serve};
pub(crate) use runs::CGROUPS;
pub use runs::{Machines, Run, clean, early_log, runs};
pub use topology::pass_on;
pub(crate) use topology::{Host, NODES, Topology, pod_routes};
