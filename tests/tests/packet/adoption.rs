//! Pinned maps that another agent has left: what is taken over, and what is made anew.

use anyhow::{Result, ensure};
use lb_common::layout::Versions;
use magnetite_tests::{
    fixture::{CLIENT, CLIENT4, HERE, NODE, VIP4},
    frames::{Flags, Way, tcp},
};

use crate::{Test, machine::Machine, node::Node};

pub fn trials() -> Vec<Test> {
    vec![
        ("maps of the same versions are adopted", same_versions),
        ("config maps of another version are made anew, connections stay", other_config),
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
    let way = Way {
        macs: (CLIENT, NODE),
        addresses: (CLIENT4.into(), VIP4.into()),
        ports: (40_000, HERE),
        ttl: 64,
    };
    node.arrive(&tcp(&way, Flags::SYN, b""))?;
    node.dataplane().tables().set_versions(versions)?;
    let pins = node.end();
    let mut dataplane = pins.open()?;
    let adopted = dataplane.adopted();
    let tables = dataplane.tables();
    Ok(Found { adopted, connections: tables.conns()?.len(), services: tables.read()?.services.len() })
}
