//! The lab as its users see it: nodes, clients, pods, and the objects of the cluster.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result, bail};
use lb_agent::{
    dataplane::LiveMaps,
    output::{NodeStatus, ServiceStatus},
};
use lb_common::Reason;
use lb_core::model::GossipSecret;

use crate::api_server::ApiServer;

use super::{
    agent::Node,
    client::Client,
    controller::Controller,
    kube_proxy,
    namespace::Namespace,
    objects::{self, Endpoint, Objects},
    pod::{POD_PORT, Pod},
    runs::{Run, clean},
    topology::{Host, NODES, Topology},
};

/// VIP of the Service `web`.
pub const WEB: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200));
/// Its other VIP.
pub const WEB_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x200));
/// VIP of a Service without endpoints.
pub const EMPTY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 201));
/// VIP of a Service that is annotated to be the kernel's.
pub const KERNEL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 202));
/// VIP of a Service whose only pod is on a node off the segment.
pub const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 203));

/// The port that clients use.
pub fn frontend(vip: IpAddr) -> SocketAddr {
    SocketAddr::new(vip, 80)
}

/// The cluster. It ends with the value.
pub struct Lab {
    /// `n1` to `n3`. First, so that the agents end before their namespaces.
    pub nodes: Vec<Node>,
    /// Beside an API server.
    pub controller: Option<Controller>,
    /// By name.
    pub pods: BTreeMap<String, Pod>,
    /// The cluster's objects.
    pub objects: Objects,
    topology: Topology,
    /// Pods of `web`.
    web: Vec<String>,
    /// Pods that ever were.
    born: usize,
    run: Run,
}

/// What is lost of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It hears, and nobody hears it.
    Sent,
    /// All hear it, and it hears nobody.
    SentToIt,
}

/// Host number of the API server.
const API_SERVER: u8 = 9;
/// Pods of `web` on each node.
const PODS: usize = 2;

impl Lab {
    /// Makes a cluster with six pods, waits until it serves.
    pub fn up() -> Result<Self> {
        Self::build(false)
    }

    /// The same with a real API server on the LAN and a controller beside it; the lab does what Kubernetes' own controllers would.
    pub fn up_with_api_server() -> Result<Self> {
        Self::build(true)
    }

    fn build(has_api_server: bool) -> Result<Self> {
        clean()?;
        let run = Run::begin()?;
        let topology = Topology::build(run.machines())?;
        let names = run.machines();
        let nodes = topology.hosts.iter().take(NODES).map(|host| {
            Node::new(
                &host.name,
                host.namespace.clone(),
                host.mac(),
                names.pins(&host.name),
                &names.directory(),
            )
        });
        let mut nodes: Vec<Node> = nodes.collect();
        let (mut objects, mut controller) = (None, None);
        if has_api_server {
            let (machine, address) = topology.add_machine(names, "api", API_SERVER)?;
            let api = ApiServer::start_on(machine, address, names.directory().join("api"))?;
            let of_cluster = Objects::of_cluster(api)?;
            let kubeconfig = of_cluster.api()?.kubeconfig_of("speaker")?;
            nodes.iter_mut().for_each(|node| node.follow(&kubeconfig));
            objects = Some(of_cluster);
        }
        let objects = match objects {
            Some(objects) => objects,
            None => Objects::new(names.directory().join("objects"))?,
        };
        if let Ok(api) = objects.api() {
            controller = Some(Controller::start(api)?);
        }
        let mut lab = Self {
            nodes,
            controller,
            pods: BTreeMap::new(),
            objects,
            topology,
            web: Vec::new(),
            born: 0,
            run,
        };
        lab.fill()?;
        // Together: each waits for the neighbours that it does not know.
        for node in &mut lab.nodes {
            node.spawn()?;
        }
        for node in &mut lab.nodes {
            node.wait_for_pass()?;
        }
        lab.wait_for_nodes()?;
        Ok(lab)
    }

    /// The objects of the beginning, and what kube-proxy would make of them.
    fn fill(&mut self) -> Result<()> {
        for name in ["n1", "n2", "n3", "n4"] {
            self.objects.put(&self.node_object(name)?)?;
        }
        // In a cluster the controller makes it.
        if self.controller.is_none() {
            self.objects.put(&objects::memberlist())?;
        }
        for object in objects::pool(&["192.0.2.200-192.0.2.219", "2001:db8:0:1::200-2001:db8:0:1::21f"]) {
            self.objects.put(&object)?;
        }
        self.objects.put(&objects::service("web", &[WEB, WEB_V6], &[]))?;
        self.objects.put(&objects::service("empty", &[EMPTY], &[]))?;
        self.objects.put(&objects::service("kernel", &[KERNEL], &[("magnetite.io/forwarding", "kernel")]))?;
        self.objects.put(&objects::service("remote", &[REMOTE], &[]))?;
        for _ in 0..PODS {
            for host in 0..NODES {
                let pod = self.start_pod(host)?;
                self.web.push(pod);
            }
        }
        let remote = self.start_pod(NODES)?;
        let local = self.web[0].clone();
        self.put_slices("web", &self.web)?;
        self.put_slices("empty", &[])?;
        self.put_slices("kernel", std::slice::from_ref(&local))?;
        self.put_slices("remote", std::slice::from_ref(&remote))?;
        let pod = |name| Some(self.pods[name].address(false));
        let rules = [
            kube_proxy::Rule { vip: EMPTY, pod: None },
            kube_proxy::Rule { vip: KERNEL, pod: pod(&local) },
            kube_proxy::Rule { vip: REMOTE, pod: pod(&remote) },
        ];
        self.nodes.iter().try_for_each(|node| kube_proxy::set(&node.namespace, &rules))
    }

    /// Its id.
    pub fn id(&self) -> &str {
        self.run.machines().id()
    }

    /// The switch, whose ports have the names of the machines.
    pub fn lan(&self) -> &Namespace {
        &self.topology.lan
    }

    /// The router between `c3` and the LAN.
    pub fn router(&self) -> &Namespace {
        &self.topology.router
    }

    /// `c1` to `c3`; `c3` is behind the router.
    pub fn clients(&self) -> &[Client] {
        &self.topology.clients
    }

    /// Who asks for MACs on the LAN: the clients there, and in the place of `c3` the router.
    pub fn askers(&self) -> Vec<Client> {
        let behind = self.topology.clients.last().into_iter();
        let router = behind.map(|c3| Client { namespace: self.router().clone(), ..c3.clone() });
        self.topology.clients.iter().take(2).cloned().chain(router).collect()
    }

    /// More clients on the LAN, with consecutive addresses; they go with the lab, or are removed.
    pub fn add_clients(&self, count: u8) -> Result<Vec<Client>> {
        let first = u8::try_from(self.topology.clients.len() + 1)?;
        (first..first + count).map(|number| self.topology.add_client(self.run.machines(), number)).collect()
    }

    /// Spreads `web` over all nodes, or gives it back to one, and waits until all nodes know.
    pub fn set_spread(&mut self, is_spread: bool) -> Result<()> {
        let mode = if is_spread { "spread" } else { "owner" };
        self.objects.put(&objects::service("web", &[WEB, WEB_V6], &[("magnetite.io/l2", mode)]))?;
        self.wait_all("the other way to own", |status| {
            let vips = [WEB, WEB_V6].map(|vip| status.vips.get(&vip.to_string()));
            vips.into_iter().all(|vip| vip.is_some_and(|vip| vip.shares.is_empty() != is_spread))
        })
    }

    /// The name of the node with this MAC.
    pub fn node_with_mac(&self, mac: &str) -> Option<&str> {
        self.nodes.iter().find(|node| node.mac == mac).map(|node| &*node.name)
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("no node {name}"))
    }

    /// Like [`Lab::node`], to start and end its agent.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes.iter_mut().find(|node| node.name == name).with_context(|| format!("no node {name}"))
    }

    /// The name of the node that owns a VIP, as the first one says that is in the cluster: others hear of nobody, and take all to be well.
    pub fn owner(&self, vip: IpAddr) -> Result<String> {
        for node in &self.nodes {
            let status = node.status()?;
            if status.nodes.get(&node.name).is_some_and(|node| node.in_source) {
                let owner = status.vips.get(&vip.to_string()).and_then(|vip| vip.owner.clone());
                return owner.with_context(|| format!("{vip} has no owner"));
            }
        }
        bail!("no node is in the cluster")
    }

    /// The name of the node on which a pod is.
    pub fn node_of(&self, pod: &str) -> &str {
        &self.topology.hosts[self.pods[pod].node].name
    }

    /// The pods of `web`.
    pub fn web(&self) -> &[String] {
        &self.web
    }

    /// Makes these the pods of `web`, and waits until all nodes serve them.
    pub fn set_web(&mut self, pods: Vec<String>) -> Result<()> {
        self.put_web(pods)?;
        let endpoints: Vec<String> = self.web.iter().map(|pod| self.endpoint(pod, false)).collect();
        let endpoints_v6: Vec<String> = self.web.iter().map(|pod| self.endpoint(pod, true)).collect();
        let has = |status: &NodeStatus, vip: IpAddr, expected: &[String]| {
            let service = status.services.get(&format!("{}/TCP", frontend(vip)));
            service.is_some_and(|service| ready(service).eq(expected.iter()))
        };
        let sorted = |mut endpoints: Vec<String>| {
            endpoints.sort();
            endpoints
        };
        let (endpoints, endpoints_v6) = (sorted(endpoints), sorted(endpoints_v6));
        self.wait_all("the new endpoints", |status| {
            has(status, WEB, &endpoints) && has(status, WEB_V6, &endpoints_v6)
        })
    }

    /// Makes these the pods of `web`, and waits for nobody.
    pub fn put_web(&mut self, pods: Vec<String>) -> Result<()> {
        self.put_slices("web", &pods)?;
        self.web = pods;
        Ok(())
    }

    /// A pod's address and port.
    pub fn endpoint(&self, pod: &str, is_v6: bool) -> String {
        SocketAddr::new(self.pods[pod].address(is_v6), POD_PORT).to_string()
    }

    /// A new pod on a host, counted from 0; it belongs to no Service.
    pub fn start_pod(&mut self, host: usize) -> Result<String> {
        self.born += 1;
        let name = format!("p{}", self.born);
        let host = &self.topology.hosts[host];
        let number = u8::try_from(self.born + 1).context("the lab has room for 250 pods")?;
        let namespace = Namespace::create(&self.run.machines().namespace(&name))?;
        host.connect(&namespace, number)?;
        let pod = Pod::start(&name, host.number - 1, host.pod_v4(number), host.pod_v6(number), namespace)?;
        self.pods.insert(name.clone(), pod);
        Ok(name)
    }

    /// Makes `web` what it was at the beginning: two pods on each node, the oldest that live; all others end.
    pub fn reset_web(&mut self) -> Result<()> {
        let mut web = Vec::new();
        for host in 0..NODES {
            let mut pods: Vec<String> =
                self.pods.values().filter(|pod| pod.node == host).map(|pod| pod.name.clone()).collect();
            pods.sort_by_key(|name| name[1..].parse::<usize>().unwrap_or(usize::MAX));
            pods.truncate(PODS);
            while pods.len() < PODS {
                pods.push(self.start_pod(host)?);
            }
            web.extend(pods);
        }
        self.set_web(web)?;
        let is_spare = |pod: &&Pod| pod.node < NODES && !self.web.contains(&pod.name);
        let spare: Vec<String> = self.pods.values().filter(is_spare).map(|pod| pod.name.clone()).collect();
        spare.iter().try_for_each(|name| self.end_pod(name))
    }

    /// With which its nodes prove to each other that they belong together.
    pub fn gossip_secret(&self) -> GossipSecret {
        GossipSecret { current: objects::SECRET.as_bytes().to_vec(), previous: None }
    }

    /// Pulls a machine's cable on the LAN, or puts it back: the switch sends nothing to it and takes nothing from it, and its link
    /// stays up.
    pub fn set_cable(&self, machine: &str, is_plugged: bool) -> Result<()> {
        // Out of the bridge the port is nobody's: frames end there.
        let master =
            if is_plugged { format!("set {machine} master lan") } else { format!("set {machine} nomaster") };
        self.lan().ip(&format!("link {master}"))
    }

    /// From now on the switch loses all that a machine on the LAN sends, or all that is sent to it; or nothing any more.
    pub fn set_loss(&self, machine: &str, lost: Option<Lost>) -> Result<()> {
        let table = format!("netdev loss-{machine}");
        // So that it can be deleted whether it was there or not.
        let mut rules = format!("table {table}\ndelete table {table}\n");
        if let Some(lost) = lost {
            let hook = match lost {
                Lost::Sent => "ingress",
                Lost::SentToIt => "egress",
            };
            let chain =
                format!("chain every {{ type filter hook {hook} device \"{machine}\" priority 0; drop\n}}");
            rules += &format!("table {table} {{ {chain}\n}}\n");
        }
        self.lan().nft(&rules)
    }

    /// Takes a machine's port at the switch down, or up: its link has no carrier then.
    pub fn set_port(&self, machine: &str, is_up: bool) -> Result<()> {
        self.lan().ip(&format!("link set {machine} {}", if is_up { "up" } else { "down" }))
    }

    /// Bytes that a machine on the LAN has sent.
    pub fn sent_bytes(&self, machine: &str) -> Result<u64> {
        let port = self.lan().ip_json(&format!("-s link show dev {machine}"))?;
        port[0]["stats64"]["rx"]["bytes"].as_u64().with_context(|| format!("{machine} has no port"))
    }

    /// Ends a pod, and all its connections.
    pub fn end_pod(&mut self, name: &str) -> Result<()> {
        self.pods.remove(name).with_context(|| format!("no pod {name}"))?.end()
    }

    /// Takes a Node out of the cluster, or puts it back, and waits until all nodes know.
    pub fn set_member(&mut self, name: &str, is_member: bool) -> Result<()> {
        let object = self.node_object(name)?;
        if is_member {
            self.objects.put(&object)?;
        } else {
            self.objects.remove(&object)?;
        }
        self.wait_all("the node's leaving or coming", |status| {
            status.nodes.get(name).is_some_and(|node| node.in_source) == is_member
        })
    }

    /// Waits until all nodes' status is as it should be.
    pub fn wait_all(&mut self, what: &str, is_met: impl Fn(&NodeStatus) -> bool) -> Result<()> {
        self.nodes.iter_mut().try_for_each(|node| node.wait(what, &is_met).map(drop))
    }

    /// Waits until all nodes have found each other, serve their links, and answer for the VIPs that they own.
    pub fn wait_for_nodes(&mut self) -> Result<()> {
        self.wait_all("the MACs of all nodes, and its programs", |status| {
            let reachable = status.nodes.values().filter(|node| !node.macs.is_empty()).count();
            reachable >= NODES && status.links.values().all(|link| link.mode != "none")
        })?;
        for node in &mut self.nodes {
            let (name, pins) = (node.name.clone(), node.pins.clone());
            let owns = |address: &String| answers(&pins, address.parse()?);
            node.wait("its VIPs to be its own", |status| {
                let owned = status.vips.iter().filter(|(_, vip)| vip.is_answered_by(&name));
                status.vips.values().all(|vip| vip.withheld.is_empty())
                    && owned.map(|(address, _)| address).all(|address| owns(address).unwrap_or(false))
            })?;
        }
        Ok(())
    }

    /// Whether a node's data path answers ARP and NDP for an address, be its agent there or not.
    pub fn answers(&self, node: &str, vip: IpAddr) -> Result<bool> {
        answers(&self.node(node)?.pins, vip)
    }

    /// One more Service, with these VIPs and the pods of `web`.
    pub fn serve(&self, name: &str, vips: &[IpAddr]) -> Result<()> {
        self.put_slices(name, &self.web)?;
        self.objects.put(&objects::service(name, vips, &[]))
    }

    /// Packets that all nodes have counted, by reason.
    pub fn reasons(&self) -> Result<BTreeMap<Reason, u64>> {
        let mut sums = BTreeMap::new();
        for node in &self.nodes {
            for (reason, count) in node.tables()?.reasons()? {
                *sums.entry(reason).or_default() += count.packets;
            }
        }
        Ok(sums)
    }

    /// Packets to a VIP that have reached the kernel of any node.
    pub fn kernel_packets(&self, vip: IpAddr) -> Result<u64> {
        self.nodes.iter().map(|node| kube_proxy::packets(&node.namespace, vip)).sum()
    }

    /// Routes of the router to the VIPs of `web`, spread over these nodes.
    pub fn set_next_hops(&self, nodes: &[&str]) -> Result<()> {
        for (family, vip) in ["-4", "-6"].into_iter().zip([WEB, WEB_V6]) {
            let hops = self.topology.hosts.iter().filter(|host| nodes.contains(&host.name.as_str()));
            let hops =
                hops.map(|host| format!(" nexthop via {}", host.addresses()[usize::from(vip.is_ipv6())]));
            self.router().ip(&format!("{family} route replace {vip}{}", hops.collect::<String>()))?;
        }
        Ok(())
    }

    /// Without routes, the router is a client on the LAN like any other.
    pub fn remove_next_hops(&self) -> Result<()> {
        self.router().ip(&format!("route del {WEB}"))?;
        self.router().ip(&format!("-6 route del {WEB_V6}"))
    }

    fn put_slices(&self, service: &str, pods: &[String]) -> Result<()> {
        for is_v6 in [false, true] {
            let endpoints: Vec<Endpoint> = pods
                .iter()
                .map(|pod| Endpoint {
                    address: self.pods[pod].address(is_v6),
                    node: self.node_of(pod).to_owned(),
                })
                .collect();
            self.objects.put(&objects::slice(service, is_v6, &endpoints))?;
        }
        Ok(())
    }

    /// A Node as it was at the beginning.
    pub fn node_object(&self, name: &str) -> Result<serde_json::Value> {
        let host = self.topology.hosts.iter().find(|host| host.name == name);
        let host: &Host = host.with_context(|| format!("no host {name}"))?;
        let is_here = host.number <= NODES;
        Ok(objects::node(name, &host.addresses(), &host.pod_cidrs(), if is_here { "lan" } else { "wan" }))
    }
}

/// Whether a data path answers for an address.
fn answers(pins: &Path, address: IpAddr) -> Result<bool> {
    let vips = LiveMaps::pinned(pins)?.vips()?;
    Ok(vips.get(&address.into()).is_some_and(|vip| vip.owned != 0))
}

fn ready(service: &ServiceStatus) -> impl Iterator<Item = &String> {
    service.endpoints.iter().filter(|(_, endpoint)| endpoint.ready).map(|(address, _)| address)
}
