//! Loading the object, or adopting what another agent has left, and attaching programs to links.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::MapInfo,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun, TestRunOptions, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        tc::TcAttachOptions,
    },
};
use aya_obj::programs::XdpAttachType;
use lb_common::layout::{Lease, Versions};
use lb_core::{
    maps::{Maps, Op, Sizes},
    plan::LARGEST_MTU_OF_ONE_BUFFER,
};

use super::{
    clock::{Clock, boot_time, jiffies, measure},
    detach::remove_link,
    egress::{EgressMode, attach_clsact, detach_clsact, link_name},
    error::Error,
    tables::{self, Group, Tables},
};
use crate::OBJECT;

/// Where and how large.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the pins, on a BPF file system; it is made if it is not there.
    pub pin_dir: PathBuf,
    /// Sizes of the maps.
    pub sizes: Sizes,
    /// [`EgressMode::of_kernel`], unless a test wants another.
    pub egress: EgressMode,
}

/// How packets are taken from a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkMode {
    /// XDP in the driver.
    Native,
    /// XDP in the driver, with packets of several buffers.
    NativeFrags,
}

/// The programs and maps of this node, and the only writer of them.
pub struct Dataplane {
    pin_dir: PathBuf,
    programs: Ebpf,
    tables: Tables,
    clock: Clock,
    flow_queues: u32,
    egress: EgressMode,
    adopted: bool,
    attached: BTreeMap<u32, LinkMode>,
    /// Locked as long as it is open.
    _lock: File,
}

const XDP: &str = "magnetite_xdp";
const XDP_FRAGS: &str = "magnetite_xdp_frags";
const EGRESS: &str = "magnetite_egress";
const CLOCK: &str = "magnetite_clock";
const CLOCK_PIN: &str = "clock";

impl Dataplane {
    /// Opens the pinned maps, or makes those that are missing or of another shape. Nothing is attached or changed by it: programs
    /// that are attached go on with the maps that they have until [`Self::attach`] replaces them.
    ///
    /// # Errors
    /// The kernel refuses, the directory is not on a BPF file system, or another agent holds it.
    pub fn open(options: &Options) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        let pin_dir = options.pin_dir.clone();
        require_bpffs(&pin_dir)?;
        make_directory(&pin_dir.join("links"))?;
        let lock = lock(&pin_dir)?;

        let declared = aya_obj::Object::parse(OBJECT).map_err(|error| Error::Object(Box::new(error)))?;
        let cpus = cpus()?;
        let mut loader = EbpfLoader::new();
        let mut wanted = Vec::new();
        for name in tables::NAMES {
            let map = declared.maps.get(name).ok_or(Error::NoMap { name })?;
            let entries = tables::max_entries(name, &options.sizes, cpus).unwrap_or(map.max_entries());
            loader.map_max_entries(name, entries);
            loader.map_pin_path(name, pin_dir.join(name));
            wanted.push((name, map, entries));
        }
        let adopted = keep_usable(&pin_dir, &wanted)?;
        let mut programs = loader.load(OBJECT).map_err(|error| Error::Load(Box::new(error)))?;

        let mut tables = Tables::new(|name| programs.take_map(name).ok_or(Error::NoMap { name }))?;
        // Last: an agent that ends before has left maps that the next one makes anew.
        tables.set_versions(Versions::CURRENT)?;
        let clock_program: &mut Xdp = program(&mut programs, CLOCK)?;
        let clock = measure(clock_program)?;
        // For `explain`, which must not wait for the lock.
        let path = pin_dir.join(CLOCK_PIN);
        remove_pin(&path)?;
        clock_program.pin(&path).map_err(|source| Error::Pin { path, source: Box::new(source) })?;
        Ok(Self {
            egress: options.egress,
            pin_dir,
            programs,
            tables,
            clock,
            flow_queues: cpus,
            adopted,
            attached: BTreeMap::new(),
            _lock: lock,
        })
    }

    /// Whether everything was there already.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The data path's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// [`lb_common::layout::Config::flow_queues`]: as many as `FLOWS` has room for.
    pub fn flow_queues(&self) -> u32 {
        self.flow_queues
    }

    /// Seconds since boot, as [`lb_common::layout::Backend::since`] counts them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn seconds(&self) -> Result<u32, Error> {
        Ok(boot_time()?.as_secs() as u32)
    }

    /// Bytes of all maps, as the kernel charges them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn map_bytes(&self) -> Result<u64, Error> {
        tables::bytes(&self.pin_dir)
    }

    /// What the config maps hold.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self) -> Result<Maps, Error> {
        self.tables.read()
    }

    /// See [`Tables::read_without_rows`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_without_rows(&self) -> Result<Maps, Error> {
        self.tables.read_without_rows()
    }

    /// Carries out changes in their order; stops at the first that fails.
    ///
    /// # Errors
    /// The kernel's.
    pub fn apply(&mut self, ops: &[Op]) -> Result<(), Error> {
        ops.iter().try_for_each(|op| self.tables.apply(op))
    }

    /// The maps themselves.
    pub fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// Promises to be there for so long.
    ///
    /// # Errors
    /// The kernel's.
    pub fn renew_lease(&mut self, lease: Duration) -> Result<(), Error> {
        let deadline = boot_time()?.saturating_add(lease);
        self.tables.set_lease(Lease { deadline: deadline.as_nanos().try_into().unwrap_or(u64::MAX) })
    }

    /// Puts the programs on a NIC, or replaces those that another agent has put there, packet by packet without a gap. `mtu` is the
    /// NIC's.
    ///
    /// # Errors
    /// The kernel's; the NIC is gone.
    pub fn attach(&mut self, ifindex: u32, mtu: u32) -> Result<LinkMode, Error> {
        let name = &link_name(ifindex).ok_or(Error::NoLink { ifindex })?;
        let mode = if mtu > LARGEST_MTU_OF_ONE_BUFFER { LinkMode::NativeFrags } else { LinkMode::Native };
        let xdp = Entry::Arrival(mode).program();
        // Replies first: from the first packet that is delivered, they must leave as the VIP.
        let was_attached = self.left_attached()?.contains(&ifindex);
        self.attach_egress(ifindex, name)?;
        if let Err(error) = self.attach_xdp(ifindex, name, xdp) {
            if !was_attached {
                remove_programs(&self.pin_dir, ifindex)?;
            }
            return Err(error);
        }
        self.attached.insert(ifindex, mode);
        Ok(mode)
    }

    /// Takes the programs off a link.
    ///
    /// # Errors
    /// The pins cannot be removed.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), Error> {
        self.attached.remove(&ifindex);
        remove_programs(&self.pin_dir, ifindex)
    }

    /// Links with programs of ours, by ifindex.
    pub fn attached(&self) -> &BTreeMap<u32, LinkMode> {
        &self.attached
    }

    /// Links on which an earlier agent has left its programs, by ifindex.
    ///
    /// # Errors
    /// The pins cannot be read.
    pub fn left_attached(&self) -> Result<Vec<u32>, Error> {
        pinned_links(&self.pin_dir)
    }

    /// A descriptor of a loaded program, to call it from another.
    ///
    /// # Errors
    /// The kernel's.
    pub fn program_fd(&mut self, entry: Entry) -> Result<aya::programs::ProgramFd, Error> {
        let name = entry.program();
        let failed =
            |source| Error::Program { program: name, link: "none".to_owned(), source: Box::new(source) };
        let fd = match entry {
            Entry::Arrival(_) => {
                let program: &mut Xdp = program(&mut self.programs, name)?;
                load_once(program.fd().is_ok(), || program.load()).map_err(failed)?;
                program.fd().map_err(failed)?
            }
            Entry::Departure => {
                let program: &mut SchedClassifier = program(&mut self.programs, name)?;
                load_once(program.fd().is_ok(), || program.load()).map_err(failed)?;
                program.fd().map_err(failed)?
            }
        };
        fd.try_clone().map_err(|source| failed(source.into()))
    }

    /// Runs a frame through a program without sending it anywhere, as if it came in by the loopback link: the program's return
    /// value, and the frame as the program leaves it. The maps are the real ones.
    ///
    /// # Errors
    /// The kernel's, for one that the frame is shorter than an Ethernet header.
    pub fn test_run(&mut self, entry: Entry, frame: &[u8]) -> Result<(u32, Vec<u8>), Error> {
        let name = entry.program();
        let failed =
            |source| Error::Program { program: name, link: "none".to_owned(), source: Box::new(source) };
        let mut output = vec![0; TEST_RUN_CAPACITY];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut output);
        let result = match entry {
            Entry::Arrival(_) => {
                let program: &mut Xdp = program(&mut self.programs, name)?;
                load_once(program.fd().is_ok(), || program.load()).map_err(failed)?;
                program.test_run(options)
            }
            Entry::Departure => {
                let program: &mut SchedClassifier = program(&mut self.programs, name)?;
                load_once(program.fd().is_ok(), || program.load()).map_err(failed)?;
                program.test_run(options)
            }
        };
        let result = result.map_err(failed)?;
        output.truncate(result.data_size_out as usize);
        Ok((result.return_value, output))
    }

    fn attach_xdp(&mut self, ifindex: u32, name: &str, xdp: &'static str) -> Result<(), Error> {
        let failed =
            |source| Error::Program { program: xdp, link: name.to_owned(), source: Box::new(source) };
        let pin = link_pin(&self.pin_dir, "xdp", ifindex);
        let program: &mut Xdp = program(&mut self.programs, xdp)?;
        load_once(program.fd().is_ok(), || program.load()).map_err(failed)?;
        if let Some(link) = reopen(&pin)? {
            if let Ok(link) = link.try_into()
                && let Ok(id) = program.attach_to_link(link)
            {
                let link = program.take_link(id).map_err(failed)?;
                // The pin is still there: this is one more reference to what it holds.
                drop(link);
                return Ok(());
            }
            // Its link is gone, and the number was given to another.
            remove_link(&pin)?;
        }
        let id = program.attach_to_if_index(ifindex, XdpMode::Driver).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        let link: FdLink =
            link.try_into().map_err(|source| Error::Link { path: pin.clone(), source: Box::new(source) })?;
        link.pin(&pin).map(drop).map_err(|source| Error::Pin { path: pin, source: Box::new(source) })
    }

    fn attach_egress(&mut self, ifindex: u32, name: &str) -> Result<(), Error> {
        let failed =
            |source| Error::Program { program: EGRESS, link: name.to_owned(), source: Box::new(source) };
        let pin = link_pin(&self.pin_dir, "tcx", ifindex);
        let program: &mut SchedClassifier = program(&mut self.programs, EGRESS)?;
        load_once(program.fd().is_ok(), || program.load()).map_err(failed)?;
        if self.egress == EgressMode::Clsact {
            return attach_clsact(program, name).map_err(failed);
        }
        if let Some(link) = reopen(&pin)? {
            if let Ok(link) = link.try_into()
                && let Ok(id) = program.attach_to_link(link)
            {
                drop(program.take_link(id).map_err(failed)?);
                return Ok(());
            }
            remove_link(&pin)?;
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(name, TcAttachType::Egress, options).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        let link: FdLink =
            link.try_into().map_err(|source| Error::Link { path: pin.clone(), source: Box::new(source) })?;
        link.pin(&pin).map(drop).map_err(|source| Error::Pin { path: pin, source: Box::new(source) })
    }
}

/// Where a packet meets a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// On arrival from the network.
    Arrival(LinkMode),
    /// On its way out of the node.
    Departure,
}

impl LinkMode {
    /// The name in status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::NativeFrags => "native-frags",
        }
    }
}

impl Entry {
    const fn program(self) -> &'static str {
        match self {
            Self::Arrival(LinkMode::Native) => XDP,
            Self::Arrival(LinkMode::NativeFrags) => XDP_FRAGS,
            Self::Departure => EGRESS,
        }
    }
}

/// The longest frame that [`Dataplane::test_run`] gives back.
const TEST_RUN_CAPACITY: usize = 4096;

/// The tick now, by the clock that an agent has pinned; `tick_shift` as in `CONFIG`.
///
/// # Errors
/// Nothing is pinned, or the kernel refuses.
pub fn tick(pin_dir: &Path, tick_shift: u32) -> Result<u32, Error> {
    let failed =
        |source| Error::Program { program: CLOCK, link: "none".to_owned(), source: Box::new(source) };
    let mut program = Xdp::from_pin(pin_dir.join(CLOCK_PIN), XdpAttachType::Interface).map_err(failed)?;
    Ok(jiffies(&mut program)? >> tick_shift)
}

/// CPUs that the machine may have: as many places have the counters, and as many queues `FLOWS`.
///
/// # Errors
/// The kernel's.
pub fn cpus() -> Result<u32, Error> {
    let cpus = aya::util::nr_cpus().map_err(|(what, source)| Error::Kernel {
        what: if what.is_empty() { "CPUs" } else { what },
        source,
    })?;
    Ok(u32::try_from(cpus).unwrap_or(u32::MAX))
}

/// What [`unload`] has removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unloaded {
    /// Links from which programs were taken, by ifindex.
    pub links: Vec<u32>,
    /// Maps.
    pub maps: usize,
}

/// Removes programs, links and pins: the machine is as before.
///
/// # Errors
/// An agent still runs, nothing is there, or the pins cannot be removed.
pub fn unload(pin_dir: &Path) -> Result<Unloaded, Error> {
    if !pin_dir.join("CONFIG").exists() {
        return Err(Error::NotLoaded { dir: pin_dir.to_owned() });
    }
    let _lock = lock(pin_dir)?;
    let mut unloaded = Unloaded { links: pinned_links(pin_dir)?, maps: 0 };
    for ifindex in &unloaded.links {
        remove_programs(pin_dir, *ifindex)?;
    }
    for name in tables::NAMES {
        let path = pin_dir.join(name);
        unloaded.maps += usize::from(path.exists());
        remove_pin(&path)?;
    }
    remove_pin(&pin_dir.join(CLOCK_PIN))?;
    for directory in [pin_dir.join("links"), pin_dir.to_owned()] {
        fs::remove_dir(&directory).map_err(|source| Error::Pins {
            action: "removing",
            path: directory,
            source,
        })?;
    }
    Ok(unloaded)
}

fn program<'a, P>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = programs.program_mut(name).ok_or(Error::NoProgram { name })?;
    program.try_into().map_err(|source| Error::Program {
        program: name,
        link: "none".to_owned(),
        source: Box::new(source),
    })
}

fn load_once(is_loaded: bool, load: impl FnOnce() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    if is_loaded { Ok(()) } else { load() }
}

/// Removes the pins of maps that cannot be used, and of those that make no sense without them. Whether all maps are left.
fn keep_usable(dir: &Path, wanted: &[(&'static str, &aya_obj::Map, u32)]) -> Result<bool, Error> {
    let made_with = tables::versions(dir)?;
    let mut unusable = BTreeSet::new();
    for (name, map, entries) in wanted {
        let group = Group::of(name);
        match fit(&dir.join(name), name, map, *entries)? {
            Fit::Missing => {
                unusable.insert(group);
            }
            Fit::Other => {
                tracing::warn!(map = name, "the pinned map has another shape: it is made anew");
                unusable.insert(group);
            }
            Fit::Equal if !group.is_readable(made_with) => {
                let Versions { state, config } = made_with;
                tracing::warn!(
                    map = name,
                    state,
                    config,
                    "an agent of another version has made the pinned map: it is made anew"
                );
                unusable.insert(group);
            }
            Fit::Equal => {}
        }
    }
    if unusable.contains(&Group::Config) {
        // Programs that are still attached go on putting indexes into the old one.
        unusable.insert(Group::Flows);
    }
    for (name, ..) in wanted.iter().filter(|(name, ..)| unusable.contains(&Group::of(name))) {
        remove_pin(&dir.join(name))?;
    }
    Ok(unusable.is_empty())
}

/// A pinned map, held against what is wanted.
enum Fit {
    Missing,
    Equal,
    Other,
}

fn fit(path: &Path, name: &'static str, declared: &aya_obj::Map, entries: u32) -> Result<Fit, Error> {
    if !path.exists() {
        return Ok(Fit::Missing);
    }
    let info = MapInfo::from_pin(path).map_err(|source| Error::Map { map: name, source })?;
    let map_type = info.map_type().map_err(|source| Error::Map { map: name, source })?;
    let is_equal = map_type as u32 == declared.map_type()
        && info.key_size() == declared.key_size()
        && info.value_size() == declared.value_size()
        && info.max_entries() == entries
        && info.map_flags() == declared.map_flags();
    Ok(if is_equal { Fit::Equal } else { Fit::Other })
}

fn reopen(pin: &Path) -> Result<Option<FdLink>, Error> {
    if !pin.exists() {
        return Ok(None);
    }
    let link = PinnedLink::from_pin(pin)
        .map_err(|source| Error::Link { path: pin.to_owned(), source: Box::new(source) })?;
    Ok(Some(FdLink::from(link)))
}

fn link_pin(pin_dir: &Path, kind: &str, ifindex: u32) -> PathBuf {
    pin_dir.join("links").join(format!("{kind}-{ifindex}"))
}

/// The data path goes before the way back does.
fn remove_programs(pin_dir: &Path, ifindex: u32) -> Result<(), Error> {
    remove_link(&link_pin(pin_dir, "xdp", ifindex))?;
    let pin = link_pin(pin_dir, "tcx", ifindex);
    if pin.exists() {
        return remove_link(&pin);
    }
    detach_clsact(ifindex).map_err(|source| Error::Program {
        program: EGRESS,
        link: format!("with index {ifindex}"),
        source: Box::new(source),
    })
}

fn pinned_links(pin_dir: &Path) -> Result<Vec<u32>, Error> {
    let directory = pin_dir.join("links");
    let failed = |source| Error::Pins { action: "listing", path: directory.clone(), source };
    let mut links = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        links.extend(name.to_str().and_then(|name| name.split_once('-')?.1.parse::<u32>().ok()));
    }
    links.sort_unstable();
    links.dedup();
    Ok(links)
}

fn remove_pin(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Pins { action: "removing", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn make_directory(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::Pins { action: "making", path: path.to_owned(), source })
}

/// Before anything is made there: the directory, or the nearest above it that exists, is on a BPF file system.
fn require_bpffs(pin_dir: &Path) -> Result<(), Error> {
    let existing = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(pin_dir);
    let failed = |source| Error::Pins { action: "opening", path: existing.to_owned(), source };
    let directory = File::open(existing).map_err(failed)?;
    // SAFETY: an all-zero statfs is a value, and the call fills it.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and `status` outlives the call.
    if unsafe { libc::fstatfs(directory.as_raw_fd(), &raw mut status) } != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    if status.f_type != libc::BPF_FS_MAGIC {
        return Err(Error::NotBpffs { dir: pin_dir.to_owned() });
    }
    Ok(())
}

/// One agent for a directory of pins. The lock is the open file's: it ends with the process.
fn lock(pin_dir: &Path) -> Result<File, Error> {
    let failed = |source| Error::Pins { action: "locking", path: pin_dir.to_owned(), source };
    let directory = File::open(pin_dir).map_err(failed)?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(fs::TryLockError::WouldBlock) => Err(Error::Locked { dir: pin_dir.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}
