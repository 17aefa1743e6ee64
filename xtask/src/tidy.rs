//! Formatting, lints, and those invariants of ARCHITECTURE.md that a program can check.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::{
    command::{self, cargo, root},
    layout,
};

/// Lines of a source file.
const MAX_LINES: usize = 650;

/// What a crate may not name in its sources, and why.
const FORBIDDEN: [(&str, &[&str], &str); 4] = [
    (
        "lb-common/src",
        &["std::", "extern crate alloc"],
        "lb-common is for kernel and user space: `core` only",
    ),
    (
        "lb-core/src",
        &[
            "Instant::now",
            "SystemTime::now",
            "std::fs",
            "TcpStream",
            "UdpSocket",
            "std::thread",
            "std::process",
        ],
        "lb-core does no IO and reads no clock",
    ),
    ("lb-api/src", &["std::fs", "TcpStream", "UdpSocket", "SystemTime::now"], "lb-api does no IO"),
    ("lb-core/Cargo.toml", &["tokio", "kube", "aya", "libc"], "lb-core is pure"),
];

/// Findings, a line each.
fn check_invariants() -> Result<Vec<String>> {
    let root = root();
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    for name in
        ["lb-common", "lb-core", "lb-api", "lb-agent", "lb-ebpf", "lb-image", "lb-sim", "xtask", "tests"]
    {
        collect(&root.join(name), &mut sources)?;
    }
    for source in &sources {
        let shown = source.strip_prefix(&root).unwrap_or(source);
        let text = fs::read_to_string(source)?;
        let lines = text.lines().count();
        if lines > MAX_LINES {
            findings.push(format!("{}: {lines} lines; split it, {MAX_LINES} are allowed", shown.display()));
        }
        for (place, words, why) in FORBIDDEN {
            if shown.starts_with(place) {
                findings.extend(
                    offences(&text, words).map(|word| format!("{}: `{word}`: {why}", shown.display())),
                );
            }
        }
        let touches_bpf = offences(&text, &["aya::", "aya_obj::", "SYS_bpf"]).next().is_some();
        if touches_bpf && shown.starts_with("lb-agent/src") && !shown.starts_with("lb-agent/src/dataplane") {
            // The object is embedded where the crate begins.
            if shown != Path::new("lb-agent/src/lib.rs") {
                findings.push(format!("{}: only lb-agent/src/dataplane touches bpf(2)", shown.display()));
            }
        }
    }
    Ok(findings)
}

/// Formatting, lints, invariants.
pub fn run() -> Result<()> {
    println!("tidy: formatting");
    cargo_succeeds(&["fmt", "--all", "--check"])?;
    println!("tidy: lints");
    cargo_succeeds(&["clippy", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    println!("tidy: invariants");
    let mut findings = check_invariants()?;
    let object = root().join("target/bpf/magnetite.o");
    if object.exists() {
        findings.extend(layout::differences(&object)?);
    } else {
        println!("tidy: the object's layout is not compared: cargo xtask build-ebpf makes it");
    }
    if !findings.is_empty() {
        bail!("tidy:\n  {}", findings.join("\n  "));
    }
    Ok(())
}

fn cargo_succeeds(arguments: &[&str]) -> Result<()> {
    command::run(cargo().args(arguments))
}

/// Words that stand in the code; comments may name anything.
fn offences<'a>(text: &'a str, words: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let code = |line: &&str| !line.trim_start().starts_with("//");
    words.iter().copied().filter(move |word| text.lines().filter(code).any(|line| line.contains(word)))
}

fn collect(directory: &Path, sources: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") || path.ends_with("Cargo.toml")
        {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::offences;

    #[test]
    fn comments_may_name_anything() {
        assert_eq!(offences("// std::fs\nuse core::fmt;", &["std::fs"]).count(), 0);
        assert_eq!(offences("use std::fs;", &["std::fs"]).count(), 1);
    }
}
