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
    pub uids: BTreeMap<ObjectName, Arc<str>>,
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

#[cfg(test)]
mod tests {
    use lb_api::Memory;
    use lb_common::hash::HashKey;
    use lb_core::{
        liveness::Standing,
        maps::{Maps, Sizes},
        model::NodeName,
        place::Local,
    };

    use super::*;
    use crate::{
        metrics::{services, vips},
        node::{Pass, pass},
    };

    /// What a pass comes to, with pods of these addresses behind a Service.
    fn known(pods: &[&str]) -> Known {
        let text = format!(
            "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop, annotations: {{magnetite.io/nonsense: x}}}}
spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 8080, protocol: TCP}}]
endpoints: [{{addresses: [{}], nodeName: n1, conditions: {{ready: true}}}}]
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {{name: a, namespace: metallb-system}}
spec: {{addresses: [192.0.2.200/32]}}
",
            pods.join(", ")
        );
        let settled = Memory::default().settle(&[("all.yaml".to_owned(), text.into_bytes())].into());
        let sizes = Sizes::default();
        let local = Local {
            sizes,
            flow_key: HashKey::default(),
            flow_queues: 1,
            tick_shift: 8,
            now: 0,
            standing: Standing::default(),
            is_watched: false,
        };
        let (node, network) = (NodeName("n1".into()), Network::default());
        let Pass { plan, placed, .. } = pass(&settled, &node, &network, &Maps::empty(&sizes), &local, None);
        Known {
            ports: services(&plan, &placed, plan.services.keys()).collect(),
            vips: vips(&placed.maps),
            armed: placed.armed,
            without_room: placed.without_room,
            left_out: placed.left_out,
            plan,
            settled,
            uids: BTreeMap::new(),
            network,
            attached: BTreeMap::new(),
            unserved: Vec::new(),
            map_bytes: 0,
        }
    }

    fn of_pass(pods: &[&str]) -> News {
        News { pass: Some(Box::new(known(pods))), ..News::default() }
    }

    fn of_ports(pods: &[&str]) -> News {
        let Known { plan, ports, .. } = known(pods);
        let with_facts = |(frontend, service)| Some((frontend, (service, ports.get(&frontend)?.clone())));
        News { ports: plan.services.into_iter().filter_map(with_facts).collect(), ..News::default() }
    }

    /// How many endpoints each changed port had when it was said last, and has now.
    fn said(knowledge: &mut Knowledge) -> Vec<(Option<usize>, Option<usize>)> {
        let count = |port: Option<Port>| port.map(|(service, _)| service.endpoints.len());
        knowledge.take_ports().map(|(_, before, now)| (count(before), count(now))).collect()
    }

    #[test]
    fn a_port_that_changes_often_is_said_once_as_it_was_and_as_it_is() {
        let mut knowledge = Knowledge::default();
        assert_eq!(knowledge.take(of_ports(&["10.0.0.1"])), None, "nothing is known yet");
        assert_eq!(knowledge.take(of_pass(&["10.0.0.1"])), Some(Extent::All));
        assert_eq!(said(&mut knowledge), [(None, Some(1))]);
        let mut news = of_ports(&["10.0.0.1", "10.0.0.2"]);
        news.add(of_ports(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
        assert_eq!(knowledge.take(news), Some(Extent::Ports));
        assert_eq!(knowledge.take(of_ports(&[])), Some(Extent::Ports));
        assert_eq!(said(&mut knowledge), [(Some(1), Some(0))]);
        assert_eq!(said(&mut knowledge), []);
    }

    #[test]
    fn a_pass_has_what_was_told_before_it_and_not_what_is_told_after_it() {
        let mut knowledge = Knowledge::default();
        let mut news = of_ports(&["10.0.0.1", "10.0.0.2"]);
        news.add(of_pass(&["10.0.0.1"]));
        assert_eq!(knowledge.take(news), Some(Extent::All));
        assert_eq!(said(&mut knowledge), [(None, Some(1))]);
        let mut news = of_pass(&["10.0.0.1"]);
        news.add(of_ports(&["10.0.0.1", "10.0.0.2"]));
        assert_eq!(knowledge.take(news), Some(Extent::All));
        assert_eq!(said(&mut knowledge), [(Some(1), Some(2))]);
        // The same once more is nothing to log.
        assert_eq!(knowledge.take(of_pass(&["10.0.0.1", "10.0.0.2"])), Some(Extent::All));
        assert_eq!(said(&mut knowledge), []);
    }

    #[test]
    fn what_is_as_it_was_is_not_said_again() {
        let mut knowledge = Knowledge::default();
        knowledge.take(of_pass(&[]));
        let problems = || knowledge_problems(&known(&[]));
        for (news, expected) in [
            (News { drain: Some(None), ..News::default() }, None),
            (News { drain: Some(Some(DrainStatus::default())), ..News::default() }, Some(Extent::All)),
            (News { problems: Some(problems()), ..News::default() }, None),
            (News { problems: Some([].into()), ..News::default() }, Some(Extent::All)),
            (News { heard: Some(heard(1, &[])), ..News::default() }, None),
            (News { heard: Some(heard(2, &["Service"])), ..News::default() }, Some(Extent::All)),
            (News { seen: Some(Arc::default()), ..News::default() }, Some(Extent::All)),
        ] {
            assert_eq!(knowledge.take(news), expected);
        }
        assert_eq!(knowledge.heard.facts.updates, 2);
    }

    fn knowledge_problems(known: &Known) -> Arc<[Problem]> {
        Arc::clone(&known.settled.problems)
    }

    fn heard(updates: u64, kinds: &[&'static str]) -> Heard {
        let unheard = kinds.iter().map(|kind| ("gone".to_owned(), vec![*kind])).collect();
        Heard { unheard, facts: SourceFacts { updates, ..SourceFacts::default() } }
    }
}
