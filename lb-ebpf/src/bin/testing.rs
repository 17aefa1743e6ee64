//! Programs for labs and benchmarks; never part of an installation.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the functions that the macros make have none")]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Passes everything: on the far end of a veth pair it makes the near end's XDP_TX arrive.
#[xdp]
pub fn pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Drops everything: the zero of every benchmark.
#[xdp]
pub fn drop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// The licence that the kernel asks for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never linked: an object with a reachable panic is refused by the build.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
