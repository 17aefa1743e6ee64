//! What a pass has made of things, by the names that metrics have for them and the places at which the programs count.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_api::Settled;
use lb_common::layout::{Backend, ServiceKey, backend_state, name_kind};
use lb_core::{
    armed::Armed,
    liveness::{Leg, Standing},
    maps::Maps,
    place::{Placed, name_text, service_key},
    plan::Plan,
};

use super::SourceFacts;
use crate::output::{DrainStatus, Owned};

/// What a pass has made of things, as nodes stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// This node.
    pub node: String,
    /// Addresses that are announced somewhere, with their places in `VIP_STATS`.
    pub vips: Vec<(IpAddr, u32)>,
    /// Services that this node answers for, each with one of its addresses.
    pub announced: Vec<(String, IpAddr)>,
    /// Ports of Services that the data path knows.
    pub services: Vec<ServiceFacts>,
    /// Names of segments, by their places in [`lb_core::armed::Armed::segments`].
    pub segments: BTreeMap<u16, String>,
    /// Shares of clients that nodes answer, of VIPs that are spread over nodes.
    pub shares: Vec<ShareFacts>,
    /// Node and segment of each leg.
    pub legs: BTreeMap<Leg, (String, String)>,
    /// Bytes of all maps.
    pub map_bytes: u64,
    /// What is wrong with the source, and what found no room.
    pub problems: usize,
    /// How far this node has come, if it leaves on purpose.
    pub drain: Option<DrainStatus>,
    /// How objects are heard of.
    pub source: SourceFacts,
}

/// What a node answers of a VIP that is spread over nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareFacts {
    /// The VIP.
    pub ip: IpAddr,
    /// The segment.
    pub segment: String,
    /// The node.
    pub node: String,
    /// Shares of the clients, of 1,024.
    pub shares: u32,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Namespace and name.
    pub service: String,
    /// The VIP.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Place in `SERVICE_STATS`.
    pub place: u32,
    /// Its backends, those that are gone and not yet forgotten among them.
    pub backends: Vec<BackendFacts>,
}

/// A backend of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendFacts {
    /// Address and port.
    pub address: SocketAddr,
    /// Its node, empty if it has none.
    pub node: String,
    /// Place in `BACKEND_STATS`.
    pub place: u32,
}

impl Facts {
    /// By what was planned and placed.
    pub fn of(
        plan: &Plan,
        placed: &Placed,
        standing: &Standing,
        settled: &Settled,
        owned: &Owned,
        map_bytes: u64,
    ) -> Self {
        let vips = placed.maps.vips.iter().filter(|(_, vip)| vip.stats != 0);
        let announced = owned.iter().flat_map(|(service, addresses)| {
            addresses.keys().map(move |address| (service.to_string(), *address))
        });
        let services = plan.services.iter().filter_map(|(frontend, planned)| {
            let key: ServiceKey = service_key(frontend);
            let service = placed.maps.services.get(&key)?;
            let block = service.backend_offset..service.backend_offset + service.backend_length;
            let backends = block.filter_map(|place| {
                let backend = placed.maps.backends.get(place as usize)?;
                (backend.state != backend_state::FREE).then(|| backend_facts(&placed.maps, backend, place))
            });
            Some(ServiceFacts {
                service: planned.service.to_string(),
                ip: frontend.address,
                port: frontend.port.get(),
                protocol: frontend.protocol.to_string(),
                place: service.id.index(),
                backends: backends.collect(),
            })
        });
        let legs = placed.armed.segments.values().flat_map(|segment| {
            segment.legs.iter().map(|(leg, node)| (*leg, (node.to_string(), segment.name.clone())))
        });
        Self {
            node: plan.node.to_string(),
            vips: vips.map(|(address, vip)| (address.to_ip(), vip.stats)).collect(),
            announced: announced.collect(),
            services: services.collect(),
            segments: placed
                .armed
                .segments
                .iter()
                .map(|(place, segment)| (*place, segment.name.clone()))
                .collect(),
            shares: shares(&placed.armed, standing),
            legs: legs.collect(),
            map_bytes,
            problems: settled.problems.len() + placed.left_out.len(),
            drain: None,
            source: SourceFacts::default(),
        }
    }
}

fn shares(armed: &Armed, standing: &Standing) -> Vec<ShareFacts> {
    let mut shares = Vec::new();
    for address in armed.vips.iter().filter(|(_, vip)| !vip.tables.is_empty()).map(|(address, _)| address) {
        for (place, counts) in armed.share_counts(*address, standing) {
            let Some(segment) = armed.segments.get(&place) else { continue };
            shares.extend(counts.into_iter().filter_map(|(leg, count)| {
                let node = segment.node_of(leg)?.to_string();
                let (ip, segment) = (address.to_ip(), segment.name.clone());
                Some(ShareFacts { ip, segment, node, shares: count })
            }));
        }
    }
    shares
}

fn backend_facts(maps: &Maps, backend: &Backend, place: u32) -> BackendFacts {
    let key = lb_common::layout::NameKey { kind: name_kind::NODE, index: u32::from(backend.node) };
    let node = maps.names.get(&key).and_then(name_text).unwrap_or_default();
    BackendFacts {
        address: SocketAddr::new(backend.address.to_ip(), backend.port.number()),
        node: node.to_owned(),
        place,
    }
}
