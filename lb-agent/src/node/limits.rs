//! What the kernel allows the process.

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Allows as many open files as may be: each IPv6 VIP has a socket on each link, and a service manager's limit is 1,024 for the sake of
/// programs that use `select`. How many that are, if there is a bound.
///
/// # Errors
/// The kernel's; the limit is then as before.
pub fn raise_open_files() -> Result<Option<u64>, Errno> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum)
}
