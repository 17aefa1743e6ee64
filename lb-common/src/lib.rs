//! The contract between kernel and user space, and the packet decision, written once.
//!
//! Everything here is `no_std`, allocates nothing and does no IO, so that the eBPF programs, the host tests, the simulation and
//! `lb-agent explain` run the same code. A packet's way is [`parse()`] → [`decide()`] → [`apply()`]; what the maps hold is
//! defined in [`layout`] and nowhere else.
#![no_std]

#[cfg(not(target_endian = "little"))]
compile_error!("the map layouts and the row hash are defined for little-endian machines");

mod address;
pub mod apply;
pub mod checksum;
mod counts;
pub mod decide;
mod events;
pub mod flows;
pub mod hash;
pub mod layout;
pub mod meta;
pub mod packet;
pub mod parse;
mod plain;
pub mod reason;
pub mod spread;

pub use apply::{Action, Rewrite, apply};
pub use decide::{Decision, Learn, Lookup, Verdict, decide, decide_into, decide_reply, decide_reply_into};
pub use meta::{Kind, Meta};
pub use packet::{InPlace, Packet, PacketMut};
pub use parse::{parse, parse_into};
pub use reason::Reason;
