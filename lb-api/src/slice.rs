//! `EndpointSlice`: endpoints join the ports of their Service.

use std::num::NonZeroU16;

use k8s_openapi::api::discovery::v1;
use lb_core::model::{Endpoint, EndpointCondition, NodeName, ObjectName, Protocol, Service};

use crate::{
    problem::{ProblemKind, Report, Severity},
    service::PORT,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The Service of a slice.
pub(crate) fn service_of(slice: &v1::EndpointSlice, namespace: &str) -> Option<ObjectName> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone();
    Some(ObjectName { namespace: namespace.to_owned(), name })
}

/// Adds the endpoints of a slice; one whose address cannot be read is left out.
pub(crate) fn join(slice: &v1::EndpointSlice, service: &mut Service, report: &mut Report<'_>) {
    for (i, port) in slice.ports.iter().flatten().enumerate() {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some(_) => continue,
        };
        let name = port.name.as_deref().unwrap_or_default();
        let Some(number) = port.port.and_then(|port| u16::try_from(port).ok()).and_then(NonZeroU16::new)
        else {
            let value = port.port.map(|port| port.to_string()).unwrap_or_default();
            let kind = ProblemKind::Value { value, expected: PORT };
            report.add(Severity::Warning, format!("ports[{i}].port"), kind);
            continue;
        };
        let Some(place) = service.ports.iter().position(|p| p.name == name && p.protocol == protocol) else {
            let kind = ProblemKind::NoSuchPort { port: name.to_owned(), protocol };
            report.add(Severity::Warning, format!("ports[{i}]"), kind);
            continue;
        };
        for (j, endpoint) in slice.endpoints.iter().enumerate() {
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
            let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
            let condition = match (ready, serving && terminating) {
                (true, _) => EndpointCondition::Ready,
                (false, true) => EndpointCondition::ServingTerminating,
                (false, false) => EndpointCondition::NotReady,
            };
            for (k, address) in endpoint.addresses.iter().enumerate() {
                match address.parse() {
                    Ok(address) => {
                        let node = endpoint.node_name.clone().map(NodeName);
                        service.endpoints[place].insert(Endpoint { address, port: number, node, condition });
                    }
                    Err(_) => {
                        let kind = ProblemKind::Value { value: address.clone(), expected: "an IP address" };
                        report.add(Severity::Warning, format!("endpoints[{j}].addresses[{k}]"), kind);
                    }
                }
            }
        }
    }
}
