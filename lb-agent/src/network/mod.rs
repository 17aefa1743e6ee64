//! This machine's network: links and neighbours, from netlink or from a file.

mod file;
mod links;
mod netlink;
mod offload;

pub use file::{FileError, MacError, parse_mac, read};
pub use netlink::{Netlink, NetlinkError};
pub use offload::{OffloadError, keep_tags, leave_out_untagged};
