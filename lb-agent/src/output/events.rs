//! Events on Services, as MetalLB raises them (`speaker/main.go`, `speaker/layer2_controller.go`, `controller/service.go`), for whoever
//! waits for them.
//!
//! As the API server aggregates them: one object for a Service, reason and author, which counts. MetalLB raises some anew with each look at
//! a Service; here one is raised when something has become so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use lb_api::{ObjectKey, Settled};
use lb_core::model::ObjectName;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    documents::{Document, fitting},
    writer,
};

/// Why an event is raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// This node begins to answer for a Service.
    NodeAssigned,
    /// A machine that is none of ours claims an address of the Service.
    AddressConflict,
    /// This node was to answer, and has none of the interfaces on which it should.
    AnnounceFailed,
    /// A Service gets an address.
    IpAllocated,
    /// A Service cannot keep its addresses.
    ClearAssignment,
    /// A Service that prefers two families gets one.
    AdditionalAssignFailed,
    /// A Service gets no address.
    AllocationFailed,
    /// A Service keeps an address that it would not get any more. MetalLB has no such event: it would take the address away.
    AddressStranded,
    /// What a Service says cannot be understood.
    LoadBalancerFailed,
    /// A Service requires two families, and has one.
    NotEnoughClusterIps,
    /// A Service has an annotation with the old prefix.
    DeprecatedAnnotation,
}

impl Reason {
    const ALL: [Self; 11] = [
        Self::NodeAssigned,
        Self::AddressConflict,
        Self::AnnounceFailed,
        Self::IpAllocated,
        Self::ClearAssignment,
        Self::AdditionalAssignFailed,
        Self::AllocationFailed,
        Self::AddressStranded,
        Self::LoadBalancerFailed,
        Self::NotEnoughClusterIps,
        Self::DeprecatedAnnotation,
    ];

    /// MetalLB's name, and the type of the event.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::NodeAssigned => ("nodeAssigned", "Normal"),
            Self::AddressConflict => ("AddressConflict", "Warning"),
            Self::AnnounceFailed => ("announceFailed", "Warning"),
            Self::IpAllocated => ("IPAllocated", "Normal"),
            Self::ClearAssignment => ("ClearAssignment", "Normal"),
            Self::AdditionalAssignFailed => ("AdditionalAssignFailed", "Normal"),
            Self::AllocationFailed => ("AllocationFailed", "Warning"),
            Self::AddressStranded => ("AddressStranded", "Warning"),
            Self::LoadBalancerFailed => ("LoadBalancerFailed", "Warning"),
            // With spaces, as they are there.
            Self::NotEnoughClusterIps => ("not enough clusterips", "Warning"),
            Self::DeprecatedAnnotation => ("deprecatedAnnotation", "Warning"),
        }
    }
}

/// Who raises events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// Of what kind it is: whoever looks for MetalLB's events finds these.
    pub component: &'static str,
    /// Which of them.
    pub name: String,
}

/// What holds now, and what is said of it: an event is raised when it begins to hold, or is said otherwise.
pub type Facts = BTreeMap<(ObjectName, Reason), String>;

/// The events of an author, as long as their Services are there.
pub struct Events {
    author: Author,
    /// Where those of an earlier agent are, if they are to be had.
    earlier: Option<PathBuf>,
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
    /// None yet; those of the author's earlier agent are below `earlier`, if anywhere.
    pub fn new(author: Author, earlier: Option<&Path>) -> Self {
        Self {
            author,
            earlier: earlier.map(Path::to_owned),
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
            namespace: service.namespace.to_string(),
            // Neither of the first two has a point in it.
            name: fitting(format!(
                "{}.{}.{}",
                service.name,
                reason.to_lowercase().replace(' ', "-"),
                self.author.name
            )),
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
            "source": {"component": self.author.component, "host": self.author.name},
            "reportingComponent": self.author.component,
            "reportingInstance": self.author.name,
        });
        Document { author: self.author.name.clone(), key, value }
    }

    /// What cannot be read counts from the beginning.
    fn of_earlier_agent(&self, service: &ObjectName, reason: Reason) -> Option<Raised> {
        let path = self.earlier.as_ref()?.join(writer::path(&self.key(service, reason)));
        serde_saphyr::from_str(&fs::read_to_string(path).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use lb_api::Memory;
    use serde_json::Value;

    use super::*;

    type Done = Result<(), Box<dyn std::error::Error>>;

    fn settled() -> Settled {
        let web = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {type: LoadBalancer, ports: [{port: 80}]}}";
        Memory::default().settle(&[("all.yaml".to_owned(), web.as_bytes().to_vec())].into())
    }

    fn author() -> Author {
        Author { component: "metallb-speaker", name: "n1".to_owned() }
    }

    fn web() -> ObjectName {
        ObjectName { namespace: "shop".into(), name: "web".into() }
    }

    fn all(events: &Events) -> BTreeMap<String, Value> {
        events.documents().map(|document| (document.key.name, document.value)).collect()
    }

    fn time(second: i64) -> Result<Timestamp, jiff::Error> {
        Timestamp::from_second(second)
    }

    #[test]
    fn an_event_counts_what_begins_and_goes_with_its_service() -> Done {
        let output = tempfile::tempdir()?;
        let mut events = Events::new(author(), Some(output.path()));
        let settled = settled();
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
        let settled = settled();
        let holds: Facts = [((web(), Reason::NodeAssigned), "announcing".to_owned())].into();
        let run = |second| -> Result<Value, Box<dyn std::error::Error>> {
            let mut events = Events::new(author(), Some(output.path()));
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
