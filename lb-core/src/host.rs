//! The maps in user space, for whoever runs the packet decision there: simulation, tests, `explain`.

use std::collections::BTreeMap;

use lb_common::{
    Lookup, Meta,
    decide::Store,
    flows::{self, FlowHash},
    layout::{
        Addr, Backend, ClaimEvent, Client, ClientKey, Config, Conn, ConnKey, EchoBudget, FLOW_SLOTS,
        FlowLine, FlowSlot, Kept, Link, LinkKey, LocalPortKey, MAX_SEGMENTS, NO_NODE, Neighbour, PeerKey,
        Reverse, ReverseKey, Row, Service, ServiceId, ServiceKey, SourceKey, SpreadKey, Vip, event_kind,
    },
};

use crate::maps::Maps;

/// Config maps and state maps of one node, as one of its receive queues sees them.
///
/// `CONNS`, `REVERSE` and `CLIENTS` have no bound here: eviction is the kernel's.
#[derive(Clone, Debug)]
pub struct HostMaps {
    /// The config maps.
    pub maps: Maps,
    /// `FLOWS`, this queue's lines: as many as [`Config::flow_lines`].
    pub flows: Vec<FlowLine>,
    /// `CONNS`.
    pub conns: BTreeMap<ConnKey, Conn>,
    /// `REVERSE`.
    pub reverse: BTreeMap<ReverseKey, Reverse>,
    /// `CLIENTS`.
    pub clients: BTreeMap<ClientKey, Client>,
    /// `ECHO_BUDGET`.
    pub echo_budget: EchoBudget,
    /// `EVENT_BUDGET`.
    pub event_budgets: [EchoBudget; event_kind::COUNT],
    /// `EVENTS`, without their times: bounded by the budget alone.
    pub events: Vec<ClaimEvent>,
    /// `KEPT`, without those that are kept nowhere.
    pub kept: BTreeMap<u32, Kept>,
    /// Whether `LEASE` holds.
    pub lease_holds: bool,
    /// The current tick.
    pub tick: u32,
}

impl HostMaps {
    /// Nothing remembered yet.
    pub fn new(maps: Maps) -> Self {
        let flows = vec![FlowLine::default(); maps.config.flow_lines as usize];
        Self {
            maps,
            flows,
            conns: BTreeMap::new(),
            reverse: BTreeMap::new(),
            clients: BTreeMap::new(),
            echo_budget: EchoBudget::default(),
            event_budgets: [EchoBudget::default(); _],
            events: Vec::new(),
            kept: BTreeMap::new(),
            lease_holds: false,
            tick: 0,
        }
    }

    fn line(&self, hash: FlowHash) -> usize {
        hash.line(self.maps.config.flow_lines) as usize
    }
}

impl Lookup for HostMaps {
    fn config(&self) -> &Config {
        &self.maps.config
    }

    fn tick(&self) -> u32 {
        self.tick
    }

    fn link(&self, key: &LinkKey) -> Option<Link> {
        self.maps.links.get(key).copied()
    }

    fn neighbour(&self, node: u16, segment: u16) -> Option<&Neighbour> {
        self.maps.neighbours.get((u32::from(node) * MAX_SEGMENTS + u32::from(segment)) as usize)
    }

    fn peer(&self, key: &PeerKey) -> Option<u16> {
        self.maps.peers.get(key).map(|peer| peer.node as u16)
    }

    fn vip(&self, address: &Addr) -> Option<Vip> {
        self.maps.vips.get(address).copied()
    }

    fn has_share(&self, key: &SpreadKey, share: u32) -> bool {
        self.maps.spread.get(key).is_some_and(|spread| spread.has(share))
    }

    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.maps.services.get(key).copied()
    }

    fn row(&self, index: u32) -> Option<&Row> {
        self.maps.row(index)
    }

    fn backend(&self, index: u32) -> Option<&Backend> {
        self.maps.backends.get(index as usize)
    }

    fn is_kept(&self, backend: u32, segment: u16) -> bool {
        self.kept.get(&backend).is_some_and(|kept| kept.segments >> segment & 1 == 1)
    }

    fn flow(&self, hash: FlowHash, service: ServiceId) -> Option<FlowSlot> {
        flows::find(self.flows.get(self.line(hash))?, hash.tag(), service)
    }

    fn conn(&self, key: &ConnKey) -> Option<Conn> {
        self.conns.get(key).copied()
    }

    fn reverse(&self, key: &ReverseKey) -> Option<Reverse> {
        self.reverse.get(key).copied()
    }

    fn local_port(&self, key: &LocalPortKey) -> bool {
        self.maps.local_ports.get(key).is_some_and(|port| port.services != 0)
    }

    fn source(&self, service: u32, address: &Addr) -> bool {
        let holds = |key: &SourceKey| {
            key.service == service
                && prefix_matches(&key.address, address, key.prefix_length.saturating_sub(32))
        };
        let longest =
            self.maps.sources.iter().filter(|(key, _)| holds(key)).max_by_key(|(key, _)| key.prefix_length);
        longest.is_some_and(|(_, source)| source.allow != 0)
    }

    fn echo_budget(&self) -> EchoBudget {
        self.echo_budget
    }

    fn event_budget(&self, kind: u8) -> EchoBudget {
        self.event_budgets.get(usize::from(kind)).copied().unwrap_or_default()
    }

    fn lease_holds(&self) -> bool {
        self.lease_holds
    }
}

impl Store for HostMaps {
    fn put_flow(&mut self, hash: FlowHash, slot: FlowSlot) {
        let line = self.line(hash);
        if let Some(line) = self.flows.get_mut(line) {
            let place = flows::place(line, slot.tag, slot.service, slot.time) & (FLOW_SLOTS - 1);
            line.slots[place] = slot;
        }
    }

    fn remove_flow(&mut self, hash: FlowHash, service: ServiceId) {
        let line = self.line(hash);
        let slots = self.flows.get_mut(line).map(|line| &mut line.slots);
        for slot in
            slots.into_iter().flatten().filter(|slot| slot.tag == hash.tag() && slot.service == service)
        {
            *slot = FlowSlot::default();
        }
    }

    fn put_conn(&mut self, key: &ConnKey, conn: &Conn) {
        self.conns.insert(*key, *conn);
    }

    fn touch_conn(&mut self, key: &ConnKey, tick: u32, phase: u8) {
        if let Some(conn) = self.conns.get_mut(key) {
            (conn.time, conn.phase) = (tick, phase);
        }
    }

    fn mark_conn(&mut self, key: &ConnKey, phase: u8) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.phase |= phase;
        }
    }

    fn remove_conn(&mut self, key: &ConnKey) {
        self.conns.remove(key);
    }

    fn put_reverse(&mut self, key: &ReverseKey, reverse: &Reverse) {
        self.reverse.insert(*key, *reverse);
    }

    fn touch_reverse(&mut self, key: &ReverseKey, tick: u32, phase: u8) {
        if let Some(reverse) = self.reverse.get_mut(key) {
            (reverse.time, reverse.phase) = (tick, phase);
        }
    }

    fn put_client(&mut self, key: &ClientKey, client: &Client) {
        self.clients.insert(*key, *client);
    }

    fn spend_echo(&mut self, budget: EchoBudget) {
        self.echo_budget = budget;
    }

    fn disown(&mut self, vip: &Addr, segment: u16) {
        if let Some(vip) = self.maps.vips.get_mut(vip) {
            vip.owned &= !1_u32.wrapping_shl(u32::from(segment));
        }
    }

    fn tell(&mut self, meta: &Meta, segment: u16, node: u16, is_answer: bool, budget: EchoBudget) {
        let kind = if node == NO_NODE { event_kind::FOREIGN_CLAIM } else { event_kind::PEER_CLAIM };
        self.event_budgets[usize::from(kind)] = budget;
        let (address, mac, ifindex) = (meta.source, meta.source_mac, meta.ifindex);
        let is_answer = is_answer.into();
        self.events.push(ClaimEvent { time: 0, address, ifindex, segment, kind, is_answer, node, mac });
    }
}

fn prefix_matches(prefix: &Addr, address: &Addr, bits: u32) -> bool {
    let number = |a: &Addr| a.words.iter().fold(0_u128, |n, word| n << 32 | u128::from(u32::from_be(*word)));
    let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
    (number(prefix) ^ number(address)) & mask == 0
}
