//! `validate`: what is wrong with objects, before a node reads them.

use std::collections::BTreeMap;

use lb_api::{Memory, Mirror, Problem, ProblemKind, Settled, Severity};
use lb_core::allocate::allocate;
use serde_json::Value;

/// Everything that is wrong with files, by name, in their order. To have no object is wrong too: it is mostly the wrong directory.
pub fn validate(files: &BTreeMap<String, Vec<u8>>) -> Vec<Problem> {
    let settled = Memory::default().settle(files);
    found(&settled)
}

/// The same of a cluster's objects, as its API server tells of them.
pub fn validate_objects(objects: Vec<Value>) -> Vec<Problem> {
    let mut mirror = Mirror::default();
    for object in objects {
        mirror.insert(object);
    }
    found(mirror.settle(|snapshot, _, allocation| *allocation = allocate(snapshot)))
}

fn found(settled: &Settled) -> Vec<Problem> {
    let mut problems = settled.problems.to_vec();
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
            let problems = validate(&[("a.yaml".to_owned(), text.as_bytes().to_vec())].into());
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert!(words("# nothing\n").starts_with("error: the source: there is no object"));
        assert!(!words("{[").contains("there is no object"), "one problem is enough");
        assert_eq!(words("{apiVersion: v1, kind: Node, metadata: {name: a}}"), "");
        assert_eq!(validate(&BTreeMap::new()).len(), 1);
    }
}
