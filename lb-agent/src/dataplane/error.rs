//! What can go wrong between the agent and bpf(2).

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};

/// What can go wrong between the agent and bpf(2), and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent was built without the object.
    #[error(
        "this lb-agent was built without its BPF object: run `cargo xtask build-ebpf` and build it again"
    )]
    NoObject,
    /// The object is not one.
    #[error("the BPF object cannot be read")]
    Object(#[source] Box<aya_obj::ParseError>),
    /// The kernel does not take the object.
    #[error("the kernel refuses the BPF object (CAP_BPF and CAP_NET_ADMIN are needed)")]
    Load(#[source] Box<EbpfError>),
    /// The object has no such map.
    #[error("the BPF object has no map {name}: it is of another version than this agent")]
    NoMap {
        /// The map.
        name: &'static str,
    },
    /// The object has no such program.
    #[error("the BPF object has no program {name}: it is of another version than this agent")]
    NoProgram {
        /// The program.
        name: &'static str,
    },
    /// Pins need a BPF file system.
    #[error("{} is not on a BPF file system: `mount -t bpf bpf /sys/fs/bpf`", dir.display())]
    NotBpffs {
        /// The directory of the pins.
        dir: PathBuf,
    },
    /// Another agent is there.
    #[error("another agent uses {}: end it, or give this one another --pin-dir", dir.display())]
    Locked {
        /// The directory of the pins.
        dir: PathBuf,
    },
    /// Nothing is pinned.
    #[error("no data path in {}: no agent has run with this --pin-dir, or it was unloaded", dir.display())]
    NotLoaded {
        /// The directory of the pins.
        dir: PathBuf,
    },
    /// A file operation on pins failed.
    #[error("{action} {}", path.display())]
    Pins {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A map operation failed.
    #[error("map {map}")]
    Map {
        /// The map.
        map: &'static str,
        /// Why.
        #[source]
        source: MapError,
    },
    /// A batch operation failed.
    #[error("map {map}, {count} entries at {offset}")]
    Batch {
        /// The map.
        map: &'static str,
        /// Index of the first entry.
        offset: u32,
        /// Entries.
        count: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The link is gone.
    #[error("no link with index {ifindex}")]
    NoLink {
        /// Its index.
        ifindex: u32,
    },
    /// A program cannot be loaded or attached.
    #[error("program {program} on link {link}")]
    Program {
        /// The program.
        program: &'static str,
        /// The link's name, or "none".
        link: String,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// A link of the kernel's cannot be pinned or reopened.
    #[error("pinned link {}", path.display())]
    Link {
        /// Its pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<LinkError>,
    },
    /// A link of the kernel's cannot be pinned.
    #[error("pin {}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<PinError>,
    },
    /// A number of the kernel's cannot be read.
    #[error("reading {what}")]
    Kernel {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}
