//! Packet in, packet out: through the programs as the kernel runs them, and through the same functions on the host.

mod adoption;
mod cases;
mod claims;
mod counts;
mod differential;
mod machine;
mod node;
mod spread;
mod vlan;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut arguments = Arguments::from_args();
    // The programs' state is one CPU's.
    arguments.test_threads = Some(1);
    let cannot_run = node::cannot_run();
    let cases = cases::cases().into_iter().chain(claims::cases()).chain(spread::cases()).chain(vlan::cases());
    let loaded =
        cases.clone().map(|(name, case)| (name, Box::new(move || case(&mut node::Node::new()?)) as Run));
    let others = differential::trials().into_iter().chain(adoption::trials()).chain(counts::trials());
    let others = others.map(|(name, test)| (name, Box::new(test) as Run));
    let loaded = loaded.chain(others).map(|(name, run)| match &cannot_run {
        None => trial(name.to_owned(), run),
        Some(why) => Trial::test(format!("{name} ({why})"), || Ok(())).with_ignored_flag(true),
    });
    let on_host = cases.map(|(name, case)| {
        trial(format!("on the host: {name}"), Box::new(move || case(&mut machine::HostNode::new())))
    });
    libtest_mimic::run(&arguments, on_host.chain(loaded).collect()).exit();
}

/// A test's name and what it does.
type Test = (&'static str, fn() -> anyhow::Result<()>);

type Run = Box<dyn FnOnce() -> anyhow::Result<()> + Send>;

fn trial(name: String, run: Run) -> Trial {
    Trial::test(name, move || run().map_err(|error| format!("{error:#}").into()))
}
