//! Rows of live tables.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use lb_common::{
    decide::row_index,
    layout::{NO_CANDIDATE, Port},
    meta::{Kind, Meta},
};
use lb_core::maps::Maps;

use super::traffic::{Ends, ends};
use crate::lab::{Connection, Lab, Node};

/// The connections that hang on `FLOWS` alone: their pod is not in their row any more.
pub fn without_row(lab: &Lab, node: &Node, connections: &[Connection]) -> Result<BTreeSet<Ends>> {
    let maps = node.tables()?.read()?;
    let mut without = BTreeSet::new();
    for connection in connections {
        let endpoint = lab.endpoint(&connection.pod, connection.vip.is_ipv6());
        if !row(&maps, connection)?.contains(&endpoint) {
            without.insert(ends(connection));
        }
    }
    Ok(without)
}

/// The endpoints of a connection's row.
fn row(maps: &Maps, connection: &Connection) -> Result<Vec<String>> {
    let meta = Meta {
        source: connection.client.ip().into(),
        destination: connection.vip.ip().into(),
        source_port: Port::new(connection.client.port()),
        destination_port: Port::new(connection.vip.port()),
        protocol: 6,
        kind: Kind::Tcp,
        v6: connection.vip.is_ipv6(),
        ..Meta::EMPTY
    };
    let service = maps.services.get(&meta.service_key()).context("the VIP is a service's")?;
    let index = row_index(&meta, service, &maps.config.row_key);
    let row = maps.row(index).context("the row is in the table")?;
    let candidates = row.candidates.iter().filter(|candidate| **candidate != NO_CANDIDATE);
    let backends = candidates
        .filter_map(|candidate| maps.backends.get((service.backend_offset + u32::from(*candidate)) as usize));
    Ok(backends
        .map(|backend| std::net::SocketAddr::new(backend.address.to_ip(), backend.port.number()).to_string())
        .collect())
}
