//! `IPAddressPool` and `L2Advertisement`.

use std::{collections::BTreeMap, net::IpAddr, num::NonZero};

use ipnet::IpNet;
use k8s_openapi::api::networking;
use lb_core::model::{AddressRange, L2Advertisement, Labels, Pool, PreferredNodes, ServiceAllocation};

use crate::{
    annotations::{Annotations, L2, L2_EXPECTED, L2_MODES},
    crd,
    problem::{ObjectKey, ProblemKind, Report, Severity},
    selector::{selector, selectors},
};

pub(crate) fn pool(
    object: crd::IPAddressPool,
    namespaces: Option<&BTreeMap<String, Labels>>,
    report: &mut Report<'_>,
) -> Option<Pool> {
    let spec = object.spec;
    let mut ranges: Vec<AddressRange> = Vec::new();
    let mut is_good = true;
    if spec.addresses.is_empty() {
        is_good = false;
        report.add(Severity::Error, "spec.addresses", ProblemKind::NoAddresses);
    }
    for (i, text) in spec.addresses.iter().enumerate() {
        match range(text) {
            Some(range) => ranges.push(range),
            None => {
                is_good = false;
                let expected = "a CIDR (192.0.2.0/24) or a range (192.0.2.1-192.0.2.9)";
                report.bad_value(format!("spec.addresses[{i}]"), text, expected);
            }
        }
    }
    let service_allocation = match spec.service_allocation {
        None => None,
        Some(restriction) => Some(service_allocation(restriction, namespaces, report)?),
    };
    is_good.then(|| Pool {
        labels: labels(object.metadata.labels),
        ranges,
        auto_assign: spec.auto_assign,
        avoid_buggy: spec.avoid_buggy_ips,
        service_allocation,
    })
}

/// A selector that selects nothing is reported: it may be that the source has no Namespaces at all.
fn service_allocation(
    spec: crd::ServiceAllocation,
    namespaces: Option<&BTreeMap<String, Labels>>,
    report: &mut Report<'_>,
) -> Option<ServiceAllocation> {
    let field = "spec.serviceAllocation.namespaceSelectors";
    let namespace_selectors = selectors(field, spec.namespace_selectors, report)?;
    for (i, selector) in namespace_selectors.iter().enumerate() {
        let meets = |known: &BTreeMap<String, Labels>| known.values().any(|labels| selector.matches(labels));
        if !namespaces.is_none_or(meets) {
            report.add(Severity::Warning, format!("{field}[{i}]"), ProblemKind::NoNamespace);
        }
    }
    report.repeated("spec.serviceAllocation.namespaces", &spec.namespaces);
    Some(ServiceAllocation {
        priority: spec.priority.and_then(NonZero::new),
        namespaces: spec.namespaces.into_iter().collect(),
        namespace_selectors,
        service_selectors: selectors(
            "spec.serviceAllocation.serviceSelectors",
            spec.service_selectors,
            report,
        )?,
    })
}

/// Reports the first range that overlaps with one of the pool's own before it, or of another pool.
pub(crate) fn is_apart<'a>(
    pool: &Pool,
    others: impl IntoIterator<Item = (&'a String, &'a Pool)>,
    report: &mut Report<'_>,
) -> bool {
    for (i, range) in pool.ranges.iter().enumerate() {
        if pool.ranges[..i].iter().any(|other| other.overlaps(range)) {
            let range = format!("{}-{}", range.first(), range.last());
            report.add(Severity::Error, format!("spec.addresses[{i}]"), ProblemKind::OverlapWithin { range });
            return false;
        }
    }
    for (other, other_pool) in others {
        for (i, range) in pool.ranges.iter().enumerate() {
            if other_pool.ranges.iter().any(|other| other.overlaps(range)) {
                let range = format!("{}-{}", range.first(), range.last());
                let kind = ProblemKind::Overlap { range, other: other.clone() };
                report.add(Severity::Error, format!("spec.addresses[{i}]"), kind);
                return false;
            }
        }
    }
    true
}

/// Where Services have their cluster addresses.
pub(crate) fn service_cidr(
    object: networking::v1::ServiceCIDR,
    report: &mut Report<'_>,
) -> Option<Vec<IpNet>> {
    let mut networks = Vec::new();
    for (i, text) in object.spec?.cidrs.unwrap_or_default().iter().enumerate() {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(_) => {
                report.bad_value(format!("spec.cidrs[{i}]"), text, "a CIDR (10.96.0.0/16)");
                return None;
            }
        }
    }
    Some(networks)
}

pub(crate) fn l2_advertisement(
    object: crd::L2Advertisement,
    report: &mut Report<'_>,
) -> Option<L2Advertisement> {
    let annotations = Annotations(object.metadata.annotations.unwrap_or_default());
    annotations.report_unknown(&[L2], report);
    let l2 = annotations.one_of(L2, &L2_MODES, L2_EXPECTED, report)?;
    let spec = object.spec;
    let mut preferred = Vec::new();
    for (i, crd::PreferredNodeSelector { weight, preference }) in
        spec.preferred_node_selectors.into_iter().enumerate()
    {
        let field = format!("spec.preferredNodeSelectors[{i}]");
        let nodes = selector(&format!("{field}.preference"), preference, report)?;
        let Some(nodes) = PreferredNodes::new(weight, nodes) else {
            report.bad_value(format!("{field}.weight"), weight.to_string(), "a weight from 1 to 100");
            return None;
        };
        preferred.push(nodes);
    }
    report.repeated("spec.ipAddressPools", &spec.ip_address_pools);
    Some(L2Advertisement {
        pools: spec.ip_address_pools.into_iter().collect(),
        pool_selectors: selectors("spec.ipAddressPoolSelectors", spec.ip_address_pool_selectors, report)?,
        node_selectors: selectors("spec.nodeSelectors", spec.node_selectors, report)?,
        interfaces: spec.interfaces.into_iter().collect(),
        service_selectors: selectors("spec.serviceSelectors", spec.service_selectors, report)?,
        l2,
        preferred,
    })
}

/// A CIDR or `first-last`, spaces allowed. As in Go an IPv4 address that is mapped to IPv6 is one of IPv4, and the length of a prefix may
/// have leading zeros.
fn range(text: &str) -> Option<AddressRange> {
    let address =
        |text: &str| text.trim().parse().ok().map(|address: IpAddr| (address, address.to_canonical()));
    if let Some((first, last)) = text.split_once('-') {
        return AddressRange::new(address(first)?.1, address(last)?.1);
    }
    let (network, length) = text.trim().split_once('/')?;
    let (written, network) = address(network)?;
    let length: u8 = length.parse().ok().filter(|_| length.bytes().all(|byte| byte.is_ascii_digit()))?;
    let mapped = if written == network { 0 } else { MAPPED };
    Some(IpNet::new(network, length.checked_sub(mapped)?).ok()?.into())
}

/// Length of the prefix of IPv4 addresses that are mapped to IPv6 (RFC 4291, section 2.5.5.2).
const MAPPED: u8 = 96;

/// Labels of an object.
pub(crate) fn labels(labels: Option<BTreeMap<String, String>>) -> Labels {
    labels.into_iter().flatten().collect()
}

/// Whether it is one of the objects by which MetalLB is configured.
pub fn is_configuration(key: &ObjectKey) -> bool {
    matches!(
        key.kind.as_str(),
        "IPAddressPool" | "L2Advertisement" | "BGPAdvertisement" | "BGPPeer" | "BFDProfile" | "Community"
    )
}

/// The kinds that are read.
pub(crate) fn is_used(key: &ObjectKey) -> bool {
    matches!(
        key.kind.as_str(),
        "Service"
            | "EndpointSlice"
            | "Node"
            | "Namespace"
            | "ServiceCIDR"
            | "IPAddressPool"
            | "L2Advertisement"
            | "Secret"
    )
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn ranges_are_cidrs_or_pairs() {
        let shown = |text| range(text).map(|range| format!("{} {}", range.first(), range.last()));
        assert_eq!(shown("192.0.2.8/30").as_deref(), Some("192.0.2.8 192.0.2.11"));
        assert_eq!(shown("2001:db8::/127").as_deref(), Some("2001:db8:: 2001:db8::1"));
        assert_eq!(shown("192.0.2.1 - 192.0.2.9").as_deref(), Some("192.0.2.1 192.0.2.9"));
        assert_eq!(shown("192.0.2.8/030").as_deref(), Some("192.0.2.8 192.0.2.11"));
        assert_eq!(shown("::ffff:192.0.2.8/126").as_deref(), Some("192.0.2.8 192.0.2.11"));
        assert_eq!(shown("::ffff:192.0.2.1-192.0.2.9").as_deref(), Some("192.0.2.1 192.0.2.9"));
        for bad in [
            "192.0.2.0/+24",
            "192.0.2.0/",
            "::ffff:192.0.2.8/95",
            "2001:db8::9-2001:db8::1",
            "",
            "192.0.2.1",
            "192.0.2.9-192.0.2.1",
            "192.0.2.1-2001:db8::",
            "192.0.2.0/33",
            "-",
        ] {
            assert_eq!(shown(bad), None, "{bad:?}");
        }
    }
}
