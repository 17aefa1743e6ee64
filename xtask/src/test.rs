//! The tests, level by level, counted.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    command::{cargo, line},
    ebpf, image, kubernetes, lab, setup, tidy,
};

/// Levels, least powerful first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Beside the code and in simulation: no privilege.
    Unit,
    /// Packets through the loaded programs: root.
    Packet,
    /// Clusters in network namespaces: root.
    Netns,
    /// A real API server, which is built first, with the controller and with labs that follow it: root, and Go.
    Cluster,
    /// Magnetite as it is installed, on nodes with kubelets; all of it is built first: root, cgroups of version 1, and Go.
    Kubelets,
}

/// What a run of tests says at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    /// Names of what could not run here.
    skipped: Vec<String>,
    skipped_count: u64,
}

/// Runs the levels, or all after `tidy`.
pub fn run(levels: &[Level]) -> Result<()> {
    setup::if_needed()?;
    let mut totals = Totals::default();
    ebpf::build()?;
    if levels.is_empty() {
        tidy::run()?;
    }
    let is_wanted = |level| levels.is_empty() || levels.contains(&level);
    if is_wanted(Level::Unit) {
        println!("test: unit");
        // `lb-core` simulates clusters, which is slow without optimisation.
        totals.add(count(
            cargo()
                .args(["test", "--release", "--no-fail-fast"])
                .args(UNIT_PACKAGES.iter().flat_map(|name| ["--package", name]))
                // Simulations say what was lost and why.
                .args(["--", "--show-output"]),
        )?);
        let on_host = ["--bins", "--test", "golden", "--test", "explain", "--test", "manifests"];
        let tests = ["test", "--release", "--package", "magnetite-tests"];
        totals.add(count(cargo().args(tests).args(on_host))?);
    }
    for (level, name) in [(Level::Packet, "packet"), (Level::Netns, "netns")] {
        if is_wanted(level) {
            println!("test: {name}");
            if level == Level::Netns {
                lab::build()?;
            }
            let arguments = ["test", "--release", "--package", "magnetite-tests", "--test", name];
            totals.add(count(cargo().args(arguments))?);
        }
    }
    if can_run(Level::Cluster, levels, &mut totals)? {
        kubernetes::build()?;
        lab::build()?;
        let targets = ["definitions", "cluster"].map(|name| ["--test", name]);
        let tests = ["test", "--release", "--no-fail-fast", "--package", "magnetite-tests"];
        totals.add(count(cargo().args(tests).args(targets.concat()))?);
    }
    if can_run(Level::Kubelets, levels, &mut totals)? {
        setup::for_kubelets()?;
        kubernetes::build_with_nodes()?;
        image::build(None)?;
        image::build_pod()?;
        let tests = ["test", "--release", "--package", "magnetite-tests", "--test", "kubelets"];
        totals.add(count(cargo().args(tests))?);
    }
    totals.skipped.iter().for_each(|name| println!("skipped: {name}"));
    println!("{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped_count);
    if totals.failed > 0 {
        bail!("tests failed");
    }
    Ok(())
}

/// Whether a level that needs Kubernetes is asked for and can run: else it is skipped, before anything is built or installed for it.
fn can_run(level: Level, levels: &[Level], totals: &mut Totals) -> Result<bool> {
    if !levels.is_empty() && !levels.contains(&level) {
        return Ok(false);
    }
    let name = level.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    println!("test: {name}");
    let obstacle = match level {
        Level::Kubelets => setup::obstacle_to_kubelets().map(str::to_owned),
        _ => None,
    };
    let obstacle = match obstacle {
        None => kubernetes::obstacle(level == Level::Kubelets)?,
        found => found,
    };
    if let Some(why) = &obstacle {
        totals.skipped.push(format!("{name} ({why})"));
        totals.skipped_count += 1;
    }
    Ok(obstacle.is_none())
}

/// All but the tests that load programs.
const UNIT_PACKAGES: [&str; 6] = ["lb-common", "lb-core", "lb-api", "lb-agent", "lb-image", "xtask"];

/// Runs `cargo test`, shows what it prints, and counts.
fn count(command: &mut Command) -> Result<Totals> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {}", line(command)))?;
    let stdout = child.stdout.take().context("the output is a pipe")?;
    let mut totals = Totals::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        writeln!(std::io::stdout(), "{line}")?;
        totals.take(&line);
    }
    let status = child.wait()?;
    if !status.success() && totals.failed == 0 {
        bail!("{status}: {}", line(command));
    }
    Ok(totals)
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped_count += other.skipped_count;
        self.skipped.extend(other.skipped);
    }

    /// A line of a test harness: a test that was ignored, or the sums.
    fn take(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ignored")) {
            self.skipped.push(format!("{}{}", name.0, name.1));
        }
        let Some(sums) = line.strip_prefix("test result: ") else { return };
        let sums = sums.split_once(". ").map_or(sums, |(_, sums)| sums);
        for sum in sums.split(';') {
            let mut words = sum.split_whitespace();
            let number: u64 = words.next().and_then(|number| number.parse().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.skipped_count += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn sums_and_skipped_names_are_taken_from_the_harness() {
        let mut totals = Totals::default();
        totals.take("test packets::arp ... ignored, not root");
        totals.take("test packets::tcp ... ok");
        totals.take(
            "test result: ok. 12 passed; 1 failed; 3 ignored; 0 measured; 9 filtered out; finished in 0.1s",
        );
        totals.take(
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
        );
        let skipped = vec!["packets::arp, not root".to_owned()];
        assert_eq!(totals, Totals { passed: 14, failed: 1, skipped, skipped_count: 3 });
    }
}
