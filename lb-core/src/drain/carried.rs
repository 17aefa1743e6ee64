//! What a node carries: which entries of `FLOWS` and `CONNS` count as flows that would miss it.
//!
//! A flow to a pod elsewhere, or one that is left to the kernel, is this node's as long as the client's packets come here: it counts
//! while packets come, and no longer, for the next may go to another node. A connection to a pod here is this node's until it ends,
//! wherever its packets come in. UDP has no end that could be seen, so there too only packets count.

use lb_common::{
    layout::{Conn, FlowLine, conn_kind, phase},
    packet::protocol,
};

/// Ticks (see [`lb_common::layout::Config::tick_shift`]) within which a flow has been used lately. Short, so that clients that have
/// followed a VIP to its new owner do not count for long; longer than a tick, for times of use are no finer.
pub const LATELY: u32 = 3;

/// What a node carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    /// That enter here, for pods elsewhere or for the kernel.
    pub entering: u64,
    /// To pods of this node.
    pub to_pods: u64,
}

impl Flows {
    /// All.
    pub fn total(self) -> u64 {
        self.entering.saturating_add(self.to_pods)
    }
}

/// Counts what is carried, again and again.
///
/// `FLOWS` has 16 bits for the time of a slot's last use, so a slot that was given up hours ago may look as if it was used just now.
/// A use is a time that has changed since the last count.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    /// By slot.
    times: Vec<u16>,
}

impl Carried {
    /// How many slots of these lines are used, `first` being the place of the first of them in `FLOWS`. The first count goes by the
    /// time alone, each later one by what has changed since the one before.
    pub fn flows(&mut self, first: usize, lines: &[FlowLine], tick: u32) -> u64 {
        let mut used = 0;
        let slots = lines.iter().flat_map(|line| line.slots);
        for (place, slot) in (first * lb_common::layout::FLOW_SLOTS..).zip(slots) {
            let is_used = match self.times.get(place) {
                Some(before) => *before != slot.time,
                None => is_lately((tick as u16).wrapping_sub(slot.time).cast_signed().into()),
            };
            used += u64::from(is_used && slot.service.raw != 0);
            if place == self.times.len() {
                self.times.push(slot.time);
            } else if let Some(time) = self.times.get_mut(place) {
                *time = slot.time;
            }
        }
        used
    }
}

/// Whether a connection of `CONNS` counts. `is_backend_there`: its pod is in an EndpointSlice, be it ready or not.
pub fn is_carried(protocol: u32, conn: &Conn, is_backend_there: bool, tick: u32) -> bool {
    let ends = phase::CLIENT_FIN | phase::POD_FIN | phase::CLIENT_RESET | phase::POD_RESET;
    let is_established = protocol == u32::from(protocol::TCP)
        && conn.kind == conn_kind::LOCAL
        && is_backend_there
        && conn.phase & phase::CONTINUED != 0
        && conn.phase & ends == 0;
    let is_closing = protocol == u32::from(protocol::TCP) && phase::is_closing(conn.phase);
    is_established || !is_closing && is_lately(tick.wrapping_sub(conn.time).cast_signed().into())
}

/// A little less than nothing if it was used since the tick was read.
fn is_lately(idle: i64) -> bool {
    idle.unsigned_abs() <= u64::from(LATELY)
}

#[cfg(test)]
mod tests {
    use lb_common::layout::{FlowSlot, ServiceId};

    use super::*;

    const TICK: u32 = 0x3_0001;

    fn line(slots: &[(u32, u16)]) -> FlowLine {
        let mut line = FlowLine::default();
        for (slot, (service, time)) in line.slots.iter_mut().zip(slots) {
            *slot = FlowSlot { service: ServiceId { raw: *service }, time: *time, ..FlowSlot::default() };
        }
        line
    }

    #[test]
    fn a_flow_counts_while_its_packets_come() {
        let mut carried = Carried::default();
        // Just now, a while ago and since the tick was read; long ago; and a slot that is free.
        let lines = [line(&[(7, 1), (7, 0xfffe), (7, 2), (7, 0xfffd)]), line(&[(0, 1)])];
        assert_eq!(carried.flows(0, &lines, TICK), 3);
        assert_eq!(carried.flows(0, &lines, TICK), 0, "no packet has come");
        // One goes on; one that was given up long ago looks as if it was used now.
        let lines = [line(&[(7, 4), (7, 0xfffe), (7, 2), (7, 0xfffd)]), line(&[(0, 4)])];
        assert_eq!(carried.flows(0, &lines, TICK + 0xfffc), 1);
    }

    #[test]
    fn lines_are_counted_in_parts() {
        let mut carried = Carried::default();
        for time in [1, 4] {
            let part = [line(&[(7, time), (7, time)])];
            assert_eq!(
                carried.flows(0, &part, u32::from(time)) + carried.flows(1, &part, u32::from(time)),
                4
            );
        }
        assert_eq!(carried.flows(1, &[line(&[(7, 4), (7, 5)])], 5), 1);
    }

    fn conn(kind: u8, phase: u8, idle: u32) -> Conn {
        Conn { kind, phase, time: TICK.wrapping_sub(idle), ..Conn::default() }
    }

    #[test]
    fn a_connection_to_a_pod_here_counts_until_it_ends() {
        let (long, tcp) = (100_000, u32::from(protocol::TCP));
        let established = phase::CONTINUED | phase::ANSWERED;
        let local = |phase, idle| is_carried(tcp, &conn(conn_kind::LOCAL, phase, idle), true, TICK);
        assert!(local(established, long));
        assert!(local(0, 1) && !local(0, long), "a handshake that nobody completes");
        let half = established | phase::CLIENT_FIN;
        assert!(local(half, 1) && !local(half, long), "half-closed");
        assert!(!local(half | phase::POD_FIN, 0), "closed");
        assert!(!local(established | phase::POD_RESET, 0));
        let orphan = |idle| is_carried(tcp, &conn(conn_kind::LOCAL, established, idle), false, TICK);
        assert!(orphan(1) && !orphan(long), "its pod is in no slice any more");
    }

    #[test]
    fn what_the_kernel_carries_and_udp_count_while_packets_come() {
        for (kind, protocol) in [
            (conn_kind::KERNEL, protocol::TCP),
            (conn_kind::KERNEL, protocol::UDP),
            (conn_kind::LOCAL, protocol::UDP),
        ] {
            let counts = |idle| {
                is_carried(protocol.into(), &conn(kind, phase::CONTINUED | phase::ANSWERED, idle), true, TICK)
            };
            assert!(counts(0) && counts(LATELY) && counts(u32::MAX) && !counts(LATELY + 1));
        }
    }
}
