//! What frames are put to: the loaded programs, or the same functions on the host.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result};
use lb_agent::dataplane::{Entry, LinkMode};
use lb_common::{
    Action, InPlace, Reason, apply, decide, decide_reply,
    layout::{ClaimEvent, Client, ClientKey, Kept, Vip},
    packet::Frame,
    parse,
};
use lb_core::{
    host::HostMaps,
    maps::{Maps, Op},
};
use magnetite_tests::fixture::{self, IFINDEX};

/// A node of the fixture that frames arrive at and leave from.
pub trait Machine {
    /// A frame meets a program.
    fn run(&mut self, entry: Entry, frame: &[u8]) -> Result<Outcome>;

    /// Whether the agent is there, as far as the data path knows; at the beginning it is not.
    fn set_lease(&mut self, holds: bool) -> Result<()>;

    /// `CLIENTS`, without times.
    fn clients(&mut self) -> Result<BTreeMap<ClientKey, Client>>;

    /// The entry of a VIP.
    fn vip(&mut self, address: IpAddr) -> Result<Vip>;

    /// Claims that were told of since the last call, without their times.
    fn claims(&mut self) -> Result<Vec<ClaimEvent>>;

    /// Changes a config map.
    fn apply(&mut self, op: &Op) -> Result<()>;

    /// Segments in which a backend is used as if its node were well.
    fn keep(&mut self, backend: u32, segments: u32) -> Result<()>;

    /// Reasons counted since the last call.
    fn reasons(&mut self) -> Result<Vec<Reason>>;

    /// A frame arrives.
    fn arrive(&mut self, frame: &[u8]) -> Result<Outcome> {
        self.run(Entry::Arrival(LinkMode::Native), frame)
    }

    /// A frame leaves.
    fn leave(&mut self, frame: &[u8]) -> Result<Outcome> {
        self.run(Entry::Departure, frame)
    }
}

/// What was done with a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// XDP action, or tc action.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// `XDP_DROP`.
pub const DROP: u32 = 1;
/// `XDP_PASS`.
pub const PASS: u32 = 2;
/// `XDP_TX`.
pub const TX: u32 = 3;
/// `TC_ACT_SHOT`: what egress says of a reply that it could not rewrite.
pub const SHOT: u32 = 2;
/// `TC_ACT_UNSPEC`, on to the next program: what egress says of every other frame.
pub const NEXT: u32 = u32::MAX;

/// The decision without a kernel: needs no privilege.
pub struct HostNode {
    maps: HostMaps,
    reasons: Vec<Reason>,
}

impl HostNode {
    /// A node that has seen nothing yet.
    pub fn new() -> Self {
        let mut maps = Maps::empty(&fixture::sizes());
        fixture::ops().iter().for_each(|op| maps.apply(op));
        Self { maps: HostMaps::new(maps), reasons: Vec::new() }
    }

    /// What it knows.
    pub fn maps(&self) -> &HostMaps {
        &self.maps
    }
}

impl Machine for HostNode {
    fn run(&mut self, entry: Entry, frame: &[u8]) -> Result<Outcome> {
        let Some(copy) = Frame::new(frame) else {
            return Ok(Outcome { action: PASS, frame: frame.to_vec() });
        };
        let mut packet = InPlace(copy);
        let meta = parse(&packet.0, IFINDEX);
        let decision = match entry {
            Entry::Arrival(_) => decide(&meta, &self.maps),
            Entry::Departure => decide_reply(&meta, &self.maps),
        };
        let tick = self.maps.tick;
        decision.remember(&meta, tick, &mut self.maps);
        self.reasons.push(decision.reason);
        let applied = apply(&decision, &meta, &mut packet);
        self.reasons.extend(applied.is_none().then_some(Reason::RewriteFailed));
        let action = match (entry, applied) {
            (Entry::Departure, Some(_)) => NEXT,
            (Entry::Departure, None) => SHOT,
            (Entry::Arrival(_), Some(Action::Pass)) => PASS,
            (Entry::Arrival(_), Some(Action::Drop) | None) => DROP,
            (Entry::Arrival(_), Some(Action::Transmit)) => TX,
        };
        Ok(Outcome { action, frame: packet.0.bytes().to_vec() })
    }

    fn set_lease(&mut self, holds: bool) -> Result<()> {
        self.maps.lease_holds = holds;
        Ok(())
    }

    fn clients(&mut self) -> Result<BTreeMap<ClientKey, Client>> {
        Ok(self.maps.clients.clone())
    }

    fn vip(&mut self, address: IpAddr) -> Result<Vip> {
        self.maps.maps.vips.get(&address.into()).copied().context("no such VIP")
    }

    fn claims(&mut self) -> Result<Vec<ClaimEvent>> {
        Ok(std::mem::take(&mut self.maps.events))
    }

    fn apply(&mut self, op: &Op) -> Result<()> {
        self.maps.maps.apply(op);
        Ok(())
    }

    fn keep(&mut self, backend: u32, segments: u32) -> Result<()> {
        self.maps.kept.insert(backend, Kept { segments });
        Ok(())
    }

    fn reasons(&mut self) -> Result<Vec<Reason>> {
        Ok(std::mem::take(&mut self.reasons))
    }
}
