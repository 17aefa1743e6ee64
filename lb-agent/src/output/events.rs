//! Events on Services, as MetalLB's speaker raises them (`speaker/main.go`, `speaker/layer2_controller.go`), for whoever waits for them.
//!
//! As the API server aggregates them: one object for a Service, reason and node, which counts. MetalLB raises `nodeAssigned` anew with
//! each look at a Service; here it is raised when something has become so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use lb_api::{ObjectKey, Settled};
use lb_core::{
    legs::Interfaces,
    model::{Network, NodeName, ObjectName},
    ownership,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{documents::Document, owned::Owned, writer};

/// Who raises them: what looks for MetalLB's events finds them.
const COMPONENT: &str = "metallb-speaker";

/// Why an event is raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// This node begins to answer for a Service.
    NodeAssigned,
    /// This node was to answer, and has none of the interfaces on which it should.
    AnnounceFailed,
}

impl Reason {
    const ALL: [Self; 2] = [Self::NodeAssigned, Self::AnnounceFailed];

    /// MetalLB's name, and the type of the event.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::NodeAssigned => ("nodeAssigned", "Normal"),
            Self::AnnounceFailed => ("announceFailed", "Warning"),
        }
    }
}

/// What holds now, and what is said of it: an event is raised when it begins to hold, or is said otherwise.
pub type Facts = BTreeMap<(ObjectName, Reason), String>;

/// The events of a node, as long as their Services are there.
pub struct Events {
    node: NodeName,
    output: PathBuf,
    raised: BTreeMap<(ObjectName, Reason), Raised>,
    known: BTreeSet<ObjectName>,
    held: Facts,
}

/// The part of an event that changes (Kubernetes: `v1.Event`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raised {
    message: String,
    count: u64,
    first_timestamp: Timestamp,
    last_timestamp: Timestamp,
}

impl Events {
    /// None yet; those of the node's earlier agent are below `output`.
    pub fn new(node: &NodeName, output: &Path) -> Self {
        Self {
            node: node.clone(),
            output: output.to_owned(),
            raised: BTreeMap::new(),
            known: BTreeSet::new(),
            held: Facts::new(),
        }
    }

    /// Raises what has begun to hold, and forgets what was said of Services that are gone.
    pub fn observe(&mut self, settled: &Settled, holds: Facts, now: Timestamp) {
        let services: BTreeSet<ObjectName> = settled.snapshot.services.keys().cloned().collect();
        self.raised.retain(|(service, _), _| services.contains(service));
        for service in services.difference(&self.known) {
            for reason in Reason::ALL {
                if let Some(raised) = self.of_earlier_agent(service, reason) {
                    self.raised.insert((service.clone(), reason), raised);
                }
            }
        }
        self.known = services;
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        for (key, message) in holds.iter().filter(|(key, message)| self.held.get(*key) != Some(*message)) {
            let raised = self.raised.entry(key.clone()).or_insert_with(|| Raised {
                message: String::new(),
                count: 0,
                first_timestamp: now,
                last_timestamp: now,
            });
            raised.message.clone_from(message);
            raised.count = raised.count.saturating_add(1);
            raised.last_timestamp = now;
        }
        self.held = holds;
    }

    /// The objects.
    pub fn documents(&self) -> impl Iterator<Item = Document> + '_ {
        self.raised.iter().map(|((service, reason), raised)| self.document(service, *reason, raised))
    }

    fn key(&self, service: &ObjectName, reason: Reason) -> ObjectKey {
        let (reason, _) = reason.names();
        ObjectKey {
            kind: "Event".to_owned(),
            namespace: service.namespace.clone(),
            // Neither of the first two has a point in it.
            name: format!("{}.{}.{}", service.name, reason.to_lowercase(), self.node),
        }
    }

    fn document(&self, service: &ObjectName, reason: Reason, raised: &Raised) -> Document {
        let key = self.key(service, reason);
        let (reason, event_type) = reason.names();
        let value = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": key.name, "namespace": key.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Service",
                "name": service.name,
                "namespace": service.namespace,
            },
            "type": event_type,
            "reason": reason,
            "message": raised.message,
            "count": raised.count,
            "firstTimestamp": raised.first_timestamp,
            "lastTimestamp": raised.last_timestamp,
            "source": {"component": COMPONENT, "host": self.node.0},
            "reportingComponent": COMPONENT,
            "reportingInstance": self.node.0,
        });
        Document { node: self.node.clone(), key, value }
    }

    /// What cannot be read counts from the beginning.
    fn of_earlier_agent(&self, service: &ObjectName, reason: Reason) -> Option<Raised> {
        let path = self.output.join(writer::path(&self.key(service, reason)));
        serde_saphyr::from_str(&fs::read_to_string(path).ok()?).ok()
    }
}

/// What a node has to say of Services: for which it answers, and for which it cannot though it would be its turn.
pub fn facts(settled: &Settled, node: &NodeName, network: &Network, owned: &Owned) -> Facts {
    let assigned = owned.keys().map(|service| {
        let message = format!("announcing from node {node:?} with protocol \"layer2\"", node = node.0);
        ((service.clone(), Reason::NodeAssigned), message)
    });
    let failed = settled.allocation.addresses.iter().filter_map(|(service, addresses)| {
        let address = without_interface(settled, node, network, service, addresses)?;
        let message = format!(
            "the interfaces specified by LB IP \"{address}\" doesn't exist in assigned node {node:?} with protocol \"layer2\"",
            node = node.0
        );
        Some(((service.clone(), Reason::AnnounceFailed), message))
    });
    assigned.chain(failed).collect()
}

/// The first address of a Service, if this node ranks best for it, and has none of the interfaces on which it is to be announced.
fn without_interface(
    settled: &Settled,
    node: &NodeName,
    network: &Network,
    name: &ObjectName,
    addresses: &[IpAddr],
) -> Option<IpAddr> {
    let (snapshot, first) = (&settled.snapshot, *addresses.first()?);
    let service = snapshot.services.get(name)?;
    let advertisements = ownership::advertisements(snapshot, settled.allocation.pools.get(name)?, service);
    let mut eligible = ownership::eligible(snapshot, service, &advertisements);
    let scores = eligible.iter().filter_map(|(name, judged)| Some((*name, judged.as_ref().ok()?.score)));
    if ownership::ranked(first, scores).first() != Some(&node) {
        return None;
    }
    match eligible.remove(node)?.ok()?.interfaces {
        Interfaces::All => None,
        named @ Interfaces::Named(_) => {
            (!network.links.keys().any(|link| named.contains(link))).then_some(first)
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_api::Memory;
    use lb_core::model::NodeLink;
    use serde_json::Value;

    use super::*;

    type Done = Result<(), Box<dyn std::error::Error>>;

    fn objects(interfaces: &str) -> String {
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 8080, protocol: TCP}}]
endpoints: [{{addresses: [10.0.0.1], nodeName: n1, conditions: {{ready: true}}}}]
---
apiVersion: v1
kind: Node
metadata: {{name: n1}}
status: {{addresses: [{{type: InternalIP, address: 192.0.2.11}}]}}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {{name: a, namespace: metallb-system}}
spec: {{addresses: [192.0.2.200/32]}}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {{name: a, namespace: metallb-system}}
spec: {{interfaces: {interfaces}}}
"
        )
    }

    fn settled(text: &str) -> Settled {
        Memory::default().settle(&[("all.yaml".to_owned(), text.as_bytes().to_vec())].into())
    }

    fn node() -> NodeName {
        NodeName("n1".to_owned())
    }

    fn network() -> Network {
        let link = NodeLink {
            ifindex: 2,
            device: 2,
            ports: BTreeSet::new(),
            vlan: 0,
            mac: [2; 6],
            mtu: 1500,
            prefixes: BTreeSet::new(),
        };
        Network { links: [("eth0".to_owned(), link)].into(), ..Network::default() }
    }

    fn web() -> ObjectName {
        ObjectName { namespace: "shop".to_owned(), name: "web".to_owned() }
    }

    fn all(events: &Events) -> BTreeMap<String, Value> {
        events.documents().map(|document| (document.key.name, document.value)).collect()
    }

    fn time(second: i64) -> Result<Timestamp, jiff::Error> {
        Timestamp::from_second(second)
    }

    /// The words are MetalLB's, which its tests and its users look for.
    #[test]
    fn what_is_said_is_what_metallb_says() {
        let address = IpAddr::from([192, 0, 2, 200]);
        let owned = [(web(), [(address, ["eth0".to_owned()].into())].into())].into();
        let says = |interfaces, owned: &Owned| -> Vec<String> {
            facts(&settled(&objects(interfaces)), &node(), &network(), owned).into_values().collect()
        };
        let nothing = Owned::new();
        assert_eq!(says("[]", &owned), ["announcing from node \"n1\" with protocol \"layer2\""]);
        let failed = "the interfaces specified by LB IP \"192.0.2.200\" doesn't exist in assigned node \"n1\" with protocol \"layer2\"";
        assert_eq!(says("[bond0, eth1]", &nothing), [failed]);
        assert_eq!(says("[bond0, eth0]", &nothing), Vec::<String>::new());
        assert_eq!(says("[]", &nothing), Vec::<String>::new());
    }

    #[test]
    fn only_the_node_that_would_announce_says_that_it_cannot() {
        let other = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n2}\n";
        let text = format!("{}{other}", objects("[bond0]"));
        let settled = settled(&text);
        let says =
            |name: &str| !facts(&settled, &NodeName(name.to_owned()), &network(), &Owned::new()).is_empty();
        assert!(says("n1") != says("n2"), "{} {}", says("n1"), says("n2"));
    }

    #[test]
    fn an_event_counts_what_begins_and_goes_with_its_service() -> Done {
        let output = tempfile::tempdir()?;
        let mut events = Events::new(&node(), output.path());
        let settled = settled(&objects("[]"));
        let holds: Facts = [((web(), Reason::NodeAssigned), "announcing".to_owned())].into();
        for (second, holds) in [(10, &holds), (11, &holds), (12, &Facts::new()), (13, &holds), (14, &holds)] {
            events.observe(&settled, holds.clone(), time(second)?);
        }
        let said = all(&events);
        assert_eq!(said.keys().collect::<Vec<_>>(), ["web.nodeassigned.n1"]);
        let event = &said["web.nodeassigned.n1"];
        assert_eq!(
            (&event["count"], &event["type"], &event["reason"]),
            (&json!(2), &json!("Normal"), &json!("nodeAssigned"))
        );
        assert_eq!(
            (&event["firstTimestamp"], &event["lastTimestamp"]),
            (&json!("1970-01-01T00:00:10Z"), &json!("1970-01-01T00:00:13Z"))
        );
        assert_eq!(event["involvedObject"]["name"], json!("web"));

        events.observe(&Settled::default(), Facts::new(), time(15)?);
        assert_eq!(all(&events).len(), 0);
        Ok(())
    }

    #[test]
    fn the_next_agent_goes_on_counting_and_what_is_broken_begins_anew() -> Done {
        let output = tempfile::tempdir()?;
        let settled = settled(&objects("[]"));
        let holds: Facts = [((web(), Reason::NodeAssigned), "announcing".to_owned())].into();
        let run = |second| -> Result<Value, Box<dyn std::error::Error>> {
            let mut events = Events::new(&node(), output.path());
            events.observe(&settled, holds.clone(), time(second)?);
            writer::Writer::new(output.path()).write(&events.documents().collect::<Vec<_>>())?;
            Ok(all(&events).remove("web.nodeassigned.n1").unwrap_or_default())
        };
        run(10)?;
        let event = run(20)?;
        assert_eq!((&event["count"], &event["firstTimestamp"]), (&json!(2), &json!("1970-01-01T00:00:10Z")));
        fs::write(output.path().join("Event/shop/web.nodeassigned.n1.yaml"), "count: [")?;
        assert_eq!(run(30)?["count"], json!(1));
        Ok(())
    }
}
