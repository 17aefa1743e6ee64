//! Steps 1 and 2: who has the VIP, and does it live; and does this node.

use super::{Arrival, Decision, Learn, Lookup, Verdict};
use crate::{
    layout::{Addr, PeerKey, SpreadKey, vip_flags},
    meta::{Kind, Meta},
    reason::Reason,
    spread::share_of,
};

/// ARP request or neighbour solicitation: answered if this node owns the VIP in the segment, or of a spread VIP the client's share.
/// The other nodes' kernels must not answer for a VIP that some proxy has bound there, so theirs are dropped.
#[inline(always)]
pub(super) fn resolve(meta: &Meta, maps: &impl Lookup, decision: &mut Decision) {
    let Some(vip) = maps.vip(&meta.destination) else {
        return decision.pass(Reason::NotVip);
    };
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
    if matches!(meta.kind, Kind::ArpRequest) && meta.source == meta.destination {
        // A request of an address for itself tells, and asks nothing (RFC 5227 2.3).
        let from = PeerKey { segment: link.segment, mac: meta.source_mac };
        let is_peer = maps.peer(&from).is_some();
        return decision.drop(if is_peer { Reason::PeerAnnounced } else { Reason::ForeignClaim });
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
    decision.set(Verdict::Advertise { mac: link.mac }, reason);
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
