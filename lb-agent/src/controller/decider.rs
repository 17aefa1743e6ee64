//! What the controller decides, wherever objects come from and go to.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Instant,
};

use lb_api::{Memory, Mirror, Problem, ProblemKind, Settled};
use lb_core::{
    allocate::{Allocation, Allocator},
    model::ObjectName,
};

use super::{CONTROLLER, facts::facts, objects::objects};
use crate::output::{Author, Document, Events, Given, Moment, Validity};

/// Remembers what was said and given.
pub(super) struct Decider {
    pub memory: Memory,
    allocator: Allocator,
    events: Events,
    validity: Validity,
    told: Allocation,
    /// What was wrong with objects.
    problems: BTreeSet<Problem>,
}

impl Decider {
    /// One that begins with what objects last said, and with earlier events, if they are to be had.
    pub fn new(memory: Memory, allocator: Allocator, earlier: Option<&Path>) -> Self {
        let author = Author { component: "metallb-controller", name: CONTROLLER.to_owned() };
        Self {
            memory,
            allocator,
            events: Events::new(author, earlier),
            validity: Validity::default(),
            told: Allocation::default(),
            problems: BTreeSet::new(),
        }
    }

    /// Addresses for what files say; what Services have been `given` they do not say themselves.
    pub fn decide_files(
        &mut self,
        files: &BTreeMap<String, Vec<u8>>,
        given: &Given,
        now: Instant,
    ) -> Settled {
        let allocator = &mut self.allocator;
        self.memory.settle_by(files, |snapshot| {
            given.fill_in(snapshot);
            allocator.handle_snapshot(snapshot, now)
        })
    }

    /// Addresses for the objects of a cluster.
    pub fn decide_objects<'a>(&mut self, mirror: &'a mut Mirror, now: Instant) -> &'a Settled {
        mirror.settle(|snapshot, _, allocation| {
            *allocation = self.allocator.handle_snapshot(snapshot, now);
        })
    }

    /// What there is to write of a decision; what is new of it is logged.
    pub fn tell<'a>(&'a mut self, settled: &'a Settled) -> impl Iterator<Item = Document> + 'a {
        self.log(&settled.allocation);
        self.told = settled.allocation.clone();
        self.log_problems(&settled.problems);
        let now = Moment::now().time;
        self.events.observe(settled, facts(settled), now);
        objects(settled, self.validity.observe(settled, now)).chain(self.events.documents())
    }

    /// What is wrong with objects and was not; of allocations it is said elsewhere.
    fn log_problems(&mut self, now: &[Problem]) {
        let is_elsewhere =
            |problem: &Problem| matches!(problem.kind, ProblemKind::Allocation(_) | ProblemKind::Remark(_));
        let now: BTreeSet<Problem> = now.iter().filter(|problem| !is_elsewhere(problem)).cloned().collect();
        now.difference(&self.problems).for_each(|problem| tracing::warn!("{problem}"));
        self.problems = now;
    }

    fn log(&self, now: &Allocation) {
        let changed = now.addresses.iter().filter(|(name, has)| self.told.addresses.get(*name) != Some(*has));
        for (service, addresses) in changed {
            tracing::info!(%service, ?addresses, pool = now.pools.get(service), "allocated");
        }
        for (service, had) in
            self.told.addresses.iter().filter(|(name, _)| !now.addresses.contains_key(*name))
        {
            tracing::info!(%service, addresses = ?had, "given up");
        }
        log_new(&now.errors, &self.told.errors, "no address");
        log_new(&now.remarks, &self.told.remarks, "address");
    }
}

fn log_new<T: std::fmt::Display + PartialEq>(
    now: &BTreeMap<ObjectName, T>,
    before: &BTreeMap<ObjectName, T>,
    what: &str,
) {
    for (service, why) in now.iter().filter(|(service, why)| before.get(*service) != Some(*why)) {
        tracing::warn!(%service, %why, "{what}");
    }
}
