//! What the controller has to say of Services, in events: the words are MetalLB's (`controller/service.go`).

use std::net::IpAddr;

use lb_api::{ProblemKind, Settled, Severity};
use lb_core::{
    allocate::{AllocationError, Remark},
    model::ObjectName,
};

use crate::output::{Facts, Reason};

/// What is to be said of an allocation, as long as the status of Services is not yet what was decided, or as long as they have to wait.
pub fn facts(settled: &Settled) -> Facts {
    let mut facts = Facts::new();
    let mut say = |service: &ObjectName, reason, words: String| {
        facts.insert((service.clone(), reason), words);
    };
    for (name, addresses) in &settled.allocation.addresses {
        let had = settled.snapshot.services.get(name).map_or(&[][..], |service| &service.ingress);
        let new: Vec<IpAddr> = addresses.iter().copied().filter(|address| !had.contains(address)).collect();
        match (new.len(), new.len() == addresses.len()) {
            (0, _) => {}
            (_, true) => say(name, Reason::IpAllocated, format!("Assigned IP {}", quoted(&new))),
            (_, false) => {
                let words = format!("Assigned additional IP {}", quoted(&new));
                say(name, Reason::IpAllocated, words);
            }
        }
    }
    for (name, remark) in &settled.allocation.remarks {
        let (reason, words) = match remark {
            Remark::Cleared(error) => (
                Reason::ClearAssignment,
                format!(
                    "current IP for \"{name}\" not allowed by config, will attempt for new IP assignment: {error}"
                ),
            ),
            Remark::OneFamily(error) => (
                Reason::AdditionalAssignFailed,
                format!("cannot assign additional IP in PreferDualStack: {error}"),
            ),
            Remark::Stranded(_) => (Reason::AddressStranded, remark.to_string()),
        };
        say(name, reason, words);
    }
    for (name, error) in &settled.allocation.errors {
        let (reason, words) = match error {
            AllocationError::OneClusterIp => (Reason::NotEnoughClusterIps, error.to_string()),
            _ => (Reason::AllocationFailed, format!("Failed to allocate IP for \"{name}\": {error}")),
        };
        say(name, reason, words);
    }
    for problem in settled.problems.iter() {
        let Some(object) = problem.object.as_ref().filter(|object| object.kind == "Service") else {
            continue;
        };
        let name = object.object_name();
        match (&problem.kind, problem.severity) {
            (ProblemKind::Allocation(_) | ProblemKind::Remark(_), _) => {}
            (ProblemKind::OldPrefix { annotation, .. }, _) => {
                let words = format!("Service uses deprecated annotation {annotation}");
                say(&name, Reason::DeprecatedAnnotation, words);
            }
            (kind, Severity::Error) => {
                say(&name, Reason::LoadBalancerFailed, format!("{}: {kind}", problem.field));
            }
            (_, Severity::Warning) => {}
        }
    }
    facts
}

/// As MetalLB writes a list of addresses.
fn quoted(addresses: &[IpAddr]) -> String {
    let quoted: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use lb_api::Memory;

    use super::*;

    const POOL: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: a, namespace: metallb-system}
spec: {addresses: [192.0.2.200-192.0.2.201, '2001:db8::200/128']}
---
";

    fn said(annotations: &str, spec: &str, status: &str) -> Vec<(Reason, String)> {
        let ingress: Vec<String> = status.split_whitespace().map(|ip| format!("{{ip: '{ip}'}}")).collect();
        let service = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web, annotations: {{{annotations}}}}}, spec: {{type: LoadBalancer, \
             ports: [{{port: 80}}], {spec}}}, status: {{loadBalancer: {{ingress: [{}]}}}}}}",
            ingress.join(", ")
        );
        let settled = Memory::default()
            .settle(&[("a.yaml".to_owned(), (POOL.to_owned() + &service).into_bytes())].into());
        facts(&settled).into_iter().map(|((_, reason), words)| (reason, words)).collect()
    }

    #[test]
    fn what_is_said_is_what_metallb_says() {
        let both = "ipFamilyPolicy: PreferDualStack";
        let one = |reason, words: &str| vec![(reason, words.to_owned())];
        assert_eq!(said("", "", ""), one(Reason::IpAllocated, "Assigned IP [\"192.0.2.200\"]"));
        assert_eq!(
            said("", both, ""),
            one(Reason::IpAllocated, "Assigned IP [\"192.0.2.200\" \"2001:db8::200\"]")
        );
        let held = "metallb.io/ip-allocated-from-pool: a";
        assert_eq!(said(held, "", "192.0.2.201"), [], "nothing is news");
        assert_eq!(
            said(held, both, "192.0.2.201"),
            one(Reason::IpAllocated, "Assigned additional IP [\"2001:db8::200\"]")
        );
        let reasons =
            |said: Vec<(Reason, String)>| said.into_iter().map(|(reason, _)| reason).collect::<Vec<_>>();
        assert_eq!(reasons(said("", "", "198.51.100.1")), [Reason::IpAllocated, Reason::ClearAssignment]);
        assert_eq!(reasons(said(held, "", "198.51.100.1")), [Reason::AddressStranded]);
        assert_eq!(reasons(said("", "loadBalancerIP: 198.51.100.1", "")), [Reason::AllocationFailed]);
        assert_eq!(reasons(said("", "loadBalancerIP: x", "")), [Reason::LoadBalancerFailed]);
        let required = "ipFamilies: [IPv4], ipFamilyPolicy: RequireDualStack";
        assert_eq!(reasons(said("", required, "")), [Reason::NotEnoughClusterIps]);
        assert_eq!(
            said("metallb.universe.tf/address-pool: a", "", "")[1],
            (
                Reason::DeprecatedAnnotation,
                "Service uses deprecated annotation metallb.universe.tf/address-pool".to_owned()
            )
        );
    }
}
