//! Objects that are applied to a cluster: only what differs from what was applied last, each tried again by itself.

use std::time::Instant;

use futures::{StreamExt, stream};
use kube::{
    Client,
    api::{Patch, PatchParams},
};
use lb_api::{ObjectKey, Objects};
use serde_json::json;

use super::{applied::Applied, kinds::Kind};
use crate::{chain::chain, output::Document};

/// Writes that are under way at once.
const AT_ONCE: usize = 32;

/// What is written, and what has been.
pub struct Written {
    client: Client,
    manager: &'static str,
    applied: Applied,
}

impl Written {
    /// Nothing yet; `manager` is who the API server takes for the owner of the fields (server-side apply).
    pub fn new(client: Client, manager: &'static str) -> Self {
        Self { client, manager, applied: Applied::default() }
    }

    /// Applies what has changed. What fails is tried again later, and keeps nothing else waiting.
    pub async fn write(&mut self, documents: &[Document], objects: &Objects, now: Instant) {
        let due = documents.iter().filter(|document| self.applied.is_due(document, objects, now));
        let (client, manager) = (&self.client, self.manager);
        let writes = due.map(|document| async move {
            let result = apply(client, manager, document, objects).await;
            (document, result)
        });
        let results: Vec<_> = stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
        for (document, result) in results {
            match result {
                Ok(()) => self.applied.handle_done(document, objects),
                Err(error) => {
                    tracing::warn!(object = %document.key, error = said(&error), "not written; it is tried again");
                    self.applied.handle_failed(&document.key, now);
                }
            }
        }
    }

    /// What is not wanted any more, and may be wanted again later, is forgotten.
    pub fn retain(&mut self, documents: &[Document]) {
        self.applied.retain(documents);
    }

    /// Whether there is anything to write now.
    pub fn has_work(&self, documents: &[Document], objects: &Objects, now: Instant) -> bool {
        documents.iter().any(|document| self.applied.is_due(document, objects, now))
    }

    /// When something that failed is to be tried again.
    pub fn poll_timeout(&self, documents: &[Document], objects: &Objects) -> Option<Instant> {
        self.applied.poll_timeout(documents, objects)
    }
}

/// What the API server said, or why it said nothing.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
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
