//! What Magnetite promises, tried on a lab: the steps of the demo, and tests.
//!
//! Each leaves the lab as it was; one that fails may not.

pub mod death;
mod discovery;
mod ecmp;
pub mod elsewhere;
mod explain;
mod kernel;
mod leave;
pub mod planned;
mod replies;
pub mod restart;
mod rolling;
mod rows;
pub mod shares;
mod spread;
pub mod traffic;

use anyhow::Result;

use crate::lab::Lab;

/// A scenario.
pub struct Scenario {
    /// In the names of tests.
    pub name: &'static str,
    /// What is done, in a sentence.
    pub done: &'static str,
    /// What should come of it.
    pub expected: &'static str,
    /// Does it.
    pub run: fn(&mut Lab) -> Result<Outcome>,
}

/// What came of a scenario.
#[derive(Debug, Default)]
pub struct Outcome {
    happened: Vec<String>,
    has_failed: bool,
}

impl Outcome {
    /// Adds what was seen, and whether it is as it should be.
    fn check(&mut self, is_right: bool, seen: String) {
        self.has_failed |= !is_right;
        self.happened.push(if is_right { seen } else { format!("WRONG: {seen}") });
    }

    /// Whether everything was as it should be.
    pub fn has_passed(&self) -> bool {
        !self.has_failed && !self.happened.is_empty()
    }

    /// What was seen, a line each.
    pub fn happened(&self) -> String {
        self.happened.join("\n")
    }
}

/// All of them, in the order of the demo.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "discovery",
        done: "two clients on the LAN ask for the MAC of both VIPs by ARP and NDP",
        expected: "the owner's MAC, answered by the owner's XDP program; the other nodes stay silent, and no kernel has the VIP",
        run: discovery::answers,
    },
    Scenario {
        name: "tcp_spread",
        done: "three clients open 300 TCP connections over IPv4 and IPv6; one client is behind a router",
        expected: "all six pods on three nodes, each with 25 to 75 connections, see the clients' addresses",
        run: spread::tcp,
    },
    Scenario {
        name: "udp_spread",
        done: "the same clients make 300 UDP exchanges",
        expected: "the same",
        run: spread::udp,
    },
    Scenario {
        name: "ping",
        done: "three clients send 10 echo requests to each VIP",
        expected: "60 replies, by XDP",
        run: discovery::ping,
    },
    Scenario {
        name: "direct_return",
        done: "a client downloads 8 MiB from a pod that is not on the VIP's owner",
        expected: "the pod's node sends it, the owner next to nothing",
        run: replies::direct,
    },
    Scenario {
        name: "rolling_replacement",
        done: "of the pods of 200 open connections one leaves the EndpointSlice, two come, four are replaced one by one; at last all nodes forget FLOWS",
        expected: "no connection is lost whose pod lives; without FLOWS no more than those whose pod is not in its row any more",
        run: rolling::replacement,
    },
    Scenario {
        name: "ecmp_rehash",
        done: "a router with equal-cost routes to the three nodes loses n1 as next hop and gets it back, under 200 open connections",
        expected: "connections move to other nodes, and none is lost",
        run: ecmp::rehash,
    },
    Scenario {
        name: "agent_killed",
        done: "the owner's agent is ended by kill -9 for three seconds under UDP traffic, and started again",
        expected: "no packet and no connection is lost, new connections are made, the new agent adopts what it finds",
        run: restart::killed,
    },
    Scenario {
        name: "node_leaves",
        done: "the owner's Node leaves the directory and comes back, under 120 open connections; one client keeps its old MAC",
        expected: "the VIP moves; the old owner still serves the client with the old MAC; connections to its pods stay, new ones avoid them",
        run: leave::owner_leaves,
    },
    Scenario {
        name: "planned_drain",
        done: "lb-agent drain --wait on the owner, under 120 open connections and UDP every millisecond; one client keeps its old MAC",
        expected: "the VIPs move, nothing is lost, its pods are used; it says what it still carries, and is drained when that has ended",
        run: planned::drain,
    },
    Scenario {
        name: "agent_frozen",
        done: "the owner's agent is stopped in the middle of its work for five seconds and more, under UDP and open TCP, and goes on",
        expected: "the others see a node that yields, and own its VIPs; nothing is lost; new connections avoid its pods",
        run: restart::frozen,
    },
    Scenario {
        name: "owner_dies",
        done: "the owner's cable is pulled under 120 open connections and UDP every millisecond, and put back after six seconds",
        expected: "another node owns the VIPs; nothing is lost that goes to pods elsewhere but UDP for a moment; new connections avoid its pods, old ones are reset after 5 s",
        run: death::owner_dies,
    },
    Scenario {
        name: "clients_over_nodes",
        done: "with magnetite.io/l2: spread eight clients on the LAN, which ask for no MAC a second time, use the VIPs; the cable of the first one's node is pulled",
        expected: "each node carries clients of both families; those of the dead node are told another, and no connection is lost that goes to pods elsewhere",
        run: shares::clients_over_nodes,
    },
    Scenario {
        name: "explain",
        done: "lb-agent explain is asked on the owner and on the pod's node for a live connection",
        expected: "the pod that really answers, and the way to it",
        run: explain::live_connection,
    },
    Scenario {
        name: "kernel_empty",
        done: "a client that still knows a MAC asks a Service without endpoints",
        expected: "each packet is left to the kernel, which refuses; status says why",
        run: kernel::empty,
    },
    Scenario {
        name: "kernel_annotation",
        done: "a client uses a Service with magnetite.io/forwarding: kernel",
        expected: "each packet is left to the kernel, which serves it in its own way; status says why",
        run: kernel::annotation,
    },
    Scenario {
        name: "kernel_off_segment",
        done: "a client uses a Service whose pod is behind a router",
        expected: "the same",
        run: kernel::off_segment,
    },
];
