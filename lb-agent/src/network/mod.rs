//! This machine's network: links and neighbours, from netlink or from a file.

mod file;
mod netlink;

pub use file::{FileError, MacError, parse_mac, read};
pub use netlink::{Netlink, NetlinkError};
