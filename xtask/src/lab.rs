//! The demo and labs: built, then run.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus},
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{cargo, root, run},
    ebpf, kubernetes, setup,
};

/// Builds everything and runs the demo; with its exit status.
pub fn demo() -> Result<u8> {
    prepare()?;
    program("magnetite-demo", &[])
}

/// Builds everything and runs the benchmarks; on standard output is nothing but their figures. With their exit status.
pub fn bench(arguments: &[String]) -> Result<u8> {
    if let Some((first, rest)) = arguments.split_first()
        && first == "liveness"
    {
        // Simulated: nothing is loaded.
        let mut bench = cargo();
        bench.args(["bench", "--package", "lb-core", "--bench", "liveness", "--"]).args(rest);
        return bench.status().map(exit_status).context("cannot start cargo");
    }
    let mut build = Command::new(std::env::current_exe()?);
    run(build.arg("build-ebpf").stdout(std::io::stderr()))?;
    run(&mut programs())?;
    match arguments.split_first() {
        Some((first, rest)) if first == "failover" => program("magnetite-failover", rest),
        Some((first, rest)) if first == "spread" => program("magnetite-spread", rest),
        Some((first, rest)) if first == "cost" => program("magnetite-cost", rest),
        Some((first, rest)) if first == "control" => control(rest),
        _ => program("magnetite-bench", arguments),
    }
}

/// What it measures with is built first.
fn control(arguments: &[String]) -> Result<u8> {
    let is_measuring = !arguments.iter().any(|argument| ["--help", "-h"].contains(&argument.as_str()));
    let mut arguments = arguments.to_vec();
    if is_measuring {
        kubernetes::build()?;
        let is_compared = !arguments.iter().any(|argument| argument == "--without-metallb");
        match is_compared.then(kubernetes::build_metallb).transpose()?.flatten() {
            Some(path) => arguments.extend(["--metallb".to_owned(), path.display().to_string()]),
            None if is_compared => {
                eprintln!(
                    "bench: MetalLB's controller cannot be built without Go 1.24 or later: ours is measured alone"
                );
            }
            None => {}
        }
    }
    program("magnetite-control", &arguments)
}

/// Tells the lab something; builds everything before one is made. With the lab's exit status, which is the command's that it runs.
pub fn tell(arguments: &[String]) -> Result<u8> {
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

/// It says itself what is wrong.
fn program(name: &str, arguments: &[String]) -> Result<u8> {
    let status = Command::new(root().join("target/release").join(name))
        .args(arguments)
        .status()
        .with_context(|| format!("cannot start {name}"))?;
    Ok(exit_status(status))
}

/// As a shell has it: a signal's number is above 128.
fn exit_status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_are_passed_on_as_a_shell_does() -> Result<()> {
        for (script, expected) in [("true", 0), ("exit 7", 7), ("exit 255", 255), ("kill -PIPE $$", 141)] {
            assert_eq!(exit_status(Command::new("sh").args(["-c", script]).status()?), expected, "{script}");
        }
        Ok(())
    }
}
