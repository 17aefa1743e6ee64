//! Pinned maps that another agent has left: what is taken over, and what is made anew.

use anyhow::{Result, ensure};
use lb_agent::dataplane::{Dataplane, EgressMode, Error, Options};
use lb_common::layout::Versions;
use lb_core::maps::Sizes;
use magnetite_tests::{
    fixture::{self, CLIENT, CLIENT4, HERE, NODE, VIP4},
    frames::{Flags, Way, tcp},
};

use crate::{Test, machine::Machine, node::Node};

pub fn trials() -> Vec<Test> {
    vec![
        ("maps of the same versions are adopted", same_versions),
        ("config maps of another version are made anew, connections stay", other_config),
        ("config maps of another size are made anew together, connections stay", other_size),
        ("a directory that is not on a BPF file system is left alone", not_bpffs),
        ("state maps of another version are made anew, services stay", other_state),
    ]
}

fn same_versions() -> Result<()> {
    let node = left_with(Versions::CURRENT)?;
    ensure!(node.adopted && node.connections == 1 && node.services > 0, "{node:?}");
    Ok(())
}

fn other_config() -> Result<()> {
    let Versions { state, config } = Versions::CURRENT;
    let node = left_with(Versions { state, config: config + 1 })?;
    ensure!(!node.adopted && node.connections == 1 && node.services == 0, "{node:?}");
    Ok(())
}

fn other_state() -> Result<()> {
    let Versions { state, config } = Versions::CURRENT;
    let node = left_with(Versions { state: state + 1, config })?;
    ensure!(!node.adopted && node.connections == 0 && node.services > 0, "{node:?}");
    Ok(())
}

fn other_size() -> Result<()> {
    let mut node = Node::new()?;
    deliver_one(&mut node)?;
    let pins = node.end();
    let smaller = Sizes { backends: 16, ..fixture::sizes() };
    let mut dataplane = pins.open_with(smaller)?;
    let adopted = dataplane.adopted();
    let tables = dataplane.tables();
    let (connections, services) = (tables.conns()?.len(), tables.read()?.services.len());
    let found = Found { adopted, connections, services };
    ensure!(!found.adopted && found.connections == 1 && found.services == 0, "{found:?}");
    Ok(())
}

fn not_bpffs() -> Result<()> {
    let elsewhere = tempfile::tempdir()?;
    let pin_dir = elsewhere.path().join("pins");
    let options =
        Options { pin_dir: pin_dir.clone(), sizes: fixture::sizes(), egress: EgressMode::of_kernel() };
    let refused = Dataplane::open(&options).err();
    ensure!(matches!(refused, Some(Error::NotBpffs { .. })), "{refused:?}");
    ensure!(!pin_dir.exists(), "the directory was made");
    Ok(())
}

/// What an agent finds.
#[derive(Debug)]
struct Found {
    adopted: bool,
    connections: usize,
    services: usize,
}

/// An agent comes after one that has made its maps with these versions, and has delivered one connection.
fn left_with(versions: Versions) -> Result<Found> {
    let mut node = Node::new()?;
    deliver_one(&mut node)?;
    node.dataplane().tables().set_versions(versions)?;
    let pins = node.end();
    let mut dataplane = pins.open()?;
    let adopted = dataplane.adopted();
    let tables = dataplane.tables();
    Ok(Found { adopted, connections: tables.conns()?.len(), services: tables.read()?.services.len() })
}

fn deliver_one(node: &mut Node) -> Result<()> {
    let way = Way {
        macs: (CLIENT, NODE),
        addresses: (CLIENT4.into(), VIP4.into()),
        ports: (40_000, HERE),
        ttl: 64,
    };
    node.arrive(&tcp(&way, Flags::SYN, b"")).map(drop)
}
