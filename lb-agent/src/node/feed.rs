//! Where a node's objects come from.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use lb_api::{Changed, Memory, Reading, Settled};
use lb_core::model::ObjectName;

use crate::{
    chain::chain,
    cluster::{self, Watched},
    metrics::SourceFacts,
    output::LastGood,
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

/// Objects, and what they last said when they were right.
pub(super) struct Feed {
    origin: Origin,
    last_good: LastGood,
}

enum Origin {
    Files(Box<Files>),
    Cluster(Box<Watched>),
}

struct Files {
    dir: PathBuf,
    watch: Watch,
    memory: Memory,
    settled: Settled,
    reads: u64,
}

impl Feed {
    /// Begins with what objects last said to an earlier agent.
    ///
    /// # Errors
    /// The directory cannot be watched, or nothing says where the API server is. Whether it answers shows later.
    pub async fn open(
        options: &FeedOptions,
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
                Origin::Cluster(Box::new(watched))
            }
        };
        Ok(Self { origin, last_good })
    }

    /// What holds by what was read last.
    pub fn settled(&self) -> &Settled {
        match &self.origin {
            Origin::Files(files) => &files.settled,
            Origin::Cluster(watched) => watched.mirror().settled(),
        }
    }

    /// Waits until there is something to read.
    pub async fn changed(&mut self) {
        match &mut self.origin {
            Origin::Files(files) => files.watch.changed().await,
            Origin::Cluster(watched) => loop {
                watched.changed().await;
                if watched.is_complete() {
                    return;
                }
            },
        }
    }

    /// Reads what there is; what has changed by that, if that is known. What cannot be read changes nothing.
    pub fn read(&mut self) -> Option<&Changed> {
        let memory = match &mut self.origin {
            Origin::Files(files) => files.read(),
            Origin::Cluster(watched) => settle(watched),
        };
        if let Some(Err(error)) = memory.map(|memory| self.last_good.save(memory)) {
            tracing::error!(error = %chain(&error), "keeping what objects say failed; it is tried again");
        }
        match &self.origin {
            Origin::Files(_) => None,
            Origin::Cluster(watched) => Some(watched.mirror().changed()),
        }
    }

    /// UIDs of Services that have addresses, where they are known.
    pub fn uids(&self) -> BTreeMap<ObjectName, Arc<str>> {
        let Origin::Cluster(watched) = &self.origin else { return BTreeMap::new() };
        let mirror = watched.mirror();
        let served = mirror.settled().allocation.addresses.keys();
        served.filter_map(|name| Some((name.clone(), Arc::clone(mirror.service_uid(name)?)))).collect()
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
            Origin::Cluster(watched) => watched.facts(),
        }
    }

    /// Why no changes of some kinds are heard of at present, and of which.
    pub fn unheard(&self) -> BTreeMap<String, Vec<&'static str>> {
        let mut unheard: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        if let Origin::Cluster(watched) = &self.origin {
            for (kind, why) in watched.failing() {
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

/// What the watches have told by now. Nothing before all there is has been listed.
fn settle(watched: &mut Watched) -> Option<&Memory> {
    if !watched.is_complete() {
        return None;
    }
    watched.take_waiting();
    let mirror = watched.mirror_mut();
    mirror.settle(|snapshot, changed, allocation| allocation.hold(snapshot, changed));
    // It changes only then.
    mirror.changed().others.then_some(mirror.memory())
}
