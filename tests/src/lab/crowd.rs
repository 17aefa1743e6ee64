//! One real agent on a wire; at its other end is a namespace that has the addresses of all other nodes of a large cluster.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use aya::Ebpf;

use super::{
    agent::Node,
    namespace::Namespace,
    objects::{self, Objects},
    runs::{Run, clean},
    topology::pass_on,
};

/// The agent, and the other end.
pub struct Crowd {
    /// The node with the agent.
    pub node: Node,
    /// Where the others are.
    pub others: Namespace,
    _pass: Ebpf,
    _run: Run,
}

/// MACs of the agent's end, and of the other.
pub const CROWD_MACS: [[u8; 6]; 2] = [[2, 0x6d, 0x67, 1, 0, 1], [2, 0x6d, 0x67, 1, 0, 2]];

impl Crowd {
    /// Node `n0` has the first of the addresses, all hosts of 10.0.0.0/16 from 1; the last ones of the network are nobody's.
    pub fn up(addresses: &[IpAddr]) -> Result<Self> {
        clean()?;
        let run = Run::begin()?;
        let names = run.machines();
        let namespace = Namespace::create(&names.namespace("n0"))?;
        let others = Namespace::create(&names.namespace("others"))?;
        let [mac, far_mac] = CROWD_MACS.map(text);
        others.ip(&format!(
            "link add wire address {far_mac} type veth peer name eth0 address {mac} netns {}",
            namespace.name()
        ))?;
        others.command("ethtool", &["-K", "wire", "tx", "off"])?;
        let first = addresses.first().context("no address")?;
        for (end, link, address) in
            [(&namespace, "eth0", first.to_string()), (&others, "wire", "10.0.255.254".to_owned())]
        {
            end.ip(&format!("link set {link} up"))?;
            end.ip(&format!("addr add {address}/16 dev {link}"))?;
        }
        // All but the first two, of which the second is the agent's.
        let own =
            (1..16).map(|bits| format!("10.0.{}.{}/{}", (1 << bits) >> 8, (1 << bits) & 255, 32 - bits));
        for prefix in own {
            others.ip(&format!("route add local {prefix} dev lo"))?;
        }
        let objects = Objects::new(names.directory().join("objects"))?;
        for (number, address) in addresses.iter().enumerate() {
            objects.put(&objects::node(&format!("n{number}"), &[*address], &[], "lan"))?;
        }
        objects.put(&objects::memberlist())?;
        let mut node = Node::new("n0", namespace, mac, names.pins("n0"), &names.directory());
        let pass = pass_on(&others, ["wire"].into_iter())?;
        node.start()?;
        Ok(Self { node, others, _pass: pass, _run: run })
    }

    /// CPU that the agent's process has taken so far: its liveness thread, and all threads.
    pub fn agent_time(&self) -> Result<[Duration; 2]> {
        let pid = self.node.status()?.agent.context("no agent")?.pid;
        let mut times = [Duration::ZERO; 2];
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // Nanoseconds on a CPU come first (kernel: Documentation/scheduler/sched-stats.rst).
            let schedstat = std::fs::read_to_string(task.join("schedstat"))?;
            let time = schedstat.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
            let time = Duration::from_nanos(time.context("an empty schedstat")?);
            if std::fs::read_to_string(task.join("comm"))?.trim() == "liveness" {
                times[0] += time;
            }
            times[1] += time;
        }
        Ok(times)
    }

    /// Time that the XDP program of the node's link has run so far, and packets; the kernel counts if `kernel.bpf_stats_enabled` is 1.
    pub fn xdp_time(&self) -> Result<(Duration, u64)> {
        let link = self.node.namespace.ip_json("-d link show dev eth0")?;
        let id = link[0]["xdp"]["prog"]["id"].as_u64().context("no XDP program on eth0")?;
        for program in aya::programs::loaded_programs() {
            let program = program?;
            if u64::from(program.id()) == id {
                return Ok((program.run_time(), program.run_count()));
            }
        }
        anyhow::bail!("no program {id}")
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
