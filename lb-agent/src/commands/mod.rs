//! What is asked of a node from the command line.

mod explain;
mod reader;
mod status;
mod validate;

pub use explain::{Flow, FlowError, Known, ProtocolName, explain};
pub use reader::end_with_reader;
pub use status::{StatusError, read_status, table};
pub use validate::validate;
