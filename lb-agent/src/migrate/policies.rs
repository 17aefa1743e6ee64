//! NetworkPolicies that will see clients for the first time.
//!
//! kube-proxy gives packets for `externalTrafficPolicy: Cluster` the address of a node as their source, and a policy lets that in or
//! the network does so by itself. The data path leaves the client's address in them, and a policy that names no clients drops them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyPort, NetworkPolicySpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    addresses::{ingress, is_taken_over},
    installation::{Installation, text},
    labels::{Match, selects},
};

/// Policies of a Service that do not let its clients in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewClients {
    /// The Service, by namespace and name.
    pub service: String,
    /// The policies that select its pods; to add to one of them is enough.
    pub policies: Vec<String>,
    /// Whether they select all of its pods for certain, by the labels that the Service selects them by.
    pub is_certain: bool,
    /// Ports of the pods that clients are not let in to.
    pub ports: Vec<String>,
    /// Networks that are let in now.
    pub lets_in: BTreeSet<String>,
    /// What to add to `spec.ingress`.
    pub add: Value,
}

/// Services whose clients would be dropped once they are switched to the data path.
pub fn new_clients(installation: &Installation) -> Vec<NewClients> {
    let policies: Vec<(String, NetworkPolicy)> = installation
        .of_kind("NetworkPolicy")
        .filter(|(_, object)| text(object, "/apiVersion").starts_with("networking.k8s.io/"))
        .filter_map(|(key, object)| {
            Some((key.namespace.clone(), serde_json::from_value(object.clone()).ok()?))
        })
        .collect();
    let services = installation.of_kind("Service").filter(|(key, object)| {
        // With policy Local pods see clients already.
        is_taken_over(installation, key, object) && object["spec"]["externalTrafficPolicy"] != "Local"
    });
    services
        .filter_map(|(key, object)| {
            let here = policies.iter().filter(|(namespace, _)| *namespace == key.namespace);
            of_service(&key.object_name().to_string(), object, here.map(|(_, policy)| policy))
        })
        .collect()
}

fn of_service<'a>(
    name: &str,
    service: &Value,
    policies: impl Iterator<Item = &'a NetworkPolicy>,
) -> Option<NewClients> {
    let selector: BTreeMap<String, String> =
        serde_json::from_value(service["spec"]["selector"].clone()).ok()?;
    let selector = selector.into_iter().collect();
    let selected: Vec<(&NetworkPolicy, &NetworkPolicySpec, Match)> = policies
        .filter_map(|policy| {
            let spec = policy.spec.as_ref().filter(|spec| restricts(spec))?;
            let is_selected = selects(&spec.pod_selector.clone().unwrap_or_default(), &selector);
            (is_selected != Match::Never).then_some((policy, spec, is_selected))
        })
        .collect();
    let certain = || selected.iter().filter(|(_, _, is_selected)| *is_selected == Match::Always);
    let families: BTreeSet<bool> = ingress(service).iter().map(IpAddr::is_ipv4).collect();
    let ports = service["spec"]["ports"].as_array().into_iter().flatten().map(PodPort::of);
    let closed: Vec<PodPort> = ports
        .filter(|port| {
            let is_open = |v4: &bool| certain().any(|(_, spec, _)| lets_all_in(spec, port, *v4));
            !families.iter().all(is_open)
        })
        .collect();
    if selected.is_empty() || closed.is_empty() {
        return None;
    }
    let peers = selected.iter().flat_map(|(_, spec, _)| spec.ingress.iter().flatten());
    let peers = peers.flat_map(|rule| rule.from.iter().flatten());
    let lets_in = peers.filter_map(|peer| Some(peer.ip_block.as_ref()?.cidr.clone())).collect();
    let names = selected.iter().filter_map(|(policy, ..)| policy.metadata.name.clone());
    Some(NewClients {
        service: name.to_owned(),
        policies: names.collect(),
        is_certain: certain().next().is_some(),
        ports: closed.iter().map(PodPort::shown).collect(),
        lets_in,
        add: addition(service, &families, &closed),
    })
}

/// Whether it says anything of what comes in: by default it does.
fn restricts(spec: &NetworkPolicySpec) -> bool {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    types.is_empty() || types.iter().any(|one| one == "Ingress")
}

fn lets_all_in(spec: &NetworkPolicySpec, port: &PodPort, v4: bool) -> bool {
    spec.ingress.iter().flatten().any(|rule| {
        let from = rule.from.as_deref().unwrap_or_default();
        let is_all = from.is_empty()
            || from.iter().filter_map(|peer| peer.ip_block.as_ref()).any(|block| {
                let is_whole = block.cidr == if v4 { "0.0.0.0/0" } else { "::/0" };
                is_whole && block.except.iter().flatten().next().is_none()
            });
        let ports = rule.ports.as_deref().unwrap_or_default();
        is_all && (ports.is_empty() || ports.iter().any(|one| port.is_of(one)))
    })
}

/// A port of pods, as a Service names it.
struct PodPort {
    protocol: String,
    target: IntOrString,
}

impl PodPort {
    fn of(port: &Value) -> Self {
        let target = match (&port["targetPort"], &port["port"]) {
            (Value::String(name), _) => IntOrString::String(name.clone()),
            (Value::Number(number), _) | (_, Value::Number(number)) => int(number.as_i64()),
            _ => int(None),
        };
        Self { protocol: port["protocol"].as_str().unwrap_or("TCP").to_owned(), target }
    }

    /// A port with a name and one with a number are not known to be the same.
    fn is_of(&self, policy: &NetworkPolicyPort) -> bool {
        let is_protocol = policy.protocol.as_deref().unwrap_or("TCP") == self.protocol;
        let is_port = match (&policy.port, &self.target, policy.end_port) {
            (None, ..) => true,
            (Some(IntOrString::Int(first)), IntOrString::Int(port), Some(last)) => {
                (*first..=last).contains(port)
            }
            (Some(one), target, _) => one == target,
        };
        is_protocol && is_port
    }

    fn shown(&self) -> String {
        match &self.target {
            IntOrString::Int(port) => format!("{} {port}", self.protocol),
            IntOrString::String(name) => format!("{} {name}", self.protocol),
        }
    }
}

fn int(number: Option<i64>) -> IntOrString {
    IntOrString::Int(number.and_then(|number| i32::try_from(number).ok()).unwrap_or_default())
}

/// A rule that lets the clients in: those that the Service itself lets in, or all of its families.
fn addition(service: &Value, families: &BTreeSet<bool>, ports: &[PodPort]) -> Value {
    let ranges = service["spec"]["loadBalancerSourceRanges"].as_array().cloned().unwrap_or_default();
    let named: Vec<String> = ranges.iter().filter_map(|range| Some(range.as_str()?.to_owned())).collect();
    let all = families.iter().map(|v4| if *v4 { "0.0.0.0/0" } else { "::/0" }.to_owned());
    let networks: Vec<String> = if named.is_empty() { all.collect() } else { named };
    let from: Vec<Value> = networks.iter().map(|network| json!({"ipBlock": {"cidr": network}})).collect();
    let ports: Vec<Value> =
        ports.iter().map(|port| json!({"protocol": port.protocol, "port": port.target})).collect();
    json!({"from": from, "ports": ports})
}

/// Kinds of policies that others brought along, by their definitions: what they say is not known here.
pub fn other_kinds(installation: &Installation) -> impl Iterator<Item = &str> {
    let is_policy = |name: &&str| {
        [
            "ciliumnetworkpolicies.cilium.io",
            "ciliumclusterwidenetworkpolicies.cilium.io",
            "networkpolicies.crd.projectcalico.org",
            "globalnetworkpolicies.crd.projectcalico.org",
            "clusternetworkpolicies.policy.networking.k8s.io",
            "adminnetworkpolicies.policy.networking.k8s.io",
        ]
        .contains(name)
    };
    installation.of_kind("CustomResourceDefinition").map(|(key, _)| key.name.as_str()).filter(is_policy)
}

#[cfg(test)]
mod tests;
