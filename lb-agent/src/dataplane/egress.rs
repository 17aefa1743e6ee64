//! The egress program on a link: by tcx, or by clsact on kernels that have no tcx.

use std::{ffi::CStr, io};

use aya::{
    programs::{
        ProgramError, SchedClassifier, TcAttachType,
        links::Link,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
    },
    util::KernelVersion,
};

/// How the program that sees packets leave is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressMode {
    /// A pinned link (kernel 6.6).
    Tcx,
    /// A filter of the clsact queueing discipline (kernel 4.5): it has no owner, and stays until it is taken off.
    Clsact,
}

impl EgressMode {
    /// What this kernel has.
    pub fn of_kernel() -> Self {
        match KernelVersion::current() {
            Ok(version) if version < KernelVersion::new(6, 6, 0) => Self::Clsact,
            _ => Self::Tcx,
        }
    }
}

/// The place of our filter among those of others: it is found again by it.
const PRIORITY: u16 = 0x6d67;
const HANDLE: TcHandle = TcHandle::new(0, 0x6d67);

/// Attaches the program, or puts it in the place of the one that another agent has left.
pub(super) fn attach_clsact(program: &mut SchedClassifier, link_name: &str) -> Result<(), ProgramError> {
    match qdisc_add_clsact(link_name) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        other => other?,
    }
    let known = filter(link_name).map_err(TcError::from)?;
    let id = match program.attach_to_link(known) {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            let options = TcAttachOptions::Netlink(options);
            program.attach_with_options(link_name, TcAttachType::Egress, options)?
        }
    };
    // Dropped, it would take the filter off.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Takes our filter off, if the link and the filter are there.
pub(super) fn detach_clsact(ifindex: u32) -> Result<(), ProgramError> {
    let Some(name) = link_name(ifindex) else { return Ok(()) };
    match filter(&name).map_err(TcError::from)?.detach() {
        Err(ProgramError::TcError(TcError::NetlinkError(error))) => match error.raw_os_error() {
            // No filter, no clsact, no link.
            Some(libc::ENOENT | libc::EINVAL | libc::ENODEV) => Ok(()),
            _ => Err(TcError::NetlinkError(error).into()),
        },
        other => other,
    }
}

fn filter(link_name: &str) -> Result<SchedClassifierLink, io::Error> {
    SchedClassifierLink::attached(link_name, TcAttachType::Egress, PRIORITY, HANDLE, None)
}

/// The name of a link, if it is there.
pub(super) fn link_name(ifindex: u32) -> Option<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer is as long as a name may be, and outlives the call.
    if unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) }.is_null() {
        return None;
    }
    // SAFETY: the call has written a name and its end.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    name.to_str().ok().map(str::to_owned)
}
