//! Ports of Services in a node's status: who carries their flows, and why it is not the data path alone.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_core::plan::{Frontend, KernelReason, Plan, ServicePlan};
use serde::{Deserialize, Serialize, Serializer};

use super::status::Outcome;

/// All ports, each made when it is written: all together would take the most memory of what an agent says.
#[derive(Clone, Copy, Debug)]
pub struct Services<'a> {
    plan: &'a Plan,
    without_room: &'a BTreeMap<Frontend, KernelReason>,
}

impl<'a> Services<'a> {
    /// Those of a plan.
    pub fn of(outcome: &Outcome<'a>) -> Self {
        Self { plan: outcome.plan, without_room: outcome.without_room }
    }
}

impl Serialize for Services<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.plan.services.iter().map(|(frontend, service)| {
            (frontend.to_string(), ServiceStatus::of(service, self.without_room.get(frontend)))
        }))
    }
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// The Service.
    pub service: String,
    /// Who carries its new flows.
    pub forwarding: ForwardingStatus,
    /// Why not `dsr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Rows of its table.
    pub table: u32,
    /// By `address:port`.
    pub endpoints: BTreeMap<String, EndpointStatus>,
}

/// Who carries the new flows of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardingStatus {
    /// The data path; replies leave straight from the pod's node.
    #[default]
    Dsr,
    /// The data path, but for those to some of the ready endpoints.
    Partly,
    /// The kernel: the service, or each of its ready endpoints, is left to it.
    Kernel,
}

impl ForwardingStatus {
    /// As it is written in the object.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dsr => "dsr",
            Self::Partly => "partly",
            Self::Kernel => "kernel",
        }
    }
}

/// An endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether it takes new flows.
    pub ready: bool,
    /// Why flows to it are left to the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

impl ServiceStatus {
    /// From its plan; `no_room` if the data path has no room for it.
    pub fn of(service: &ServicePlan, no_room: Option<&KernelReason>) -> Self {
        let endpoints = service.endpoints.iter().map(|((address, port), endpoint)| {
            let status = EndpointStatus {
                node: endpoint.node.as_ref().map(ToString::to_string),
                ready: endpoint.ready,
                kernel: endpoint.kernel.as_ref().map(ToString::to_string),
            };
            (SocketAddr::new(*address, port.get()).to_string(), status)
        });
        let (forwarding, reason) = forwarding(service, service.kernel.as_ref().or(no_room));
        Self {
            service: service.service.to_string(),
            forwarding,
            reason,
            table: service.table.length,
            endpoints: endpoints.collect(),
        }
    }
}

/// Who carries the flows, and why it is not the data path alone.
fn forwarding(service: &ServicePlan, kernel: Option<&KernelReason>) -> (ForwardingStatus, Option<String>) {
    if let Some(reason) = kernel {
        return (ForwardingStatus::Kernel, Some(reason.to_string()));
    }
    let ready: Vec<_> = service.endpoints.values().filter(|endpoint| endpoint.ready).collect();
    let left: Vec<_> = ready.iter().filter_map(|endpoint| endpoint.kernel.as_ref()).collect();
    let Some(first) = left.first() else { return (ForwardingStatus::Dsr, None) };
    let others = if left.iter().any(|reason| reason != first) { ", and other reasons" } else { "" };
    let reason = format!("{} of {} ready endpoints: {first}{others}", left.len(), ready.len());
    let forwarding =
        if left.len() == ready.len() { ForwardingStatus::Kernel } else { ForwardingStatus::Partly };
    (forwarding, Some(reason))
}
