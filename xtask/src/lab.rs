//! The demo and labs: built, then run.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    command::{cargo, root, run},
    ebpf, setup,
};

/// Builds everything and runs the demo.
pub fn demo() -> Result<()> {
    prepare()?;
    program("magnetite-demo", &[])
}

/// Builds everything and runs the benchmarks; on standard output is nothing but their figures.
pub fn bench(arguments: &[String]) -> Result<()> {
    let mut build = Command::new(std::env::current_exe()?);
    run(build.arg("build-ebpf").stdout(std::io::stderr()))?;
    run(&mut programs())?;
    program("magnetite-bench", arguments)
}

/// Tells the lab something; builds everything before one is made.
pub fn tell(arguments: &[String]) -> Result<()> {
    let is_built = root().join("target/release/magnetite-lab").exists();
    if !is_built || arguments.first().is_some_and(|first| first == "up") {
        prepare()?;
    }
    program("magnetite-lab", arguments)
}

/// What labs need: the objects, the agent, the lab's own programs.
pub fn build() -> Result<()> {
    ebpf::build()?;
    run(&mut programs())
}

fn programs() -> Command {
    let mut command = cargo();
    command.args(["build", "--release", "--package", "lb-agent", "--package", "magnetite-tests", "--bins"]);
    command
}

fn prepare() -> Result<()> {
    setup::if_needed()?;
    if let Err(why) = setup::can_load() {
        bail!("{why}: labs are made of network namespaces and BPF programs, which only root can make");
    }
    build()
}

fn program(name: &str, arguments: &[String]) -> Result<()> {
    let status = Command::new(root().join("target/release").join(name)).args(arguments).status()?;
    match status.code() {
        Some(0) => Ok(()),
        _ => bail!("{name}: {status}"),
    }
}
