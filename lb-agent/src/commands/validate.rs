//! `validate`: what is wrong with objects, before a node reads them.

use std::collections::BTreeMap;

use lb_api::{Memory, Problem};

/// Everything that is wrong with files, by name, in their order.
pub fn validate(files: &BTreeMap<String, Vec<u8>>) -> Vec<Problem> {
    let mut problems = Memory::default().settle(files).problems;
    problems.sort_by(|a, b| a.file.cmp(&b.file));
    problems
}
