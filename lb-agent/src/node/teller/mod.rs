//! Says what becomes of things, on a thread of its own: status, events, metrics, objects of an API server. Packets wait for the driver, so
//! the driver waits neither for a disk nor for anybody who listens.

mod news;
mod speech;

use std::{
    io, mem,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use lb_core::model::NodeName;
use rustix::process::nice;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use news::Extent;
pub(super) use news::{Heard, Known, News};
use speech::Speech;

use crate::{
    chain::chain,
    cluster::{self, OwnPod, Written},
    liveness::Snapshots,
    memory::give_back,
    metrics::Metrics,
    output,
};

/// What the teller needs.
pub(super) struct Options {
    /// This node.
    pub node: NodeName,
    /// Where programs and maps are pinned.
    pub pin_dir: PathBuf,
    /// Where files are written.
    pub output: PathBuf,
    /// Where objects are written, if in a cluster.
    pub cluster: Option<Target>,
    /// Where metrics are to be had, if anywhere.
    pub metrics: Option<Metrics>,
    /// What the liveness thread has found.
    pub snapshots: Snapshots,
}

/// A cluster in which objects are written.
pub(super) struct Target {
    /// A kubeconfig; without it the pod's service account, or what `kubectl` would use.
    pub kubeconfig: Option<String>,
    /// Our own namespace.
    pub namespace: String,
    /// The pod in which this runs, if it is one.
    pub pod: Option<OwnPod>,
}

/// The thread, as long as it is held. What was told before it ends is said.
pub(super) struct Teller {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<Result<(), output::Error>>>,
}

/// What goes wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No thread, or no runtime on it.
    #[error("starting the thread that writes status")]
    Start(#[source] io::Error),
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// The thread has ended, by a panic: nobody says anything.
    #[error("the thread that writes status has ended")]
    Ended,
    /// What was told last could not be written.
    #[error(transparent)]
    Output(#[from] output::Error),
}

#[derive(Default)]
struct Inbox {
    mail: Mutex<Mail>,
    arrived: Notify,
}

#[derive(Default)]
struct Mail {
    news: News,
    is_last: bool,
}

/// What endpoints change is said so late at most.
const PORTS: Duration = Duration::from_millis(500);
/// Where it takes long to say it, later: so many times what that takes.
const PORTS_RATIO: u32 = 20;
/// After everything has been said nothing is for so many times what that took: with thousands of Services that is a good part of a second
/// of a CPU, and while VIPs are announced there is something new all the time.
const REST_RATIO: u32 = 4;
/// Nothing waits longer than this for that: under a limit of CPU what takes half a second may take five.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// What could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// What a pass and its words took is given back after so long without another.
const TIDY: Duration = Duration::from_secs(2);
/// The thread's share of a CPU that others want too: about a tenth of theirs.
const NICE: i32 = 10;
/// How nodes are seen is written anew.
const MEMBERS: Duration = Duration::from_secs(5);

impl Teller {
    /// Starts it.
    ///
    /// # Errors
    /// The kernel's, or nothing says where the API server is.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
        let inbox = Arc::new(Inbox::default());
        let (started, is_started) = oneshot::channel();
        let of_thread = Arc::clone(&inbox);
        let run = move || {
            step_back();
            runtime.block_on(run(options, of_thread, started))
        };
        let thread =
            std::thread::Builder::new().name("teller".to_owned()).spawn(run).map_err(Error::Start)?;
        is_started.await.map_err(|_| Error::Ended)??;
        Ok(Self { inbox, thread: Some(thread) })
    }

    /// Something is otherwise.
    ///
    /// # Errors
    /// [`Error::Ended`]: another agent is to begin.
    pub fn tell(&self, news: News) -> Result<(), Error> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return Err(Error::Ended);
        }
        self.inbox.put(|mail| mail.news.add(news));
        Ok(())
    }

    /// Says what it was told last, and ends.
    ///
    /// # Errors
    /// That could not be written, or [`Error::Ended`].
    pub fn end(&mut self) -> Result<(), Error> {
        self.inbox.put(|mail| mail.is_last = true);
        // A panic was printed when it happened.
        let said = self.thread.take().map_or(Ok(Ok(())), JoinHandle::join);
        Ok(said.map_err(|_| Error::Ended)??)
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(error = %chain(&error), "the last words are not written");
        }
    }
}

impl Inbox {
    fn put(&self, put: impl FnOnce(&mut Mail)) {
        put(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner));
        self.arrived.notify_one();
    }

    fn take(&self) -> Mail {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        Mail { news: mem::take(&mut mail.news), is_last: mail.is_last }
    }
}

async fn run(
    options: Options,
    inbox: Arc<Inbox>,
    started: oneshot::Sender<Result<(), Error>>,
) -> Result<(), output::Error> {
    let written = match written(&options).await {
        Ok(written) => written,
        Err(error) => {
            let _ = started.send(Err(error));
            return Ok(());
        }
    };
    // Who started it waits for that.
    let _ = started.send(Ok(()));
    let mut speech = Speech::new(options, written);
    let mut members = interval_at(Instant::now() + MEMBERS, MEMBERS);
    members.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due: Option<(Instant, Extent)> = None;
    let (mut rested, mut last) = (Instant::now(), Duration::ZERO);
    let mut tidy: Option<Instant> = None;
    loop {
        tokio::select! {
            () = inbox.arrived.notified() => {
                let Mail { news, is_last } = inbox.take();
                if let Some(extent) = speech.take(news) {
                    let now = Instant::now();
                    let at = match extent {
                        Extent::All => rested.max(now),
                        Extent::Ports => now + (last * PORTS_RATIO).clamp(PORTS, LONGEST_REST),
                    };
                    due = Some(due.map_or((at, extent), |(before, known)| (before.min(at), known.max(extent))));
                }
                if is_last {
                    break;
                }
            }
            _ = members.tick() => {
                said("how nodes are seen", speech.say_members());
            }
            () = speech.progress() => {
                speech.start();
                // Somebody has deleted what was written.
                if let Some(at) = speech.recheck() {
                    let at = at.into();
                    due = Some(due.map_or((at, Extent::All), |(before, _)| (before.min(at), Extent::All)));
                }
            }
            () = until(due.map(|(at, _)| at)) => {}
            () = until(tidy) => {
                tidy = None;
                give_back();
            }
        }
        let begin = Instant::now();
        if let Some((_, extent)) = due.filter(|(at, _)| *at <= begin) {
            let is_said = said("the status", speech.say(extent));
            due = (!is_said).then(|| (begin + AGAIN, Extent::All));
            if extent == Extent::All {
                tidy = Some(Instant::now() + TIDY);
            }
            last = begin.elapsed();
            rested = Instant::now() + (last * REST_RATIO).min(LONGEST_REST);
        }
    }
    due.map_or(Ok(()), |(_, extent)| speech.say(extent))
}

/// Where there are too few CPUs, who follows changes goes first: a status of thousands of Services takes a while to write.
fn step_back() {
    // Of this thread alone (kernel: `setpriority` knows threads, not processes).
    if let Err(error) = nice(NICE) {
        tracing::debug!(%error, "the thread that writes status has the priority of all others");
    }
}

async fn written(options: &Options) -> Result<Option<Written>, Error> {
    let Some(Target { kubeconfig, namespace, pod }) = &options.cluster else { return Ok(None) };
    let client = cluster::connect(kubeconfig.as_deref()).await?;
    Ok(Some(Written::of_node(client, speech::MANAGER, namespace, pod.clone(), &options.node.0)))
}

/// Whether it was.
fn said(what: &str, result: Result<(), output::Error>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(error = %chain(&error), "writing {what} failed; it is tried again");
            false
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
