//! Objects that are written to a cluster: only what differs from what was written last, each for itself.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use backon::Retryable;
use kube::{
    Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::{DynamicObject, PartialObjectMeta},
};
use lb_api::{ALLOCATED_FROM, ObjectKey};
use serde_json::{Map, Value, json};
use tokio::{task::JoinSet, time::timeout};

use super::{
    applied::{Applied, There, Wanted, Write, pauses},
    kinds::{CONFIGURATION_STATE, Kind, L2_STATUS, Scope},
};
use crate::{chain::chain, output::Document};

/// Writes that are under way at once.
const AT_ONCE: usize = 32;
/// A write that takes longer has failed: one that hangs must not keep others waiting for ever, nor outlast the Lease under which it was
/// begun.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is written and not watched is looked for so often, in case that somebody has deleted it.
const LOOK: Duration = Duration::from_secs(300);

/// The pod that an agent runs in, as far as it is in our own namespace: nobody is owned across namespaces. What the agent alone writes goes
/// when its pod does, as with MetalLB (`internal/k8s/controllers/layer2_status_controller.go`): of a node that is gone nobody else would take
/// it away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPod {
    /// Its name, in our own namespace.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// What is written, and what has been. Writes go on while nobody looks; [`Self::progress`] is to be awaited, and [`Self::start`] called after
/// it.
pub struct Written {
    client: Client,
    manager: &'static str,
    namespace: String,
    pod: Option<OwnPod>,
    /// Of which node this writes, if of one.
    node: Option<String>,
    applied: Applied,
    under_way: JoinSet<Outcome>,
    look_at: Instant,
}

enum Outcome {
    Written(Write, Result<(), Error>),
    /// Objects of an earlier process.
    Found(Vec<ObjectKey>),
    /// It was looked at that moment for these, and some are gone.
    Looked(Instant, Vec<ObjectKey>),
}

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Refused(#[from] kube::Error),
    #[error("the API server did not answer in {} s", PATIENCE.as_secs())]
    Unanswered,
}

impl Written {
    /// Nothing yet; `manager` is who the API server takes for the owner of the fields (server-side apply), `namespace` our own, and `pod`
    /// the one in which this runs, if it is one.
    pub fn new(client: Client, manager: &'static str, namespace: &str, pod: Option<OwnPod>) -> Self {
        let is_at_home = client.default_namespace() == namespace;
        Self {
            client,
            manager,
            namespace: namespace.to_owned(),
            // In a pod, the client's is the pod's.
            pod: pod.filter(|_| is_at_home),
            node: None,
            applied: Applied::default(),
            under_way: JoinSet::new(),
            look_at: Instant::now() + LOOK,
        }
    }

    /// What a node writes: it also deletes what an earlier agent of it has left in our own namespace.
    pub fn of_node(
        client: Client,
        manager: &'static str,
        namespace: &str,
        pod: Option<OwnPod>,
        node: &str,
    ) -> Self {
        let mut written = Self::new(client.clone(), manager, namespace, pod);
        let (namespace, node) = (namespace.to_owned(), node.to_owned());
        written.node = Some(node.clone());
        written.under_way.spawn(async move { Outcome::Found(earlier(&client, &namespace, &node).await) });
        written
    }

    /// From now on this is wanted; `there` says what is known of an object, given its key and that of the one that it is about.
    pub fn want(
        &mut self,
        documents: impl IntoIterator<Item = Document>,
        there: impl Fn(&ObjectKey, &ObjectKey) -> There,
    ) {
        let documents = documents.into_iter().map(|mut document| {
            move_home(&mut document, &self.namespace, self.pod.as_ref());
            document
        });
        let there = |document: &Document| there(&document.key, &subject(document));
        self.applied.handle_wanted(documents, there, Instant::now());
    }

    /// Whether there is something to write now, and room for it: as much as makes it worth while to ask first whether it may be written.
    pub fn has_work(&self, now: Instant) -> bool {
        self.under_way.len() <= AT_ONCE / 2 && self.applied.has_work(now)
    }

    /// When it is to be looked again whether objects say what was written to them.
    pub fn recheck(&self) -> Option<Instant> {
        self.applied.recheck()
    }

    /// Whether everything has been written.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.applied.is_idle()
    }

    /// Begins to write what is to be written.
    pub fn start(&mut self, now: Instant) {
        while self.under_way.len() < AT_ONCE {
            let Some(write) = self.applied.poll_write(now) else { return };
            let (client, manager) = (self.client.clone(), self.manager);
            self.under_way.spawn(async move {
                let done = timeout(PATIENCE, carry_out(&client, manager, &write)).await;
                let result = done.map_or(Err(Error::Unanswered), |result| result.map_err(Error::from));
                Outcome::Written(write, result)
            });
        }
    }

    /// Waits until something was written, failed, or is to be tried again.
    pub async fn progress(&mut self) {
        let again = self.applied.poll_timeout();
        tokio::select! {
            Some(outcome) = self.under_way.join_next() => self.take(outcome),
            () = until(again) => {}
            () = until(Some(self.look_at)) => self.look(Instant::now()),
        }
        // What else has come to its end by now.
        while let Some(outcome) = self.under_way.try_join_next() {
            self.take(outcome);
        }
    }

    /// Looks whether somebody has deleted what was written, as is done now and then; if so, [`Self::recheck`] says that it is to be wanted
    /// again.
    pub fn look(&mut self, now: Instant) {
        self.look_at = now + LOOK;
        let wanted: Vec<ObjectKey> = self.applied.wanted().filter(|key| is_owned(key)).cloned().collect();
        if wanted.is_empty() {
            return;
        }
        let (client, namespace, node) = (self.client.clone(), self.namespace.clone(), self.node.clone());
        self.under_way.spawn(async move {
            let gone = gone(&client, &namespace, node.as_deref(), wanted);
            Outcome::Looked(now, timeout(PATIENCE, gone).await.unwrap_or_default())
        });
    }

    fn take(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        // Tasks neither panic nor are aborted before this is dropped.
        let Ok(outcome) = outcome else { return };
        match outcome {
            Outcome::Found(keys) => self.applied.handle_found(keys),
            Outcome::Looked(at, gone) => self.applied.handle_gone(&gone, at, Instant::now()),
            Outcome::Written(write, Ok(())) => self.applied.handle_done(write, Instant::now()),
            Outcome::Written(write, Err(error)) => {
                let object = write.key().clone();
                tracing::warn!(%object, error = said(&error), "not written; it is tried again");
                self.applied.handle_failed(&object, Instant::now());
            }
        }
    }
}

/// Those that say of which node they are.
fn of_node(node: &str) -> ListParams {
    ListParams::default().labels(&format!("metallb.io/node={node}"))
}

/// Those of these objects that are not there; none if that cannot be said.
async fn gone(
    client: &Client,
    namespace: &str,
    node: Option<&str>,
    wanted: Vec<ObjectKey>,
) -> Vec<ObjectKey> {
    let mut gone = Vec::new();
    for kind in OWNED {
        let of_kind = |key: &&ObjectKey| key.kind == kind.kind;
        let Some(first) = wanted.iter().find(of_kind) else { continue };
        let ours = match node.filter(|_| kind == L2_STATUS) {
            Some(node) => of_node(node),
            // There is one of each agent.
            None => ListParams::default().fields(&format!("metadata.name={}", first.name)),
        };
        // From what the API server has at hand: it is a look now and then, of all nodes.
        let list = ours.match_any();
        let there: BTreeSet<String> = match kind.read(client.clone(), namespace).list_metadata(&list).await {
            Ok(list) => list.items.into_iter().filter_map(|object| object.metadata.name).collect(),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    kind = kind.kind,
                    "not known whether what was written is there"
                );
                continue;
            }
        };
        gone.extend(wanted.iter().filter(of_kind).filter(|key| !there.contains(&key.name)).cloned());
    }
    gone
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// `ServiceL2Status` objects that an earlier agent of a node has left.
async fn earlier(client: &Client, namespace: &str, node: &str) -> Vec<ObjectKey> {
    let api = L2_STATUS.read(client.clone(), namespace);
    let ours = of_node(node);
    let list = || async { api.list_metadata(&ours).await };
    let said = |error: &kube::Error, _| {
        tracing::debug!(error = chain(error), "what an earlier agent has left is not known yet");
    };
    let found = list.retry(pauses()).notify(said).await;
    let found = found.map(|list| list.items).unwrap_or_default().into_iter();
    let key = |object: PartialObjectMeta<DynamicObject>| {
        let (namespace, name) = (object.metadata.namespace?, object.metadata.name?);
        Some(ObjectKey { kind: L2_STATUS.kind.to_owned(), namespace, name })
    };
    found.filter_map(key).collect()
}

/// What belongs to no Service stands in our own namespace, whatever that is called, and goes with our pod if nobody else writes it.
fn move_home(document: &mut Document, namespace: &str, pod: Option<&OwnPod>) {
    let is_ours = Kind::written(&document.key.kind).is_some_and(|kind| kind.scope == Scope::Own);
    if is_ours && document.key.namespace != namespace {
        namespace.clone_into(&mut document.key.namespace);
        document.value["metadata"]["namespace"] = namespace.into();
    }
    if let Some(OwnPod { name, uid }) = pod.filter(|_| is_owned(&document.key)) {
        document.value["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}]);
    }
}

/// Kinds of which each agent has objects of its own.
const OWNED: [Kind; 2] = [CONFIGURATION_STATE, L2_STATUS];

fn is_owned(key: &ObjectKey) -> bool {
    OWNED.iter().any(|kind| kind.kind == key.kind)
}

/// What a document is about: the object itself, or of an event the one that it tells of.
fn subject(document: &Document) -> ObjectKey {
    match document.key.kind.as_str() {
        "Event" => ObjectKey {
            kind: "Service".to_owned(),
            namespace: document.key.namespace.clone(),
            name: document.value["involvedObject"]["name"].as_str().unwrap_or_default().to_owned(),
        },
        _ => document.key.clone(),
    }
}

/// What the API server said, or why it said nothing.
fn said(error: &Error) -> String {
    match error {
        Error::Refused(kube::Error::Api(status)) => status.message.clone(),
        other => chain(other),
    }
}

async fn carry_out(client: &Client, manager: &str, write: &Write) -> Result<(), kube::Error> {
    match write {
        Write::Apply(key, wanted) => apply(client, manager, key, wanted).await,
        Write::Delete(ObjectKey { kind, namespace, name }) => {
            let Some(kind) = Kind::written(kind) else { return Ok(()) };
            let deleted = kind.write(client.clone(), namespace).delete(name, &DeleteParams::default()).await;
            match deleted {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => other.map(drop),
            }
        }
    }
}

async fn apply(
    client: &Client,
    manager: &str,
    key: &ObjectKey,
    Wanted { text, uid }: &Wanted,
) -> Result<(), kube::Error> {
    let ObjectKey { kind, namespace, name } = key;
    let Some(kind) = Kind::written(kind) else { return Ok(()) };
    let mut value: Value = serde_json::from_str(text).map_err(kube::Error::SerdeError)?;
    let api = kind.write(client.clone(), namespace);
    let params = PatchParams::apply(manager).force();
    match kind.kind {
        // There without us: only the status is ours, and the annotation that goes with it.
        "Service" | "IPAddressPool" => {
            let applied = api.patch_status(name, &params, &Patch::Apply(&value)).await?;
            let is_to_be_bare = value["status"]["loadBalancer"].as_object().is_some_and(Map::is_empty);
            if is_to_be_bare && has_addresses(&applied) {
                // Of what others have written, as MetalLB has, to apply nothing takes nothing away.
                let nothing = json!({
                    "metadata": {"annotations": {ALLOCATED_FROM: null}},
                    "status": {"loadBalancer": {"ingress": null}},
                });
                let params = PatchParams { force: false, ..params };
                api.patch_status(name, &params, &Patch::Merge(&nothing)).await?;
            }
        }
        "Event" => {
            if let Some(uid) = uid {
                // By which `kubectl describe` finds it.
                value["involvedObject"]["uid"] = uid.as_str().into();
            }
            api.patch(name, &params, &Patch::Apply(&value)).await?;
        }
        _ => {
            let status = value.as_object_mut().and_then(|fields| fields.remove("status"));
            api.patch(name, &params, &Patch::Apply(&value)).await?;
            if let Some(status) = status {
                let value = json!({
                    "apiVersion": value["apiVersion"],
                    "kind": value["kind"],
                    "metadata": {"name": name, "namespace": namespace},
                    "status": status,
                });
                api.patch_status(name, &params, &Patch::Apply(&value)).await?;
            }
        }
    }
    Ok(())
}

/// Whether a Service says that it has some, or of which pool they are.
fn has_addresses(service: &DynamicObject) -> bool {
    let ingress = service.data["status"]["loadBalancer"]["ingress"].as_array();
    ingress.is_some_and(|ingress| !ingress.is_empty())
        || service.metadata.annotations.iter().flatten().any(|(name, _)| name == ALLOCATED_FROM)
}
