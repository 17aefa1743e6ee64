//! A node with the fixture's maps, on pins of its own.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context;
use lb_agent::dataplane::{Dataplane, EgressMode, Entry, Events, LiveMaps, Options};
use lb_common::{
    Reason,
    layout::{ClaimEvent, Client, ClientKey, Kept, Vip},
};
use lb_core::maps::{Op, Sizes};
use magnetite_tests::fixture;

use crate::machine::{Machine, Outcome};

/// Why programs cannot be loaded here, if they cannot.
pub fn cannot_run() -> Option<String> {
    if lb_agent::OBJECT.is_empty() {
        return Some("no BPF object, cargo xtask build-ebpf makes it".to_owned());
    }
    match Node::new() {
        Ok(_) => None,
        // A kernel that lets us, but refuses the object, is a failure of the tests and not of the machine.
        Err(error) if is_permission(&error) => Some(format!("{error:#}")),
        Err(_) => None,
    }
}

fn is_permission(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            || matches!(cause.downcast_ref(), Some(lb_agent::dataplane::Error::NotBpffs { .. }))
    })
}

/// A directory of pins of its own, that goes with the value.
pub struct Pins(PathBuf);

/// A node of the fixture.
pub struct Node {
    // Before its pins: it holds their lock.
    dataplane: Dataplane,
    pins: Pins,
    counted: BTreeMap<Reason, u64>,
}

impl Node {
    /// Loads programs and maps, on this thread's CPU.
    pub fn new() -> anyhow::Result<Self> {
        Self::with(fixture::sizes())
    }

    /// The same, with maps of other sizes.
    pub fn with(sizes: Sizes) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        stay_on_this_cpu()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let pins = Pins(format!("/sys/fs/bpf/magnetite-test-{}-{number}", std::process::id()).into());
        let mut dataplane = pins.open_with(sizes)?;
        dataplane.apply(&fixture::ops())?;
        Ok(Self { dataplane, pins, counted: BTreeMap::new() })
    }

    /// Ends as an agent does: what is pinned stays.
    pub fn end(self) -> Pins {
        self.pins
    }

    /// The data plane.
    pub fn dataplane(&mut self) -> &mut Dataplane {
        &mut self.dataplane
    }
}

impl Machine for Node {
    fn run(&mut self, entry: Entry, frame: &[u8]) -> anyhow::Result<Outcome> {
        let (action, frame) = self.dataplane.test_run(entry, frame)?;
        Ok(Outcome { action, frame })
    }

    fn set_lease(&mut self, holds: bool) -> anyhow::Result<()> {
        Ok(self.dataplane.renew_lease(if holds { Duration::from_secs(600) } else { Duration::ZERO })?)
    }

    fn clients(&mut self) -> anyhow::Result<BTreeMap<ClientKey, Client>> {
        let mut clients = self.dataplane.tables().clients()?;
        clients.values_mut().for_each(|client| client.time = 0);
        Ok(clients)
    }

    fn vip(&mut self, address: IpAddr) -> anyhow::Result<Vip> {
        self.dataplane.tables().read()?.vips.get(&address.into()).copied().context("no such VIP")
    }

    fn claims(&mut self) -> anyhow::Result<Vec<ClaimEvent>> {
        let mut events = Events::pinned(&self.pins.0)?;
        Ok(std::iter::from_fn(|| events.take()).map(|event| ClaimEvent { time: 0, ..event }).collect())
    }

    fn apply(&mut self, op: &Op) -> anyhow::Result<()> {
        Ok(self.dataplane.apply(std::slice::from_ref(op))?)
    }

    fn keep(&mut self, backend: u32, segments: u32) -> anyhow::Result<()> {
        Ok(LiveMaps::pinned(&self.pins.0)?.set_kept(backend, Kept { segments })?)
    }

    fn reasons(&mut self) -> anyhow::Result<Vec<Reason>> {
        let mut new = Vec::new();
        for (reason, count) in self.dataplane.tables().reasons()? {
            let before = self.counted.insert(reason, count.packets).unwrap_or(0);
            new.extend(std::iter::repeat_n(reason, (count.packets - before) as usize));
        }
        Ok(new)
    }
}

impl Pins {
    /// Programs and maps, as they are there or anew.
    pub fn open(&self) -> anyhow::Result<Dataplane> {
        self.open_with(fixture::sizes())
    }

    /// The same, with maps of other sizes.
    pub fn open_with(&self, sizes: Sizes) -> anyhow::Result<Dataplane> {
        let options = Options { pin_dir: self.0.clone(), sizes, egress: EgressMode::of_kernel() };
        Ok(Dataplane::open(&options)?)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // The maps live as long as they are open; what cannot be removed is a directory of a test run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `FLOWS` and the counters are per CPU, and a test run happens where its caller is.
fn stay_on_this_cpu() -> io::Result<()> {
    // SAFETY: the call takes no arguments.
    let cpu = unsafe { libc::sched_getcpu() };
    // SAFETY: an all-zero set is empty; it outlives the call.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu.max(0) as usize, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
