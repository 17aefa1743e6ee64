//! `/metrics`, `/healthz` and `/readyz`, for Prometheus and for the kubelet.
//!
//! A scrape reads the maps of counters when it comes, and of everything else what was said last: a node's [`Facts`] and the
//! liveness thread's snapshot. Labels come from objects, so there are no more of them than there are objects.

mod controller;
mod facts;
mod out;
mod page;
mod server;
mod source;

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use controller::{ControllerFacts, ControllerMetrics, ControllerPage};
pub use facts::{BackendFacts, Facts, ServiceFacts, ShareFacts, services, vips};
pub use page::{Counted, Page, text};
pub use server::Listen;
pub use source::SourceFacts;

use crate::{
    dataplane::{self, Counters},
    liveness::Snapshots,
};

/// What goes wrong at the start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The maps cannot be opened.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// No thread, or no runtime on it.
    #[error("starting the metrics thread")]
    Start(#[source] io::Error),
}

/// The server, as long as it is held.
pub struct Metrics {
    facts: Arc<Mutex<Option<Arc<Facts>>>>,
    _server: server::Server,
}

/// A liveness thread that has said nothing for so long hangs: it wakes several times a second.
const HANGS: Duration = Duration::from_secs(30);

impl Metrics {
    /// Starts it on a thread of its own. An address that another program has is tried again and again: a node serves without metrics
    /// too.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(listens: Vec<Listen>, pin_dir: &Path, snapshots: Snapshots) -> Result<Self, Error> {
        let facts = Arc::default();
        let site = Node { counters: Counters::pinned(pin_dir)?, facts: Arc::clone(&facts), snapshots };
        Ok(Self { facts, _server: server::Server::start(listens, site)? })
    }

    /// Says what a pass has made of things.
    pub fn set(&self, facts: Facts) {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(facts));
    }
}

struct Node {
    counters: Counters,
    facts: Arc<Mutex<Option<Arc<Facts>>>>,
    snapshots: Snapshots,
}

impl Node {
    fn facts(&self) -> Result<Arc<Facts>, String> {
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        facts.ok_or_else(|| "no pass has been made yet: the log says why".to_owned())
    }
}

impl server::Site for Node {
    fn metrics(&mut self) -> Result<String, String> {
        let facts = self.facts()?;
        let counted = Counted::read(&self.counters, &facts).map_err(|error| {
            tracing::error!(%error, "metrics: the counters cannot be read");
            error.to_string()
        })?;
        let page = Page { facts, snapshot: self.snapshots.newest(), counted };
        text(page).map_err(|error| error.to_string())
    }

    fn health(&self) -> Result<(), String> {
        let silent = self.snapshots.newest().at.elapsed();
        if silent < HANGS {
            return Ok(());
        }
        Err(format!("the liveness thread has said nothing for {} s", silent.as_secs()))
    }

    fn readiness(&self) -> Result<(), String> {
        self.facts()?;
        self.health()
    }
}
