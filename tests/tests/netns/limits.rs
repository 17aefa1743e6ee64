//! An agent within the limits of its pod.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use lb_agent::{dataplane::unload, output::NodeStatus};
use magnetite_tests::lab::{Lab, Limits, WEB, frontend};
use serde_json::json;

use super::agent::Test;

pub use magnetite_tests::lab::cannot_limit as cannot_run;

pub const TESTS: &[(&str, Test)] =
    &[("two_hundred_services_fit_into_the_limits_of_a_pod", two_hundred_services)];

/// As in `manifests/base/speaker.yaml`.
const MEMORY: u64 = 100 << 20;
const MILLI_CPU: u32 = 100;
/// Each with TCP and UDP.
const SERVICES: u8 = 200;

fn two_hundred_services(lab: &mut Lab) -> Result<()> {
    let pool = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": {"name": "many", "namespace": "metallb-system"},
        "spec": {"addresses": ["203.0.113.0/24"]},
    });
    lab.objects.put(&pool)?;
    for number in 1..=SERVICES {
        lab.serve(&format!("many-{number}"), &[IpAddr::from(Ipv4Addr::new(203, 0, 113, number))])?;
    }
    let serves = |status: &NodeStatus| {
        let many = status.services.keys().filter(|service| service.starts_with("203.0.113."));
        many.count() == 2 * usize::from(SERVICES)
    };
    lab.wait_all("all Services", serves)?;

    let owner = lab.owner(WEB)?;
    let limits = Limits::begin(&format!("magnetite-{}", lab.id()), MEMORY, MILLI_CPU)?;
    let node = lab.node_mut(&owner)?;
    node.stop()?;
    // Maps are charged to whom made them.
    node.namespace.run(|| Ok(unload(&node.pins)?))?;
    node.limits = Some(limits);
    node.start()?;
    let status = node.wait("all Services", serves)?;
    let map_bytes = status.agent.map_or(0, |agent| agent.map_bytes);
    lab.wait_for_nodes()?;
    let mut connection = lab.clients()[0].connect(frontend(WEB))?;
    connection.ask("who")?;
    // Once more what changes all: each Service of a pod less.
    let pods = lab.web()[1..].to_vec();
    lab.set_web(pods)?;
    for number in 1..=SERVICES {
        lab.serve(&format!("many-{number}"), &[IpAddr::from(Ipv4Addr::new(203, 0, 113, number))])?;
    }
    connection.ask("who")?;
    let held = lab.node(&owner)?.limits.as_ref().context("there are none")?.held()?;
    ensure!(map_bytes < held, "maps have {map_bytes} bytes, and {held} are charged");
    // With more CPUs maps are larger, and less than this (`lb_core::maps::Sizes::of_cpus`).
    let most = held - map_bytes + (48 << 20);
    ensure!(most < MEMORY, "{most} on a machine with many CPUs");
    Ok(())
}
