//! A thousand VIPs of one node move at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use magnetite_tests::lab::{Endpoint, Heard, Lab, Listener, service, slice};
use serde_json::{Value, json};

/// VIPs, half of them of each family.
pub const VIPS: u32 = 1_000;
/// Who owns all of them, and who is next.
const OWNERS: [&str; 2] = ["n1", "n2"];
/// So long the wire is listened to after the last of them was announced: repeats come at once, and after 0.1, 0.5, 1.6 and 3.6 s.
const AFTERWARDS: Duration = Duration::from_secs(6);

/// How they have moved.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// From the new owner's verdict until it had announced the last of them.
    pub announced: Duration,
    /// Frames on the wire in the busiest second after that.
    pub busiest_second: usize,
}

/// In a lab of its own: the owner falls silent, and another node has all.
pub fn run() -> Result<Move> {
    let mut lab = Lab::up()?;
    let vips = vips();
    give(&lab, &vips)?;
    let [first, second] = OWNERS;
    let names: Vec<String> = vips.iter().map(ToString::to_string).collect();
    let is_owner = |status: &lb_agent::output::NodeStatus, name: &str| {
        names.iter().all(|vip| status.vips.get(vip).and_then(|vip| vip.owner.as_deref()) == Some(name))
    };
    lab.wait_all("one owner of all", |status| is_owner(status, first))?;
    lab.wait_for_nodes()?;

    let listener = Listener::begin(&lab.clients()[0])?;
    lab.set_cable(first, false)?;
    lab.node_mut(second)?.wait("the VIPs of the dead", |status| is_owner(status, second))?;
    thread::sleep(AFTERWARDS);
    let heard = listener.end()?;
    let announced = announced(&lab)?;
    let mac = &lab.node(second)?.mac;
    let heard: Vec<Heard> =
        heard.into_iter().filter(|heard| vips.contains(&heard.address) && text(heard) == *mac).collect();
    Ok(Move { announced, busiest_second: busiest_second(&heard)? })
}

/// As the new owner's metrics say.
fn announced(lab: &Lab) -> Result<Duration> {
    let metrics = lab.node(OWNERS[1])?.metrics()?;
    let value = |name: &str| metrics.get(name).copied().with_context(|| format!("no {name}"));
    let count = value("magnetite_takeover_vips")?;
    // Those of the lab may have moved too.
    ensure!(count >= f64::from(VIPS), "{count} VIPs have moved at once, of {VIPS}");
    Ok(Duration::from_secs_f64(value("magnetite_takeover_seconds")?))
}

/// Of what comes after the first announcement of each VIP.
fn busiest_second(heard: &[Heard]) -> Result<usize> {
    let mut known = BTreeSet::new();
    let firsts = heard.iter().map(|heard| known.insert(heard.address)).collect::<Vec<_>>();
    let last = firsts.iter().rposition(|is_first| *is_first).context("nothing was announced")?;
    ensure!(known.len() == VIPS as usize, "{} VIPs were announced on the wire, of {VIPS}", known.len());
    let end = heard[last].at;
    let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
    for heard in &heard[last + 1..] {
        *seconds.entry((heard.at - end).as_secs()).or_default() += 1;
    }
    seconds.values().copied().max().context("nothing was announced a second time")
}

fn vips() -> BTreeSet<IpAddr> {
    let of_v4 = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(203, 0, 112, 0)) + n));
    let of_v6 = |n: u32| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0x99, 0, 0, 0, n as u16));
    (1..=VIPS / 2).flat_map(|n| [of_v4(n), of_v6(n)]).collect()
}

/// A Service for each VIP, with a pool and an advertisement for all, in one file.
fn give(lab: &Lab, vips: &BTreeSet<IpAddr>) -> Result<()> {
    let metadata = json!({"name": "many", "namespace": "metallb-system"});
    let prefers = |(name, weight): (&str, u32)| json!({"weight": weight, "preference": {"matchLabels": {"kubernetes.io/hostname": name}}});
    let preferred: Vec<Value> = OWNERS.into_iter().zip([100, 50]).map(prefers).collect();
    let mut items = vec![
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": metadata, "spec": {"addresses": ["203.0.112.0/22", "2001:db8:0:99::/112"]},
        }),
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": metadata,
            "spec": {"ipAddressPools": ["many"], "preferredNodeSelectors": preferred},
        }),
    ];
    let pod = &lab.web()[0];
    for (number, vip) in vips.iter().enumerate() {
        let name = format!("many-{number}");
        let node = lab.node_of(pod).to_owned();
        items.push(service(&name, &[*vip], &[]));
        let endpoint = Endpoint { address: lab.pods[pod].address(vip.is_ipv6()), node };
        items.push(slice(&name, vip.is_ipv6(), &[endpoint]));
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    lab.objects.write("many.json", &list.to_string())
}

fn text(heard: &Heard) -> String {
    heard.mac.octets().map(|octet| format!("{octet:02x}")).join(":")
}
