//! What the loaded programs count, in maps that the host does not have.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use lb_agent::dataplane;
use lb_common::{
    layout::{FlowLine, Stats, VipStats},
    spread::share_of,
};
use lb_core::maps::{Op, Sizes, StatsPlace};
use magnetite_tests::{
    fixture::{
        self, CLIENT, CLIENT4, CLIENT6, HERE, NODE, OTHER_VIP4, PEER, PEER4, SPREAD_VIP4, VIP4, VIP6,
        is_own_share,
    },
    frames::{Flags, Way, arp_request, echo_request, neighbour_solicitation, tcp},
};

use crate::{Test, machine::Machine, node::Node};

pub fn trials() -> Vec<Test> {
    vec![
        ("questions for a VIP and their answers are counted by VIP", by_vip),
        ("a place of counters begins at zero for the next that has it", cleared),
        ("what finds no place among the counters is carried and not counted", beyond),
        ("maps of the default sizes take less than 48 MiB", default_sizes),
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
        let stats = (counters.service(1)?, counters.backend(4)?);
        Ok((counters.vip(1)?, stats.0.unwrap_or_default(), stats.1.unwrap_or_default()))
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

fn beyond() -> Result<()> {
    let sizes = Sizes { vip_stats: 1, service_stats: 1, backend_stats: 1, ..fixture::sizes() };
    let mut node = Node::with(sizes)?;
    let way =
        Way { macs: (CLIENT, NODE), addresses: (CLIENT4.into(), VIP4.into()), ports: (1, HERE), ttl: 64 };
    node.arrive(&tcp(&way, Flags::SYN, &[]))?;
    let tables = node.dataplane().tables();
    ensure!(tables.conns()?.len() == 1, "it is not delivered");
    let counters = tables.counters();
    let counted = (counters.service(1)?, counters.backend(4)?);
    ensure!(counted == (None, None), "{counted:?}");
    for place in [StatsPlace::Vip(1), StatsPlace::Service(1), StatsPlace::Backend(4)] {
        node.dataplane().apply(&[Op::ClearStats(place)])?;
    }
    Ok(())
}

fn default_sizes() -> Result<()> {
    let cpus = dataplane::cpus()?;
    let sizes = Sizes::of_cpus(cpus);
    let bytes = Node::with(sizes)?.dataplane().map_bytes()?;
    ensure!(bytes < 48 << 20, "{bytes}");
    // `lb_core::maps` keeps what each CPU or queue has for itself below 17 MiB, on machines with many.
    let of_cpu = u64::from(sizes.flow_lines) * size_of::<FlowLine>() as u64
        + u64::from(sizes.service_stats + sizes.backend_stats) * size_of::<Stats>() as u64
        + u64::from(sizes.vip_stats) * size_of::<VipStats>() as u64;
    let most = bytes - u64::from(cpus) * of_cpu + (17 << 20);
    ensure!(most < 48 << 20, "{most} of many CPUs, {bytes} here");
    Ok(())
}
