//! The metrics, by name: MetalLB's where they mean the same (`internal/layer2/stats.go`, `speaker/main.go`), else `magnetite_…`.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::{
    Reason,
    layout::{ALGORITHM_VERSION, ReasonCount, Stats, VipStats},
};
use lb_core::{claims::Withheld, liveness::Condition};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    facts::{Facts, ShareFacts},
    out::{self, Out},
};
use crate::{
    dataplane::{self, Counters},
    liveness::{OpenError, Snapshot},
    output::condition_name,
};

/// All that is shown at one moment.
#[derive(Clone, Debug)]
pub struct Page {
    /// What the last pass has made of things.
    pub facts: Arc<Facts>,
    /// What the liveness thread has found and done.
    pub snapshot: Arc<Snapshot>,
    /// What the programs have counted.
    pub counted: Counted,
}

/// What the programs have counted of what [`Facts`] names, in its order.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// By outcome.
    pub reasons: BTreeMap<Reason, ReasonCount>,
    /// Of [`Facts::vips`].
    pub vips: Vec<VipStats>,
    /// Of [`Facts::services`], each with its backends; `None` where nothing is counted.
    pub services: Vec<(Option<Stats>, Vec<Option<Stats>>)>,
}

impl Counted {
    /// Reads the maps, as much of them as is in use.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(counters: &Counters, facts: &Facts) -> Result<Self, dataplane::Error> {
        let services = facts.services.iter().map(|service| {
            let backends = service.backends.iter().map(|backend| counters.backend(backend.place));
            Ok((counters.service(service.place)?, backends.collect::<Result<_, _>>()?))
        });
        Ok(Self {
            reasons: counters.reasons()?,
            vips: facts.vips.iter().map(|(_, place)| counters.vip(*place)).collect::<Result<_, _>>()?,
            services: services.collect::<Result<_, dataplane::Error>>()?,
        })
    }
}

/// See [`out::text`].
///
/// # Errors
/// None in practice: a string takes everything.
pub fn text(page: Page) -> Result<String, fmt::Error> {
    out::text(page)
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        self.layer2(&mut out)?;
        self.vips(&mut out)?;
        self.packets(&mut out)?;
        self.services(&mut out)?;
        self.backends(&mut out)?;
        self.legs(&mut out)?;
        self.liveness(&mut out)?;
        self.claims(&mut out)?;
        self.drain(&mut out)?;
        self.facts.source.encode(&mut out)?;
        self.agent(&mut out)
    }
}

impl Page {
    /// Who answers for what, and how often.
    fn layer2(&self, out: &mut Out) -> fmt::Result {
        let ips: Vec<String> = self.facts.vips.iter().map(|(ip, _)| ip.to_string()).collect();
        let counted = |value: fn(&VipStats) -> u64| {
            ips.iter().zip(&self.counted.vips).map(move |(ip, stats)| ([("ip", &**ip)], value(stats)))
        };
        out.metallb(
            "metallb_layer2_requests_received",
            "Number of layer2 requests received for owned IPs",
            counted(|stats| stats.requests),
        )?;
        out.metallb(
            "metallb_layer2_responses_sent",
            "Number of layer2 responses sent for owned IPs in response to requests",
            counted(|stats| stats.answers),
        )?;
        let announced = |ip: &IpAddr| self.snapshot.announced.get(&(*ip).into()).copied().unwrap_or(0);
        let gratuitous =
            ips.iter().zip(&self.facts.vips).map(|(text, (ip, _))| ([("ip", &**text)], announced(ip)));
        out.metallb(
            "metallb_layer2_gratuitous_sent",
            "Number of gratuitous layer2 packets sent for owned IPs as a result of failovers",
            gratuitous,
        )?;
        let announced: Vec<(&str, String)> =
            self.facts.announced.iter().map(|(service, ip)| (&**service, ip.to_string())).collect();
        out.gauges(
            "metallb_speaker_announced",
            "Services being announced from this node. This is desired state, it does not guarantee that the routing protocols have converged.",
            announced.iter().map(|(service, ip)| {
                ([("service", *service), ("protocol", "layer2"), ("node", &*self.facts.node), ("ip", &**ip)], 1.0)
            }),
        )?;
        out.counters(
            "magnetite_vip_requests_left",
            "ARP requests and neighbour solicitations for a VIP that were left to the node that owns it.",
            counted(|stats| stats.left),
        )
    }

    /// Who answers for VIPs: what keeps this node from it, and how they are spread.
    fn vips(&self, out: &mut Out) -> fmt::Result {
        let claims = &self.snapshot.claims;
        let segment = |place: &u16| self.facts.segments.get(place).map_or("", String::as_str);
        let strangers: Vec<(String, &str, f64)> = claims
            .strangers
            .iter()
            .map(|((address, place), macs)| (address.to_ip().to_string(), segment(place), macs.len() as f64))
            .collect();
        out.gauges(
            "magnetite_vip_strangers",
            "Machines that are no nodes and have claimed a VIP lately.",
            strangers.iter().map(|(ip, segment, macs)| ([("ip", &**ip), ("segment", *segment)], *macs)),
        )?;
        let withheld: Vec<(String, &str, &str)> = claims
            .withheld
            .iter()
            .map(|((address, place), why)| (address.to_ip().to_string(), segment(place), withheld_name(*why)))
            .collect();
        out.gauges(
            "magnetite_vip_withheld",
            "1 for a VIP that this node does not answer for though it is to, by why: it still asks whether somebody has it, a machine \
             that is no node has it, or a better-ranked node claims it.",
            withheld.iter().map(|(ip, segment, why)| {
                ([("ip", &**ip), ("segment", *segment), ("reason", *why)], 1.0)
            }),
        )?;
        let shares: Vec<(String, &ShareFacts)> =
            self.facts.shares.iter().map(|share| (share.ip.to_string(), share)).collect();
        out.gauges(
            "magnetite_vip_shares",
            "Shares of the clients of a VIP that is spread over nodes, of 1024, by the node that answers them.",
            shares.iter().map(|(ip, share)| {
                let labels = [("ip", &**ip), ("segment", &*share.segment), ("node", &*share.node)];
                (labels, f64::from(share.shares))
            }),
        )
    }

    /// What became of packets.
    fn packets(&self, out: &mut Out) -> fmt::Result {
        let reasons = &self.counted.reasons;
        let counted = |value: fn(&ReasonCount) -> u64| {
            reasons.iter().map(move |(reason, count)| ([("reason", reason.name())], value(count)))
        };
        out.counters(
            "magnetite_packets",
            "Packets that the programs have seen, by what became of them and why.",
            counted(|count| count.packets),
        )?;
        out.counters("magnetite_packet_bytes", "Bytes of their frames.", counted(|count| count.bytes))
    }

    fn services(&self, out: &mut Out) -> fmt::Result {
        let services = self.facts.services.iter().zip(&self.counted.services);
        let rows: Vec<([(&str, String); 4], &Stats)> = services
            .filter_map(|(service, (stats, _))| {
                let labels = [
                    ("service", service.service.to_string()),
                    ("ip", service.ip.to_string()),
                    ("port", service.port.to_string()),
                    ("protocol", service.protocol.to_string()),
                ];
                Some((labels, stats.as_ref()?))
            })
            .collect();
        stats(out, "service", "a port of a Service", &rows)
    }

    fn backends(&self, out: &mut Out) -> fmt::Result {
        let services = self.facts.services.iter().zip(&self.counted.services);
        let rows: Vec<([(&str, String); 6], &Stats)> = services
            .flat_map(|(service, (_, counted))| {
                service.backends.iter().zip(counted).filter_map(move |(backend, stats)| {
                    let address = SocketAddr::new(backend.address, backend.port);
                    let labels = [
                        ("service", service.service.to_string()),
                        ("ip", service.ip.to_string()),
                        ("port", service.port.to_string()),
                        ("protocol", service.protocol.to_string()),
                        ("backend", address.to_string()),
                        ("node", backend.node.to_string()),
                    ];
                    Some((labels, stats.as_ref()?))
                })
            })
            .collect();
        stats(out, "backend", "a backend of a port of a Service", &rows)
    }

    /// How nodes are seen.
    fn legs(&self, out: &mut Out) -> fmt::Result {
        let legs = self.snapshot.legs.iter().filter_map(|(leg, report)| {
            let (node, segment) = self.facts.legs.get(leg)?;
            Some((&**node, &**segment, report))
        });
        let conditions = legs.flat_map(|(node, segment, report)| {
            CONDITIONS.iter().map(move |condition| {
                let labels =
                    [("node", node), ("segment", segment), ("condition", condition_name(*condition))];
                (labels, f64::from(u8::from(report.condition == *condition)))
            })
        });
        out.gauges(
            "magnetite_leg_condition",
            "1 for the condition in which this node holds a node in a segment to be, 0 for all others.",
            conditions,
        )
    }

    fn liveness(&self, out: &mut Out) -> fmt::Result {
        let counts = &self.snapshot.counts;
        out.counter("magnetite_liveness_probes", "Probes of other nodes that were sent.", counts.probes)?;
        out.counter(
            "magnetite_liveness_messages",
            "Messages to other agents that were sent.",
            counts.messages,
        )?;
        out.counter(
            "magnetite_liveness_suspicions",
            "Times that a node missed so many probes that others were asked.",
            counts.suspicions,
        )?;
        out.counter(
            "magnetite_liveness_accusations",
            "Verdicts of this node that another is silent.",
            counts.accusations,
        )?;
        out.counter(
            "magnetite_liveness_slips",
            "Times that this node's agent was kept from running so long that it accused nobody.",
            counts.slips,
        )?;
        let refused = OpenError::ALL.iter().map(|reason| {
            ([("reason", reason.name())], self.snapshot.refused.get(reason).copied().unwrap_or(0))
        });
        out.counters("magnetite_gossip_refused", "Messages that were not believed, by why.", refused)?;
        out.counter(
            "magnetite_owner_moves",
            "Changes of a VIP's owner in a segment that this node has seen.",
            self.snapshot.moves,
        )?;
        let Some(taken_over) = self.snapshot.taken_over else { return Ok(()) };
        out.gauge(
            "magnetite_takeover_vips",
            "VIPs, each on each link, that this node has taken over last, all at one moment.",
            taken_over.places as f64,
        )?;
        out.gauge(
            "magnetite_takeover_seconds",
            "From the verdict, or the plan, that gave them to this node until the last of them was announced.",
            taken_over.after.as_secs_f64(),
        )
    }

    fn claims(&self, out: &mut Out) -> fmt::Result {
        let counts = &self.snapshot.claims.counts;
        for (name, help, count) in [
            ("two_owners", "Claims by other nodes of VIPs that this node owned.", counts.two_owners),
            (
                "yields",
                "Times that this node owned a VIP no more because a better-ranked node claimed it.",
                counts.yields,
            ),
            ("foreign", "Claims of VIPs by machines that are no nodes.", counts.foreign),
            (
                "conflicts",
                "Times that a machine that is no node had a VIP before it was used.",
                counts.conflicts,
            ),
            ("announced_again", "Announcements of VIPs because others claimed them.", counts.announced_again),
            ("probes", "Times that was asked whether another machine has a VIP.", counts.probes),
        ] {
            out.counter(&format!("magnetite_claims_{name}"), help, count)?;
        }
        Ok(())
    }

    /// Leaving on purpose: all but the first only of a node that does.
    fn drain(&self, out: &mut Out) -> fmt::Result {
        let drain = self.facts.drain.as_ref();
        let is_true = |is_true: bool| f64::from(u8::from(is_true));
        out.gauge(
            "magnetite_drain_active",
            "1 while this node leaves on purpose: other nodes own its VIPs.",
            is_true(drain.is_some()),
        )?;
        let Some(drain) = drain else { return Ok(()) };
        out.gauge(
            "magnetite_drain_complete",
            "1 if it owns no VIP and carries no flow.",
            is_true(drain.drained),
        )?;
        out.gauge("magnetite_drain_overdue", "1 if its deadline has passed before.", is_true(drain.overdue))?;
        if let Some(flows) = drain.flows_at_begin {
            out.gauge("magnetite_drain_flows_at_begin", "Flows that it carried at first.", flows as f64)?;
        }
        let flows = drain.flows.map(|flows| [("elsewhere", flows.entering), ("here", flows.to_pods)]);
        out.gauges(
            "magnetite_drain_flows_left",
            "Flows that it carries still, by where their pods are; those that are left to the kernel count as elsewhere.",
            flows.into_iter().flatten().map(|(pods, flows)| ([("pods", pods)], flows as f64)),
        )
    }

    fn agent(&self, out: &mut Out) -> fmt::Result {
        let algorithm = ALGORITHM_VERSION.to_string();
        let labels =
            [("node", &*self.facts.node), ("version", env!("CARGO_PKG_VERSION")), ("algorithm", &*algorithm)];
        out.gauges("magnetite_agent_info", "The agent; always 1.", [(labels, 1.0)])?;
        out.gauge(
            "magnetite_map_bytes",
            "Bytes of all maps, as the kernel charges them at most.",
            self.facts.map_bytes as f64,
        )?;
        out.gauge(
            "magnetite_problems",
            "What is wrong with the source or found no room: lb-agent status says it.",
            self.facts.problems as f64,
        )
    }
}

fn withheld_name(why: Withheld) -> &'static str {
    match why {
        Withheld::Probing => "probing",
        Withheld::Taken => "taken",
        Withheld::Yielded { .. } => "yielded",
    }
}

const CONDITIONS: [Condition; 6] = [
    Condition::Answering,
    Condition::Returning,
    Condition::Leaving,
    Condition::Yielding,
    Condition::Absent,
    Condition::Silent,
];

fn stats<const N: usize>(
    out: &mut Out,
    what: &str,
    of: &str,
    rows: &[([(&'static str, String); N], &Stats)],
) -> fmt::Result {
    let counted = |value: fn(&Stats) -> u64| {
        rows.iter()
            .map(move |(labels, stats)| (labels.each_ref().map(|(key, text)| (*key, &**text)), value(stats)))
    };
    let name = |unit| format!("magnetite_{what}_{unit}");
    out.counters(&name("packets"), &format!("Packets of clients to {of}."), counted(|stats| stats.packets))?;
    out.counters(
        &name("bytes"),
        &format!("Bytes of clients' frames to {of}."),
        counted(|stats| stats.bytes),
    )?;
    out.counters(&name("new_flows"), &format!("Flows that began to {of}."), counted(|stats| stats.new_flows))
}
