//! Nodes with a second link, of which the source says nothing: a segment for VIPs, on a NIC or on a VLAN of one.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result, ensure};
use lb_agent::output::NodeStatus;
use magnetite_tests::{
    lab::{Client, Lab, WEB, frontend, pass_on, service},
    scenarios::{elsewhere::Elsewhere, traffic::Pair},
};
use serde_json::json;

use crate::{agent::Test, seen::wait};

/// Names, and what they do with a lab of their own.
pub const TESTS: &[(&str, Test)] = &[(
    "a_segment_for_vips_is_served_by_those_that_have_it",
    a_segment_for_vips_is_served_by_those_that_have_it,
)];

/// VIPs in the second segment.
const SECOND: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 200)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 3, 0, 0, 0, 0x200)),
];

/// Connects machines with an `eth1` to a switch of their own: `n1`, `n2` and `c1`, but not `n3`. The second link is that, or a VLAN
/// device on it; then `eth1` has no address.
fn connect(lab: &Lab, vlan: Option<u16>) -> Result<impl Sized + use<>> {
    let lan = lab.lan();
    lan.ip("link add vips type bridge")?;
    lan.ip("link set vips up")?;
    let nodes = lab.nodes.iter().take(2).map(|node| &node.namespace).zip(11..);
    let clients = lab.clients().iter().map(|client| &client.namespace).zip(FIRST_CLIENT..);
    for (machine, host) in nodes.chain(clients) {
        let port = format!("second{host}");
        lan.ip(&format!("link add {port} type veth peer name eth1 netns {}", machine.name()))?;
        // A wire carries tags in frames; a veth pair carries them beside.
        lan.command("ethtool", &["-K", &port, "tx", "off", "txvlan", "off"])?;
        lan.ip(&format!("link set {port} master vips up"))?;
        machine.ip("link set eth1 up")?;
        let second = second_link(vlan);
        if let Some(id) = vlan {
            machine.ip(&format!("link add link eth1 name {second} type vlan id {id}"))?;
            machine.ip(&format!("link set {second} up"))?;
        }
        machine.ip(&format!("addr add 203.0.113.{host}/24 dev {second}"))?;
        machine.ip(&format!("addr add 2001:db8:0:3::{host}/64 dev {second} nodad"))?;
    }
    pass_on(lan, ["second11", "second12"].into_iter())
}

/// By which the first of them is known there.
const FIRST_CLIENT: u8 = 101;

/// The second link.
pub fn second_link(vlan: Option<u16>) -> String {
    vlan.map_or("eth1".to_owned(), |id| format!("eth1.{id}"))
}

fn announce(lab: &Lab, second: &str) -> Result<()> {
    let of_lan = json!([{"matchLabels": {"segment": "lan"}}]);
    let object = |kind, name, spec: serde_json::Value| {
        let metadata = json!({"name": name, "namespace": "metallb-system"});
        json!({"apiVersion": "metallb.io/v1beta1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let first = json!({"ipAddressPools": ["lab"], "nodeSelectors": of_lan});
    lab.objects.put(&object("L2Advertisement", "lab", first))?;
    let second = json!({"ipAddressPools": ["second"], "nodeSelectors": of_lan, "interfaces": [second]});
    lab.objects.put(&object("L2Advertisement", "second", second))?;
    let ranges = SECOND.map(|vip| format!("{vip}-{vip}"));
    let pool = json!({"addresses": ranges, "autoAssign": false});
    lab.objects.put(&object("IPAddressPool", "second", pool))?;
    for slice in ["endpointslice-web-ipv4.json", "endpointslice-web-ipv6.json"] {
        let text = std::fs::read_to_string(lab.objects.path(slice))?.replace("\"web", "\"second");
        let mut slice: serde_json::Value = serde_json::from_str(&text)?;
        slice["endpoints"].as_array_mut().context("a slice has endpoints")?.retain(|e| e["nodeName"] != "n3");
        lab.objects.put(&slice)?;
    }
    lab.objects.put(&service("second", &SECOND, &[]))
}

/// The owner of a VIP that a node names, if nobody but `n1` and `n2` may be it: the others have no such link, or are not selected.
fn owner(status: &NodeStatus, vip: IpAddr, second: &str) -> Option<String> {
    let vip = status.vips.get(&vip.to_string())?;
    let without_link = vip.left_out.iter().find(|left_out| left_out.reason == "noAdvertisedInterface")?;
    (without_link.nodes == ["n3"] && vip.segments == [second]).then(|| vip.owner.clone()).flatten()
}

fn a_segment_for_vips_is_served_by_those_that_have_it(lab: &mut Lab) -> Result<()> {
    serve(lab, None)
}

/// Clients in the second segment reach all pods of its nodes; a node that loses its link there owns nothing there, and all that it
/// owned elsewhere.
pub fn serve(lab: &mut Lab, vlan: Option<u16>) -> Result<()> {
    let second = &second_link(vlan);
    let _connected = connect(lab, vlan)?;
    announce(lab, second)?;
    let mut owners = BTreeSet::new();
    let reach_each_other =
        |status: &NodeStatus| ["n1", "n2"].iter().all(|name| status.nodes[*name].macs.contains_key(second));
    for node in &mut lab.nodes[..2] {
        let status = node.wait("an owner and a peer in the second segment", |status| {
            SECOND.iter().all(|vip| owner(status, *vip, second).is_some()) && reach_each_other(status)
        })?;
        owners.extend(SECOND.iter().filter_map(|vip| owner(&status, *vip, second)));
    }
    ensure!(owners.len() == 1, "both of {owners:?} own them");
    let before = owners.pop_first().unwrap_or_default();
    let web = lab.owner(WEB)?;
    let clients: Vec<Client> = lab
        .clients()
        .iter()
        .zip(FIRST_CLIENT..)
        .map(|(client, host)| {
            let v4 = format!("203.0.113.{host}").parse()?;
            let v6 = format!("2001:db8:0:3::{host}").parse()?;
            Ok(Client { v4, v6, ..client.clone() })
        })
        .collect::<Result<_>>()?;
    for client in &clients {
        for vip in SECOND {
            let connections = client.connect_many(frontend(vip), 30)?;
            let nodes: BTreeSet<&str> = connections.iter().map(|opened| lab.node_of(&opened.pod)).collect();
            ensure!(nodes == ["n1", "n2"].into(), "of {vip} pods of {nodes:?} are used");
        }
        client.never_doubt(second)?;
    }
    let pairs: Vec<Pair<'_>> =
        clients.iter().flat_map(|client| SECOND.map(|vip| -> Pair<'_> { (client, vip) })).collect();
    let mut traffic = Elsewhere::begin(lab, &before, &pairs)?;

    lab.node(&before)?.namespace.ip(&format!("link set {second} down"))?;
    let after = if before == "n1" { "n2" } else { "n1" };
    let status = lab.node_mut(after)?.wait("the other owner", |status| {
        let named = |vip: &IpAddr| status.vips.get(&vip.to_string()).and_then(|vip| vip.owner.as_deref());
        SECOND.iter().all(|vip| named(vip) == Some(after))
    })?;
    ensure!(lab.owner(WEB)? == web, "the VIP of the other segment has moved");
    let mac = status.links.get(second).map(|link| link.mac.clone());
    for (client, vip) in &pairs {
        wait("the owner's announcement", || client.neighbour(*vip), |known| *known == mac)?;
    }
    traffic.settle();
    traffic.ask("taken over")?;
    traffic.end()?;
    for (client, vip) in &pairs {
        client.forget(*vip)?;
        ensure!(client.ping(*vip, 1)? == 1, "nobody answers {} for {vip}", client.name);
        ensure!(client.neighbour(*vip)? == mac, "another than {after} answers {} for {vip}", client.name);
    }
    Ok(())
}
