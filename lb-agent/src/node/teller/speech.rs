//! What is said of what is known.

use std::{collections::BTreeMap, time};

use lb_api::ObjectKey;
use lb_common::layout::{ALGORITHM_VERSION, Addr, CONFIG_VERSION, STATE_VERSION};
use lb_core::liveness::Leg;

use super::{
    Options,
    news::{Extent, Knowledge, News},
};
use crate::{
    cluster::{There, Written},
    liveness::Snapshot,
    metrics::Facts,
    node::{changes, facts::facts},
    output::{
        self, AgentStatus, Author, Events, Members, Moment, NodeStatus, Owners, Services, Text, Validity,
        Writer, conflict_facts, of_node, of_services, owned,
    },
};

/// Whose the fields are that a node writes (server-side apply).
pub(super) const MANAGER: &str = "magnetite-node";
/// Who raises a node's events.
const SPEAKER: &str = "metallb-speaker";

/// What was said, and to whom.
pub(super) struct Speech {
    knowledge: Knowledge,
    options: Options,
    written: Option<Written>,
    writer: Writer,
    events: Events,
    validity: Validity,
    /// The status as it was said last, but for ports.
    status: NodeStatus<()>,
    /// The metrics as they were said last, but for ports and what is heard.
    facts: Facts,
    /// Who owned what when it was said last.
    owners: BTreeMap<(Addr, u16), Leg>,
}

impl Speech {
    /// Nothing has been said yet.
    pub fn new(options: Options, written: Option<Written>) -> Self {
        let author = Author { component: SPEAKER, name: options.node.to_string() };
        Self {
            knowledge: Knowledge::default(),
            writer: Writer::new(&options.output),
            // In a cluster they are no files.
            events: Events::new(author, written.is_none().then_some(&*options.output)),
            validity: Validity::default(),
            status: NodeStatus::default(),
            facts: Facts::default(),
            owners: BTreeMap::new(),
            written,
            options,
        }
    }

    /// Takes the news; how much is to be said because of them, if anything.
    pub fn take(&mut self, news: News) -> Option<Extent> {
        self.knowledge.take(news)
    }

    /// Waits until something was written in the cluster, failed, or is to be tried again; [`Self::start`] is to be called then.
    pub async fn progress(&mut self) {
        match &mut self.written {
            Some(written) => written.progress().await,
            None => std::future::pending().await,
        }
    }

    /// When everything is to be said anew in the cluster, where something is not there that was written.
    pub fn recheck(&self) -> Option<time::Instant> {
        self.written.as_ref().and_then(Written::recheck)
    }

    /// Begins to write in the cluster what is to be written.
    pub fn start(&mut self) {
        if let Some(written) = &mut self.written {
            written.start(time::Instant::now());
        }
    }

    /// Says it.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn say(&mut self, extent: Extent) -> Result<(), output::Error> {
        if self.knowledge.known.is_none() {
            return Ok(());
        }
        let status = match extent {
            Extent::Ports => None,
            Extent::All => self.status(),
        };
        let is_all = status.is_some();
        if let Some(status) = status {
            changes::log(&self.status, &status);
            self.status = status;
        }
        for (frontend, before, now) in self.knowledge.take_ports() {
            changes::log_port(&frontend, before.as_ref(), now.as_ref());
        }
        let Knowledge { known: Some(known), seen, .. } = &self.knowledge else { return Ok(()) };
        let name = &self.options.node.0;
        let object = self.status.clone().with_services(Services::of(&known.outcome(seen))).object(name);
        let text = Text::of_node("NodeStatus", name, &object)?;
        let done = if is_all { self.say_all(text) } else { self.writer.renew(&text) };
        // Traffic flows, whatever becomes of files.
        self.set_metrics();
        done
    }

    /// What a status says beside ports.
    fn status(&self) -> Option<NodeStatus<()>> {
        let Knowledge { known, seen, drain, heard, .. } = &self.knowledge;
        let known = known.as_deref()?;
        let mut status = NodeStatus::of(&known.outcome(seen), ());
        status.add_claims(&known.armed, &seen.claims);
        status.problems.extend(known.unserved.iter().cloned());
        status.problems.extend(heard.unheard.iter().map(|(why, kinds)| {
            let kinds = kinds.join(", ");
            format!("the API server is not heard: what is known of {kinds} holds until it is: {why}")
        }));
        status.agent = Some(AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            pin_dir: self.options.pin_dir.display().to_string(),
            state: STATE_VERSION,
            config: CONFIG_VERSION,
            algorithm: ALGORITHM_VERSION,
            lowest_algorithm: seen.algorithm,
            map_bytes: known.map_bytes,
        });
        status.drain.clone_from(drain);
        Some(status)
    }

    fn say_all(&mut self, status: Text) -> Result<(), output::Error> {
        let Self { knowledge, options, written, writer, events, validity, .. } = self;
        let Knowledge { known: Some(known), seen, .. } = knowledge else { return Ok(()) };
        let (plan, settled, now) = (&known.plan, &known.settled, Moment::now());
        let owned = owned(settled, &known.armed, &seen.standing, &seen.claims);
        let mut holds = facts(settled, &plan.node, &known.network, &owned);
        holds.extend(conflict_facts(plan, &self.status.conflicts));
        events.observe(settled, holds, now.time);
        let since = validity.observe(settled, now.time);
        self.facts = Facts {
            map_bytes: known.map_bytes,
            drain: self.status.drain.clone(),
            ..Facts::of(&known.outcome(seen), &owned)
        };
        let snapshot = options.snapshots.newest();
        let members = Members::of(plan, &known.armed, &seen.standing, &snapshot, now);
        let owners = Owners::of(plan, &known.armed, &seen.standing, &snapshot, now);
        let mut texts = vec![status, members.text(&plan.node)?, owners.text(&plan.node)?];
        self.owners = legs(&snapshot);
        let objects = of_node(plan, settled, &owned, since).chain(events.documents());
        match written {
            Some(written) => {
                let uid = |key: &ObjectKey| {
                    let uid = known.uids.get(&key.object_name()).filter(|_| key.kind == "Service");
                    uid.map(ToString::to_string)
                };
                // What is written here is not watched.
                written.want(objects, |_, subject| There { uid: uid(subject), other: None });
                written.start(time::Instant::now());
            }
            // Without a controller the node says it.
            None => {
                let services = of_services(plan, settled, &self.status.conflicts);
                for document in objects.chain(services) {
                    texts.push(Text::of(&document)?);
                }
            }
        }
        writer.write_texts(&plan.node.0, texts)
    }

    /// Says anew how each node is seen: when it last answered changes all the time. And since when it owns what, which the liveness thread
    /// tells a little later than that it does.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn say_members(&mut self) -> Result<(), output::Error> {
        self.set_metrics();
        let Knowledge { known: Some(known), seen, .. } = &self.knowledge else { return Ok(()) };
        let (snapshot, plan, now) = (self.options.snapshots.newest(), &known.plan, Moment::now());
        let members = Members::of(plan, &known.armed, &seen.standing, &snapshot, now);
        self.writer.renew(&members.text(&plan.node)?)?;
        let legs = legs(&snapshot);
        if legs != self.owners {
            let owners = Owners::of(plan, &known.armed, &seen.standing, &snapshot, now);
            self.writer.renew(&owners.text(&plan.node)?)?;
            self.owners = legs;
        }
        Ok(())
    }

    /// Before everything has been said once, nothing is ready.
    fn set_metrics(&self) {
        let (Some(metrics), Some(known)) = (&self.options.metrics, &self.knowledge.known) else { return };
        if self.facts.node.is_empty() {
            return;
        }
        metrics.set(Facts {
            vips: known.vips.clone(),
            services: known.ports.values().cloned().collect(),
            source: self.knowledge.heard.facts.clone(),
            ..self.facts.clone()
        });
    }
}

fn legs(snapshot: &Snapshot) -> BTreeMap<(Addr, u16), Leg> {
    snapshot.owners.iter().map(|(spot, ownership)| (*spot, ownership.leg)).collect()
}
