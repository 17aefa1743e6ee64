//! A cluster as its users have it: nodes with kubelet, containerd and kube-proxy, Kubernetes' own controllers and scheduler, and
//! Magnetite as `manifests/` and `cargo xtask image` make it. Nodes are machines of the lab's LAN in more namespaces than that of the
//! network.

mod boot;
mod cluster;
mod configuration;
mod node;
mod parts;

pub use boot::Boot;
pub use cluster::Cluster;
pub use node::KubeletNode;
pub use parts::{POD_IMAGE, missing};
