//! The layout of the built object against `lb-common/src/layout.rs`: the kernel's programs and the agent are built by two
//! compilers.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context, Result};
use lb_common::layout::{OFFSETS, SIZES};
use serde::Deserialize;

use crate::command::output;

#[derive(Deserialize)]
struct Btf {
    types: Vec<Type>,
}

/// A type of the object's BTF, as bpftool prints it.
#[derive(Deserialize)]
struct Type {
    kind: String,
    name: String,
    #[serde(default)]
    size: usize,
    #[serde(default)]
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    name: String,
    #[serde(default)]
    bits_offset: usize,
}

/// What differs, a line each.
pub fn differences(object: &Path) -> Result<Vec<String>> {
    let json = output(Command::new("bpftool").args(["-j", "btf", "dump", "file"]).arg(object));
    let json = json.with_context(|| format!("bpftool cannot read the BTF of {}", object.display()))?;
    compare(&json)
}

fn compare(json: &str) -> Result<Vec<String>> {
    let btf: Btf = serde_json::from_str(json)?;
    let structs: BTreeMap<&str, &Type> =
        btf.types.iter().filter(|t| t.kind == "STRUCT").map(|t| (t.name.as_str(), t)).collect();
    let mut findings = Vec::new();
    for (name, size) in SIZES {
        // What no map holds as such may have been optimised away.
        if let Some(built) = structs.get(name)
            && built.size != *size
        {
            findings.push(format!("{name}: {} bytes in the object, {size} in layout.rs", built.size));
        }
    }
    let mut compared = 0;
    for (name, fields) in OFFSETS {
        let Some(built) = structs.get(name) else { continue };
        for (field, offset) in *fields {
            match built.members.iter().find(|member| member.name == *field) {
                Some(member) if member.bits_offset == offset * 8 => compared += 1,
                Some(member) => findings.push(format!(
                    "{name}.{field}: begins at byte {} in the object, at {offset} in layout.rs",
                    member.bits_offset / 8
                )),
                None => findings.push(format!("{name}.{field}: is not in the object")),
            }
        }
    }
    if compared == 0 {
        findings.push("the object has none of the types of layout.rs".to_owned());
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn a_moved_field_is_found() {
        let link = |mode: usize| {
            format!(
                r#"{{"types": [{{"kind": "STRUCT", "name": "Link", "size": 16, "members": [
                    {{"name": "segment", "bits_offset": 0}}, {{"name": "mac", "bits_offset": 16}},
                    {{"name": "mode", "bits_offset": {mode}}}, {{"name": "flags", "bits_offset": 96}}]}}]}}"#
            )
        };
        assert!(compare(&link(64)).is_ok_and(|findings| findings.is_empty()));
        assert!(compare(&link(72)).is_ok_and(|findings| findings.len() == 1));
        assert!(compare(r#"{"types": []}"#).is_ok_and(|findings| findings.len() == 1));
    }
}
