//! The controller on files: the clock, the source, and the directory in which it says what it has given.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lb_api::{Memory, Reading};
use lb_core::allocate::{Allocator, PoolEdit};
use tokio::signal::unix::{SignalKind, signal};

use super::{CONTROLLER, decider::Decider, objects::objects};
use crate::{
    chain::chain,
    output::{self, Document, Given, LastGood, Writer},
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
    /// How objects are read.
    pub reading: Reading,
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
    Ok(objects(&settled, Timestamp::UNIX_EPOCH).collect())
}

struct Driver {
    options: Options,
    decider: Decider,
    last_good: LastGood,
    /// What Services have by what was written last.
    given: Given,
    writer: Writer,
}

impl Driver {
    fn start(options: Options) -> Self {
        let (last_good, mut memory) = LastGood::load(&options.output, CONTROLLER);
        memory.set_reading(options.reading.clone());
        let allocator = Allocator::new(options.rest, options.pool_edit);
        Self {
            decider: Decider::new(memory, allocator, Some(&options.output)),
            last_good,
            given: Given::load(&options.output),
            writer: Writer::new(&options.output),
            options,
        }
    }

    /// What the source says, and what follows from it.
    fn pass(&mut self) -> Result<(), Error> {
        let files = source::read(&self.options.source)?;
        let settled = self.decider.decide_files(&files, &self.given, Instant::now());
        self.last_good.save(&self.decider.memory)?;
        if settled.is_empty && settled.snapshot.services.is_empty() && self.given.is_empty() {
            tracing::warn!(source = %self.options.source.display(), "no object in the source yet: nothing is changed");
            return Ok(());
        }
        let documents: Vec<Document> = self.decider.tell(&settled).collect();
        self.writer.write(&documents)?;
        self.given.set(&settled.allocation);
        Ok(())
    }
}
