//! Clusters in network namespaces: the real agents, the kernel's own TCP, UDP and ICMP.

mod agent;
mod claims;
mod drain;
mod gossip;
mod ipv6;
mod lab;
mod limits;
mod loss;
mod seen;
mod segments;
mod spread;
mod vlan;

use libtest_mimic::{Arguments, Failed, Trial};
use magnetite_tests::{
    lab::{Lab, agent_program},
    scenarios::{ALL, Scenario},
};

fn main() {
    let mut arguments = Arguments::from_args();
    // Scenarios count packets and compare shares: each gets the machine for itself.
    arguments.test_threads = Some(1);
    let cannot_run = cannot_run();
    let scenarios = ALL.iter().map(|scenario| (scenario.name, Box::new(|| play(scenario)) as Run));
    let agents = agent::TESTS
        .iter()
        .chain(claims::TESTS)
        .chain(drain::TESTS)
        .chain(gossip::TESTS)
        .chain(ipv6::TESTS)
        .chain(loss::TESTS)
        .chain(seen::TESTS)
        .chain(segments::TESTS)
        .chain(spread::TESTS)
        .map(|(name, test)| (*name, Box::new(|| test(&mut Lab::up()?)) as Run));
    let without_lab: [(_, Run); 2] = [
        ("a_lab_is_used_from_a_shell", Box::new(lab::a_lab_is_used_from_a_shell)),
        ("a_nic_is_told_to_leave_tags_in_frames", Box::new(vlan::a_nic_is_told_to_leave_tags_in_frames)),
    ];
    let trials =
        scenarios.chain(agents).chain(without_lab).map(|(name, run)| (name, run, cannot_run.clone()));
    let without_vlans = cannot_run.clone().or_else(vlan::cannot_run);
    let of_vlans = vlan::TESTS
        .iter()
        .map(|(name, test)| (*name, Box::new(|| test(&mut Lab::up()?)) as Run, without_vlans.clone()));
    let without_limits = cannot_run.clone().or_else(limits::cannot_run);
    let of_limits = limits::TESTS
        .iter()
        .map(|(name, test)| (*name, Box::new(|| test(&mut Lab::up()?)) as Run, without_limits.clone()));
    let trials = trials.chain(of_vlans).chain(of_limits).map(|(name, run, cannot_run)| match cannot_run {
        None => Trial::test(name, move || run().map_err(|error| Failed::from(format!("{error:#}")))),
        Some(why) => Trial::test(format!("{name} ({why})"), || Ok(())).with_ignored_flag(true),
    });
    let trials = trials.collect();
    libtest_mimic::run(&arguments, trials).exit();
}

type Run = Box<dyn FnOnce() -> anyhow::Result<()> + Send>;

fn play(scenario: &Scenario) -> anyhow::Result<()> {
    let outcome = (scenario.run)(&mut Lab::up()?)?;
    anyhow::ensure!(
        outcome.has_passed(),
        "expected: {}\nhappened:\n{}",
        scenario.expected,
        outcome.happened()
    );
    Ok(())
}

/// Why no lab can be made here, if none can.
fn cannot_run() -> Option<String> {
    // SAFETY: the call takes no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Some("not root".to_owned());
    }
    if lb_agent::OBJECT.is_empty() {
        return Some("no BPF object, cargo xtask build-ebpf makes it".to_owned());
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        return Some("no BPF file system on /sys/fs/bpf".to_owned());
    }
    agent_program().err().map(|error| error.to_string())
}
