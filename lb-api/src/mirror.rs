//! A cluster as its API server tells of it, object by object.
//!
//! What there are many of (Services, EndpointSlices, Nodes) is decoded when it arrives, and kept in no other form: a change costs
//! what changed. The few objects that depend on each other, those by which MetalLB is configured, are kept as they are and looked at
//! together ([`Memory`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_core::{
    allocate::Allocation,
    model::{NodeName, ObjectName, Service, Snapshot},
};
use serde_json::Value;

use crate::{
    allocation::of_allocation,
    decode::Reading,
    document::typed,
    memory::{Memory, Settled},
    node::node,
    objects::{CLUSTER, Objects, key_of},
    problem::{ObjectKey, Problem, Report, Severity},
    service::{ALLOCATED_FROM, FORWARDING, Fields, TABLE_SIZE, service},
    shared::SharedTexts,
    slice::{Slice, join, slice},
};

/// The objects of a cluster, with the last good state of those that are wrong.
#[derive(Debug)]
pub struct Mirror {
    /// All Services, ours or not.
    services: BTreeMap<ObjectName, Seen>,
    /// Where in each of ours stands what its allocation depends on.
    fields: BTreeMap<ObjectName, Fields>,
    slices: BTreeMap<ObjectName, Joining>,
    /// Mostly one each: as sets they would take ten times as much.
    slices_of: BTreeMap<ObjectName, Vec<ObjectName>>,
    texts: SharedTexts,
    configuration: Objects,
    memory: Memory,
    reading: Reading,
    /// What is wrong with Services, slices and Nodes by themselves.
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
    /// What is wrong with the slices of a Service of ours.
    joined: BTreeMap<ObjectName, Vec<Problem>>,
    configured: Arc<[Problem]>,
    stale: Stale,
    changed: Changed,
    settled: Settled,
}

/// A Service.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    uid: Arc<str>,
    service: Kept,
    /// It was given addresses by us: the annotation says so.
    has_ours: bool,
    /// Who has sized its table.
    table: Sizer,
}

/// Where a Service is kept as it is or last was good.
#[derive(Debug, Default, PartialEq)]
enum Kept {
    /// It is not ours.
    #[default]
    Nowhere,
    /// In the snapshot, with its endpoints.
    Settled,
    /// Here, without endpoints: it is newer than the snapshot.
    Here(Box<Service>),
}

/// What a Service was told by MetalLB or by us, and with whom it shares that: annotations that cannot be wrong.
const TOLD: [&str; 2] = ["/ip-allocated-from-pool", "/allow-shared-ip"];

/// Who has sized a Service's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sizer {
    /// Nobody.
    #[default]
    Nobody,
    /// Whoever applies fields under our name (server-side apply).
    We,
    /// Somebody else: it is theirs.
    Others,
}

#[derive(Debug, PartialEq)]
struct Joining {
    slice: Slice,
    problems: Vec<Problem>,
}

/// What has changed since the snapshot was made.
#[derive(Debug, Default)]
struct Stale {
    services: BTreeSet<ObjectName>,
    /// See [`Mirror::has_news`].
    has_news: bool,
    nodes: bool,
    configuration: bool,
    /// A Service is another one of the same name.
    is_another: bool,
}

/// What was settled otherwise than before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changed {
    /// Services that are new, gone or otherwise than before, each with what it was.
    pub services: BTreeMap<ObjectName, Option<Arc<Service>>>,
    /// Something else than Services.
    pub others: bool,
}

impl Default for Mirror {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            fields: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            texts: SharedTexts::default(),
            configuration: Objects::default(),
            memory: Memory::default(),
            reading: Reading::default(),
            problems: BTreeMap::new(),
            joined: BTreeMap::new(),
            configured: Arc::default(),
            stale: Stale::default(),
            changed: Changed::default(),
            // As long as nothing has been settled, nothing may be changed because of that.
            settled: Settled { is_empty: true, ..Settled::default() },
        }
    }
}

impl Mirror {
    /// One of objects that are read in this way.
    pub fn new(reading: Reading) -> Self {
        Self { reading, ..Self::default() }
    }

    /// An object is there, or is otherwise than before; whether that is news.
    pub fn insert(&mut self, object: Value) -> bool {
        let key = key_of(&object);
        match key.kind.as_str() {
            "Service" => self.insert_service(&key, &object),
            "EndpointSlice" => self.insert_slice(&key, &object),
            "Node" => self.insert_node(&key, &object),
            _ => {
                let is_news = self.configuration.insert(object);
                self.stale.configuration |= is_news;
                is_news
            }
        }
    }

    /// An object is gone; whether it was there.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        let name = key.object_name();
        self.problems.remove(key);
        match key.kind.as_str() {
            "Service" => {
                self.fields.remove(&name);
                let was_there = self.services.remove(&name).is_some();
                self.stale.has_news |= was_there;
                self.stale.services.extend(was_there.then_some(name));
                was_there
            }
            "EndpointSlice" => match self.slices.remove(&name) {
                Some(joining) => {
                    self.part(&joining.slice.service, &name);
                    true
                }
                None => false,
            },
            "Node" => {
                let was_there = self.settled.snapshot.nodes.remove(&NodeName(name.name)).is_some();
                self.stale.nodes |= was_there;
                was_there
            }
            _ => {
                let was_there = self.configuration.remove(key);
                self.stale.configuration |= was_there;
                was_there
            }
        }
    }

    /// Whether objects of a kind are known.
    pub fn has_kind(&self, kind: &str) -> bool {
        match kind {
            "Service" => !self.services.is_empty(),
            "EndpointSlice" => !self.slices.is_empty(),
            "Node" => !self.settled.snapshot.nodes.is_empty(),
            _ => self.configuration.of_kind(kind).next().is_some(),
        }
    }

    /// All objects of a kind that are known.
    pub fn keys_of(&self, kind: &str) -> Vec<ObjectKey> {
        let key = |namespace: &str, name: &str| ObjectKey {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let of = |name: &ObjectName| key(&name.namespace, &name.name);
        match kind {
            "Service" => self.services.keys().map(of).collect(),
            "EndpointSlice" => self.slices.keys().map(of).collect(),
            "Node" => self.settled.snapshot.nodes.keys().map(|node| key("", &node.0)).collect(),
            _ => self.configuration.of_kind(kind).cloned().collect(),
        }
    }

    /// UID of an object, if it is kept.
    pub fn uid(&self, key: &ObjectKey) -> Option<&str> {
        match key.kind.as_str() {
            "Service" => self.service_uid(&key.object_name()).map(|uid| &**uid),
            _ => self.configuration.get(key)?["metadata"]["uid"].as_str(),
        }
    }

    /// UID of a Service.
    pub fn service_uid(&self, name: &ObjectName) -> Option<&Arc<str>> {
        self.services.get(name).map(|seen| &seen.uid)
    }

    /// Services that have addresses of ours, and are not ours any more: of another type or class.
    pub fn released(&self) -> impl Iterator<Item = &ObjectName> {
        let released =
            self.services.iter().filter(|(_, seen)| seen.has_ours && seen.service == Kept::Nowhere);
        released.map(|(name, _)| name)
    }

    /// Who has sized a Service's table.
    pub fn table_sizer(&self, service: &ObjectName) -> Sizer {
        self.services.get(service).map_or(Sizer::Nobody, |seen| seen.table)
    }

    /// By whom the annotation is managed, which only an API server can say.
    fn sizer(&self, object: &Value) -> Sizer {
        let metadata = &object["metadata"];
        if metadata["annotations"].get(TABLE_SIZE).is_none() {
            return Sizer::Nobody;
        }
        let field = format!("f:{TABLE_SIZE}");
        let managers = metadata["managedFields"].as_array().into_iter().flatten();
        let mut owners = managers
            .filter(|manager| manager["fieldsV1"]["f:metadata"]["f:annotations"].get(&field).is_some())
            .map(|manager| manager["manager"].as_str().unwrap_or_default());
        let ours = self.reading.manager.as_deref();
        if owners.any(|owner| Some(owner) == ours) { Sizer::We } else { Sizer::Others }
    }

    /// Whether anything has changed by which addresses could be given otherwise, since what holds was settled: more than endpoints, and
    /// more than that Services say what they were allocated.
    pub fn has_news(&self) -> bool {
        self.stale.has_news || self.stale.nodes || self.stale.configuration
    }

    /// What holds now. `allocate` brings the allocation up to date: it is told which Services are new, gone or otherwise than before;
    /// after a change of what we are configured by that is each of them.
    pub fn settle(
        &mut self,
        allocate: impl FnOnce(&Snapshot, &BTreeSet<ObjectName>, &mut Allocation),
    ) -> &Settled {
        let mut stale = std::mem::take(&mut self.stale);
        self.changed = Changed {
            services: BTreeMap::new(),
            others: stale.configuration || stale.nodes || stale.is_another,
        };
        if stale.configuration {
            self.configure();
        }
        stale.services.iter().for_each(|name| self.join(name));
        if stale.configuration {
            stale.services.extend(self.settled.snapshot.services.keys().cloned());
        }
        let Settled { snapshot, allocation, problems, origins, is_empty } = &mut self.settled;
        allocate(snapshot, &stale.services, allocation);
        let given = of_allocation(allocation, origins, &self.fields, CLUSTER);
        let by_object = self.problems.values().chain(self.joined.values()).flatten();
        let now: Vec<Problem> = self.configured.iter().chain(by_object).cloned().chain(given).collect();
        // What is as it was stays the same.
        if **problems != *now {
            *problems = now.into();
        }
        *is_empty = snapshot.services.is_empty() && self.configuration.is_empty();
        &self.settled
    }

    /// What was settled last.
    pub fn settled(&self) -> &Settled {
        &self.settled
    }

    /// What was otherwise when it was settled last than the time before.
    pub fn changed(&self) -> &Changed {
        &self.changed
    }

    /// What those objects last said by which we are configured.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Begins with what they said to an earlier process.
    pub fn remember(&mut self, memory: Memory) {
        self.memory = memory;
        self.stale.configuration = true;
    }

    fn insert_service(&mut self, key: &ObjectKey, object: &Value) -> bool {
        let name = self.object_name(key);
        let reading = self.reading.clone();
        let (decoded, is_news) = self.report(key, |report| service(typed(object, report)?, &reading, report));
        let table = self.sizer(object);
        let is_wrong = is_wrong(self.problems.get(key));
        let known = self.services.entry(name.clone()).or_default();
        let before = match &known.service {
            Kept::Nowhere => None,
            Kept::Settled => self.settled.snapshot.services.get(&name).map(|service| &**service),
            Kept::Here(service) => Some(&**service),
        };
        // As long as it has been wrong here, it has not been right.
        let decoded = decoded.or_else(|| {
            let is_new = is_wrong && before.is_none();
            is_new.then(|| as_served(object, &reading)).flatten()
        });
        let (service, fields) =
            decoded.map_or((None, None), |(service, fields)| (Some(service), Some(fields)));
        let mut seen = Seen {
            uid: object["metadata"]["uid"].as_str().unwrap_or_default().into(),
            service: Kept::Nowhere,
            has_ours: object["metadata"]["annotations"].get(ALLOCATED_FROM).is_some(),
            table,
        };
        let is_same = match (before, &service) {
            (Some(before), Some(service)) => before.differs_in_endpoints_alone(service),
            // What is wrong stays as it was.
            (Some(_), None) => is_wrong,
            (None, None) => true,
            (None, Some(_)) => false,
        };
        let is_echo = || {
            let (Some(before), Some(service)) = (before, &service) else { return false };
            let is_theirs = table == Sizer::Others || known.table == Sizer::Others;
            known.uid == seen.uid && !is_theirs && is_echo(&name, before, service, &self.settled.allocation)
        };
        // Events and status are an object's, not a name's.
        self.stale.is_another |= !known.uid.is_empty() && known.uid != seen.uid;
        let has_changed =
            !is_same || (&known.uid, known.has_ours, known.table) != (&seen.uid, seen.has_ours, seen.table);
        self.stale.has_news |= is_news || has_changed && !is_echo();
        seen.service = match service {
            _ if is_same => std::mem::take(&mut known.service),
            Some(service) => Kept::Here(Box::new(service)),
            None => Kept::Nowhere,
        };
        *known = seen;
        if let Some(fields) = fields {
            self.fields.insert(name.clone(), fields);
        }
        self.stale.services.extend(has_changed.then_some(name));
        has_changed || is_news
    }

    fn insert_slice(&mut self, key: &ObjectKey, object: &Value) -> bool {
        let name = self.object_name(key);
        let (object, is_news) = self.report(key, |report| typed(object, report));
        let Some(object) = object else { return is_news };
        let mut problems = Vec::new();
        let report = &mut Report { file: CLUSTER, object: key, problems: &mut problems };
        let joining = slice(object, &key.namespace, &mut self.texts, report);
        let joining = joining.map(|slice| Joining { slice, problems });
        if self.slices.get(&name) == joining.as_ref() {
            return is_news;
        }
        if let Some(known) = self.slices.remove(&name) {
            self.part(&known.slice.service, &name);
        }
        if let Some(joining) = joining {
            let service = joining.slice.service.clone();
            let slices = self.slices_of.entry(service.clone()).or_default();
            if let Err(place) = slices.binary_search(&name) {
                slices.insert(place, name.clone());
            }
            self.slices.insert(name, joining);
            self.stale.services.insert(service);
        }
        true
    }

    fn insert_node(&mut self, key: &ObjectKey, object: &Value) -> bool {
        let name = NodeName(key.name.as_str().into());
        let reading = self.reading.clone();
        let (decoded, is_news) = self.report(key, |report| node(typed(object, report)?, &reading, report));
        let nodes = &mut self.settled.snapshot.nodes;
        // One that is wrong stays as it was.
        match decoded.filter(|node| nodes.get(&name) != Some(node)) {
            Some(node) => {
                nodes.insert(name, node);
                self.stale.nodes = true;
                true
            }
            None => is_news,
        }
    }

    /// Its name, in the texts that others have of it.
    fn object_name(&mut self, key: &ObjectKey) -> ObjectName {
        ObjectName { namespace: self.texts.share(&key.namespace), name: self.texts.share(&key.name) }
    }

    /// Decodes an object by itself; whether other things are wrong with it than before.
    fn report<T>(
        &mut self,
        key: &ObjectKey,
        decode: impl FnOnce(&mut Report<'_>) -> Option<T>,
    ) -> (Option<T>, bool) {
        let mut problems = Vec::new();
        let decoded = decode(&mut Report { file: CLUSTER, object: key, problems: &mut problems });
        let is_news = self.problems.get(key).map_or(&[][..], Vec::as_slice) != problems;
        if problems.is_empty() {
            self.problems.remove(key);
        } else {
            self.problems.insert(key.clone(), problems);
        }
        (decoded, is_news)
    }

    /// A slice is none of this Service any more.
    fn part(&mut self, service: &ObjectName, slice: &ObjectName) {
        if let Some(slices) = self.slices_of.get_mut(service) {
            slices.retain(|known| known != slice);
            if slices.is_empty() {
                self.slices_of.remove(service);
            }
        }
        self.stale.services.insert(service.clone());
    }

    /// A Service of the snapshot, with its endpoints as they are now.
    fn join(&mut self, name: &ObjectName) {
        self.joined.remove(name);
        let services = &mut self.settled.snapshot.services;
        let kept = self.services.get_mut(name).map(|seen| &mut seen.service);
        let service = match kept {
            None | Some(Kept::Nowhere) => None,
            Some(Kept::Settled) => services.get(name).map(|service| service.without_endpoints()),
            Some(kept @ Kept::Here(_)) => match std::mem::replace(kept, Kept::Settled) {
                Kept::Here(service) => Some(*service),
                Kept::Nowhere | Kept::Settled => None,
            },
        };
        let Some(mut service) = service else {
            self.fields.remove(name);
            if let Some(known) = services.remove(name) {
                self.changed.services.insert(name.clone(), Some(known));
            }
            return;
        };
        let mut problems = Vec::new();
        for slice in self.slices_of.get(name).into_iter().flatten() {
            let Some(Joining { slice: joining, problems: own }) = self.slices.get(slice) else { continue };
            problems.extend(own.iter().cloned());
            let object = &ObjectKey {
                kind: "EndpointSlice".to_owned(),
                namespace: slice.namespace.to_string(),
                name: slice.name.to_string(),
            };
            join(joining, &mut service, &mut Report { file: CLUSTER, object, problems: &mut problems });
        }
        if !problems.is_empty() {
            self.joined.insert(name.clone(), problems);
        }
        // What is as it was stays the same.
        if services.get(name).is_none_or(|known| **known != service) {
            let known = services.insert(name.clone(), Arc::new(service));
            self.changed.services.insert(name.clone(), known);
        }
    }

    /// The snapshot with what we are configured by as it is now.
    fn configure(&mut self) {
        let Settled { snapshot: configured, problems, origins, .. } =
            self.memory.settle_configuration(&self.configuration);
        let nodes = std::mem::take(&mut self.settled.snapshot.nodes);
        let services = std::mem::take(&mut self.settled.snapshot.services);
        self.settled.snapshot = Snapshot { nodes, services, ..configured };
        self.configured = problems;
        self.settled.origins = origins;
    }
}

/// A Service that is wrong, as far as it has been served: it has the addresses that it was given, and the kernel carries its flows. They
/// must be neither taken from it nor given to another because this process has not seen it when it was right. `None` of one that was
/// given none.
fn as_served(object: &Value, reading: &Reading) -> Option<(Service, Fields)> {
    let mut object = object.clone();
    let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    annotations.retain(|name, _| TOLD.iter().any(|told| name.ends_with(told)));
    annotations.insert(FORWARDING.to_owned(), "kernel".into());
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("loadBalancerIP");
    }
    let (key, mut problems) = (key_of(&object), Vec::new());
    let report = &mut Report { file: CLUSTER, object: &key, problems: &mut problems };
    let served = service(typed(&object, report)?, reading, report);
    served.filter(|(service, _)| service.held_pool.is_some() && !service.ingress.is_empty())
}

/// Whether a Service says nothing new but what was written to it: the addresses that it was allocated, and how long its table is.
fn is_echo(name: &ObjectName, before: &Service, service: &Service, allocation: &Allocation) -> bool {
    let is_allocated = allocation.addresses.get(name) == Some(&service.ingress)
        && allocation.pools.get(name) == service.held_pool.as_ref();
    if !is_allocated {
        return false;
    }
    let Service { ingress, held_pool, table_size, table_grown, .. } = before.without_endpoints();
    let otherwise = Service { ingress, held_pool, table_size, table_grown, ..service.without_endpoints() };
    before.without_endpoints() == otherwise
}

fn is_wrong(problems: Option<&Vec<Problem>>) -> bool {
    problems.into_iter().flatten().any(|problem| problem.severity == Severity::Error)
}

#[cfg(test)]
mod tests;
