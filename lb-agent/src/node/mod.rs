//! The node: keeps this machine's data path as the source says.

mod changes;
mod driver;
mod facts;
mod feed;
mod groups;
mod leaving;
mod limits;
mod pass;
mod teller;

pub use driver::{Error, Options, dry_run, run};
pub use feed::{Error as FeedError, FeedOptions};
pub use limits::raise_open_files;
pub use pass::{Pass, pass};
