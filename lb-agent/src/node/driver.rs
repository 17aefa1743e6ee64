//! The clock, the files, the kernel: what [`pass`] is given, and what is done with what it returns.

mod links;
mod telling;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use lb_api::{Memory, Reading};
use lb_common::hash::HashKey;
use lb_core::{
    claims::Report,
    liveness::{Profile, Standing},
    maps::{Maps, Sizes},
    model::{Network, NodeName},
    place::{Local, Placed, Previous},
    plan::Plan,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    Pass,
    feed::{self, Feed, FeedOptions},
    groups::Groups,
    leaving::{Change, Leaving},
    limits::raise_open_files,
    pass,
};
use crate::{
    chain::chain,
    cluster::OwnPod,
    commands,
    dataplane::{self, Dataplane, EgressMode},
    liveness::{self, Orders},
    metrics::{self, Listen, Metrics},
    network::{Netlink, NetlinkError, keep_tags, leave_out_untagged},
    node::teller::{self, Target, Teller},
    output::{Document, DrainRequests, LastGood, Outcome, of_dry_run, of_node, of_services, owned, view},
    source::{self, Source},
};

/// How the node runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where objects come from.
    pub feed: FeedOptions,
    /// This node.
    pub node: NodeName,
    /// The pod in which this runs, if it is one.
    pub pod: Option<OwnPod>,
    /// Where programs and maps are pinned.
    pub pin_dir: PathBuf,
    /// Where status is written.
    pub output: PathBuf,
    /// Where is kept what has to outlast the machine's restarts.
    pub state: PathBuf,
    /// Sizes of the maps.
    pub sizes: Sizes,
    /// One pass, then the end.
    pub once: bool,
    /// How fast nodes notice that one of them has died.
    pub profile: Profile,
    /// Where metrics and health are to be had, if anywhere.
    pub listens: Vec<Listen>,
    /// On SIGTERM, VIPs move first, and the agent ends when it is drained or after so long; at once without it.
    pub drain_on_sigterm: Option<Duration>,
}

/// What ends the node. All else is logged and tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no source.
    #[error(transparent)]
    Feed(#[from] feed::Error),
    /// The data path cannot be opened.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// The liveness thread cannot be started, or has ended.
    #[error(transparent)]
    Liveness(#[from] liveness::Error),
    /// The metrics thread cannot be started.
    #[error(transparent)]
    Metrics(#[from] metrics::Error),
    /// Netlink does not answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The thread that writes status cannot be started, or has ended; or what a single pass says cannot be written.
    #[error(transparent)]
    Teller(#[from] teller::Error),
    /// Signals cannot be waited for, or no random numbers be had.
    #[error("{what}")]
    Kernel {
        /// What was asked of the kernel.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// A thread has ended: to try again does not help.
    fn is_final(&self) -> bool {
        matches!(self, Self::Liveness(liveness::Error::Ended) | Self::Teller(teller::Error::Ended))
    }
}

/// Everything is read again, whether anything was heard of it or not.
const RESYNC: Duration = Duration::from_secs(60);
/// Of so many times everything is read again, once what the maps hold is looked at, if nothing is new.
const RESYNC_OF_MAPS: u32 = 5;
/// And once it is compared whole.
const WHOLE_RESYNC: u32 = 10;
/// MACs of nodes are confirmed.
const CONFIRM: Duration = Duration::from_secs(15);
/// A dead node must not keep this one from starting.
const RESOLVE_WAIT: Duration = Duration::from_secs(1);
/// Files that change together are looked at together.
const SETTLE: Duration = Duration::from_millis(20);

/// Serves until SIGTERM or SIGINT, or with [`Options::once`] for one pass. The data path stays in either case.
///
/// # Errors
/// It cannot start.
pub async fn run(options: Options) -> Result<(), Error> {
    let kernel = |what| move |source| Error::Kernel { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(kernel("waiting for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(kernel("waiting for SIGINT"))?;
    if let Err(error) = raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays: of many IPv6 VIPs some may not be found behind MLD snooping");
    }
    let mut driver = Driver::start(options).await?;
    driver.read_source();
    driver.network = driver.netlink.resolve_all(RESOLVE_WAIT).await?;
    driver.leave_out_untagged();
    driver.pass().await?;
    if driver.options.once {
        return Ok(driver.teller.end()?);
    }
    driver.leaving.attend_logind();

    let every = |period| {
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let (mut resync, mut confirm) = (every(RESYNC), every(CONFIRM));
    loop {
        driver.has_news |= tokio::select! {
            _ = terminate.recv() => match driver.options.drain_on_sigterm.take() {
                Some(within) => {
                    driver.leaving.terminate(within);
                    true
                }
                // Or the second time.
                None => break,
            },
            _ = interrupt.recv() => break,
            _ = confirm.tick() => {
                driver.resolve().await;
                continue;
            }
            changed = driver.liveness.changed() => {
                changed?;
                if !driver.meet() {
                    // Each order is acknowledged: that alone is no reason to write it all.
                    if driver.met.told() != driver.told.told() {
                        driver.tell_standing()?;
                    }
                    continue;
                }
                true
            }
            change = driver.leaving.changed() => match change {
                Change::Wish => true,
                Change::Progress => {
                    driver.tell_standing()?;
                    if driver.leaving.may_end() {
                        break;
                    }
                    continue;
                }
            },
            () = driver.netlink.changed() => {
                tokio::time::sleep(SETTLE).await;
                if !driver.read_network().await {
                    continue;
                }
                true
            }
            () = driver.feed.changed() => {
                driver.settle().await;
                match driver.follow().await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) if error.is_final() => return Err(error),
                    followed @ Err(_) => driver.log_failure("following endpoints", followed.map(drop)),
                }
                driver.rest().await;
                driver.read_source();
                driver.resolve_new().await;
                true
            }
            _ = resync.tick() => {
                driver.count_resync();
                let is_news = driver.read_source() | driver.read_network().await;
                if !is_news && driver.is_settled() && !driver.resyncs.is_multiple_of(RESYNC_OF_MAPS) {
                    continue;
                }
                is_news
            }
        };
        match driver.pass().await {
            Err(error) if error.is_final() => return Err(error),
            done => driver.log_failure("a pass", done),
        }
        if driver.leaving.may_end() {
            break;
        }
    }
    let pin_dir = driver.options.pin_dir.display();
    tracing::info!(
        "ended; the data path goes on without an agent. To remove it: lb-agent unload --pin-dir {pin_dir}"
    );
    Ok(())
}

/// Everything that a node would say and put into its maps, without touching the kernel.
///
/// # Errors
/// The files cannot be read.
pub fn dry_run(
    source: &Path,
    node: &NodeName,
    network: &Network,
    sizes: Sizes,
    reading: Reading,
) -> Result<Vec<Document>, source::Error> {
    let mut memory = Memory::default();
    memory.set_reading(reading);
    let settled = memory.settle(&source::read(source)?);
    let standing = Standing::default();
    let local = Local {
        sizes,
        flow_key: HashKey::default(),
        flow_queues: 1,
        tick_shift: 8,
        now: 0,
        standing,
        is_watched: false,
    };
    let Pass { plan, placed, ops: _ } = pass(&settled, node, network, &Maps::empty(&sizes), &local, None);
    let (attached, conflicts) = (BTreeMap::new(), BTreeMap::new());
    let outcome = Outcome::new(&plan, &placed, &local.standing, &attached, &settled);
    let owned = owned(&settled, &placed.armed, &local.standing, &Report::default());
    let documents = of_services(&plan, &settled, &conflicts);
    let documents = documents.chain(of_node(&plan, &settled, &owned, Timestamp::UNIX_EPOCH));
    Ok(documents.chain(of_dry_run(&outcome, &view(&placed.maps))).collect())
}

struct Driver {
    options: Options,
    feed: Feed,
    netlink: Netlink,
    network: Network,
    /// Links that it has and that cannot be served, and why.
    unserved: BTreeMap<String, String>,
    /// NICs on which the programs cannot be attached, and why.
    unattached: BTreeMap<u32, String>,
    dataplane: Dataplane,
    groups: Groups,
    teller: Teller,
    flow_key: HashKey,
    liveness: liveness::Handle,
    /// What other nodes said of themselves by the last pass.
    met: Arc<liveness::Seen>,
    /// What the teller was told of that.
    told: Arc<liveness::Seen>,
    leaving: Leaving,
    /// By the last pass whose changes are in the maps.
    planned: Option<(Plan, Placed)>,
    /// Something is otherwise than what the teller was told.
    has_news: bool,
    /// What the maps hold is to be compared whole, whatever was planned before.
    is_resync: bool,
    resyncs: u32,
    /// When the next look at everything may be taken.
    rested: Instant,
}

impl Driver {
    async fn start(options: Options) -> Result<Self, Error> {
        let kept = LastGood::load(&options.output, &options.node.0);
        let feed = Feed::open(&options.feed, kept).await?;
        let netlink = Netlink::connect()?;
        let dataplane = Dataplane::open(&dataplane::Options {
            pin_dir: options.pin_dir.clone(),
            sizes: options.sizes,
            egress: EgressMode::of_kernel(),
        })?;
        let adopted = dataplane.adopted();
        let earlier = commands::read_status(&options.output, Some(&options.node.0)).ok();
        let earlier = earlier.and_then(|object| object.status.drain);
        let requests = DrainRequests::of(&options.output, &options.node);
        tracing::info!(node = %options.node, pin_dir = %options.pin_dir.display(), adopted, "data path opened");
        let liveness = liveness::Handle::start(liveness::Options {
            node: options.node.clone(),
            pin_dir: options.pin_dir.clone(),
            state: options.state.clone(),
            profile: options.profile,
        })?;
        let metrics = match options.listens.clone() {
            listens if listens.is_empty() => None,
            listens => Some(Metrics::start(listens, &options.pin_dir, liveness.snapshots().clone())?),
        };
        let cluster = match options.feed.source {
            Source::Kube => Some(Target {
                kubeconfig: options.feed.kubeconfig.clone(),
                namespace: options.feed.namespace.clone(),
                pod: options.pod.clone(),
            }),
            Source::File(_) => None,
        };
        let teller = Teller::start(teller::Options {
            node: options.node.clone(),
            pin_dir: options.pin_dir.clone(),
            output: options.output.clone(),
            cluster,
            metrics,
            snapshots: liveness.snapshots().clone(),
        })
        .await?;
        Ok(Self {
            feed,
            netlink,
            network: Network::default(),
            unserved: BTreeMap::new(),
            unattached: BTreeMap::new(),
            dataplane,
            groups: Groups::default(),
            teller,
            flow_key: HashKey::expand(random()?),
            liveness,
            met: Arc::default(),
            told: Arc::default(),
            leaving: Leaving::new(requests, earlier.as_ref(), options.pin_dir.clone()),
            planned: None,
            has_news: true,
            is_resync: false,
            resyncs: 0,
            rested: Instant::now(),
            options,
        })
    }

    /// A look at everything is not taken more than half of the time.
    async fn rest(&self) {
        tokio::time::sleep_until(self.rested).await;
    }

    /// Files that change together are looked at together.
    async fn settle(&self) {
        if let Source::File(_) = self.options.feed.source {
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Whether anything may be otherwise than before.
    fn read_source(&mut self) -> bool {
        let changed = self.feed.read();
        let is_news = changed.is_none_or(|changed| changed.others || !changed.services.is_empty());
        self.set_peers();
        is_news
    }

    /// Nothing has failed that is to be tried again.
    fn is_settled(&self) -> bool {
        !self.has_news && self.unattached.is_empty()
    }

    /// Now and then what the maps hold is compared whole.
    fn count_resync(&mut self) {
        self.resyncs = self.resyncs.wrapping_add(1);
        self.is_resync |= self.resyncs.is_multiple_of(WHOLE_RESYNC);
    }

    fn set_peers(&mut self) {
        let addresses = self.feed.settled().snapshot.nodes.values().flat_map(|node| &node.addresses);
        self.netlink.set_peers(addresses.copied().collect());
    }

    /// Whether the network has changed.
    async fn read_network(&mut self) -> bool {
        match self.netlink.network().await {
            Ok(network) => {
                let before = (std::mem::replace(&mut self.network, network), self.unserved.clone());
                self.leave_out_untagged();
                (&before.0, &before.1) != (&self.network, &self.unserved)
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "the network cannot be read: everything stays as it is");
                false
            }
        }
    }

    /// Links of VLANs whose tags programs would not see are not served, and that is said.
    fn leave_out_untagged(&mut self) {
        let unserved = leave_out_untagged(&mut self.network, keep_tags);
        for (link, why) in unserved.iter().filter(|(link, why)| self.unserved.get(*link) != Some(why)) {
            tracing::error!(link, "{why}");
        }
        self.unserved = unserved;
    }

    /// MACs of nodes that the source has only now.
    async fn resolve_new(&mut self) {
        let addresses = self.feed.settled().snapshot.nodes.values().flat_map(|node| &node.addresses);
        let is_known = |address: &IpAddr| self.network.neighbours.keys().any(|(_, known)| known == address);
        if !addresses.copied().all(|address| is_known(&address)) {
            self.resolve().await;
        }
    }

    /// Asks for the MACs of nodes, but for those that a probe has proven.
    async fn resolve(&self) {
        self.netlink.resolve(&self.network, |address| self.met.proven.contains_key(address)).await;
    }

    /// Takes over what other nodes say of themselves; whether that is news.
    fn meet(&mut self) -> bool {
        let seen = self.liveness.seen();
        let is_news = seen.neighbourhood() != self.met.neighbourhood();
        self.met = seen;
        is_news
    }

    /// One pass, and another without the links that turn out not to carry programs: nothing is announced there.
    async fn pass(&mut self) -> Result<(), Error> {
        self.retry_attaching();
        let begin = Instant::now();
        while !self.try_pass().await? {}
        self.rested = Instant::now() + begin.elapsed();
        Ok(())
    }

    /// Whether it was carried out; if not, a NIC more is known to carry no programs.
    async fn try_pass(&mut self) -> Result<bool, Error> {
        if self.feed.settled().is_empty && self.planned.is_none() {
            // The maps may be full of what an earlier agent knew: an empty source is no reason to withdraw it.
            tracing::warn!("no object is known yet: nothing is changed");
            return Ok(true);
        }
        self.meet();
        let local = self.local()?;
        // Rows are most of what there is: those of before are known.
        let previous = self.planned.as_ref().filter(|_| !self.is_resync);
        let current = match previous {
            Some(_) => self.dataplane.read_without_rows()?,
            None => self.dataplane.read()?,
        };
        let mut network = self.network.clone();
        network.links.retain(|_, link| !self.unattached.contains_key(&link.ifindex));
        for (node, description) in &self.met.descriptions {
            network.hear(node.clone(), description);
            network.algorithms.insert(node.clone(), description.algorithm);
        }
        self.met.proven.iter().for_each(|(leg, mac)| network.believe(*leg, mac.octets()));
        let planned = self.planned.as_ref();
        network.absent =
            planned.map(|(_, placed)| placed.armed.absent(&self.met.standing)).unwrap_or_default();
        let previous = previous.map(|(plan, placed)| Previous { plan, placed });
        let settled = self.feed.settled();
        let Pass { plan, mut placed, ops } =
            pass(settled, &self.options.node, &network, &current, &local, previous);
        tracing::debug!(operations = ops.len(), "pass");
        self.dataplane.apply(&ops)?;
        if !self.attach(&plan) {
            return Ok(false);
        }
        self.join(&plan);
        placed.forget_written();
        let before = self.planned.as_ref();
        let is_as_before = before.is_some_and(|before| (&before.0, &before.1) == (&plan, &placed));
        self.planned = Some((plan, placed));
        self.is_resync = false;
        self.order().await?;
        // What was not written is tried again by the teller itself.
        if self.has_news || !is_as_before {
            self.tell()?;
            self.has_news = false;
        }
        Ok(true)
    }

    fn local(&self) -> Result<Local, Error> {
        Ok(Local {
            sizes: self.options.sizes,
            flow_key: self.flow_key,
            flow_queues: self.dataplane.flow_queues(),
            tick_shift: self.dataplane.clock().tick_shift,
            now: self.dataplane.seconds()?,
            standing: self.met.standing.clone(),
            is_watched: !self.options.once,
        })
    }

    /// Has the liveness thread act by what was planned last. Only after it is in the maps: what is announced must be there.
    async fn order(&mut self) -> Result<(), Error> {
        let Some((plan, placed)) = &self.planned else { return Ok(()) };
        let snapshot = &self.feed.settled().snapshot;
        let is_leaving = self.leaving.look(snapshot, &self.options.node);
        // After a single pass nobody would ask whether a VIP is free, nor announce it.
        if self.options.once {
            return Ok(());
        }
        let orders = Orders {
            armed: Arc::clone(&placed.armed),
            carriers: placed.carriers.clone(),
            secret: snapshot.gossip_secret.clone(),
            description: plan.description.clone(),
            is_leaving,
        };
        Ok(self.liveness.order(orders).await?)
    }

    /// Reads the source. If nothing but endpoints has changed, and nothing of who may own what by that, the maps are brought up to date
    /// at once, without a look at everything else: endpoints change more often than all else together. Whether that was so.
    async fn follow(&mut self) -> Result<bool, Error> {
        let changed =
            self.feed.read().filter(|changed| !changed.others).map(|changed| changed.services.clone());
        let (Some(changed), Some((plan, _)), false) = (changed, &mut self.planned, self.is_resync) else {
            return Ok(false);
        };
        let settled = self.feed.settled();
        let Some(frontends) = plan.update(&settled.snapshot, &settled.allocation, &changed) else {
            return Ok(false);
        };
        // If anything goes wrong from here on, nobody knows what was placed.
        self.is_resync = true;
        let local = self.local()?;
        let Some((plan, placed)) = &mut self.planned else { return Ok(false) };
        let Some(ops) = placed.update(plan, &frontends, &local) else { return Ok(false) };
        self.dataplane.apply(&ops)?;
        self.is_resync = false;
        tracing::debug!(operations = ops.len(), "followed");
        if !ops.is_empty() {
            self.order().await?;
        }
        self.tell_ports(&frontends)?;
        Ok(true)
    }

    fn log_failure<E: std::error::Error>(&self, what: &str, result: Result<(), E>) {
        if let Err(error) = result {
            tracing::error!(error = %chain(&error), "{what} failed; it is tried again");
        }
    }
}

fn random() -> Result<[u64; 4], Error> {
    let mut seed = [0_u64; 4];
    // SAFETY: the buffer has as many bytes as are asked for, and any bytes are integers.
    let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), size_of_val(&seed), 0) };
    if got != size_of_val(&seed) as isize {
        return Err(Error::Kernel { what: "random numbers", source: io::Error::last_os_error() });
    }
    Ok(seed)
}
