//! Leaving on purpose: why a node leaves, until when, and what it still carries.
//!
//! A node that leaves owns no VIP, if any other node can have it. It goes on forwarding, its pods go on taking flows for as long as
//! their endpoints do, and nothing is ever cut: a deadline that passes is said, no more.

mod carried;

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

pub use carried::{Carried, Flows, LATELY, is_carried};

/// Why a node leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Annotation `magnetite.io/drain` on its Node.
    Annotation,
    /// Taint `node.kubernetes.io/out-of-service` on its Node: its machine is down for good, somebody has said (Kubernetes:
    /// non-graceful node shutdown).
    OutOfService,
    /// Taint `ToBeDeletedByClusterAutoscaler` on its Node (cluster-autoscaler: `utils/taints/taints.go`).
    Autoscaler,
    /// Taint `karpenter.sh/disrupted` on its Node: Karpenter has begun to replace it (karpenter: `pkg/apis/v1/taints.go`).
    Disrupted,
    /// `lb-agent drain`.
    Command,
    /// The machine shuts down.
    Shutdown,
    /// The agent was asked to end, and to drain first.
    Terminating,
}

impl Reason {
    /// Those that stand in a Node, as all nodes read them.
    pub const OF_NODES: [Self; 4] = [Self::Annotation, Self::OutOfService, Self::Autoscaler, Self::Disrupted];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Annotation => "annotation magnetite.io/drain",
            Self::OutOfService => "taint node.kubernetes.io/out-of-service",
            Self::Autoscaler => "taint ToBeDeletedByClusterAutoscaler",
            Self::Disrupted => "taint karpenter.sh/disrupted",
            Self::Command => "lb-agent drain",
            Self::Shutdown => "shutdown of the machine",
            Self::Terminating => "SIGTERM",
        })
    }
}

/// Until when a node should be drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Limit {
    /// However long it takes.
    #[default]
    Unlimited,
    /// So long after this node has heard of it.
    Within(Duration),
    /// At this time.
    Until(SystemTime),
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    since: SystemTime,
    limit: Limit,
}

impl Asked {
    fn deadline(&self) -> Option<SystemTime> {
        match self.limit {
            Limit::Unlimited => None,
            Limit::Within(time) => self.since.checked_add(time),
            Limit::Until(at) => Some(at),
        }
    }
}

/// A drain that an earlier agent of the node has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// When it began.
    pub since: SystemTime,
    /// What the node carried then, if it was counted.
    pub at_begin: Option<u64>,
}

/// Whether this node leaves, and how far it has come.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    asked: BTreeMap<Reason, Asked>,
    since: Option<SystemTime>,
    at_begin: Option<u64>,
    left: Option<Flows>,
    vips: usize,
    was_owner: bool,
    earlier: Option<Earlier>,
}

impl Drain {
    /// A node that stays; should it leave before [`Self::forget_earlier`], it goes on with what an earlier agent has begun.
    pub fn new(earlier: Option<Earlier>) -> Self {
        Self { earlier, ..Self::default() }
    }

    /// Everything that asks the node to leave has been looked at: whatever asks later asks anew.
    pub fn forget_earlier(&mut self) {
        self.earlier = None;
    }

    /// Somebody asks the node to leave, perhaps again.
    pub fn ask(&mut self, reason: Reason, limit: Limit, now: SystemTime) {
        let since = self.earlier.map_or(now, |earlier| earlier.since);
        if self.asked.is_empty() {
            self.since = Some(since);
            self.at_begin = self.earlier.and_then(|earlier| earlier.at_begin);
        }
        self.asked.entry(reason).and_modify(|asked| asked.limit = limit).or_insert(Asked { since, limit });
    }

    /// Nobody asks for this reason any more.
    pub fn take_back(&mut self, reason: Reason) {
        if self.asked.remove(&reason).is_some() && self.asked.is_empty() {
            (self.since, self.at_begin, self.left) = (None, None, None);
        }
    }

    /// What this node's Node says: all of [`Reason::OF_NODES`].
    pub fn node_says(&mut self, leaving: &BTreeMap<Reason, Limit>, now: SystemTime) {
        for reason in Reason::OF_NODES {
            match leaving.get(&reason) {
                Some(limit) => self.ask(reason, *limit, now),
                None => self.take_back(reason),
            }
        }
    }

    /// Whether the node leaves.
    pub fn is_on(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Until when it should be drained for this reason; `None` if it need not be.
    pub fn deadline_of(&self, reason: Reason) -> Option<SystemTime> {
        self.asked.get(&reason)?.deadline()
    }

    /// The next deadline that is still to come.
    pub fn next_deadline(&self, now: SystemTime) -> Option<SystemTime> {
        self.asked.values().filter_map(Asked::deadline).filter(|deadline| *deadline > now).min()
    }

    /// How many VIPs this node owns.
    pub fn owns(&mut self, vips: usize) {
        self.vips = vips;
        self.was_owner |= vips > 0;
    }

    /// What the node carries is going to be counted.
    pub fn count_begins(&mut self) {
        self.was_owner = self.vips > 0;
    }

    /// What the node carries.
    pub fn counted(&mut self, flows: Flows) {
        if self.is_on() {
            self.at_begin.get_or_insert(flows.total());
            self.left = Some(flows);
        }
    }

    /// How far it has come; `None` of a node that stays.
    pub fn progress(&self, now: SystemTime) -> Option<Progress> {
        let since = self.since.filter(|_| self.is_on())?;
        let deadline = self.asked.values().filter_map(Asked::deadline).min();
        let is_drained =
            self.vips == 0 && !self.was_owner && self.left.is_some_and(|left| left == Flows::default());
        Some(Progress {
            reasons: self.asked.keys().copied().collect(),
            since,
            deadline,
            is_overdue: !is_drained && deadline.is_some_and(|deadline| deadline <= now),
            is_drained,
            at_begin: self.at_begin,
            left: self.left,
            vips: self.vips,
        })
    }
}

/// How far a node that leaves has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Why it leaves, at least one.
    pub reasons: Vec<Reason>,
    /// Since when.
    pub since: SystemTime,
    /// The first time at which it should be drained, if there is any.
    pub deadline: Option<SystemTime>,
    /// The deadline has passed, and the node still carries something. Nothing was cut because of that.
    pub is_overdue: bool,
    /// It owns no VIP and carries nothing: nobody would notice if it were gone.
    pub is_drained: bool,
    /// Flows that it carried at the beginning; `None` before they are counted.
    pub at_begin: Option<u64>,
    /// Flows that it carried when they were last counted.
    pub left: Option<Flows>,
    /// VIPs that it owns still, for no other node can.
    pub vips: usize,
}

impl Progress {
    /// How much of what the node carried has ended or goes another way, in percent; 100 only if nothing is left.
    pub fn percent(&self) -> u8 {
        let (Some(begin), Some(left)) = (self.at_begin, self.left) else { return 0 };
        let left = left.total();
        match begin.max(left) {
            0 => 100,
            // At most 100, for what is left is no more than the whole.
            whole => ((whole - left).saturating_mul(100) / whole) as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        BEGIN + Duration::from_secs(seconds)
    }

    fn flows(entering: u64, to_pods: u64) -> Flows {
        Flows { entering, to_pods }
    }

    fn count(drain: &mut Drain, flows: Flows) {
        drain.count_begins();
        drain.counted(flows);
    }

    #[test]
    fn progress_is_against_the_beginning_and_ends_with_the_last_flow() {
        let mut drain = Drain::default();
        assert_eq!(drain.progress(at(0)), None);
        drain.owns(2);
        drain.ask(Reason::Command, Limit::Unlimited, at(0));
        let percent =
            |drain: &Drain| drain.progress(at(9)).map(|progress| (progress.percent(), progress.is_drained));
        assert_eq!(percent(&drain), Some((0, false)));
        count(&mut drain, flows(300, 100));
        assert_eq!(percent(&drain), Some((0, false)));
        drain.owns(0);
        count(&mut drain, flows(3, 9));
        assert_eq!(percent(&drain), Some((97, false)));
        count(&mut drain, flows(0, 1));
        assert_eq!(percent(&drain), Some((99, false)), "one of 400 is not nothing");
        count(&mut drain, flows(0, 0));
        assert_eq!(percent(&drain), Some((100, true)));
        count(&mut drain, flows(0, 800));
        assert_eq!(percent(&drain), Some((0, false)), "pods take new flows");
    }

    #[test]
    fn an_owner_is_not_drained_and_neither_is_who_was_counted_as_one() {
        let mut drain = Drain::default();
        drain.owns(1);
        drain.ask(Reason::Shutdown, Limit::Within(Duration::from_secs(5)), at(0));
        count(&mut drain, flows(0, 0));
        let is_drained = |drain: &Drain| drain.progress(at(1)).is_some_and(|progress| progress.is_drained);
        assert!(!is_drained(&drain), "it owns a VIP");
        drain.owns(0);
        assert!(!is_drained(&drain), "flows may have come since");
        count(&mut drain, flows(0, 0));
        assert!(is_drained(&drain));
    }

    #[test]
    fn the_first_deadline_is_said_and_passes() {
        let mut drain = Drain::default();
        drain.ask(Reason::Annotation, Limit::Within(Duration::from_secs(60)), at(10));
        drain.ask(Reason::Annotation, Limit::Within(Duration::from_secs(60)), at(30));
        drain.ask(Reason::Command, Limit::Until(at(90)), at(40));
        drain.ask(Reason::OutOfService, Limit::Unlimited, at(50));
        count(&mut drain, flows(1, 0));
        let said = |drain: &Drain, now| {
            drain.progress(now).map(|progress| (progress.since, progress.deadline, progress.is_overdue))
        };
        assert_eq!(said(&drain, at(69)), Some((at(10), Some(at(70)), false)));
        assert_eq!(said(&drain, at(70)), Some((at(10), Some(at(70)), true)));
        count(&mut drain, flows(0, 0));
        assert_eq!(said(&drain, at(70)), Some((at(10), Some(at(70)), false)), "it is drained");
        drain.take_back(Reason::Annotation);
        assert_eq!(drain.progress(at(70)).and_then(|progress| progress.deadline), Some(at(90)));
        assert_eq!(drain.deadline_of(Reason::Command), Some(at(90)));
        assert_eq!(drain.deadline_of(Reason::Annotation), None);
        assert_eq!([89, 90].map(|now| drain.next_deadline(at(now))), [Some(at(90)), None]);
    }

    #[test]
    fn who_is_taken_back_and_asked_again_begins_anew() {
        let mut drain = Drain::default();
        let leaving = [(Reason::Annotation, Limit::Unlimited), (Reason::Autoscaler, Limit::Unlimited)];
        drain.node_says(&leaving.into(), at(0));
        drain.ask(Reason::Command, Limit::Unlimited, at(1));
        count(&mut drain, flows(4, 0));
        drain.node_says(&BTreeMap::new(), at(2));
        assert!(drain.is_on(), "the command was not taken back");
        drain.take_back(Reason::Command);
        assert!(!drain.is_on() && drain.progress(at(3)).is_none());
        drain.ask(Reason::Command, Limit::Unlimited, at(4));
        let progress = drain.progress(at(4));
        assert_eq!(progress.map(|progress| (progress.since, progress.at_begin)), Some((at(4), None)));
    }

    #[test]
    fn an_agent_that_begins_goes_on_with_what_was_begun() {
        let earlier = Some(Earlier { since: at(10), at_begin: Some(100) });
        let within = Limit::Within(Duration::from_secs(60));
        let mut drain = Drain::new(earlier);
        drain.ask(Reason::Annotation, within, at(50));
        count(&mut drain, flows(25, 0));
        let progress = drain.progress(at(50));
        let seen = progress.map(|progress| (progress.since, progress.deadline, progress.percent()));
        assert_eq!(seen, Some((at(10), Some(at(70)), 75)));

        let mut stays = Drain::new(earlier);
        stays.forget_earlier();
        stays.ask(Reason::Annotation, within, at(50));
        assert_eq!(stays.progress(at(50)).map(|progress| progress.since), Some(at(50)));
    }
}
