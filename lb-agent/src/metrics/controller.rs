//! What the controller says of itself (MetalLB: `internal/allocator/stats.go`), and whether it is well.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lb_core::allocate::{Allocation, PoolCounts};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    Error, SourceFacts,
    out::{Out, text},
    server::{Listen, Server, Site},
};

/// What a controller has made of things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControllerFacts {
    /// How objects are heard of.
    pub source: SourceFacts,
    /// Whether it is the one that acts.
    pub leads: bool,
    /// How full pools are; nothing of one that does not act.
    pub pools: BTreeMap<String, PoolCounts>,
    /// Services that have addresses.
    pub served: usize,
    /// Services that wait for one.
    pub waiting: usize,
    /// What is wrong with objects.
    pub problems: usize,
}

impl ControllerFacts {
    /// What was decided last.
    pub fn decided(&mut self, allocation: &Allocation, problems: usize) {
        self.pools.clone_from(&allocation.counts);
        (self.served, self.waiting) = (allocation.addresses.len(), allocation.errors.len());
        self.problems = problems;
    }
}

/// The server of a controller, as long as it is held.
pub struct ControllerMetrics {
    state: Arc<Mutex<State>>,
    _server: Server,
}

struct State {
    /// When the controller said last that it goes on.
    beat: Instant,
    facts: Option<ControllerFacts>,
}

/// A controller that has said nothing for so long hangs: it looks at its Lease every few seconds.
const HANGS: Duration = Duration::from_secs(120);

impl ControllerMetrics {
    /// Starts it on a thread of its own.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(listens: Vec<Listen>) -> Result<Self, Error> {
        let state = Arc::new(Mutex::new(State { beat: Instant::now(), facts: None }));
        let server = Server::start(listens, Controller(Arc::clone(&state)))?;
        Ok(Self { state, _server: server })
    }

    /// The controller goes on.
    pub fn beat(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).beat = Instant::now();
    }

    /// All objects are known, and this was made of them.
    pub fn set(&self, facts: ControllerFacts) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).facts = Some(facts);
    }
}

struct Controller(Arc<Mutex<State>>);

impl Controller {
    fn with<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Site for Controller {
    fn metrics(&mut self) -> Result<String, String> {
        let facts = self.with(|state| state.facts.clone());
        let page = ControllerPage(facts.ok_or(UNKNOWN)?);
        text(page).map_err(|error| error.to_string())
    }

    fn health(&self) -> Result<(), String> {
        let silent = self.with(|state| state.beat.elapsed());
        if silent < HANGS {
            return Ok(());
        }
        Err(format!("the controller has done nothing for {} s", silent.as_secs()))
    }

    fn readiness(&self) -> Result<(), String> {
        self.with(|state| state.facts.is_some()).then_some(()).ok_or(UNKNOWN)?;
        self.health()
    }
}

const UNKNOWN: &str = "the objects of the cluster are not known yet: the log says why";

/// All that is shown at one moment.
#[derive(Clone, Debug)]
pub struct ControllerPage(pub ControllerFacts);

impl ControllerPage {
    /// In Prometheus' text format.
    ///
    /// # Errors
    /// None in practice: a string takes everything.
    pub fn text(self) -> Result<String, fmt::Error> {
        text(self)
    }
}

impl Collector for ControllerPage {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        self.pools(&mut out)?;
        self.0.source.encode(&mut out)?;
        let Self(ControllerFacts { leads, served, waiting, problems, .. }) = self;
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        out.gauges("magnetite_controller_info", "The controller; always 1.", [(labels, 1.0)])?;
        out.gauge(
            "magnetite_controller_leads",
            "1 of the controller that acts.",
            f64::from(u8::from(*leads)),
        )?;
        out.gauge("magnetite_services_served", "Services that have addresses.", *served as f64)?;
        out.gauge("magnetite_services_waiting", "Services that get no address.", *waiting as f64)?;
        out.gauge(
            "magnetite_problems",
            "What is wrong with objects: ConfigurationState, events and the log say it.",
            *problems as f64,
        )
    }
}

impl ControllerPage {
    fn pools(&self, out: &mut Out) -> fmt::Result {
        type Counted = fn(&PoolCounts) -> u64;
        let (has_v4, has_v6): (Counted, Counted) = (|pool| pool.assigned.v4, |pool| pool.assigned.v6);
        let (all_v4, all_v6): (Counted, Counted) = (
            |pool| pool.assigned.v4.saturating_add(pool.available.v4),
            |pool| pool.assigned.v6.saturating_add(pool.available.v6),
        );
        let families: [(&str, &str, [Counted; 2]); 2] = [
            ("addresses_in_use_total", "in use", [has_v4, has_v6]),
            ("addresses_total", "there are", [all_v4, all_v6]),
        ];
        let pools = &self.0.pools;
        for (name, what, [v4, v6]) in families {
            let both = pools
                .iter()
                .map(|(pool, counts)| ([("pool", pool.as_str())], v4(counts).saturating_add(v6(counts))));
            let help = format!("Addresses {what}, by pool.");
            out.metallb(&format!("metallb_allocator_{name}"), &help, both)?;
            for (family, of) in [("ipv4", v4), ("ipv6", v6)] {
                let rows = pools.iter().map(|(pool, counts)| ([("pool", pool.as_str())], of(counts)));
                out.metallb(&format!("metallb_allocator_{family}_{name}"), &help, rows)?;
            }
        }
        Ok(())
    }
}
