//! What a node can say of each leg, for people: how it stands, since when, and how this node knows.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Liveness,
    observers::Order,
    verdict::{Condition, Leg},
};

/// All legs that a node knows of, its own included.
pub type Report = BTreeMap<Leg, LegReport>;

/// One leg, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegReport {
    /// What is held of it.
    pub condition: Condition,
    /// How long ago it came into this condition; `None` if nobody has ever found anything else.
    pub since: Option<Duration>,
    /// Those who probe it now, as this node computes it.
    pub observers: Vec<Leg>,
    /// How this node knows.
    pub source: Source,
}

/// How a node knows of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is its own.
    Own,
    /// It probes the leg.
    Probes {
        /// How long ago the last probe was sent that the leg has answered; `None` if it has not since this node began to probe it.
        last_answer: Option<Duration>,
    },
    /// Others say so.
    Others,
}

impl Liveness {
    /// What this node can say of each leg now.
    pub fn report(&self, now: Instant) -> Report {
        let ago = |at: Instant| now.saturating_duration_since(at);
        let of = |leg: Leg| {
            let source = match self.watches.get(&leg) {
                _ if self.own.contains(&leg) => Source::Own,
                Some(watch) => Source::Probes { last_answer: watch.last_answered().map(ago) },
                None => Source::Others,
            };
            LegReport {
                condition: self.view.condition(leg),
                since: self.view.since(leg).map(ago),
                observers: self.observers(leg, now).collect(),
                source,
            }
        };
        self.orders.keys().map(|leg| (*leg, of(*leg))).collect()
    }

    /// Those who probe a leg: of its order the first few that can.
    fn observers(&self, leg: Leg, now: Instant) -> impl Iterator<Item = Leg> + '_ {
        let order = self.orders.get(&leg).into_iter().flat_map(Order::iter);
        order.filter(move |observer| self.can_observe(*observer, now)).take(self.profile.observers)
    }
}
