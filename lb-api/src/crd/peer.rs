//! `BGPPeer`, in both versions.

/// As MetalLB had it at first; still served.
pub mod v1beta1 {
    use std::collections::BTreeMap;

    use kube::{CustomResource, KubeSchema};
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use crate::crd::{Nothing, rules};

    /// A BGP router that is told of addresses.
    #[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
    #[kube(
        group = "metallb.io",
        version = "v1beta1",
        kind = "BGPPeer",
        storage = false,
        deprecated = "v1beta1 is deprecated, use v1beta2",
        namespaced,
        doc = "A BGP router that is told of addresses.",
        status = "Nothing",
        printcolumn(name = "Address", type_ = "string", json_path = ".spec.peerAddress"),
        printcolumn(name = "ASN", type_ = "string", json_path = ".spec.peerASN"),
        printcolumn(name = "BFD Profile", type_ = "string", json_path = ".spec.bfdProfile"),
        printcolumn(name = "Multi Hops", type_ = "string", json_path = ".spec.ebgpMultiHop")
    )]
    #[serde(rename_all = "camelCase")]
    #[x_kube(
        validation = rules::multi_hop_is_external(),
        validation = rules::keepalive_in_hold_time(),
        validation = rules::keepalive_alone()
    )]
    pub struct BGPPeerSpec {
        /// Our AS.
        #[serde(rename = "myASN")]
        #[schemars(range(min = 1, max = 4_294_967_295_u32))]
        pub my_asn: u32,
        /// The router's AS.
        #[serde(rename = "peerASN")]
        #[schemars(range(min = 1, max = 4_294_967_295_u32))]
        pub peer_asn: u32,
        /// Its address.
        #[schemars(length(max = rules::ADDRESS))]
        #[x_kube(validation = rules::address("peerAddress"))]
        pub peer_address: String,
        /// The address that the session comes from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = rules::ADDRESS))]
        #[x_kube(validation = rules::address("sourceAddress"))]
        pub source_address: Option<String>,
        /// Its port; 179 if unset or 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 0, max = 16_384))]
        pub peer_port: Option<u16>,
        /// After so long without a word the session is down (`90s`); the router may want less.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = rules::DURATION))]
        #[x_kube(validation = rules::hold_time())]
        pub hold_time: Option<String>,
        /// Between two words; a third of the hold time if unset.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = rules::DURATION))]
        #[x_kube(validation = rules::keepalive_time())]
        pub keepalive_time: Option<String>,
        /// Our router ID, which looks like an IPv4 address.
        #[serde(default, rename = "routerID", skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = rules::ADDRESS))]
        #[x_kube(validation = rules::router_id())]
        pub router_id: Option<String>,
        /// Nodes that have a session; all if empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub node_selectors: Vec<NodeSelector>,
        /// For TCP MD5 (RFC 2385).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub password: Option<String>,
        /// Name of the BFDProfile of a BFD session beside the BGP session; without it there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub bfd_profile: Option<String>,
        /// Whether the router of another AS is not on a link of the node.
        #[serde(default, rename = "ebgpMultiHop", skip_serializing_if = "Option::is_none")]
        pub ebgp_multi_hop: Option<bool>,
    }

    /// Nodes by label.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "camelCase")]
    pub struct NodeSelector {
        /// Labels with these values.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        pub match_labels: BTreeMap<String, String>,
        /// Requirements that all have to hold.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub match_expressions: Vec<MatchExpression>,
    }

    /// A requirement of a label.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub struct MatchExpression {
        /// The label.
        pub key: String,
        /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
        pub operator: String,
        /// The values that count.
        #[schemars(length(min = 1))]
        pub values: Vec<String>,
    }
}

/// As it is stored.
pub mod v1beta2 {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    use kube::{CustomResource, KubeSchema};
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use crate::crd::{Nothing, rules};

    /// A BGP router that is told of addresses.
    #[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
    #[kube(
        group = "metallb.io",
        version = "v1beta2",
        kind = "BGPPeer",
        namespaced,
        doc = "A BGP router that is told of addresses.",
        status = "Nothing",
        printcolumn(name = "Address", type_ = "string", json_path = ".spec.peerAddress"),
        printcolumn(name = "ASN", type_ = "string", json_path = ".spec.peerASN"),
        printcolumn(name = "BFD Profile", type_ = "string", json_path = ".spec.bfdProfile"),
        printcolumn(name = "Multi Hops", type_ = "string", json_path = ".spec.ebgpMultiHop")
    )]
    #[serde(rename_all = "camelCase")]
    #[x_kube(
        validation = rules::multi_hop_is_external(),
        validation = rules::keepalive_in_hold_time(),
        validation = rules::keepalive_alone(),
        validation = rules::peer_asn_or_dynamic(),
        validation = rules::address_or_interface(),
        validation = rules::password_or_secret()
    )]
    pub struct BGPPeerSpec {
        /// Our AS.
        #[serde(rename = "myASN")]
        #[schemars(range(min = 1, max = 4_294_967_295_u32))]
        pub my_asn: u32,
        /// The AS that this router sees instead, and which replaces ours (RFC 7705).
        #[serde(default, rename = "localASN", skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1, max = 4_294_967_295_u32))]
        pub local_asn: Option<u32>,
        /// The router's AS; it or `dynamicASN`.
        #[serde(default, rename = "peerASN", skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 0, max = 4_294_967_295_u32))]
        pub peer_asn: Option<u32>,
        /// Whichever AS the router has, if it is ours, or if it is another.
        #[serde(default, rename = "dynamicASN", skip_serializing_if = "Option::is_none")]
        pub dynamic_asn: Option<DynamicAsn>,
        /// The router's address; it or `interface`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = rules::ADDRESS))]
        #[x_kube(validation = rules::address("peerAddress"))]
        pub peer_address: Option<String>,
        /// The link at whose other end the router is, found by its link-local address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub interface: Option<String>,
        /// The address that the session comes from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = rules::ADDRESS))]
        #[x_kube(validation = rules::address("sourceAddress"))]
        pub source_address: Option<String>,
        /// Its port.
        #[serde(default = "bgp")]
        #[schemars(range(min = 1, max = 16_384))]
        pub peer_port: u16,
        /// After so long without a word the session is down (`90s`); the router may want less.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = rules::DURATION))]
        #[x_kube(validation = rules::hold_time())]
        pub hold_time: Option<String>,
        /// Between two words; a third of the hold time if unset.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = rules::DURATION))]
        #[x_kube(validation = rules::keepalive_time())]
        pub keepalive_time: Option<String>,
        /// Between two attempts to connect, in whole seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[x_kube(
            validation = Rule::new("duration(self).getSeconds() >= 1 && duration(self).getSeconds() <= 65535")
                .message("connectTime has to be from 1s to 65535s"),
            validation = Rule::new("duration(self).getMilliseconds() % 1000 == 0").message("connectTime has to be whole seconds")
        )]
        pub connect_time: Option<String>,
        /// Our router ID, which looks like an IPv4 address.
        #[serde(default, rename = "routerID", skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = rules::ADDRESS))]
        #[x_kube(validation = rules::router_id())]
        pub router_id: Option<String>,
        /// Nodes that have a session; all if empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub node_selectors: Vec<LabelSelector>,
        /// For TCP MD5 (RFC 2385).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub password: Option<String>,
        /// The Secret that has it, of type `kubernetes.io/basic-auth`, in the namespace of this object.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub password_secret: Option<SecretReference>,
        /// Name of the BFDProfile of a BFD session beside the BGP session; without it there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub bfd_profile: Option<String>,
        /// Whether the router keeps what it was told while the session is away (RFC 4724). It cannot be changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[x_kube(validation = rules::unchanged("enableGracefulRestart"))]
        pub enable_graceful_restart: Option<bool>,
        /// Whether the router of another AS is not on a link of the node.
        #[serde(default, rename = "ebgpMultiHop", skip_serializing_if = "Option::is_none")]
        pub ebgp_multi_hop: Option<bool>,
        /// The VRF of the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub vrf: Option<String>,
        /// Does nothing; `dualStackAddressFamily` says it.
        #[serde(default, rename = "disableMP")]
        pub disable_mp: bool,
        /// Whether addresses of both families are told on one session.
        #[serde(default)]
        pub dual_stack_address_family: bool,
    }

    fn bgp() -> u16 {
        179
    }

    /// Which AS a router may have.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    pub enum DynamicAsn {
        /// Ours.
        Internal,
        /// Another.
        External,
    }

    /// A Secret.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub struct SecretReference {
        /// Its name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// Its namespace.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub namespace: Option<String>,
    }
}
