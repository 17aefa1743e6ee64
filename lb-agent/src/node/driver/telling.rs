//! What a pass has made of things, said: status, events, metrics.

use lb_common::layout::{ALGORITHM_VERSION, CONFIG_VERSION, STATE_VERSION};
use tokio::time::Instant;

use super::{Driver, Error};
use crate::{
    metrics::Facts,
    node::{changes, facts::facts},
    output::{AgentStatus, Members, Moment, NodeStatus, conflict_facts, of_node, of_services, owned},
};

impl Driver {
    /// Writes the status: what was planned last, as nodes stand now.
    pub(super) fn tell(&mut self) -> Result<(), Error> {
        self.tell_at = None;
        let begin = Instant::now();
        let Some((plan, placed)) = &self.planned else { return Ok(()) };
        let seen = self.liveness.seen();
        let standing = &seen.standing;
        let mut status =
            NodeStatus::of(plan, placed, standing, self.dataplane.attached(), self.feed.settled());
        status.add_claims(&placed.armed, &seen.claims);
        status.problems.extend(self.unserved.values().chain(self.unattached.values()).cloned());
        status.problems.extend(self.feed.unheard().into_iter().map(|(why, kinds)| {
            let kinds = kinds.join(", ");
            format!("the API server is not heard: what is known of {kinds} holds until it is: {why}")
        }));
        let map_bytes = self.dataplane.map_bytes()?;
        status.agent = Some(AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            pin_dir: self.options.pin_dir.display().to_string(),
            state: STATE_VERSION,
            config: CONFIG_VERSION,
            algorithm: ALGORITHM_VERSION,
            lowest_algorithm: seen.algorithm,
            map_bytes,
        });
        let vips = placed.armed.vips(standing).filter(|(_, vip)| vip.owned != 0);
        status.drain = self.leaving.status(vips.count());
        changes::log(&self.status, &status);
        self.status = status.clone();
        let (now, armed) = (Moment::now(), &placed.armed);
        let owned = owned(self.feed.settled(), armed, standing, &seen.claims);
        let mut holds = facts(self.feed.settled(), &plan.node, &self.network, &owned);
        holds.extend(conflict_facts(plan, &status));
        self.events.observe(self.feed.settled(), holds, now.time);
        if let Some(metrics) = &self.metrics {
            let facts = Facts::of(plan, placed, standing, self.feed.settled(), &owned, map_bytes);
            metrics.set(Facts { drain: status.drain.clone(), source: self.feed.facts(), ..facts });
        }
        let since = self.validity.observe(self.feed.settled(), now.time);
        let settled = self.feed.settled();
        let mut documents = match self.feed.has_controller() {
            true => Vec::new(),
            false => of_services(plan, settled, &status),
        };
        documents.extend(of_node(plan, settled, status, &owned, since, None));
        documents.extend(self.events.documents());
        let snapshot = self.liveness.snapshots().newest();
        documents.push(Members::of(plan, armed, standing, &snapshot, now).document(&plan.node));
        self.standing = standing.clone();
        let local = self.feed.tell(documents);
        self.writer.write(&local)?;
        self.told = seen;
        self.telling = begin.elapsed();
        Ok(())
    }

    /// Writes anew how each node is seen: when it last answered changes all the time.
    pub(super) fn tell_of_members(&mut self) -> Result<(), Error> {
        let Some((plan, placed)) = &self.planned else { return Ok(()) };
        let snapshot = self.liveness.snapshots().newest();
        let members = Members::of(plan, &placed.armed, &self.standing, &snapshot, Moment::now());
        Ok(self.writer.renew(&members.document(&plan.node))?)
    }
}
