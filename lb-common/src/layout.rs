//! What every map holds: keys and values, shared by the programs and by user space.
//!
//! All structs are `repr(C)` integers with explicit padding, so that every byte of a key is defined. Addresses are 16 bytes in
//! network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291 2.5.5.2); ports are in network order too ([`Port`]). "Tick" is the data
//! path's clock: `jiffies64 >> tick_shift`, about a second, see [`Config::tick_shift`].

use crate::hash::HashKey;
pub use crate::{
    address::{Addr, Mac, Port},
    counts::{ReasonCount, Stats, VipStats},
    events::{ClaimEvent, EVENT_LIMIT, event_kind},
    plain::Plain,
};

mod spread;

pub use spread::{Client, ClientKey, Spread, SpreadKey};

/// Layout of the *state* maps (`FLOWS`, `CONNS`, `REVERSE`), which live through upgrades.
pub const STATE_VERSION: u32 = 1;
/// Layout of all other maps, which are rebuilt by a new agent.
pub const CONFIG_VERSION: u32 = 3;
/// What nodes must agree on: the row hash, the row algorithm and the rules between peers.
pub const ALGORITHM_VERSION: u32 = 1;

/// Candidates in a row.
pub const CANDIDATES: usize = 4;
/// Marks an empty place in a row; no service has that many backends.
pub const NO_CANDIDATE: u16 = 0xffff;
/// [`Backend::node`] of a backend whose node has no agent, or none that is known.
pub const NO_NODE: u16 = 0xffff;
/// Segments a node can have links in; [`Vip`] keeps a bit for each.
pub const MAX_SEGMENTS: u32 = 32;
/// Slots in one line of `FLOWS`.
pub const FLOW_SLOTS: usize = 4;
/// Shares into which the clients of a VIP are divided that is spread over nodes, a power of two.
pub const SHARES: u32 = 1024;
/// Largest index of a backend: [`BackendRef`] has 24 bits for it.
pub const MAX_BACKENDS: u32 = 1 << 24;

macro_rules! plain {
    ($($type:ty: $size:literal),* $(,)?) => {$(
        // SAFETY: `repr(C)` integers; the size below is the sum of the fields, so there is no padding.
        unsafe impl Plain for $type {}
        const _: () = assert!(size_of::<$type>() == $size && align_of::<$type>() <= 8);
    )*
        /// Every type here, and its bytes: for the check of a built object against this file.
        pub const SIZES: &[(&str, usize)] = &[$((stringify!($type), $size),)*];
    };
}

macro_rules! offsets {
    ($($type:ty { $($field:ident: $offset:literal),* $(,)? })*) => {
        $($(const _: () = assert!(core::mem::offset_of!($type, $field) == $offset);)*)*

        /// Where fields begin, by type, in bytes: like [`SIZES`].
        pub const OFFSETS: &[(&str, &[(&str, usize)])] =
            &[$((stringify!($type), &[$((stringify!($field), $offset),)*]),)*];
    };
}

/// `VERSIONS[0]`: with which versions the pinned maps were made. It keeps this shape for ever, so that any agent can read what any
/// other has left.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Versions {
    /// [`STATE_VERSION`].
    pub state: u32,
    /// [`CONFIG_VERSION`].
    pub config: u32,
}

impl Versions {
    /// What this build makes.
    pub const CURRENT: Self = Self { state: STATE_VERSION, config: CONFIG_VERSION };
}

/// `CONFIG[0]`: what the programs know of this node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// Key of the hash into `FLOWS`: random, of this node, never on the wire.
    pub flow_key: HashKey,
    /// Key of the hash of flows to rows: from the cluster's seed, the same on every node.
    pub row_key: HashKey,
    /// This node's index in `NEIGHBOURS` and [`Backend::node`].
    pub node: u32,
    /// [`ALGORITHM_VERSION`] of the tables.
    pub algorithm: u32,
    /// Lines of `FLOWS` for each receive queue, a power of two.
    pub flow_lines: u32,
    /// Jiffies to ticks: the kernel's HZ, rounded to a power of two, as a shift (7 for 100, 8 for 250 and 300, 10 for 1000).
    pub tick_shift: u32,
    /// Ticks after which an idle UDP entry misses once its pod has answered.
    pub udp_idle: u32,
    /// Ticks after which an idle UDP entry misses before its pod has answered.
    pub udp_unanswered_idle: u32,
    /// Ticks of silence after which a closed TCP connection misses.
    pub closing_idle: u32,
    /// Echo replies for each CPU and tick.
    pub echo_limit: u32,
    /// Receive queues with lines of their own in `FLOWS`: as many as CPUs. A NIC's other queues share them.
    pub flow_queues: u32,
    /// Zero.
    pub pad: u32,
}

/// `LEASE[0]`: the agent's promise to be there. A map of its own, for it is written by another thread than all else.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    /// When the promise ends, in nanoseconds of `CLOCK_BOOTTIME`.
    pub deadline: u64,
}

/// Key of `LINKS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LinkKey {
    /// The NIC's interface index.
    pub ifindex: u32,
    /// VLAN id of the frame, 0 for none (a priority tag has the id 0 too).
    pub vlan: u32,
}

/// `LINKS`: a NIC and VLAN on which this node takes packets.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// The segment that the link is in: an index local to this node.
    pub segment: u16,
    /// The link's own MAC: packets to any other are not ours.
    pub mac: Mac,
    /// [`link_mode`]: how packets are taken from the link.
    pub mode: u32,
    /// None is defined yet.
    pub flags: u32,
}

/// Values of [`Link::mode`].
pub mod link_mode {
    /// XDP in the driver.
    pub const NATIVE: u32 = 1;
    /// XDP in the driver, with packets of several buffers (kernel 5.18).
    pub const NATIVE_FRAGS: u32 = 2;
}

/// `NEIGHBOURS[node × MAX_SEGMENTS + segment]`: a node as reached in a segment.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Neighbour {
    /// Its MAC in that segment.
    pub mac: Mac,
    /// [`reach`].
    pub reach: u8,
    /// [`node_state`].
    pub state: u8,
    /// 1 if the node may answer as the VIP from this segment (direct server return), else its backends are left to the kernel.
    pub dsr_capable: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Values of [`Neighbour::reach`].
pub mod reach {
    /// Nothing is known of this node in this segment.
    pub const NONE: u8 = 0;
    /// The node has a leg in the segment, and its MAC is known.
    pub const SEGMENT: u8 = 1;
    /// This node itself.
    pub const SELF: u8 = 2;
}

/// Values of [`Neighbour::state`].
pub mod node_state {
    /// Takes new flows.
    pub const READY: u8 = 0;
    /// New flows avoid it, established ones stay.
    pub const SUSPECT: u8 = 1;
    /// Nothing is sent to it.
    pub const GONE: u8 = 2;
}

/// Key of `PEERS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PeerKey {
    /// The segment in which the packet arrived.
    pub segment: u16,
    /// Its source MAC.
    pub mac: Mac,
}

/// `PEERS`: the node that has a MAC.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// Its index.
    pub node: u32,
}

/// `VIPS`, by address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vip {
    /// Segments in which ARP and NDP for the address are answered by one of the nodes (bit per segment).
    pub announced: u32,
    /// Segments in which this node is the one that answers (bit per segment); of those with [`vip_flags::SPREAD`], one of them.
    pub owned: u32,
    /// [`vip_flags`].
    pub flags: u32,
    /// Place in `VIP_STATS`; 0, which is no VIP's, while there is none.
    pub stats: u32,
}

/// Bits of [`Vip::flags`].
pub mod vip_flags {
    /// Echo requests are answered; without it they are dropped.
    pub const ECHO: u32 = 1;
    /// Each node answers a share of the clients, by `SPREAD`.
    pub const SPREAD: u32 = 2;
}

/// Key of `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ServiceKey {
    /// The VIP.
    pub address: Addr,
    /// The VIP's port.
    pub port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// `SERVICES`: one port of one VIP.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Service {
    /// [`ServiceId`], never given again to another service while a flow could still name it.
    pub id: ServiceId,
    /// First row of the table in `TABLE`.
    pub table_offset: u32,
    /// Rows in the table: a power of two, or 0 if there are none.
    pub table_length: u32,
    /// First of the service's backends in `BACKENDS`.
    pub backend_offset: u32,
    /// Places in `BACKENDS` that belong to the service, gone backends and free places included.
    pub backend_length: u32,
    /// [`service_flags`].
    pub flags: u32,
}

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// New flows are left to the kernel.
    pub const KERNEL: u32 = 1;
    /// No endpoint is ready: new flows are left to the kernel, and nothing is remembered of them.
    pub const NO_ENDPOINTS: u32 = 2;
    /// Affinity ClientIP: the row hash leaves the ports out.
    pub const AFFINITY: u32 = 4;
    /// No service: an address of this node's own, at which probes are answered.
    pub const PROBE: u32 = 8;
}

/// A service's index (low 16 bits, also its place in `SERVICE_STATS`) and generation (high 16 bits, never 0).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ServiceId {
    /// Generation and index.
    pub raw: u32,
}

impl ServiceId {
    /// An id from its parts.
    pub const fn new(index: u16, generation: u16) -> Self {
        Self { raw: (generation as u32) << 16 | index as u32 }
    }

    /// Place in `SERVICE_STATS`.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.raw & 0xffff
    }

    /// How often the index has been given.
    pub const fn generation(self) -> u16 {
        (self.raw >> 16) as u16
    }
}

/// `TABLE`: the candidates of one slot, the first of them for new flows.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Row {
    /// Places among the service's backends, [`NO_CANDIDATE`] for none.
    pub candidates: [u16; CANDIDATES],
}

impl Default for Row {
    fn default() -> Self {
        Self { candidates: [NO_CANDIDATE; CANDIDATES] }
    }
}

/// `BACKENDS`: a pod's address and port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backend {
    /// The pod's address.
    pub address: Addr,
    /// The pod's port.
    pub port: Port,
    /// Index of the pod's node, [`NO_NODE`] if it has no agent.
    pub node: u16,
    /// [`backend_state`].
    pub state: u8,
    /// Counts the backends that have had this index; never 0 for one in use.
    pub generation: u8,
    /// Zero.
    pub pad: u16,
    /// When the state last changed, in seconds of `CLOCK_BOOTTIME`: a gone backend's index rests before it is given again.
    pub since: u32,
}

/// `KEPT`, by place in `BACKENDS`. A map of its own, for it is written by another thread than all else.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// Segments in which the backend is used as if its node were well (bit per segment).
    pub segments: u32,
}

/// Values of [`Backend::state`].
pub mod backend_state {
    /// The place is free.
    pub const FREE: u8 = 0;
    /// Takes new flows.
    pub const READY: u8 = 1;
    /// In a slice, but not picked for new flows.
    pub const DRAINING: u8 = 2;
    /// In no slice; TCP connections that are known go on.
    pub const GONE: u8 = 3;
}

/// A backend's index (24 bits) and generation (8 bits), as flows remember it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BackendRef {
    /// Generation in the high byte, index below.
    pub raw: u32,
}

impl BackendRef {
    /// A reference from its parts; `index` below [`MAX_BACKENDS`].
    #[inline(always)]
    pub const fn new(index: u32, generation: u8) -> Self {
        Self { raw: (generation as u32) << 24 | index & (MAX_BACKENDS - 1) }
    }

    /// Place in `BACKENDS` and `BACKEND_STATS`.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.raw & (MAX_BACKENDS - 1)
    }

    /// [`Backend::generation`] of the backend that was meant.
    #[inline(always)]
    pub const fn generation(self) -> u8 {
        (self.raw >> 24) as u8
    }
}

/// One remembered flow to a backend of another node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowSlot {
    /// High half of the flow's hash.
    pub tag: u32,
    /// The service; 0 marks a free slot.
    pub service: ServiceId,
    /// The backend.
    pub backend: BackendRef,
    /// Tick of the last packet, low 16 bits.
    pub time: u16,
    /// The segment on which the flow arrives and is forwarded.
    pub segment: u16,
}

/// `FLOWS[queue × flow_lines + line]`: one cache line of slots. By receive queue and not by CPU, so that moving a queue's
/// interrupt to another CPU costs nothing.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowLine {
    /// The slots, in no order.
    pub slots: [FlowSlot; FLOW_SLOTS],
}

/// Key of `CONNS`: a connection as the client sees it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ConnKey {
    /// The client.
    pub client: Addr,
    /// The VIP.
    pub vip: Addr,
    /// The client's port.
    pub client_port: Port,
    /// The VIP's port.
    pub vip_port: Port,
    /// IP protocol number.
    pub protocol: u32,
}

/// `CONNS`: what this node does with a connection.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Conn {
    /// The pod's address, if [`conn_kind::LOCAL`].
    pub pod: Addr,
    /// The backend, for counters and to tell whether it is gone.
    pub backend: BackendRef,
    /// Tick of the last packet.
    pub time: u32,
    /// The pod's port.
    pub pod_port: Port,
    /// [`conn_kind`].
    pub kind: u8,
    /// [`phase`].
    pub phase: u8,
}

/// Values of [`Conn::kind`].
pub mod conn_kind {
    /// Delivered to a pod of this node.
    pub const LOCAL: u8 = 1;
    /// Left to the kernel.
    pub const KERNEL: u8 = 2;
}

/// Bits of [`Conn::phase`] and [`Reverse::phase`]: what has been seen of a connection.
pub mod phase {
    /// The client has sent more than its first packet.
    pub const CONTINUED: u8 = 1;
    /// The pod has answered.
    pub const ANSWERED: u8 = 2;
    /// The client has sent FIN.
    pub const CLIENT_FIN: u8 = 4;
    /// The pod has sent FIN.
    pub const POD_FIN: u8 = 8;
    /// The client's last packet was RST. The pod ignores one that is out of window (RFC 5961 3.2): then the client goes on.
    pub const CLIENT_RESET: u8 = 16;
    /// The pod has sent RST: it knows nothing of the connection any more.
    pub const POD_RESET: u8 = 32;

    /// Whether nothing more is expected than what is still on its way.
    #[inline(always)]
    pub const fn is_closing(phase: u8) -> bool {
        phase & (CLIENT_RESET | POD_RESET) != 0 || phase & (CLIENT_FIN | POD_FIN) == CLIENT_FIN | POD_FIN
    }
}

/// Key of `REVERSE`: a connection as the pod sees it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ReverseKey {
    /// The pod.
    pub pod: Addr,
    /// The client.
    pub client: Addr,
    /// The pod's port.
    pub pod_port: Port,
    /// The client's port.
    pub client_port: Port,
    /// IP protocol number.
    pub protocol: u32,
}

/// `REVERSE`: the address that the client has spoken to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reverse {
    /// The VIP.
    pub vip: Addr,
    /// The service, for counters.
    pub service: ServiceId,
    /// The backend, for counters.
    pub backend: BackendRef,
    /// Tick of the last packet.
    pub time: u32,
    /// The VIP's port.
    pub vip_port: Port,
    /// [`phase`], as far as the pod's packets show it.
    pub phase: u8,
    /// Zero.
    pub pad: u8,
}

/// Key of `LOCAL_PORTS`: an endpoint of this node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LocalPortKey {
    /// The pod's address.
    pub address: Addr,
    /// The pod's port.
    pub port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// `LOCAL_PORTS`: the key is all there is to know.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LocalPort {
    /// Services that have the endpoint.
    pub services: u32,
}

/// Key of `SOURCES`, a longest-prefix match: `prefix_length` counts the 32 bits of `service` too.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SourceKey {
    /// Bits of `service` and `address` that must agree: 32 to 160.
    pub prefix_length: u32,
    /// [`ServiceId::raw`], or 0: addresses of nodes and pods.
    pub service: u32,
    /// The client's address.
    pub address: Addr,
}

/// The part of [`SourceKey`] behind the length, which the look-up compares.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SourcePrefix {
    /// [`SourceKey::service`].
    pub service: u32,
    /// [`SourceKey::address`].
    pub address: Addr,
}

/// `SOURCES`: the client is allowed, or for service 0 is a node or a pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Source {
    /// 1.
    pub allow: u32,
}

/// `ECHO_BUDGET[0]`, per CPU: echo replies in the current tick. `EVENT_BUDGET[kind]`: events, likewise.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EchoBudget {
    /// The tick.
    pub tick: u32,
    /// Replies, or events, in it.
    pub spent: u32,
}

/// Key of `NAMES`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NameKey {
    /// [`name_kind`].
    pub kind: u32,
    /// Node index, or [`ServiceId::raw`].
    pub index: u32,
}

/// Values of [`NameKey::kind`].
pub mod name_kind {
    /// A node, by index.
    pub const NODE: u32 = 1;
    /// A service's port as `namespace/name:port/protocol`, by id.
    pub const SERVICE: u32 = 2;
}

/// `NAMES`: who an index is, for the next agent, `status`, `explain` and a person with `bpftool`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    /// UTF-8, filled up with zeros.
    pub text: [u8; 256],
}

plain! {
    u32: 4,
    Versions: 8, Addr: 16, Mac: 6, Port: 2, HashKey: 128,
    Config: 296, Lease: 8, LinkKey: 8, Link: 16, Neighbour: 12, PeerKey: 8, Peer: 4, Vip: 16, SpreadKey: 20, Spread: 128, ClientKey: 32, Client: 16, ServiceKey: 20, ServiceId: 4, Service: 24,
    Row: 8, Backend: 28, Kept: 4, BackendRef: 4, FlowSlot: 16, FlowLine: 64, ConnKey: 40, Conn: 28, ReverseKey: 40, Reverse: 32,
    LocalPortKey: 20, LocalPort: 4, SourceKey: 24, SourcePrefix: 20, Source: 4, ReasonCount: 16, Stats: 48, VipStats: 24, EchoBudget: 8, NameKey: 8, Name: 256, ClaimEvent: 40,
}

offsets! {
    Versions { state: 0, config: 4 }
    Config { flow_key: 0, row_key: 128, node: 256, algorithm: 260, flow_lines: 264, tick_shift: 268,
        udp_idle: 272, udp_unanswered_idle: 276, closing_idle: 280, echo_limit: 284, flow_queues: 288, pad: 292 }
    Lease { deadline: 0 }
    Link { segment: 0, mac: 2, mode: 8, flags: 12 }
    Neighbour { mac: 0, reach: 6, state: 7, dsr_capable: 8, pad: 9 }
    PeerKey { segment: 0, mac: 2 }
    Vip { announced: 0, owned: 4, flags: 8, stats: 12 }
    SpreadKey { vip: 0, segment: 16 }
    ClientKey { client: 0, vip: 16 }
    Client { mac: 0, segment: 6, ifindex: 8, time: 12 }
    ServiceKey { address: 0, port: 16, protocol: 18, pad: 19 }
    Service { id: 0, table_offset: 4, table_length: 8, backend_offset: 12, backend_length: 16, flags: 20 }
    Backend { address: 0, port: 16, node: 18, state: 20, generation: 21, pad: 22, since: 24 }
    FlowSlot { tag: 0, service: 4, backend: 8, time: 12, segment: 14 }
    ConnKey { client: 0, vip: 16, client_port: 32, vip_port: 34, protocol: 36 }
    Conn { pod: 0, backend: 16, time: 20, pod_port: 24, kind: 26, phase: 27 }
    ReverseKey { pod: 0, client: 16, pod_port: 32, client_port: 34, protocol: 36 }
    Reverse { vip: 0, service: 16, backend: 20, time: 24, vip_port: 28, phase: 30, pad: 31 }
    LocalPortKey { address: 0, port: 16, protocol: 18, pad: 19 }
    SourceKey { prefix_length: 0, service: 4, address: 8 }
    VipStats { requests: 0, answers: 8, left: 16 }
    ClaimEvent { time: 0, address: 8, ifindex: 24, segment: 28, kind: 30, is_answer: 31, node: 32, mac: 34 }
    Stats { packets: 0, bytes: 8, new_flows: 16, delivered: 24, answered: 32, completed: 40 }
}
