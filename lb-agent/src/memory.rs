//! Where memory comes from, and that what is needed no more goes back.

use std::{ffi::c_char, ptr::null_mut};

use tikv_jemalloc_sys::mallctl;

/// Whom the agent has its memory from. A pass takes and frees much in pieces of all sizes, and glibc searches what was freed for the next
/// event: with 5,000 Services that was most of the time between an endpoint's event and its place in the maps.
pub use tikv_jemallocator::Jemalloc as Allocator;

/// What jemalloc reads before it does anything (its manual: TUNING). An arena for each thread that has much to do, so that the liveness
/// thread never waits for one that has less priority. What is freed goes back soon: it counts against a pod's limit as long as it does not.
#[unsafe(export_name = "_rjem_malloc_conf")]
// SAFETY: it points to a text that is always there, and ends with a zero.
pub static CONFIGURATION: Option<&'static c_char> =
    Some(unsafe { &*c"narenas:4,dirty_decay_ms:500,muzzy_decay_ms:0".as_ptr() });

/// Gives back to the kernel what was freed: jemalloc does that by itself only while it is asked for more.
pub fn give_back() {
    // All arenas (jemalloc: `MALLCTL_ARENAS_ALL`).
    let purge = c"arena.4096.purge";
    // SAFETY: the name ends with a zero, and it neither gives nor takes a value. Only memory that is free is touched, under the
    // allocator's own locks.
    unsafe {
        mallctl(purge.as_ptr(), null_mut(), null_mut(), null_mut(), 0);
    }
}
