use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use lb_common::layout::{Link, MAX_SEGMENTS, Mac, NO_CANDIDATE, SHARES, Spread, node_state, reach};
use proptest::prelude::*;

use super::{place as place_anew, *};
use crate::{
    allocate::allocate,
    armed::ArmedLink,
    diff::diff,
    liveness::Condition,
    maps::{Op, StatsPlace},
    model::{
        Endpoint, EndpointCondition, L2Advertisement, L2Mode, Network, NodeLink, Operator, PreferredNodes,
        Requirement, Selector, Snapshot,
        testing::{endpoint, name, nic, node, pool, service},
    },
    plan::plan,
};

fn local(now: u32) -> Local {
    let sizes = Sizes { table: 1 << 14, backends: 1 << 10, ..Sizes::default() };
    Local {
        sizes,
        flow_key: HashKey::expand([1; 4]),
        flow_queues: 1,
        tick_shift: 8,
        now,
        standing: Standing::default(),
        is_watched: false,
    }
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 1, 0, last).into()
}

/// Three nodes of which this is the first, and a service `web` with these pods, each on the node of its number modulo three.
fn snapshot(pods: impl IntoIterator<Item = u8>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for number in 0..3 {
        snapshot.nodes.insert(
            NodeName(format!("n{number}").into()),
            node(Ipv4Addr::new(192, 0, 2, 10 + number).into()),
        );
    }
    snapshot.pools.insert("main".to_owned(), pool("192.0.2.100-192.0.2.110"));
    snapshot.l2_advertisements.insert("all".to_owned(), L2Advertisement::default());
    let mut web = service();
    web.endpoints[0] = pods.into_iter().map(|pod| endpoint(address(pod), &format!("n{}", pod % 3))).collect();
    snapshot.services.insert(name("web"), web.into());
    snapshot
}

fn network() -> Network {
    let prefixes = "192.0.2.10/24".parse().into_iter().collect();
    let link = nic(7, [2, 0, 0, 0, 0, 0], prefixes);
    let neighbours =
        (1..3).map(|n| (("eth0".to_owned(), Ipv4Addr::new(192, 0, 2, 10 + n).into()), [2, 0, 0, 0, 0, n]));
    let links = [("eth0".to_owned(), link)].into();
    Network { links, neighbours: neighbours.collect(), ..Network::default() }
}

fn placed(snapshot: &Snapshot, current: &Maps, now: u32) -> Placed {
    let plan = plan(snapshot, &allocate(snapshot), &NodeName("n0".into()), &network());
    place(&plan, current, &local(now))
}

/// With nothing before it.
fn place(plan: &Plan, current: &Maps, local: &Local) -> Placed {
    place_anew(plan, current, local, None)
}

fn only_service(maps: &Maps) -> Service {
    let mut services = maps.services.values().filter(|service| service.flags & service_flags::PROBE == 0);
    let service = services.next().copied().unwrap_or_default();
    assert_eq!(services.count(), 0);
    service
}

/// Pods that rows name, by position of the candidate.
fn pods_in_rows(maps: &Maps, position: usize) -> BTreeSet<IpAddr> {
    let service = only_service(maps);
    let rows = maps.rows_of(&service);
    let places = rows.iter().map(|row| row.candidates[position]).filter(|place| *place != NO_CANDIDATE);
    places
        .map(|place| maps.backends[(service.backend_offset + u32::from(place)) as usize].address.to_ip())
        .collect()
}

#[test]
fn a_service_is_placed_with_all_that_it_needs() {
    let Placed { maps, without_room, left_out, .. } =
        placed(&snapshot(1..=6), &Maps::empty(&local(0).sizes), 0);
    assert_eq!((without_room, left_out), (BTreeMap::new(), BTreeMap::new()));
    assert_eq!(maps.links.len(), 1);
    assert_eq!(maps.peers.len(), 2);
    assert_eq!(maps.local_ports.len(), 2, "pods 3 and 6 are here");
    assert_eq!(maps.vips.keys().map(|vip| vip.to_ip()).collect::<Vec<_>>(), [IpAddr::from([192, 0, 2, 100])]);
    assert_eq!(maps.vips.values().next().map(|vip| vip.announced), Some(1));
    assert_eq!(only_service(&maps).table_length, 1024);
    assert_eq!(pods_in_rows(&maps, 0), (1..=6).map(address).collect());
}

#[test]
fn it_is_known_on_which_nodes_a_service_has_its_backends() {
    let mut some = snapshot(1..=6);
    let web = some.services.values_mut().map(Arc::make_mut).flat_map(|service| &mut service.endpoints);
    for endpoints in web {
        let not_ready = |endpoint: &Endpoint| [2, 5, 6].map(address).contains(&endpoint.address);
        let judged = std::mem::take(endpoints).into_iter().map(|endpoint| {
            let condition =
                if not_ready(&endpoint) { EndpointCondition::NotReady } else { EndpointCondition::Ready };
            Endpoint { condition, ..endpoint }
        });
        *endpoints = judged.collect();
    }
    let Placed { maps, carriers, .. } = placed(&some, &Maps::empty(&local(0).sizes), 0);
    let pods = |places: &[u32]| -> BTreeSet<IpAddr> {
        places.iter().map(|place| maps.backends[*place as usize].address.to_ip()).collect()
    };
    let carriers: Vec<_> = carriers.values().flatten().map(|(node, places)| (*node, pods(places))).collect();
    let of = |pods: [u8; 2]| pods.map(address).into();
    assert_eq!(carriers, [(0, of([3, 6])), (1, of([1, 4]))], "nothing on node 2 takes new flows");
}

#[test]
fn nothing_changes_if_nothing_has() {
    let snapshot = snapshot(1..=6);
    let first = placed(&snapshot, &Maps::empty(&local(0).sizes), 0).maps;
    assert_eq!(diff(&first, &placed(&snapshot, &first, 100).maps), []);
}

/// Whoever watches over claims and probes sets the bits: a pass that set them itself would answer for what is not known to be free.
#[test]
fn what_is_watched_is_owned_only_where_it_was_and_given_up_at_once() {
    let snapshot = snapshot(1..=6);
    let empty = Maps::empty(&local(0).sizes);
    let place_for = |node: &str, current: &Maps| {
        let plan = plan(&snapshot, &allocate(&snapshot), &NodeName(node.into()), &network());
        place(&plan, current, &Local { is_watched: true, ..local(0) }).maps
    };
    let owned = |maps: &Maps| maps.vips.values().map(|vip| (vip.announced, vip.owned)).collect::<Vec<_>>();
    let owner = ["n0", "n1", "n2"].into_iter().find(|node| {
        let plan = plan(&snapshot, &allocate(&snapshot), &NodeName((*node).into()), &network());
        owned(&place(&plan, &empty, &local(0)).maps) == [(1, 1)]
    });
    for node in ["n0", "n1", "n2"] {
        let mut maps = place_for(node, &empty);
        assert_eq!(owned(&maps), [(1, 0)]);
        maps.vips.values_mut().for_each(|vip| vip.owned = 1);
        let kept = u32::from(owner == Some(node));
        assert_eq!(owned(&place_for(node, &maps)), [(1, kept)]);
    }
}

#[test]
fn backends_that_live_keep_index_and_generation_and_those_that_go_rest() {
    let first = placed(&snapshot(1..=6), &Maps::empty(&local(0).sizes), 0).maps;
    let second = placed(&snapshot(2..=7), &first, 10).maps;
    let index = |maps: &Maps, pod| maps.backends.iter().position(|b| b.address.to_ip() == address(pod));
    for pod in 2..=6 {
        let at = index(&first, pod).unwrap_or(usize::MAX);
        assert_eq!(first.backends[at], second.backends[at]);
    }
    let gone = index(&first, 1).unwrap_or(usize::MAX);
    assert_eq!((second.backends[gone].state, second.backends[gone].since), (backend_state::GONE, 10));
    assert_eq!(pods_in_rows(&second, 0), (2..=7).map(address).collect());
    assert_ne!(
        only_service(&first).table_offset,
        only_service(&second).table_offset,
        "the old table is still in use"
    );

    let resting = placed(&snapshot(2..=7), &second, 10 + REST - 1).maps;
    assert_eq!(resting.backends[gone].state, backend_state::GONE);
    let free = placed(&snapshot(2..=7), &second, 10 + REST).maps;
    assert_eq!((free.backends[gone].state, free.backends[gone].generation), (backend_state::FREE, 1));
    let again = placed(&snapshot(2..=8), &free, 11 + REST).maps;
    assert_eq!(again.backends[gone].address.to_ip(), address(8));
    assert_eq!(again.backends[gone].generation, 2);
}

#[test]
fn a_vip_keeps_its_place_among_the_counters_and_the_next_to_have_it_begins_at_zero() {
    let both = |names: [&str; 2]| {
        let mut both = snapshot(1..=2);
        let web = both.services.remove(&name("web"));
        both.services.extend(names.into_iter().filter_map(|key| Some((name(key), web.clone()?))));
        both
    };
    let places = |maps: &Maps| -> Vec<u32> { maps.vips.values().map(|vip| vip.stats).collect() };
    let clears = |ops: &[Op]| -> Vec<StatsPlace> {
        let of_vip = |op: &Op| match op {
            Op::ClearStats(place @ StatsPlace::Vip(_)) => Some(*place),
            _ => None,
        };
        ops.iter().filter_map(of_vip).collect()
    };
    let empty = Maps::empty(&local(0).sizes);
    let first = placed(&both(["web", "zoo"]), &empty, 0).maps;
    assert_eq!(places(&first), [1, 2]);
    assert_eq!(clears(&diff(&empty, &first)), [StatsPlace::Vip(1), StatsPlace::Vip(2)]);

    // The first address is free now.
    let mut one = both(["zoo", "zoo"]);
    let second_address = first.vips.keys().last().map(|vip| vip.to_ip());
    one.services
        .values_mut()
        .map(Arc::make_mut)
        .for_each(|service| service.ingress = second_address.into_iter().collect());
    let second = placed(&one, &first, 1).maps;
    assert_eq!((places(&second), clears(&diff(&first, &second))), (vec![2], vec![]));

    one.services.extend(both(["web", "web"]).services);
    let third = placed(&one, &second, 2).maps;
    assert_eq!(places(&third), [1, 2]);
    assert_eq!(clears(&diff(&second, &third)), [StatsPlace::Vip(1)]);
}

#[test]
fn a_node_that_leaves_the_source_gets_no_new_flow_and_keeps_its_own() {
    let first = placed(&snapshot(1..=6), &Maps::empty(&local(0).sizes), 0).maps;
    let mut without = snapshot(1..=6);
    without.nodes.remove(&NodeName("n1".into()));
    let second = placed(&without, &first, 10).maps;
    assert_eq!(second.peers, first.peers);
    let states: Vec<_> = (0..3).map(|node| second.neighbours[node * MAX_SEGMENTS as usize].state).collect();
    assert_eq!(states, [node_state::READY, node_state::SUSPECT, node_state::READY]);
}

/// A node that was away is looked for anew. Meanwhile its connections go where it was, and none begins.
#[test]
fn a_node_that_comes_back_to_the_source_stays_where_it_was_until_it_is_found() {
    let first = placed(&snapshot(1..=6), &Maps::empty(&local(0).sizes), 0).maps;
    let mut without = snapshot(1..=6);
    without.nodes.remove(&NodeName("n1".into()));
    let second = placed(&without, &first, 10).maps;

    let back = snapshot(1..=6);
    let mut unknown = network();
    unknown.neighbours.retain(|(_, address), _| *address != IpAddr::from([192, 0, 2, 11]));
    let plan = plan(&back, &allocate(&back), &NodeName("n0".into()), &unknown);
    let third = place(&plan, &second, &local(20));
    let place_of_n1 = MAX_SEGMENTS as usize;
    assert_eq!(third.maps.neighbours[place_of_n1], second.neighbours[place_of_n1]);
    assert_eq!(third.maps.peers, first.peers);
    let armed = third.armed.neighbours.get(&MAX_SEGMENTS).and_then(|armed| armed.leg);
    assert_eq!(armed, Some(IpAddr::from([192, 0, 2, 11])), "a verdict counts");

    let fourth = placed(&back, &third.maps, 30).maps;
    assert_eq!((fourth.neighbours, fourth.peers), (first.neighbours, first.peers));
}

#[test]
fn flows_with_pods_of_nodes_that_use_another_algorithm_are_left_to_the_kernel() {
    let snapshot = snapshot(1..=6);
    let node = |number: u8| NodeName(format!("n{number}").into());
    let on = |number: u8, said: &[(u8, u32)]| {
        let algorithms = said.iter().map(|(number, version)| (node(*number), *version)).collect();
        let network = Network { algorithms, ..network() };
        let plan = plan(&snapshot, &allocate(&snapshot), &node(number), &network);
        let maps = place(&plan, &Maps::empty(&local(0).sizes), &local(0)).maps;
        let capable = (0..3).map(|node| maps.neighbours[node * MAX_SEGMENTS as usize].dsr_capable);
        let endpoints = plan.services.values().flat_map(|service| &service.endpoints);
        let left: BTreeMap<IpAddr, String> = endpoints
            .filter_map(|((address, _), endpoint)| Some((*address, endpoint.kernel.as_ref()?.to_string())))
            .collect();
        (capable.collect::<Vec<_>>(), left)
    };
    let own = ALGORITHM_VERSION;
    // What is said of this node itself is older than this node.
    for said in [&[][..], &[(1, own), (2, own)], &[(0, own + 1)]] {
        assert_eq!(on(0, said), (vec![1, 1, 1], BTreeMap::new()));
    }
    for other in [own + 1, own - 1] {
        let (capable, left) = on(0, &[(1, other), (2, own)]);
        assert_eq!(capable, [1, 0, 1]);
        assert_eq!(left.keys().copied().collect::<Vec<_>>(), [1, 4].map(address));
        let reason = format!("its node n1 uses algorithm version {other}, this node {own}");
        assert!(left.values().all(|text| *text == reason), "{left:?}");
    }
}

#[test]
fn flows_with_pods_of_nodes_without_an_agent_are_left_to_the_kernel() {
    let snapshot = snapshot(1..=6);
    let n1 = NodeName("n1".into());
    let network = Network { absent: [n1.clone()].into(), ..network() };
    let plan = plan(&snapshot, &allocate(&snapshot), &NodeName("n0".into()), &network);
    let left: BTreeSet<String> = plan
        .services
        .values()
        .flat_map(|service| service.endpoints.values())
        .filter(|endpoint| endpoint.node.as_ref() == Some(&n1))
        .filter_map(|endpoint| Some(endpoint.kernel.as_ref()?.to_string()))
        .collect();
    assert_eq!(left, ["its node n1 runs no agent".to_owned()].into());
    let Placed { maps, armed, .. } = place(&plan, &Maps::empty(&local(0).sizes), &local(0));
    let entry = maps.neighbours[MAX_SEGMENTS as usize];
    assert_eq!((entry.reach, entry.state, entry.dsr_capable), (reach::SEGMENT, node_state::READY, 0));

    let legs = [11, 12].map(|host| (IpAddr::from([192, 0, 2, host]), Condition::Absent));
    let standing = |legs| Standing::new(legs, BTreeSet::new(), 3);
    assert_eq!(armed.absent(&standing(&legs[..1])), [n1].into());
    assert_eq!(armed.absent(&standing(&legs)).len(), 2);
    assert_eq!(armed.absent(&standing(&[])), BTreeSet::new());
}

#[test]
fn services_without_endpoints_or_room_say_so() {
    let maps = placed(&snapshot([]), &Maps::empty(&local(0).sizes), 0).maps;
    assert_eq!(only_service(&maps).flags, service_flags::NO_ENDPOINTS);

    let snapshot = snapshot(1..=6);
    let plan = plan(&snapshot, &allocate(&snapshot), &NodeName("n0".into()), &network());
    let small = Local { sizes: Sizes { table: 512, ..local(0).sizes }, ..local(0) };
    let placed = place(&plan, &Maps::empty(&small.sizes), &small);
    assert_eq!(placed.without_room.values().collect::<Vec<_>>(), [&KernelReason::NoRoom { map: "TABLE" }]);
    assert_eq!(only_service(&placed.maps).flags, service_flags::KERNEL);
}

#[test]
fn whatever_finds_no_room_is_said() {
    let mut snapshot = snapshot(1..=6);
    snapshot.services.values_mut().map(Arc::make_mut).for_each(|web| web.l2 = Some(L2Mode::Spread));
    snapshot.services.insert(name("other"), snapshot.services[&name("web")].clone());
    let plan = plan(&snapshot, &allocate(&snapshot), &NodeName("n0".into()), &network());
    let sizes =
        Sizes { vips: 1, spread: 0, nodes: 2, sources: 1, local_ports: 1, peers: 1, ..local(0).sizes };
    let small = Local { sizes, ..local(0) };
    let placed = place(&plan, &Maps::empty(&small.sizes), &small);
    assert_eq!(placed.without_room.values().collect::<Vec<_>>(), [&KernelReason::NoRoom { map: "VIPS" }]);
    let left_out = [("LOCAL_PORTS", 1), ("NEIGHBOURS", 1), ("SOURCES", 2), ("SPREAD", 1)];
    assert_eq!(placed.left_out, left_out.into());
    let maps = placed.maps;
    let entries = [maps.vips.len(), maps.local_ports.len(), maps.sources.len(), maps.peers.len()];
    assert_eq!(entries, [1; 4]);
    let flags: Vec<u32> = maps.vips.values().map(|vip| vip.flags & vip_flags::SPREAD).collect();
    assert_eq!((flags, maps.spread.len()), (vec![0], 0), "without room it has one owner");
    assert_eq!(only_service(&maps).backend_length, 16, "the service without a VIP is not there");
}

/// A bond of the NICs 3 and 4 with two VLAN devices, which have MACs of their own.
fn bond_with_vlans() -> Network {
    let prefixes = |text: &str| text.parse().into_iter().collect();
    let bond = NodeLink { ports: [3, 4].into(), ..nic(7, [2, 0, 0, 0, 0, 0], prefixes("192.0.2.10/24")) };
    let vlan = |device, vlan, last, network| NodeLink {
        device,
        vlan,
        mac: [2, 0, 0, 0, 0, last],
        prefixes: prefixes(network),
        ..bond.clone()
    };
    let links = [
        ("bond0.100".to_owned(), vlan(20, 100, 100, "198.51.100.10/24")),
        ("bond0.200".to_owned(), vlan(21, 200, 200, "203.0.113.10/24")),
        ("bond0".to_owned(), bond),
    ];
    Network { links: links.into(), ..Network::default() }
}

#[test]
fn vlans_of_one_nic_are_segments_of_their_own_and_arrive_by_each_port_of_a_bond() {
    let snapshot = snapshot(1..=3);
    let plan = plan(&snapshot, &allocate(&snapshot), &NodeName("n0".into()), &bond_with_vlans());
    let Placed { maps, armed, .. } = place(&plan, &Maps::empty(&local(0).sizes), &local(0));

    let mut by_vlan: BTreeMap<u32, BTreeMap<u32, Link>> = BTreeMap::new();
    for (key, link) in &maps.links {
        by_vlan.entry(key.vlan).or_default().insert(key.ifindex, *link);
    }
    let mut segments = BTreeSet::new();
    for (vlan, last) in [(0, 0), (100, 100), (200, 200)] {
        let links = &by_vlan[&vlan];
        assert_eq!(links.keys().copied().collect::<Vec<_>>(), [3, 4, 7], "VLAN {vlan}");
        let values: BTreeSet<(u16, Mac)> = links.values().map(|link| (link.segment, link.mac)).collect();
        let [(segment, mac)] = Vec::from_iter(values)[..] else { panic!("VLAN {vlan} is in two segments") };
        assert_eq!(mac, [2, 0, 0, 0, 0, last].into());
        segments.insert(segment);
    }
    assert_eq!(segments.len(), 3);

    // What is sent goes out by the VLAN device; what is heard on any port is heard on the VLAN device.
    for (name, device, last) in [("bond0", 7, 0), ("bond0.100", 20, 100), ("bond0.200", 21, 200)] {
        let segment = armed.segments.values().find(|segment| segment.name == name);
        let Some(segment) = segment else { panic!("{name} is no segment") };
        let link =
            ArmedLink { mac: [2, 0, 0, 0, 0, last].into(), asks_from: None, arrivals: [3, 4, 7].into() };
        assert_eq!(segment.links, [(device, link)].into());
        assert_eq!(
            [3, 4, 7, 20].map(|arrival| segment.link_of(arrival)),
            [Some(device), Some(device), Some(device), None]
        );
    }
}

#[test]
fn a_segment_keeps_its_number_when_another_vlan_comes() {
    let snapshot = snapshot(1..=3);
    let place_with = |network: &Network, current: &Maps| {
        let plan = plan(&snapshot, &allocate(&snapshot), &NodeName("n0".into()), network);
        place(&plan, current, &local(0)).maps
    };
    let mut network = bond_with_vlans();
    let first = network.links.remove("bond0.100");
    let before = place_with(&network, &Maps::empty(&local(0).sizes));
    network.links.extend(first.map(|link| ("bond0.100".to_owned(), link)));
    let after = place_with(&network, &before);
    assert_eq!(after.links.len(), 9);
    for (key, link) in &before.links {
        assert_eq!(after.links.get(key), Some(link));
    }
}

#[test]
fn links_of_more_segments_than_there_can_be_are_said_to_be_left_out() {
    let snapshot = snapshot(1..=3);
    let mut network = network();
    for number in 1..MAX_SEGMENTS + 3 {
        let prefixes = format!("198.51.{number}.10/24").parse().into_iter().collect();
        let link = nic(7 + number, [2, 0, 0, 0, 1, number as u8], prefixes);
        network.links.insert(format!("eth{number}"), link);
    }
    let plan = plan(&snapshot, &allocate(&snapshot), &NodeName("n0".into()), &network);
    let Placed { maps, armed, left_out, .. } = place(&plan, &Maps::empty(&local(0).sizes), &local(0));
    assert_eq!(left_out, [(SEGMENTS, 3)].into());
    assert_eq!((maps.links.len(), armed.segments.len()), (32, 32));
}

#[test]
fn a_node_asks_from_its_link_local_address_or_another_that_is_no_vip() {
    let snapshot = snapshot(1..=3);
    for (prefixes, expected) in [
        (vec!["192.0.2.10/24"], None),
        (vec!["192.0.2.10/24", "2001:db8::10/64"], Some("2001:db8::10")),
        (vec!["192.0.2.10/24", "2001:db8::10/64", "fe80::10/64"], Some("fe80::10")),
        (vec!["192.0.2.10/24", "2001:db8::66/64"], None),
    ] {
        let mut network = network();
        let parsed = prefixes.iter().filter_map(|prefix| prefix.parse().ok());
        network.links.values_mut().for_each(|link| link.prefixes = parsed.clone().collect());
        let mut plan = plan(&snapshot, &allocate(&snapshot), &NodeName("n0".into()), &network);
        let vip = plan.vips.values().next().cloned();
        plan.vips.extend("2001:db8::66".parse().ok().zip(vip));
        let armed = place(&plan, &Maps::empty(&local(0).sizes), &local(0)).armed;
        let expected = expected.and_then(|address| address.parse().ok());
        assert_eq!(armed.segments[&0].links[&7].asks_from, expected, "{prefixes:?}");
    }
}

#[test]
fn a_link_for_which_there_is_no_room_has_no_entry_at_all() {
    let snapshot = snapshot(1..=3);
    let plan = plan(&snapshot, &allocate(&snapshot), &NodeName("n0".into()), &bond_with_vlans());
    let sizes = Sizes { links: 7, ..local(0).sizes };
    let Placed { maps, armed, left_out, .. } =
        place(&plan, &Maps::empty(&sizes), &Local { sizes, ..local(0) });
    assert_eq!((maps.links.len(), armed.segments.len()), (6, 2));
    assert_eq!(left_out, [("LINKS", 3)].into());
}

/// The same cluster, of which this is another node.
fn placed_on(number: u8, snapshot: &Snapshot, standing: Standing) -> Placed {
    let prefixes = format!("192.0.2.{}/24", 10 + number).parse().into_iter().collect();
    let link = nic(7, [2, 0, 0, 0, 0, number], prefixes);
    let network = Network { links: [("eth0".to_owned(), link)].into(), ..Network::default() };
    let plan = plan(snapshot, &allocate(snapshot), &NodeName(format!("n{number}").into()), &network);
    place(&plan, &Maps::empty(&local(0).sizes), &Local { standing, ..local(0) })
}

#[test]
fn a_vip_is_spread_if_the_service_says_so_or_else_all_of_its_advertisements_that_say_anything() {
    use L2Mode::{Owner, Spread};
    for (service, first, second, expected) in [
        (None, None, None, false),
        (Some(Spread), None, None, true),
        (Some(Owner), Some(Spread), None, false),
        (Some(Spread), Some(Owner), None, true),
        (None, Some(Spread), None, true),
        (None, Some(Spread), Some(Owner), false),
    ] {
        let mut snapshot = snapshot(1..=6);
        snapshot.services.values_mut().map(Arc::make_mut).for_each(|web| web.l2 = service);
        for (name, l2) in [("all", first), ("again", second)] {
            let advertisement = L2Advertisement { l2, ..L2Advertisement::default() };
            snapshot.l2_advertisements.insert(name.to_owned(), advertisement);
        }
        let maps = placed(&snapshot, &Maps::empty(&local(0).sizes), 0).maps;
        let is_spread = maps.vips.values().all(|vip| vip.flags & vip_flags::SPREAD != 0);
        assert_eq!(is_spread, expected, "{service:?} {first:?} {second:?}");
        assert_eq!(maps.spread.len(), usize::from(expected));
    }
}

#[test]
fn nodes_divide_the_shares_of_a_spread_vip_and_take_those_of_the_dead() {
    let mut snapshot = snapshot(1..=6);
    snapshot.services.values_mut().map(Arc::make_mut).for_each(|web| web.l2 = Some(L2Mode::Spread));
    let dead: Leg = Ipv4Addr::new(192, 0, 2, 11).into();
    let silent = Standing::new(&[(dead, Condition::Silent)], BTreeSet::new(), 3);
    for (standing, expected) in [(Standing::default(), vec![0, 1, 2]), (silent, vec![0, 2])] {
        let placed: Vec<Placed> =
            expected.iter().map(|number| placed_on(*number, &snapshot, standing.clone())).collect();
        let mut seen = Spread::default();
        for placed in &placed {
            let vips: Vec<&Vip> = placed.maps.vips.values().collect();
            assert_eq!(vips.iter().map(|vip| (vip.announced, vip.owned)).collect::<Vec<_>>(), [(1, 1)]);
            let Some(own) = placed.maps.spread.values().next() else { panic!("no shares") };
            for (seen, own) in seen.words.iter_mut().zip(own.words) {
                assert_eq!(*seen & own, 0);
                *seen |= own;
            }
            let vip = Addr::from(IpAddr::from([192, 0, 2, 100]));
            assert_eq!(placed.armed.owners(vip, &standing), BTreeMap::new(), "nobody alone");
            let counts = placed.armed.share_counts(vip, &standing).remove(&0).unwrap_or_default();
            let own_leg = placed.armed.segments[&0].own.unwrap_or(dead);
            assert_eq!(counts.len(), 3, "who has none is counted too");
            assert_eq!(counts.values().sum::<u32>(), SHARES);
            assert_eq!(counts[&own_leg], own.count());
        }
        assert_eq!(seen.count(), SHARES);
    }
}

#[test]
fn nodes_that_are_preferred_divide_the_shares_among_themselves() {
    let mut snapshot = snapshot(1..=6);
    snapshot.services.values_mut().map(Arc::make_mut).for_each(|web| web.l2 = Some(L2Mode::Spread));
    let key = "edge".to_owned();
    for number in [1, 2] {
        if let Some(node) = snapshot.nodes.get_mut(&NodeName(format!("n{number}").into())) {
            node.labels = [(key.clone(), String::new())].into();
        }
    }
    let edge = Selector { requirements: vec![Requirement { key, operator: Operator::Exists }] };
    let preferred = PreferredNodes::new(10, edge).into_iter().collect();
    snapshot
        .l2_advertisements
        .insert("all".to_owned(), L2Advertisement { preferred, ..L2Advertisement::default() });
    let leg = |number: u8| Leg::from([192, 0, 2, 10 + number]);
    let silent = [1, 2].map(|number| (leg(number), Condition::Silent));
    let half = SHARES / 2;
    for (troubled, expected) in
        [(&[][..], [0, half, half]), (&silent[..1], [0, 0, SHARES]), (&silent, [SHARES, 0, 0])]
    {
        let standing = Standing::new(troubled, BTreeSet::new(), 3);
        for number in 0..3_u8 {
            let placed = placed_on(number, &snapshot, standing.clone());
            let counts = placed.armed.share_counts(IpAddr::from([192, 0, 2, 100]).into(), &standing);
            let counts = counts.get(&0).cloned().unwrap_or_default();
            assert_eq!([0, 1, 2].map(|number| counts[&leg(number)]), expected, "{troubled:?}");
            let owned: Vec<u32> = placed.maps.vips.values().map(|vip| vip.owned).collect();
            assert_eq!(owned, [u32::from(expected[usize::from(number)] > 0)], "n{number} with {troubled:?}");
        }
    }
}

mod histories;
