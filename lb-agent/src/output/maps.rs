//! What maps hold, in words: for dry runs, golden files and whoever compares them with `bpftool map dump`.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::layout::{
    Backend, NO_CANDIDATE, Neighbour, Service, Vip, backend_state, name_kind, node_state, reach,
    service_flags, vip_flags,
};
use lb_core::{maps::Maps, place::name_text};
use serde::Serialize;

use super::status::mac;

/// What maps hold, a line for an entry. Places that are free are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MapsView {
    /// `CONFIG[0]`, without the keys and the lease.
    pub config: BTreeMap<&'static str, u32>,
    /// `LINKS`, by `ifindex` or `ifindex.vlan`.
    pub links: BTreeMap<String, String>,
    /// `NEIGHBOURS`, by node and segment.
    pub neighbours: BTreeMap<String, String>,
    /// `PEERS`, by segment and MAC.
    pub peers: BTreeMap<String, String>,
    /// `VIPS`, by address.
    pub vips: BTreeMap<String, String>,
    /// `SPREAD`, by address and segment: this node's shares, their number and the words of their bits.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub spread: BTreeMap<String, String>,
    /// `SERVICES`, by `address:port/protocol`.
    pub services: BTreeMap<String, String>,
    /// `TABLE`, the rows of each service.
    pub table: BTreeMap<String, Vec<String>>,
    /// `BACKENDS`, by index.
    pub backends: BTreeMap<u32, String>,
    /// `LOCAL_PORTS`.
    pub local_ports: Vec<String>,
    /// `SOURCES`.
    pub sources: Vec<String>,
    /// `NAMES`.
    pub names: BTreeMap<String, String>,
}

/// What maps hold, in words.
pub fn view(maps: &Maps) -> MapsView {
    let config = &maps.config;
    let segments = lb_common::layout::MAX_SEGMENTS;
    let neighbours = maps.neighbours.iter().zip(0_u32..).filter(|(n, _)| n.reach != reach::NONE);
    let backends = maps.backends.iter().zip(0_u32..).filter(|(b, _)| b.state != backend_state::FREE);
    let services = maps.services.iter().map(|(key, service)| {
        let frontend = SocketAddr::new(key.address.to_ip(), key.port.number());
        (format!("{frontend}/{}", protocol(key.protocol)), service)
    });
    let services: Vec<(String, &Service)> = services.collect();
    MapsView {
        config: [
            ("node", config.node),
            ("algorithm", config.algorithm),
            ("flow_lines", config.flow_lines),
            ("udp_idle", config.udp_idle),
            ("udp_unanswered_idle", config.udp_unanswered_idle),
            ("closing_idle", config.closing_idle),
            ("echo_limit", config.echo_limit),
        ]
        .into(),
        links: maps
            .links
            .iter()
            .map(|(key, link)| {
                let key = if key.vlan == 0 {
                    key.ifindex.to_string()
                } else {
                    format!("{}.{}", key.ifindex, key.vlan)
                };
                (key, format!("segment {} mac {} mode {}", link.segment, mac(link.mac.octets()), link.mode))
            })
            .collect(),
        neighbours: neighbours
            .map(|(neighbour, index)| {
                (format!("node {} segment {}", index / segments, index % segments), neighbour_line(neighbour))
            })
            .collect(),
        peers: maps
            .peers
            .iter()
            .map(|(key, peer)| {
                (
                    format!("segment {} mac {}", key.segment, mac(key.mac.octets())),
                    format!("node {}", peer.node),
                )
            })
            .collect(),
        vips: maps.vips.iter().map(|(address, vip)| (address.to_ip().to_string(), vip_line(vip))).collect(),
        spread: maps
            .spread
            .iter()
            .map(|(key, spread)| {
                let words: String = spread.words.iter().map(|word| format!(" {word:016x}")).collect();
                (
                    format!("{} segment {}", key.vip.to_ip(), key.segment),
                    format!("{}:{words}", spread.count()),
                )
            })
            .collect(),
        table: services
            .iter()
            .filter(|(_, service)| service.table_length > 0)
            .map(|(name, service)| (name.clone(), rows(maps, service)))
            .collect(),
        services: services.iter().map(|(name, service)| (name.clone(), service_line(service))).collect(),
        backends: backends.map(|(backend, index)| (index, backend_line(backend))).collect(),
        local_ports: maps
            .local_ports
            .keys()
            .map(|key| {
                format!(
                    "{}/{}",
                    SocketAddr::new(key.address.to_ip(), key.port.number()),
                    protocol(key.protocol)
                )
            })
            .collect(),
        sources: maps
            .sources
            .keys()
            .map(|key| {
                let (address, bits) = (key.address.to_ip(), key.prefix_length - 32);
                let bits = if address.is_ipv4() { bits.saturating_sub(96) } else { bits };
                format!("service {} {address}/{bits}", key.service)
            })
            .collect(),
        names: maps
            .names
            .iter()
            .map(|(key, name)| {
                let kind = if key.kind == name_kind::NODE { "node" } else { "service" };
                (format!("{kind} {}", key.index), name_text(name).unwrap_or("?").to_owned())
            })
            .collect(),
    }
}

/// A backend's state, as `status` and `explain` name it.
pub fn backend_state_name(state: u8) -> &'static str {
    match state {
        backend_state::READY => "ready",
        backend_state::DRAINING => "draining",
        backend_state::GONE => "gone",
        _ => "free",
    }
}

/// A node's state, as `status` and `explain` name it.
pub fn node_state_name(state: u8) -> &'static str {
    match state {
        node_state::READY => "ready",
        node_state::SUSPECT => "suspect",
        _ => "gone",
    }
}

fn neighbour_line(neighbour: &Neighbour) -> String {
    let reach = if neighbour.reach == reach::SELF { "self" } else { "segment" };
    let dsr = if neighbour.dsr_capable == 0 { " not dsr-capable" } else { "" };
    format!("{reach} {} {}{dsr}", mac(neighbour.mac.octets()), node_state_name(neighbour.state))
}

fn vip_line(vip: &Vip) -> String {
    let bits = |bits: u32| {
        (0..32)
            .filter(|bit| bits >> bit & 1 == 1)
            .map(|bit: u32| bit.to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    let echo = if vip.flags & vip_flags::ECHO == 0 { "silent" } else { "answered" };
    let spread = if vip.flags & vip_flags::SPREAD == 0 { "" } else { " spread" };
    format!("announced [{}] owned [{}] echo {echo}{spread}", bits(vip.announced), bits(vip.owned))
}

fn service_line(service: &Service) -> String {
    let flags = [
        (service_flags::KERNEL, "kernel"),
        (service_flags::NO_ENDPOINTS, "no-endpoints"),
        (service_flags::AFFINITY, "affinity"),
        (service_flags::PROBE, "probe"),
    ];
    let flags: Vec<&str> =
        flags.iter().filter(|(bit, _)| service.flags & bit != 0).map(|(_, name)| *name).collect();
    format!(
        "id {} table {}+{} backends {}+{} flags [{}]",
        service.id.index(),
        service.table_offset,
        service.table_length,
        service.backend_offset,
        service.backend_length,
        flags.join(",")
    )
}

fn backend_line(backend: &Backend) -> String {
    let address = SocketAddr::new(backend.address.to_ip(), backend.port.number());
    format!(
        "{address} node {} {} generation {}",
        backend.node,
        backend_state_name(backend.state),
        backend.generation
    )
}

fn rows(maps: &Maps, service: &Service) -> Vec<String> {
    let rows = maps.rows_of(service).iter();
    rows.map(|row| {
        let candidates = row.candidates.iter().filter(|candidate| **candidate != NO_CANDIDATE);
        candidates.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    })
    .collect()
}

fn protocol(number: u8) -> &'static str {
    match number {
        lb_common::packet::protocol::TCP => "TCP",
        lb_common::packet::protocol::UDP => "UDP",
        _ => "?",
    }
}
