//! Nodes with their maps, the segment between them, and the pods.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    Meta, Verdict,
    decide::{decide, decide_reply, row_index},
    hash::{HashKey, mix},
    layout::{
        ALGORITHM_VERSION, Addr, Backend, Config, FlowLine, Link, LinkKey, LocalPort, LocalPortKey,
        MAX_SEGMENTS, Mac, Neighbour, Peer, PeerKey, Port, Row, Service, ServiceId, ServiceKey, Vip,
        backend_state, link_mode, node_state, reach,
    },
    meta::Kind,
    packet::{protocol, tcp_flags},
};
use lb_core::{
    host::HostMaps,
    maps::{Maps, Sizes},
    model::TableSize,
    rows::{RowBackend, build, row_key},
};

pub type NodeIndex = u16;
/// A pod by its number, which is in its address.
pub type PodNumber = u32;

/// The one service's address.
pub const VIP: u32 = 0xc000_0201;
pub const VIP_PORT: u16 = 80;
const POD_PORT: u16 = 8080;
const SLOTS: u32 = 4096;
const QUEUES: usize = 2;
const FLOW_LINES: u32 = 1024;
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    Udp,
}

/// A client's end of a flow to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    pub transport: Transport,
    pub client: u32,
    pub port: u16,
}

/// A packet of a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientPacket {
    pub flow: Flow,
    /// TCP flags, 0 for UDP.
    pub flags: u8,
}

/// What became of a client's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A pod has it; and what the pod says leaves as the VIP.
    Delivered(PodNumber),
    /// Delivered to a pod of which the client would not hear as the VIP.
    Mute(PodNumber),
    /// Left to a node's kernel.
    Kernel,
    /// Dropped.
    Dropped,
}

pub struct Cluster {
    nodes: Vec<Node>,
    /// Pods by place in the service's backends.
    places: Vec<PodNumber>,
    pod_nodes: BTreeMap<PodNumber, NodeIndex>,
    entries: Vec<usize>,
    salt: u64,
    queue_salt: u64,
    longest_way: usize,
    most_forwards_of_opening: usize,
    /// Pods answer with RST.
    pods_reset: bool,
}

struct Node {
    host: HostMaps,
    /// `FLOWS` of each receive queue; the current one is in `host`.
    flows: Vec<Vec<FlowLine>>,
}

impl Transport {
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Tcp => Kind::Tcp,
            Self::Udp => Kind::Udp,
        }
    }
}

impl ClientPacket {
    /// Whether it may begin a flow.
    fn is_opening(&self) -> bool {
        self.flow.transport == Transport::Udp || self.flags & tcp_flags::SYN != 0
    }
}

impl Cluster {
    /// Pods are on the nodes in turn.
    pub fn new(nodes: usize, pods: u32) -> Self {
        let mut cluster = Self {
            nodes: (0..nodes).map(|index| Node::new(index as NodeIndex, nodes)).collect(),
            places: (0..pods).collect(),
            pod_nodes: BTreeMap::new(),
            entries: (0..nodes).collect(),
            salt: 0,
            queue_salt: 0,
            longest_way: 0,
            most_forwards_of_opening: 0,
            pods_reset: false,
        };
        for pod in 0..pods {
            cluster.pod_nodes.insert(pod, (pod as usize % nodes) as NodeIndex);
        }
        for node in 0..nodes {
            cluster.write_table(node as NodeIndex);
        }
        cluster
    }

    /// The router spreads flows in another way.
    pub fn rehash(&mut self, salt: u64) {
        self.salt = mix(salt + 1);
    }

    pub fn enter_only_by(&mut self, entries: Vec<usize>) {
        self.entries = entries;
    }

    /// NICs spread flows over queues in another way.
    pub fn move_queues(&mut self, salt: u64) {
        self.queue_salt = mix(salt);
    }

    pub fn forget_flows(&mut self) {
        for node in &mut self.nodes {
            node.flows.iter_mut().for_each(|lines| lines.fill(FlowLine::default()));
        }
    }

    /// All nodes see a node as suspect, or no longer.
    pub fn suspect(&mut self, suspect: NodeIndex, is_suspect: bool) {
        for node in &mut self.nodes {
            let neighbour = &mut node.host.maps.neighbours[(u32::from(suspect) * MAX_SEGMENTS) as usize];
            neighbour.state = if is_suspect { node_state::SUSPECT } else { node_state::READY };
        }
    }

    /// A pod goes and another comes, on the next node; all nodes know at once.
    pub fn replace_pod(&mut self, old: PodNumber, new: PodNumber) {
        for node in 0..self.nodes.len() {
            self.replace_pod_on(node as NodeIndex, old, new);
        }
    }

    /// All nodes know what the best informed knows.
    pub fn agree(&mut self) {
        for node in 0..self.nodes.len() {
            self.write_table(node as NodeIndex);
        }
    }

    /// The same as [`Self::replace_pod`], but only one node knows.
    pub fn replace_pod_on(&mut self, node: NodeIndex, old: PodNumber, new: PodNumber) {
        if let Some(place) = self.places.iter().position(|pod| *pod == old) {
            let next = (self.pod_nodes[&old] + 1) % self.nodes.len() as NodeIndex;
            self.pod_nodes.insert(new, next);
            self.places[place] = new;
        }
        self.write_table(node);
    }

    pub fn is_in_service(&self, pod: PodNumber) -> bool {
        self.places.contains(&pod)
    }

    /// The table of those nodes that know all.
    pub fn table(&self) -> (Vec<Row>, Vec<RowBackend>) {
        let backends: Vec<RowBackend> = self.places.iter().map(|pod| row_backend(*pod)).collect();
        (build(&row_key(None), &backends, &[], TableSize { length: SLOTS, previous: None }), backends)
    }

    /// The pod's place among the candidates of the flow's slot, in the table of those nodes that know all.
    pub fn rank(&self, flow: Flow, pod: PodNumber) -> Option<usize> {
        let (rows, backends) = self.table();
        let meta = meta(&ClientPacket { flow, flags: 0 }, CLIENT_MAC, node_mac(0));
        let slot = row_index(&meta, &self.nodes[0].service(), &self.nodes[0].host.maps.config.row_key);
        let row = rows[(slot - self.nodes[0].service().table_offset) as usize];
        let wanted = row_backend(pod);
        row.candidates.iter().position(|place| backends.get(usize::from(*place)) == Some(&wanted))
    }

    /// Whether the pod's node is suspect.
    pub fn is_suspect(&self, pod: PodNumber) -> bool {
        let place = u32::from(self.pod_nodes[&pod]) * MAX_SEGMENTS;
        self.nodes[0].host.maps.neighbours[place as usize].state != node_state::READY
    }

    pub fn longest_way(&self) -> usize {
        self.longest_way
    }

    pub fn most_forwards_of_opening(&self) -> usize {
        self.most_forwards_of_opening
    }

    pub fn advance(&mut self, ticks: u32) {
        self.nodes.iter_mut().for_each(|node| node.host.tick += ticks);
    }

    /// A packet to which the pod answers with a RST, for it knows nothing of the connection.
    pub fn send_to_be_reset(&mut self, packet: &ClientPacket) -> Fate {
        self.pods_reset = true;
        let fate = self.send(packet);
        self.pods_reset = false;
        fate
    }

    /// A packet goes from the client as far as it gets.
    pub fn send(&mut self, packet: &ClientPacket) -> Fate {
        let Flow { transport, client, port } = packet.flow;
        let flow = u64::from(transport.number()) << 48 | u64::from(client) << 16 | u64::from(port);
        let entry = mix(flow ^ self.salt) % self.entries.len() as u64;
        let mut at = self.entries[entry as usize];
        let queue = mix(flow ^ self.queue_salt) as usize % QUEUES;
        let mut meta = meta(packet, CLIENT_MAC, node_mac(at));
        let mut hops = 0;
        loop {
            hops += 1;
            self.longest_way = self.longest_way.max(hops);
            assert!(hops < 100, "{packet:?} circles");
            let verdict = self.nodes[at].arrive(&meta, queue);
            match verdict {
                Verdict::Forward { mac, ttl } => {
                    if packet.is_opening() {
                        self.most_forwards_of_opening = self.most_forwards_of_opening.max(hops);
                    }
                    assert!(ttl < meta.ttl, "every forward lowers the TTL");
                    let next = (0..self.nodes.len()).find(|node| Mac::from(node_mac(*node)) == mac);
                    meta = Meta { source_mac: node_mac(at).into(), destination_mac: mac, ttl, ..meta };
                    let Some(next) = next else { panic!("{packet:?} is forwarded to nobody") };
                    at = next;
                }
                Verdict::Deliver { address, port } => {
                    let pod = u32::from_be(address.words[3]) - POD_NETWORK;
                    assert_eq!(
                        self.pod_nodes.get(&pod),
                        Some(&(at as NodeIndex)),
                        "delivered where the pod is not"
                    );
                    return if self.nodes[at].replies(&meta, address, port, self.pods_reset) {
                        Fate::Delivered(pod)
                    } else {
                        Fate::Mute(pod)
                    };
                }
                Verdict::Pass => return Fate::Kernel,
                Verdict::Drop => return Fate::Dropped,
                Verdict::Advertise { .. }
                | Verdict::EchoReply
                | Verdict::ProbeAnswer { .. }
                | Verdict::Restore { .. } => {
                    unreachable!("{verdict:?}")
                }
            }
        }
    }

    fn write_table(&mut self, index: NodeIndex) {
        let (rows, _) = self.table();
        let in_service: BTreeSet<_> = self.places.iter().copied().collect();
        let node = &mut self.nodes[usize::from(index)];
        let maps = &mut node.host.maps;
        // Pods have their own numbers as places, so that one that has gone keeps its own.
        for (pod, pod_node) in &self.pod_nodes {
            let backend = row_backend(*pod);
            let is_there = in_service.contains(pod);
            maps.backends[*pod as usize] = Backend {
                address: backend.address,
                port: backend.port,
                node: *pod_node,
                state: if is_there { backend_state::READY } else { backend_state::GONE },
                generation: 1,
                ..Backend::default()
            };
            for transport in Transport::ALL {
                let key = LocalPortKey {
                    address: backend.address,
                    port: backend.port,
                    protocol: transport.number(),
                    pad: 0,
                };
                maps.local_ports.insert(key, LocalPort { services: 1 });
            }
        }
        let rows = rows.iter().map(|row| {
            let place = |place| self.places.get(usize::from(place)).map_or(place, |pod| *pod as u16);
            Row { candidates: row.candidates.map(place) }
        });
        maps.rows.insert(0, rows.collect());
    }
}

const POD_NETWORK: u32 = 0x0a00_0000;

fn row_backend(pod: PodNumber) -> RowBackend {
    RowBackend { address: v4(POD_NETWORK + pod), port: Port::new(POD_PORT) }
}

fn v4(address: u32) -> Addr {
    Addr::from_v4_wire(address.to_be())
}

fn node_mac(node: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, node as u8 + 1]
}

fn meta(packet: &ClientPacket, from: [u8; 6], to: [u8; 6]) -> Meta {
    Meta {
        source: v4(packet.flow.client),
        destination: v4(VIP),
        source_port: Port::new(packet.flow.port),
        destination_port: Port::new(VIP_PORT),
        protocol: u32::from(packet.flow.transport.number()),
        source_mac: from.into(),
        destination_mac: to.into(),
        ifindex: 1,
        length: 60,
        tcp_flags: packet.flags,
        ttl: 64,
        kind: packet.flow.transport.kind(),
        ..Meta::EMPTY
    }
}

impl Node {
    fn new(index: NodeIndex, nodes: usize) -> Self {
        let sizes = Sizes { nodes: nodes as u32, table: SLOTS, backends: 256, ..Sizes::default() };
        let mut maps = Maps::empty(&sizes);
        maps.config = Config {
            flow_key: HashKey::expand([u64::from(index), 7, 7, 7]),
            row_key: row_key(None),
            node: u32::from(index),
            algorithm: ALGORITHM_VERSION,
            flow_lines: FLOW_LINES,
            flow_queues: 1,
            udp_idle: 120,
            udp_unanswered_idle: 30,
            closing_idle: 10,
            ..Config::default()
        };
        let link =
            Link { segment: 0, mac: node_mac(usize::from(index)).into(), mode: link_mode::NATIVE, flags: 0 };
        maps.links.insert(LinkKey { ifindex: 1, vlan: 0 }, link);
        for other in 0..nodes {
            let mac = Mac::from(node_mac(other));
            let is_self = other == usize::from(index);
            maps.neighbours[other * MAX_SEGMENTS as usize] = Neighbour {
                mac,
                reach: if is_self { reach::SELF } else { reach::SEGMENT },
                state: node_state::READY,
                dsr_capable: 1,
                ..Neighbour::default()
            };
            if !is_self {
                maps.peers.insert(PeerKey { segment: 0, mac }, Peer { node: other as u32 });
            }
        }
        maps.vips.insert(v4(VIP), Vip { announced: 1, owned: 1, flags: 0, stats: 1 });
        for (index, transport) in (0_u16..).zip(Transport::ALL) {
            let service = Service {
                id: ServiceId::new(index, 1),
                table_offset: 0,
                table_length: SLOTS,
                backend_offset: 0,
                backend_length: 256,
                flags: 0,
            };
            maps.services.insert(service_key(transport), service);
        }
        Self {
            host: HostMaps::new(maps),
            flows: vec![vec![FlowLine::default(); FLOW_LINES as usize]; QUEUES],
        }
    }

    /// The services of both protocols share the table.
    fn service(&self) -> Service {
        self.host.maps.services[&service_key(Transport::Tcp)]
    }

    fn arrive(&mut self, meta: &Meta, queue: usize) -> Verdict {
        std::mem::swap(&mut self.host.flows, &mut self.flows[queue]);
        let decision = decide(meta, &self.host);
        let tick = self.host.tick;
        decision.remember(meta, tick, &mut self.host);
        std::mem::swap(&mut self.host.flows, &mut self.flows[queue]);
        decision.verdict
    }

    /// Whether what the pod answers leaves as the VIP; a RST is not answered.
    fn replies(&mut self, delivered: &Meta, pod: Addr, pod_port: Port, is_reset: bool) -> bool {
        if delivered.tcp_flags & tcp_flags::RST != 0 {
            return true;
        }
        let answer = match delivered.tcp_flags {
            _ if delivered.is_udp() => 0,
            _ if is_reset => tcp_flags::RST | tcp_flags::ACK,
            flags if flags & tcp_flags::SYN != 0 => tcp_flags::SYN | tcp_flags::ACK,
            flags => flags | tcp_flags::ACK,
        };
        let reply = Meta {
            source: pod,
            source_port: pod_port,
            destination: delivered.source,
            destination_port: delivered.source_port,
            tcp_flags: answer,
            ..*delivered
        };
        let decision = decide_reply(&reply, &self.host);
        let tick = self.host.tick;
        decision.remember(&reply, tick, &mut self.host);
        decision.verdict == Verdict::Restore { address: v4(VIP), port: Port::new(VIP_PORT) }
    }
}

fn service_key(transport: Transport) -> ServiceKey {
    ServiceKey { address: v4(VIP), port: Port::new(VIP_PORT), protocol: transport.number(), pad: 0 }
}
