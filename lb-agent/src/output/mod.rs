//! What the agent says: status as YAML files, where a cluster would have it in its API.

mod conflicts;
mod documents;
mod drain;
mod events;
mod given;
mod last_good;
mod maps;
mod members;
mod owned;
mod owners;
mod records;
mod services;
mod status;
mod writer;

pub use conflicts::{ADDRESS_CONFLICT, ConflictStatus, Conflicts, StrangerStatus, conflict_facts};
pub use documents::{Document, Validity, of_dry_run, of_node, of_services};
pub(crate) use documents::{configuration, document, services};
pub use drain::{DrainRequest, DrainRequests, DrainStatus, FlowsStatus, timestamp};
pub use events::{Author, Events, Facts, Reason};
pub use given::Given;
pub use last_good::LastGood;
pub use maps::{MapsView, backend_state_name, node_state_name, view};
pub use members::{Knowledge, Member, Members, MembersObject, Moment, condition_name};
pub use owned::{Owned, owned};
pub use owners::{OwnerStatus, Owners, OwnersObject};
pub use services::{EndpointStatus, ForwardingStatus, ServiceStatus, Services};
pub use status::{
    AgentStatus, LeftOutStatus, LinkStatus, NodeStatus, NodeStatusObject, Outcome, PeerStatus, VipStatus, mac,
};
pub(crate) use writer::component;
pub use writer::{Error, Text, Writer, from_yaml, to_yaml};
