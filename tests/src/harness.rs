//! Tests with a harness of their own: one after the other, and skipped by name where something is missing.

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::{api_server::programs, lab::agent_program};

/// Why tests with an API server and agents cannot run here, if they cannot.
pub fn without_cluster() -> Option<&'static str> {
    match (rustix::process::geteuid().is_root(), programs(), agent_program()) {
        (false, ..) => Some("not root"),
        (_, None, _) => Some("no Kubernetes, cargo xtask test cluster builds it"),
        (_, _, Err(_)) => Some("no agent, cargo build --release --package lb-agent"),
        _ => None,
    }
}

/// Runs tests, and ends the program.
pub fn run<T: FnOnce() -> Result<()> + Send + 'static>(
    tests: impl IntoIterator<Item = (&'static str, T)>,
    cannot_run: Option<&str>,
) -> ! {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = tests.into_iter().map(|(name, test)| match cannot_run {
        None => Trial::test(name, move || test().map_err(|error| Failed::from(format!("{error:#}")))),
        Some(why) => Trial::test(format!("{name} ({why})"), || Ok(())).with_ignored_flag(true),
    });
    libtest_mimic::run(&arguments, trials.collect()).exit()
}
