//! What is wanted of objects, what of that has been written, and what is to be tried again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use lb_api::ObjectKey;

use super::kinds::L2_STATUS;
use crate::output::Document;

/// Between two attempts to write an object, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(60)];

/// Which objects are written, one after the other or side by side, each for itself.
#[derive(Default)]
pub(super) struct Applied {
    entries: BTreeMap<ObjectKey, Entry>,
    /// Of those that are to be written now, who comes first.
    queue: VecDeque<ObjectKey>,
    /// Events, which nothing waits for, come after all else.
    events: VecDeque<ObjectKey>,
    waiting: BTreeSet<(Instant, ObjectKey)>,
    recheck: Option<Instant>,
}

/// What comes back of a write has come back after so long.
const ECHO: Duration = Duration::from_secs(10);

/// What is known of an object that is to say something.
#[derive(Clone, Debug, Default)]
pub struct There {
    /// Its UID, where it is watched.
    pub uid: Option<String>,
    /// It says something else: what, as a number that is another for other words.
    pub other: Option<u64>,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    /// As JSON: there are thousands of them, and as values they would take ten times as much.
    pub text: Arc<str>,
    /// Of the object it is about, where that is watched: another one of the same name knows nothing of what the first was told.
    pub uid: Option<String>,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Write {
    /// Apply this to the object with this name.
    Apply(ObjectKey, Wanted),
    /// Delete the object with this name.
    Delete(ObjectKey),
}

impl Write {
    pub fn key(&self) -> &ObjectKey {
        match self {
            Self::Apply(key, _) | Self::Delete(key) => key,
        }
    }
}

/// What [`Wanted`] is told from others by: half of its SHA-256, for there are thousands, and nobody gains by two that are alike.
type Digest = [u8; SHA256_OUTPUT_LEN / 2];

impl Wanted {
    fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        context.update(self.text.as_bytes());
        // No JSON has that.
        context.update(&[0]);
        context.update(self.uid.as_deref().unwrap_or_default().as_bytes());
        // It is longer than that.
        context.finish().as_ref().first_chunk().copied().unwrap_or_default()
    }
}

#[derive(Default)]
struct Entry {
    wanted: Option<Digest>,
    /// The same, until it is written: there are thousands of entries, and most have been.
    text: Option<Box<Wanted>>,
    done: Done,
    written_at: Option<Instant>,
    /// What somebody else has made of it; it is written again once for that.
    overwritten: Option<u64>,
    attempt: Attempt,
    pauses: Option<Box<ExponentialBackoff>>,
}

/// What an object says by what was written last.
#[derive(Debug, Default, PartialEq)]
enum Done {
    /// Nothing of ours.
    #[default]
    Nothing,
    /// Something: it was there before us, or nobody knows whether a write was carried out.
    Unknown,
    /// This.
    Written(Digest),
}

#[derive(Debug, Default, PartialEq)]
enum Attempt {
    #[default]
    None,
    Queued,
    /// It is under way.
    Writing,
    /// It failed, and is due again then.
    Waiting(Instant),
}

impl Entry {
    fn is_due(&self) -> bool {
        match (&self.wanted, &self.done) {
            (Some(wanted), Done::Written(done)) => wanted != done,
            (Some(_), Done::Nothing | Done::Unknown) => true,
            (None, done) => *done != Done::Nothing,
        }
    }
}

impl Applied {
    /// These documents are wanted, and no others. Of the kinds that we alone write, those that are not wanted are deleted; all others
    /// are forgotten.
    pub fn handle_wanted(
        &mut self,
        documents: impl IntoIterator<Item = Document>,
        there: impl Fn(&Document) -> There,
        now: Instant,
    ) {
        self.recheck = None;
        let mut left: BTreeSet<ObjectKey> = self.entries.keys().cloned().collect();
        for document in documents {
            left.remove(&document.key);
            let There { uid, other } = there(&document);
            let wanted = Wanted { text: document.value.to_string().into(), uid };
            let digest = wanted.digest();
            let entry = self.entries.entry(document.key.clone()).or_default();
            if entry.wanted != Some(digest) {
                (entry.wanted, entry.text) = (Some(digest), Some(Box::new(wanted)));
                self.enqueue(&document.key);
            } else if other.is_none() {
                entry.overwritten = None;
            } else if entry.done == Done::Written(digest) && entry.overwritten != other {
                match entry.written_at.map(|at| at + ECHO).filter(|at| now < *at) {
                    // It may be what was there before.
                    Some(at) => self.recheck = Some(self.recheck.map_or(at, |known| known.min(at))),
                    None => {
                        (entry.done, entry.overwritten) = (Done::Unknown, other);
                        entry.text = Some(Box::new(wanted));
                        self.enqueue(&document.key);
                    }
                }
            }
        }
        for key in left {
            if let Some(entry) = self.entries.get_mut(&key) {
                (entry.wanted, entry.text) = (None, None);
            }
            self.enqueue(&key);
        }
    }

    /// When it is to be looked again whether objects say what was written to them.
    pub fn recheck(&self) -> Option<Instant> {
        self.recheck
    }

    /// What is wanted at present.
    pub fn wanted(&self) -> impl Iterator<Item = &ObjectKey> {
        self.entries.iter().filter(|(_, entry)| entry.wanted.is_some()).map(|(key, _)| key)
    }

    /// These were not there when it was looked for them: what was written well before that has been deleted. What they are to say is known
    /// when everything is wanted the next time, which is to be at once.
    pub fn handle_gone<'a>(
        &mut self,
        keys: impl IntoIterator<Item = &'a ObjectKey>,
        looked: Instant,
        now: Instant,
    ) {
        for key in keys {
            let is_old = |entry: &&Entry| {
                matches!(entry.done, Done::Written(_))
                    && entry.attempt == Attempt::None
                    && entry.written_at.is_some_and(|at| at + ECHO <= looked)
            };
            if self.entries.get(key).filter(is_old).is_some() {
                self.entries.remove(key);
                self.recheck = Some(now);
            }
        }
    }

    /// Objects of ours that were there before.
    pub fn handle_found(&mut self, keys: impl IntoIterator<Item = ObjectKey>) {
        for key in keys {
            let entry = self.entries.entry(key.clone()).or_default();
            if entry.done == Done::Nothing {
                entry.done = Done::Unknown;
            }
            self.enqueue(&key);
        }
    }

    /// What is to be written next, if anything; it is under way then.
    pub fn poll_write(&mut self, now: Instant) -> Option<Write> {
        while let Some((at, key)) = self.waiting.pop_first() {
            if at > now {
                self.waiting.insert((at, key));
                break;
            }
            self.retry(&key);
        }
        while let Some(key) = self.queue.pop_front().or_else(|| self.events.pop_front()) {
            // Forgotten and wanted again meanwhile, it may be here twice.
            let queued = self.entries.get_mut(&key).filter(|entry| entry.attempt == Attempt::Queued);
            let Some(entry) = queued else { continue };
            entry.attempt = Attempt::None;
            if !entry.is_due() {
                continue;
            }
            let write = match (&entry.wanted, &entry.text) {
                (Some(_), Some(text)) => Write::Apply(key, (**text).clone()),
                (None, _) => Write::Delete(key),
                // It has been written before, and is wanted again when it is to be written again.
                (Some(_), None) => continue,
            };
            entry.attempt = Attempt::Writing;
            return Some(write);
        }
        None
    }

    /// Whether there is something to write now.
    pub fn has_work(&self, now: Instant) -> bool {
        !self.queue.is_empty()
            || !self.events.is_empty()
            || self.waiting.first().is_some_and(|(at, _)| *at <= now)
    }

    /// Whether there is nothing to write, now or later.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.events.is_empty() && self.waiting.is_empty()
    }

    /// When something that failed is due again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// It was written.
    pub fn handle_done(&mut self, write: Write, now: Instant) {
        let key = write.key().clone();
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.attempt = Attempt::None;
        entry.pauses = None;
        entry.written_at = Some(now);
        entry.done = match write {
            Write::Apply(_, wanted) => Done::Written(wanted.digest()),
            Write::Delete(_) => Done::Nothing,
        };
        if !entry.is_due() {
            entry.text = None;
        }
        self.enqueue(&key);
    }

    /// It failed, or nobody knows; it is tried again later as long as it is wanted.
    pub fn handle_failed(&mut self, key: &ObjectKey, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.done = Done::Unknown;
        let pause =
            entry.pauses.get_or_insert_with(|| Box::new(pauses().build())).next().unwrap_or(PAUSES[1]);
        entry.attempt = Attempt::Waiting(now + pause);
        self.waiting.insert((now + pause, key.clone()));
        self.forget(key);
    }

    /// An object is written as soon as it can be, if it has to be.
    fn enqueue(&mut self, key: &ObjectKey) {
        self.forget(key);
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.is_due()) else { return };
        if entry.attempt == Attempt::None {
            entry.attempt = Attempt::Queued;
            let queue = if key.kind == "Event" { &mut self.events } else { &mut self.queue };
            queue.push_back(key.clone());
        }
    }

    fn retry(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.attempt = Attempt::None;
        }
        self.enqueue(key);
    }

    /// Of an object that is not wanted nothing is kept, unless it is to be deleted, or is being written.
    fn forget(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.get(key) else { return };
        let is_deleted = key.kind == L2_STATUS.kind && entry.done != Done::Nothing;
        if entry.wanted.is_some() || is_deleted || entry.attempt == Attempt::Writing {
            return;
        }
        if let Attempt::Waiting(at) = entry.attempt {
            self.waiting.remove(&(at, key.clone()));
        }
        self.entries.remove(key);
    }
}

/// Between attempts, for as long as it takes.
pub(super) fn pauses() -> ExponentialBuilder {
    let [first, most] = PAUSES;
    ExponentialBuilder::default().with_min_delay(first).with_max_delay(most).with_jitter().without_max_times()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(kind: &str) -> ObjectKey {
        ObjectKey { kind: kind.to_owned(), namespace: "shop".to_owned(), name: "web".to_owned() }
    }

    fn document(kind: &str, ip: &str) -> Document {
        Document { author: "controller".to_owned(), key: key(kind), value: json!({"status": ip}) }
    }

    fn web(ip: &str) -> Document {
        document("Service", ip)
    }

    /// What is written at once, if all of it succeeds.
    fn written(applied: &mut Applied, now: Instant) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(write) = applied.poll_write(now) {
            said.push(match &write {
                Write::Apply(_, wanted) => {
                    let value: serde_json::Value = serde_json::from_str(&wanted.text).unwrap_or_default();
                    value["status"].as_str().unwrap_or_default().to_owned()
                }
                Write::Delete(key) => format!("delete {}", key.kind),
            });
            applied.handle_done(write, now);
        }
        said
    }

    #[test]
    fn what_was_written_is_written_again_only_to_another_object_or_with_other_words() {
        let (mut applied, now) = (Applied::default(), Instant::now());
        for (uid, ip, expected) in [
            ("1", "a", &["a"][..]),
            ("1", "a", &[]),
            ("1", "b", &["b"]),
            // Deleted, and created again under the same name.
            ("2", "b", &["b"]),
        ] {
            applied.handle_wanted(vec![web(ip)], |_| There { uid: Some(uid.to_owned()), other: None }, now);
            assert_eq!(written(&mut applied, now), expected, "{uid} {ip}");
        }
        applied.handle_wanted(Vec::new(), |_| There::default(), now);
        assert!(
            written(&mut applied, now).is_empty() && applied.entries.is_empty(),
            "others write Services too"
        );
        applied.handle_wanted(vec![web("b")], |_| There { uid: Some("2".to_owned()), other: None }, now);
        assert_eq!(written(&mut applied, now), ["b"]);
    }

    #[test]
    fn what_fails_is_tried_again_later_as_long_as_it_is_wanted() {
        let (mut applied, now) = (Applied::default(), Instant::now());
        applied.handle_wanted(vec![web("a")], |_| There::default(), now);
        assert!(applied.has_work(now) && applied.poll_write(now).is_some());
        applied.handle_failed(&key("Service"), now);
        assert!(!applied.has_work(now) && applied.poll_write(now).is_none());
        let next = applied.poll_timeout().unwrap_or(now);
        assert!(next > now && applied.has_work(next));
        assert_eq!(written(&mut applied, next), ["a"]);
        applied.handle_wanted(vec![web("b")], |_| There::default(), now);
        assert!(applied.poll_write(now).is_some());
        applied.handle_failed(&key("Service"), now);
        // There is nothing to try again, and nobody to wake for it.
        applied.handle_wanted(Vec::new(), |_| There::default(), now);
        assert_eq!(applied.poll_timeout(), None);
    }

    #[test]
    fn what_changes_while_it_is_written_is_written_once_more_and_never_twice_at_once() {
        let (mut applied, now) = (Applied::default(), Instant::now());
        applied.handle_wanted(vec![web("a")], |_| There::default(), now);
        let Some(write) = applied.poll_write(now) else { panic!("nothing to write") };
        applied.handle_wanted(vec![web("b")], |_| There::default(), now);
        assert_eq!(applied.poll_write(now), None);
        applied.handle_done(write, now);
        assert_eq!(written(&mut applied, now), ["b"]);
        // Not wanted any more while it is written: it is forgotten after that.
        applied.handle_wanted(vec![web("c")], |_| There::default(), now);
        let Some(write) = applied.poll_write(now) else { panic!("nothing to write") };
        applied.handle_wanted(Vec::new(), |_| There::default(), now);
        applied.handle_done(write, now);
        assert!(applied.entries.is_empty() && applied.poll_write(now).is_none());
    }

    #[test]
    fn what_somebody_else_makes_of_it_is_put_right_and_not_again_and_again() {
        let (mut applied, now) = (Applied::default(), Instant::now());
        let there = |other| move |_: &Document| There { uid: None, other };
        let mut look = |other, at| {
            applied.handle_wanted(vec![web("a")], there(other), at);
            (written(&mut applied, at).len(), applied.recheck())
        };
        assert_eq!(look(Some(1), now), (1, None), "it was there before");
        // What was written has not come back yet.
        assert_eq!(look(Some(1), now), (0, Some(now + ECHO)));
        let later = now + ECHO;
        assert_eq!(look(None, later), (0, None));
        assert_eq!(look(Some(2), later), (1, None));
        assert_eq!(look(Some(2), later + ECHO), (0, None), "it does not help");
        assert_eq!(look(None, later + ECHO), (0, None));
        assert_eq!(look(Some(2), later + ECHO), (1, None));
    }

    #[test]
    fn what_somebody_has_deleted_is_written_again_when_it_is_wanted_the_next_time() {
        let (mut applied, now) = (Applied::default(), Instant::now());
        let state = || document("ConfigurationState", "a");
        applied.handle_wanted(vec![state()], |_| There::default(), now);
        assert_eq!(written(&mut applied, now), ["a"]);
        let key = state().key;
        assert_eq!(applied.wanted().collect::<Vec<_>>(), [&key]);
        // Whoever has looked just then may not have seen it.
        applied.handle_gone([&key], now, now);
        assert_eq!(applied.recheck(), None);
        let later = now + ECHO;
        applied.handle_gone([&key], later, later);
        assert_eq!(applied.recheck(), Some(later));
        applied.handle_wanted(vec![state()], |_| There::default(), later);
        assert_eq!((written(&mut applied, later), applied.recheck()), (vec!["a".to_owned()], None));
    }

    #[test]
    fn events_wait_for_all_else() {
        let (mut applied, now) = (Applied::default(), Instant::now());
        applied.handle_wanted(vec![document("Event", "said"), web("a")], |_| There::default(), now);
        assert_eq!(written(&mut applied, now), ["a", "said"]);
    }

    #[test]
    fn what_we_alone_write_is_deleted_when_it_is_not_wanted() {
        let (mut applied, now) = (Applied::default(), Instant::now());
        applied.handle_wanted(vec![document(L2_STATUS.kind, "a"), web("a")], |_| There::default(), now);
        assert_eq!(written(&mut applied, now).len(), 2);
        applied.handle_wanted(Vec::new(), |_| There::default(), now);
        assert_eq!(written(&mut applied, now), ["delete ServiceL2Status"]);
        assert!(applied.entries.is_empty());
        // Of an earlier process.
        applied.handle_found([key(L2_STATUS.kind)]);
        let Some(Write::Delete(key)) = applied.poll_write(now) else { panic!("nothing to delete") };
        applied.handle_failed(&key, now);
        let next = applied.poll_timeout().unwrap_or(now);
        applied.handle_wanted(vec![document(L2_STATUS.kind, "b")], |_| There::default(), now);
        assert_eq!(written(&mut applied, next), ["b"]);
    }
}
