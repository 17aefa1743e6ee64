//! What the loaded programs count, in maps that the host does not have.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use lb_common::{
    layout::{Stats, VipStats},
    spread::share_of,
};
use lb_core::maps::{Op, StatsPlace};
use magnetite_tests::{
    fixture::{
        CLIENT, CLIENT4, CLIENT6, HERE, NODE, OTHER_VIP4, PEER, PEER4, SPREAD_VIP4, VIP4, VIP6, is_own_share,
    },
    frames::{Flags, Way, arp_request, echo_request, neighbour_solicitation, tcp},
};

use crate::{Test, machine::Machine, node::Node};

pub fn trials() -> Vec<Test> {
    vec![
        ("questions for a VIP and their answers are counted by VIP", by_vip),
        ("a place of counters begins at zero for the next that has it", cleared),
    ]
}

/// Places in `VIP_STATS` of the fixture's VIPs.
const PLACES: [u32; 5] = [0, 1, 2, 3, 4];

fn by_vip() -> Result<()> {
    let mut node = Node::new()?;
    let way = Way { macs: (CLIENT, NODE), addresses: (CLIENT4.into(), VIP4.into()), ports: (1, 1), ttl: 64 };
    let frames = [
        arp_request(CLIENT, CLIENT4, VIP4),
        arp_request(PEER, PEER4, VIP4),
        neighbour_solicitation(CLIENT, CLIENT6, VIP6, true),
        arp_request(CLIENT, CLIENT4, OTHER_VIP4),
        // Neither asks for a VIP, whatever becomes of it.
        arp_request(PEER, VIP4, VIP4),
        arp_request(CLIENT, CLIENT4, PEER4),
        echo_request(&way, b"echo"),
    ];
    for frame in &frames {
        node.arrive(frame)?;
    }
    // Of a VIP that is spread over nodes, each client asks for a share.
    let clients = (1..=30).map(|host| Ipv4Addr::new(198, 51, 100, host));
    let mut own = 0;
    for client in clients {
        own += u64::from(is_own_share(share_of(&SPREAD_VIP4.into(), &client.into())));
        node.arrive(&arp_request(CLIENT, client, SPREAD_VIP4))?;
    }
    let counters = node.dataplane().tables().counters();
    let counted = PLACES.into_iter().map(|place| counters.vip(place)).collect::<Result<Vec<_>, _>>()?;
    ensure!(own > 0 && own < 30, "{own} of 30 clients are this node's");
    let expected = [(0, 0, 0), (2, 2, 0), (1, 1, 0), (0, 0, 1), (own, own, 30 - own)];
    let expected = expected.map(|(requests, answers, left)| VipStats { requests, answers, left });
    ensure!(counted == expected, "{counted:?}");
    Ok(())
}

fn cleared() -> Result<()> {
    let mut node = Node::new()?;
    node.arrive(&arp_request(CLIENT, CLIENT4, VIP4))?;
    let way =
        Way { macs: (CLIENT, NODE), addresses: (CLIENT4.into(), VIP4.into()), ports: (1, HERE), ttl: 64 };
    node.arrive(&tcp(&way, Flags::SYN, &[]))?;
    // The fixture's first service, and its first backend.
    let places = [StatsPlace::Vip(1), StatsPlace::Service(1), StatsPlace::Backend(4)];
    let counted = |node: &mut Node| -> Result<(VipStats, Stats, Stats)> {
        let counters = node.dataplane().tables().counters();
        Ok((counters.vip(1)?, counters.service(1)?, counters.backend(4)?))
    };
    let (vip, service, backend) = counted(&mut node)?;
    ensure!(
        [vip.requests, service.new_flows, backend.new_flows] == [1; 3],
        "{vip:?} {service:?} {backend:?}"
    );
    for place in places {
        node.dataplane().apply(&[Op::ClearStats(place)])?;
    }
    let counted = counted(&mut node)?;
    ensure!(counted == Default::default(), "{counted:?}");
    Ok(())
}
