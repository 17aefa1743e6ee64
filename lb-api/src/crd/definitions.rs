//! The definitions of all kinds, as an API server is told them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    CustomResourceExt,
    core::crd::{MergeError, merge_crds},
};
use serde_json::{Map, Value, json};

use super::{
    BFDProfile, BGPAdvertisement, Community, ConfigurationState, IPAddressPool, L2Advertisement,
    ServiceBGPStatus, ServiceL2Status, rules, v1beta1, v1beta2,
};

/// What goes wrong: never, as a test shows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Versions of a kind do not belong together.
    #[error("merging the versions of BGPPeer")]
    Merge(#[from] MergeError),
    /// What was derived is no definition any more after it was brought into MetalLB's form.
    #[error("the definition of a kind is none")]
    Form(#[from] serde_json::Error),
}

/// The definitions of all kinds of `metallb.io`, by name. What MetalLB left in a cluster can be replaced by them: no version of a kind
/// is converted by a webhook.
///
/// # Errors
/// [`Error`].
pub fn definitions() -> Result<Vec<CustomResourceDefinition>, Error> {
    let peers = merge_crds(vec![v1beta1::BGPPeer::crd(), v1beta2::BGPPeer::crd()], "v1beta2")?;
    let derived = [
        BFDProfile::crd(),
        BGPAdvertisement::crd(),
        peers,
        Community::crd(),
        ConfigurationState::crd(),
        IPAddressPool::crd(),
        L2Advertisement::crd(),
        ServiceBGPStatus::crd(),
        ServiceL2Status::crd(),
    ];
    derived.into_iter().map(formed).collect()
}

fn formed(definition: CustomResourceDefinition) -> Result<CustomResourceDefinition, Error> {
    let mut value = serde_json::to_value(definition)?;
    value["spec"]["conversion"] = json!({ "strategy": "None" });
    let versions = value["spec"]["versions"].as_array_mut().into_iter().flatten();
    for version in versions {
        let schema = &mut version["schema"]["openAPIV3Schema"];
        form(schema);
        // What may leave out all of its fields may be left out itself.
        if schema["properties"]["spec"]["required"].is_null()
            && let Some(Value::Array(required)) = schema.get_mut("required")
        {
            required.retain(|field| field != "spec");
        }
    }
    Ok(serde_json::from_value(value)?)
}

/// MetalLB's form of a schema: null is no value, numbers have no format that Kubernetes does not know, and a selector is one thing.
fn form(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    if fields.remove("nullable").is_some()
        && let Some(Value::Array(values)) = fields.get_mut("enum")
    {
        values.retain(|value| !value.is_null());
    }
    if fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        fields.remove("format");
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        let is_selector = is_selector(properties);
        properties.values_mut().for_each(form);
        if let Some(Value::Object(conditions)) = properties.get_mut("conditions") {
            key_by_type(conditions);
        }
        if is_selector {
            rules::selector(properties);
            fields.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
        }
    }
    let items = fields.get("items").and_then(|items| items["properties"].as_object());
    if items.is_some_and(is_selector) {
        fields.insert("maxItems".to_owned(), json!(rules::SELECTORS));
    }
    for inner in ["items", "additionalProperties"] {
        fields.get_mut(inner).into_iter().for_each(form);
    }
}

fn is_selector(properties: &Map<String, Value>) -> bool {
    properties.contains_key("matchLabels") && properties.contains_key("matchExpressions")
}

/// Of conditions there is one of each type, so that each can be applied by another.
fn key_by_type(conditions: &mut Map<String, Value>) {
    conditions.insert("x-kubernetes-list-map-keys".to_owned(), json!(["type"]));
    conditions.insert("x-kubernetes-list-type".to_owned(), json!("map"));
}
