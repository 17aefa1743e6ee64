//! What is asked of a node from the command line.

mod explain;
mod members;
mod reader;
mod status;
mod table;
mod validate;

pub use explain::{Flow, FlowError, Known, ProtocolName, explain};
pub use members::{Views, disagreements, members_json, members_table, read_views};
pub use reader::end_with_reader;
pub use status::{StatusError, read_status, table};
pub use validate::validate;
