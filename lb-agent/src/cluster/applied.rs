//! What of the objects that are wanted has been applied, and what is to be tried again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use lb_api::{ObjectKey, Objects};
use serde_json::Value;

use crate::output::Document;

/// Between two attempts to apply an object, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(60)];

/// What was applied, and what failed.
#[derive(Default)]
pub(super) struct Applied {
    done: BTreeMap<ObjectKey, Done>,
    failing: BTreeMap<ObjectKey, Failing>,
}

#[derive(PartialEq)]
struct Done {
    value: Value,
    /// Of the object, where it is watched: another one of the same name knows nothing of what the first was told.
    uid: Option<String>,
}

struct Failing {
    pauses: ExponentialBackoff,
    next: Instant,
}

impl Applied {
    /// Whether a document is to be applied now.
    pub fn is_due(&self, document: &Document, objects: &Objects, now: Instant) -> bool {
        self.differs(document, objects)
            && self.failing.get(&document.key).is_none_or(|failing| failing.next <= now)
    }

    /// When one of the documents that failed is to be tried again.
    pub fn poll_timeout(&self, documents: &[Document], objects: &Objects) -> Option<Instant> {
        let failing = documents.iter().filter(|document| self.differs(document, objects));
        failing.filter_map(|document| Some(self.failing.get(&document.key)?.next)).min()
    }

    /// A document was applied.
    pub fn handle_done(&mut self, document: &Document, objects: &Objects) {
        self.failing.remove(&document.key);
        let done = Done { value: document.value.clone(), uid: uid(objects, &document.key) };
        self.done.insert(document.key.clone(), done);
    }

    /// A document could not be applied.
    pub fn handle_failed(&mut self, key: &ObjectKey, now: Instant) {
        let new = || Failing { pauses: pauses(), next: now };
        let failing = self.failing.entry(key.clone()).or_insert_with(new);
        failing.next = now + failing.pauses.next().unwrap_or(PAUSES[1]);
    }

    /// Forgets all others than these.
    pub fn retain(&mut self, documents: &[Document]) {
        let wanted: BTreeSet<&ObjectKey> = documents.iter().map(|document| &document.key).collect();
        self.failing.retain(|key, _| wanted.contains(key));
        self.done.retain(|key, _| wanted.contains(key));
    }

    fn differs(&self, document: &Document, objects: &Objects) -> bool {
        self.done
            .get(&document.key)
            .is_none_or(|done| done.value != document.value || done.uid != uid(objects, &document.key))
    }
}

fn uid(objects: &Objects, key: &ObjectKey) -> Option<String> {
    objects.get(key)?["metadata"]["uid"].as_str().map(str::to_owned)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn web(ip: &str) -> Document {
        let key =
            ObjectKey { kind: "Service".to_owned(), namespace: "shop".to_owned(), name: "web".to_owned() };
        Document { author: "controller".to_owned(), key, value: json!({"status": ip}) }
    }

    fn objects(uid: &str) -> Objects {
        let mut objects = Objects::default();
        objects
            .insert(json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "web", "uid": uid}}));
        objects
    }

    #[test]
    fn what_was_applied_is_applied_again_only_to_another_object_or_with_other_words() {
        let (mut applied, now) = (Applied::default(), Instant::now());
        let first = objects("1");
        assert!(applied.is_due(&web("a"), &first, now));
        applied.handle_done(&web("a"), &first);
        assert!(!applied.is_due(&web("a"), &first, now));
        assert!(applied.is_due(&web("b"), &first, now));
        assert!(
            applied.is_due(&web("a"), &objects("2"), now),
            "deleted, and created again under the same name"
        );
        applied.retain(&[]);
        assert!(applied.is_due(&web("a"), &first, now));
    }

    #[test]
    fn what_fails_is_tried_again_later_as_long_as_it_is_wanted() {
        let (mut applied, now) = (Applied::default(), Instant::now());
        let objects = objects("1");
        applied.handle_done(&web("a"), &objects);
        let wanted = [web("b")];
        applied.handle_failed(&wanted[0].key, now);
        assert!(!applied.is_due(&wanted[0], &objects, now));
        let next = applied.poll_timeout(&wanted, &objects);
        assert!(next.is_some_and(|next| next > now && applied.is_due(&wanted[0], &objects, next)));
        // As it is: there is nothing to try again, and nobody to wake for it.
        assert_eq!(applied.poll_timeout(&[web("a")], &objects), None);
        assert_eq!(applied.poll_timeout(&[], &objects), None);
    }
}
