//! `EndpointSlice`: endpoints join the ports of their Service.

use std::{net::IpAddr, num::NonZeroU16};

use k8s_openapi::api::discovery::v1;
use lb_core::model::{Endpoint, EndpointCondition, NodeName, ObjectName, Protocol, Service};

use crate::{
    problem::{ProblemKind, Report, Severity},
    service::PORT,
    shared::SharedTexts,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What of a slice can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The Service that it belongs to.
    pub service: ObjectName,
    ports: Vec<Port>,
    backends: Vec<Backend>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    /// Its place in the object.
    place: usize,
    name: String,
    protocol: Protocol,
    number: NonZeroU16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Backend {
    address: IpAddr,
    node: Option<NodeName>,
    condition: EndpointCondition,
}

/// `None` of one that belongs to no Service. An endpoint whose address cannot be read is left out.
pub(crate) fn slice(
    object: v1::EndpointSlice,
    namespace: &str,
    texts: &mut SharedTexts,
    report: &mut Report<'_>,
) -> Option<Slice> {
    let name = object.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    let service = ObjectName { namespace: texts.share(namespace), name: texts.share(name) };
    let mut ports = Vec::new();
    for (place, port) in object.ports.into_iter().flatten().enumerate() {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some(_) => continue,
        };
        match port.port.and_then(|port| u16::try_from(port).ok()).and_then(NonZeroU16::new) {
            Some(number) => {
                ports.push(Port { place, name: port.name.unwrap_or_default(), protocol, number });
            }
            None => {
                let value = port.port.map(|port| port.to_string()).unwrap_or_default();
                let kind = ProblemKind::Value { value, expected: PORT };
                report.add(Severity::Warning, format!("ports[{place}].port"), kind);
            }
        }
    }
    let mut backends = Vec::new();
    for (i, endpoint) in object.endpoints.into_iter().enumerate() {
        let condition = condition(endpoint.conditions.as_ref());
        let node = endpoint.node_name.as_deref().map(|name| NodeName(texts.share(name)));
        for (j, address) in endpoint.addresses.into_iter().enumerate() {
            if let Ok(address) = address.parse() {
                backends.push(Backend { address, node: node.clone(), condition });
            } else {
                let kind = ProblemKind::Value { value: address, expected: "an IP address" };
                report.add(Severity::Warning, format!("endpoints[{i}].addresses[{j}]"), kind);
            }
        }
    }
    backends.shrink_to_fit();
    Some(Slice { service, ports, backends })
}

/// Adds the endpoints of a slice. A port that the Service does not have is reported.
pub(crate) fn join(slice: &Slice, service: &mut Service, report: &mut Report<'_>) {
    for Port { place, name, protocol, number } in &slice.ports {
        let is_it = |port: &lb_core::model::ServicePort| port.name == *name && port.protocol == *protocol;
        let Some(joined) = service.ports.iter().position(is_it) else {
            let kind = ProblemKind::NoSuchPort { port: name.clone(), protocol: *protocol };
            report.add(Severity::Warning, format!("ports[{place}]"), kind);
            continue;
        };
        for Backend { address, node, condition } in &slice.backends {
            let endpoint =
                Endpoint { address: *address, port: *number, node: node.clone(), condition: *condition };
            service.endpoints[joined].insert(endpoint);
        }
    }
}

/// Of what is not said, the API says what it means (`EndpointConditions` of `discovery.k8s.io/v1`).
fn condition(conditions: Option<&v1::EndpointConditions>) -> EndpointCondition {
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    match (ready, serving && terminating) {
        (true, _) => EndpointCondition::Ready,
        (false, true) => EndpointCondition::ServingTerminating,
        (false, false) => EndpointCondition::NotReady,
    }
}
