use std::{net::Ipv4Addr, sync::Arc};

use ipnet::IpNet;
use lb_common::layout::Mac;

use super::*;
use crate::{
    allocate::allocate,
    drain::{Limit, Reason},
    liveness::{Description, LinkDescription},
    model::{
        Labels, Network, ObjectName, Operator, PreferredNodes, Requirement, Selector,
        testing::{endpoint, name, nic, node, pool, service},
    },
    plan::{Plan, plan},
};

fn names(names: &[&str]) -> Vec<NodeName> {
    names.iter().map(|name| NodeName((*name).into())).collect()
}

/// Of one label: that it is there.
fn has(key: &str) -> Selector {
    Selector { requirements: vec![Requirement { key: key.to_owned(), operator: Operator::Exists }] }
}

fn labels(keys: &[&str]) -> Labels {
    keys.iter().map(|key| ((*key).to_owned(), String::new())).collect()
}

/// In the order of `sha256sum` over `a#192.0.2.1` and the others.
#[test]
fn owners_follow_metallbs_order_and_a_higher_score_comes_before_it() {
    let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
    let nodes = names(&["a", "b", "c", "d", "e"]);
    let order = |score: fn(&str) -> u32| {
        let scored = nodes.iter().map(|node| (node, score(&node.0)));
        ranked(address, scored).into_iter().map(|node| &*node.0).collect::<Vec<_>>().concat()
    };
    assert_eq!(order(|_| 0), "cabed");
    assert_eq!(order(|_| 7), "cabed");
    assert_eq!(order(|node| if node == "d" { 1 } else { 0 }), "dcabe");
    assert_eq!(order(|node| u32::from("abcde".find(node) > Some(2)) * 100), "edcab");
}

#[test]
fn an_advertisement_selects_services_by_label() {
    let open = L2Advertisement { service_selectors: vec![has("open")], ..L2Advertisement::default() };
    let snapshot = Snapshot { l2_advertisements: [("open".to_owned(), open)].into(), ..Snapshot::default() };
    let open = Service { labels: labels(&["open"]), ..service() };
    assert_eq!(advertisements(&snapshot, "main", &open).len(), 1);
    assert_eq!(advertisements(&snapshot, "main", &service()).len(), 0);
}

#[test]
fn each_node_is_left_out_by_the_first_rule_that_does_in_metallbs_order() {
    let address = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1));
    let mut snapshot = Snapshot::default();
    let nodes =
        [("a", vec!["edge"]), ("b", vec!["edge"]), ("c", vec!["edge"]), ("d", vec![]), ("e", vec!["edge"])];
    for (name, keys) in nodes {
        let node = Node { labels: labels(&keys), ..node(address) };
        snapshot.nodes.insert(NodeName(name.into()), node);
    }
    for (name, excluded, network_unavailable) in [("b", true, true), ("c", true, false), ("d", true, true)] {
        if let Some(node) = snapshot.nodes.get_mut(&NodeName(name.into())) {
            (node.excluded, node.network_unavailable) = (excluded, network_unavailable);
        }
    }
    if let Some(node) = snapshot.nodes.get_mut(&NodeName("e".into())) {
        node.leaving.insert(Reason::Annotation, Limit::Unlimited);
    }
    let edge = L2Advertisement { node_selectors: vec![has("edge")], ..L2Advertisement::default() };
    let judged = |service: &Service, advertisements: &[&L2Advertisement]| {
        let judged = eligible(&snapshot, service, advertisements).into_values();
        judged.map(|node| node.map_or_else(|why| why.to_string(), |_| "may".to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(judged(&service(), &[&edge]), ["noEndpoints"; 5]);

    let mut served = service();
    served.endpoints[0].insert(endpoint(address, "c"));
    let rest =
        ["nodeNetworkUnavailable", "nodeLabeledExcludeBalancers", "noMatchingAdvertisement", "nodeLeaving"];
    assert_eq!(judged(&served, &[&edge]), [&["may"], &rest[..]].concat());
    assert_eq!(judged(&served, &[]), ["noMatchingAdvertisement"; 5]);
    let mut local = Service { policy: TrafficPolicy::Local, ..served };
    assert_eq!(judged(&local, &[&edge]), [&["noLocalEndpoints"], &rest[..]].concat());

    for (condition, expected) in [
        (EndpointCondition::Ready, "may"),
        (EndpointCondition::ServingTerminating, "may"),
        (EndpointCondition::NotReady, "noLocalEndpoints"),
    ] {
        local.endpoints[0].insert(crate::model::Endpoint { condition, ..endpoint(address, "a") });
        assert_eq!(judged(&local, &[&edge])[0], expected, "{condition:?}");
        local.endpoints[0].retain(|endpoint| endpoint.node != Some(NodeName("a".into())));
    }
}

#[test]
fn what_an_advertisement_says_holds_for_the_nodes_that_it_selects() {
    let prefers = |key, weight| PreferredNodes::new(weight, has(key)).into_iter();
    let advertisement = |node_selectors, interfaces: &[&str], preferred| L2Advertisement {
        node_selectors,
        interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
        preferred,
        ..L2Advertisement::default()
    };
    let edge =
        advertisement(vec![has("edge")], &["eth1"], prefers("gpu", 60).chain(prefers("edge", 50)).collect());
    let core = advertisement(vec![has("core")], &["eth2"], prefers("gpu", 7).collect());
    let gpu = advertisement(vec![has("gpu")], &[], Vec::new());
    let all = [&edge, &core, &gpu];
    let judged = |advertisements: &[&L2Advertisement], keys: &[&str]| {
        let node = Node { labels: labels(keys), ..node(IpAddr::from([10, 0, 0, 1])) };
        contender(advertisements, &node).map(|contender| match contender.interfaces {
            Interfaces::All => (contender.score, "all".to_owned()),
            Interfaces::Named(names) => (contender.score, names.into_iter().collect::<Vec<_>>().join(",")),
        })
    };
    let is = |score, interfaces: &str| Some((score, interfaces.to_owned()));
    assert_eq!(judged(&all, &["edge"]), is(50, "eth1"));
    assert_eq!(judged(&all, &["edge", "core"]), is(50, "eth1,eth2"), "united");
    assert_eq!(judged(&all, &["edge", "core", "gpu"]), is(117, "all"), "added, within and among them");
    assert_eq!(judged(&all, &["gpu"]), is(0, "all"), "preferences of others are not its own");
    assert_eq!(judged(&all, &[]), None);
}

/// A cluster of nodes `a`, `b`, …, each with the links that a text names as `name=prefix`; its first address is the Node's.
struct Cluster {
    snapshot: Snapshot,
    links: BTreeMap<NodeName, BTreeMap<String, BTreeSet<IpNet>>>,
}

impl Cluster {
    /// With a Service that has the first address of a pool, announced everywhere.
    fn new(links: &[&str], vip: &str) -> Self {
        let mut cluster = Self { snapshot: Snapshot::default(), links: BTreeMap::new() };
        for (number, links) in links.iter().enumerate() {
            let name = NodeName(char::from(b'a' + number as u8).to_string().into());
            let parsed = links.split_whitespace().filter_map(|link| {
                let (link, prefix) = link.split_once('=')?;
                Some((link.to_owned(), prefix.parse::<IpNet>().ok()?))
            });
            let parsed: Vec<(String, IpNet)> = parsed.collect();
            cluster.snapshot.nodes.insert(name.clone(), node(parsed[0].1.addr()));
            let mut all: BTreeMap<String, BTreeSet<IpNet>> = BTreeMap::new();
            parsed.into_iter().for_each(|(link, prefix)| {
                all.entry(link).or_default().insert(prefix);
            });
            cluster.links.insert(name, all);
        }
        cluster.snapshot.pools.insert("main".to_owned(), pool(&format!("{vip}-{vip}")));
        cluster.announce(&[]);
        let mut web = service();
        web.endpoints[0].insert(endpoint(IpAddr::from([10, 1, 0, 1]), "a"));
        cluster.snapshot.services.insert(name("web"), web.into());
        cluster
    }

    fn announce(&mut self, interfaces: &[&str]) {
        let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
        let advertisement = L2Advertisement { interfaces, ..L2Advertisement::default() };
        self.snapshot.l2_advertisements.insert("main".to_owned(), advertisement);
    }

    /// What a node plans that has heard of these others' links.
    fn plan(&self, this: &str, heard: &[&str]) -> Plan {
        let this = NodeName(this.into());
        let links = self.links[&this].iter().zip(1..).map(|((name, prefixes), ifindex)| {
            let mac = [2, 0, 0, 0, 0, ifindex as u8];
            (name.clone(), nic(ifindex, mac, prefixes.clone()))
        });
        let mut network = Network { links: links.collect(), ..Network::default() };
        for peer in names(heard).into_iter().filter(|peer| *peer != this && self.links.contains_key(peer)) {
            let links = self.links[&peer].iter().map(|(name, prefixes)| {
                LinkDescription::new(name.clone(), Mac::default(), prefixes.iter().copied())
            });
            network.hear(peer.clone(), &Description::of(links.collect()));
        }
        plan(&self.snapshot, &allocate(&self.snapshot), &this, &network)
    }

    /// Who may own the only VIP, as a node sees it: `segment: best, next; …`.
    fn ranked(&self, this: &str, heard: &[&str]) -> String {
        let plan = self.plan(this, heard);
        let vips = plan.vips.values().flat_map(|vip| &vip.segments).map(|(segment, ranking)| {
            format!("{segment}: {}", ranking.nodes.iter().map(|node| &*node.0).collect::<String>())
        });
        vips.collect::<Vec<_>>().join("; ")
    }

    /// The same by classes: `segment: best and best, next`.
    fn classes(&self, this: &str, heard: &[&str]) -> String {
        let plan = self.plan(this, heard);
        let vips = plan.vips.values().flat_map(|vip| &vip.segments).map(|(segment, ranking)| {
            let class = |nodes: &[NodeName]| nodes.iter().map(|node| &*node.0).collect::<String>();
            format!("{segment}: {}", ranking.classes().map(class).collect::<Vec<_>>().join(", "))
        });
        vips.collect::<Vec<_>>().join("; ")
    }

    /// Who may not, and why: `reason in segment: nodes`.
    fn left_out(&self, this: &str, heard: &[&str]) -> Vec<String> {
        let plan = self.plan(this, heard);
        let left_out = plan.vips.values().flat_map(|vip| &vip.left_out).map(|(reason, nodes)| {
            let segment = reason.segment().map(|segment| format!(" in {segment}")).unwrap_or_default();
            format!("{reason}{segment}: {}", nodes.iter().map(|node| &*node.0).collect::<String>())
        });
        left_out.collect()
    }
}

#[test]
fn of_services_that_share_a_vip_one_with_endpoints_says_who_may_own_it() {
    let vip = IpAddr::from([192, 0, 2, 200]);
    let mut cluster = Cluster::new(&["eth0=192.0.2.1/24", "eth0=192.0.2.2/24"], "192.0.2.200");
    for (other, port) in [("a-without-endpoints", 81), ("z-without-endpoints", 82)] {
        let mut service = Service { sharing_key: "k".to_owned(), requested: vec![vip], ..service() };
        service.ports[0].port = std::num::NonZeroU16::MIN.saturating_add(port - 1);
        cluster.snapshot.services.insert(name(other), service.into());
    }
    if let Some(web) = cluster.snapshot.services.get_mut(&name("web")).map(Arc::make_mut) {
        (web.sharing_key, web.requested) = ("k".to_owned(), vec![vip]);
    }
    let plan = cluster.plan("a", ALL);
    assert_eq!(plan.vips[&vip].services.len(), 3);
    assert_eq!(plan.services.len(), 3);
    assert_eq!(cluster.ranked("a", ALL), "eth0: ab");
}

const NOBODY: &[&str] = &[];
const ALL: &[&str] = &["a", "b", "c", "d"];

/// The order over `192.0.2.200` is a c b d, as `sha256sum` has it.
#[test]
fn nodes_with_a_link_in_the_vips_subnet_come_first() {
    let shared = "eth0=10.0.0.1/24";
    let links = [shared, "eth0=10.0.0.2/24", "eth0=10.0.0.3/24", "eth0=10.0.0.4/24"];
    let nowhere = Cluster::new(&links, "192.0.2.200");
    for this in ALL {
        for heard in [NOBODY, ALL] {
            assert_eq!(nowhere.ranked(this, heard), "eth0: acbd", "none has one: all come alike");
        }
    }

    let second =
        [links[0], "eth0=10.0.0.2/24 eth0=192.0.2.2/24", links[2], "eth0=10.0.0.4/24 eth1=192.0.2.4/24"];
    let some = Cluster::new(&second, "192.0.2.200");
    for this in ALL {
        assert_eq!(some.ranked(this, ALL).split("; ").next(), Some("eth0: bdac"), "as {this} sees it");
    }
    assert_eq!(some.ranked("d", ALL), "eth0: bdac; eth1: bd", "a and c have no link there");
    assert_eq!(some.left_out("d", ALL), ["noLinkInSegment in eth1: ac"]);
    assert_eq!(some.ranked("b", NOBODY), "eth0: acbd", "it has heard nothing");
}

#[test]
fn classes_are_by_what_is_known_then_by_subnet_then_by_preference() {
    let second = [
        "eth0=10.0.0.1/24",
        "eth0=10.0.0.2/24 eth0=192.0.2.2/24",
        "eth0=10.0.0.3/24",
        "eth0=10.0.0.4/24 eth1=192.0.2.4/24",
    ];
    let mut cluster = Cluster::new(&second, "192.0.2.200");
    assert_eq!(cluster.classes("b", NOBODY), "eth0: acbd");
    assert_eq!(cluster.classes("d", ALL), "eth0: bd, ac; eth1: bd");
    for (node, keys) in [("a", &["edge"][..]), ("b", &[]), ("c", &["edge", "fast"]), ("d", &["edge"])] {
        if let Some(known) = cluster.snapshot.nodes.get_mut(&NodeName(node.into())) {
            known.labels = labels(keys);
        }
    }
    let preferred = [PreferredNodes::new(60, has("edge")), PreferredNodes::new(50, has("fast"))];
    let preferred = preferred.into_iter().flatten().collect();
    let advertisement = L2Advertisement { preferred, ..L2Advertisement::default() };
    cluster.snapshot.l2_advertisements.insert("main".to_owned(), advertisement);
    assert_eq!(cluster.classes("b", NOBODY), "eth0: c, ad, b");
    assert_eq!(cluster.classes("d", ALL), "eth0: d, b, c, a; eth1: d, b");

    // Those that have said nothing of their links come last.
    let links = [
        "bond0=10.0.0.1/24 bond0.100=192.0.2.1/24",
        "bond0=10.0.0.2/24 bond0.100=192.0.2.2/24",
        "bond0=10.0.0.3/24 bond0.100=192.0.2.3/24",
        "bond0=10.0.0.4/24 bond0.100=192.0.2.4/24",
    ];
    let cluster = Cluster::new(&links, "203.0.113.9");
    assert_eq!(cluster.classes("a", &["b"]), "bond0: dabc; bond0.100: ab, dc");
}

#[test]
fn internal_addresses_tell_of_links_too() {
    let links = [
        "eth0=192.0.2.1/24 eth1=10.9.0.1/24",
        "eth0=192.0.2.2/24 eth1=10.9.0.2/24",
        "eth0=10.0.0.3/24 eth1=10.9.0.3/24",
        "eth0=10.0.0.4/24 eth1=10.9.0.4/24",
    ];
    let cluster = Cluster::new(&links, "192.0.2.200");
    for this in ["a", "b"] {
        for heard in [NOBODY, ALL] {
            let ranked = cluster.ranked(this, heard);
            assert_eq!(ranked, "eth0: ab; eth1: abcd", "as {this} sees it with {heard:?}");
            assert_eq!(cluster.left_out(this, heard), ["noLinkInSegment in eth0: cd"]);
        }
    }
    assert_eq!(cluster.ranked("c", ALL), "eth0: cd; eth1: abcd");
}

/// A VLAN for VIPs that the source says nothing of. Before nodes have heard of each other's links they all take all to have one.
#[test]
fn where_the_source_names_nobody_all_are_taken_to_have_a_leg_until_they_say_otherwise() {
    let links = [
        "bond0=10.0.0.1/24 bond0.100=192.0.2.1/24",
        "bond0=10.0.0.2/24 bond0.100=192.0.2.2/24",
        "bond0=10.0.0.3/24 bond0.100=192.0.2.3/24",
        "bond0=10.0.0.4/24",
    ];
    let mut cluster = Cluster::new(&links, "192.0.2.200");
    cluster.announce(&["bond0.100"]);
    for this in ["a", "b", "c"] {
        assert_eq!(cluster.ranked(this, NOBODY), "bond0.100: acbd", "as {this} sees it");
        assert_eq!(cluster.ranked(this, ALL), "bond0.100: acb", "as {this} sees it");
        assert_eq!(cluster.left_out(this, ALL), ["noAdvertisedInterface: d"]);
    }
    assert_eq!(cluster.ranked("d", NOBODY), "bond0: acb", "what the name means elsewhere it cannot know");
    assert_eq!(cluster.ranked("d", ALL), "");

    let plan = cluster.plan("a", NOBODY);
    let b = &plan.nodes[&NodeName("b".into())];
    assert_eq!(
        b.claims_as("bond0.100"),
        Some(IpAddr::from([10, 0, 0, 2])),
        "its leg elsewhere stands for it"
    );
    let plan = cluster.plan("a", ALL);
    let b = &plan.nodes[&NodeName("b".into())];
    assert_eq!(b.claims_as("bond0.100"), Some(IpAddr::from([192, 0, 2, 2])));
}

/// The order over `203.0.113.9` is d a b c, as `sha256sum` has it.
#[test]
fn who_has_said_nothing_of_its_links_comes_after_those_that_have() {
    let links = [
        "bond0=10.0.0.1/24 bond0.100=192.0.2.1/24",
        "bond0=10.0.0.2/24 bond0.100=192.0.2.2/24",
        "bond0=10.0.0.3/24 bond0.100=192.0.2.3/24",
        "bond0=10.0.0.4/24 bond0.100=192.0.2.4/24",
    ];
    let cluster = Cluster::new(&links, "203.0.113.9");
    let ranked = |heard: &[&str]| cluster.ranked("a", heard);
    assert_eq!(ranked(NOBODY), "bond0: dabc; bond0.100: dabc");
    assert_eq!(ranked(&["b"]), "bond0: dabc; bond0.100: abdc");
    assert_eq!(ranked(ALL), "bond0: dabc; bond0.100: dabc");
}

/// Not all links of such a node are told.
#[test]
fn a_node_with_very_many_links_is_one_that_says_nothing_also_to_itself() {
    let vlans =
        |count| -> String { (1..=count).map(|vlan| format!(" bond0.{vlan}=172.16.{vlan}.1/24")).collect() };
    let many = vlans(31);
    let links = [
        format!("bond0=10.0.0.1/24 bond0.100=192.0.2.1/24{many}"),
        "bond0=10.0.0.2/24 bond0.100=192.0.2.2/24".to_owned(),
    ];
    let cluster = Cluster::new(&links.each_ref().map(String::as_str), "203.0.113.9");
    for this in ["a", "b"] {
        let ranked = cluster.ranked(this, &["a", "b"]);
        assert!(ranked.split("; ").any(|segment| segment == "bond0.100: ba"), "as {this} sees it: {ranked}");
    }
    let fewer = links[0].replace(&many, &vlans(30));
    let cluster = Cluster::new(&[&fewer, &links[1]], "203.0.113.9");
    for this in ["a", "b"] {
        let ranked = cluster.ranked(this, &["a", "b"]);
        assert!(ranked.split("; ").any(|segment| segment == "bond0.100: ab"), "as {this} sees it: {ranked}");
    }
    let few = links[0].replace(&many, "");
    let cluster = Cluster::new(&[&few, &links[1]], "203.0.113.9");
    assert_eq!(cluster.ranked("a", &["b"]), "bond0: ab; bond0.100: ab");
}

#[test]
fn a_node_without_any_of_the_interfaces_is_left_out_by_all_that_know_its_links() {
    let links = [
        "eth0=10.0.0.1/24 eth1=10.9.0.1/24",
        "eth0=10.0.0.2/24 eth1=10.9.0.2/24",
        "ens5=10.0.0.3/24",
        "eth0=10.0.0.4/24 eth1=10.9.0.4/24",
    ];
    let mut cluster = Cluster::new(&links, "192.0.2.200");
    cluster.announce(&["eth0"]);
    for this in ["a", "b", "d"] {
        assert_eq!(cluster.ranked(this, ALL), "eth0: abd");
        assert_eq!(cluster.left_out(this, ALL), ["noAdvertisedInterface: c"]);
    }
    assert_eq!(cluster.ranked("c", ALL), "ens5: abd", "its own segment is theirs");
    assert_eq!(cluster.left_out("c", NOBODY), ["noAdvertisedInterface: c"]);
    assert_eq!(cluster.ranked("a", NOBODY), "eth0: acbd", "the name is taken to mean the same link");
}

#[test]
fn an_advertisement_for_some_nodes_names_interfaces_for_those_alone() {
    let links = ["eth0=10.0.0.1/24 eth1=10.9.0.1/24", "eth0=10.0.0.2/24 eth1=10.9.0.2/24"];
    let mut cluster = Cluster::new(&links, "192.0.2.200");
    cluster.snapshot.l2_advertisements.clear();
    for (node, interface) in [("a", "eth0"), ("b", "eth1")] {
        let advertisement = L2Advertisement {
            node_selectors: vec![has(node)],
            interfaces: [interface.to_owned()].into(),
            ..L2Advertisement::default()
        };
        cluster.snapshot.l2_advertisements.insert(node.to_owned(), advertisement);
        if let Some(known) = cluster.snapshot.nodes.get_mut(&NodeName(node.into())) {
            known.labels = labels(&[node]);
        }
    }
    for this in ["a", "b"] {
        for heard in [NOBODY, &["a", "b"]] {
            assert_eq!(cluster.ranked(this, heard), "eth0: a; eth1: b", "as {this} sees it with {heard:?}");
        }
    }
    let expected = ["notAdvertisedInSegment in eth0: b", "notAdvertisedInSegment in eth1: a"];
    assert_eq!(cluster.left_out("a", &["b"]), expected);
}

#[test]
fn without_an_advertisement_nothing_is_announced() {
    let mut cluster = Cluster::new(&["eth0=10.0.0.1/24"], "192.0.2.200");
    cluster.snapshot.l2_advertisements.clear();
    assert_eq!(cluster.ranked("a", NOBODY), "");
    assert_eq!(cluster.left_out("a", NOBODY), ["noMatchingAdvertisement: a"]);
    let unserved = ObjectName { namespace: "default".into(), name: "web".into() };
    cluster.announce(&[]);
    cluster.snapshot.services.insert(unserved, service().into());
    assert_eq!(cluster.ranked("a", NOBODY), "eth0: ", "others keep silent as long as nothing serves");
    assert_eq!(cluster.left_out("a", NOBODY), ["noEndpoints: a"]);
}
