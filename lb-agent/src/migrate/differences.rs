//! What is not taken over, and what is otherwise with us, where it matters for what is there.

use std::collections::BTreeMap;

use lb_api::ProblemKind;
use lb_core::{allocate::Remark, model::Labels};
use serde_json::Value;

use super::{
    installation::{IGNORE_EXCLUDE_LB, Installation, LB_CLASS, Part, Whose, annotation, label, text},
    labels::{Match, selects},
    policies::other_kinds,
    report::Finding,
};

/// What is not taken over, by object and field.
pub fn not_taken_over(installation: &Installation) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |object: String, field: &str, words: &str| {
        findings.push(Finding { object, field: field.to_owned(), words: words.to_owned() });
    };
    let by_bgp = installation.settled.origins.keys();
    for key in by_bgp.filter(|key| matches!(key.kind.as_str(), "BGPPeer" | "BGPAdvertisement" | "BFDProfile"))
    {
        say(
            key.to_string(),
            "",
            "is read and checked; no BGP is spoken yet, and what it announces is announced no more",
        );
    }
    for (key, _) in installation.of_kind("BGPPeer").filter(|(_, peer)| !text(peer, "/spec/vrf").is_empty()) {
        say(
            key.to_string(),
            "spec.vrf",
            "sessions in a VRF, and routes that are imported from one, are not taken over",
        );
    }
    let extras = installation.own("ConfigMap", "bgpextras");
    if extras.is_some_and(|extras| !text(extras, "/data/extras").trim().is_empty()) {
        let words = "lines of FRR's own configuration are not taken over: say what they do in BGPPeers and BGPAdvertisements";
        say(format!("ConfigMap {}/bgpextras", installation.namespace), "data.extras", words);
    }
    for (key, object) in installation.of_kind("FRRConfiguration") {
        let words = match is_of_speaker(installation, object) {
            true => {
                "was written by a speaker of MetalLB, and frr-k8s goes on announcing what stands in it when the speaker is gone: \
                     delete it then"
            }
            false => {
                "is frr-k8s's own, and not taken over: frr-k8s goes on doing what it says as long as it runs"
            }
        };
        say(key.to_string(), "", words);
    }
    excluded_links(installation, &mut say);
    findings
}

/// MetalLB's own list, of links that are none of ours to serve anyway.
const EXCLUDED: [&str; 15] = [
    "docker",
    "cbr",
    "dummy",
    "virbr",
    "lxcbr",
    "veth",
    "lo",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "nodelocaldns",
    "lxc",
    "br-",
];

fn excluded_links(installation: &Installation, say: &mut impl FnMut(String, &str, &str)) {
    let maps = installation
        .of_kind("ConfigMap")
        .filter(|(key, _)| key.namespace == installation.namespace && key.name.ends_with("excludel2"));
    for (key, map) in maps {
        let lines = text(map, "/data/excludel2.yaml").lines().map(str::trim);
        let patterns = lines.filter_map(|line| line.strip_prefix("- "));
        let patterns = patterns.map(|pattern| pattern.trim_matches(['"', '\'']));
        let is_usual =
            |pattern: &&str| EXCLUDED.iter().any(|usual| pattern.trim_start_matches('^').starts_with(usual));
        let others: Vec<&str> = patterns.filter(|pattern| !is_usual(pattern)).collect();
        if !others.is_empty() {
            let words = format!(
                "is not read: if links like {} must not announce, name those that may in spec.interfaces of L2Advertisements",
                others.join(", ")
            );
            say(key.to_string(), "data[excludel2.yaml]", &words);
        }
    }
}

/// Of those it owns the name says so: `metallb-` and the node.
fn is_of_speaker(installation: &Installation, object: &Value) -> bool {
    let node = text(object, "/metadata/name").strip_prefix("metallb-");
    node.is_some_and(|node| installation.of_kind("Node").any(|(key, _)| key.name == node))
}

/// What is otherwise than with MetalLB, where it matters here.
pub fn differences(installation: &Installation) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |object: String, field: &str, words: String| {
        findings.push(Finding { object, field: field.to_owned(), words });
    };
    let settled = &installation.settled;
    for problem in settled.problems.iter() {
        let Some(object) = &problem.object else { continue };
        match &problem.kind {
            ProblemKind::NoNamespace => {
                let words = "selects no namespace, so by it nobody gets an address; MetalLB takes that for any namespace".to_owned();
                say(object.to_string(), &problem.field, words);
            }
            ProblemKind::InUse { part, purpose } => {
                let words = format!("{part} is {purpose}: it is given to nobody; MetalLB gives it");
                say(object.to_string(), &problem.field, words);
            }
            ProblemKind::Remark(Remark::Stranded(error)) => {
                let words = format!(
                    "keeps what it has until it asks for something else; MetalLB would take it away: {error}"
                );
                say(object.to_string(), &problem.field, words);
            }
            _ => {}
        }
    }
    for (kind, part) in [("Deployment", Part::Controller), ("DaemonSet", Part::Speaker)] {
        for flag in [LB_CLASS, IGNORE_EXCLUDE_LB] {
            let Some((key, value)) = installation.flag(kind, Whose::MetalLb, part, flag) else { continue };
            let given = if value.is_empty() { format!("--{flag}") } else { format!("--{flag}={value}") };
            let words =
                format!("means the same with us, and our manifests do not say it: give {given} to ours");
            say(key.to_string(), &format!("--{flag}"), words);
        }
    }
    if let Some(pools) = ambiguous(installation) {
        let words = "come one after the other, by name; MetalLB takes one at random".to_owned();
        say(format!("IPAddressPools {}", pools.join(", ")), "", words);
    }
    let has_objects = installation.of_kind("IPAddressPool").next().is_some();
    if has_objects
        && installation.own("ConfigMap", "config").is_some_and(|map| map["data"]["config"].is_string())
    {
        let words = "is read as well, beside the objects that replaced it; MetalLB does not read it since 0.13: delete it".to_owned();
        say(format!("ConfigMap {}/config", installation.namespace), "data.config", words);
    }
    for (key, _) in own_policies(installation) {
        let words = "selects pods of MetalLB's names, and ours have the same: let our controller out to the API server, or delete it";
        say(key.to_string(), "spec.podSelector", words.to_owned());
    }
    for (tool, object) in keepers(installation) {
        let words = format!(
            "is kept by {tool}, which undoes what is done here: take MetalLB out of what it keeps, without pruning, first"
        );
        say(object, "metadata", words);
    }
    let others: Vec<&str> = other_kinds(installation).collect();
    if !others.is_empty() {
        let words = "these kinds of policies are there, and were not looked at: see that they let clients in to pods before Services are \
                     switched";
        say(others.join(", "), "", words.to_owned());
    }
    findings
}

/// Pools of which none goes before the other.
fn ambiguous(installation: &Installation) -> Option<Vec<String>> {
    let pools = installation.settled.snapshot.pools.iter().filter(|(_, pool)| pool.auto_assign);
    let mut by_priority: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for (name, pool) in pools {
        let priority = pool.service_allocation.as_ref().map(|allocation| allocation.priority);
        by_priority.entry(priority).or_default().push(name.clone());
    }
    by_priority.into_values().find(|names| names.len() > 1)
}

fn own_policies(installation: &Installation) -> impl Iterator<Item = (&lb_api::ObjectKey, &Value)> {
    let ours = [("app", "metallb"), ("component", "controller")];
    let ours = ours.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<Labels>();
    installation.of_kind("NetworkPolicy").filter(move |(key, policy)| {
        let selector = serde_json::from_value(policy["spec"]["podSelector"].clone()).unwrap_or_default();
        key.namespace == installation.namespace && selects(&selector, &ours) == Match::Always
    })
}

/// Who else keeps MetalLB as it is, and by which object that shows.
fn keepers(installation: &Installation) -> Vec<(&'static str, String)> {
    let workloads = installation
        .running("Deployment", Whose::MetalLb, Part::Controller)
        .chain(installation.running("DaemonSet", Whose::MetalLb, Part::Speaker))
        .chain(installation.definitions());
    let mut keepers: BTreeMap<&str, String> = BTreeMap::new();
    for (key, object) in workloads {
        let has_label = |name| label(object, name).is_some();
        let by_argo = annotation(object, "argocd.argoproj.io/tracking-id").is_some()
            || has_label("argocd.argoproj.io/instance");
        let by_flux =
            has_label("kustomize.toolkit.fluxcd.io/name") || has_label("helm.toolkit.fluxcd.io/name");
        for tool in [by_argo.then_some("Argo CD"), by_flux.then_some("Flux")].into_iter().flatten() {
            keepers.entry(tool).or_insert_with(|| key.to_string());
        }
    }
    keepers.into_iter().collect()
}
