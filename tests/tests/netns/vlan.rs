//! VLAN devices as links, where the kernel has such.

use anyhow::{Context, Result, ensure};
use lb_agent::network::keep_tags;
use lb_common::Reason;
use magnetite_tests::lab::{Lab, Namespace, Run};

use crate::{agent::Test, segments};

/// Names, and what they do with a lab of their own, where there are VLAN devices.
pub const TESTS: &[(&str, Test)] = &[(
    "a_vlan_is_served_by_programs_on_the_nic_below_which_has_no_address",
    a_vlan_is_served_by_programs_on_the_nic_below_which_has_no_address,
)];

/// Why the kernel has no VLAN devices, if it has none.
pub fn cannot_run() -> Option<String> {
    let run = Run::begin().ok()?;
    let namespace = Namespace::create(&run.machines().namespace("v")).ok()?;
    let error = namespace.ip("link add link lo name check type vlan id 2").err()?.to_string();
    // Whatever else goes wrong is for the tests to say.
    error.contains("Unknown device type").then(|| "no VLAN devices, CONFIG_VLAN_8021Q makes them".to_owned())
}

fn a_vlan_is_served_by_programs_on_the_nic_below_which_has_no_address(lab: &mut Lab) -> Result<()> {
    const VLAN: u16 = 100;
    segments::serve(lab, Some(VLAN))?;
    let link = segments::second_link(Some(VLAN));
    let mut answered = 0;
    for node in &lab.nodes[..2] {
        let indexes = node.namespace.ip_json("link show")?;
        let index_of = |name: &str| {
            let links = indexes.as_array().into_iter().flatten();
            links.filter(|link| link["ifname"] == name).find_map(|link| link["ifindex"].as_u64())
        };
        let status = node.status()?;
        ensure!(!status.links.contains_key("eth1"), "a NIC without an address is a link");
        if let Some(served) = status.links.get(&link) {
            let (nic, own) = (served.nic.map(u64::from), u64::from(served.ifindex));
            ensure!((nic, Some(own)) == (index_of("eth1"), index_of(&link)), "{served:?}");
            ensure!((served.vlan, &*served.mode) == (VLAN, "native"), "{served:?}");
        }
        ensure!(!takes_tags(&node.namespace, "eth1")?, "{} takes tags out of frames", node.name);
        answered += node.count(Reason::ArpAnswered)?;
    }
    // In the kernel's place nobody could have.
    ensure!(answered > 0, "no request with a tag was answered by the programs");
    Ok(())
}

/// The part of it that needs no VLAN device.
pub fn a_nic_is_told_to_leave_tags_in_frames() -> Result<()> {
    let run = Run::begin()?;
    let namespace = Namespace::create(&run.machines().namespace("v"))?;
    namespace.ip("link add v type veth peer name w")?;
    ensure!(takes_tags(&namespace, "v")?, "there is nothing to turn off");
    let index = namespace.ip_json("link show dev v")?[0]["ifindex"].as_u64().context("an index")?;
    let index = u32::try_from(index)?;
    for time in ["first", "second"] {
        namespace.run(|| Ok(keep_tags(index)?))?;
        ensure!(!takes_tags(&namespace, "v")?, "not turned off the {time} time");
    }
    ensure!(takes_tags(&namespace, "w")?, "another NIC was touched");
    Ok(())
}

fn takes_tags(namespace: &Namespace, nic: &str) -> Result<bool> {
    let output = namespace.command("ethtool", &["-k", nic])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("rx-vlan-offload: "));
    Ok(line.with_context(|| format!("ethtool says nothing of it:\n{text}"))?.starts_with("on"))
}
