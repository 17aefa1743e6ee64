//! The maps. Sizes are those of a small cluster; the loader sets its own. Pinned by the loader, under their names.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
    helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns},
    macros::btf_map,
};
use lb_common::{
    Decision, Lookup, Meta, Reason, Verdict,
    decide::{Store, event},
    flows::{self, FlowHash},
    layout::{
        Addr, Backend, BackendRef, ClaimEvent, Client, ClientKey, Config, Conn, ConnKey, EchoBudget,
        FLOW_SLOTS, FlowLine, FlowSlot, Kept, Lease, Link, LinkKey, LocalPort, LocalPortKey, MAX_SEGMENTS,
        NO_NODE, Name, NameKey, Neighbour, Peer, PeerKey, ReasonCount, Reverse, ReverseKey, Row, Service,
        ServiceId, ServiceKey, Source, SourcePrefix, Spread, SpreadKey, Stats, Versions, Vip, VipStats,
        event_kind,
    },
};

/// For user space alone: no program reads it.
#[btf_map]
static VERSIONS: Array<Versions, 1> = Array::new();
#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
static LEASE: Array<Lease, 1> = Array::new();
#[btf_map]
static LINKS: HashMap<LinkKey, Link, 64> = HashMap::new();
#[btf_map]
static NEIGHBOURS: Array<Neighbour, 8192> = Array::new();
#[btf_map]
static PEERS: HashMap<PeerKey, Peer, 8192, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static VIPS: HashMap<Addr, Vip, 8192, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static SPREAD: HashMap<SpreadKey, Spread, 8192, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static CLIENTS: LruHashMap<ClientKey, Client, 16384> = LruHashMap::new();
#[btf_map]
static SERVICES: HashMap<ServiceKey, Service, 16384, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static TABLE: Array<Row, 524288, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
static BACKENDS: Array<Backend, 32768> = Array::new();
#[btf_map]
static KEPT: Array<Kept, 32768> = Array::new();
#[btf_map]
static FLOWS: Array<FlowLine, 65536, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
static CONNS: LruHashMap<ConnKey, Conn, 65536> = LruHashMap::new();
#[btf_map]
static REVERSE: LruHashMap<ReverseKey, Reverse, 65536> = LruHashMap::new();
#[btf_map]
static LOCAL_PORTS: HashMap<LocalPortKey, LocalPort, 16384, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static SOURCES: LpmTrie<SourcePrefix, Source, 16384> = LpmTrie::new();
#[btf_map]
static REASONS: PerCpuArray<ReasonCount, { Reason::COUNT }> = PerCpuArray::new();
#[btf_map]
static SERVICE_STATS: PerCpuArray<Stats, 16384> = PerCpuArray::new();
#[btf_map]
static BACKEND_STATS: PerCpuArray<Stats, 32768> = PerCpuArray::new();
#[btf_map]
static VIP_STATS: PerCpuArray<VipStats, 8193> = PerCpuArray::new();
#[btf_map]
static ECHO_BUDGET: PerCpuArray<EchoBudget, 1> = PerCpuArray::new();
/// Of [`ClaimEvent`]s; libbpf takes no ring buffer that says so. 65,536 is a whole number of pages on every machine.
#[btf_map]
static EVENTS: RingBuf<(), 65536> = RingBuf::new();
#[btf_map]
static EVENT_BUDGET: PerCpuArray<EchoBudget, { event_kind::COUNT }> = PerCpuArray::new();
/// Where a packet's [`Work`] is done: place 0 on arrival, 1 on departure, which may interrupt each other.
#[btf_map]
static SCRATCH: PerCpuArray<[u64; SCRATCH_WORDS], 2> = PerCpuArray::new();
/// For user space alone: no program reads it.
#[btf_map]
static NAMES: HashMap<NameKey, Name, 16384, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

const SCRATCH_WORDS: usize = size_of::<Work>().div_ceil(8);

/// What is known of a packet and what is done with it, off the stack.
pub struct Work {
    pub meta: Meta,
    pub decision: Decision,
}

impl Work {
    /// Begins the work on a packet at a place of [`SCRATCH`].
    #[inline(always)]
    pub fn begin(place: u32) -> Option<&'static mut Self> {
        let work = SCRATCH.get_ptr_mut(place)?.cast::<Self>();
        // SAFETY: the value is large and aligned enough, it is this CPU's, and no other packet is between arrival and departure
        // on it at this place. It is written before it is referred to.
        unsafe {
            work.write(Self { meta: Meta::EMPTY, decision: Decision::UNDECIDED });
            Some(&mut *work)
        }
    }
}

/// All maps, at one moment of one packet.
pub struct Maps {
    config: &'static Config,
    tick: u32,
    first_line: u32,
}

impl Maps {
    /// For a packet from this receive queue. `None` while the agent has not configured the node.
    #[inline(always)]
    pub fn open(queue: u32) -> Option<Self> {
        let config = CONFIG.get(0)?;
        if config.algorithm == 0 {
            return None;
        }
        // SAFETY: the helper takes no arguments.
        let jiffies = unsafe { bpf_jiffies64() };
        let queue = queue.checked_rem(config.flow_queues).unwrap_or(0);
        let tick = (jiffies >> (config.tick_shift & 63)) as u32;
        Some(Self { config, tick, first_line: queue.wrapping_mul(config.flow_lines) })
    }

    #[inline(always)]
    fn line(&self, hash: FlowHash) -> u32 {
        self.first_line + hash.line(self.config.flow_lines)
    }

    /// Counts a packet that has arrived.
    #[inline(always)]
    pub fn count_arrival(&self, meta: &Meta, decision: &Decision) {
        self.count_reason(decision.reason, meta.length);
        if decision.service.raw != 0 {
            add(SERVICE_STATS.get_ptr_mut(decision.service.index()), meta.length, decision.events);
        }
        if decision.backend.raw != 0 {
            add(BACKEND_STATS.get_ptr_mut(decision.backend.index()), meta.length, decision.events);
        }
        if decision.vip != 0
            && let Some(stats) = VIP_STATS.get_ptr_mut(decision.vip)
        {
            // Whatever rule leaves it to another node.
            let is_left = matches!(decision.verdict, Verdict::Drop);
            // SAFETY: as in `add`.
            unsafe {
                (*stats).requests += !is_left as u64;
                (*stats).left += is_left as u64;
            }
        }
    }

    /// Counts what is sent back: of all that is, only answers about VIPs.
    #[inline(always)]
    pub fn count_answer(&self, decision: &Decision) {
        if decision.vip != 0
            && let Some(stats) = VIP_STATS.get_ptr_mut(decision.vip)
        {
            // SAFETY: as in `add`.
            unsafe { (*stats).answers += 1 };
        }
    }

    /// Counts a packet that leaves; for service and backend only what it means for a handshake.
    #[inline(always)]
    pub fn count_departure(&self, meta: &Meta, decision: &Decision) {
        self.count_reason(decision.reason, meta.length);
        if decision.events & event::ANSWERED == 0 {
            return;
        }
        if decision.service.raw != 0 {
            answered(SERVICE_STATS.get_ptr_mut(decision.service.index()));
        }
        if decision.backend.raw != 0 {
            answered(BACKEND_STATS.get_ptr_mut(decision.backend.index()));
        }
    }

    /// Counts an outcome.
    #[inline(always)]
    pub fn count_reason(&self, reason: Reason, length: u32) {
        if let Some(count) = REASONS.get_ptr_mut(reason as u32) {
            // SAFETY: the value is this CPU's, and nobody else writes it while the program runs.
            unsafe {
                (*count).packets += 1;
                (*count).bytes += length as u64;
            }
        }
    }
}

#[inline(always)]
fn add(stats: Option<*mut Stats>, length: u32, events: u8) {
    let Some(stats) = stats else { return };
    // SAFETY: the value is this CPU's, and nobody else writes it while the program runs.
    unsafe {
        (*stats).packets += 1;
        (*stats).bytes += length as u64;
        if events != 0 {
            (*stats).new_flows += (events & event::NEW_FLOW != 0) as u64;
            (*stats).delivered += (events & event::DELIVERED != 0) as u64;
            (*stats).completed += (events & event::COMPLETED != 0) as u64;
        }
    }
}

#[inline(always)]
fn answered(stats: Option<*mut Stats>) {
    if let Some(stats) = stats {
        // SAFETY: as in `add`.
        unsafe { (*stats).answered += 1 };
    }
}

/// The value of a hash map, copied at once: the place may be given to another key at any time.
macro_rules! copied {
    ($map:ident, $key:expr) => {
        // SAFETY: the reference does not outlive this expression. A value that changes meanwhile is torn at worst between
        // fields, which are integers, and the next packet sees it whole.
        unsafe { $map.get($key) }.copied()
    };
}

impl Lookup for Maps {
    #[inline(always)]
    fn config(&self) -> &Config {
        self.config
    }

    #[inline(always)]
    fn tick(&self) -> u32 {
        self.tick
    }

    #[inline(always)]
    fn link(&self, key: &LinkKey) -> Option<Link> {
        copied!(LINKS, key)
    }

    #[inline(always)]
    fn neighbour(&self, node: u16, segment: u16) -> Option<&Neighbour> {
        NEIGHBOURS.get(node as u32 * MAX_SEGMENTS + segment as u32)
    }

    #[inline(always)]
    fn peer(&self, key: &PeerKey) -> Option<u16> {
        copied!(PEERS, key).map(|peer| peer.node as u16)
    }

    #[inline(always)]
    fn vip(&self, address: &Addr) -> Option<Vip> {
        copied!(VIPS, address)
    }

    #[inline(always)]
    fn has_share(&self, key: &SpreadKey, share: u32) -> bool {
        // SAFETY: one word is read; an entry that is replaced meanwhile has either.
        unsafe { SPREAD.get(key) }.is_some_and(|spread| spread.has(share))
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        copied!(SERVICES, key)
    }

    #[inline(always)]
    fn row(&self, index: u32) -> Option<&Row> {
        TABLE.get(index)
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<&Backend> {
        BACKENDS.get(index)
    }

    #[inline(always)]
    fn is_kept(&self, backend: u32, segment: u16) -> bool {
        KEPT.get(backend).is_some_and(|kept| kept.segments & 1_u32.wrapping_shl(segment as u32) != 0)
    }

    #[inline(always)]
    fn flow(&self, hash: FlowHash, service: ServiceId) -> Option<FlowSlot> {
        flows::find(FLOWS.get(self.line(hash))?, hash.tag(), service)
    }

    #[inline(always)]
    fn conn(&self, key: &ConnKey) -> Option<Conn> {
        copied!(CONNS, key)
    }

    #[inline(always)]
    fn reverse(&self, key: &ReverseKey) -> Option<Reverse> {
        copied!(REVERSE, key)
    }

    #[inline(always)]
    fn local_port(&self, key: &LocalPortKey) -> bool {
        copied!(LOCAL_PORTS, key).is_some_and(|port| port.services != 0)
    }

    #[inline(always)]
    fn source(&self, service: u32, address: &Addr) -> bool {
        let prefix = SourcePrefix { service, address: *address };
        SOURCES.get(&Key::new(160, prefix)).is_some_and(|source| source.allow != 0)
    }

    #[inline(always)]
    fn echo_budget(&self) -> EchoBudget {
        ECHO_BUDGET.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn event_budget(&self, kind: u8) -> EchoBudget {
        EVENT_BUDGET.get(kind as u32).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn lease_holds(&self) -> bool {
        // SAFETY: the helper takes no arguments (kernel 5.8).
        LEASE.get(0).is_some_and(|lease| unsafe { bpf_ktime_get_boot_ns() } < lease.deadline)
    }
}

impl Store for Maps {
    #[inline(always)]
    fn put_flow(&mut self, hash: FlowHash, slot: FlowSlot) {
        if let Some(line) = FLOWS.get_ptr_mut(self.line(hash)) {
            // SAFETY: the line is this queue's, which one CPU serves at a time; user space only reads it, or clears it whole. Where
            // queues share it, two packets may mix up a slot: a packet then goes to a node that knows better.
            let line = unsafe { &mut *line };
            let place = flows::place(line, slot.tag, slot.service, slot.time) & (FLOW_SLOTS - 1);
            line.slots[place] = slot;
        }
    }

    #[inline(always)]
    fn remove_flow(&mut self, hash: FlowHash, service: ServiceId) {
        if let Some(line) = FLOWS.get_ptr_mut(self.line(hash)) {
            // SAFETY: as in `put_flow`.
            let line = unsafe { &mut *line };
            for slot in &mut line.slots {
                if slot.tag == hash.tag() && slot.service == service {
                    *slot = FlowSlot {
                        tag: 0,
                        service: ServiceId { raw: 0 },
                        backend: BackendRef { raw: 0 },
                        time: 0,
                        segment: 0,
                    };
                }
            }
        }
    }

    #[inline(always)]
    fn put_conn(&mut self, key: &ConnKey, conn: &Conn) {
        // Fails only when every entry is in use by another CPU at this moment; then the connection is found by the walk.
        let _ = CONNS.insert(key, conn, BPF_ANY as u64);
    }

    #[inline(always)]
    fn touch_conn(&mut self, key: &ConnKey, tick: u32, phase: u8) {
        if let Some(conn) = CONNS.get_ptr_mut(key) {
            // SAFETY: single integers are written; if the entry was just given to another key, it looks younger than it is.
            unsafe {
                (*conn).time = tick;
                (*conn).phase = phase;
            }
        }
    }

    #[inline(always)]
    fn mark_conn(&mut self, key: &ConnKey, phase: u8) {
        if let Some(conn) = CONNS.get_ptr_mut(key) {
            // SAFETY: as in `touch_conn`.
            unsafe { (*conn).phase |= phase };
        }
    }

    #[inline(always)]
    fn remove_conn(&mut self, key: &ConnKey) {
        // Fails only if it is not there.
        let _ = CONNS.remove(key);
    }

    #[inline(always)]
    fn put_reverse(&mut self, key: &ReverseKey, reverse: &Reverse) {
        // As `put_conn`.
        let _ = REVERSE.insert(key, reverse, BPF_ANY as u64);
    }

    #[inline(always)]
    fn touch_reverse(&mut self, key: &ReverseKey, tick: u32, phase: u8) {
        if let Some(reverse) = REVERSE.get_ptr_mut(key) {
            // SAFETY: as in `touch_conn`.
            unsafe {
                (*reverse).time = tick;
                (*reverse).phase = phase;
            }
        }
    }

    #[inline(always)]
    fn put_client(&mut self, key: &ClientKey, client: &Client) {
        // Fails only when every entry is in use by another CPU at this moment; then the client finds the next owner by itself.
        let _ = CLIENTS.insert(key, client, BPF_ANY as u64);
    }

    #[inline(always)]
    fn spend_echo(&mut self, budget: EchoBudget) {
        if let Some(place) = ECHO_BUDGET.get_ptr_mut(0) {
            // SAFETY: the value is this CPU's.
            unsafe { *place = budget };
        }
    }

    #[inline(always)]
    fn disown(&mut self, vip: &Addr, segment: u16) {
        if let Some(vip) = VIPS.get_ptr_mut(vip) {
            // SAFETY: a single integer is written. Who else would write it is the agent, and that is gone.
            unsafe { (*vip).owned &= !1_u32.wrapping_shl(segment as u32) };
        }
    }

    #[inline(always)]
    fn tell(&mut self, meta: &Meta, segment: u16, node: u16, is_answer: bool, budget: EchoBudget) {
        let kind = if node == NO_NODE { event_kind::FOREIGN_CLAIM } else { event_kind::PEER_CLAIM };
        if let Some(place) = EVENT_BUDGET.get_ptr_mut(kind as u32) {
            // SAFETY: the value is this CPU's.
            unsafe { *place = budget };
        }
        // Full if nobody reads it: then there is nobody to be told.
        let Some(mut entry) = EVENTS.reserve_untyped::<ClaimEvent>(0) else { return };
        let event = entry.as_mut_ptr();
        // SAFETY: the entry is as large as an event, and nobody else sees it before it is submitted; all its fields are written. The
        // helper takes no arguments.
        unsafe {
            (&raw mut (*event).time).write(bpf_ktime_get_boot_ns());
            (&raw mut (*event).address).write(meta.source);
            (&raw mut (*event).ifindex).write(meta.ifindex);
            (&raw mut (*event).segment).write(segment);
            (&raw mut (*event).kind).write(kind);
            (&raw mut (*event).is_answer).write(is_answer as u8);
            (&raw mut (*event).node).write(node);
            (&raw mut (*event).mac).write(meta.source_mac);
        }
        entry.submit(0);
    }
}
