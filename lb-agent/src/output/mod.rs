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
mod records;
mod status;
mod writer;

pub use conflicts::{ADDRESS_CONFLICT, ConflictStatus, StrangerStatus, conflict_facts};
pub use documents::{Document, Validity, is_local, of_node, of_services};
pub(crate) use documents::{configuration, document, services};
pub use drain::{DrainRequest, DrainRequests, DrainStatus, FlowsStatus, timestamp};
pub use events::{Author, Events, Facts, Reason};
pub use given::Given;
pub use last_good::LastGood;
pub use maps::{MapsView, backend_state_name, node_state_name, view};
pub use members::{Knowledge, Member, Members, MembersObject, Moment, OwnerStatus, condition_name};
pub use owned::{Owned, owned};
pub use status::{
    AgentStatus, EndpointStatus, ForwardingStatus, LeftOutStatus, LinkStatus, NodeStatus, NodeStatusObject,
    PeerStatus, ServiceStatus, VipStatus, mac,
};
pub(crate) use writer::component;
pub use writer::{Error, Writer, from_yaml, to_yaml};
