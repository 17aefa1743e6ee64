//! Step 5 and step 9: what is known of a flow.

use super::{Decision, Learn, Lookup, Verdict, client_phase, event, is_syn};
use crate::{
    flows::FlowHash,
    layout::{Backend, Config, Conn, FlowSlot, Reverse, backend_state, conn_kind, node_state, phase, reach},
    meta::Meta,
    packet::tcp_flags,
    reason::Reason,
};

/// A hit in `FLOWS`: to the node of the remembered backend. `false` if the memory no longer holds.
#[inline(always)]
pub(super) fn elsewhere(
    meta: &Meta,
    maps: &impl Lookup,
    hash: FlowHash,
    slot: FlowSlot,
    decision: &mut Decision,
) -> bool {
    let Some(backend) = maps.backend(slot.backend.index()) else { return false };
    let Some(neighbour) = maps.neighbour(backend.node, slot.segment) else { return false };
    // As if the node were well.
    let is_kept = neighbour.state != node_state::READY && maps.is_kept(slot.backend.index(), slot.segment);
    let now = maps.tick() as u16;
    let idle = now.wrapping_sub(slot.time);
    let holds = slot.backend.generation() == backend.generation
        && neighbour.reach == reach::SEGMENT
        && (neighbour.state != node_state::GONE || is_kept)
        && if meta.is_udp() {
            backend.state != backend_state::GONE && idle as u32 <= maps.config().udp_idle
        } else {
            !is_syn(meta)
                || backend.state == backend_state::READY && (neighbour.state == node_state::READY || is_kept)
        };
    if !holds {
        return false;
    }
    if meta.ttl <= 1 {
        decision.pass(Reason::TtlExceeded);
        return true;
    }
    decision.backend = slot.backend;
    if idle != 0 {
        decision.learn = Learn::Elsewhere { hash, segment: slot.segment, forget_conn: false };
    }
    decision.set(Verdict::Forward { mac: neighbour.mac, ttl: meta.ttl - 1 }, Reason::FlowForwarded);
    true
}

/// A hit in `CONNS`: to the pod, or to the kernel. `false` if the memory no longer holds.
#[inline(always)]
pub(super) fn here(meta: &Meta, maps: &impl Lookup, conn: &Conn, decision: &mut Decision) -> bool {
    let idle = maps.tick().wrapping_sub(conn.time);
    if idle > silence_allowed(meta, maps.config(), conn) {
        return false;
    }

    let is_local = conn.kind == conn_kind::LOCAL;
    let is_udp = meta.is_udp();
    let is_over = if is_syn(meta) {
        // The kernel's flows stay the kernel's, but a port that is used again begins another.
        !is_local && conn.phase & (phase::CLIENT_FIN | phase::CLIENT_RESET) != 0
    } else {
        // The client may have begun another connection from the same port, and another node knows of that.
        !is_udp && conn.phase & phase::POD_RESET != 0
    };
    if is_over {
        return false;
    }
    // A new connection from the same port begins its life anew.
    let phase = if is_syn(meta) {
        0
    } else {
        conn.phase & !phase::CLIENT_RESET | phase::CONTINUED | client_phase(meta)
    };
    if is_local && (is_udp || is_syn(meta)) {
        let Some(backend) = maps.backend(conn.backend.index()) else { return false };
        if !may_continue(backend, conn, is_udp) {
            return false;
        }
    }
    // What closes does not live longer by what is still on its way.
    let stays_young = is_udp || !phase::is_closing(phase);
    if phase != conn.phase || idle != 0 && stays_young {
        decision.learn = Learn::ConnSeen { phase };
    }
    if !is_local {
        decision.pass(Reason::ConnKernel);
        return true;
    }

    let completes = !is_udp
        && conn.phase & (phase::ANSWERED | phase::CONTINUED) == phase::ANSWERED
        && meta.tcp_flags & tcp_flags::ACK != 0;
    if completes {
        decision.events = event::COMPLETED;
    }
    decision.backend = conn.backend;
    decision.set(Verdict::Deliver { address: conn.pod, port: conn.pod_port }, Reason::ConnDelivered);
    true
}

/// Ticks without a packet after which the memory of a connection no longer holds.
#[inline(always)]
fn silence_allowed(meta: &Meta, config: &Config, conn: &Conn) -> u32 {
    if meta.is_udp() {
        return if conn.phase & phase::ANSWERED != 0 { config.udp_idle } else { config.udp_unanswered_idle };
    }
    if phase::is_closing(conn.phase) { config.closing_idle } else { u32::MAX }
}

/// UDP goes on as long as its pod is in a slice, a new TCP connection needs one that takes new flows.
#[inline(always)]
fn may_continue(backend: &Backend, conn: &Conn, is_udp: bool) -> bool {
    backend.generation == conn.backend.generation()
        && if is_udp { backend.state != backend_state::GONE } else { backend.state == backend_state::READY }
}

/// A hit in `REVERSE`: the packet leaves as the VIP.
#[inline(always)]
pub(super) fn reply(meta: &Meta, maps: &impl Lookup, reverse: &Reverse, decision: &mut Decision) {
    let tick = maps.tick();
    let answers_syn = meta.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN | tcp_flags::ACK;
    let mut phase = if answers_syn { phase::ANSWERED } else { reverse.phase };
    if meta.is_udp() {
        phase |= phase::ANSWERED;
    }
    if meta.tcp_flags & tcp_flags::FIN != 0 {
        phase |= phase::POD_FIN;
    }
    if meta.tcp_flags & tcp_flags::RST != 0 {
        phase |= phase::POD_RESET;
    }
    let is_first_answer = phase & phase::ANSWERED != 0 && reverse.phase & phase::ANSWERED == 0;
    if phase != reverse.phase || tick != reverse.time {
        decision.learn = Learn::ReplySeen { phase, mark_conn: phase != reverse.phase };
    }
    decision.service = reverse.service;
    decision.backend = reverse.backend;
    if is_first_answer {
        decision.events = event::ANSWERED;
    }
    decision.set(Verdict::Restore { address: reverse.vip, port: reverse.vip_port }, Reason::ReplyRestored);
}
