//! Step 5 and step 9: what is known of a flow.

use super::{Decision, Learn, Lookup, Verdict, client_phase, event, is_syn};
use crate::{
    flows::FlowHash,
    layout::{Backend, Conn, FlowSlot, Reverse, Service, backend_state, conn_kind, node_state, phase, reach},
    meta::Meta,
    packet::tcp_flags,
    reason::Reason,
};

/// A hit in `FLOWS`: to the node of the remembered backend. `None` if the memory no longer holds.
#[inline(always)]
pub(super) fn elsewhere(meta: &Meta, maps: &impl Lookup, hash: FlowHash, slot: FlowSlot) -> Option<Decision> {
    let backend = maps.backend(slot.backend.index())?;
    let neighbour = maps.neighbour(backend.node, slot.segment)?;
    let now = maps.tick() as u16;
    let idle = now.wrapping_sub(slot.time);
    let holds = slot.backend.generation() == backend.generation
        && neighbour.reach == reach::SEGMENT
        && neighbour.state != node_state::GONE
        && if meta.is_udp() {
            backend.state != backend_state::GONE && idle as u32 <= maps.config().udp_idle
        } else {
            !is_syn(meta) || backend.state == backend_state::READY && neighbour.state == node_state::READY
        };
    if !holds {
        return None;
    }
    if meta.ttl <= 1 {
        return Some(Decision::pass(Reason::TtlExceeded));
    }
    let learn = if idle == 0 {
        Learn::Nothing
    } else {
        Learn::Elsewhere { hash, segment: slot.segment, forget_conn: false }
    };
    let verdict = Verdict::Forward { mac: neighbour.mac, ttl: meta.ttl - 1 };
    Some(Decision::new(verdict, Reason::FlowForwarded).learn(learn).count(
        slot.service,
        Some(slot.backend),
        0,
    ))
}

/// A hit in `CONNS`: to the pod, or to the kernel. `None` if the memory no longer holds.
#[inline(always)]
pub(super) fn here(meta: &Meta, maps: &impl Lookup, service: &Service, conn: &Conn) -> Option<Decision> {
    let config = maps.config();
    let tick = maps.tick();
    let idle = tick.wrapping_sub(conn.time);
    let is_udp = meta.is_udp();
    let silence_allowed = if is_udp && conn.phase & phase::ANSWERED != 0 {
        config.udp_idle
    } else if is_udp {
        config.udp_unanswered_idle
    } else if phase::is_closing(conn.phase) {
        config.closing_idle
    } else {
        u32::MAX
    };
    if idle > silence_allowed {
        return None;
    }

    // A new connection from the same port begins its life anew.
    let phase = if is_syn(meta) { 0 } else { conn.phase | phase::CONTINUED | client_phase(meta) };
    let learn = if idle == 0 && phase == conn.phase { Learn::Nothing } else { Learn::ConnSeen { phase } };
    if conn.kind != conn_kind::LOCAL {
        return Some(Decision::pass(Reason::ConnKernel).learn(learn).count(service.id, None, 0));
    }

    if is_udp || is_syn(meta) {
        let backend = maps.backend(conn.backend.index())?;
        if !may_continue(backend, conn, is_udp) {
            return None;
        }
    }
    let completes = !is_udp
        && conn.phase & (phase::ANSWERED | phase::CONTINUED) == phase::ANSWERED
        && meta.tcp_flags & tcp_flags::ACK != 0;
    let events = if completes { event::COMPLETED } else { 0 };
    let verdict = Verdict::Deliver { address: conn.pod, port: conn.pod_port };
    Some(Decision::new(verdict, Reason::ConnDelivered).learn(learn).count(
        service.id,
        Some(conn.backend),
        events,
    ))
}

/// UDP goes on as long as its pod is in a slice, a new TCP connection needs one that takes new flows.
#[inline(always)]
fn may_continue(backend: &Backend, conn: &Conn, is_udp: bool) -> bool {
    backend.generation == conn.backend.generation()
        && if is_udp { backend.state != backend_state::GONE } else { backend.state == backend_state::READY }
}

/// A hit in `REVERSE`: the packet leaves as the VIP.
#[inline(always)]
pub(super) fn reply(meta: &Meta, maps: &impl Lookup, reverse: Reverse) -> Decision {
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
        phase |= phase::RESET;
    }
    let is_first_answer = phase & phase::ANSWERED != 0 && reverse.phase & phase::ANSWERED == 0;
    let learn = if phase == reverse.phase && tick == reverse.time {
        Learn::Nothing
    } else {
        Learn::ReplySeen { phase, mark_conn: phase != reverse.phase }
    };
    let verdict = Verdict::Restore { address: reverse.vip, port: reverse.vip_port };
    Decision::new(verdict, Reason::ReplyRestored).learn(learn).count(
        reverse.service,
        Some(reverse.backend),
        if is_first_answer { event::ANSWERED } else { 0 },
    )
}
