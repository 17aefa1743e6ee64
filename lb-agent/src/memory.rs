//! Memory that is needed no more.

/// Gives back to the kernel what was freed, as glibc does by itself only at the end of the heap: after something that took much memory for
/// a while, which counts against a pod's limit as long as nobody does.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it touches nothing but memory that is free, under the allocator's own lock.
    unsafe {
        libc::malloc_trim(0);
    }
}
