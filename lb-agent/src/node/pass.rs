//! One pass: from what is known to what is to be done.

use lb_api::Settled;
use lb_core::{
    diff::diff,
    maps::{Maps, Op},
    model::{Network, NodeName},
    place::{Local, Placed, Previous, place},
    plan::{Plan, plan},
};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Pass {
    /// In names.
    pub plan: Plan,
    /// In indexes.
    pub placed: Placed,
    /// In operations.
    pub ops: Vec<Op>,
}

/// One pass over everything, after a previous one if there was any.
pub fn pass(
    settled: &Settled,
    node: &NodeName,
    network: &Network,
    current: &Maps,
    local: &Local,
    previous: Option<Previous<'_>>,
) -> Pass {
    let plan = plan(&settled.snapshot, &settled.allocation, node, network);
    let placed = place(&plan, current, local, previous);
    let ops = diff(current, &placed.maps);
    Pass { plan, placed, ops }
}
