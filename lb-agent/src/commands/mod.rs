//! What is asked of a node from the command line.

mod drain;
mod explain;
mod members;
mod reader;
mod status;
pub(crate) mod table;
mod validate;

pub use drain::{Drain, DrainError, Waited};
pub use explain::{Flow, FlowError, Known, ProtocolName, explain};
pub use members::{Views, disagreements, members_json, members_table, read_views};
pub use reader::end_with_reader;
pub use status::{StatusError, is_alive, read_status, table};
pub use validate::{validate, validate_objects};
