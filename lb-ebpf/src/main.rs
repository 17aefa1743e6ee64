//! The data path: XDP on arrival, tc on departure, around `lb_common`'s decision.
//!
//! Entry points only: a packet's way is in `lb_common::decide`, the maps are in [`maps`], and [`frame`] and [`skb`] are the two
//! ways to touch a packet. Which XDP program is loaded is user space's choice; the rest of the object is never verified.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the functions that the macros make have none")]

mod frame;
mod maps;
mod skb;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::bpf_jiffies64,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::{Action, InPlace, Lookup, Reason, apply, decide_into, decide_reply_into, parse_into};

use crate::{
    frame::Frame,
    maps::{Maps, Work},
    skb::Skb,
};

/// Packets from the network, each in one buffer.
#[xdp]
pub fn magnetite_xdp(ctx: XdpContext) -> u32 {
    arrive::<false>(&ctx)
}

/// Packets from the network, possibly in several buffers (kernel 5.18).
#[xdp(frags)]
pub fn magnetite_xdp_frags(ctx: XdpContext) -> u32 {
    arrive::<true>(&ctx)
}

/// Packets that leave the node: pods' replies go out as the VIP. Says "next", so that other programs and the queues go on, but of
/// a reply that could be rewritten only in part.
#[classifier]
pub fn magnetite_egress(ctx: TcContext) -> i32 {
    leave(&ctx)
}

/// The kernel's jiffies (low 32 bits), for user space to learn HZ and the current tick; never attached.
#[xdp]
pub fn magnetite_clock(_ctx: XdpContext) -> u32 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_jiffies64() as u32 }
}

#[inline(always)]
fn arrive<const FRAGS: bool>(ctx: &XdpContext) -> u32 {
    let Some(mut maps) = Maps::open(ctx.rx_queue_index()) else {
        return xdp_action::XDP_PASS;
    };
    let mut packet = InPlace(Frame::<FRAGS>::new(ctx));
    let Some(Work { meta, decision }) = Work::begin(0) else {
        return xdp_action::XDP_PASS;
    };
    parse_into(&packet.0, ctx.ingress_ifindex() as u32, meta);
    decide_into(meta, &maps, decision);
    maps.count_arrival(meta, decision);
    decision.remember(meta, maps.tick(), &mut maps);
    match apply(decision, meta, &mut packet) {
        Some(Action::Pass) => xdp_action::XDP_PASS,
        Some(Action::Drop) => xdp_action::XDP_DROP,
        Some(Action::Transmit) => {
            maps.count_answer(decision);
            xdp_action::XDP_TX
        }
        None => {
            maps.count_reason(Reason::RewriteFailed, meta.length);
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn leave(ctx: &TcContext) -> i32 {
    // `FLOWS`, which is by queue, has no part in replies.
    let Some(mut maps) = Maps::open(0) else { return TC_ACT_UNSPEC };
    let mut packet = Skb::new(ctx);
    let Some(Work { meta, decision }) = Work::begin(1) else { return TC_ACT_UNSPEC };
    parse_into(&packet, packet.ifindex(), meta);
    decide_reply_into(meta, &maps, decision);
    maps.count_departure(meta, decision);
    decision.remember(meta, maps.tick(), &mut maps);
    if apply(decision, meta, &mut packet).is_none() {
        maps.count_reason(Reason::RewriteFailed, meta.length);
        return TC_ACT_SHOT;
    }
    TC_ACT_UNSPEC
}

/// The licence that the kernel asks for before it lets a program call GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never linked: an object with a reachable panic is refused by the build.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
