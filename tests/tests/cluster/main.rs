//! With a real API server: the controller, nodes that follow, a MetalLB installation that becomes ours.

mod controller;
mod follow;
mod migrate;

use anyhow::Result;
use magnetite_tests::harness;

type Test = fn() -> Result<()>;
type AnyTest = Box<dyn FnOnce() -> Result<()> + Send>;

fn main() {
    let without_object =
        lb_agent::OBJECT.is_empty().then_some("no BPF object, cargo xtask build-ebpf makes it");
    let boxed = |(name, test): (&'static str, Test)| (name, Box::new(test) as AnyTest);
    let tests = controller::tests().chain(migrate::TESTS).map(boxed);
    let in_labs = follow::tests().map(|(name, test)| (name, Box::new(test) as AnyTest));
    harness::run(tests.chain(in_labs), harness::without_cluster().or(without_object));
}
