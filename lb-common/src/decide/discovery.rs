//! Steps 1 and 2: who has the VIP, and does it live; and does this node.

use super::{Arrival, Decision, Learn, Lookup, Verdict};
use crate::{
    layout::{Addr, EVENT_LIMIT, NO_NODE, PeerKey, SpreadKey, Vip, event_kind, vip_flags},
    meta::{Kind, Meta},
    reason::Reason,
    spread::share_of,
};

/// ARP and NDP: a question for a VIP is answered, or what is said of one is noted.
#[inline(always)]
pub(super) fn resolve(meta: &Meta, maps: &impl Lookup, decision: &mut Decision) {
    let asks = match meta.kind {
        // A request of an address for itself tells, and asks nothing (RFC 5227 2.3).
        Kind::ArpRequest => meta.source != meta.destination,
        Kind::NeighbourSolicitation => true,
        _ => false,
    };
    let asked = if asks { maps.vip(&meta.destination) } else { None };
    match asked {
        Some(vip) => answer(meta, maps, &vip, decision),
        None => claim(meta, maps, asks, decision),
    }
}

/// Answered if this node owns the VIP in the segment, or of a spread VIP the client's share. The other nodes' kernels must not
/// answer for a VIP that some proxy has bound there, so theirs are dropped.
#[inline(always)]
fn answer(meta: &Meta, maps: &impl Lookup, vip: &Vip, decision: &mut Decision) {
    let Some(link) = maps.link(&meta.link_key()) else {
        return decision.pass(Reason::NotOurLink);
    };
    if link.mac != meta.destination_mac && !meta.destination_mac.is_group() {
        return decision.pass(Reason::NotOurMac);
    }
    let segment = 1_u32.wrapping_shl(link.segment as u32);
    if vip.announced & segment == 0 {
        return decision.pass(Reason::NotAnnounced);
    }
    decision.vip = vip.stats;
    let is_spread = vip.flags & vip_flags::SPREAD != 0;
    let is_probe = meta.source.is_unspecified() || meta.source == Addr::from_v4_wire(0);
    if is_spread && !is_probe {
        // Answered here or not: this node may be the next to answer.
        decision.learn = Learn::Client { segment: link.segment };
    }
    if vip.owned & segment == 0 {
        return decision.drop(Reason::NotOwner);
    }
    if is_spread {
        let key = SpreadKey { vip: meta.destination, segment: link.segment as u32 };
        if !maps.has_share(&key, share_of(&meta.destination, &meta.source)) {
            return decision.drop(Reason::NotOwnShare);
        }
    }
    let reason = match meta.kind {
        Kind::ArpRequest => Reason::ArpAnswered,
        _ => Reason::NdpAnswered,
    };
    decision.set(Verdict::Advertise { mac: link.mac, is_shared: is_spread }, reason);
}

/// The sender has a VIP as its address (RFC 5227 2.4). A probe has none, and claims nothing. A node that only asks says nothing of
/// itself either: its kernel may have bound the VIP for a proxy.
#[inline(always)]
fn claim(meta: &Meta, maps: &impl Lookup, asks: bool, decision: &mut Decision) {
    let Some(vip) = maps.vip(&meta.source) else {
        return decision.pass(Reason::NotVip);
    };
    let Some(link) = maps.link(&meta.link_key()) else {
        return decision.pass(Reason::NotOurLink);
    };
    let segment = 1_u32.wrapping_shl(link.segment as u32);
    if vip.announced & segment == 0 {
        return decision.pass(Reason::NotAnnounced);
    }
    // An integer at once: an `Option` would be kept in two registers, of which the verifier finds one unwritten.
    let node = maps.peer(&PeerKey { segment: link.segment, mac: meta.source_mac }).unwrap_or(NO_NODE);
    let is_node = node != NO_NODE || meta.source_mac == link.mac;
    if is_node && asks {
        return decision.pass(Reason::NotVip);
    }
    let (kind, reason) = if is_node {
        (event_kind::PEER_CLAIM, Reason::PeerAnnounced)
    } else {
        (event_kind::FOREIGN_CLAIM, Reason::ForeignClaim)
    };
    // A node's answer is for this node's kernel, which has asked. A stranger's is not: it would be believed.
    let passes = asks || is_node && !matches!(meta.kind, Kind::ArpRequest);
    decision.set(if passes { Verdict::Pass } else { Verdict::Drop }, reason);
    if meta.source_mac == link.mac {
        return;
    }
    let (tick, budget) = (maps.tick(), maps.event_budget(kind));
    let spent = if budget.tick == tick { budget.spent } else { 0 };
    decision.learn = Learn::Claim {
        segment: link.segment,
        node,
        // A data path answers to the MAC that has asked; what is announced goes to all.
        is_answer: meta.destination_mac == link.mac && !matches!(meta.kind, Kind::ArpRequest),
        spent: if spent < EVENT_LIMIT { spent + 1 } else { 0 },
        // With the agent gone, whoever has taken over is the owner. Of a spread VIP each node has a part.
        disowns: is_node
            && vip.owned & segment != 0
            && vip.flags & vip_flags::SPREAD == 0
            && !maps.lease_holds(),
    };
}

/// Echo request: answered by whichever node it reaches, so that any of them can be asked.
#[inline(always)]
pub(super) fn echo(meta: &Meta, maps: &impl Lookup, decision: &mut Decision) {
    let Some(vip) = maps.vip(&meta.destination) else {
        return decision.pass(Reason::NotVip);
    };
    if let Err(reason) = Arrival::of(meta, maps) {
        return decision.pass(reason);
    }
    if vip.flags & vip_flags::ECHO == 0 {
        return decision.drop(Reason::EchoSilent);
    }
    let tick = maps.tick();
    let budget = maps.echo_budget();
    let spent = if budget.tick == tick { budget.spent } else { 0 };
    if spent >= maps.config().echo_limit {
        return decision.drop(Reason::EchoLimited);
    }
    decision.set(Verdict::EchoReply, Reason::EchoAnswered);
    decision.learn = Learn::Echo { spent: spent + 1 };
}

/// Probe of another node's: answered whether the agent is there or not, and the answer says which.
#[inline(always)]
pub(super) fn probe(meta: &Meta, maps: &impl Lookup, decision: &mut Decision) {
    if let Err(reason) = Arrival::of(meta, maps) {
        return decision.pass(reason);
    }
    decision.set(Verdict::ProbeAnswer { lease_holds: maps.lease_holds() }, Reason::ProbeAnswered);
}
