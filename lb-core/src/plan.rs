//! What this node's data path should do, in names: from a snapshot, before anything has an index.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU16,
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::layout::ALGORITHM_VERSION;

use crate::{
    allocate::{Allocation, by_age},
    few::Few,
    legs::{Legs, is_link_local},
    liveness::{Description, LinkDescription},
    model::{
        Echo, EndpointCondition, Family, Forwarding, L2Mode, Network, NodeName, ObjectName, Protocol,
        Service, Snapshot, TableSize, TrafficPolicy,
    },
    ownership::{self, Contenders, LeftOut, Ranking},
    rows::{MAX_BACKENDS, ladder},
};

/// What this node's data path should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// This node.
    pub node: NodeName,
    /// UID from which the row key comes.
    pub cluster_uid: Option<String>,
    /// The links that are served, by name.
    pub links: BTreeMap<String, LinkPlan>,
    /// What this node says of itself to others.
    pub description: Description,
    /// All nodes of the source; this node even if it is not in the source.
    pub nodes: BTreeMap<NodeName, NodePlan>,
    /// By address.
    pub vips: BTreeMap<IpAddr, Arc<VipPlan>>,
    /// By address, port and protocol. Each of these and of the VIPs is shared with whoever keeps it: a plan is cheap to copy.
    pub services: BTreeMap<Frontend, Arc<ServicePlan>>,
    /// Addresses of this node on its links, at which it answers probes.
    pub probed: BTreeSet<IpAddr>,
    /// Addresses of nodes and networks of pods: traffic of their own is not balanced for others.
    pub own: BTreeSet<IpNet>,
}

/// A port of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The VIP.
    pub address: IpAddr,
    /// Its port.
    pub port: NonZeroU16,
    /// Its protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(v4) => write!(f, "{v4}:{}/{}", self.port, self.protocol),
            IpAddr::V6(v6) => write!(f, "[{v6}]:{}/{}", self.port, self.protocol),
        }
    }
}

/// Largest IP packet of a link whose packets come in one buffer each, with XDP's headroom (kernel: `xdp_get_frame_len`; veth refuses
/// above 3,520).
pub const LARGEST_MTU_OF_ONE_BUFFER: u32 = 3_498;

/// A link of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPlan {
    /// Interface index of the NIC that the programs are attached to.
    pub ifindex: u32,
    /// Interface index of the link itself: another than the NIC's if it is a VLAN device.
    pub device: u32,
    /// Interface indexes of the NIC's ports, if it is a bond.
    pub ports: BTreeSet<u32>,
    /// VLAN on the NIC, 0 for none.
    pub vlan: u16,
    /// MAC.
    pub mac: [u8; 6],
    /// Largest IP packet of the NIC, in bytes.
    pub mtu: u32,
    /// IPv6 address from which this node may ask on the link: its link-local one if it has one.
    pub asks_from: Option<Ipv6Addr>,
    /// The segment, by the name of the first link that is in it.
    pub segment: String,
}

impl LinkPlan {
    /// Interface indexes by which the programs see frames of the link arrive: the NIC's, and of a bond those of its ports.
    pub fn arrivals(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::once(self.ifindex).chain(self.ports.iter().copied())
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePlan {
    /// Whether the source has it.
    pub in_source: bool,
    /// Its MAC in the segments where it has a leg that is known.
    pub legs: BTreeMap<String, [u8; 6]>,
    /// Its address in each segment of this node where the source, or the node itself, says that it has one.
    pub addresses: BTreeMap<String, IpAddr>,
    /// What stands for it where its address is not known: its lowest address by the source, of those in segments of this node if there
    /// are any.
    pub stand_in: Option<IpAddr>,
    /// The algorithm version that it uses, if that is another than this node's: its rows are others, so that flows with its pods would
    /// end when they enter by another node.
    pub other_algorithm: Option<u32>,
    /// No agent has ever been heard there: nobody would deliver what is sent to its pods but its kernel.
    pub is_absent: bool,
}

impl NodePlan {
    /// What it claims VIPs in a segment as: its leg, or what stands for it.
    pub fn claims_as(&self, segment: &str) -> Option<IpAddr> {
        self.addresses.get(segment).copied().or(self.stand_in)
    }
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipPlan {
    /// The Services that have it, in their order: one, or those that share it.
    pub services: Vec<ObjectName>,
    /// By segment in which it is announced: who may answer ARP and NDP for it, best first.
    pub segments: Few<String, Ranking>,
    /// Nodes that may not, by the first rule that leaves them out.
    pub left_out: Few<LeftOut, Vec<NodeName>>,
    /// Whether echo requests are answered.
    pub echo: bool,
    /// Whether each of the best class answers for a share of the clients, and not the best one for all.
    pub spread: bool,
}

impl Service {
    /// One of its ports at one of its addresses.
    fn frontend(&self, address: IpAddr, place: usize) -> Frontend {
        Frontend { address, port: self.ports[place].port, protocol: self.ports[place].protocol }
    }
}

impl VipPlan {
    /// Another Service has the same address. Who may own it for one may own it for both; of two that differ in that, because one has no
    /// endpoint or is not advertised at present, the one that can be owned decides.
    fn share(&mut self, mut other: Self) {
        let can_be_owned = |vip: &Self| vip.segments.values().any(|ranking| !ranking.nodes.is_empty());
        if !can_be_owned(self) && can_be_owned(&other) {
            std::mem::swap(self, &mut other);
        }
        for service in other.services {
            if let Err(place) = self.services.binary_search(&service) {
                self.services.insert(place, service);
            }
        }
        self.echo |= other.echo;
        self.spread &= other.spread;
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// The Service.
    pub service: ObjectName,
    /// Why it is left to the kernel, if it is.
    pub kernel: Option<KernelReason>,
    /// Affinity ClientIP.
    pub affinity: bool,
    /// From where it may be reached; without any, from everywhere.
    pub sources: BTreeSet<IpNet>,
    /// Size of its table.
    pub table: TableSize,
    /// Its endpoints, of the VIP's family.
    pub endpoints: Few<(IpAddr, NonZeroU16), EndpointPlan>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPlan {
    /// Its node.
    pub node: Option<NodeName>,
    /// Takes new flows.
    pub ready: bool,
    /// Why flows to it are left to the kernel, if they are.
    pub kernel: Option<Box<EndpointReason>>,
}

/// Why a service's flows are left to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum KernelReason {
    /// Nobody takes flows.
    #[error("no endpoint is ready")]
    NoEndpoints,
    /// The annotation says so.
    #[error("annotation magnetite.io/forwarding: kernel")]
    Requested,
    /// It may be reached from some networks alone, and the data path does not tell clients apart: kube-proxy does.
    #[error("spec.loadBalancerSourceRanges is kube-proxy's to enforce")]
    SourceRanges,
    /// More than rows can name.
    #[error("{count} endpoints, at most {MAX_BACKENDS} are balanced")]
    TooManyEndpoints {
        /// How many there are.
        count: usize,
    },
    /// A map is full.
    #[error("no room in map {map}: raise its size")]
    NoRoom {
        /// The map.
        map: &'static str,
    },
}

/// Why flows to an endpoint are left to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum EndpointReason {
    /// The slice names no node.
    #[error("its EndpointSlice names no node")]
    NoNode,
    /// The slice names a node that the source does not have.
    #[error("its node {node} is unknown")]
    UnknownNode {
        /// The node.
        node: NodeName,
    },
    /// The node has no leg in any segment of ours, or does not answer there.
    #[error("its node {node} is not reached on any segment of this node")]
    OffSegment {
        /// The node.
        node: NodeName,
    },
    /// No agent has ever been heard on the node.
    #[error("its node {node} runs no agent")]
    NoAgent {
        /// The node.
        node: NodeName,
    },
    /// The node computes rows by another algorithm.
    #[error("its node {node} uses algorithm version {version}, this node {ALGORITHM_VERSION}")]
    OtherAlgorithm {
        /// The node.
        node: NodeName,
        /// What it uses.
        version: u32,
    },
}

/// The plan for a node.
pub fn plan(snapshot: &Snapshot, allocation: &Allocation, node: &NodeName, network: &Network) -> Plan {
    let links = links(snapshot, network);
    let description = description(&links, network);
    let legs = Legs::new(snapshot, node, network, &links, !description.has_more);
    let mut plan = Plan {
        node: node.clone(),
        cluster_uid: snapshot.cluster_uid.clone(),
        links: links.clone(),
        description,
        nodes: legs.nodes(),
        vips: BTreeMap::new(),
        services: BTreeMap::new(),
        probed: BTreeSet::new(),
        own: own(snapshot),
    };
    let served = plan.links.keys().flat_map(|link| &network.links[link].prefixes);
    plan.probed = served.filter(|prefix| !is_link_local(prefix)).map(IpNet::addr).collect();
    for (name, addresses) in &allocation.addresses {
        if let Some(service) = snapshot.services.get(name) {
            let pool = allocation.pools.get(name).map(String::as_str);
            plan.add(snapshot, name, service, (addresses, pool), &legs);
        }
    }
    plan
}

impl Plan {
    /// Gives Services the endpoints that they have in the snapshot now: those that are new, gone or otherwise than before, each with what
    /// it was. The ports of which that changes something, or `None` if it changes more than endpoints, or who may own an address: then
    /// everything has to be planned anew, and nothing is changed.
    pub fn update(
        &mut self,
        snapshot: &Snapshot,
        allocation: &Allocation,
        before: &BTreeMap<ObjectName, Option<Arc<Service>>>,
    ) -> Option<BTreeSet<Frontend>> {
        let mut changed = BTreeMap::new();
        for (name, before) in before {
            let now = snapshot.services.get(name);
            let addresses = allocation.addresses.get(name).map_or(&[][..], Vec::as_slice);
            let (before, now) = match (before, now) {
                // It has no address yet, and had none.
                (None, Some(_)) if addresses.is_empty() => continue,
                (None, None) => continue,
                (Some(before), Some(now)) => (before, now),
                (None, Some(_)) | (Some(_), None) => return None,
            };
            if !before.differs_in_endpoints_alone(now) || ownership::claim(before) != ownership::claim(now) {
                return None;
            }
            for address in addresses {
                for place in 0..now.ports.len() {
                    let frontend = now.frontend(*address, place);
                    let planned = self.service(name, now, place, Family::of(address));
                    match self.services.get(&frontend)? {
                        known if known.service == *name && **known != planned => {
                            changed.insert(frontend, Arc::new(planned));
                        }
                        // It is as it was, or another Service has that port.
                        _ => {}
                    }
                }
            }
        }
        let frontends = changed.keys().copied().collect();
        self.services.extend(changed);
        Some(frontends)
    }

    fn add(
        &mut self,
        snapshot: &Snapshot,
        name: &ObjectName,
        service: &Service,
        (addresses, pool): (&[IpAddr], Option<&str>),
        legs: &Legs<'_>,
    ) {
        let Some(first) = addresses.first() else { return };
        let advertisements =
            pool.map(|pool| ownership::advertisements(snapshot, pool, service)).unwrap_or_default();
        let contenders = Contenders::new(snapshot, service, *first, &advertisements, legs, &self.nodes);
        let names = |nodes: &BTreeSet<&NodeName>| nodes.iter().map(|node| (*node).clone()).collect();
        let left_out: Few<LeftOut, Vec<NodeName>> =
            contenders.left_out.iter().map(|(reason, nodes)| (reason.clone(), names(nodes))).collect();
        // The Service has the last word; of advertisements that contradict each other, the one that asks for less.
        let l2 = service.l2.or_else(|| advertisements.iter().filter_map(|ad| ad.l2).min());
        let is_any_ready =
            service.endpoints.iter().flatten().any(|e| e.condition == EndpointCondition::Ready);
        for address in addresses {
            let vip = VipPlan {
                services: vec![name.clone()],
                segments: contenders.of(address, legs, &self.nodes),
                left_out: left_out.clone(),
                echo: service.echo == Echo::Always || is_any_ready,
                spread: l2 == Some(L2Mode::Spread),
            };
            match self.vips.entry(*address) {
                Entry::Vacant(place) => {
                    place.insert(Arc::new(vip));
                }
                Entry::Occupied(mut place) => Arc::make_mut(place.get_mut()).share(vip),
            }
            for place in 0..service.ports.len() {
                let frontend = service.frontend(*address, place);
                let planned = Arc::new(self.service(name, service, place, Family::of(address)));
                match self.services.entry(frontend) {
                    Entry::Vacant(place) => {
                        place.insert(planned);
                    }
                    // Given twice: the older keeps it, as the controller will have it.
                    Entry::Occupied(mut place) => {
                        let other = snapshot.services.get(&place.get().service);
                        if other.is_none_or(|other| by_age(service, other).is_lt()) {
                            place.insert(planned);
                        }
                    }
                }
            }
        }
    }

    fn service(&self, name: &ObjectName, service: &Service, place: usize, family: Family) -> ServicePlan {
        let of_port = service.endpoints.get(place).into_iter().flatten();
        let counts = |endpoint: &&crate::model::Endpoint| {
            Family::of(&endpoint.address) == family
                && (service.policy == TrafficPolicy::Cluster || endpoint.node.as_ref() == Some(&self.node))
        };
        let counted: Vec<_> = of_port.filter(counts).collect();
        // Endpoints that are terminating but serve take flows if nobody else does.
        let is_any_ready = counted.iter().any(|endpoint| endpoint.condition == EndpointCondition::Ready);
        let endpoints: Few<_, _> = counted
            .iter()
            .map(|endpoint| {
                let ready = match endpoint.condition {
                    EndpointCondition::Ready => true,
                    EndpointCondition::ServingTerminating => !is_any_ready,
                    EndpointCondition::NotReady => false,
                };
                let kernel = self.left_to_kernel(endpoint.node.as_ref()).map(Box::new);
                (
                    (endpoint.address, endpoint.port),
                    EndpointPlan { node: endpoint.node.clone(), ready, kernel },
                )
            })
            .collect();
        let kernel = if service.forwarding == Forwarding::Kernel {
            Some(KernelReason::Requested)
        } else if !service.sources.is_empty() {
            Some(KernelReason::SourceRanges)
        } else if endpoints.len() > MAX_BACKENDS {
            Some(KernelReason::TooManyEndpoints { count: endpoints.len() })
        } else if !endpoints.values().any(|endpoint| endpoint.ready) {
            Some(KernelReason::NoEndpoints)
        } else {
            None
        };
        ServicePlan {
            service: name.clone(),
            kernel,
            affinity: service.client_ip_affinity,
            sources: service.sources.clone(),
            table: service.table_size.unwrap_or_else(|| ladder(endpoints.len())),
            endpoints,
        }
    }

    fn left_to_kernel(&self, node: Option<&NodeName>) -> Option<EndpointReason> {
        let Some(node) = node else { return Some(EndpointReason::NoNode) };
        match self.nodes.get(node) {
            None => Some(EndpointReason::UnknownNode { node: node.clone() }),
            Some(planned) if planned.legs.is_empty() => {
                Some(EndpointReason::OffSegment { node: node.clone() })
            }
            Some(planned) if planned.is_absent => Some(EndpointReason::NoAgent { node: node.clone() }),
            Some(planned) => {
                let other = |version| EndpointReason::OtherAlgorithm { node: node.clone(), version };
                planned.other_algorithm.map(other)
            }
        }
    }
}

/// Links with a network in common are in one segment. Those that have only pods behind them are none of ours.
fn links(snapshot: &Snapshot, network: &Network) -> BTreeMap<String, LinkPlan> {
    let mut links: BTreeMap<String, LinkPlan> = BTreeMap::new();
    let is_pods =
        |prefix: &IpNet| snapshot.nodes.values().flat_map(|n| &n.pod_cidrs).any(|c| c.contains(prefix));
    for (name, link) in &network.links {
        let networks: BTreeSet<IpNet> =
            link.prefixes.iter().filter(|p| !is_link_local(p) && !is_pods(p)).map(IpNet::trunc).collect();
        if networks.is_empty() {
            continue;
        }
        let same = links.iter().find(|(other, _)| {
            network.links[*other].prefixes.iter().any(|prefix| networks.contains(&prefix.trunc()))
        });
        let segment = same.map_or_else(|| name.clone(), |(_, other)| other.segment.clone());
        let planned = LinkPlan {
            ifindex: link.ifindex,
            device: link.device,
            ports: link.ports.clone(),
            vlan: link.vlan,
            mac: link.mac,
            mtu: link.mtu,
            asks_from: asks_from(&link.prefixes),
            segment,
        };
        links.insert(name.clone(), planned);
    }
    links
}

fn asks_from(prefixes: &BTreeSet<IpNet>) -> Option<Ipv6Addr> {
    let addresses = prefixes.iter().filter_map(|prefix| match prefix {
        IpNet::V4(_) => None,
        IpNet::V6(v6) => Some(v6.addr()),
    });
    addresses.min_by_key(|address| (!address.is_unicast_link_local(), *address))
}

fn description(links: &BTreeMap<String, LinkPlan>, network: &Network) -> Description {
    let describe = |(name, link): (&String, &LinkPlan)| {
        let prefixes = network.links.get(name).map(|link| &link.prefixes).into_iter().flatten();
        LinkDescription::new(name.clone(), link.mac.into(), prefixes.copied())
    };
    Description::of(links.iter().map(describe).collect())
}

fn own(snapshot: &Snapshot) -> BTreeSet<IpNet> {
    let nodes = snapshot.nodes.values();
    nodes
        .flat_map(|node| {
            node.addresses.iter().copied().map(IpNet::from).chain(node.pod_cidrs.iter().copied())
        })
        .collect()
}
