//! `Node`.

use k8s_openapi::api::core::v1;
use lb_core::model::Node;

use crate::{pool::labels, problem::Report};

const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

pub(crate) fn node(object: v1::Node, report: &mut Report<'_>) -> Option<Node> {
    let labels = labels(object.metadata.labels);
    let status = object.status.unwrap_or_default();
    let mut addresses = Vec::new();
    let mut is_good = true;
    for (i, address) in status.addresses.unwrap_or_default().into_iter().enumerate() {
        if address.type_ != "InternalIP" {
            continue;
        }
        match address.address.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => {
                is_good = false;
                report.bad_value(format!("status.addresses[{i}].address"), address.address, "an IP address");
            }
        }
    }
    let spec = object.spec.unwrap_or_default();
    let cidrs = spec.pod_cidrs.unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
    let mut pod_cidrs = Vec::new();
    for (i, cidr) in cidrs.into_iter().enumerate() {
        match cidr.parse() {
            Ok(cidr) => pod_cidrs.push(cidr),
            Err(_) => {
                is_good = false;
                report.bad_value(format!("spec.podCIDRs[{i}]"), cidr, "a CIDR");
            }
        }
    }
    let conditions = status.conditions.unwrap_or_default();
    let network_unavailable =
        conditions.iter().any(|c| c.type_ == "NetworkUnavailable" && c.status == "True");
    is_good.then(|| Node {
        excluded: labels.contains_key(EXCLUDE),
        labels,
        addresses,
        pod_cidrs,
        network_unavailable,
    })
}
