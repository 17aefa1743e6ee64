//! `Node`.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1;
use lb_core::{
    drain::{Limit, Reason},
    model::Node,
};

use crate::{
    decode::Reading,
    pool::labels,
    problem::{ProblemKind, Report, Severity},
};

const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const DRAIN: &str = "magnetite.io/drain";
const PREFIX: &str = "magnetite.io/";
/// Taints that mean that a node leaves, whatever their value and effect. Cordon (`node.kubernetes.io/unschedulable`) is none of them:
/// pods that are not scheduled here are no reason to move what is carried here.
const TAINTS: [(&str, Reason); 3] = [
    ("node.kubernetes.io/out-of-service", Reason::OutOfService),
    ("ToBeDeletedByClusterAutoscaler", Reason::Autoscaler),
    ("karpenter.sh/disrupted", Reason::Disrupted),
];

pub(crate) fn node(object: v1::Node, reading: &Reading, report: &mut Report<'_>) -> Option<Node> {
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
    let annotations = object.metadata.annotations.unwrap_or_default();
    let leaving = leaving(&annotations, &spec.taints.unwrap_or_default(), report);
    is_good.then(|| Node {
        excluded: labels.contains_key(EXCLUDE) && !reading.ignore_exclude_lb,
        labels,
        addresses,
        pod_cidrs,
        network_unavailable,
        leaving,
    })
}

/// Why the node leaves, and until when.
fn leaving(
    annotations: &BTreeMap<String, String>,
    taints: &[v1::Taint],
    report: &mut Report<'_>,
) -> BTreeMap<Reason, Limit> {
    for name in annotations.keys().filter(|name| name.starts_with(PREFIX) && *name != DRAIN) {
        let kind = ProblemKind::UnknownAnnotation { known: &[DRAIN] };
        report.add(Severity::Warning, format!("metadata.annotations[{name}]"), kind);
    }
    let mut leaving: BTreeMap<Reason, Limit> = TAINTS
        .iter()
        .filter(|(key, _)| taints.iter().any(|taint| taint.key == *key))
        .map(|(_, reason)| (*reason, Limit::Unlimited))
        .collect();
    let limit = match annotations.get(DRAIN).map(String::as_str) {
        None | Some("false") => None,
        Some("true" | "") => Some(Limit::Unlimited),
        Some(text) => Some(duration(text).map_or_else(
            || {
                let expected = "true, false or a duration like 10m: it drains, without a deadline";
                let kind = ProblemKind::Value { value: text.to_owned(), expected };
                report.add(Severity::Warning, format!("metadata.annotations[{DRAIN}]"), kind);
                Limit::Unlimited
            },
            Limit::Within,
        )),
    };
    leaving.extend(limit.map(|limit| (Reason::Annotation, limit)));
    leaving
}

/// A duration as Kubernetes writes it (Go: `time.ParseDuration`), like `1h30m`; `None` of anything else, and of less than nothing.
pub fn duration(text: &str) -> Option<Duration> {
    // kube's own type panics when it overflows.
    SignedDuration::from_str(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_kubernetes_writes_them() {
        for (text, seconds) in [
            ("10m", 600.0),
            ("1h30m", 5400.0),
            ("1h30m0s", 5400.0),
            ("1.5h", 5400.0),
            ("300ms", 0.3),
            ("0s", 0.0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in
            ["", "10", "-10m", "5s-3s", "99999999999999999999h", "9223372036854775807h", "soon", "true"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
