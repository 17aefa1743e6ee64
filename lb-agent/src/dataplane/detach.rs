//! Taking programs off at once: a link whose last pin is removed is taken off only when the kernel comes to it, and until then nobody
//! else can attach a program there.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

use super::error::Error;

/// Takes a pinned link off (kernel 5.9), if it is there, and removes its pin.
///
/// # Errors
/// The kernel's.
pub(super) fn remove_link(pin: &Path) -> Result<(), Error> {
    let failed = |action| move |source| Error::Pins { action, path: pin.to_owned(), source };
    if !pin.exists() {
        return Ok(());
    }
    let detached = open(pin).and_then(|link| detach(&link));
    // Without it the program goes as well, only later.
    fs::remove_file(pin).map_err(failed("removing"))?;
    detached.map_err(failed("detaching"))
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = attribute();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: the path outlives the call, and ends with a zero.
    let fd = unsafe { call(bpf_cmd::BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn detach(link: &OwnedFd) -> io::Result<()> {
    let mut attr = attribute();
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    // SAFETY: the descriptor is open.
    unsafe { call(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}

fn attribute() -> bpf_attr {
    // SAFETY: an all-zero attribute is the kernel's own default.
    unsafe { std::mem::zeroed() }
}

/// # Safety
/// What the attribute points to is as the command asks for.
unsafe fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as i32, &raw mut *attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
