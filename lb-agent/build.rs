//! Puts the BPF object into the agent, if `cargo xtask build-ebpf` has made it; else an empty file, of which loading complains.

use std::{env, fs, path::PathBuf};

#[expect(clippy::expect_used, reason = "a build script has nobody else to tell")]
fn main() {
    let workspace = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("..");
    let built = workspace.join("target/bpf/magnetite.o");
    let embedded = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")).join("magnetite.o");
    println!("cargo::rerun-if-changed={}", built.display());
    let object = fs::read(&built).unwrap_or_default();
    fs::write(&embedded, object).expect("OUT_DIR can be written");
}
