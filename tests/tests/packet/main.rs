//! Packet in, packet out, through the programs as the kernel runs them.

mod cases;
mod differential;
mod node;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut arguments = Arguments::from_args();
    // The programs' state is one CPU's.
    arguments.test_threads = Some(1);
    let cannot_run = node::cannot_run();
    let trials = cases::trials().into_iter().chain(differential::trials());
    let trials: Vec<Trial> = trials
        .map(|(name, test)| match &cannot_run {
            None => Trial::test(name, move || test().map_err(|error| format!("{error:#}").into())),
            Some(why) => Trial::test(format!("{name} ({why})"), || Ok(())).with_ignored_flag(true),
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// A test's name and what it does.
type Test = (&'static str, fn() -> anyhow::Result<()>);
