//! Who reads what is printed.

/// From now on the process ends quietly when the reader of its output does, as with `lb-agent status | head`; Rust's runtime
/// ignores the signal.
pub fn end_with_reader() {
    // SAFETY: the default action needs no handler, so nothing of ours runs when the signal comes.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
