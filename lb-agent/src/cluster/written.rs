//! Objects that are written to a cluster: only what differs from what was written last, each for itself.

use std::time::{Duration, Instant};

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
    kinds::{Kind, L2_STATUS, Scope},
};
use crate::{chain::chain, output::Document};

/// Writes that are under way at once.
const AT_ONCE: usize = 32;
/// A write that takes longer has failed: one that hangs must not keep others waiting for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is written, and what has been. Writes go on while nobody looks; [`Self::progress`] is to be awaited, and [`Self::start`] called after
/// it.
pub struct Written {
    client: Client,
    manager: &'static str,
    namespace: String,
    applied: Applied,
    under_way: JoinSet<Outcome>,
}

enum Outcome {
    Written(Write, Result<(), Error>),
    /// Objects of an earlier process.
    Found(Vec<ObjectKey>),
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
    /// Nothing yet; `manager` is who the API server takes for the owner of the fields (server-side apply), `namespace` our own.
    pub fn new(client: Client, manager: &'static str, namespace: &str) -> Self {
        Self {
            client,
            manager,
            namespace: namespace.to_owned(),
            applied: Applied::default(),
            under_way: JoinSet::new(),
        }
    }

    /// What a node writes: it also deletes what an earlier agent of it has left in our own namespace.
    pub fn of_node(client: Client, manager: &'static str, namespace: &str, node: &str) -> Self {
        let mut written = Self::new(client.clone(), manager, namespace);
        let (namespace, node) = (namespace.to_owned(), node.to_owned());
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
            move_home(&mut document, &self.namespace);
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
        }
        // What else has come to its end by now.
        while let Some(outcome) = self.under_way.try_join_next() {
            self.take(outcome);
        }
    }

    fn take(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        // Tasks neither panic nor are aborted before this is dropped.
        let Ok(outcome) = outcome else { return };
        match outcome {
            Outcome::Found(keys) => self.applied.handle_found(keys),
            Outcome::Written(write, Ok(())) => self.applied.handle_done(write, Instant::now()),
            Outcome::Written(write, Err(error)) => {
                let object = write.key().clone();
                tracing::warn!(%object, error = said(&error), "not written; it is tried again");
                self.applied.handle_failed(&object, Instant::now());
            }
        }
    }
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
    let ours = ListParams::default().labels(&format!("metallb.io/node={node}"));
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

/// What belongs to no Service stands in our own namespace, whatever that is called.
fn move_home(document: &mut Document, namespace: &str) {
    let is_ours = Kind::written(&document.key.kind).is_some_and(|kind| kind.scope == Scope::Own);
    if is_ours && document.key.namespace != namespace {
        namespace.clone_into(&mut document.key.namespace);
        document.value["metadata"]["namespace"] = namespace.into();
    }
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
