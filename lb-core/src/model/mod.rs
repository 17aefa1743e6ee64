//! The validated model: what the sources say, in types that cannot be wrong.
//!
//! A [`Snapshot`] is the whole of what is known of the cluster at one moment. Objects that could not be decoded are not in it;
//! they are problems that the decoder reports beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    num::{NonZeroI64, NonZeroU16},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    drain::{Limit, Reason},
    few::Few,
    liveness::Description,
};

#[cfg(test)]
pub(crate) mod testing;

/// Namespace and name of an object. Much is known by them: those that are equal are mostly the same texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Name of a node. There are as many of them as there are endpoints: those that are equal are mostly one text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(pub Arc<str>);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Labels of an object.
pub type Labels = Few<String, String>;

/// All that is known of the cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// UID of Namespace `kube-system`, from which the cluster's seed comes; `None` if the source has no such object.
    pub cluster_uid: Option<String>,
    /// Labels of Namespaces, by name; a namespace that the source does not have as an object is none of them.
    pub namespaces: BTreeMap<String, Labels>,
    /// Nodes.
    pub nodes: BTreeMap<NodeName, Node>,
    /// Services of type LoadBalancer that are ours to serve; those that have not changed are the same from snapshot to snapshot.
    pub services: BTreeMap<ObjectName, Arc<Service>>,
    /// Address pools, by name.
    pub pools: BTreeMap<String, Pool>,
    /// Layer 2 advertisements, by name.
    pub l2_advertisements: BTreeMap<String, L2Advertisement>,
    /// Networks of cluster addresses, by name (`ServiceCIDR`).
    pub service_cidrs: BTreeMap<String, Vec<IpNet>>,
    /// From Secret `memberlist`: what nodes prove to each other that they belong together with. Without it they do not talk.
    pub gossip_secret: Option<GossipSecret>,
}

/// The secret of Secret `memberlist`, from which keys are derived. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct GossipSecret {
    /// With which is sealed and opened (`secretkey`).
    pub current: Vec<u8>,
    /// With which is opened too, while the secret changes (`previous`): first the one that comes, then the one that goes.
    pub previous: Option<Vec<u8>>,
}

impl fmt::Debug for GossipSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GossipSecret")
    }
}

/// A machine of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Addresses of type InternalIP.
    pub addresses: Vec<IpAddr>,
    /// Networks of its pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Has the label `node.kubernetes.io/exclude-from-external-load-balancers`.
    pub excluded: bool,
    /// Has the condition NetworkUnavailable.
    pub network_unavailable: bool,
    /// Why it leaves on purpose, of [`Reason::OF_NODES`], and until when it should be drained; nothing of one that stays.
    pub leaving: BTreeMap<Reason, Limit>,
}

/// A Service of type LoadBalancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `metadata.creationTimestamp`, in seconds since 1970; files mostly have none.
    pub created: Option<i64>,
    /// Its labels.
    pub labels: Labels,
    /// Families of its cluster addresses in order; one, or both.
    pub families: Vec<Family>,
    /// `ipFamilyPolicy`.
    pub family_policy: FamilyPolicy,
    /// Its ports that are balanced.
    pub ports: Vec<ServicePort>,
    /// Ports of SCTP: the kernel's, and nobody else's at the same address.
    pub sctp_ports: BTreeSet<NonZeroU16>,
    /// `spec.selector`.
    pub selector: Labels,
    /// `externalTrafficPolicy`.
    pub policy: TrafficPolicy,
    /// `sessionAffinity: ClientIP`.
    pub client_ip_affinity: bool,
    /// `loadBalancerSourceRanges`: from where it may be reached; without any, from everywhere.
    pub sources: BTreeSet<IpNet>,
    /// Addresses asked for (annotation or `spec.loadBalancerIP`), at most one of a family.
    pub requested: Vec<IpAddr>,
    /// Pool asked for.
    pub requested_pool: Option<String>,
    /// `metallb.io/allow-shared-ip`: with whom it may share an address; empty for with nobody.
    pub sharing_key: String,
    /// `status.loadBalancer.ingress` as found in the input: the Service keeps it.
    pub ingress: Vec<IpAddr>,
    /// `metallb.io/ip-allocated-from-pool`: of which pool that is.
    pub held_pool: Option<String>,
    /// `magnetite.io/forwarding`.
    pub forwarding: Forwarding,
    /// `magnetite.io/echo`.
    pub echo: Echo,
    /// `magnetite.io/table-size`.
    pub table_size: Option<TableSize>,
    /// `magnetite.io/table-grown`: since when that names a previous length, in seconds since 1970.
    pub table_grown: Option<i64>,
    /// `magnetite.io/l2`; none leaves it to the advertisements.
    pub l2: Option<L2Mode>,
    /// The endpoints behind each port, by the port's place in [`Self::ports`].
    pub endpoints: Vec<BTreeSet<Endpoint>>,
}

impl Service {
    /// Whether another state of it has other endpoints at most.
    pub fn differs_in_endpoints_alone(&self, other: &Self) -> bool {
        self.without_endpoints() == other.without_endpoints()
    }

    /// The same as long as no slice has been joined to it.
    pub fn without_endpoints(&self) -> Self {
        Self {
            created: self.created,
            labels: self.labels.clone(),
            families: self.families.clone(),
            family_policy: self.family_policy,
            ports: self.ports.clone(),
            sctp_ports: self.sctp_ports.clone(),
            selector: self.selector.clone(),
            policy: self.policy,
            client_ip_affinity: self.client_ip_affinity,
            sources: self.sources.clone(),
            requested: self.requested.clone(),
            requested_pool: self.requested_pool.clone(),
            sharing_key: self.sharing_key.clone(),
            ingress: self.ingress.clone(),
            held_pool: self.held_pool.clone(),
            forwarding: self.forwarding,
            echo: self.echo,
            table_size: self.table_size,
            table_grown: self.table_grown,
            l2: self.l2,
            endpoints: vec![BTreeSet::new(); self.ports.len()],
        }
    }
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// `ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FamilyPolicy {
    /// One family.
    SingleStack,
    /// Both if they can be had.
    PreferDualStack,
    /// Both or none.
    RequireDualStack,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty if the Service has only one port.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: NonZeroU16,
}

/// A transport protocol that is balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As Kubernetes writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => lb_common::packet::protocol::TCP,
            Self::Udp => lb_common::packet::protocol::UDP,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrafficPolicy {
    /// All endpoints.
    Cluster,
    /// Endpoints of the node that takes the packet.
    Local,
}

/// `magnetite.io/forwarding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forwarding {
    /// The data path wherever it can, the kernel where it cannot.
    Auto,
    /// The same, said explicitly.
    Dsr,
    /// The kernel.
    Kernel,
}

/// `magnetite.io/echo`: when an echo request to the VIP is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Echo {
    /// Always.
    Always,
    /// While an endpoint of a service at the address is ready.
    Ready,
}

/// `magnetite.io/l2`: who answers ARP and NDP for a VIP. Of two that are asked for the lesser holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum L2Mode {
    /// One node, as with MetalLB.
    Owner,
    /// Each node that may, for a share of the clients.
    Spread,
}

/// Length of a table, a power of two (`magnetite.io/table-size`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableSize {
    /// Slots.
    pub length: u32,
    /// The length before it grew: for a day, candidates 2 and 3 come from there.
    pub previous: Option<u32>,
}

/// A pod's address and port behind a Service's port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Target port.
    pub port: NonZeroU16,
    /// The node that runs the pod, if the slice names one.
    pub node: Option<NodeName>,
    /// Whether it takes new flows.
    pub condition: EndpointCondition,
}

/// Whether an endpoint takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointCondition {
    /// Takes new flows.
    Ready,
    /// Terminating, but serving: takes new flows only if no endpoint is ready.
    ServingTerminating,
    /// In a slice, but takes none.
    NotReady,
}

/// `IPAddressPool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its labels.
    pub labels: Labels,
    /// Ranges in the order of the object.
    pub ranges: Vec<AddressRange>,
    /// `autoAssign`.
    pub auto_assign: bool,
    /// `avoidBuggyIPs`.
    pub avoid_buggy: bool,
    /// `serviceAllocation`: to whom it is restricted, if it is.
    pub service_allocation: Option<ServiceAllocation>,
}

/// `serviceAllocation` of an `IPAddressPool`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServiceAllocation {
    /// Lower comes first; none comes last.
    pub priority: Option<NonZeroI64>,
    /// Names of namespaces; with no names and no selectors, all namespaces.
    pub namespaces: BTreeSet<String>,
    /// Selectors of namespaces by label.
    pub namespace_selectors: Vec<Selector>,
    /// Selectors of Services by label; none means all.
    pub service_selectors: Vec<Selector>,
}

impl ServiceAllocation {
    /// Whether a Service of this namespace, with these labels, gets addresses. A selector selects no namespace whose labels are not
    /// known: it must not give to more than was meant.
    pub fn admits(&self, namespace: &str, namespace_labels: Option<&Labels>, labels: &Labels) -> bool {
        let is_any_namespace = self.namespaces.is_empty() && self.namespace_selectors.is_empty();
        let is_selected =
            |known: &Labels| self.namespace_selectors.iter().any(|selector| selector.matches(known));
        (is_any_namespace || self.namespaces.contains(namespace) || namespace_labels.is_some_and(is_selected))
            && (self.service_selectors.is_empty()
                || self.service_selectors.iter().any(|selector| selector.matches(labels)))
    }
}

/// Addresses from `first` to `last`, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// `None` if the ends are of different families, or the last is before the first.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (Family::of(&first) == Family::of(&last) && first <= last).then_some(Self { first, last })
    }

    /// The lowest address.
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub const fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether the address is in the range.
    pub fn contains(&self, address: &IpAddr) -> bool {
        Family::of(address) == Family::of(&self.first) && (self.first..=self.last).contains(address)
    }

    /// The part that is in another range as well.
    pub fn within(&self, other: &Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last)).filter(|_| self.overlaps(other))
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        Family::of(&self.first) == Family::of(&other.first)
            && self.first <= other.last
            && other.first <= self.last
    }
}

impl From<IpNet> for AddressRange {
    fn from(network: IpNet) -> Self {
        Self { first: network.network(), last: network.broadcast() }
    }
}

/// `L2Advertisement`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct L2Advertisement {
    /// Names of pools; with no names and no selectors, all pools.
    pub pools: BTreeSet<String>,
    /// Selectors of pools by label.
    pub pool_selectors: Vec<Selector>,
    /// Selectors of nodes; none means all.
    pub node_selectors: Vec<Selector>,
    /// Interfaces, exact names; none means all.
    pub interfaces: BTreeSet<String>,
    /// Selectors of Services; none means all.
    pub service_selectors: Vec<Selector>,
    /// `magnetite.io/l2`.
    pub l2: Option<L2Mode>,
    /// Which of its nodes rather announce than others.
    pub preferred: Vec<PreferredNodes>,
}

impl L2Advertisement {
    /// Whether a node with these labels may announce.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.node_selectors.is_empty() || self.node_selectors.iter().any(|selector| selector.matches(labels))
    }

    /// How much rather than others a node with these labels announces, if it may.
    pub fn score(&self, labels: &Labels) -> u32 {
        let is_meant = |preferred: &&PreferredNodes| preferred.nodes.matches(labels);
        self.preferred.iter().filter(is_meant).map(|preferred| u32::from(preferred.weight)).sum()
    }
}

/// Nodes that rather announce than others (`preferredNodeSelectors`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreferredNodes {
    weight: u8,
    nodes: Selector,
}

impl PreferredNodes {
    /// `None` unless the weight is from 1 to 100.
    pub fn new(weight: i32, nodes: Selector) -> Option<Self> {
        let weight = u8::try_from(weight).ok().filter(|weight| (1..=100).contains(weight))?;
        Some(Self { weight, nodes })
    }
}

/// A Kubernetes label selector: all requirements must hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Selector {
    /// The requirements; none selects everything.
    pub requirements: Vec<Requirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label.
    pub key: String,
    /// What must hold.
    pub operator: Operator,
}

/// What a requirement asks of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Its value is one of these.
    In(BTreeSet<String>),
    /// It is absent, or its value is none of these.
    NotIn(BTreeSet<String>),
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

impl Selector {
    /// Whether the labels meet every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| {
            let value = labels.get(&r.key);
            match &r.operator {
                Operator::In(values) => value.is_some_and(|v| values.contains(v)),
                Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

/// What this machine knows of its network: from netlink, or from the file of `--links`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Ethernet links that are up and routed (have an address), by name; those to pods of this node may be among them.
    pub links: BTreeMap<String, NodeLink>,
    /// MACs of neighbours as resolved, by link name and address.
    pub neighbours: BTreeMap<(String, IpAddr), [u8; 6]>,
    /// Links that other nodes say they have: addresses with their prefix lengths, by name. None of a node that says nothing of them;
    /// one that was not heard is not in it.
    pub peers: BTreeMap<NodeName, BTreeMap<String, BTreeSet<IpNet>>>,
    /// Algorithm versions that other nodes say they use; one that was not heard is taken to use this node's.
    pub algorithms: BTreeMap<NodeName, u32>,
    /// Nodes on which no agent has ever been heard.
    pub absent: BTreeSet<NodeName>,
}

impl Network {
    /// Takes what another node says of its links. One that has more than it can say has said nothing.
    pub fn hear(&mut self, node: NodeName, description: &Description) {
        let links = description.links.iter().filter(|_| !description.has_more);
        let links = links.map(|link| (link.name.clone(), link.addresses.iter().copied().collect()));
        self.peers.insert(node, links.collect());
    }

    /// Takes the MAC of a neighbour for proven, whatever the kernel knows of it.
    pub fn believe(&mut self, address: IpAddr, mac: [u8; 6]) {
        let is_there = |(_, link): &(&String, &NodeLink)| link.prefixes.iter().any(|p| p.contains(&address));
        for (name, _) in self.links.iter().filter(is_there) {
            self.neighbours.insert((name.clone(), address), mac);
        }
    }
}

/// A link of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLink {
    /// Interface index of the NIC that the programs are attached to: the link's own, or that of the device below a VLAN device.
    pub ifindex: u32,
    /// Interface index of the link itself: what is sent by it, joined on it or asked for on it names this one.
    pub device: u32,
    /// Interface indexes of the NIC's ports if it is a bond: on them the programs see frames arrive.
    pub ports: BTreeSet<u32>,
    /// VLAN on that NIC, 0 for none.
    pub vlan: u16,
    /// The link's own MAC.
    pub mac: [u8; 6],
    /// Largest IP packet of the NIC, in bytes: it decides how programs take its packets.
    pub mtu: u32,
    /// Addresses with their prefix lengths.
    pub prefixes: BTreeSet<IpNet>,
}
