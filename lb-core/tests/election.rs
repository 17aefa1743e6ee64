//! Several candidates and one Lease, on a clock of the test's own.

use std::time::{Duration, Instant};

use lb_core::election::{Action, Election, Record, Term};
use proptest::prelude::*;

const STEP: Duration = Duration::from_millis(250);

/// The API server's side.
#[derive(Default)]
struct Server {
    lease: Option<Record>,
    version: u32,
    is_away: bool,
}

impl Server {
    fn write(&mut self, me: &str, version: Option<String>, transitions: u32) -> Option<Record> {
        if self.is_away || self.lease.as_ref().map(|lease| lease.version.clone()) != version {
            return None;
        }
        self.version += 1;
        let record = Record { holder: me.to_owned(), transitions, version: self.version.to_string() };
        self.lease = Some(record.clone());
        Some(record)
    }
}

struct Candidate {
    name: String,
    election: Election,
    is_asleep: bool,
}

struct Contest {
    server: Server,
    candidates: Vec<Candidate>,
    now: Instant,
}

impl Contest {
    fn new(count: usize) -> Self {
        let now = Instant::now();
        let candidate = |number: usize| {
            let name = format!("c{number}");
            Candidate { election: Election::new(name.clone(), Term::DEFAULT, now), name, is_asleep: false }
        };
        Self { server: Server::default(), candidates: (0..count).map(candidate).collect(), now }
    }

    fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            for candidate in self.candidates.iter_mut().filter(|candidate| !candidate.is_asleep) {
                while let Some(action) = candidate.election.poll(self.now) {
                    match action {
                        Action::Read if self.server.is_away => candidate.election.handle_failed(self.now),
                        Action::Read => candidate.election.handle_read(self.server.lease.clone(), self.now),
                        Action::Write { version, transitions } => {
                            match self.server.write(&candidate.name, version, transitions) {
                                Some(record) => candidate.election.handle_written(record, self.now),
                                None => candidate.election.handle_failed(self.now),
                            }
                        }
                    }
                }
            }
            self.now += STEP;
        }
    }

    /// Who would act, asleep or not: one that sleeps may wake between the question and the act.
    fn leaders(&self) -> Vec<&str> {
        let leads = |candidate: &&Candidate| candidate.election.leads(self.now);
        self.candidates.iter().filter(leads).map(|candidate| candidate.name.as_str()).collect()
    }
}

#[test]
fn one_leads_and_another_when_it_is_gone() {
    let mut contest = Contest::new(3);
    contest.run_for(Duration::from_secs(60));
    assert_eq!(contest.leaders(), ["c0"]);
    contest.candidates[0].is_asleep = true;
    contest.run_for(Term::DEFAULT.deadline);
    assert_eq!(contest.leaders(), Vec::<&str>::new());
    contest.run_for(Term::DEFAULT.lease);
    assert_eq!(contest.leaders().len(), 1);
    assert_eq!(contest.server.lease.as_ref().map(|lease| lease.transitions), Some(1));
    contest.candidates[0].is_asleep = false;
    contest.run_for(Duration::from_secs(60));
    assert_eq!(contest.leaders().len(), 1);
    assert_ne!(contest.leaders(), ["c0"], "who was away waits");
}

#[test]
fn while_the_lease_cannot_be_renewed_nobody_acts() {
    let mut contest = Contest::new(2);
    contest.run_for(Duration::from_secs(10));
    contest.server.is_away = true;
    contest.run_for(Term::DEFAULT.deadline);
    assert_eq!(contest.leaders(), Vec::<&str>::new());
    contest.server.is_away = false;
    contest.run_for(Term::DEFAULT.lease);
    assert_eq!(contest.leaders().len(), 1);
}

#[test]
fn a_lease_that_was_given_back_is_taken_at_once() {
    let mut contest = Contest::new(1);
    contest.server.lease = Some(Record { holder: String::new(), transitions: 4, version: "7".to_owned() });
    assert!(contest.server.write("nobody", Some("6".to_owned()), 0).is_none());
    contest.run_for(STEP);
    assert_eq!(contest.leaders(), ["c0"]);
    assert_eq!(contest.candidates[0].election.holder(), Some("c0"));
    assert_eq!(contest.server.lease.map(|lease| lease.transitions), Some(5));
}

proptest! {
    #[test]
    fn two_never_lead(events in proptest::collection::vec((0..4_usize, any::<bool>(), 1..80_u32), 1..60)) {
        let mut contest = Contest::new(3);
        for (who, is_so, steps) in events {
            match contest.candidates.get_mut(who) {
                Some(candidate) => candidate.is_asleep = is_so,
                None => contest.server.is_away = is_so,
            }
            for _ in 0..steps {
                contest.run_for(STEP);
                prop_assert!(contest.leaders().len() <= 1, "{:?}", contest.leaders());
            }
        }
        contest.candidates.iter_mut().for_each(|candidate| candidate.is_asleep = false);
        contest.server.is_away = false;
        contest.run_for(Term::DEFAULT.lease + 2 * Term::DEFAULT.retry);
        prop_assert_eq!(contest.leaders().len(), 1);
    }
}
