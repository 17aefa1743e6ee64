//! The controller on files: the clock, the source, and the directory in which it says what it has given.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lb_api::{Memory, Settled};
use lb_core::allocate::{Allocation, Allocator, PoolEdit};
use tokio::signal::unix::{SignalKind, signal};

use super::{CONTROLLER, facts::facts, objects::objects};
use crate::{
    chain::chain,
    output::{self, Author, Document, Events, Given, LastGood, Moment, Writer},
    source::{self, Watch},
};

/// How the controller runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the source.
    pub source: PathBuf,
    /// Where objects are written, and what was given is found again.
    pub output: PathBuf,
    /// How long an address that was given up rests before another Service gets it.
    pub rest: Duration,
    /// What becomes of addresses that pools do not give any more.
    pub pool_edit: PoolEdit,
    /// One pass, then the end.
    pub once: bool,
}

/// What ends the controller. All else is logged and tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source cannot be read at the start.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// Objects cannot be written, at the start.
    #[error(transparent)]
    Output(#[from] output::Error),
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

/// Everything is read again, whether anything was heard of it or not.
const RESYNC: Duration = Duration::from_secs(60);
/// What changes together is looked at together.
const SETTLE: Duration = Duration::from_millis(20);

/// Allocates until SIGTERM or SIGINT, or with [`Options::once`] for one pass.
///
/// # Errors
/// It cannot start.
pub async fn run(options: Options) -> Result<(), Error> {
    let kernel = |what| move |source| Error::Kernel { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(kernel("waiting for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(kernel("waiting for SIGINT"))?;
    let mut watch = Watch::new(&options.source)?;
    let mut driver = Driver::start(options);
    driver.pass()?;
    if driver.options.once {
        return Ok(());
    }
    let mut resync = tokio::time::interval(RESYNC);
    resync.reset();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = watch.changed() => tokio::time::sleep(SETTLE).await,
            _ = resync.tick() => {}
        }
        // Before reading: what changes from now on is heard of.
        if let Err(error) = watch.renew().map_err(Error::from).and_then(|()| driver.pass()) {
            tracing::error!(error = %chain(&error), "a pass failed; it is tried again");
        }
    }
    tracing::info!("ended; addresses stay as they are");
    Ok(())
}

/// Everything that a controller would say, and had nothing said before.
///
/// # Errors
/// The source cannot be read.
pub fn dry_run(source: &Path) -> Result<Vec<Document>, Error> {
    let mut allocator = Allocator::new(Duration::ZERO, PoolEdit::default());
    let settled = Memory::default()
        .settle_by(&source::read(source)?, |snapshot| allocator.handle_snapshot(snapshot, Instant::now()));
    Ok(objects(&settled))
}

struct Driver {
    options: Options,
    memory: Memory,
    last_good: LastGood,
    allocator: Allocator,
    /// What Services have by what was written last.
    given: Given,
    events: Events,
    writer: Writer,
    told: Allocation,
}

impl Driver {
    fn start(options: Options) -> Self {
        let (last_good, memory) = LastGood::load(&options.output, CONTROLLER);
        let author = Author { component: "metallb-controller", name: CONTROLLER.to_owned() };
        Self {
            memory,
            last_good,
            allocator: Allocator::new(options.rest, options.pool_edit),
            given: Given::load(&options.output),
            events: Events::new(author, &options.output),
            writer: Writer::new(&options.output),
            told: Allocation::default(),
            options,
        }
    }

    /// What the source says, and what follows from it.
    fn pass(&mut self) -> Result<(), Error> {
        let files = source::read(&self.options.source)?;
        let Self { memory, allocator, given, .. } = self;
        let settled = memory.settle_by(&files, |snapshot| {
            given.fill_in(snapshot);
            allocator.handle_snapshot(snapshot, Instant::now())
        });
        self.last_good.save(&self.memory)?;
        if settled.is_empty && settled.snapshot.services.is_empty() && self.given.is_empty() {
            tracing::warn!(source = %self.options.source.display(), "no object in the source yet: nothing is changed");
            return Ok(());
        }
        self.log(&settled);
        self.events.observe(&settled, facts(&settled), Moment::now().time);
        let mut documents = objects(&settled);
        documents.extend(self.events.documents());
        self.writer.write(&documents)?;
        self.given.set(&settled.allocation);
        self.told = settled.allocation;
        Ok(())
    }

    fn log(&self, settled: &Settled) {
        let Allocation { addresses, errors, remarks, .. } = &settled.allocation;
        for (service, now) in
            addresses.iter().filter(|(name, now)| self.told.addresses.get(*name) != Some(*now))
        {
            tracing::info!(%service, addresses = ?now, pool = settled.allocation.pools.get(service), "allocated");
        }
        for (service, was) in self.told.addresses.iter().filter(|(name, _)| !addresses.contains_key(*name)) {
            tracing::info!(%service, addresses = ?was, "given up");
        }
        log_new(errors, &self.told.errors, "no address");
        log_new(remarks, &self.told.remarks, "address");
    }
}

fn log_new<T: std::fmt::Display + PartialEq>(
    now: &BTreeMap<lb_core::model::ObjectName, T>,
    before: &BTreeMap<lb_core::model::ObjectName, T>,
    what: &str,
) {
    for (service, why) in now.iter().filter(|(service, why)| before.get(*service) != Some(*why)) {
        tracing::warn!(%service, %why, "{what}");
    }
}
