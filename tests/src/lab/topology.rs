//! The namespaces, links, addresses and routes of a lab.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    programs::{Xdp, xdp::XdpMode},
};

use super::{
    client::Client,
    namespace::{Namespace, run},
    runs::Machines,
};

/// Nodes with agents, on the LAN.
pub const NODES: usize = 3;

/// Where hosts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The segment of the VIPs.
    Lan,
    /// Behind the router.
    Wan,
}

impl Side {
    /// The address of a host.
    pub fn v4(self, host: u8) -> Ipv4Addr {
        match self {
            Self::Lan => Ipv4Addr::new(192, 0, 2, host),
            Self::Wan => Ipv4Addr::new(198, 51, 100, host),
        }
    }

    /// The address of a host: its number in decimal, read as hexadecimal.
    pub fn v6(self, host: u8) -> Ipv6Addr {
        let segment = match self {
            Self::Lan => 1,
            Self::Wan => 2,
        };
        let host = u16::from_str_radix(&host.to_string(), 16).unwrap_or(u16::from(host));
        Ipv6Addr::new(0x2001, 0xdb8, 0, segment, 0, 0, 0, host)
    }
}

/// The router's host number on both sides.
const ROUTER: u8 = 1;

/// Last octets of the bridges' MACs; those of machines are their host numbers.
const LAN_BRIDGE: u8 = 0xf0;
const WAN_BRIDGE: u8 = 0xf1;
const POD_BRIDGE: u8 = 0xe0;

/// All machines but pods.
pub struct Topology {
    /// The switch of the LAN.
    pub lan: Namespace,
    /// The router.
    pub router: Namespace,
    /// `n1` to `n3` on the LAN, and `n4` behind the router.
    pub hosts: Vec<Host>,
    /// `c1` and `c2` on the LAN, `c3` behind the router.
    pub clients: Vec<Client>,
    /// Its programs are attached as long as it lives.
    _pass: Ebpf,
}

/// A machine that runs pods.
pub struct Host {
    /// `n1` and so on.
    pub name: String,
    /// 1 for `n1`.
    pub number: usize,
    /// Where it is.
    pub namespace: Namespace,
    /// Its side.
    pub side: Side,
}

impl Host {
    /// Its addresses as a node.
    pub fn addresses(&self) -> [IpAddr; 2] {
        let host = 10 + self.number as u8;
        [self.side.v4(host).into(), self.side.v6(host).into()]
    }

    /// MAC of its link.
    pub fn mac(&self) -> String {
        mac(10 + self.number as u8)
    }

    /// Address of the pod with this number, from 2; 1 is the host itself.
    pub fn pod_v4(&self, pod: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number as u8, pod)
    }

    /// Like [`Host::pod_v4`].
    pub fn pod_v6(&self, pod: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, self.number as u16, 0, 0, 0, u16::from(pod))
    }

    /// Its pods' prefixes.
    pub fn pod_cidrs(&self) -> [String; 2] {
        [format!("{}/24", self.pod_v4(0)), format!("{}/64", self.pod_v6(0))]
    }

    /// Connects a pod's namespace to the host's bridge.
    pub fn connect(&self, namespace: &Namespace, pod: u8) -> Result<()> {
        let (far, near) = (namespace.name(), format!("pod{pod}"));
        self.namespace.ip(&format!("link add {near} type veth peer name eth0 netns {far}"))?;
        self.namespace.ip(&format!("link set {near} master cni0 up"))?;
        address(namespace, "eth0", self.pod_v4(pod), self.pod_v6(pod))?;
        namespace.ip(&format!("route add default via {}", self.pod_v4(1)))?;
        namespace.ip(&format!("-6 route add default via {}", self.pod_v6(1)))
    }
}

impl Topology {
    /// Makes everything.
    pub fn build(names: Machines<'_>) -> Result<Self> {
        let create = |name: &str| Namespace::create(&names.namespace(name));
        let lan = create("lan")?;
        bridge(&lan, "lan", &mac(LAN_BRIDGE))?;
        let router = create("r")?;
        forward(&router)?;
        bridge(&router, "wan", &mac(WAN_BRIDGE))?;
        address(&router, "wan", Side::Wan.v4(ROUTER), Side::Wan.v6(ROUTER))?;
        let switch = |side| match side {
            Side::Lan => (&lan, "lan"),
            Side::Wan => (&router, "wan"),
        };
        join(switch(Side::Lan), "r", &router, Side::Lan, ROUTER)?;
        // A rehash must be able to move any connection.
        router.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
        router.sysctl("net/ipv6/fib_multipath_hash_policy", "1")?;

        let mut hosts = Vec::new();
        for number in 1..=NODES + 1 {
            let (name, side) = (format!("n{number}"), if number <= NODES { Side::Lan } else { Side::Wan });
            let host = Host { namespace: create(&name)?, name, number, side };
            join(switch(side), &host.name, &host.namespace, side, 10 + number as u8)?;
            forward(&host.namespace)?;
            bridge(&host.namespace, "cni0", &mac(POD_BRIDGE + number as u8))?;
            address(&host.namespace, "cni0", host.pod_v4(1), host.pod_v6(1))?;
            gateway(&host.namespace, side)?;
            hosts.push(host);
        }
        for from in &hosts {
            for to in hosts.iter().filter(|to| to.number != from.number && to.side == from.side) {
                pod_routes(&from.namespace, to)?;
            }
        }
        // Nodes reach the pods behind the router by their default route.
        for to in hosts.iter().filter(|host| host.side == Side::Wan) {
            pod_routes(&router, to)?;
        }

        let clients = [(1, Side::Lan), (2, Side::Lan), (3, Side::Wan)];
        let clients = clients.map(|(number, side)| client(names, switch(side), number, side));
        let clients = clients.into_iter().collect::<Result<_>>()?;
        let pass = pass_on(&lan, hosts.iter().filter(|host| host.side == Side::Lan).map(|host| &*host.name))?;
        Ok(Self { lan, router, hosts, clients, _pass: pass })
    }
}

impl Topology {
    /// One more machine on the LAN, with this host number, and its address.
    pub fn add_machine(&self, names: Machines<'_>, name: &str, host: u8) -> Result<(Namespace, IpAddr)> {
        let namespace = Namespace::create(&names.namespace(name))?;
        join((&self.lan, "lan"), name, &namespace, Side::Lan, host)?;
        Ok((namespace, Side::Lan.v4(host).into()))
    }

    /// One more client on the LAN, with this number.
    pub fn add_client(&self, names: Machines<'_>, number: u8) -> Result<Client> {
        client(names, (&self.lan, "lan"), number, Side::Lan)
    }
}

fn client(names: Machines<'_>, switch: (&Namespace, &str), number: u8, side: Side) -> Result<Client> {
    let (name, host) = (format!("c{number}"), 100 + number);
    let namespace = Namespace::create(&names.namespace(&name))?;
    join(switch, &name, &namespace, side, host)?;
    gateway(&namespace, side)?;
    Ok(Client { name, namespace, v4: side.v4(host).into(), v6: side.v6(host).into() })
}

/// Forwards as a Kubernetes node does, with the strictest check of sources.
fn forward(namespace: &Namespace) -> Result<()> {
    namespace.sysctl("net/ipv4/ip_forward", "1")?;
    namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    namespace.sysctl("net/ipv4/conf/all/rp_filter", "1")
}

/// With a MAC of its own, as CNI plugins do it: else it changes with the ports, and pods lose their gateway.
fn bridge(namespace: &Namespace, name: &str, mac: &str) -> Result<()> {
    namespace.ip(&format!("link add {name} address {mac} type bridge"))?;
    namespace.ip(&format!("link set {name} up"))
}

/// Connects a machine's `eth0` to a bridge, with a port of the machine's name.
fn join(
    (switch, bridge): (&Namespace, &str),
    port: &str,
    machine: &Namespace,
    side: Side,
    host: u8,
) -> Result<()> {
    let (far, mac) = (machine.name(), mac(host));
    switch.ip(&format!("link add {port} type veth peer name eth0 address {mac} netns {far}"))?;
    // A wire carries whole checksums; a veth pair does not, and XDP sends them on as they are.
    run(std::process::Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", switch.name()))
        .args(["ethtool", "-K", port, "tx", "off"]))?;
    switch.ip(&format!("link set {port} master {bridge} up"))?;
    address(machine, "eth0", side.v4(host), side.v6(host))
}

fn address(namespace: &Namespace, link: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
    namespace.ip(&format!("link set {link} up"))?;
    namespace.ip(&format!("addr add {v4}/24 dev {link}"))?;
    namespace.ip(&format!("addr add {v6}/64 dev {link} nodad"))
}

fn gateway(namespace: &Namespace, side: Side) -> Result<()> {
    namespace.ip(&format!("route add default via {}", side.v4(ROUTER)))?;
    namespace.ip(&format!("-6 route add default via {}", side.v6(ROUTER)))
}

/// The way to a host's pods.
pub fn pod_routes(from: &Namespace, to: &Host) -> Result<()> {
    for (cidr, via) in to.pod_cidrs().iter().zip(to.addresses()) {
        from.ip(&format!("route add {cidr} via {via}"))?;
    }
    Ok(())
}

fn mac(host: u8) -> String {
    format!("02:6d:67:00:00:{host:02x}")
}

/// What XDP sends arrives at the other end of a veth pair only if that end has a program too: puts one on ports of a switch, as long as
/// the value lives.
pub fn pass_on<'a>(switch: &Namespace, ports: impl Iterator<Item = &'a str> + Send) -> Result<Ebpf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/magnetite-testing.o");
    let mut object = Ebpf::load_file(&path)
        .with_context(|| format!("loading {}: cargo xtask build-ebpf makes it", path.display()))?;
    let program: &mut Xdp = object.program_mut("pass").context("the object has the program")?.try_into()?;
    program.load()?;
    switch.run(|| {
        for port in ports {
            program.attach(port, XdpMode::Driver)?;
        }
        Ok(())
    })?;
    Ok(object)
}
