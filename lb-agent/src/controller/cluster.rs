//! The controller of a cluster: objects come from the API server, and what is decided goes there.

use std::{
    io,
    time::{Duration, Instant},
};

use lb_api::Memory;
use lb_core::allocate::{Allocator, PoolEdit};
use tokio::signal::unix::{SignalKind, signal};

use super::{decider::Decider, objects::released};
use crate::cluster::{self, Watched, Written};

/// How the controller of a cluster runs.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// A kubeconfig; without it the pod's service account, or what `kubectl` would use.
    pub kubeconfig: Option<String>,
    /// Our own namespace: where MetalLB's objects stand.
    pub namespace: String,
    /// How long an address that was given up rests before another Service gets it.
    pub rest: Duration,
    /// What becomes of addresses that pools do not give any more.
    pub pool_edit: PoolEdit,
}

/// What ends the controller of a cluster. All else is logged and tried again.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No connection can be made.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
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
/// What changes together is looked at together.
const SETTLE: Duration = Duration::from_millis(10);

/// Allocates until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start.
pub async fn run_in_cluster(options: ClusterOptions) -> Result<(), ClusterError> {
    let kernel = |what| move |source| ClusterError::Kernel { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(kernel("waiting for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(kernel("waiting for SIGINT"))?;
    let client = cluster::connect(options.kubeconfig.as_deref()).await?;
    let watched = Watched::of_controller(&client, &options.namespace);
    let written = Written::new(client, MANAGER);
    let decider = Decider::new(Memory::default(), Allocator::new(options.rest, options.pool_edit), None);
    tokio::select! {
        () = control(watched, written, decider) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ended; addresses stay as they are");
    Ok(())
}

async fn control(mut watched: Watched, mut written: Written, mut decider: Decider) {
    let mut documents = Vec::new();
    loop {
        let again = written.poll_timeout().map(tokio::time::Instant::from_std);
        let has_changed = tokio::select! {
            () = watched.changed() => true,
            () = until(again) => false,
        };
        if !watched.is_complete() {
            continue;
        }
        if has_changed {
            tokio::time::sleep(SETTLE).await;
            watched.take_waiting();
            let settled = decider.decide_objects(watched.objects(), Instant::now());
            documents = decider.tell(&settled);
            documents.extend(released(watched.objects()));
        }
        written.write(&documents, watched.objects(), Instant::now()).await;
    }
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
