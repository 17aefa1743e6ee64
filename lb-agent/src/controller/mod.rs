//! The controller: gives Services their addresses, and says so.

mod cluster;
mod decider;
mod driver;
mod facts;
mod objects;
mod secret;
mod tables;

pub use cluster::{ClusterError, ClusterOptions, run_in_cluster};
pub use driver::{Error, Options, dry_run, run};

/// The controller's name among those that write objects.
pub const CONTROLLER: &str = "controller";
