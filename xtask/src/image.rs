//! The container image: a static agent, packed without a container daemon.

use std::{
    fs,
    path::{self, Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    command::{cargo, root, run},
    ebpf, setup,
};

/// Builds the agent for the image, and packs it into `output`, or `target/image/lb-agent.tar`.
///
/// # Errors
/// It cannot be built.
pub fn build(output: Option<&Path>) -> Result<()> {
    setup::if_needed()?;
    ebpf::build()?;
    // All that the agent is made of is as in other builds: only how it is linked is not. glibc, for musl would be a target and a C
    // compiler more to install. What a static glibc cannot do is to load modules of the machine's NSS; for names it asks DNS and
    // /etc/hosts by itself, and pods find the API server by its address.
    let program = build_static("lb-agent", "lb-agent")?;
    let mut pack = cargo();
    pack.args(["run", "--quiet", "--release", "--package", "lb-image", "--"]);
    pack.arg("--program").arg(program).arg("--output").arg(match output {
        // Cargo runs in the checkout.
        Some(path) => path::absolute(path)?,
        None => directory().join("lb-agent.tar"),
    });
    run(&mut pack)
}

/// Builds what pods of tests run, beside the image; the tests pack it.
///
/// # Errors
/// It cannot be built.
pub fn build_pod() -> Result<()> {
    build_static("magnetite-tests", "magnetite-pod").map(drop)
}

/// A program that needs nothing but the kernel, without symbols.
fn build_static(package: &str, name: &str) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["rustc", "--release", "--package", package, "--bin", name, "--"]);
    run(build.arg("-Ctarget-feature=+crt-static"))?;
    fs::create_dir_all(directory())?;
    let program = directory().join(name);
    let mut strip = Command::new("strip");
    run(strip.arg("-o").arg(&program).arg(root().join("target/release").join(name)))?;
    Ok(program)
}

fn directory() -> PathBuf {
    root().join("target/image")
}
