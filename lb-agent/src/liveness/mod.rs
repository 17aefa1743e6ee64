//! Liveness: the thread that finds out with others who is alive, and acts on it before anybody else hears of it.
//!
//! It probes, gossips, writes the few map entries that a verdict changes, announces, and renews the lease. Nothing else runs on
//! it, and it waits for nothing but its sockets and its timers. The node's driver tells it what a pass has planned ([`Orders`]) and
//! is told how nodes stand ([`Seen`]).

mod announcer;
mod boot;
mod envelope;
mod hearer;
mod raw;
mod snapshot;
mod sockets;
mod thread;
mod written;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use lb_common::layout::Mac;
use lb_core::{
    armed::Armed,
    claims::Report,
    kept::AllCarriers,
    liveness::{Counts, Description, Leg, Profile, Standing},
    model::{GossipSecret, NodeName},
};
use mio::Waker;
use tokio::sync::watch;

pub use announcer::TakenOver;
pub use envelope::{OpenError, Opened, Opener, Sealer};
pub use snapshot::{Ownership, Snapshot, Snapshots};

/// What is told to the thread once.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub node: NodeName,
    /// Where maps are pinned.
    pub pin_dir: PathBuf,
    /// Where is kept what has to outlast the machine's restarts.
    pub state: PathBuf,
    /// How fast.
    pub profile: Profile,
}

/// What a pass has planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Entries that change with liveness.
    pub armed: Arc<Armed>,
    /// On which nodes services have their backends.
    pub carriers: AllCarriers,
    /// What nodes prove to each other that they belong together with; without it nobody is probed, and all are taken to be well.
    pub secret: Option<GossipSecret>,
    /// This node goes on purpose: others are to own, and it carries what it has.
    pub is_leaving: bool,
    /// What this node says of itself.
    pub description: Description,
}

impl Orders {
    /// Whether they are as others were, but for the nodes on which services have their backends: who owns what depends on all else.
    fn differ_in_carriers_alone(&self, others: &Self) -> bool {
        let Self { armed, carriers: _, secret, is_leaving, description } = self;
        // Others that are equal are rare, and to find out that they are takes as long as what it would spare.
        Arc::ptr_eq(armed, &others.armed)
            && *secret == others.secret
            && *is_leaving == others.is_leaving
            && *description == others.description
    }
}

/// How nodes stand, as the thread sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of all legs.
    pub standing: Standing,
    /// Since the beginning.
    pub counts: Counts,
    /// Changes of owners since the beginning, by VIP and segment.
    pub moves: u64,
    /// MACs of others that a probe has proven.
    pub proven: BTreeMap<Leg, Mac>,
    /// What others say of themselves.
    pub descriptions: BTreeMap<NodeName, Description>,
    /// The lowest algorithm version that a node uses which lives, if nodes talk.
    pub algorithm: Option<u32>,
    /// What others say of VIPs.
    pub claims: Report,
    /// The number of the orders by which all this is.
    pub(crate) obeyed: u64,
}

impl Seen {
    /// What a status says of it: neither what was counted nor by which orders.
    pub fn told(&self) -> impl PartialEq + '_ {
        (&self.standing, &self.claims, self.algorithm)
    }

    /// What a pass depends on, beside the standing.
    pub fn neighbourhood(&self) -> impl PartialEq + '_ {
        (&self.proven, &self.descriptions, self.algorithm, self.standing.absent().collect::<Vec<Leg>>())
    }
}

/// What goes wrong at the start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No thread, no poll, no random numbers.
    #[error("starting the liveness thread: {what}")]
    Start {
        /// What was asked of the kernel.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The thread has ended, by a panic: nobody follows what nodes do.
    #[error("the liveness thread has ended")]
    Ended,
    /// The maps cannot be opened.
    #[error(transparent)]
    Dataplane(#[from] crate::dataplane::Error),
}

/// The thread, as long as it is held.
pub struct Handle {
    shared: Arc<Shared>,
    seen: watch::Receiver<Arc<Seen>>,
    snapshots: Snapshots,
    thread: Option<JoinHandle<()>>,
    /// The number of the last orders.
    ordered: u64,
}

struct Shared {
    /// Orders that the thread has not looked at yet; the latest replace the ones before.
    orders: Mutex<Option<Inbox>>,
    waker: Waker,
}

enum Inbox {
    /// With their number.
    Orders(u64, Box<Orders>),
    End,
}

impl Handle {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(options: Options) -> Result<Self, Error> {
        thread::start(options)
    }

    /// Hands over what a pass has planned and written, and waits until it is so: what [`Self::seen`] says then is by these orders. Until
    /// then nobody knows which of the VIPs that are new this node may use.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub async fn order(&mut self, orders: Orders) -> Result<(), Error> {
        self.ordered += 1;
        let number = self.ordered;
        self.put(Inbox::Orders(number, Box::new(orders)));
        // What is seen meanwhile is still a change for [`Self::changed`].
        let mut seen = self.seen.clone();
        seen.wait_for(|seen| seen.obeyed >= number).await.map(drop).map_err(|_| Error::Ended)
    }

    /// How nodes stand now.
    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen.borrow())
    }

    /// What the thread has found and done, for others to look at.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Waits until nodes stand otherwise than when this last returned, whatever was seen or ordered since.
    ///
    /// # Errors
    /// [`Error::Ended`]: another agent is to begin.
    pub async fn changed(&mut self) -> Result<(), Error> {
        self.seen.changed().await.map_err(|_| Error::Ended)
    }

    fn put(&self, inbox: Inbox) {
        match self.shared.orders.lock() {
            Ok(mut place) => *place = Some(inbox),
            Err(poisoned) => *poisoned.into_inner() = Some(inbox),
        }
        if let Err(error) = self.shared.waker.wake() {
            tracing::error!(%error, "the liveness thread cannot be woken");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.put(Inbox::End);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// For the log.
fn address(address: IpAddr) -> tracing::field::DisplayValue<IpAddr> {
    tracing::field::display(address)
}
