//! `explain`: where one flow goes and why, by the same decision and the same maps as the data path's.

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use lb_common::{
    Lookup, decide,
    decide::{Decision, Verdict, row_index},
    flows::{find, flow_hash},
    layout::{
        Addr, BackendRef, FlowLine, LinkKey, NO_CANDIDATE, NameKey, Port, SHARES, Service, conn_kind,
        name_kind, node_state, service_flags,
    },
    meta::{Kind, Meta},
    packet::tcp_flags,
    spread::share_of,
};
use lb_core::{host::HostMaps, maps::Maps, model::Protocol, place::name_text};

use crate::output::{ForwardingStatus, NodeStatus, backend_state_name, mac, node_state_name};

/// A flow, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client.
    pub client: SocketAddr,
    /// VIP and port.
    pub vip: SocketAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// From whom its packets come, on the wire: the client, or its router. `FLOWS` is by sender.
    pub sender: Option<[u8; 6]>,
}

/// What is no flow.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlowError {
    /// One IPv4, the other IPv6.
    #[error("{client} and {vip} are of different families")]
    Families {
        /// The client.
        client: IpAddr,
        /// The VIP.
        vip: IpAddr,
    },
}

impl Flow {
    /// A flow from its ends.
    ///
    /// # Errors
    /// The ends are of different families.
    pub fn new(client: SocketAddr, vip: SocketAddr, protocol: Protocol) -> Result<Self, FlowError> {
        if client.is_ipv4() != vip.is_ipv4() {
            return Err(FlowError::Families { client: client.ip(), vip: vip.ip() });
        }
        Ok(Self { client, vip, protocol, sender: None })
    }
}

/// What a data path knows: its maps as they are.
pub struct Known {
    /// Config maps, `CONNS` and `REVERSE`; of `FLOWS` nothing.
    pub maps: HostMaps,
    /// `FLOWS` of all receive queues.
    pub flows: Vec<FlowLine>,
}

/// Where the flow goes and why, step by step. `status` tells what the maps do not: owners, and why something is left to the kernel.
pub fn explain(known: &Known, flow: &Flow, status: Option<&NodeStatus>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_all(&mut text, known, flow, status);
    text
}

fn write_all(out: &mut String, known: &Known, flow: &Flow, status: Option<&NodeStatus>) -> std::fmt::Result {
    let maps = &known.maps.maps;
    let this = node_name(maps, maps.config.node);
    writeln!(out, "{} -> {} {} on node {this}", flow.client, flow.vip, flow.protocol)?;
    match (
        maps.vips.get(&Addr::from(flow.vip.ip())),
        status.and_then(|s| s.vips.get(&flow.vip.ip().to_string())),
    ) {
        (None, _) => writeln!(out, "VIP       {} is none of ours", flow.vip.ip())?,
        (Some(_), Some(vip)) => writeln!(
            out,
            "VIP       {} of {}: owner {}, announced on {}",
            flow.vip.ip(),
            vip.services.join(", "),
            vip.answers(),
            vip.segments.join(", ")
        )?,
        (Some(vip), None) => writeln!(
            out,
            "VIP       {}: {} by this node",
            flow.vip.ip(),
            if vip.owned == 0 { "not owned" } else { "owned" }
        )?,
    }
    write_share(out, maps, flow)?;
    let meta = meta(flow);
    if let Some(service) = maps.services.get(&meta.service_key()) {
        write_service(out, known, flow, &meta, service, status)?;
    }
    for key in maps.links.keys() {
        write_decisions(out, known, &at_link(&meta, maps, *key), maps.links.len() > 1)?;
    }
    Ok(())
}

/// Of a VIP that is spread over nodes: whether this node answers the client.
fn write_share(out: &mut String, maps: &Maps, flow: &Flow) -> std::fmt::Result {
    let (vip, client) = (Addr::from(flow.vip.ip()), Addr::from(flow.client.ip()));
    let share = share_of(&vip, &client);
    for (key, spread) in maps.spread.iter().filter(|(key, _)| key.vip == vip) {
        let who = if spread.has(share) { "this node" } else { "another node" };
        writeln!(out, "share     {share} of {SHARES}, which {who} answers in segment {}", key.segment)?;
    }
    Ok(())
}

fn write_service(
    out: &mut String,
    known: &Known,
    flow: &Flow,
    meta: &Meta,
    service: &Service,
    status: Option<&NodeStatus>,
) -> std::fmt::Result {
    let maps = &known.maps.maps;
    let frontend = format!("{}/{}", flow.vip, flow.protocol);
    let planned = status.and_then(|status| status.services.get(&frontend));
    let name = maps
        .names
        .get(&NameKey { kind: name_kind::SERVICE, index: service.id.raw })
        .and_then(name_text)
        .unwrap_or("without name");
    let forwarding = match service.flags & (service_flags::KERNEL | service_flags::NO_ENDPOINTS) {
        // The maps have it by backend.
        0 => planned.map_or(ForwardingStatus::Dsr, |planned| planned.forwarding),
        _ => ForwardingStatus::Kernel,
    };
    write!(out, "service   {name}: forwarding {}", forwarding.name())?;
    match planned.and_then(|planned| planned.reason.as_ref()) {
        Some(reason) => writeln!(out, ", because {reason}")?,
        None => writeln!(out, ", table of {} rows", service.table_length)?,
    }
    if service.table_length > 0 {
        let index = row_index(meta, service, &maps.config.row_key);
        writeln!(out, "row       {} of its table, candidates in order:", index - service.table_offset)?;
        let candidates = maps.row(index).map(|row| row.candidates).unwrap_or_default();
        for candidate in candidates.into_iter().filter(|candidate| *candidate != NO_CANDIDATE) {
            let index = service.backend_offset + u32::from(candidate);
            let text = backend(maps, BackendRef::new(index, 0));
            let endpoint = maps
                .backends
                .get(index as usize)
                .map(|b| SocketAddr::new(b.address.to_ip(), b.port.number()));
            let kernel = endpoint
                .and_then(|endpoint| planned?.endpoints.get(&endpoint.to_string())?.kernel.clone())
                .map(|why| format!("; left to the kernel: {why}"))
                .unwrap_or_default();
            let kept = known.maps.kept.get(&index).map_or("", |_| "; used although its node is in trouble");
            writeln!(out, "            {text}{kept}{kernel}")?;
        }
    }
    Ok(())
}

/// What is remembered of the flow, and what would be done now, as packets from this link.
fn write_decisions(out: &mut String, known: &Known, meta: &Meta, name_link: bool) -> std::fmt::Result {
    let maps = &known.maps.maps;
    if name_link {
        let vlan = if meta.vlan == 0 { String::new() } else { format!(", VLAN {}", meta.vlan) };
        writeln!(out, "link      {}{vlan}", meta.ifindex)?;
    }
    let mut host = known.maps.clone();
    let remembered =
        of_flow(known, meta).inspect(|(lines, _)| host.flows = lines.to_vec()).map(|(_, backend)| backend);
    match (meta.source_mac.octets(), remembered) {
        (_, Some(reference)) => writeln!(out, "FLOWS     to {}", backend(maps, reference))?,
        ([0, 0, 0, 0, 0, 0], None) => {
            writeln!(out, "FLOWS     not looked up: the sender's MAC is not known (--from-mac)")?;
        }
        (octets, None) => writeln!(out, "FLOWS     nothing of a flow from {}", mac(octets))?,
    }
    let conn = host.conns.get(meta.conn_key());
    match conn {
        None => writeln!(out, "CONNS     nothing")?,
        Some(conn) if conn.kind == conn_kind::KERNEL => writeln!(out, "CONNS     left to the kernel")?,
        Some(conn) => {
            let pod = SocketAddr::new(conn.pod.to_ip(), conn.pod_port.number());
            writeln!(out, "CONNS     delivered to {pod} on this node")?;
            let reply = host.reverse(&meta.reverse_key_of(conn.pod, conn.pod_port));
            let reply = reply.map(|r| SocketAddr::new(r.vip.to_ip(), r.vip_port.number()).to_string());
            writeln!(
                out,
                "REVERSE   {}",
                reply.map_or("nothing: replies are not restored".to_owned(), |vip| format!(
                    "replies leave as {vip}"
                ))
            )?;
        }
    }
    if meta.is_tcp() {
        let next = Meta { tcp_flags: tcp_flags::ACK, ..*meta };
        writeln!(out, "next      {}", outcome(maps, &decide(&next, &host)))?;
        let syn = Meta { tcp_flags: tcp_flags::SYN, ..*meta };
        writeln!(out, "as a SYN  {}", outcome(maps, &decide(&syn, &host)))
    } else {
        writeln!(out, "next      {}", outcome(maps, &decide(meta, &host)))
    }
}

fn outcome(maps: &Maps, decision: &Decision) -> String {
    let what = match decision.verdict {
        Verdict::Pass => "to the kernel".to_owned(),
        Verdict::Drop => "dropped".to_owned(),
        Verdict::Deliver { address, port } => {
            format!("delivered to {} on this node", SocketAddr::new(address.to_ip(), port.number()))
        }
        Verdict::Forward { mac: to, .. } => {
            let node =
                maps.peers.iter().find(|(key, _)| key.mac == to).map(|(_, peer)| node_name(maps, peer.node));
            let pod = if decision.backend.raw == 0 {
                String::new()
            } else {
                format!(" for {}", backend(maps, decision.backend))
            };
            format!("forwarded to {} ({}){pod}", node.unwrap_or_default(), mac(to.octets()))
        }
        Verdict::Advertise { .. }
        | Verdict::EchoReply
        | Verdict::ProbeAnswer { .. }
        | Verdict::Restore { .. } => "answered".to_owned(),
    };
    format!("{what} [{}] {}", decision.reason.name(), decision.reason.explanation())
}

/// The lines of the queue that remembers the flow, and its backend.
fn of_flow<'a>(known: &'a Known, meta: &Meta) -> Option<(&'a [FlowLine], BackendRef)> {
    let config = &known.maps.maps.config;
    let service = known.maps.maps.services.get(&meta.service_key())?;
    let hash = flow_hash(meta, &config.flow_key);
    known.flows.chunks_exact(config.flow_lines.max(1) as usize).find_map(|lines| {
        let slot = find(&lines[hash.line(config.flow_lines) as usize], hash.tag(), service.id)?;
        Some((lines, slot.backend))
    })
}

fn backend(maps: &Maps, reference: BackendRef) -> String {
    let Some(backend) = maps.backends.get(reference.index() as usize) else { return "nobody".to_owned() };
    let address = SocketAddr::new(backend.address.to_ip(), backend.port.number());
    let node = node_name(maps, u32::from(backend.node));
    let first = u32::from(backend.node) * lb_common::layout::MAX_SEGMENTS;
    let suspect = maps
        .neighbours
        .iter()
        .skip(first as usize)
        .take(lb_common::layout::MAX_SEGMENTS as usize)
        .find(|neighbour| neighbour.state != node_state::READY)
        .map(|neighbour| format!(", node {}", node_state_name(neighbour.state)))
        .unwrap_or_default();
    format!("{address} on {node} ({}{suspect})", backend_state_name(backend.state))
}

fn node_name(maps: &Maps, index: u32) -> String {
    let name = maps.names.get(&NameKey { kind: name_kind::NODE, index });
    name.and_then(name_text).map_or_else(|| "an unknown node".to_owned(), str::to_owned)
}

/// A packet of the flow that has not arrived by any link yet.
fn meta(flow: &Flow) -> Meta {
    Meta {
        source: flow.client.ip().into(),
        destination: flow.vip.ip().into(),
        source_port: Port::new(flow.client.port()),
        destination_port: Port::new(flow.vip.port()),
        protocol: u32::from(flow.protocol.number()),
        source_mac: flow.sender.unwrap_or_default().into(),
        ttl: 64,
        kind: match flow.protocol {
            Protocol::Tcp => Kind::Tcp,
            Protocol::Udp => Kind::Udp,
        },
        v6: flow.vip.is_ipv6(),
        ..Meta::EMPTY
    }
}

fn at_link(meta: &Meta, maps: &Maps, key: LinkKey) -> Meta {
    let destination_mac = maps.links.get(&key).map(|link| link.mac).unwrap_or_default();
    Meta { ifindex: key.ifindex, vlan: key.vlan as u16, destination_mac, ..*meta }
}

/// `tcp` or `udp`, in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolName(pub Protocol);

impl FromStr for ProtocolName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self(Protocol::Tcp)),
            "udp" => Ok(Self(Protocol::Udp)),
            _ => Err("expected tcp or udp"),
        }
    }
}
