//! What a pass has made of things, by the names that metrics have for them and the places at which the programs count.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lb_common::layout::backend_state;
use lb_core::{
    armed::Armed,
    liveness::{Leg, Standing},
    maps::Maps,
    model::{NodeName, ObjectName, Protocol},
    place::{Placed, service_key},
    plan::{Frontend, Plan},
};

use super::SourceFacts;
use crate::output::{DrainStatus, Outcome, Owned};

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
    pub services: Vec<Arc<ServiceFacts>>,
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
    /// The Service.
    pub service: ObjectName,
    /// The VIP.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Place in `SERVICE_STATS`.
    pub place: u32,
    /// Its backends, those that are gone and not yet forgotten among them.
    pub backends: Box<[BackendFacts]>,
}

/// A backend of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendFacts {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Its node, with an empty name if it has none.
    pub node: NodeName,
    /// Place in `BACKEND_STATS`.
    pub place: u32,
}

/// Ports of Services that the data path knows, by what was planned and placed.
pub fn services<'a>(
    plan: &'a Plan,
    placed: &'a Placed,
    frontends: impl Iterator<Item = &'a Frontend>,
) -> impl Iterator<Item = (Frontend, Arc<ServiceFacts>)> {
    let (maps, nodes) = (&placed.maps, placed.nodes());
    let nobody = NodeName("".into());
    frontends.filter_map(move |frontend| {
        let planned = plan.services.get(frontend)?;
        let service = maps.services.get(&service_key(frontend))?;
        let block = service.backend_offset..service.backend_offset + service.backend_length;
        let backends = block.filter_map(|place| {
            let backend = maps.backends.get(place as usize)?;
            (backend.state != backend_state::FREE).then(|| BackendFacts {
                address: backend.address.to_ip(),
                port: backend.port.number(),
                node: nodes.get(&backend.node).copied().unwrap_or(&nobody).clone(),
                place,
            })
        });
        let facts = ServiceFacts {
            service: planned.service.clone(),
            ip: frontend.address,
            port: frontend.port.get(),
            protocol: frontend.protocol,
            place: service.id.index(),
            backends: backends.collect(),
        };
        Some((*frontend, Arc::new(facts)))
    })
}

/// Addresses that are announced somewhere, with their places in `VIP_STATS`.
pub fn vips(maps: &Maps) -> Vec<(IpAddr, u32)> {
    let counted = maps.vips.iter().filter(|(_, vip)| vip.stats != 0);
    counted.map(|(address, vip)| (address.to_ip(), vip.stats)).collect()
}

impl Facts {
    /// By what a pass has come to, without what [`services()`] and [`vips()`] say.
    pub fn of(outcome: &Outcome<'_>, owned: &Owned) -> Self {
        let Outcome { plan, armed, standing, settled, left_out, .. } = *outcome;
        let announced = owned.iter().flat_map(|(service, addresses)| {
            addresses.keys().map(move |address| (service.to_string(), *address))
        });
        let legs = armed.segments.values().flat_map(|segment| {
            segment.legs.iter().map(|(leg, node)| (*leg, (node.to_string(), segment.name.clone())))
        });
        Self {
            node: plan.node.to_string(),
            announced: announced.collect(),
            segments: armed.segments.iter().map(|(place, segment)| (*place, segment.name.clone())).collect(),
            shares: shares(armed, standing),
            legs: legs.collect(),
            problems: settled.problems.len() + left_out.len(),
            ..Self::default()
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
