//! The controller of a cluster: objects come from the API server, and what is decided goes there.

use std::{
    io,
    time::{Duration, Instant},
};

use kube::Client;
use lb_api::{Memory, Reading};
use lb_core::allocate::{Allocator, PoolEdit};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::interval,
};

use super::{
    decider::Decider,
    objects::{released, says_otherwise},
    secret,
    tables::add_table_size,
};
use crate::{
    chain::chain,
    cluster::{self, Leadership, OwnPod, There, Watched, Written},
    memory::give_back,
    metrics::{self, ControllerFacts, ControllerMetrics, Listen},
};

/// How the controller of a cluster runs.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// A kubeconfig; without it the pod's service account, or what `kubectl` would use.
    pub kubeconfig: Option<String>,
    /// Our own namespace: where MetalLB's objects stand.
    pub namespace: String,
    /// The pod in which this runs, if it is one.
    pub pod: Option<OwnPod>,
    /// How long an address that was given up rests before another Service gets it.
    pub rest: Duration,
    /// What becomes of addresses that pools do not give any more.
    pub pool_edit: PoolEdit,
    /// How objects are read.
    pub reading: Reading,
    /// Where metrics and health are to be had, if anywhere.
    pub listens: Vec<Listen>,
}

/// What ends the controller of a cluster. All else is logged and tried again.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No connection can be made.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// The metrics thread cannot be started.
    #[error(transparent)]
    Metrics(#[from] metrics::Error),
    /// Signals cannot be waited for.
    #[error("{what}")]
    Kernel {
        /// What was asked of the kernel.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Whose the fields are that the controller writes (server-side apply).
const MANAGER: &str = "magnetite-controller";
/// The Lease that one of several controllers holds.
const LEASE: &str = "magnetite-controller";
/// What time alone changes is looked for.
const LOOK: Duration = Duration::from_secs(600);
/// Until it is asked again whether this one still holds it.
const UNCONFIRMED: Duration = Duration::from_secs(1);
/// What changes together is looked at together: for so long it is waited for.
const SETTLE: Duration = Duration::from_millis(3);
/// Between two looks at everything there is so many times what the first of them took: they take half of the time at most.
const REST_RATIO: u32 = 1;
/// What comes back of our own writes may wait for so long: there is nothing to decide in it.
const ECHO: Duration = Duration::from_secs(5);

/// Allocates until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start.
pub async fn run_in_cluster(options: ClusterOptions) -> Result<(), ClusterError> {
    let kernel = |what| move |source| ClusterError::Kernel { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(kernel("waiting for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(kernel("waiting for SIGINT"))?;
    let client = cluster::connect(options.kubeconfig.as_deref()).await?;
    let reading = Reading { manager: Some(MANAGER.to_owned()), ..options.reading.clone() };
    let watched = Watched::of_controller(&client, &options.namespace, reading);
    let metrics = ControllerMetrics::start(options.listens.clone())?;
    let mut leadership =
        Leadership::begin(client.clone(), &options.namespace, LEASE).map_err(kernel("random numbers"))?;
    tokio::select! {
        () = control(watched, &mut leadership, &client, &options, &metrics) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    leadership.release().await;
    tracing::info!("ended; addresses stay as they are");
    Ok(())
}

/// What a controller knows while it leads: the next time it begins with what stands in the cluster then.
struct Acting {
    decider: Decider,
    written: Written,
    /// When everything may be looked at again.
    rested: Instant,
    /// Ends with this.
    _secret: JoinSet<()>,
}

/// Never, where nothing is written.
async fn progress(acting: Option<&mut Acting>) {
    match acting {
        Some(acting) => acting.written.progress().await,
        None => std::future::pending().await,
    }
}

async fn control(
    mut watched: Watched,
    leadership: &mut Leadership,
    client: &Client,
    options: &ClusterOptions,
    metrics: &ControllerMetrics,
) {
    let mut acting: Option<Acting> = None;
    let mut again: Option<Instant> = None;
    let mut look_at: Option<Instant> = None;
    let mut facts = ControllerFacts::default();
    let mut look = interval(LOOK);
    // Something was decided, and what that took was not given back yet.
    let mut is_untidy = false;
    loop {
        metrics.beat();
        let mut wait = None;
        tokio::select! {
            () = watched.changed() => wait = Some(if watched.mirror().has_news() { SETTLE } else { ECHO }),
            _ = look.tick() => wait = Some(SETTLE),
            () = until(look_at) => {}
            () = leadership.changed() => {}
            () = progress(acting.as_mut()) => {}
            () = until(again) => {}
        }
        again = None;
        if let Some(wait) = wait {
            let at = Instant::now() + wait;
            look_at = Some(look_at.map_or(at, |known| known.min(at)));
        }
        let (leads, is_complete) = (leadership.leads(Instant::now()), watched.is_complete());
        if !leads || !is_complete {
            (acting, look_at) = (None, None);
            if is_complete {
                metrics.set(ControllerFacts { source: watched.facts(), ..ControllerFacts::default() });
            }
            continue;
        }
        let is_new = acting.is_none();
        let Acting { decider, written, rested, .. } = acting.get_or_insert_with(|| Acting {
            decider: Decider::new(Memory::default(), Allocator::new(options.rest, options.pool_edit), None),
            written: Written::new(client.clone(), MANAGER, &options.namespace, options.pod.clone()),
            rested: Instant::now(),
            _secret: [secret::keep(client.clone(), options.namespace.clone())].into_iter().collect(),
        });
        let begin = Instant::now();
        look_at = [look_at, written.recheck()].into_iter().flatten().min();
        // Meanwhile what was decided is written.
        look_at = look_at.map(|at| at.max(*rested));
        if is_new || look_at.is_some_and(|at| at <= begin) {
            is_untidy = true;
            watched.take_waiting();
            decider.decide_objects(watched.mirror_mut(), begin);
            let mirror = watched.mirror();
            let settled = mirror.settled();
            facts.decided(&settled.allocation, settled.problems.len());
            let now = jiff::Timestamp::now();
            let documents = decider.tell(settled).map(|mut document| {
                add_table_size(&mut document, mirror, now);
                document
            });
            written.want(documents.chain(released(mirror)), |key, subject| There {
                uid: mirror.uid(subject).map(str::to_owned),
                other: says_otherwise(key, settled),
            });
            look_at = written.recheck();
            *rested = Instant::now() + begin.elapsed() * REST_RATIO;
            (facts.source, facts.leads) = (watched.facts(), true);
            metrics.set(facts.clone());
        }
        if is_untidy && written.is_idle() {
            is_untidy = false;
            give_back();
        }
        if !written.has_work(Instant::now()) {
            continue;
        }
        match leadership.confirm().await {
            Ok(true) => written.start(Instant::now()),
            Ok(false) => acting = None,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the Lease cannot be read: nothing is written until it can");
                again = Some(Instant::now() + UNCONFIRMED);
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
