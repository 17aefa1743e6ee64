//! Who takes part, by SWIM (foca): each agent asks another at random whether it is there, and all hear of those that come and go.
//!
//! Observers are faster, and they alone judge. SWIM is what is left when all observers of a leg have died with it, and it says
//! which agents talk at all. Whom it holds for down is suspected: probes decide.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::{NonZeroU8, NonZeroUsize},
    time::{Duration, Instant},
};

use foca::{
    AccumulatingRuntime, Config, Foca, Identity, NoCustomBroadcast, OwnedNotification, PeriodicParams,
    PostcardCodec, Timer,
};
use rand::{RngExt, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::{Liveness, message::Message, verdict::Leg};

/// Longest message of SWIM, in bytes: with its envelope it fits the smallest MTU of IPv6.
pub const MAX_SWIM: usize = 1_100;

/// An agent in a segment, as long as it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    leg: Leg,
    /// Later ones are higher.
    generation: u64,
}

impl Identity for Member {
    type Addr = Leg;

    fn renew(&self) -> Option<Self> {
        Some(Self { leg: self.leg, generation: self.generation.checked_add(1)? })
    }

    fn addr(&self) -> Leg {
        self.leg
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.generation > other.generation
    }
}

/// What a membership wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// This is to be sent.
    Send { to: Leg, bytes: Vec<u8> },
    /// This leg's agent takes part.
    Met(Leg),
    /// This leg's agent does not take part any more.
    Suspect(Leg),
}

/// This node's part in one segment.
pub(super) struct Membership {
    foca: Foca<Member, PostcardCodec, StdRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Member>,
    timers: BTreeMap<(Instant, u64), Timer<Member>>,
    sequence: u64,
    wishes: VecDeque<Wish>,
}

impl Membership {
    pub(super) fn new(leg: Leg, generation: u64, period: Duration, random: StdRng) -> Self {
        Self {
            foca: Foca::new(Member { leg, generation }, config(period), random, PostcardCodec),
            runtime: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            sequence: 0,
            wishes: VecDeque::new(),
        }
    }

    /// Asks a leg for all that it knows.
    pub(super) fn join(&mut self, leg: Leg, now: Instant) {
        // Whoever is asked looks at the leg alone: its generation is not known yet.
        let _ = self.foca.announce(Member { leg, generation: 0 }, &mut self.runtime);
        self.settle(now);
    }

    /// What another member has sent. What is wrong with it is its own affair.
    pub(super) fn handle(&mut self, bytes: &[u8], now: Instant) {
        let _ = self.foca.handle_data(bytes, &mut self.runtime);
        self.settle(now);
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.first_entry().filter(|timer| timer.key().0 <= now) {
            let _ = self.foca.handle_timer(timer.remove(), &mut self.runtime);
            self.settle(now);
        }
    }

    /// When there will be something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.timers.keys().next().map(|(at, _)| *at)
    }

    pub(super) fn poll(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// Legs whose agents take part, this one's not among them.
    pub(super) fn members(&self) -> BTreeSet<Leg> {
        self.foca.iter_members().map(|member| member.id().leg).collect()
    }

    /// Takes over what the library wants.
    fn settle(&mut self, now: Instant) {
        while let Some((to, bytes)) = self.runtime.to_send() {
            self.wishes.push_back(Wish::Send { to: to.leg, bytes: bytes.to_vec() });
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.sequence += 1;
            self.timers.insert((now + after, self.sequence), timer);
        }
        while let Some(notification) = self.runtime.to_notify() {
            match notification {
                OwnedNotification::MemberDown(member) => self.wishes.push_back(Wish::Suspect(member.leg)),
                OwnedNotification::MemberUp(member) => self.wishes.push_back(Wish::Met(member.leg)),
                OwnedNotification::Rename(..)
                | OwnedNotification::Active
                | OwnedNotification::Idle
                | OwnedNotification::Defunct
                | OwnedNotification::Rejoin(_) => {}
            }
        }
    }
}

impl Liveness {
    /// Sends what SWIM tells, and suspects whom it holds for down.
    pub(super) fn run_memberships(&mut self, now: Instant) {
        let mut wishes = Vec::new();
        for membership in self.memberships.values_mut() {
            wishes.extend(std::iter::from_fn(|| membership.poll()));
        }
        for wish in wishes {
            match wish {
                Wish::Send { to, bytes } if self.orders.contains_key(&to) => {
                    self.tell(to, Message::Swim(bytes));
                }
                Wish::Suspect(leg)
                    if self.view.condition(leg).is_present() && self.orders.contains_key(&leg) =>
                {
                    self.suspect(leg, now);
                }
                Wish::Met(leg) => self.note_heard(leg, now),
                // Who is in the cluster says the source.
                Wish::Send { .. } | Wish::Suspect(_) => {}
            }
        }
    }

    /// Asks one leg whose agent should take part and does not, as far as this node has heard: who is in the cluster says the source.
    pub(super) fn join_missing(&mut self, now: Instant) {
        for (own, legs) in &self.segments {
            let Some(membership) = self.memberships.get_mut(own) else { continue };
            let members = membership.members();
            let is_missing = |leg: &&Leg| {
                *leg != own && !members.contains(*leg) && self.view.condition(**leg).is_present()
            };
            let missing: Vec<&Leg> = legs.iter().filter(is_missing).collect();
            if !missing.is_empty() {
                membership.join(*missing[self.random.random_range(0..missing.len())], now);
            }
        }
        self.run_memberships(now);
    }

    /// The own leg in the segment in which another is.
    pub(super) fn segment_of(&self, leg: Leg) -> Option<Leg> {
        self.segments.iter().find(|(_, legs)| legs.contains(&leg)).map(|(own, _)| *own)
    }

    /// Legs whose agents take part, as far as this node has heard.
    pub fn members(&self) -> BTreeSet<Leg> {
        self.memberships.values().flat_map(Membership::members).chain(self.own.iter().copied()).collect()
    }
}

fn config(period: Duration) -> Config {
    let number = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
    let every =
        |periods, members| Some(PeriodicParams { frequency: periods * period, num_members: number(members) });
    Config {
        probe_period: period,
        probe_rtt: period / 3,
        num_indirect_probes: number(3),
        max_transmissions: NonZeroU8::new(10).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: 3 * period,
        remove_down_after: Some(3_600 * period),
        max_packet_size: number(MAX_SWIM),
        notify_down_members: true,
        periodic_announce: every(30, 1),
        periodic_announce_to_down_members: every(60, 2),
        periodic_gossip: every(1, 2),
    }
}
