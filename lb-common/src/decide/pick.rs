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
    decision: &mut Decision,
) {
    let picker = Picker { meta, maps, service, arrival, stale };
    if service.flags & service_flags::NO_ENDPOINTS != 0 {
        return decision.pass(Reason::NoEndpoints);
    }
    if service.flags & service_flags::KERNEL != 0 {
        return picker.leave_to_kernel(Reason::ServiceKernel, decision);
    }
    let Some(row) = maps.row(row_index(meta, service, &maps.config().row_key)) else {
        return picker.leave_to_kernel(Reason::NoReadyCandidate, decision);
    };
    let candidates = picker.candidates(row);
    match (is_opening(meta), arrival.sender) {
        (true, NO_NODE) => picker.open_from_client(&candidates, decision),
        (true, _) => picker.open_from_peer(&candidates, decision),
        (false, sender) => picker.walk(&candidates, sender, decision),
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

/// A place of a row: what choosing among candidates needs to know of the backend.
///
/// Integers, not a reference to the backend: references that exist on some paths only are merged by the compiler in ways that
/// the verifier does not accept.
#[derive(Clone, Copy)]
struct Candidate {
    index: u32,
    node: u16,
    state: u8,
    generation: u8,
}

impl Candidate {
    /// No backend.
    const NONE: Self = Self { index: u32::MAX, node: NO_NODE, state: backend_state::FREE, generation: 0 };

    #[inline(always)]
    fn is_some(self) -> bool {
        self.state != backend_state::FREE
    }

    #[inline(always)]
    fn is_ready(self) -> bool {
        self.state == backend_state::READY
    }
}

/// The row's candidates in order.
type Candidates = [Candidate; CANDIDATES];

struct Picker<'a, L> {
    meta: &'a Meta,
    maps: &'a L,
    service: &'a Service,
    arrival: &'a Arrival,
    stale: &'a Stale,
}

impl<L: Lookup> Picker<'_, L> {
    /// 6a: the first ready candidate whose node is not suspect, or that is used all the same; if there is none, the first ready one.
    #[inline(always)]
    fn open_from_client(&self, candidates: &Candidates, decision: &mut Decision) {
        let mut chosen = Candidate::NONE;
        let mut is_settled = false;
        for candidate in candidates {
            if is_settled || !candidate.is_ready() {
                continue;
            }
            let is_suspect = self.is_suspect(candidate);
            if !is_suspect || !chosen.is_some() {
                chosen = *candidate;
            }
            is_settled = !is_suspect;
        }
        if !chosen.is_some() {
            return self.leave_to_kernel(Reason::NoReadyCandidate, decision);
        }
        let Some(neighbour) = self.maps.neighbour(chosen.node, self.arrival.segment) else {
            return self.leave_to_kernel(Reason::NotCapable, decision);
        };
        match neighbour.reach {
            _ if neighbour.dsr_capable == 0 => self.leave_to_kernel(Reason::NotCapable, decision),
            reach::SELF => self.deliver(chosen, Reason::NewDelivered, decision),
            reach::SEGMENT => self.forward(chosen, neighbour, decision),
            _ => self.leave_to_kernel(Reason::NotCapable, decision),
        }
    }

    /// 6b: a peer has chosen this node; it is never forwarded again.
    #[inline(always)]
    fn open_from_peer(&self, candidates: &Candidates, decision: &mut Decision) {
        let mut chosen = Candidate::NONE;
        for candidate in candidates {
            if !chosen.is_some() && candidate.is_ready() && self.is_here(candidate.node) {
                chosen = *candidate;
            }
        }
        if !chosen.is_some() {
            return self.leave_to_kernel(Reason::PeerNoCandidate, decision);
        }
        self.deliver(chosen, Reason::PeerDelivered, decision);
    }

    /// 6c: some node of the row may know the connection. Nodes are visited in the order of their first candidate.
    #[inline(always)]
    fn walk(&self, candidates: &Candidates, sender: u16, decision: &mut Decision) {
        let mut own = Candidate::NONE;
        let mut next = NO_NODE;
        for (position, candidate) in candidates.iter().enumerate() {
            let node = candidate.node;
            if node == NO_NODE {
                continue;
            }
            if self.is_here(node) {
                // A peer has asked the nodes before this one; a client's packet has been nowhere yet.
                if !own.is_some() && sender != NO_NODE {
                    next = NO_NODE;
                }
                if !own.is_some() {
                    own = *candidate;
                }
                continue;
            }
            let is_repeated = candidates.iter().take(position).any(|before| before.node == node);
            if next == NO_NODE && node != sender && !is_repeated && self.is_reachable(candidate) {
                next = node;
            }
        }
        if next != NO_NODE {
            return self.walk_to(next, decision);
        }
        if own.is_some() {
            return self.end_walk(own, decision);
        }
        decision.pass(Reason::WalkKernel);
    }

    #[inline(always)]
    fn walk_to(&self, node: u16, decision: &mut Decision) {
        let Some(neighbour) = self.maps.neighbour(node, self.arrival.segment) else {
            return decision.pass(Reason::WalkKernel);
        };
        if self.meta.ttl <= 1 {
            return decision.pass(Reason::TtlExceeded);
        }
        let ttl = if self.meta.ttl > WALK_TTL { WALK_TTL } else { self.meta.ttl - 1 };
        decision.set(Verdict::Forward { mac: neighbour.mac, ttl }, Reason::Walked);
    }

    /// Step 7, for a flow that begins.
    #[inline(always)]
    fn deliver(&self, chosen: Candidate, reason: Reason, decision: &mut Decision) {
        let Some(backend) = self.maps.backend(chosen.index) else {
            return self.leave_to_kernel(Reason::NoReadyCandidate, decision);
        };
        if self.is_taken(backend) {
            return self.leave_to_kernel(Reason::ReverseTaken, decision);
        }
        decision.learn = Learn::Here { forget_flow: self.stale_flow() };
        decision.backend = BackendRef::new(chosen.index, backend.generation);
        decision.events =
            if self.meta.is_udp() { event::NEW_FLOW } else { event::NEW_FLOW | event::DELIVERED };
        decision.set(Verdict::Deliver { address: backend.address, port: backend.port }, reason);
    }

    /// No node knows the connection: the pod's RST, sent as the VIP, frees the client at once.
    #[inline(always)]
    fn end_walk(&self, own: Candidate, decision: &mut Decision) {
        let Some(backend) = self.maps.backend(own.index) else {
            return decision.pass(Reason::WalkKernel);
        };
        if self.is_taken(backend) {
            return decision.pass(Reason::ReverseTaken);
        }
        decision.learn = Learn::ReverseOnly;
        decision.backend = BackendRef::new(own.index, backend.generation);
        decision.set(Verdict::Deliver { address: backend.address, port: backend.port }, Reason::WalkEnded);
    }

    /// Step 8, for a flow that begins.
    #[inline(always)]
    fn forward(&self, chosen: Candidate, neighbour: &Neighbour, decision: &mut Decision) {
        if self.meta.ttl <= 1 {
            return decision.pass(Reason::TtlExceeded);
        }
        decision.learn = Learn::Elsewhere {
            hash: self.stale.hash,
            segment: self.arrival.segment,
            forget_conn: self.stale.conn,
        };
        decision.backend = BackendRef::new(chosen.index, chosen.generation);
        decision.events = event::NEW_FLOW;
        decision.set(Verdict::Forward { mac: neighbour.mac, ttl: self.meta.ttl - 1 }, Reason::NewForwarded);
    }

    /// The kernel's flows stay the kernel's: what begins there is remembered, the middle of something unknown is not.
    #[inline(always)]
    fn leave_to_kernel(&self, reason: Reason, decision: &mut Decision) {
        decision.pass(reason);
        if is_opening(self.meta) {
            let phase = if is_syn(self.meta) { 0 } else { phase::ANSWERED };
            decision.learn = Learn::Kernel { phase, forget_flow: self.stale_flow() };
        }
    }

    #[inline(always)]
    fn candidates(&self, row: &Row) -> Candidates {
        let mut candidates = [Candidate::NONE; CANDIDATES];
        for (candidate, place) in candidates.iter_mut().zip(row.candidates) {
            if place == NO_CANDIDATE {
                continue;
            }
            let index = self.service.backend_offset + place as u32;
            if let Some(backend) = self.maps.backend(index) {
                let node = if backend.state == backend_state::FREE { NO_NODE } else { backend.node };
                *candidate = Candidate { index, node, state: backend.state, generation: backend.generation };
            }
        }
        candidates
    }

    #[inline(always)]
    fn is_here(&self, node: u16) -> bool {
        node as u32 == self.maps.config().node
    }

    #[inline(always)]
    fn is_suspect(&self, candidate: &Candidate) -> bool {
        let neighbour = self.maps.neighbour(candidate.node, self.arrival.segment);
        neighbour.is_some_and(|n| n.state != node_state::READY) && !self.is_kept(candidate)
    }

    /// Whether a packet may walk to the candidate's node: suspect ones may know the connection, gone ones do not.
    #[inline(always)]
    fn is_reachable(&self, candidate: &Candidate) -> bool {
        let neighbour = self.maps.neighbour(candidate.node, self.arrival.segment);
        neighbour.is_some_and(|n| {
            n.reach == reach::SEGMENT && (n.state != node_state::GONE || self.is_kept(candidate))
        })
    }

    #[inline(always)]
    fn is_kept(&self, candidate: &Candidate) -> bool {
        self.maps.is_kept(candidate.index, self.arrival.segment)
    }

    #[inline(always)]
    fn stale_flow(&self) -> Option<FlowHash> {
        self.stale.flow.then_some(self.stale.hash)
    }

    /// Whether the pod's replies to this client's port already leave as another VIP or port.
    #[inline(always)]
    fn is_taken(&self, backend: &Backend) -> bool {
        let key = self.meta.reverse_key_of(backend.address, backend.port);
        let Some(present) = self.maps.reverse(&key) else { return false };
        let config = self.maps.config();
        let idle = self.maps.tick().wrapping_sub(present.time);
        let ended = if self.meta.is_udp() {
            idle > config.udp_idle
        } else {
            idle > config.closing_idle && present.phase & (phase::POD_RESET | phase::POD_FIN) != 0
        };
        !ended && (present.vip != self.meta.destination || present.vip_port != self.meta.destination_port)
    }
}
