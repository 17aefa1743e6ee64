//! MetalLB's custom resources as Rust types (`api/v1beta1/*_types.go`, `api/v1beta2/bgppeer_types.go`), and the definitions by which an
//! API server knows them.

#![expect(clippy::duplicated_attributes, reason = "columns have types and paths in common")]

mod bgp;
mod definitions;
mod l2;
mod peer;
mod pool;
mod rules;
mod status;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use bgp::{
    BFDProfile, BFDProfileSpec, BGPAdvertisement, BGPAdvertisementSpec, Community, CommunityAlias,
    CommunitySpec,
};
pub use definitions::definitions;
pub use l2::{L2Advertisement, L2AdvertisementSpec, PreferredNodeSelector};
pub use peer::{v1beta1, v1beta2};
pub use pool::{IPAddressPool, IPAddressPoolSpec, IPAddressPoolStatus, ServiceAllocation};
pub use status::{
    ConfigurationResult, ConfigurationState, ConfigurationStateStatus, InterfaceInfo, ServiceBGPStatus,
    ServiceBGPStatusStatus, ServiceL2Status, ServiceL2StatusStatus,
};

/// A part of an object that says nothing, and is there because MetalLB's has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Nothing {}
