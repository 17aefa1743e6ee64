//! `Service`.

use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU16};

use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use lb_core::{
    allocate::{AllocationError, Claim},
    model::{
        Echo, Family, FamilyPolicy, Forwarding, Protocol, Service, ServicePort, TableSize, TrafficPolicy,
    },
    rows::MAX_SLOTS,
};

use crate::{
    annotations::{Annotations, L2, L2_EXPECTED, L2_MODES, annotation},
    decode::Reading,
    pool::labels,
    problem::{ProblemKind, Report, Severity},
};

/// Where in a Service stands what its allocation depends on, as paths.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields {
    requested: String,
    requested_pool: String,
    /// Addresses, and at which places.
    ingress: Vec<(IpAddr, usize)>,
}

impl Fields {
    /// The field that has to be mended; empty if it is none of the Service's.
    pub fn of(&self, error: &AllocationError) -> String {
        let held = |address: &IpAddr| {
            let known = self.ingress.iter().find(|(known, _)| known == address);
            known.map(|(_, place)| ingress_field(*place))
        };
        match error {
            AllocationError::OutsidePools { address, claim }
            | AllocationError::TwoPools { address, claim, .. }
            | AllocationError::Taken { address, claim, .. }
            | AllocationError::Buggy { address, claim, .. }
            | AllocationError::InUse { address, claim, .. }
            | AllocationError::Reserved { address, claim, .. } => match claim {
                Claim::Held => held(address).unwrap_or_default(),
                Claim::Requested => self.requested.clone(),
            },
            AllocationError::Families { .. } | AllocationError::OtherPool { .. } => self.requested.clone(),
            AllocationError::NoPool { .. } | AllocationError::NotAdmitted { .. } => {
                self.requested_pool.clone()
            }
            AllocationError::OneClusterIp => "spec.ipFamilyPolicy".to_owned(),
            AllocationError::Exhausted { .. } => String::new(),
        }
    }
}

/// `None` if it is not ours, or wrong.
pub(crate) fn service(
    object: v1::Service,
    reading: &Reading,
    report: &mut Report<'_>,
) -> Option<(Service, Fields)> {
    let spec = object.spec?;
    if spec.type_.as_deref() != Some("LoadBalancer") || spec.load_balancer_class != reading.lb_class {
        return None;
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        // Headless: nobody forwards to its pods.
        return None;
    }
    let annotations = Annotations(object.metadata.annotations.unwrap_or_default());
    annotations.report_unknown(&KNOWN, report);
    annotations.report_old(report);
    let (ports, sctp_ports) = ports(spec.ports.unwrap_or_default(), report);
    let policy = match spec.external_traffic_policy.as_deref() {
        None | Some("Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            report.bad_value("spec.externalTrafficPolicy", other, "Cluster or Local");
            return None;
        }
    };
    let sources = sources(spec.load_balancer_source_ranges.unwrap_or_default(), report)?;
    let cluster_addresses = spec.cluster_ips.or(spec.cluster_ip.map(|ip| vec![ip]));
    let (families, family_policy) =
        families(spec.ip_families, cluster_addresses, spec.ip_family_policy.as_deref(), report)?;
    let mut fields = Fields::default();
    let requested = requested(&annotations, spec.load_balancer_ip.as_deref(), &mut fields, report)?;
    let requested_pool = annotations.metallb("address-pool").map(|(field, pool)| {
        fields.requested_pool = field;
        pool.clone()
    });
    let of_metallb = |name| annotations.metallb(name).map(|(_, value)| value.clone());
    let sharing_key = of_metallb("allow-shared-ip").unwrap_or_default();
    let held_pool = of_metallb("ip-allocated-from-pool");
    let forwarding = annotations.one_of(FORWARDING, &FORWARDINGS, "auto, dsr or kernel", report)?;
    let echo = annotations.one_of(ECHO, &ECHOS, "always or ready", report)?;
    let l2 = annotations.one_of(L2, &L2_MODES, L2_EXPECTED, report)?;
    let table_size = match annotations.0.get(TABLE_SIZE) {
        None => None,
        Some(text) => match table_size(text) {
            Some(size) => Some(size),
            None => {
                let expected =
                    "a power of two from 64 to 65536, or two of them, the new and the smaller previous one";
                report.bad_value(annotation(TABLE_SIZE), text, expected);
                return None;
            }
        },
    };
    // The controller's note to itself: what cannot be read is written anew.
    let grown = annotations.0.get(TABLE_GROWN).and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let table_grown = grown.map(jiff::Timestamp::as_second);
    let client_ip_affinity = match spec.session_affinity.as_deref() {
        None | Some("None") => false,
        Some("ClientIP") => true,
        Some(other) => {
            report.bad_value("spec.sessionAffinity", other, "None or ClientIP");
            return None;
        }
    };
    let ingress = ingress(object.status.unwrap_or_default(), &mut fields, report)?;
    let service = Service {
        created: object.metadata.creation_timestamp.map(|time| time.0.as_second()),
        labels: labels(object.metadata.labels),
        families,
        family_policy,
        endpoints: vec![BTreeSet::new(); ports.len()],
        ports,
        sctp_ports,
        selector: labels(spec.selector),
        policy,
        client_ip_affinity,
        sources,
        requested,
        requested_pool: requested_pool.filter(|pool| !pool.is_empty()),
        sharing_key,
        ingress,
        held_pool,
        forwarding: forwarding.unwrap_or(Forwarding::Auto),
        echo: echo.unwrap_or(Echo::Always),
        table_size,
        table_grown,
        l2,
    };
    Some((service, fields))
}

/// The annotation by which a Service says of which pool its addresses are (MetalLB: `controller/service.go`).
pub const ALLOCATED_FROM: &str = "metallb.io/ip-allocated-from-pool";

/// What a port has to be.
pub(crate) const PORT: &str = "a port from 1 to 65535";

/// The annotation by which a Service says who forwards: the data path, or the kernel.
pub const FORWARDING: &str = "magnetite.io/forwarding";
const FORWARDINGS: [(&str, Forwarding); 3] =
    [("auto", Forwarding::Auto), ("dsr", Forwarding::Dsr), ("kernel", Forwarding::Kernel)];
const ECHO: &str = "magnetite.io/echo";
const ECHOS: [(&str, Echo); 2] = [("always", Echo::Always), ("ready", Echo::Ready)];
/// How long a Service's table is: a power of two; for a day after it has grown, with what it was before.
pub const TABLE_SIZE: &str = "magnetite.io/table-size";
/// Since when [`TABLE_SIZE`] says what it was before (RFC 3339).
pub const TABLE_GROWN: &str = "magnetite.io/table-grown";
const KNOWN: [&str; 5] = [FORWARDING, ECHO, TABLE_SIZE, TABLE_GROWN, L2];

/// The ports that are balanced, and those of SCTP; what is neither is reported, and the rest goes on.
fn ports(ports: Vec<v1::ServicePort>, report: &mut Report<'_>) -> (Vec<ServicePort>, BTreeSet<NonZeroU16>) {
    let (mut balanced, mut sctp) = (Vec::new(), BTreeSet::new());
    for (i, port) in ports.into_iter().enumerate() {
        let Some(number) = u16::try_from(port.port).ok().and_then(NonZeroU16::new) else {
            let kind = ProblemKind::Value { value: port.port.to_string(), expected: PORT };
            report.add(Severity::Warning, format!("spec.ports[{i}].port"), kind);
            continue;
        };
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some(other) => {
                let expected = "TCP or UDP: left to the kernel";
                let kind = ProblemKind::Value { value: other.to_owned(), expected };
                report.add(Severity::Warning, format!("spec.ports[{i}].protocol"), kind);
                if other == "SCTP" {
                    sctp.insert(number);
                }
                continue;
            }
        };
        balanced.push(ServicePort { name: port.name.unwrap_or_default(), protocol, port: number });
    }
    (balanced, sctp)
}

/// One that cannot be read leaves nothing: the Service would be open to more than was meant.
fn sources(ranges: Vec<String>, report: &mut Report<'_>) -> Option<BTreeSet<IpNet>> {
    let mut sources = BTreeSet::new();
    for (i, range) in ranges.into_iter().enumerate() {
        match range.trim().parse::<IpNet>() {
            Ok(network) => sources.insert(network.trunc()),
            Err(_) => {
                report.bad_value(format!("spec.loadBalancerSourceRanges[{i}]"), range, "a CIDR");
                return None;
            }
        };
    }
    Some(sources)
}

/// `ipFamilies`, else those of the cluster addresses; without both, which the API server fills in, those of the policy.
fn families(
    names: Option<Vec<String>>,
    cluster_addresses: Option<Vec<String>>,
    policy: Option<&str>,
    report: &mut Report<'_>,
) -> Option<(Vec<Family>, FamilyPolicy)> {
    let mut families = Vec::new();
    for (i, name) in names.unwrap_or_default().iter().enumerate() {
        match name.as_str() {
            "IPv4" => families.push(Family::V4),
            "IPv6" => families.push(Family::V6),
            other => {
                report.bad_value(format!("spec.ipFamilies[{i}]"), other, "IPv4 or IPv6");
                return None;
            }
        }
    }
    if families.is_empty() {
        let addresses =
            cluster_addresses.into_iter().flatten().filter_map(|address| address.parse::<IpAddr>().ok());
        families.extend(addresses.map(|address| Family::of(&address)));
    }
    families.dedup();
    let policy = match policy {
        None if families.len() > 1 => FamilyPolicy::RequireDualStack,
        None | Some("SingleStack") => FamilyPolicy::SingleStack,
        Some("PreferDualStack") => FamilyPolicy::PreferDualStack,
        Some("RequireDualStack") => FamilyPolicy::RequireDualStack,
        Some(other) => {
            let expected = "SingleStack, PreferDualStack or RequireDualStack";
            report.bad_value("spec.ipFamilyPolicy", other, expected);
            return None;
        }
    };
    if families.is_empty() {
        families.push(Family::V4);
        families.extend((policy != FamilyPolicy::SingleStack).then_some(Family::V6));
    }
    Some((families, policy))
}

fn requested(
    annotations: &Annotations,
    field: Option<&str>,
    fields: &mut Fields,
    report: &mut Report<'_>,
) -> Option<Vec<IpAddr>> {
    let annotated = annotations.metallb("loadBalancerIPs").filter(|(_, text)| !text.is_empty());
    let (place, text) = match (annotated, field.filter(|text| !text.is_empty())) {
        (Some((place, _)), Some(_)) => {
            report.add(Severity::Error, place, ProblemKind::AskedTwice { other: "spec.loadBalancerIP" });
            return None;
        }
        (Some((place, text)), None) => (place, text.as_str()),
        (None, Some(text)) => ("spec.loadBalancerIP".to_owned(), text),
        (None, None) => return Some(Vec::new()),
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for part in text.split(',').map(str::trim) {
        // An IPv4 address may be written as an IPv6 one, as Go takes it.
        match part.parse().map(|address: IpAddr| address.to_canonical()) {
            Ok(address) if addresses.iter().all(|other| Family::of(other) != Family::of(&address)) => {
                addresses.push(address);
            }
            _ => {
                report.bad_value(place, part, "an IP address, at most one of a family");
                return None;
            }
        }
    }
    fields.requested = place;
    Some(addresses)
}

/// The addresses that the Service has; entries with a host name have none.
fn ingress(status: v1::ServiceStatus, fields: &mut Fields, report: &mut Report<'_>) -> Option<Vec<IpAddr>> {
    let entries = status.load_balancer.and_then(|status| status.ingress).unwrap_or_default();
    let mut addresses = Vec::new();
    for (i, entry) in entries.into_iter().enumerate() {
        let Some(text) = entry.ip.filter(|text| !text.is_empty()) else { continue };
        match text.parse() {
            Ok(address) => {
                addresses.push(address);
                fields.ingress.push((address, i));
            }
            Err(_) => {
                report.bad_value(ingress_field(i), text, "an IP address");
                return None;
            }
        }
    }
    Some(addresses)
}

fn ingress_field(place: usize) -> String {
    format!("status.loadBalancer.ingress[{place}].ip")
}

fn table_size(text: &str) -> Option<TableSize> {
    let length = |text: &str| {
        text.trim().parse().ok().filter(|n: &u32| n.is_power_of_two() && (64..=MAX_SLOTS).contains(n))
    };
    match text.split_once(',') {
        None => Some(TableSize { length: length(text)?, previous: None }),
        Some((new, previous)) => {
            let (new, previous) = (length(new)?, length(previous)?);
            (previous < new).then_some(TableSize { length: new, previous: Some(previous) })
        }
    }
}
