//! Announcing: when a node says that it has a VIP, and in what words.
//!
//! What is new is said at once and repeated, for words get lost; then for ever at a low rate, for switches and clients forget. Linux
//! takes an ARP request of an address for itself at any age of its entry, but a reply only when the entry is older than a second.
//!
//! Of a VIP that is spread over nodes only those clients are told that this node has taken over, each alone: what all hear would draw
//! all of them here.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use lb_common::layout::{Addr, Mac};

use crate::pace::Pace;

/// A VIP on a link (by its own interface index).
pub type Place = (Addr, u32);

/// Whom a VIP is announced to alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipient {
    /// Its address.
    pub address: Addr,
    /// Its MAC.
    pub mac: Mac,
}

/// After the first time, each some while after the one before.
const REPEATS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1_100),
    Duration::from_millis(2_000),
];
/// For ever.
const PERIOD: Duration = Duration::from_secs(60);
/// What a node has lost is new again after so long: while a partition heals, views change several times within milliseconds.
const BRIEFLY: Duration = Duration::from_secs(1);
/// What is not new is said so often at most, however many VIPs there are: see [`Pace`].
pub const MOST_PER_SECOND: u64 = 200;

/// Clients that are told for ever that this node has taken them over: the last ones.
pub const MOST_REMINDED: usize = 4_096;

/// Words to single clients, the first and the later ones: 5,000 in a second at most.
const TOLD_AT_ONCE: usize = 25;
const SPACING: Duration = Duration::from_millis(5);

/// What a node has come to own at one moment, and has announced once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// VIPs, each on each link.
    pub places: usize,
    /// When it came to own the first of them.
    pub since: Instant,
}

/// What this node has to say, and when.
#[derive(Debug, Default)]
pub struct Announcements {
    owned: BTreeMap<Place, Owned>,
    new: VecDeque<Place>,
    /// What this node has owned and said until a moment ago.
    lost: BTreeMap<Place, Instant>,
    /// Of what is, or was, new: as far as it has been announced.
    takeover: Option<Takeover>,
    repeats: BTreeSet<(Instant, Place)>,
    pace: Pace,
    told: BTreeMap<(Place, Recipient), Telling>,
    tellings: BTreeSet<(Instant, (Place, Recipient))>,
    /// Of clients that were told a few times and are told for ever: at the same pace as what all hear.
    reminders: BTreeSet<(Instant, (Place, Recipient))>,
    /// The same clients by when they were taken over.
    reminded: BTreeSet<(Instant, (Place, Recipient))>,
    /// Words to single clients since a moment.
    burst: Option<(Instant, usize)>,
}

/// Words to one client since it was taken over: so many were said, and when the next is due.
#[derive(Clone, Copy, Debug)]
struct Telling {
    since: Instant,
    said: usize,
    due: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Owned {
    said: usize,
    due: Option<Instant>,
}

impl Announcements {
    /// Sets what this node owns since now: what is new will be said at once, what is gone never again. What was gone for less than
    /// [`BRIEFLY`] is said again as soon as there is time for it.
    pub fn set(&mut self, owned: &BTreeSet<Place>, now: Instant) {
        let gone: Vec<Place> = self.owned.keys().filter(|place| !owned.contains(*place)).copied().collect();
        self.lost.retain(|_, at| now < *at + BRIEFLY);
        for place in gone {
            if let Some(due) = self.owned.remove(&place).and_then(|owned| owned.due) {
                self.repeats.remove(&(due, place));
                self.lost.insert(place, now);
            }
        }
        for place in owned {
            if self.owned.contains_key(place) {
                continue;
            }
            if self.lost.remove(place).is_some() {
                self.owned.insert(*place, Owned { said: 1, due: Some(now) });
                self.repeats.insert((now, *place));
            } else {
                self.owned.insert(*place, Owned { said: 0, due: None });
                self.new.push_back(*place);
                self.takeover.get_or_insert(Takeover { places: 0, since: now });
            }
        }
    }

    /// Somebody has died: what this node takes over from it is new, also if this node had it a moment ago.
    pub fn forget_lost(&mut self) {
        self.lost.clear();
    }

    /// What has been announced whole since the last call.
    pub fn poll_takeover(&mut self) -> Option<Takeover> {
        if !self.new.is_empty() {
            return None;
        }
        self.takeover.take().filter(|takeover| takeover.places > 0)
    }

    /// Says everything again as soon as there is time for it: others may not have heard it. Paced, for all that a node owns may be much.
    pub fn repeat_all(&mut self, now: Instant) {
        self.repeats.clear();
        for (place, owned) in &mut self.owned {
            // What was never said is said at once anyway.
            if owned.said > 0 {
                *owned = Owned { said: 1, due: Some(now) };
                self.repeats.insert((now, *place));
            }
        }
    }

    /// Says something again as soon as there is time for it: somebody else has said that it has it.
    pub fn repeat(&mut self, place: Place, now: Instant) {
        let Some(owned) = self.owned.get_mut(&place) else { return };
        // What was never said is said at once anyway.
        let Some(due) = owned.due.filter(|due| *due > now) else { return };
        owned.due = Some(now);
        self.repeats.remove(&(due, place));
        self.repeats.insert((now, place));
    }

    /// Tells single clients, as soon as the pace allows, a few times again, and then for ever; those that were told before are told anew.
    pub fn tell(&mut self, words: impl IntoIterator<Item = (Place, Recipient)>, now: Instant) {
        for word in words {
            if let Some(telling) = self.told.insert(word, Telling { since: now, said: 0, due: now }) {
                self.tellings.remove(&(telling.due, word));
                self.reminders.remove(&(telling.due, word));
                self.reminded.remove(&(telling.since, word));
            }
            self.tellings.insert((now, word));
        }
    }

    /// Stops telling clients that this node does not have any more.
    pub fn retain_told(&mut self, is_ours: impl Fn(&Place, &Recipient) -> bool) {
        self.told.retain(|(place, recipient), _| is_ours(place, recipient));
        let told = &self.told;
        self.tellings.retain(|(_, word)| told.contains_key(word));
        self.reminders.retain(|(_, word)| told.contains_key(word));
        self.reminded.retain(|(_, word)| told.contains_key(word));
    }

    /// The next to say now, to all or to one.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(Place, Option<Recipient>)> {
        if let Some(place) = self.poll_all(now) {
            return Some((place, None));
        }
        let told = self.poll_told(now).or_else(|| self.poll_reminder(now));
        told.map(|(place, recipient)| (place, Some(recipient)))
    }

    fn poll_all(&mut self, now: Instant) -> Option<Place> {
        while let Some(place) = self.new.pop_front() {
            // It may have gone before it was said.
            if self.owned.get(&place).is_some_and(|owned| owned.said == 0) {
                if let Some(takeover) = &mut self.takeover {
                    takeover.places += 1;
                }
                self.said(place, now);
                return Some(place);
            }
        }
        if !self.pace.admits(now) {
            return None;
        }
        let (due, place) = self.repeats.first().copied().filter(|(due, _)| *due <= now)?;
        self.repeats.remove(&(due, place));
        self.pace.count(now);
        self.said(place, now);
        Some(place)
    }

    fn poll_told(&mut self, now: Instant) -> Option<(Place, Recipient)> {
        let (due, word) = self.tellings.first().copied().filter(|(due, _)| *due <= now)?;
        let (since, count) = match self.burst {
            Some((since, count)) if now < since + SPACING => (since, count),
            _ => (now, 0),
        };
        if count >= TOLD_AT_ONCE {
            return None;
        }
        self.burst = Some((since, count + 1));
        self.tellings.remove(&(due, word));
        let telling = self.told.get_mut(&word)?;
        match REPEATS.get(telling.said) {
            Some(wait) => {
                (telling.said, telling.due) = (telling.said + 1, now + *wait);
                self.tellings.insert((telling.due, word));
            }
            None => self.remind(word, now),
        }
        Some(word)
    }

    fn poll_reminder(&mut self, now: Instant) -> Option<(Place, Recipient)> {
        if !self.pace.admits(now) {
            return None;
        }
        let (due, word) = self.reminders.first().copied().filter(|(due, _)| *due <= now)?;
        self.reminders.remove(&(due, word));
        self.pace.count(now);
        self.remind(word, now);
        Some(word)
    }

    /// Whoever is not there any more is forgotten when enough others have been told since.
    fn remind(&mut self, word: (Place, Recipient), now: Instant) {
        let Some(telling) = self.told.get_mut(&word) else { return };
        telling.due = now + PERIOD;
        self.reminders.insert((telling.due, word));
        self.reminded.insert((telling.since, word));
        if self.reminded.len() > MOST_REMINDED
            && let Some((_, first)) = self.reminded.pop_first()
            && let Some(telling) = self.told.remove(&first)
        {
            self.reminders.remove(&(telling.due, first));
        }
    }

    /// When there will be something to say.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let paced = |due: Instant| self.pace.not_before().map_or(due, |at| at.max(due));
        let repeat = self.repeats.first().map(|(due, _)| paced(*due));
        let reminder = self.reminders.first().map(|(due, _)| paced(*due));
        let told = self.tellings.first().map(|(due, _)| match self.burst {
            Some((since, count)) if count >= TOLD_AT_ONCE => (since + SPACING).max(*due),
            _ => *due,
        });
        repeat.into_iter().chain(reminder).chain(told).min()
    }

    fn said(&mut self, place: Place, now: Instant) {
        let Some(owned) = self.owned.get_mut(&place) else { return };
        let due = now + REPEATS.get(owned.said).copied().unwrap_or(PERIOD);
        *owned = Owned { said: owned.said.saturating_add(1), due: Some(due) };
        self.repeats.insert((due, place));
    }
}
