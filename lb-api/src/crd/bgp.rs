//! `BGPAdvertisement`, `Community` and `BFDProfile`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Nothing, rules};

/// Announcement of pools by BGP.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "BGPAdvertisement",
    namespaced,
    doc = "Announcement of pools by BGP.",
    status = "Nothing",
    printcolumn(name = "IPAddressPools", type_ = "string", json_path = ".spec.ipAddressPools"),
    printcolumn(
        name = "IPAddressPool Selectors",
        type_ = "string",
        json_path = ".spec.ipAddressPoolSelectors"
    ),
    printcolumn(name = "Peers", type_ = "string", json_path = ".spec.peers"),
    printcolumn(name = "Node Selectors", type_ = "string", json_path = ".spec.nodeSelectors", priority = 10)
)]
#[x_kube(validation = Rule::new(
    "!has(self.serviceSelectors) || self.serviceSelectors.size() == 0 || ((!has(self.aggregationLength) || \
     self.aggregationLength == 32) && (!has(self.aggregationLengthV6) || self.aggregationLengthV6 == 128))"
).message("serviceSelectors are for whole addresses only: aggregationLength has to be 32 and aggregationLengthV6 128"))]
#[serde(rename_all = "camelCase")]
pub struct BGPAdvertisementSpec {
    /// Prefix length to which IPv4 addresses are aggregated; 32 if unset.
    #[serde(default = "whole_v4")]
    #[schemars(range(min = 1, max = 32))]
    pub aggregation_length: i32,
    /// Prefix length to which IPv6 addresses are aggregated; 128 if unset.
    #[serde(default = "whole_v6")]
    #[schemars(range(max = 128))]
    pub aggregation_length_v6: i32,
    /// LOCAL_PREF, for peers of the same AS (RFC 4271, section 5.1.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 4_294_967_295_u32))]
    pub local_pref: Option<u32>,
    /// Communities: `64512:100`, `large:64512:100:1`, or an alias of a Community object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "rules::communities")]
    pub communities: Vec<String>,
    /// Names of pools.
    #[serde(default, rename = "ipAddressPools", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = rules::NAMES), inner(length(max = rules::NAME)))]
    #[x_kube(validation = rules::each_once("ipAddressPools"))]
    pub ip_address_pools: Vec<String>,
    /// Pools by label; with names, both count. With neither, all pools.
    #[serde(default, rename = "ipAddressPoolSelectors", skip_serializing_if = "Vec::is_empty")]
    pub ip_address_pool_selectors: Vec<LabelSelector>,
    /// Nodes that announce; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selectors: Vec<LabelSelector>,
    /// Names of the BGPPeers that are told; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = rules::NAMES), inner(length(max = rules::NAME)))]
    #[x_kube(validation = rules::each_once("peers"))]
    pub peers: Vec<String>,
    /// Services that are announced, by label; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_selectors: Vec<LabelSelector>,
}

fn whole_v4() -> i32 {
    32
}

fn whole_v6() -> i32 {
    128
}

/// Names for BGP communities.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "Community",
    namespaced,
    doc = "Names for BGP communities.",
    status = "Nothing"
)]
pub struct CommunitySpec {
    /// The names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = rules::ALIASES))]
    #[x_kube(validation = rules::each_name_once("communities"))]
    pub communities: Vec<CommunityAlias>,
}

/// A name for a BGP community.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::alias_of_community())]
pub struct CommunityAlias {
    /// The name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = rules::COMMUNITY))]
    pub name: String,
    /// The community: `64512:100`, or `large:64512:100:1` (RFC 8092).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = rules::COMMUNITY))]
    pub value: String,
}

/// How a BFD session behaves (RFC 5880).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "BFDProfile",
    namespaced,
    doc = "How a BFD session behaves (RFC 5880).",
    status = "Nothing",
    printcolumn(name = "Passive Mode", type_ = "boolean", json_path = ".spec.passiveMode"),
    printcolumn(name = "Transmit Interval", type_ = "integer", json_path = ".spec.transmitInterval"),
    printcolumn(name = "Receive Interval", type_ = "integer", json_path = ".spec.receiveInterval"),
    printcolumn(name = "Multiplier", type_ = "integer", json_path = ".spec.detectMultiplier")
)]
#[serde(rename_all = "camelCase")]
pub struct BFDProfileSpec {
    /// Shortest interval at which control packets can be received, in milliseconds; 300 if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60_000))]
    pub receive_interval: Option<u32>,
    /// Shortest interval at which control packets are to be sent, in milliseconds; 300 if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60_000))]
    pub transmit_interval: Option<u32>,
    /// So many packets have to be missing before the session is down; 3 if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 255))]
    pub detect_multiplier: Option<u32>,
    /// Shortest interval at which echo packets can be received, in milliseconds; 50 if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60_000))]
    pub echo_interval: Option<u32>,
    /// Whether echo packets are sent; not over several hops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo_mode: Option<bool>,
    /// Whether the peer has to begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive_mode: Option<bool>,
    /// Over several hops: the lowest TTL of a control packet that is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub minimum_ttl: Option<u32>,
}
