//! A packet in tc, where checksums may be left to the NIC and a packet may be many segments: the kernel's helpers know.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::{
        bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use lb_common::{
    Meta, Packet, Rewrite,
    layout::{Addr, Mac, Plain, Port},
    packet::Side,
};

use crate::frame::{checked, read};

/// Ethernet with a VLAN tag, the longest IPv4 header, and TCP.
const HEADERS: u32 = 18 + 60 + 20;

/// A packet with its headers in the linear part.
pub struct Skb<'a> {
    ctx: &'a TcContext,
}

impl<'a> Skb<'a> {
    /// Pulls the headers into the linear part if they are not there.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        let wanted = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
        if ctx.data() + wanted as usize > ctx.data_end() {
            // A failure shows when a header is loaded.
            // SAFETY: the context is the kernel's own.
            let _ = unsafe { bpf_skb_pull_data(ctx.skb.skb, wanted) };
        }
        Self { ctx }
    }

    /// The link by which the packet leaves.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context is the kernel's own.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, offset: usize, value: T) -> Option<()> {
        let from = core::ptr::from_ref(&value).cast();
        // SAFETY: `value` outlives the call, and its size is given.
        let done = unsafe {
            bpf_skb_store_bytes(self.ctx.as_ptr().cast(), offset as u32, from, size_of::<T>() as u32, 0)
        };
        (done == 0).then_some(())
    }

    #[inline(always)]
    fn translate(&mut self, meta: &Meta, side: Side, from: &Addr, to: &Addr, port: Port) -> Option<()> {
        let (l3, l4) = (meta.l3 as u32, meta.l4 as u32);
        let old_port = match side {
            Side::Source => meta.source_port,
            Side::Destination => meta.destination_port,
        };
        // A UDP checksum of zero means none, and stays so.
        let (checksum_at, flags) =
            if meta.is_tcp() { (l4 + 16, 0) } else { (l4 + 6, BPF_F_MARK_MANGLED_0 as u64) };
        let pseudo = flags | BPF_F_PSEUDO_HDR as u64;
        let skb = self.ctx.as_ptr().cast();
        // SAFETY (all calls): the context is the kernel's own, and the addresses outlive the calls.
        let done = unsafe {
            if meta.v6 {
                let (old, new) = (from.words.as_ptr().cast_mut(), to.words.as_ptr().cast_mut());
                let change = bpf_csum_diff(old, 16, new, 16, 0);
                bpf_l4_csum_replace(skb, checksum_at, 0, change as u64, pseudo)
            } else {
                let (old, new) = (from.words[3] as u64, to.words[3] as u64);
                bpf_l4_csum_replace(skb, checksum_at, old, new, pseudo | 4)
                    | bpf_l3_csum_replace(skb, l3 + 10, old, new, 4)
            }
        };
        // SAFETY: as above.
        let port_done = unsafe {
            bpf_l4_csum_replace(skb, checksum_at, old_port.wire as u64, port.wire as u64, flags | 2)
        };
        if done | port_done != 0 {
            return None;
        }
        if meta.v6 {
            self.store(meta.l3 as usize + side.v6_offset(), *to)?;
        } else {
            self.store(meta.l3 as usize + side.v4_offset(), to.words[3])?;
        }
        self.store(meta.l4 as usize + side.port_offset(), port)
    }
}

impl Packet for Skb<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.ctx.len() as usize
    }

    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        checked(self.ctx.data(), self.ctx.data_end(), offset).map(read)
    }
}

/// What leaves is rewritten in its addresses only: the other operations belong to arrival, and fail here.
impl Rewrite for Skb<'_> {
    #[inline(always)]
    fn set_destination(&mut self, meta: &Meta, address: Addr, port: Port) -> Option<()> {
        self.translate(meta, Side::Destination, &meta.destination, &address, port)
    }

    #[inline(always)]
    fn set_source(&mut self, meta: &Meta, address: Addr, port: Port) -> Option<()> {
        self.translate(meta, Side::Source, &meta.source, &address, port)
    }

    #[inline(always)]
    fn forward_l2(&mut self, _meta: &Meta, _mac: Mac, _ttl: u8) -> Option<()> {
        None
    }

    #[inline(always)]
    fn advertise(&mut self, _meta: &Meta, _mac: Mac, _is_shared: bool) -> Option<()> {
        None
    }

    #[inline(always)]
    fn echo_reply(&mut self, _meta: &Meta) -> Option<()> {
        None
    }

    #[inline(always)]
    fn probe_answer(&mut self, _meta: &Meta, _lease_holds: bool) -> Option<()> {
        None
    }
}
