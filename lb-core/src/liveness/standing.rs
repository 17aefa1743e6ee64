//! What follows from a view at one moment: which legs new flows avoid, which are given up, and which may own.

use std::collections::{BTreeMap, BTreeSet};

use super::verdict::{Condition, Leg};

/// How legs stand at one moment. The default: all are well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    conditions: BTreeMap<Leg, Condition>,
    /// With their place in the order of trouble.
    avoided: BTreeMap<Leg, usize>,
    gone: BTreeSet<Leg>,
}

impl Standing {
    /// `conditions` are of the legs that are not simply answering, those first that have been so for longest; of all `legs`, this
    /// node's own among them, no more than half are avoided, for the others could not carry it. Those without an agent are not avoided:
    /// the kernel sends to them.
    pub fn new(conditions: &[(Leg, Condition)], gone: BTreeSet<Leg>, legs: usize) -> Self {
        let is_trouble = |condition: &Condition| matches!(condition, Condition::Yielding | Condition::Silent);
        let troubled = conditions.iter().filter(|(_, condition)| is_trouble(condition));
        Self {
            conditions: conditions.iter().copied().collect(),
            avoided: troubled.map(|(leg, _)| *leg).take(legs / 2).zip(0..).collect(),
            gone,
        }
    }

    /// A leg's condition.
    pub fn condition(&self, leg: Leg) -> Condition {
        self.conditions.get(&leg).copied().unwrap_or_default()
    }

    /// How many legs do not answer at all.
    pub fn silent(&self) -> usize {
        self.conditions.values().filter(|condition| !condition.answers()).count()
    }

    /// Legs of nodes without an agent.
    pub fn absent(&self) -> impl Iterator<Item = Leg> + '_ {
        let absent = self.conditions.iter().filter(|(_, condition)| **condition == Condition::Absent);
        absent.map(|(leg, _)| *leg)
    }

    /// Whether new flows avoid it.
    pub fn is_avoided(&self, leg: Leg) -> bool {
        self.avoided.contains_key(&leg)
    }

    /// A leg's place among those that new flows avoid, those first that have been in trouble for longest; `None` if they do not.
    pub fn trouble(&self, leg: Leg) -> Option<usize> {
        self.avoided.get(&leg).copied()
    }

    /// Whether nothing is sent to it any more.
    pub fn is_gone(&self, leg: Leg) -> bool {
        self.gone.contains(&leg) && self.is_avoided(leg)
    }

    /// The owner among legs in the order of their rank: the first that answers and is neither returning nor leaving; if there is none,
    /// the first that returns, then the first that leaves, then the first whose data plane answers; and if none does, the first.
    pub fn owner(&self, ranked: &[Leg]) -> Option<Leg> {
        let best = ranked.iter().find(|leg| self.condition(**leg) == Condition::Answering);
        best.or_else(|| ranked.iter().min_by_key(|leg| self.condition(**leg))).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn leg(host: u8) -> Leg {
        IpAddr::from([10, 0, 0, host])
    }

    #[test]
    fn the_best_ranked_that_answers_owns_and_somebody_always_does() {
        let ranked = [leg(3), leg(1), leg(2)];
        let owner =
            |troubled: &[(Leg, Condition)]| Standing::new(troubled, BTreeSet::new(), 3).owner(&ranked);
        assert_eq!(owner(&[]), Some(leg(3)));
        assert_eq!(owner(&[(leg(3), Condition::Yielding)]), Some(leg(1)));
        let (silent, yielding) = (Condition::Silent, Condition::Yielding);
        assert_eq!(owner(&[(leg(3), silent), (leg(1), silent), (leg(2), yielding)]), Some(leg(2)));
        assert_eq!(owner(&[(leg(3), silent), (leg(1), silent), (leg(2), silent)]), Some(leg(3)));
        let returning = [(leg(3), Condition::Returning), (leg(1), Condition::Leaving)];
        assert_eq!(owner(&returning), Some(leg(2)));
        assert_eq!(owner(&[&returning[..], &[(leg(2), silent)]].concat()), Some(leg(3)));
        assert_eq!(Standing::default().owner(&[]), None);
    }

    #[test]
    fn no_more_than_half_are_avoided_and_what_is_not_avoided_is_not_given_up() {
        let troubled = [leg(1), leg(2), leg(3)].map(|leg| (leg, Condition::Silent));
        let standing = Standing::new(&troubled, [leg(1), leg(3)].into(), 5);
        let avoided = [leg(1), leg(2), leg(3), leg(4)].map(|leg| standing.is_avoided(leg));
        assert_eq!(avoided, [true, true, false, false]);
        assert!(standing.is_gone(leg(1)) && !standing.is_gone(leg(2)) && !standing.is_gone(leg(3)));
        assert!(!Standing::new(&troubled[..1], BTreeSet::new(), 1).is_avoided(leg(1)));
        let present = [leg(1), leg(2)].map(|leg| (leg, Condition::Leaving));
        assert!(!Standing::new(&present, BTreeSet::new(), 5).is_avoided(leg(1)), "its backends are used");
        let absent = Standing::new(&[(leg(1), Condition::Absent)], BTreeSet::new(), 5);
        assert!(!absent.is_avoided(leg(1)) && absent.owner(&[leg(1), leg(2)]) == Some(leg(2)));
    }
}
