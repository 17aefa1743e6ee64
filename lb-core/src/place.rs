//! From names to indexes: a plan becomes the contents of maps, with everything that lives keeping its place.

mod links;
mod nodes;
mod room;
mod services;
mod shares;
mod update;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
    ops::Range,
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::{
    hash::HashKey,
    layout::{
        ALGORITHM_VERSION, Addr, Backend, Config, LocalPort, LocalPortKey, NO_NODE, Name, Port, Service,
        ServiceKey, Source, SourceKey, Vip, backend_state, service_flags, vip_flags,
    },
    packet::protocol,
};

use crate::{
    armed::{Armed, ArmedVip},
    few::Few,
    kept::AllCarriers,
    liveness::{Leg, PROBE_PORT, Standing},
    maps::{Maps, Sizes},
    model::NodeName,
    ownership::Ranking,
    plan::{Frontend, KernelReason, Plan},
    rows::row_key,
};

/// Seconds for which the index of a gone backend rests before it is given again.
pub const REST: u32 = 600;

/// Stands for the bound on segments among the maps that are full ([`Placed::left_out`]): no size of a map raises it.
pub const SEGMENTS: &str = "segments";

/// What a plan does not say.
#[derive(Clone, Debug)]
pub struct Local {
    /// Sizes of the maps.
    pub sizes: Sizes,
    /// [`Config::flow_key`]: random.
    pub flow_key: HashKey,
    /// [`Config::flow_queues`].
    pub flow_queues: u32,
    /// [`Config::tick_shift`].
    pub tick_shift: u32,
    /// Seconds since boot.
    pub now: u32,
    /// How nodes stand.
    pub standing: Standing,
    /// Somebody else decides when this node begins to own a VIP: entries only lose owner bits.
    pub is_watched: bool,
}

/// Contents of the maps, and what found no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The contents.
    pub maps: Maps,
    /// Services that are left to the kernel for want of room.
    pub without_room: BTreeMap<Frontend, KernelReason>,
    /// What else found no room, by map: how many entries are left out; and links, by [`SEGMENTS`].
    pub left_out: BTreeMap<&'static str, usize>,
    /// The part that changes with the liveness of nodes.
    pub armed: Arc<Armed>,
    /// On which nodes each service has its backends.
    pub carriers: AllCarriers,
    /// Indexes of nodes.
    nodes: BTreeMap<NodeName, u16>,
    /// Numbers of segments.
    segments: BTreeMap<String, u16>,
}

impl Placed {
    /// Forgets rows and names, which are in the maps by now and are most of what there is: [`Previous`] does not need them.
    pub fn forget_written(&mut self) {
        self.maps.rows.clear();
        self.maps.names.clear();
    }

    /// Nodes by their indexes.
    pub fn nodes(&self) -> BTreeMap<u16, &NodeName> {
        self.nodes.iter().map(|(node, index)| (*index, node)).collect()
    }
}

/// What was placed last, and is in the maps.
#[derive(Clone, Copy, Debug)]
pub struct Previous<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Where it was placed. Its rows and names need not be known any more.
    pub placed: &'a Placed,
}

/// Finds places for a plan. What `current` holds of the same things stays where it is. Of services that are as they were in the
/// previous plan no rows are built: they are where they were.
pub fn place(plan: &Plan, current: &Maps, local: &Local, previous: Option<Previous<'_>>) -> Placed {
    let mut placer = Placer {
        plan,
        current,
        local,
        previous,
        maps: Maps { backends: current.backends.clone(), ..Maps::empty(&local.sizes) },
        nodes: BTreeMap::new(),
        segments: BTreeMap::new(),
        without_room: BTreeMap::new(),
        left_out: BTreeMap::new(),
        armed: Arc::default(),
        carriers: AllCarriers::default(),
    };
    placer.place_links();
    placer.place_nodes();
    placer.place_sources();
    placer.place_config();
    placer.place_services();
    placer.place_carriers();
    placer.place_probes();
    placer.place_vips();
    placer.place_shares();
    placer.place_local_ports();
    placer.bound_peers();
    let vips = placer.armed.vips(&local.standing).map(|(address, vip)| {
        let owned_now = current.vips.get(&address).map_or(0, |vip| vip.owned);
        let owned = if local.is_watched { vip.owned & owned_now } else { vip.owned };
        (address, Vip { owned, ..vip })
    });
    placer.maps.vips = vips.collect();
    placer.maps.spread = placer.armed.spread(&local.standing).collect();
    for (place, neighbour) in placer.armed.neighbours(&local.standing) {
        placer.maps.neighbours[place as usize] = neighbour;
    }
    placer.placed()
}

struct Placer<'a> {
    plan: &'a Plan,
    current: &'a Maps,
    local: &'a Local,
    previous: Option<Previous<'a>>,
    maps: Maps,
    nodes: BTreeMap<NodeName, u16>,
    segments: BTreeMap<String, u16>,
    without_room: BTreeMap<Frontend, KernelReason>,
    left_out: BTreeMap<&'static str, usize>,
    /// Nobody else has it while everything is placed; other endpoints change nothing in it.
    armed: Arc<Armed>,
    carriers: AllCarriers,
}

impl Placer<'_> {
    fn placed(self) -> Placed {
        let Self { maps, without_room, left_out, armed, carriers, nodes, segments, .. } = self;
        Placed { maps, without_room, left_out, armed, carriers, nodes, segments }
    }

    /// How many of so many entries a map has room for; the rest is left out, and said.
    fn room(&mut self, map: &'static str, size: u32, wanted: usize) -> usize {
        let room = size as usize;
        if wanted > room {
            *self.left_out.entry(map).or_default() += wanted - room;
        }
        room
    }

    fn place_sources(&mut self) {
        let room = self.room("SOURCES", self.local.sizes.sources, self.plan.own.len());
        for network in self.plan.own.iter().take(room) {
            let bits = match network {
                IpNet::V4(v4) => 96 + u32::from(v4.prefix_len()),
                IpNet::V6(v6) => u32::from(v6.prefix_len()),
            };
            let address = Addr::from(network.network());
            self.maps
                .sources
                .insert(SourceKey { prefix_length: 32 + bits, service: 0, address }, Source { allow: 1 });
        }
    }

    fn place_config(&mut self) {
        // The key of `FLOWS` lives as long as the map does.
        let known = &self.current.config;
        let flow_key = if known.algorithm == 0 { self.local.flow_key } else { known.flow_key };
        self.maps.config = Config {
            flow_key,
            row_key: row_key(self.plan.cluster_uid.as_deref()),
            node: self.nodes.get(&self.plan.node).map_or(u32::from(NO_NODE), |node| u32::from(*node)),
            algorithm: ALGORITHM_VERSION,
            flow_lines: self.local.sizes.flow_lines,
            tick_shift: self.local.tick_shift,
            udp_idle: 120,
            udp_unanswered_idle: 30,
            closing_idle: 10,
            echo_limit: 1000,
            flow_queues: self.local.flow_queues,
            pad: 0,
        };
    }

    /// This node's addresses, at which probes of other nodes are answered.
    fn place_probes(&mut self) {
        let left = self.local.sizes.services.saturating_sub(self.maps.services.len() as u32);
        let room = self.room("SERVICES", left, self.plan.probed.len());
        for address in self.plan.probed.iter().take(room) {
            let key = ServiceKey {
                address: (*address).into(),
                port: Port::new(PROBE_PORT),
                protocol: protocol::UDP,
                pad: 0,
            };
            self.maps.services.insert(key, Service { flags: service_flags::PROBE, ..Service::default() });
        }
    }

    fn place_vips(&mut self) {
        // What is to go is still counted.
        let taken: BTreeSet<u32> = self.current.vips.values().map(|vip| vip.stats).collect();
        let mut free = (1..self.local.sizes.vip_stats).filter(|place| !taken.contains(place));
        let mut vips = BTreeMap::new();
        for (address, planned) in self.plan.vips.iter().take(self.local.sizes.vips as usize) {
            let mask = |bits, segment: &String| {
                bits | self.segments.get(segment).map_or(0, |segment| 1_u32 << segment)
            };
            let announced = planned.segments.keys().fold(0, mask);
            let flags = if planned.echo { vip_flags::ECHO } else { 0 };
            let ranked = |(name, ranking): (&String, &Ranking)| {
                Some((*self.segments.get(name)?, self.claims_as(name, &ranking.nodes).collect()))
            };
            let known = self.current.vips.get(&(*address).into()).map(|vip| vip.stats);
            let stats = known.filter(|place| *place != 0).or_else(|| free.next()).unwrap_or(0);
            let armed = ArmedVip {
                entry: Vip { announced, owned: 0, flags, stats },
                ranked: planned.segments.iter().filter_map(ranked).collect(),
                tables: Few::new(),
            };
            vips.insert((*address).into(), armed);
        }
        Arc::make_mut(&mut self.armed).vips = vips;
    }

    /// What nodes claim VIPs in a segment as.
    fn claims_as(&self, segment: &str, nodes: &[NodeName]) -> impl Iterator<Item = Leg> {
        nodes.iter().filter_map(move |node| self.plan.nodes.get(node)?.claims_as(segment))
    }

    /// Endpoints of this node, those that are gone but still talk included.
    fn place_local_ports(&mut self) {
        let node = self.maps.config.node;
        for (frontend, service) in
            self.plan.services.keys().filter_map(|f| Some((f, self.maps.services.get(&service_key(f))?)))
        {
            let block = block_of(service);
            for backend in &self.maps.backends[block.start as usize..block.end as usize] {
                if backend.state != backend_state::FREE && u32::from(backend.node) == node {
                    let protocol = frontend.protocol.number();
                    let key = LocalPortKey { address: backend.address, port: backend.port, protocol, pad: 0 };
                    self.maps.local_ports.entry(key).or_insert(LocalPort { services: 0 }).services += 1;
                }
            }
        }
        let living: BTreeSet<_> = self
            .maps
            .backends
            .iter()
            .filter(|b| b.state != backend_state::FREE)
            .map(|b| (b.address, b.port))
            .collect();
        for key in self.current.local_ports.keys().filter(|key| living.contains(&(key.address, key.port))) {
            self.maps.local_ports.entry(*key).or_insert(LocalPort { services: 1 });
        }
        let room = self.room("LOCAL_PORTS", self.local.sizes.local_ports, self.maps.local_ports.len());
        while self.maps.local_ports.len() > room {
            self.maps.local_ports.pop_last();
        }
    }
}

fn identity((address, port): &(IpAddr, NonZeroU16)) -> (Addr, Port) {
    (Addr::from(*address), Port::new(port.get()))
}

/// Nothing begins with the backend any more; if it does not live on elsewhere either, UDP looks for another, and it rests.
fn retire(backend: &mut Backend, living: &BTreeSet<(Addr, Port)>, now: u32) {
    let lives = living.contains(&(backend.address, backend.port));
    match backend.state {
        backend_state::FREE => {}
        backend_state::READY | backend_state::DRAINING if lives => {
            if backend.state == backend_state::READY {
                (backend.state, backend.since) = (backend_state::DRAINING, now);
            }
        }
        backend_state::GONE if now.wrapping_sub(backend.since) >= REST => {
            // The generation stays: the next to come has another.
            *backend = Backend { generation: backend.generation, ..Backend::default() };
        }
        backend_state::GONE => {}
        _ => {
            backend.state = backend_state::GONE;
            backend.since = now;
        }
    }
}

fn block_of(service: &Service) -> Range<u32> {
    service.backend_offset..service.backend_offset + service.backend_length
}

/// The key in `SERVICES`.
pub fn service_key(frontend: &Frontend) -> ServiceKey {
    ServiceKey {
        address: frontend.address.into(),
        port: Port::new(frontend.port.get()),
        protocol: frontend.protocol.number(),
        pad: 0,
    }
}

/// A text as `NAMES` holds it, cut to what there is room for.
pub fn name_of(text: &str) -> Name {
    let mut name = Name { text: [0; 256] };
    let length = text.floor_char_boundary(name.text.len());
    name.text[..length].copy_from_slice(&text.as_bytes()[..length]);
    name
}

/// The text of a name; `None` if it is not UTF-8.
pub fn name_text(name: &Name) -> Option<&str> {
    let length = name.text.iter().position(|byte| *byte == 0).unwrap_or(name.text.len());
    std::str::from_utf8(&name.text[..length]).ok()
}

#[cfg(test)]
mod tests;
