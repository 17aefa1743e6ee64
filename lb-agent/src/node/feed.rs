//! Where a node's objects come from, and where goes what it says of them.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use lb_api::{Changed, Memory, Reading, Settled};
use lb_core::model::NodeName;

use crate::{
    chain::chain,
    cluster::{self, Watched, Written},
    metrics::SourceFacts,
    output::{Document, LastGood, is_local},
    source::{self, Source, Watch},
};

/// Where objects come from.
#[derive(Clone, Debug)]
pub struct FeedOptions {
    /// Files or an API server.
    pub source: Source,
    /// A kubeconfig; without it the pod's service account, or what `kubectl` would use.
    pub kubeconfig: Option<String>,
    /// Our own namespace in a cluster: where MetalLB's objects stand.
    pub namespace: String,
    /// How objects are read.
    pub reading: Reading,
}

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory.
    #[error(transparent)]
    Files(#[from] source::Error),
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
}

/// Objects, and who is told of what becomes of them.
pub(super) struct Feed {
    origin: Origin,
    last_good: LastGood,
}

enum Origin {
    Files(Box<Files>),
    Cluster(Box<Cluster>),
}

struct Files {
    dir: PathBuf,
    watch: Watch,
    memory: Memory,
    settled: Settled,
    reads: u64,
}

struct Cluster {
    watched: Watched,
    written: Written,
}

/// Whose the fields are that a node writes (server-side apply).
const MANAGER: &str = "magnetite-node";

impl Feed {
    /// Begins with what objects last said to an earlier agent.
    ///
    /// # Errors
    /// The directory cannot be watched, or nothing says where the API server is. Whether it answers shows later.
    pub async fn open(
        options: &FeedOptions,
        node: &NodeName,
        (last_good, mut memory): (LastGood, Memory),
    ) -> Result<Self, Error> {
        let is_without_namespaces = options.source == Source::Kube;
        let reading = Reading { is_without_namespaces, ..options.reading.clone() };
        memory.set_reading(reading.clone());
        let origin = match &options.source {
            Source::File(dir) => {
                let watch = Watch::new(dir)?;
                // As long as nothing has been read, nothing may be changed because of that.
                let settled = Settled { is_empty: true, ..Settled::default() };
                Origin::Files(Box::new(Files { dir: dir.clone(), watch, memory, settled, reads: 0 }))
            }
            Source::Kube => {
                let client = cluster::connect(options.kubeconfig.as_deref()).await?;
                let mut watched = Watched::of_node(&client, &options.namespace, reading);
                watched.mirror_mut().remember(memory);
                let written = Written::of_node(client, MANAGER, &options.namespace, &node.0);
                Origin::Cluster(Box::new(Cluster { watched, written }))
            }
        };
        Ok(Self { origin, last_good })
    }

    /// What holds by what was read last.
    pub fn settled(&self) -> &Settled {
        match &self.origin {
            Origin::Files(files) => &files.settled,
            Origin::Cluster(cluster) => cluster.watched.mirror().settled(),
        }
    }

    /// Waits until there is something to read.
    pub async fn changed(&mut self) {
        match &mut self.origin {
            Origin::Files(files) => files.watch.changed().await,
            Origin::Cluster(cluster) => cluster.changed().await,
        }
    }

    /// Reads what there is; what has changed by that, if that is known. What cannot be read changes nothing.
    pub fn read(&mut self) -> Option<&Changed> {
        let memory = match &mut self.origin {
            Origin::Files(files) => files.read(),
            Origin::Cluster(cluster) => cluster.read(),
        };
        if let Some(Err(error)) = memory.map(|memory| self.last_good.save(memory)) {
            tracing::error!(error = %chain(&error), "keeping what objects say failed; it is tried again");
        }
        match &self.origin {
            Origin::Files(_) => None,
            Origin::Cluster(cluster) => Some(cluster.watched.mirror().changed()),
        }
    }

    /// Whether a controller gives Services their addresses, and says so.
    pub fn has_controller(&self) -> bool {
        matches!(self.origin, Origin::Cluster(_))
    }

    /// Says something of the objects to whom they belong; what remains is for this machine alone.
    pub fn tell(&mut self, documents: Vec<Document>) -> Vec<Document> {
        match &mut self.origin {
            Origin::Files(_) => documents,
            Origin::Cluster(cluster) => {
                let Cluster { watched, written } = &mut **cluster;
                let (local, others): (Vec<_>, Vec<_>) = documents.into_iter().partition(is_local);
                written.want(others, watched.mirror());
                written.start(Instant::now());
                local
            }
        }
    }

    /// How objects are heard of.
    pub fn facts(&self) -> SourceFacts {
        match &self.origin {
            Origin::Files(files) => SourceFacts {
                updates: files.reads,
                is_loaded: files.settled.is_configured(),
                is_stale: files.settled.is_stale(),
                ..SourceFacts::default()
            },
            Origin::Cluster(cluster) => cluster.watched.facts(),
        }
    }

    /// Why no changes of some kinds are heard of at present, and of which.
    pub fn unheard(&self) -> BTreeMap<String, Vec<&'static str>> {
        let mut unheard: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        if let Origin::Cluster(cluster) = &self.origin {
            for (kind, why) in cluster.watched.failing() {
                unheard.entry(why.to_owned()).or_default().push(kind);
            }
        }
        unheard
    }
}

impl Files {
    fn read(&mut self) -> Option<&Memory> {
        // Before reading: what changes from now on is heard of.
        if let Err(error) = self.watch.renew() {
            tracing::error!(error = %chain(&error), "watching the source failed; it is tried again");
        }
        match source::read(&self.dir) {
            Ok(files) => {
                self.settled = self.memory.settle(&files);
                self.reads += 1;
                Some(&self.memory)
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "the source cannot be read: everything stays as it is");
                None
            }
        }
    }
}

impl Cluster {
    async fn changed(&mut self) {
        loop {
            tokio::select! {
                () = self.watched.changed() => {
                    if self.watched.is_complete() {
                        return;
                    }
                }
                () = self.written.progress() => self.written.start(Instant::now()),
            }
        }
    }

    fn read(&mut self) -> Option<&Memory> {
        if !self.watched.is_complete() {
            return None;
        }
        self.watched.take_waiting();
        let mirror = self.watched.mirror_mut();
        mirror.settle(|snapshot, changed, allocation| allocation.hold(snapshot, changed));
        // It changes only then.
        mirror.changed().others.then_some(mirror.memory())
    }
}
