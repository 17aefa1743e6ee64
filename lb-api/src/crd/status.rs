//! What is seen of Services and of the configuration.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// Which node answers for a Service by ARP and NDP.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "ServiceL2Status",
    plural = "servicel2statuses",
    namespaced,
    doc = "Which node answers for a Service by ARP and NDP.",
    status = "ServiceL2StatusStatus",
    printcolumn(name = "Allocated Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Service Name", type_ = "string", json_path = ".status.serviceName"),
    printcolumn(name = "Service Namespace", type_ = "string", json_path = ".status.serviceNamespace")
)]
pub struct ServiceL2StatusSpec {}

/// See [`ServiceL2Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceL2StatusStatus {
    /// The node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::unchanged("node"))]
    pub node: Option<String>,
    /// The Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::unchanged("serviceName"))]
    pub service_name: Option<String>,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::unchanged("serviceNamespace"))]
    pub service_namespace: Option<String>,
    /// The links on which the node answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<InterfaceInfo>,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceInfo {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Which routers a node tells of a Service.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "ServiceBGPStatus",
    plural = "servicebgpstatuses",
    namespaced,
    doc = "Which routers a node tells of a Service.",
    status = "ServiceBGPStatusStatus",
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Service Name", type_ = "string", json_path = ".status.serviceName"),
    printcolumn(name = "Service Namespace", type_ = "string", json_path = ".status.serviceNamespace")
)]
pub struct ServiceBGPStatusSpec {}

/// See [`ServiceBGPStatus`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBGPStatusStatus {
    /// The node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::unchanged("node"))]
    pub node: Option<String>,
    /// The Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::unchanged("serviceName"))]
    pub service_name: Option<String>,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::unchanged("serviceNamespace"))]
    pub service_namespace: Option<String>,
    /// BGPPeers that are to be told: whether their sessions are up is not said here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
}

/// What a controller, or the agent of a node, makes of the configuration.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "ConfigurationState",
    namespaced,
    no_spec,
    doc = "What a controller, or the agent of a node, makes of the configuration.",
    status = "ConfigurationStateStatus",
    printcolumn(name = "Result", type_ = "string", json_path = ".status.result"),
    printcolumn(name = "ErrorSummary", type_ = "string", json_path = ".status.errorSummary"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct ConfigurationStateSpec {}

/// See [`ConfigurationState`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStateStatus {
    /// Whether all of it could be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ConfigurationResult>,
    /// What could not be used, and why; empty if all is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error_summary: String,
    /// The same by part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Whether a configuration could be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConfigurationResult {
    /// All of it.
    Valid,
    /// Not all of it.
    Invalid,
    /// It has not been read yet.
    Unknown,
}
