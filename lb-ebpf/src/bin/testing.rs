//! Programs for labs and benchmarks; never part of an installation.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the functions that the macros make have none")]

#[path = "../frame.rs"]
mod frame;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, HashMap, PerCpuArray, ProgramArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    Meta, PacketMut,
    decide::row_hash,
    hash::HashKey,
    layout::{Mac, ServiceKey},
    parse_into,
};

use crate::frame::{Even, Frame, checked};

/// Passes everything: on the far end of a veth pair it makes the near end's XDP_TX arrive.
#[xdp(frags)]
pub fn pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Drops everything: the zero of every benchmark.
#[xdp]
pub fn drop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Begins a flow's packet anew and hands it to the program under test: test runs do not restore what a program has changed.
#[xdp]
pub fn drive(ctx: XdpContext) -> u32 {
    let Some(traffic) = TRAFFIC.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: a benchmark runs on one CPU.
    let traffic = unsafe { &mut *traffic };
    let Some(place) = checked::<[u64; FRAME_WORDS]>(ctx.data(), ctx.data_end(), 0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: `checked` compared the place with the packet's end.
    unsafe { place.write(Even::new(traffic.frame)) };
    if traffic.flow_mask != 0 {
        // Neighbours in time are none in memory: an odd factor visits all flows, in an order of its own.
        let flow = traffic.next.wrapping_mul(0x9e37_79b1) & traffic.flow_mask;
        traffic.next = traffic.next.wrapping_add(1);
        if let Some(source) = checked::<u32>(ctx.data(), ctx.data_end(), SOURCE_ADDRESS) {
            // SAFETY: as above.
            unsafe { source.write(Even::new((FIRST_CLIENT + flow).to_be())) };
        }
    }
    // SAFETY: the context is the kernel's own. It comes back only if there is no such program.
    unsafe { PROGRAMS.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}

/// What any balancer does at least: parse, service, row, backend, a counter, rewrite; no state.
#[xdp]
pub fn floor(ctx: XdpContext) -> u32 {
    let mut meta = Meta::EMPTY;
    let mut packet = Frame::<false>::new(&ctx);
    parse_into(&packet, ctx.ingress_ifindex() as u32, &mut meta);
    balance(&meta, &mut packet).map_or(xdp_action::XDP_PASS, |()| xdp_action::XDP_TX)
}

#[inline(always)]
fn balance(meta: &Meta, packet: &mut Frame<'_, false>) -> Option<()> {
    let key = FLOOR_KEY.get(0)?;
    // SAFETY: the reference does not outlive the statement.
    let service = unsafe { FLOOR_SERVICES.get(&meta.service_key()) }.copied()?;
    let hash = row_hash(key, &meta.source, &meta.destination, meta.ports(), meta.protocol);
    let backend = *FLOOR_TABLE.get(service.wrapping_add(hash as u32 & (FLOOR_ROWS as u32 - 1)))?;
    let mac = *FLOOR_BACKENDS.get(backend)?;
    let count = FLOOR_COUNTS.get_ptr_mut(backend)?;
    // SAFETY: the value is this CPU's.
    unsafe { *count += 1 };
    packet.store(0, mac)?;
    packet.store(6, meta.destination_mac)
}

/// Frames are 96 bytes.
const FRAME_WORDS: usize = 12;
const SOURCE_ADDRESS: usize = 26;
/// 100.0.0.0.
const FIRST_CLIENT: u32 = 100 << 24;
const FLOOR_ROWS: usize = 65_536;

/// What the driver sends.
#[repr(C)]
pub struct Traffic {
    frame: [u64; FRAME_WORDS],
    /// Flows less one, which is all ones in binary; 0 sends the frame as it is.
    flow_mask: u32,
    next: u32,
}

#[btf_map]
static TRAFFIC: Array<Traffic, 1> = Array::new();
/// Place 0 is the program under test.
#[btf_map]
static PROGRAMS: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static FLOOR_KEY: Array<HashKey, 1> = Array::new();
/// A service's first row.
#[btf_map]
static FLOOR_SERVICES: HashMap<ServiceKey, u32, 1024> = HashMap::new();
#[btf_map]
static FLOOR_TABLE: Array<u32, FLOOR_ROWS> = Array::new();
#[btf_map]
static FLOOR_BACKENDS: Array<Mac, 128> = Array::new();
#[btf_map]
static FLOOR_COUNTS: PerCpuArray<u64, 128> = PerCpuArray::new();

/// The licence that the kernel asks for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never linked: an object with a reachable panic is refused by the build.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
