//! What there is to say something of, and what becomes otherwise in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_api::{Problem, Settled};
use lb_core::{
    armed::Armed,
    model::{Network, ObjectName},
    plan::{Frontend, KernelReason, Plan, ServicePlan},
};

use crate::{
    dataplane::LinkMode,
    liveness::Seen,
    metrics::{ServiceFacts, SourceFacts},
    node::changes::{Port, changed},
    output::{DrainStatus, Outcome},
};

/// What a pass has come to. Much of it is shared with the driver.
#[derive(Clone, Debug)]
pub(in crate::node) struct Known {
    /// What was planned.
    pub plan: Plan,
    /// The part that changes with the liveness of nodes.
    pub armed: Arc<Armed>,
    /// Services that are left to the kernel for want of room.
    pub without_room: BTreeMap<Frontend, KernelReason>,
    /// What else found no room, by map.
    pub left_out: BTreeMap<&'static str, usize>,
    /// What it was planned from.
    pub settled: Settled,
    /// UIDs of its Services, where they are known.
    pub uids: BTreeMap<ObjectName, String>,
    /// What this machine knows of its network.
    pub network: Network,
    /// How the programs are attached, by NIC.
    pub attached: BTreeMap<u32, LinkMode>,
    /// Why some links are not served.
    pub unserved: Vec<String>,
    /// Bytes of all maps.
    pub map_bytes: u64,
    /// Places of counters of ports.
    pub ports: BTreeMap<Frontend, Arc<ServiceFacts>>,
    /// Places of counters of VIPs.
    pub vips: Vec<(IpAddr, u32)>,
}

impl Known {
    /// The same, as nodes stand.
    pub fn outcome<'a>(&'a self, seen: &'a Seen) -> Outcome<'a> {
        Outcome {
            plan: &self.plan,
            armed: &self.armed,
            without_room: &self.without_room,
            left_out: &self.left_out,
            standing: &seen.standing,
            attached: &self.attached,
            settled: &self.settled,
        }
    }

    fn port(&self, frontend: &Frontend) -> Option<Port> {
        let service = Arc::clone(self.plan.services.get(frontend)?);
        Some((service, self.without_room.get(frontend).cloned()))
    }
}

/// How the source is heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::node) struct Heard {
    /// Why no changes of some kinds are heard of at present, and of which.
    pub unheard: BTreeMap<String, Vec<&'static str>>,
    /// The same and more, for metrics.
    pub facts: SourceFacts,
}

/// What is otherwise than the teller knows; the newest of each.
#[derive(Default)]
pub(in crate::node) struct News {
    /// A pass was carried out: this holds, and what comes after it.
    pub pass: Option<Box<Known>>,
    /// Ports that have other endpoints.
    pub ports: BTreeMap<Frontend, (Arc<ServicePlan>, Arc<ServiceFacts>)>,
    /// What is wrong with the source.
    pub problems: Option<Arc<[Problem]>>,
    /// How nodes stand.
    pub seen: Option<Arc<Seen>>,
    /// How far this node has come, if it leaves on purpose.
    pub drain: Option<Option<DrainStatus>>,
    /// How the source is heard.
    pub heard: Option<Heard>,
}

impl News {
    /// Later news come on top.
    pub fn add(&mut self, later: Self) {
        let Self { pass, ports, problems, seen, drain, heard } = later;
        if pass.is_some() {
            // It has all of that.
            (self.pass, self.problems) = (pass, None);
            self.ports.clear();
        }
        self.ports.extend(ports);
        self.problems = problems.or(self.problems.take());
        self.seen = seen.or(self.seen.take());
        self.drain = drain.or(self.drain.take());
        self.heard = heard.or(self.heard.take());
    }
}

/// How much is to be said anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Extent {
    /// Endpoints of some ports.
    Ports,
    /// Everything.
    All,
}

/// What the teller knows.
#[derive(Default)]
pub(super) struct Knowledge {
    /// Nothing before the first pass.
    pub known: Option<Box<Known>>,
    pub seen: Arc<Seen>,
    pub drain: Option<DrainStatus>,
    pub heard: Heard,
    /// Ports that are otherwise than they were said last, as they were then.
    said: BTreeMap<Frontend, Option<Port>>,
}

impl Knowledge {
    /// Takes the news; how much is to be said anew because of them, if anything.
    pub fn take(&mut self, news: News) -> Option<Extent> {
        let News { pass, ports, problems, seen, drain, heard } = news;
        let mut extent = None;
        if let Some(pass) = pass {
            let before = self.known.replace(pass);
            self.remember(before.as_deref());
            extent = Some(Extent::All);
        }
        if let Some(known) = &mut self.known {
            for (frontend, (service, facts)) in ports {
                let before = known.port(&frontend);
                self.said.entry(frontend).or_insert(before);
                known.plan.services.insert(frontend, service);
                known.ports.insert(frontend, facts);
                extent = extent.max(Some(Extent::Ports));
            }
            if let Some(problems) = problems.filter(|problems| *problems != known.settled.problems) {
                known.settled.problems = problems;
                extent = Some(Extent::All);
            }
        }
        if let Some(seen) = seen {
            self.seen = seen;
            extent = Some(Extent::All);
        }
        if let Some(drain) = drain.filter(|drain| *drain != self.drain) {
            self.drain = drain;
            extent = Some(Extent::All);
        }
        if let Some(heard) = heard {
            if heard.unheard != self.heard.unheard {
                extent = Some(Extent::All);
            }
            self.heard = heard;
        }
        extent
    }

    /// What a pass has made otherwise of ports.
    fn remember(&mut self, before: Option<&Known>) {
        let (none, Some(now)) = ((BTreeMap::new(), BTreeMap::new()), &self.known) else { return };
        let (services, without_room) =
            before.map_or((&none.0, &none.1), |before| (&before.plan.services, &before.without_room));
        let planned = changed(services, &now.plan.services).map(|(frontend, ..)| *frontend);
        let room = changed(without_room, &now.without_room).map(|(frontend, ..)| *frontend);
        let frontends: BTreeSet<Frontend> = planned.chain(room).collect();
        for frontend in frontends {
            let was = || before.and_then(|before| before.port(&frontend));
            self.said.entry(frontend).or_insert_with(was);
        }
    }

    /// Ports that are otherwise than they were said last: as they were, and as they are. They are said by that.
    pub fn take_ports(&mut self) -> impl Iterator<Item = (Frontend, Option<Port>, Option<Port>)> {
        let said = std::mem::take(&mut self.said);
        let known = self.known.as_deref();
        said.into_iter()
            .map(move |(frontend, before)| (frontend, before, known.and_then(|known| known.port(&frontend))))
    }
}
