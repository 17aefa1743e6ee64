//! `migrate`: what becomes of a MetalLB installation, and the steps that take it over.
//!
//! What is found is an [`Installation`], objects as they are, from files or from a cluster; [`report()`] says all that follows from it, and
//! reads nothing. [`apply()`] carries the steps out.

mod action;
mod addresses;
mod apply;
mod backup;
mod differences;
mod helm;
mod installation;
mod labels;
mod policies;
mod report;
mod steps;
mod text;

pub use action::Action;
pub use addresses::{Announced, Change, ServiceAddresses};
pub use apply::{Applied, ApplyError, Options, apply, read};
pub use installation::Installation;
pub use policies::NewClients;
pub use report::{Circumstances, Finding, Report, report};
pub use steps::{By, State, Step};
pub use text::text;
