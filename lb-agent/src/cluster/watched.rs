//! Objects as an API server tells of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    stream::{BoxStream, SelectAll},
};
use kube::{
    Client,
    core::DynamicObject,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use lb_api::{Mirror, ObjectKey, Reading};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::kinds::{Kind, SERVICE, of_controller, of_node};
use crate::{chain::chain, metrics::SourceFacts};

/// Objects by which we are configured are gone so long after they were deleted, unless the definition of their kind goes meanwhile: then
/// nobody has wished to be without them.
const GRACE: Duration = Duration::from_secs(10);

type Told = (Kind, Result<Event<DynamicObject>, watcher::Error>);

/// The objects of a cluster, as watched. What cannot be watched for a while stays as it was, and is watched again.
pub struct Watched {
    told: SelectAll<BoxStream<'static, Told>>,
    mirror: Mirror,
    /// Kinds that are listed anew, and what was found of each so far.
    listing: BTreeMap<&'static str, BTreeSet<ObjectKey>>,
    /// Kinds that were listed once.
    known: BTreeSet<&'static str>,
    /// Kinds that cannot be watched, and why: it is said once.
    failing: BTreeMap<&'static str, Failing>,
    /// Objects that were deleted, and when that is believed.
    deleted: BTreeMap<ObjectKey, Instant>,
    updates: u64,
    errors: u64,
}

struct Failing {
    why: String,
    /// The API server does not have the kind.
    is_missing: bool,
}

impl Watched {
    /// What a controller needs, with `own` as our own namespace.
    pub fn of_controller(client: &Client, own: &str, reading: Reading) -> Self {
        Self::new(client, own, reading, of_controller())
    }

    /// What a node needs, with `own` as our own namespace.
    pub fn of_node(client: &Client, own: &str, reading: Reading) -> Self {
        Self::new(client, own, reading, of_node())
    }

    fn new(client: &Client, own: &str, reading: Reading, kinds: impl Iterator<Item = Kind>) -> Self {
        let streams = kinds.map(|kind| {
            let config = watcher::Config::default();
            let config = match kind.only {
                Some(name) => config.fields(&format!("metadata.name={name}")),
                None => config,
            };
            let watched = watcher::watcher(kind.read(client.clone(), own), config);
            watched.default_backoff().map(move |told| (kind, told)).boxed()
        });
        Self {
            told: streams.collect(),
            mirror: Mirror::new(reading),
            listing: BTreeMap::new(),
            known: BTreeSet::new(),
            failing: BTreeMap::new(),
            deleted: BTreeMap::new(),
            updates: 0,
            errors: 0,
        }
    }

    /// The objects, as they are known now.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// The same, to be settled.
    pub fn mirror_mut(&mut self) -> &mut Mirror {
        &mut self.mirror
    }

    /// Kinds that cannot be watched at present, and why; a kind that the API server does not have is none of them, unless objects of it are
    /// known.
    pub fn failing(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let is_lost = |kind, failing: &Failing| !failing.is_missing || self.mirror.has_kind(kind);
        let failing = self.failing.iter().filter(move |(kind, failing)| is_lost(kind, failing));
        failing.map(|(kind, failing)| (*kind, failing.why.as_str()))
    }

    /// How objects are heard of.
    pub fn facts(&self) -> SourceFacts {
        let settled = self.mirror.settled();
        let is_heard = |name| self.failing.get(name).is_none_or(|failing| failing.is_missing);
        SourceFacts {
            updates: self.updates,
            errors: self.errors,
            is_loaded: self.is_complete() && settled.is_configured(),
            is_stale: settled.is_stale() || self.failing().next().is_some(),
            heard: self
                .known
                .iter()
                .chain(self.failing.keys())
                .map(|name| (*name, is_heard(*name)))
                .collect(),
        }
    }

    /// Whether each kind has been listed, or is not there.
    pub fn is_complete(&self) -> bool {
        self.told.len() == self.known.len()
    }

    /// Waits until something has changed: an object, or whether objects can be watched.
    pub async fn changed(&mut self) {
        loop {
            let believed = self.deleted.values().min().copied();
            tokio::select! {
                told = self.told.next() => {
                    let Some(told) = told else { return std::future::pending().await };
                    if self.take(told) {
                        return;
                    }
                }
                () = until(believed) => {
                    if self.believe(Instant::now()) {
                        return;
                    }
                }
            }
        }
    }

    /// Takes objects for gone that were deleted long enough ago; whether there were any.
    fn believe(&mut self, now: Instant) -> bool {
        let gone: Vec<ObjectKey> =
            self.deleted.extract_if(.., |_, at| *at <= now).map(|(key, _)| key).collect();
        gone.iter().fold(false, |has_changed, key| self.mirror.remove(key) | has_changed)
    }

    /// An object is deleted; whether that changes anything now.
    fn delete(&mut self, kind: Kind, key: ObjectKey) -> bool {
        if kind.is_defined() {
            self.deleted.entry(key).or_insert(Instant::now() + GRACE);
            return false;
        }
        self.mirror.remove(&key)
    }

    /// Takes what else has been told: what changes together is looked at together.
    pub fn take_waiting(&mut self) {
        while let Some(Some(told)) = self.told.next().now_or_never() {
            self.take(told);
        }
    }

    /// Whether what is known has changed.
    fn take(&mut self, (kind, told): Told) -> bool {
        let name = kind.kind;
        let event = match told {
            Ok(event) => event,
            // Too much has changed since: it is listed anew.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => return false,
            Err(error) => return self.fail(kind, &error),
        };
        // It begins to ask before anything has answered.
        let has_answered = !matches!(event, Event::Init);
        let is_back = has_answered && self.failing.remove(name).is_some();
        if is_back && self.failing.values().all(|failing| failing.is_missing) {
            tracing::info!("objects are heard of again");
        }
        let has_changed = match event {
            Event::Init => {
                self.listing.insert(name, BTreeSet::new());
                false
            }
            Event::InitApply(object) => {
                self.listing.entry(name).or_default().insert(key(kind, &object));
                // What is listed at first counts when all of it is there.
                self.insert(kind, object) && self.known.contains(name)
            }
            Event::InitDone => {
                let found = self.listing.remove(name).unwrap_or_default();
                let gone = self.mirror.keys_of(name).into_iter().filter(|known| !found.contains(known));
                let has_changed = gone.fold(false, |has_changed, key| self.delete(kind, key) | has_changed);
                self.known.insert(name) || has_changed
            }
            Event::Apply(object) => self.insert(kind, object),
            Event::Delete(object) => self.delete(kind, key(kind, &object)),
        };
        self.updates += u64::from(has_changed);
        has_changed || is_back
    }

    fn fail(&mut self, kind: Kind, error: &watcher::Error) -> bool {
        let name = kind.kind;
        self.errors += 1;
        let why = match cause(error) {
            Some(kube::Error::Api(status)) => status.message.clone(),
            Some(cause) => chain(cause),
            None => chain(error),
        };
        let is_missing = is_missing(error);
        let is_said = self.failing.values().any(|failing| failing.why == why);
        let known = self.failing.insert(name, Failing { why: why.clone(), is_missing });
        let is_news = known.is_none_or(|known| known.is_missing != is_missing);
        if is_missing {
            self.deleted.retain(|key, _| key.kind != name);
        }
        if is_news && is_missing && self.mirror.has_kind(name) {
            tracing::warn!(
                kind = name,
                "the API server does not have this kind any more: of its objects, what they said last holds until there is one"
            );
        } else if is_news && is_missing {
            tracing::warn!(kind = name, "the API server does not have this kind: there is no object of it");
        } else if is_news && !is_said {
            tracing::warn!(
                kind = name,
                why,
                "no changes are heard of: what is known holds; it is tried again"
            );
        }
        // A kind that the API server does not have has no objects; one whose objects were known is only away.
        is_missing && self.known.insert(name) || is_news
    }

    fn insert(&mut self, kind: Kind, mut object: DynamicObject) -> bool {
        let key = key(kind, &object);
        // Most of an object, and of Services alone somebody asks for it.
        if kind != SERVICE {
            object.metadata.managed_fields = None;
        }
        let Ok(mut value) = serde_json::to_value(object) else { return false };
        // Items of a list do not say it.
        value["apiVersion"] = Value::from(kind.api_version());
        value["kind"] = Value::from(kind.kind);
        self.deleted.remove(&key);
        self.mirror.insert(value)
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn key(kind: Kind, object: &DynamicObject) -> ObjectKey {
    ObjectKey {
        kind: kind.kind.to_owned(),
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
    }
}

/// What a request for objects failed of.
fn cause(error: &watcher::Error) -> Option<&kube::Error> {
    match error {
        watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause) => Some(cause),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => None,
    }
}

fn is_missing(error: &watcher::Error) -> bool {
    matches!(cause(error), Some(kube::Error::Api(status)) if status.code == 404)
}
