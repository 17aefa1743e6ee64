//! `validate`: what is wrong with objects, before a node reads them.

use std::collections::BTreeMap;

use lb_api::{
    CLUSTER, Memory, Mirror, ObjectKey, Problem, ProblemKind, Settled, Severity, is_configuration, key_of,
};
use lb_core::allocate::allocate;
use serde_json::Value;

/// Everything that is wrong with files, by name, in their order, where `own` is the namespace of MetalLB's objects. To have no object is
/// wrong too: it is mostly the wrong directory.
pub fn validate(files: &BTreeMap<String, Vec<u8>>, own: &str) -> Vec<Problem> {
    let settled = Memory::default().settle(files);
    // One that names none stands where kubectl is told to put it.
    let is_said = |key: &ObjectKey| key.namespace != DEFAULT;
    let is_unused = |key: &ObjectKey| {
        let of_it = settled.problems.iter().filter(|problem| problem.object.as_ref() == Some(key));
        of_it.into_iter().any(|problem| problem.kind == ProblemKind::UnusedKind)
    };
    let is_meant = |key: &ObjectKey| is_said(key) && is_stray(key, own) && !is_unused(key);
    let strays = settled.origins.iter().filter(|(key, _)| is_meant(key));
    let strays = strays.map(|(key, file)| stray(file, key, Severity::Warning, own)).collect();
    found(&settled, strays)
}

/// The same of a cluster's objects, as its API server tells of them; of those by which MetalLB is configured, in all namespaces.
pub fn validate_objects(objects: Vec<Value>, own: &str) -> Vec<Problem> {
    let (mut mirror, mut strays) = (Mirror::default(), Vec::new());
    for object in objects {
        let key = key_of(&object);
        if is_stray(&key, own) {
            strays.push(stray(CLUSTER, &key, Severity::Error, own));
        } else {
            mirror.insert(object);
        }
    }
    found(mirror.settle(|snapshot, _, allocation| *allocation = allocate(snapshot)), strays)
}

/// The namespace of an object that names none.
const DEFAULT: &str = "default";

fn is_stray(key: &ObjectKey, own: &str) -> bool {
    is_configuration(key) && key.namespace != own
}

/// Nobody reads it in a cluster, and no webhook says so.
fn stray(file: &str, key: &ObjectKey, severity: Severity, own: &str) -> Problem {
    Problem {
        file: file.to_owned(),
        object: Some(key.clone()),
        field: "metadata.namespace".to_owned(),
        severity,
        kind: ProblemKind::OtherNamespace { own: own.to_owned() },
    }
}

fn found(settled: &Settled, strays: Vec<Problem>) -> Vec<Problem> {
    let mut problems = settled.problems.to_vec();
    problems.extend(strays);
    if settled.is_empty && problems.is_empty() {
        problems.push(Problem {
            file: "the source".to_owned(),
            object: None,
            field: String::new(),
            severity: Severity::Error,
            kind: ProblemKind::NoObject,
        });
    }
    problems.sort_by(|a, b| a.file.cmp(&b.file));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_is_a_problem() {
        let words = |text: &str| {
            let problems =
                validate(&[("a.yaml".to_owned(), text.as_bytes().to_vec())].into(), "metallb-system");
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert!(words("# nothing\n").starts_with("error: the source: there is no object"));
        assert!(!words("{[").contains("there is no object"), "one problem is enough");
        assert_eq!(words("{apiVersion: v1, kind: Node, metadata: {name: a}}"), "");
        assert_eq!(validate(&BTreeMap::new(), "metallb-system").len(), 1);
    }

    #[test]
    fn what_stands_in_another_namespace_is_read_by_nobody() {
        let pool = |namespace: &str| {
            serde_json::json!({
                "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
                "metadata": {"name": "a", "namespace": namespace}, "spec": {"addresses": ["192.0.2.0/28"]},
            })
        };
        let of_file = |namespace: &str, own: &str| {
            validate(&[("a.yaml".to_owned(), pool(namespace).to_string().into_bytes())].into(), own).len()
        };
        assert_eq!(of_file("metallb-system", "metallb-system"), 0);
        assert_eq!(of_file("default", "metallb-system"), 0, "kubectl may be told where to put it");
        assert_eq!(of_file("metallb-system", "edge"), 1);
        let foreign =
            "{apiVersion: crd.projectcalico.org/v1, kind: BGPPeer, metadata: {name: a, namespace: x}}";
        let problems =
            validate(&[("a.yaml".to_owned(), foreign.as_bytes().to_vec())].into(), "metallb-system");
        assert!(matches!(&problems[..], [one] if one.kind == ProblemKind::UnusedKind), "{problems:?}");
        let problems = validate_objects(vec![pool("default"), pool("metallb-system")], "metallb-system");
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].contains("default/a: metadata.namespace: is not metallb-system,"),
            "{problems:?}"
        );
    }
}
