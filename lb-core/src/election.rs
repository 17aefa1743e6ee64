//! Who of several controllers acts: a Lease that one of them holds and renews (client-go: `tools/leaderelection/leaderelection.go`).
//!
//! Clocks of machines differ, so the times in a Lease are for people alone. Each candidate counts by its own clock how long the Lease has not
//! changed; after as long as it is held for, another may take it. Who holds it acts until it was not renewed for a shorter time.

use std::time::{Duration, Instant};

/// For how long a Lease is held, and how often it is renewed. As with client-go, whoever holds it gives up well before another takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// After this without a change another may take it.
    pub lease: Duration,
    /// After this without a renewal its holder does not act any more.
    pub deadline: Duration,
    /// Between two looks at it.
    pub retry: Duration,
}

impl Term {
    /// client-go's.
    pub const DEFAULT: Self = Self {
        lease: Duration::from_secs(15),
        deadline: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };
}

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty for nobody.
    pub holder: String,
    /// How often it has gone from one to another.
    pub transitions: u32,
    /// Changes with each write: the object's `resourceVersion`.
    pub version: String,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The Lease is to be read, and what it says handed to [`Election::handle_read`].
    Read,
    /// The Lease is to be written if it is still of this version, or made if there was none; what became of that is for
    /// [`Election::handle_written`].
    Write {
        /// The version that it has to be of.
        version: Option<String>,
        /// Its new number of transitions.
        transitions: u32,
    },
}

/// A candidate.
#[derive(Clone, Debug)]
pub struct Election {
    me: String,
    term: Term,
    /// What the Lease said last, and since when it has said that.
    seen: Option<(Record, Instant)>,
    step: Step,
    /// Since the begin of the last write that has held.
    renewed: Option<Instant>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Nothing before.
    Wait(Instant),
    Reading,
    Write(Option<Record>),
    Writing {
        begun: Instant,
    },
}

impl Election {
    /// One that holds nothing. `me` is another name for each process.
    pub fn new(me: String, term: Term, now: Instant) -> Self {
        Self { me, term, seen: None, step: Step::Wait(now), renewed: None }
    }

    /// Whether this candidate may act now.
    pub fn leads(&self, now: Instant) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }

    /// Until when this candidate may act if it cannot renew the Lease any more.
    pub fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + self.term.deadline)
    }

    /// Who holds the Lease, as it was seen last.
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref().map(|(record, _)| record.holder.as_str()).filter(|holder| !holder.is_empty())
    }

    /// The next to do; one thing at a time.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        match &self.step {
            Step::Wait(until) if *until <= now => {
                self.step = Step::Reading;
                Some(Action::Read)
            }
            Step::Write(record) => {
                let transitions = match record {
                    Some(record) => record.transitions.saturating_add(u32::from(record.holder != self.me)),
                    None => 0,
                };
                let version = record.as_ref().map(|record| record.version.clone());
                self.step = Step::Writing { begun: now };
                Some(Action::Write { version, transitions })
            }
            Step::Wait(_) | Step::Reading | Step::Writing { .. } => None,
        }
    }

    /// When [`Self::poll`] has something to do, or [`Self::leads`] changes; `None` while something is under way that nobody acts upon.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let next = match &self.step {
            Step::Wait(until) => Some(*until),
            Step::Write(_) => Some(now),
            Step::Reading | Step::Writing { .. } => None,
        };
        let ends = self.leads_until().filter(|until| *until > now);
        next.into_iter().chain(ends).min()
    }

    /// The Lease was read: what it says, or that there is none.
    pub fn handle_read(&mut self, record: Option<Record>, now: Instant) {
        let is_news = self.seen.as_ref().map(|(seen, _)| seen) != record.as_ref();
        match &record {
            Some(record) if is_news => self.seen = Some((record.clone(), now)),
            Some(_) => {}
            None => self.seen = None,
        }
        let may_take = match &self.seen {
            None => true,
            Some((seen, since)) => {
                seen.holder.is_empty() || seen.holder == self.me || now >= *since + self.term.lease
            }
        };
        if self.seen.as_ref().is_some_and(|(seen, _)| seen.holder != self.me) {
            // Another has it.
            self.renewed = None;
        }
        self.step = if may_take { Step::Write(record) } else { Step::Wait(now + self.term.retry) };
    }

    /// The Lease was written: the record that it has now.
    pub fn handle_written(&mut self, record: Record, now: Instant) {
        if let Step::Writing { begun } = self.step {
            self.renewed = Some(begun);
        }
        self.seen = Some((record, now));
        self.step = Step::Wait(now + self.term.retry);
    }

    /// Reading or writing has failed, or another was faster: it is tried again.
    pub fn handle_failed(&mut self, now: Instant) {
        self.step = Step::Wait(now + self.term.retry);
    }
}
