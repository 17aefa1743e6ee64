//! Leaving on purpose: who asks for it, and what the node still carries meanwhile.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use lb_core::{
    drain::{Drain, Flows, Limit, Reason},
    model::{NodeName, Snapshot},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    chain::chain,
    dataplane::{self, Carried},
    logind::{Bus, Logind},
    output::{DrainRequests, DrainStatus},
    source::Watch,
};

/// Between two counts: long enough that each flow that is used is used once, see [`lb_core::drain::LATELY`].
const COUNT: Duration = Duration::from_secs(3);

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Perhaps whether the node leaves.
    Wish,
    /// How far it has come.
    Progress,
}

/// This node's leaving.
pub(super) struct Leaving {
    drain: Drain,
    requests: DrainRequests,
    /// None if it cannot be watched: then `lb-agent drain` is noticed with the next pass.
    watch: Option<Watch>,
    logind: Option<Logind>,
    counter: Counter,
}

impl Leaving {
    /// `earlier`: what an earlier agent has said last.
    pub(super) fn new(requests: DrainRequests, earlier: Option<&DrainStatus>, pin_dir: PathBuf) -> Self {
        let watch = requests.make_dir().map_err(|error| chain(&error));
        let watch = watch.and_then(|()| Watch::new(requests.dir()).map_err(|error| chain(&error)));
        let watch = watch.inspect_err(|error| tracing::warn!(error, "`lb-agent drain` will be noticed late"));
        let drain = Drain::new(earlier.map(DrainStatus::earlier));
        Self { drain, requests, watch: watch.ok(), logind: None, counter: Counter::new(pin_dir) }
    }

    /// From now on, a shutdown of the machine waits for this node.
    pub(super) fn attend_logind(&mut self) {
        self.logind = Some(Logind::start(Bus::System));
    }

    /// Looks at what this node's Node and `lb-agent drain` ask. Whether it leaves.
    pub(super) fn look(&mut self, snapshot: &Snapshot, node: &NodeName) -> bool {
        let now = SystemTime::now();
        match self.requests.read() {
            Ok(Some(request)) => self.drain.ask(Reason::Command, request.limit(), now),
            Ok(None) => self.drain.take_back(Reason::Command),
            Err(error) => {
                tracing::error!(error = %chain(&error), "what `lb-agent drain` asks cannot be read: it stays as it was");
            }
        }
        // What the source does not have says nothing.
        if let Some(node) = snapshot.nodes.get(node) {
            self.drain.node_says(&node.leaving, now);
        }
        self.drain.forget_earlier();
        self.drain.is_on()
    }

    /// The agent is to end, within this time.
    pub(super) fn terminate(&mut self, within: Duration) {
        self.drain.ask(Reason::Terminating, Limit::Within(within), SystemTime::now());
    }

    /// Whether the agent was to end and may do so now.
    pub(super) fn may_end(&self) -> bool {
        let now = SystemTime::now();
        let is_drained = self.drain.progress(now).is_some_and(|progress| progress.is_drained);
        self.drain.deadline_of(Reason::Terminating).is_some_and(|deadline| is_drained || deadline <= now)
    }

    /// How far it has come; none of a node that stays. `vips`: how many it owns.
    pub(super) fn status(&mut self, vips: usize) -> Option<DrainStatus> {
        self.drain.owns(vips);
        let progress = self.drain.progress(SystemTime::now());
        if let Some(logind) = &self.logind {
            logind.set_drained(progress.as_ref().is_some_and(|progress| progress.is_drained));
        }
        progress.map(|progress| DrainStatus::of(&progress))
    }

    /// Waits for a change.
    pub(super) async fn changed(&mut self) -> Change {
        let next_deadline = self.drain.next_deadline(SystemTime::now());
        let Self { drain, watch, logind, counter, .. } = self;
        tokio::select! {
            () = asked(watch.as_mut()) => Change::Wish,
            shutdown = shut_down(logind.as_mut()) => {
                match shutdown {
                    Some(until) => drain.ask(Reason::Shutdown, Limit::Until(until), SystemTime::now()),
                    None => drain.take_back(Reason::Shutdown),
                }
                Change::Wish
            }
            flows = counter.count(drain) => {
                match flows {
                    Ok(flows) => drain.counted(flows),
                    Err(error) => {
                        tracing::error!(error = %chain(&error), "what this node carries cannot be counted; it is tried again");
                    }
                }
                Change::Progress
            }
            () = pass(next_deadline) => Change::Progress,
        }
    }
}

async fn asked(watch: Option<&mut Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn shut_down(logind: Option<&mut Logind>) -> Option<SystemTime> {
    match logind {
        Some(logind) => logind.changed().await,
        None => std::future::pending().await,
    }
}

async fn pass(deadline: Option<SystemTime>) {
    match deadline {
        Some(deadline) => sleep(deadline.duration_since(SystemTime::now()).unwrap_or_default()).await,
        None => std::future::pending().await,
    }
}

/// Counts again and again while the node leaves, on a thread that may wait.
struct Counter {
    pin_dir: PathBuf,
    /// Between two counts.
    idle: Option<Carried>,
    next: Instant,
    running: Option<JoinHandle<(Carried, Result<Flows, dataplane::Error>)>>,
}

impl Counter {
    fn new(pin_dir: PathBuf) -> Self {
        Self { pin_dir, idle: None, next: Instant::now(), running: None }
    }

    /// Waits for the next count; never ends if the node stays. May be given up and called again.
    async fn count(&mut self, drain: &mut Drain) -> Result<Flows, dataplane::Error> {
        if !drain.is_on() {
            // What was counted is of no use for the next drain.
            (self.idle, self.running, self.next) = (None, None, Instant::now());
            return std::future::pending().await;
        }
        sleep_until(self.next).await;
        loop {
            if let Some(running) = &mut self.running {
                let done = running.await;
                (self.running, self.next) = (None, Instant::now() + COUNT);
                // It has panicked, and that was printed, or the runtime ends.
                let Ok((carried, flows)) = done else { return std::future::pending().await };
                self.idle = Some(carried);
                return flows;
            }
            let mut carried = match self.idle.take() {
                Some(carried) => carried,
                None => Carried::pinned(&self.pin_dir).inspect_err(|_| self.next = Instant::now() + COUNT)?,
            };
            drain.count_begins();
            self.running = Some(tokio::task::spawn_blocking(move || {
                let flows = carried.count();
                (carried, flows)
            }));
        }
    }
}
