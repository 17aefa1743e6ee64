//! From the kernel's list of interfaces to the links that carry a network of nodes.

use std::collections::{BTreeMap, BTreeSet};

use lb_core::model::NodeLink;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    VlanProtocol,
};

/// Links by name, without addresses: NICs, bonds, and VLAN devices on them. What carries no network of nodes is none: loopback,
/// tunnels, bridges, ports of bridges.
///
/// A VLAN device is served by programs on the device below. One of IEEE 802.1ad is none, for the data path leaves its frames to the
/// kernel; nor is one with the id 0, whose frames are those of the device below.
pub(super) fn links(messages: &[LinkMessage]) -> BTreeMap<String, NodeLink> {
    let interfaces: BTreeMap<u32, Interface<'_>> = messages.iter().filter_map(Interface::read).collect();
    let mut ports: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for (ifindex, interface) in &interfaces {
        if let Some(controller) = interface.controller {
            ports.entry(controller).or_default().insert(*ifindex);
        }
    }
    let nic = |ifindex: u32| {
        let nic = interfaces.get(&ifindex).filter(|nic| nic.is_nic())?;
        let ports = ports.get(&ifindex).cloned().unwrap_or_default();
        let (mac, mtu, prefixes) = (nic.mac?, nic.mtu, BTreeSet::new());
        Some(NodeLink { ifindex, device: ifindex, ports, vlan: 0, mac, mtu, prefixes })
    };
    let link = |(device, interface): (&u32, &Interface<'_>)| {
        let link = match interface.kind {
            Kind::Nic => nic(*device)?,
            Kind::Vlan { below, vlan } if interface.is_used() => {
                NodeLink { device: *device, vlan, mac: interface.mac?, ..nic(below)? }
            }
            Kind::Vlan { .. } | Kind::Other => return None,
        };
        Some((interface.name.to_owned(), link))
    };
    interfaces.iter().filter_map(link).collect()
}

/// What is read of an interface.
struct Interface<'a> {
    name: &'a str,
    is_up: bool,
    mac: Option<[u8; 6]>,
    mtu: u32,
    /// The bond, bridge or VRF of which it is a port.
    controller: Option<u32>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Or what looks like one to programs: the end of a veth pair, a bond.
    Nic,
    Vlan {
        below: u32,
        vlan: u16,
    },
    Other,
}

impl<'a> Interface<'a> {
    /// With its index.
    fn read(message: &'a LinkMessage) -> Option<(u32, Self)> {
        let mut interface = Self {
            name: "",
            is_up: message.header.flags.contains(LinkFlags::Up),
            mac: None,
            mtu: 0,
            controller: None,
            kind: Kind::Nic,
        };
        let (mut below, mut is_below_elsewhere, mut infos) = (None, false, &[][..]);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name = name,
                LinkAttribute::Address(mac) => interface.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
                LinkAttribute::Controller(ifindex) => interface.controller = Some(*ifindex),
                LinkAttribute::Link(ifindex) => below = Some(*ifindex),
                LinkAttribute::LinkNetNsId(_) => is_below_elsewhere = true,
                LinkAttribute::LinkInfo(all) => infos = all,
                _ => {}
            }
        }
        interface.kind = if message.header.link_layer_type == LinkLayerType::Ether {
            // The number of a device in another namespace means nothing here.
            kind(infos, below.filter(|_| !is_below_elsewhere))
        } else {
            Kind::Other
        };
        (!interface.name.is_empty()).then_some((message.header.index, interface))
    }

    fn is_used(&self) -> bool {
        self.is_up && self.controller.is_none()
    }

    fn is_nic(&self) -> bool {
        self.is_used() && matches!(self.kind, Kind::Nic)
    }
}

fn kind(infos: &[LinkInfo], below: Option<u32>) -> Kind {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        None | Some(InfoKind::Veth | InfoKind::Bond) => Kind::Nic,
        Some(InfoKind::Vlan) => {
            below.zip(vlan_id(infos)).map_or(Kind::Other, |(below, vlan)| Kind::Vlan { below, vlan })
        }
        Some(_) => Kind::Other,
    }
}

/// The id of an IEEE 802.1Q VLAN that is not that of frames without a tag.
fn vlan_id(infos: &[LinkInfo]) -> Option<u16> {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let mut id = None;
    // Kernels before 3.10 do not say it, and know no other.
    let mut is_customer = true;
    for attribute in data {
        match attribute {
            InfoVlan::Id(vlan) => id = Some(*vlan),
            InfoVlan::Protocol(protocol) => is_customer = *protocol == VlanProtocol::Ieee8021Q,
            _ => {}
        }
    }
    id.filter(|vlan| is_customer && *vlan != 0)
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    /// An Ethernet interface that is up, whose MAC ends with its index.
    fn interface(index: u32, name: &str, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up;
        let mac = vec![2, 0, 0, 0, 0, index as u8];
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac),
            LinkAttribute::Mtu(9000),
        ];
        message.attributes.extend(attributes);
        message
    }

    fn of_kind(kind: InfoKind) -> LinkAttribute {
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])
    }

    fn vlan(index: u32, name: &str, below: u32, data: Vec<InfoVlan>) -> LinkMessage {
        let infos = vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(data))];
        let attributes =
            vec![LinkAttribute::Mtu(1500), LinkAttribute::Link(below), LinkAttribute::LinkInfo(infos)];
        interface(index, name, attributes)
    }

    fn tagged(id: u16) -> Vec<InfoVlan> {
        vec![InfoVlan::Protocol(VlanProtocol::Ieee8021Q), InfoVlan::Id(id)]
    }

    fn names(messages: &[LinkMessage]) -> Vec<String> {
        links(messages).into_keys().collect()
    }

    #[test]
    fn a_vlan_device_is_a_link_of_its_own_whose_frames_arrive_by_the_device_below() {
        let port = |index, name| interface(index, name, vec![LinkAttribute::Controller(7)]);
        let messages = [
            vlan(20, "bond0.100", 7, tagged(100)),
            interface(7, "bond0", vec![of_kind(InfoKind::Bond)]),
            port(3, "eth0"),
            port(4, "eth1"),
            interface(8, "eth2", vec![]),
            vlan(21, "storage", 8, tagged(200)),
        ];
        let link = |ifindex, device: u32, ports: &[u32], vlan| NodeLink {
            ifindex,
            device,
            ports: ports.iter().copied().collect(),
            vlan,
            mac: [2, 0, 0, 0, 0, device as u8],
            mtu: 9000,
            prefixes: BTreeSet::new(),
        };
        let expected = [
            ("bond0".to_owned(), link(7, 7, &[3, 4], 0)),
            ("bond0.100".to_owned(), link(7, 20, &[3, 4], 100)),
            ("eth2".to_owned(), link(8, 8, &[], 0)),
            ("storage".to_owned(), link(8, 21, &[], 200)),
        ];
        assert_eq!(links(&messages), expected.into());
    }

    #[test]
    fn what_frames_of_the_data_path_cannot_be_told_from_is_no_link() {
        let eth0 = || interface(2, "eth0", vec![]);
        let provider = vec![InfoVlan::Id(100), InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)];
        assert_eq!(names(&[eth0(), vlan(20, "ad", 2, provider)]), ["eth0"], "802.1ad");
        assert_eq!(names(&[eth0(), vlan(20, "priority", 2, tagged(0))]), ["eth0"], "id 0");
        assert_eq!(names(&[eth0(), vlan(20, "none", 2, vec![])]), ["eth0"], "no id");
        let twice = [eth0(), vlan(20, "once", 2, tagged(1)), vlan(21, "twice", 20, tagged(2))];
        assert_eq!(names(&twice), ["eth0", "once"], "a tag in a tag");
        let mut elsewhere = vlan(20, "elsewhere", 2, tagged(1));
        elsewhere.attributes.push(LinkAttribute::LinkNetNsId(0));
        assert_eq!(names(&[eth0(), elsewhere]), ["eth0"], "the device below is in another namespace");
    }

    #[test]
    fn a_vlan_device_needs_a_nic_below_that_is_up_and_nobodys_port() {
        let above = |below| [below, vlan(20, "vlan", 2, tagged(100))];
        let mut down = interface(2, "eth0", vec![]);
        down.header.flags = LinkFlags::empty();
        let mut not_ethernet = interface(2, "tun0", vec![]);
        not_ethernet.header.link_layer_type = LinkLayerType::Ipgre;
        let nothing: [&str; 0] = [];
        for (below, what) in [
            (down, "down"),
            (interface(2, "eth0", vec![LinkAttribute::Controller(9)]), "a port"),
            (interface(2, "br0", vec![of_kind(InfoKind::Bridge)]), "a bridge"),
            (not_ethernet, "a tunnel"),
            (interface(3, "eth0", vec![LinkAttribute::Controller(9)]), "not there"),
        ] {
            assert_eq!(names(&above(below)), nothing, "{what}");
        }
        let pair = above(interface(2, "eth0", vec![of_kind(InfoKind::Veth), LinkAttribute::LinkNetNsId(0)]));
        assert_eq!(names(&pair), ["eth0", "vlan"]);
        let [below, mut bridged] = above(interface(2, "eth0", vec![]));
        bridged.attributes.push(LinkAttribute::Controller(9));
        assert_eq!(names(&[below, bridged]), ["eth0"], "the VLAN device is a port itself");
    }
}
