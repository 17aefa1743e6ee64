//! What tests share: packets and map contents for single nodes, and labs of whole clusters in network namespaces.

pub mod api_server;
pub mod fixture;
pub mod frames;
pub mod harness;
pub mod kubelets;
pub mod lab;
pub mod manifests;
pub mod proxy;
pub mod scenarios;
