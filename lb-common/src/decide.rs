//! The packet decision: what is done with a packet, why, and what is remembered of it.
//!
//! [`decide()`] follows a packet that arrives from the network, [`decide_reply`] one that leaves the node. Both read only; what
//! is to be written is in [`Decision::learn`], and [`Decision::remember`] hands it to a [`Store`]. Step numbers are those of the
//! packet walk in ARCHITECTURE.md.

mod discovery;
mod known;
mod pick;

use crate::{
    flows::{FlowHash, flow_hash},
    layout::{
        Addr, Backend, BackendRef, Client, ClientKey, Config, Conn, ConnKey, EchoBudget, FlowSlot, Link,
        LinkKey, LocalPortKey, Mac, NO_NODE, Neighbour, PeerKey, Port, Reverse, ReverseKey, Row, Service,
        ServiceId, ServiceKey, SpreadKey, Vip, conn_kind, phase, service_flags,
    },
    meta::{Kind, Meta},
    packet::tcp_flags,
    reason::Reason,
};

pub use pick::{WALK_TTL, row_hash, row_index};

/// The maps, read.
pub trait Lookup {
    /// `CONFIG`.
    fn config(&self) -> &Config;
    /// The current tick, see [`Config::tick_shift`].
    fn tick(&self) -> u32;
    /// `LINKS`.
    fn link(&self, key: &LinkKey) -> Option<Link>;
    /// `NEIGHBOURS`; `None` for a node or segment that there is no place for.
    fn neighbour(&self, node: u16, segment: u16) -> Option<&Neighbour>;
    /// `PEERS`: the node with this MAC.
    fn peer(&self, key: &PeerKey) -> Option<u16>;
    /// `VIPS`.
    fn vip(&self, address: &Addr) -> Option<Vip>;
    /// `SPREAD`: whether this node answers the share.
    fn has_share(&self, key: &SpreadKey, share: u32) -> bool;
    /// `SERVICES`.
    fn service(&self, key: &ServiceKey) -> Option<Service>;
    /// `TABLE`.
    fn row(&self, index: u32) -> Option<&Row>;
    /// `BACKENDS`.
    fn backend(&self, index: u32) -> Option<&Backend>;
    /// `KEPT`: whether the backend is used in the segment as if its node were well.
    fn is_kept(&self, backend: u32, segment: u16) -> bool;
    /// `FLOWS`: the flow's slot among those of the packet's receive queue.
    fn flow(&self, hash: FlowHash, service: ServiceId) -> Option<FlowSlot>;
    /// `CONNS`.
    fn conn(&self, key: &ConnKey) -> Option<Conn>;
    /// `REVERSE`.
    fn reverse(&self, key: &ReverseKey) -> Option<Reverse>;
    /// `LOCAL_PORTS`: whether the endpoint serves a VIP.
    fn local_port(&self, key: &LocalPortKey) -> bool;
    /// `SOURCES`: whether a prefix of this service holds the address.
    fn source(&self, service: u32, address: &Addr) -> bool;
    /// `ECHO_BUDGET` of this CPU.
    fn echo_budget(&self) -> EchoBudget;
    /// `EVENT_BUDGET` of this CPU, for a kind of events.
    fn event_budget(&self, kind: u8) -> EchoBudget;
    /// `LEASE` against the clock: whether the agent's promise to be there holds.
    fn lease_holds(&self) -> bool;
}

/// The maps, written by what a packet teaches.
pub trait Store {
    /// Puts a flow into `FLOWS`, at [`crate::flows::place`].
    fn put_flow(&mut self, hash: FlowHash, slot: FlowSlot);
    /// Frees a flow's slot.
    fn remove_flow(&mut self, hash: FlowHash, service: ServiceId);
    /// Puts a connection into `CONNS`.
    fn put_conn(&mut self, key: &ConnKey, conn: &Conn);
    /// Sets time and phase of a connection, if it is known.
    fn touch_conn(&mut self, key: &ConnKey, tick: u32, phase: u8);
    /// Adds phase bits to a connection, if it is known.
    fn mark_conn(&mut self, key: &ConnKey, phase: u8);
    /// Removes a connection.
    fn remove_conn(&mut self, key: &ConnKey);
    /// Puts a connection into `REVERSE`.
    fn put_reverse(&mut self, key: &ReverseKey, reverse: &Reverse);
    /// Sets time and phase of a connection, if it is known.
    fn touch_reverse(&mut self, key: &ReverseKey, tick: u32, phase: u8);
    /// Puts a client into `CLIENTS`.
    fn put_client(&mut self, key: &ClientKey, client: &Client);
    /// Counts an echo reply of this CPU.
    fn spend_echo(&mut self, budget: EchoBudget);
    /// Takes this node's owner bit of a segment out of `VIPS`.
    fn disown(&mut self, vip: &Addr, segment: u16);
    /// Tells user space of a claim by the packet's sender, and counts that.
    fn tell(&mut self, meta: &Meta, segment: u16, node: u16, is_answer: bool, budget: EchoBudget);
}

/// What happens to a packet, why, and what is learned from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens to it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// What is remembered.
    pub learn: Learn,
    /// The service that is counted, 0 if there is none.
    pub service: ServiceId,
    /// The backend that is counted, 0 if there is none.
    pub backend: BackendRef,
    /// [`event`] bits, counted for service and backend.
    pub events: u8,
    /// [`Vip::stats`] of the VIP whose MAC is asked for, 0 if none is.
    pub vip: u32,
}

/// Bits of [`Decision::events`].
pub mod event {
    /// A flow was picked.
    pub const NEW_FLOW: u8 = 1;
    /// A SYN is delivered to a pod of this node.
    pub const DELIVERED: u8 = 2;
    /// A pod's first reply is sent as the VIP.
    pub const ANSWERED: u8 = 4;
    /// The client completes a handshake.
    pub const COMPLETED: u8 = 8;
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the kernel, as it is.
    Pass,
    /// Dropped.
    Drop,
    /// An ARP request or neighbour solicitation turns into its answer and goes back.
    Advertise {
        /// The MAC that is told.
        mac: Mac,
        /// Other nodes answer other clients with theirs.
        is_shared: bool,
    },
    /// An echo request turns into its reply and goes back.
    EchoReply,
    /// A probe turns into its answer and goes back.
    ProbeAnswer {
        /// Whether the answer says that the agent is there.
        lease_holds: bool,
    },
    /// To a pod of this node: the destination is replaced, then on to the kernel.
    Deliver {
        /// The pod's address.
        address: Addr,
        /// The pod's port.
        port: Port,
    },
    /// To another node in the segment: only MACs and TTL change, and the packet leaves by the link by which it came.
    Forward {
        /// The node's MAC.
        mac: Mac,
        /// The TTL or hop limit with which it leaves.
        ttl: u8,
    },
    /// From a pod to a client: the source is replaced, and the packet goes on.
    Restore {
        /// The VIP.
        address: Addr,
        /// The VIP's port.
        port: Port,
    },
}

/// What is remembered of a packet, beside what the rest of the decision says: the pod or VIP, the service, the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learn {
    /// Nothing.
    Nothing,
    /// `FLOWS`: the flow goes to the backend, which is on another node.
    Elsewhere {
        /// Where in `FLOWS`.
        hash: FlowHash,
        /// The segment in which it arrives and is forwarded.
        segment: u16,
        /// A `CONNS` entry says otherwise, and goes.
        forget_conn: bool,
    },
    /// `CONNS` and `REVERSE`: the connection goes to the pod, which is on this node.
    Here {
        /// A slot of `FLOWS` says otherwise, and goes.
        forget_flow: Option<FlowHash>,
    },
    /// `CONNS`: the connection is left to the kernel.
    Kernel {
        /// Its phase.
        phase: u8,
        /// A slot of `FLOWS` says otherwise, and goes.
        forget_flow: Option<FlowHash>,
    },
    /// `REVERSE`: the pod's answer must leave as the VIP, but the connection is not this node's.
    ReverseOnly,
    /// `CONNS`: a known connection goes on.
    ConnSeen {
        /// Its phase.
        phase: u8,
    },
    /// `REVERSE`: a known connection's pod has sent something.
    ReplySeen {
        /// Its phase.
        phase: u8,
        /// The phase is new to `CONNS`.
        mark_conn: bool,
    },
    /// `CLIENTS`: somebody asks for the MAC of a VIP that is spread over nodes.
    Client {
        /// The segment in which it asks.
        segment: u16,
    },
    /// `ECHO_BUDGET`: an echo reply was spent.
    Echo {
        /// Replies in this tick, with this one.
        spent: u32,
    },
    /// `EVENTS`, `VIPS`: the sender says that it has the VIP that is the packet's source.
    Claim {
        /// The segment in which it says so.
        segment: u16,
        /// The sender's index, [`NO_NODE`] for a stranger.
        node: u16,
        /// It is told to this node alone, which has asked.
        is_answer: bool,
        /// Events of the kind in this tick, with this one; 0 if they are spent and nobody is told.
        spent: u32,
        /// This node owns it no more in the segment.
        disowns: bool,
    },
}

/// Decides on a packet that arrives from the network.
#[inline(always)]
pub fn decide(meta: &Meta, maps: &impl Lookup) -> Decision {
    let mut decision = Decision::UNDECIDED;
    decide_into(meta, maps, &mut decision);
    decision
}

/// [`decide()`] into a place of the caller's: the programs keep it in a map, for their stack is small.
#[inline(always)]
pub fn decide_into(meta: &Meta, maps: &impl Lookup, decision: &mut Decision) {
    match meta.kind {
        Kind::Tcp | Kind::Udp => balance(meta, maps, decision),
        Kind::ArpRequest | Kind::ArpReply | Kind::NeighbourSolicitation | Kind::NeighbourAdvertisement => {
            discovery::resolve(meta, maps, decision);
        }
        Kind::EchoRequest => discovery::echo(meta, maps, decision),
        Kind::Fragment => unbalanced(meta, maps, Reason::Fragment, decision),
        Kind::ExtensionHeader => unbalanced(meta, maps, Reason::ExtensionHeader, decision),
        Kind::IcmpError => unbalanced(meta, maps, Reason::IcmpError, decision),
        Kind::OtherProtocol => unbalanced(meta, maps, Reason::OtherProtocol, decision),
        Kind::Malformed => decision.pass(Reason::Malformed),
        Kind::Other => decision.pass(Reason::NotIp),
    }
}

/// TCP and UDP, steps 3 to 8.
#[inline(always)]
fn balance(meta: &Meta, maps: &impl Lookup, decision: &mut Decision) {
    let Some(service) = maps.service(&meta.service_key()) else {
        return no_service(meta, maps, decision);
    };
    if service.flags & service_flags::PROBE != 0 {
        return discovery::probe(meta, maps, decision);
    }
    decision.service = service.id;
    let hash = flow_hash(meta, &maps.config().flow_key);
    let slot = maps.flow(hash, service.id);
    if let Some(slot) = slot
        && known::elsewhere(meta, maps, hash, slot, decision)
    {
        return;
    }

    let arrival = match Arrival::of(meta, maps) {
        Ok(arrival) => arrival,
        Err(reason) => return decision.pass(reason),
    };
    if arrival.sender != NO_NODE && maps.source(0, &meta.source) {
        return decision.pass(Reason::PeerOwnTraffic);
    }

    let conn = maps.conn(meta.conn_key());
    if let Some(conn) = conn
        && known::here(meta, maps, &conn, decision)
    {
        return;
    }
    let stale = pick::Stale { hash, flow: slot.is_some(), conn: conn.is_some() };
    pick::pick(meta, maps, &service, &arrival, &stale, decision);
}

/// Decides on a packet that leaves the node, step 9.
#[inline(always)]
pub fn decide_reply(meta: &Meta, maps: &impl Lookup) -> Decision {
    let mut decision = Decision::UNDECIDED;
    decide_reply_into(meta, maps, &mut decision);
    decision
}

/// [`decide_reply`] into a place of the caller's.
#[inline(always)]
pub fn decide_reply_into(meta: &Meta, maps: &impl Lookup, decision: &mut Decision) {
    if !matches!(meta.kind, Kind::Tcp | Kind::Udp) || !maps.local_port(&meta.local_port_key()) {
        return decision.pass(Reason::ReplyNotLocalPort);
    }
    match maps.reverse(meta.reverse_key()) {
        Some(reverse) => known::reply(meta, maps, &reverse, decision),
        None => decision.pass(Reason::ReplyUnknown),
    }
}

/// A packet that some rule keeps from being balanced; it only counts as such if it is for a VIP.
#[inline(always)]
fn unbalanced(meta: &Meta, maps: &impl Lookup, reason: Reason, decision: &mut Decision) {
    decision.pass(if maps.vip(&meta.destination).is_some() { reason } else { Reason::NotVip });
}

/// Never back to the router, which would send it here again.
#[inline(always)]
fn no_service(meta: &Meta, maps: &impl Lookup, decision: &mut Decision) {
    if maps.vip(&meta.destination).is_none() {
        return decision.pass(Reason::NotVip);
    }
    match Arrival::of(meta, maps) {
        Ok(_) => decision.drop(Reason::NoSuchPort),
        Err(reason) => decision.pass(reason),
    }
}

/// Where a packet came in, and from whom.
struct Arrival {
    segment: u16,
    /// The node that sent it, [`NO_NODE`] for a client.
    sender: u16,
}

impl Arrival {
    /// XDP runs before the NIC's MAC filter: what is for another MAC is not ours, even if it is for a VIP.
    #[inline(always)]
    fn of(meta: &Meta, maps: &impl Lookup) -> Result<Self, Reason> {
        let Some(link) = maps.link(&meta.link_key()) else {
            return Err(Reason::NotOurLink);
        };
        if link.mac != meta.destination_mac {
            return Err(Reason::NotOurMac);
        }
        let sender = maps.peer(&PeerKey { segment: link.segment, mac: meta.source_mac }).unwrap_or(NO_NODE);
        Ok(Self { segment: link.segment, sender })
    }
}

/// Whether the packet may begin a flow: a SYN, and any UDP packet.
#[inline(always)]
fn is_opening(meta: &Meta) -> bool {
    meta.is_udp() || is_syn(meta)
}

/// Whether the packet asks for a new TCP connection.
#[inline(always)]
fn is_syn(meta: &Meta) -> bool {
    meta.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST) == tcp_flags::SYN
}

/// What a client's TCP packet shows of its connection, beside that it goes on.
#[inline(always)]
fn client_phase(meta: &Meta) -> u8 {
    let mut bits = 0;
    if meta.tcp_flags & tcp_flags::FIN != 0 {
        bits |= phase::CLIENT_FIN;
    }
    if meta.tcp_flags & tcp_flags::RST != 0 {
        bits |= phase::CLIENT_RESET;
    }
    bits
}

impl Decision {
    /// Before anything is decided: to the kernel.
    pub const UNDECIDED: Self = Self {
        verdict: Verdict::Pass,
        reason: Reason::NotIp,
        learn: Learn::Nothing,
        service: ServiceId { raw: 0 },
        backend: BackendRef { raw: 0 },
        events: 0,
        vip: 0,
    };

    #[inline(always)]
    const fn set(&mut self, verdict: Verdict, reason: Reason) {
        self.verdict = verdict;
        self.reason = reason;
    }

    /// To the kernel.
    #[inline(always)]
    const fn pass(&mut self, reason: Reason) {
        self.set(Verdict::Pass, reason);
    }

    #[inline(always)]
    const fn drop(&mut self, reason: Reason) {
        self.set(Verdict::Drop, reason);
    }

    /// Writes what is remembered of the packet.
    #[inline(always)]
    pub fn remember(&self, meta: &Meta, tick: u32, store: &mut impl Store) {
        let Self { service, backend, .. } = *self;
        match self.learn {
            Learn::Nothing => {}
            Learn::Elsewhere { hash, segment, forget_conn } => {
                store.put_flow(
                    hash,
                    FlowSlot { tag: hash.tag(), service, backend, time: tick as u16, segment },
                );
                if forget_conn {
                    store.remove_conn(meta.conn_key());
                }
            }
            Learn::Here { forget_flow } => {
                let (pod, pod_port) = self.translation();
                let conn = Conn { pod, backend, time: tick, pod_port, kind: conn_kind::LOCAL, phase: 0 };
                store.put_conn(meta.conn_key(), &conn);
                store.put_reverse(
                    &meta.reverse_key_of(pod, pod_port),
                    &meta.reverse_of(service, backend, tick),
                );
                if let Some(hash) = forget_flow {
                    store.remove_flow(hash, service);
                }
            }
            Learn::Kernel { phase, forget_flow } => {
                let (pod, pod_port) = (Addr::UNSPECIFIED, Port { wire: 0 });
                let conn = Conn { pod, backend, time: tick, pod_port, kind: conn_kind::KERNEL, phase };
                store.put_conn(meta.conn_key(), &conn);
                if let Some(hash) = forget_flow {
                    store.remove_flow(hash, service);
                }
            }
            Learn::ReverseOnly => {
                let (pod, pod_port) = self.translation();
                store.put_reverse(
                    &meta.reverse_key_of(pod, pod_port),
                    &meta.reverse_of(service, backend, tick),
                );
            }
            Learn::ConnSeen { phase } => store.touch_conn(meta.conn_key(), tick, phase),
            Learn::ReplySeen { phase, mark_conn } => {
                store.touch_reverse(meta.reverse_key(), tick, phase);
                if mark_conn {
                    let (vip, vip_port) = self.translation();
                    store.mark_conn(&meta.conn_key_of_reply(vip, vip_port), phase);
                }
            }
            Learn::Client { segment } => {
                let (mac, ifindex) = (meta.source_mac, meta.ifindex);
                store.put_client(meta.client_key(), &Client { mac, segment, ifindex, time: tick });
            }
            Learn::Echo { spent } => store.spend_echo(EchoBudget { tick, spent }),
            Learn::Claim { segment, node, is_answer, spent, disowns } => {
                if disowns {
                    store.disown(&meta.source, segment);
                }
                if spent != 0 {
                    store.tell(meta, segment, node, is_answer, EchoBudget { tick, spent });
                }
            }
        }
    }

    /// The address and port that the packet gets; none for a verdict that translates nothing.
    #[inline(always)]
    fn translation(&self) -> (Addr, Port) {
        match self.verdict {
            Verdict::Deliver { address, port } | Verdict::Restore { address, port } => (address, port),
            Verdict::Pass
            | Verdict::Drop
            | Verdict::Advertise { .. }
            | Verdict::EchoReply
            | Verdict::ProbeAnswer { .. }
            | Verdict::Forward { .. } => (Addr::UNSPECIFIED, Port { wire: 0 }),
        }
    }
}
