//! Objects that are applied to a cluster: only what differs from what was applied last, each tried again by itself.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{StreamExt, stream};
use kube::{
    Client,
    api::{Patch, PatchParams},
};
use lb_api::{ObjectKey, Objects};
use serde_json::{Value, json};

use super::kinds::Kind;
use crate::{chain::chain, output::Document};

/// Writes that are under way at once.
const AT_ONCE: usize = 32;
/// Between two attempts to write an object, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(60)];

/// What is written, and what has been.
pub struct Written {
    client: Client,
    manager: &'static str,
    /// As applied last.
    applied: BTreeMap<ObjectKey, Value>,
    failing: BTreeMap<ObjectKey, Failing>,
}

struct Failing {
    pauses: ExponentialBackoff,
    next: Instant,
}

impl Written {
    /// Nothing yet; `manager` is who the API server takes for the owner of the fields (server-side apply).
    pub fn new(client: Client, manager: &'static str) -> Self {
        Self { client, manager, applied: BTreeMap::new(), failing: BTreeMap::new() }
    }

    /// Applies what has changed. What fails is tried again later, and keeps nothing else waiting.
    pub async fn write(&mut self, documents: &[Document], objects: &Objects, now: Instant) {
        let due = documents.iter().filter(|document| self.is_due(document, now));
        let (client, manager) = (&self.client, self.manager);
        let writes = due.map(|document| async move {
            let result = apply(client, manager, document, objects).await;
            (document, result)
        });
        let results: Vec<_> = stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
        for (document, result) in results {
            let key = &document.key;
            match result {
                Ok(()) => {
                    self.failing.remove(key);
                    self.applied.insert(key.clone(), document.value.clone());
                }
                Err(error) => {
                    tracing::warn!(object = %key, error = said(&error), "not written; it is tried again");
                    let failing = self
                        .failing
                        .entry(key.clone())
                        .or_insert_with(|| Failing { pauses: pauses(), next: now });
                    failing.next = now + failing.pauses.next().unwrap_or(PAUSES[1]);
                }
            }
        }
        let is_wanted = |key: &ObjectKey| documents.iter().any(|document| document.key == *key);
        self.failing.retain(|key, _| is_wanted(key));
        self.applied.retain(|key, _| is_wanted(key));
    }

    /// Whether there is anything to write now.
    pub fn has_work(&self, documents: &[Document], now: Instant) -> bool {
        documents.iter().any(|document| self.is_due(document, now))
    }

    fn is_due(&self, document: &Document, now: Instant) -> bool {
        self.applied.get(&document.key) != Some(&document.value)
            && self.failing.get(&document.key).is_none_or(|failing| failing.next <= now)
    }

    /// When something that failed is to be tried again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.failing.values().map(|failing| failing.next).min()
    }
}

/// What the API server said, or why it said nothing.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}

fn pauses() -> ExponentialBackoff {
    let [first, most] = PAUSES;
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(most)
        .with_jitter()
        .without_max_times()
        .build()
}

async fn apply(
    client: &Client,
    manager: &str,
    document: &Document,
    objects: &Objects,
) -> Result<(), kube::Error> {
    let ObjectKey { kind, namespace, name } = &document.key;
    let Some(kind) = Kind::of(kind) else { return Ok(()) };
    let api = kind.write(client.clone(), namespace);
    let params = PatchParams::apply(manager).force();
    let mut value = document.value.clone();
    match kind.kind {
        // There without us: only the status is ours, and the annotation that goes with it.
        "Service" | "IPAddressPool" => {
            api.patch_status(name, &params, &Patch::Apply(&value)).await?;
        }
        "Event" => {
            // By which `kubectl describe` finds it.
            let involved = ObjectKey {
                kind: "Service".to_owned(),
                namespace: namespace.clone(),
                name: value["involvedObject"]["name"].as_str().unwrap_or_default().to_owned(),
            };
            if let Some(uid) = objects.get(&involved).map(|service| &service["metadata"]["uid"]) {
                value["involvedObject"]["uid"] = uid.clone();
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
