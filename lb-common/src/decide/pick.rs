//! Step 6 to 8: where a packet goes of which nothing is known.

use super::{Arrival, Decision, Learn, Lookup, Verdict, event, is_opening, is_syn};
use crate::{
    flows::FlowHash,
    hash::HashKey,
    layout::{
        Addr, Backend, BackendRef, CANDIDATES, NO_CANDIDATE, NO_NODE, Neighbour, Row, Service, backend_state,
        node_state, phase, reach, service_flags,
    },
    meta::Meta,
    reason::Reason,
};

/// The TTL with which a packet walks at most.
pub const WALK_TTL: u8 = 16;

/// What was remembered of the flow and no longer holds.
pub(super) struct Stale {
    pub(super) hash: FlowHash,
    pub(super) flow: bool,
    pub(super) conn: bool,
}

/// Step 6.
#[inline(always)]
pub(super) fn pick(
    meta: &Meta,
    maps: &impl Lookup,
    service: &Service,
    arrival: &Arrival,
    stale: &Stale,
) -> Decision {
    let picker = Picker { meta, maps, service, arrival, stale };
    if service.flags & service_flags::NO_ENDPOINTS != 0 {
        return Decision::pass(Reason::NoEndpoints).count(service.id, None, 0);
    }
    if service.flags & service_flags::KERNEL != 0 {
        return picker.leave_to_kernel(Reason::ServiceKernel);
    }
    let Some(row) = maps.row(row_index(meta, service, &maps.config().row_key)) else {
        return picker.leave_to_kernel(Reason::NoReadyCandidate);
    };
    match (is_opening(meta), arrival.sender) {
        (true, None) => picker.open_from_client(row),
        (true, Some(_)) => picker.open_from_peer(row),
        (false, sender) => picker.walk(row, sender),
    }
}

/// The flow's row: the same on every node.
#[inline(always)]
pub fn row_index(meta: &Meta, service: &Service, key: &HashKey) -> u32 {
    let ports = if service.flags & service_flags::AFFINITY != 0 { 0 } else { meta.ports() };
    let hash = row_hash(key, &meta.source, &meta.destination, ports, meta.protocol);
    service.table_offset + (hash as u32 & service.table_length.wrapping_sub(1))
}

/// Hash of a flow to its row.
#[inline(always)]
pub fn row_hash(key: &HashKey, client: &Addr, vip: &Addr, ports: u32, protocol: u32) -> u64 {
    let [c0, c1, c2, c3] = client.words;
    let [v0, v1, v2, v3] = vip.words;
    key.hash([c0, c1, c2, c3, v0, v1, v2, v3, ports, protocol])
}

/// A candidate of the row that is a backend.
struct Candidate<'a> {
    index: u32,
    backend: &'a Backend,
}

impl Candidate<'_> {
    #[inline(always)]
    fn reference(&self) -> BackendRef {
        BackendRef::new(self.index, self.backend.generation)
    }

    #[inline(always)]
    fn is_ready(&self) -> bool {
        self.backend.state == backend_state::READY
    }
}

struct Picker<'a, L> {
    meta: &'a Meta,
    maps: &'a L,
    service: &'a Service,
    arrival: &'a Arrival,
    stale: &'a Stale,
}

impl<L: Lookup> Picker<'_, L> {
    /// 6a: the first ready candidate whose node is not suspect; if all are, the first ready one.
    #[inline(always)]
    fn open_from_client(&self, row: &Row) -> Decision {
        let mut chosen = CANDIDATES;
        for position in 0..CANDIDATES {
            let Some(candidate) = self.candidate(row, position) else { continue };
            if !candidate.is_ready() {
                continue;
            }
            if !self.is_suspect(&candidate) {
                chosen = position;
                break;
            }
            if chosen == CANDIDATES {
                chosen = position;
            }
        }
        let Some(chosen) = self.candidate(row, chosen) else {
            return self.leave_to_kernel(Reason::NoReadyCandidate);
        };
        match self.neighbour(&chosen) {
            Some(n) if n.dsr_capable == 0 => self.leave_to_kernel(Reason::NotCapable),
            Some(n) if n.reach == reach::SELF => self.deliver(&chosen, Reason::NewDelivered),
            Some(n) if n.reach == reach::SEGMENT => self.forward(&chosen, n),
            _ => self.leave_to_kernel(Reason::NotCapable),
        }
    }

    /// 6b: a peer has chosen this node; it is never forwarded again.
    #[inline(always)]
    fn open_from_peer(&self, row: &Row) -> Decision {
        let mut chosen = CANDIDATES;
        for position in 0..CANDIDATES {
            let Some(candidate) = self.candidate(row, position) else { continue };
            if candidate.is_ready() && self.is_here(&candidate) {
                chosen = position;
                break;
            }
        }
        match self.candidate(row, chosen) {
            Some(chosen) => self.deliver(&chosen, Reason::PeerDelivered),
            None => self.leave_to_kernel(Reason::PeerNoCandidate),
        }
    }

    /// 6c: some node of the row may know the connection. Nodes are visited in the order of their first candidate.
    #[inline(always)]
    fn walk(&self, row: &Row, sender: Option<u16>) -> Decision {
        let nodes = self.nodes(row);
        let here = nodes.iter().position(|node| *node as u32 == self.maps.config().node);
        // A peer has asked the nodes before this one; a client's packet has been nowhere yet.
        let first = match (sender, here) {
            (Some(_), Some(here)) => here + 1,
            _ => 0,
        };
        for position in first..CANDIDATES {
            let node = nodes[position];
            let is_visited = nodes[..position].contains(&node);
            if node == NO_NODE || Some(position) == here || Some(node) == sender || is_visited {
                continue;
            }
            let Some(next) = self.maps.neighbour(node, self.arrival.segment) else { continue };
            if next.reach != reach::SEGMENT || next.state == node_state::GONE {
                continue;
            }
            if self.meta.ttl <= 1 {
                return Decision::pass(Reason::TtlExceeded);
            }
            let ttl = if self.meta.ttl > WALK_TTL { WALK_TTL } else { self.meta.ttl - 1 };
            return Decision::new(Verdict::Forward { mac: next.mac, ttl }, Reason::Walked).count(
                self.service.id,
                None,
                0,
            );
        }
        match here.and_then(|here| self.candidate(row, here)) {
            Some(own) => self.end_walk(&own),
            None => Decision::pass(Reason::WalkKernel).count(self.service.id, None, 0),
        }
    }

    /// The candidates' nodes.
    #[inline(always)]
    fn nodes(&self, row: &Row) -> [u16; CANDIDATES] {
        let mut nodes = [NO_NODE; CANDIDATES];
        for (position, node) in nodes.iter_mut().enumerate() {
            if let Some(candidate) = self.candidate(row, position) {
                *node = candidate.backend.node;
            }
        }
        nodes
    }

    /// Step 7, for a flow that begins.
    #[inline(always)]
    fn deliver(&self, chosen: &Candidate<'_>, reason: Reason) -> Decision {
        let backend = chosen.backend;
        if self.is_taken(chosen) {
            return self.leave_to_kernel(Reason::ReverseTaken);
        }
        let (pod, pod_port) = (backend.address, backend.port);
        let delivered = if self.meta.is_udp() { 0 } else { event::DELIVERED };
        Decision::new(Verdict::Deliver { address: pod, port: pod_port }, reason)
            .learn(Learn::Here { forget_flow: self.stale_flow() })
            .count(self.service.id, Some(chosen.reference()), event::NEW_FLOW | delivered)
    }

    /// Step 8, for a flow that begins.
    #[inline(always)]
    fn forward(&self, chosen: &Candidate<'_>, neighbour: &Neighbour) -> Decision {
        if self.meta.ttl <= 1 {
            return Decision::pass(Reason::TtlExceeded);
        }
        Decision::new(Verdict::Forward { mac: neighbour.mac, ttl: self.meta.ttl - 1 }, Reason::NewForwarded)
            .learn(Learn::Elsewhere {
                hash: self.stale.hash,
                segment: self.arrival.segment,
                forget_conn: self.stale.conn,
            })
            .count(self.service.id, Some(chosen.reference()), event::NEW_FLOW)
    }

    /// No node knows the connection: the pod's RST, sent as the VIP, frees the client at once.
    #[inline(always)]
    fn end_walk(&self, own: &Candidate<'_>) -> Decision {
        let (pod, pod_port) = (own.backend.address, own.backend.port);
        if self.is_taken(own) {
            return Decision::pass(Reason::ReverseTaken).count(self.service.id, None, 0);
        }
        Decision::new(Verdict::Deliver { address: pod, port: pod_port }, Reason::WalkEnded)
            .learn(Learn::ReverseOnly)
            .count(self.service.id, Some(own.reference()), 0)
    }

    /// The kernel's flows stay the kernel's: what begins there is remembered, the middle of something unknown is not.
    #[inline(always)]
    fn leave_to_kernel(&self, reason: Reason) -> Decision {
        let decision = Decision::pass(reason).count(self.service.id, None, 0);
        if !is_opening(self.meta) {
            return decision;
        }
        let phase = if is_syn(self.meta) { 0 } else { phase::ANSWERED };
        decision.learn(Learn::Kernel { phase, forget_flow: self.stale_flow() })
    }

    #[inline(always)]
    fn candidate(&self, row: &Row, position: usize) -> Option<Candidate<'_>> {
        let place = *row.candidates.get(position)?;
        if place == NO_CANDIDATE {
            return None;
        }
        let index = self.service.backend_offset + place as u32;
        let backend = self.maps.backend(index)?;
        if backend.state == backend_state::FREE {
            return None;
        }
        Some(Candidate { index, backend })
    }

    #[inline(always)]
    fn neighbour(&self, candidate: &Candidate<'_>) -> Option<&Neighbour> {
        self.maps.neighbour(candidate.backend.node, self.arrival.segment)
    }

    #[inline(always)]
    fn is_here(&self, candidate: &Candidate<'_>) -> bool {
        candidate.backend.node as u32 == self.maps.config().node
    }

    #[inline(always)]
    fn is_suspect(&self, candidate: &Candidate<'_>) -> bool {
        self.neighbour(candidate).is_some_and(|n| n.state != node_state::READY)
    }

    #[inline(always)]
    fn stale_flow(&self) -> Option<FlowHash> {
        self.stale.flow.then_some(self.stale.hash)
    }

    /// Whether the pod's replies to this client's port already leave as another VIP or port.
    #[inline(always)]
    fn is_taken(&self, candidate: &Candidate<'_>) -> bool {
        let key = self.meta.reverse_key_of(candidate.backend.address, candidate.backend.port);
        let Some(present) = self.maps.reverse(&key) else { return false };
        let config = self.maps.config();
        let idle = self.maps.tick().wrapping_sub(present.time);
        let ended = if self.meta.is_udp() {
            idle > config.udp_idle
        } else {
            idle > config.closing_idle && present.phase & (phase::RESET | phase::POD_FIN) != 0
        };
        !ended && (present.vip != self.meta.destination || present.vip_port != self.meta.destination_port)
    }
}
