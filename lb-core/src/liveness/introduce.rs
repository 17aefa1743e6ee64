//! What this node says of itself, and what follows from what others say of themselves.

use std::{collections::BTreeMap, time::Instant};

use lb_common::layout::Mac;
use rand::Rng;

use super::{Liveness, Transmit, description::Description, message::Message, verdict::Leg};

impl Liveness {
    /// Sets what this node says of itself: all but its version, which is counted here. Everybody is told what is new.
    pub fn describe(&mut self, description: Description, now: Instant) {
        let version = self.description.version;
        if (Description { version, ..description.clone() }) != self.description {
            self.description =
                Description { version: (version.0, version.1.saturating_add(1)), ..description };
            // Whoever is met later is told then.
            let is_known = self.others().next().is_some();
            self.describing = is_known.then_some((self.profile.repeats.saturating_sub(1), now));
        }
    }

    /// What a node has said of itself, by one of its legs.
    pub fn description(&self, leg: Leg) -> Option<&Description> {
        self.acquaintances.description(leg)
    }

    /// MACs of others that a probe has proven.
    pub fn proven(&self) -> BTreeMap<Leg, Mac> {
        self.acquaintances.proven()
    }

    /// The lowest algorithm version that a node uses which lives, this one among them: there is another if it is not this node's own.
    pub fn algorithm(&self) -> u32 {
        let lives = |leg: &Leg| self.view.condition(*leg).answers();
        let others = self.others().filter(lives).filter_map(|leg| self.description(leg));
        others
            .map(|description| description.algorithm)
            .min()
            .map_or(self.description.algorithm, |lowest| lowest.min(self.description.algorithm))
    }

    /// Tells everybody what is new of this node, and proves what others say.
    pub(super) fn run_descriptions(&mut self, now: Instant) {
        if let Some((left, next)) = self.describing
            && next <= now
        {
            self.describing = left.checked_sub(1).map(|left| (left, now + self.profile.exchange));
            let to: Vec<Leg> = self.others().collect();
            to.into_iter().for_each(|to| self.tell_description(to));
        }
        if self.acquaintances.due().is_some_and(|due| due <= now) {
            let nonce = self.random.next_u64();
            if let Some((to, mac)) = self.acquaintances.poll_proof(nonce, &self.profile, now) {
                self.counts.probes += 1;
                self.outbox.push_back(Transmit::Proof { to, mac, nonce });
            }
        }
    }

    /// Tells one what this node says of itself.
    pub(super) fn tell_description(&mut self, to: Leg) {
        self.tell(to, Message::Description(self.description.clone()));
    }
}
