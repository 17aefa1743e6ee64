//! A packet in XDP.

use aya_ebpf::{
    helpers::{bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use lb_common::{Packet, PacketMut, layout::Plain};

/// No header that is looked at starts further in; the verifier wants to know.
const LAST_OFFSET: usize = 255;

/// A value at an even address: Ethernet frames start at one, and nothing more is known.
#[repr(C, packed(2))]
pub struct Even<T>(T);

impl<T> Even<T> {
    #[inline(always)]
    #[allow(dead_code, reason = "for the programs of benchmarks")]
    pub fn new(value: T) -> Self {
        Self(value)
    }
}

/// A frame, whole in one buffer, or (`FRAGS`) with its headers in the first of several.
pub struct Frame<'a, const FRAGS: bool> {
    ctx: &'a XdpContext,
}

impl<'a, const FRAGS: bool> Frame<'a, FRAGS> {
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut Even<T>> {
        checked(self.ctx.data(), self.ctx.data_end(), offset)
    }
}

/// The place of a value in the packet, if all of it is there.
#[inline(always)]
pub fn checked<T>(data: usize, end: usize, offset: usize) -> Option<*mut Even<T>> {
    if offset > LAST_OFFSET {
        return None;
    }
    let start = data + offset;
    if start + size_of::<T>() > end {
        return None;
    }
    Some(start as *mut Even<T>)
}

/// Reads a value that [`checked`] has found.
#[inline(always)]
pub fn read<T: Plain>(place: *mut Even<T>) -> T {
    // SAFETY: `checked` compared the place with the packet's end; the alignment is that of `Even`.
    unsafe { place.read().0 }
}

impl<const FRAGS: bool> Packet for Frame<'_, FRAGS> {
    #[inline(always)]
    fn length(&self) -> usize {
        if FRAGS {
            // SAFETY: the context is the kernel's own.
            return unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) as usize };
        }
        self.ctx.data_end() - self.ctx.data()
    }

    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        self.at(offset).map(read)
    }
}

impl<const FRAGS: bool> PacketMut for Frame<'_, FRAGS> {
    #[inline(always)]
    fn store<T: Plain>(&mut self, offset: usize, value: T) -> Option<()> {
        let place = self.at(offset)?;
        // SAFETY: `checked` compared the place with the packet's end; the alignment is that of `Even`.
        unsafe { place.write(Even(value)) };
        Some(())
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> Option<()> {
        let change = length as i32 - self.length() as i32;
        if change == 0 {
            return Some(());
        }
        // SAFETY: the context is the kernel's own; every later access compares with the new end.
        (unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, change) } == 0).then_some(())
    }
}
