//! `NodeStatus`: what a node serves, how, and what it leaves to the kernel and why.

use std::{collections::BTreeMap, net::IpAddr};

use lb_api::Settled;
use lb_common::layout::MAX_SEGMENTS;
use lb_core::{
    armed::Armed,
    liveness::{Condition, Description, Leg, Standing},
    model::NodeName,
    ownership::LeftOut,
    place::{Placed, SEGMENTS},
    plan::{Frontend, KernelReason, Plan},
};
use serde::{Deserialize, Serialize};

use super::{conflicts::Conflicts, drain::DrainStatus, members::condition_name, services::ServiceStatus};
use crate::dataplane::LinkMode;

/// What a pass has come to, as nodes stand.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// What was planned.
    pub plan: &'a Plan,
    /// The part that changes with the liveness of nodes.
    pub armed: &'a Armed,
    /// Services that are left to the kernel for want of room.
    pub without_room: &'a BTreeMap<Frontend, KernelReason>,
    /// What else found no room, by map.
    pub left_out: &'a BTreeMap<&'static str, usize>,
    /// How nodes stand.
    pub standing: &'a Standing,
    /// How the programs are attached, by NIC.
    pub attached: &'a BTreeMap<u32, LinkMode>,
    /// What it was planned from.
    pub settled: &'a Settled,
}

impl<'a> Outcome<'a> {
    /// Of what was planned and placed.
    pub fn new(
        plan: &'a Plan,
        placed: &'a Placed,
        standing: &'a Standing,
        attached: &'a BTreeMap<u32, LinkMode>,
        settled: &'a Settled,
    ) -> Self {
        let Placed { armed, without_room, left_out, .. } = placed;
        Self { plan, armed, without_room, left_out, standing, attached, settled }
    }
}

/// The object in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatusObject<S = BTreeMap<String, ServiceStatus>> {
    /// `magnetite.io/v1alpha1`.
    pub api_version: String,
    /// `NodeStatus`.
    pub kind: String,
    /// Name: the node's.
    pub metadata: BTreeMap<String, String>,
    /// What there is to say.
    pub status: NodeStatus<S>,
}

/// What a node serves, how, and what it leaves to the kernel and why. An agent writes its services as [`Services`](super::Services):
/// they are most of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus<S = BTreeMap<String, ServiceStatus>> {
    /// The process; none in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
    /// The source has no object: everything stays as it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
    /// How far it has come, if it leaves on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainStatus>,
    /// By name.
    pub links: BTreeMap<String, LinkStatus>,
    /// Nodes as this one sees them, by name.
    pub nodes: BTreeMap<String, PeerStatus>,
    /// By address.
    pub vips: BTreeMap<String, VipStatus>,
    /// By `address:port/protocol`.
    pub services: S,
    /// What others say of VIPs, by address and segment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conflicts: Conflicts,
    /// What is wrong, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// The process behind a status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Directory of the pins.
    pub pin_dir: String,
    /// Version of the state maps' layout.
    pub state: u32,
    /// Version of the config maps' layout.
    pub config: u32,
    /// Version of what nodes agree on.
    pub algorithm: u32,
    /// The lowest version that a node which lives uses, if nodes talk: flows with pods of nodes that use another than this one are left to
    /// the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowest_algorithm: Option<u32>,
    /// Bytes of all maps, as the kernel charges them at most.
    pub map_bytes: u64,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    /// Interface index of the link itself.
    pub ifindex: u32,
    /// Interface index of the NIC below, to which the programs are attached; none if that is the link itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<u32>,
    /// VLAN, 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub vlan: u16,
    /// MAC.
    pub mac: String,
    /// The segment, by the name of its first link.
    pub segment: String,
    /// `native`, `native-frags`, or `none` if the programs are not attached.
    pub mode: String,
}

/// A node, as this one sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// `false` of one that has left: its backends take no new flow, what is established stays.
    pub in_source: bool,
    /// Its MAC, by segment.
    pub macs: BTreeMap<String, String>,
    /// Segments in which it is not simply answering: `silent` (nothing is heard of it any more), `absent` (no agent was ever heard on
    /// it), `yielding` (it forwards, but its agent is not there), `leaving` (it goes on purpose) or `returning` (it was in trouble, and
    /// owns nothing yet if another can).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, String>,
}

impl PeerStatus {
    /// Whether it answers in all segments, and its agent is there.
    pub fn is_present(&self) -> bool {
        !self
            .conditions
            .values()
            .any(|condition| ["silent", "absent", "yielding"].contains(&condition.as_str()))
    }
}

/// A VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VipStatus {
    /// The Services that have it.
    pub services: Vec<String>,
    /// Who answers ARP and NDP for it, in the first of this node's segments in which somebody does; none of one that is spread over nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Who answers in other segments, where that is another.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub other_owners: BTreeMap<String, String>,
    /// Of one that is spread over nodes: how many shares of the clients each node answers, of 1,024.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shares: BTreeMap<String, u32>,
    /// Segments in which it is announced.
    pub segments: Vec<String>,
    /// Segments in which this node does not answer for it, though it is to, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub withheld: BTreeMap<String, String>,
    /// Nodes that may not answer for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOutStatus>,
}

impl VipStatus {
    /// Who answers, in words: the owner, or each node with its shares.
    pub fn answers(&self) -> String {
        if self.shares.is_empty() {
            let first = self.owner.clone().unwrap_or("none".to_owned());
            let others = self.other_owners.iter().map(|(segment, owner)| format!("{owner} on {segment}"));
            return std::iter::once(first).chain(others).collect::<Vec<_>>().join(", ");
        }
        let shares: Vec<String> = self.shares.iter().map(|(node, count)| format!("{node} {count}")).collect();
        format!("spread: {}", shares.join(", "))
    }

    /// Whether a node answers, any client at all.
    pub fn is_answered_by(&self, node: &str) -> bool {
        self.owner.as_deref() == Some(node) || self.shares.get(node).is_some_and(|count| *count > 0)
    }
}

/// Nodes that a rule leaves out of those that may answer for a VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOutStatus {
    /// The rule, in MetalLB's words where it has them: `noEndpoints`, `noMatchingAdvertisement`, `nodeNetworkUnavailable`,
    /// `nodeLabeledExcludeBalancers`, `nodeLeaving`, `noLocalEndpoints`, `noAdvertisedInterface`, `notAdvertisedInSegment`, `noLinkInSegment`.
    pub reason: String,
    /// The segment in which alone they are left out; none if they are everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// The nodes, this one first if it is among them; of many some.
    pub nodes: Vec<String>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_none")]
    pub others: usize,
}

/// How many nodes are named for a rule: a cluster has thousands of VIPs, and a rule may leave out all nodes but a few.
const MOST_NAMED: usize = 16;

impl LeftOutStatus {
    /// Of nodes that a rule leaves out; `this` one is named in any case.
    pub(super) fn of(reason: &LeftOut, nodes: &[NodeName], this: &NodeName) -> Self {
        let own = nodes.iter().filter(|node| *node == this);
        let named = own.chain(nodes.iter().filter(|node| *node != this)).take(MOST_NAMED);
        Self {
            reason: reason.to_string(),
            segment: reason.segment().map(str::to_owned),
            nodes: named.map(ToString::to_string).collect(),
            others: nodes.len().saturating_sub(MOST_NAMED),
        }
    }
}

impl<S> NodeStatus<S> {
    /// From what a pass has come to.
    pub fn of(outcome: &Outcome<'_>, services: S) -> Self {
        let Outcome { plan, armed, standing, attached, settled, left_out: over, .. } = *outcome;
        let links = plan.links.iter().map(|(name, link)| {
            let status = LinkStatus {
                ifindex: link.device,
                nic: (link.ifindex != link.device).then_some(link.ifindex),
                vlan: link.vlan,
                mac: mac(link.mac),
                segment: link.segment.clone(),
                mode: attached.get(&link.ifindex).map_or("none", |mode| mode.name()).to_owned(),
            };
            (name.clone(), status)
        });
        let nodes = plan.nodes.iter().map(|(name, node)| {
            let macs = node.legs.iter().map(|(segment, leg)| (segment.clone(), mac(*leg))).collect();
            let conditions = node.addresses.iter().filter_map(|(segment, leg)| {
                let condition = standing.condition(*leg);
                let name = condition_name(condition).to_owned();
                (condition != Condition::Answering).then(|| (segment.clone(), name))
            });
            let conditions = conditions.collect();
            (name.to_string(), PeerStatus { in_source: node.in_source, macs, conditions })
        });
        let vips = plan.vips.iter().map(|(address, vip)| {
            let status = VipStatus {
                services: vip.services.iter().map(ToString::to_string).collect(),
                owner: owner(armed, *address, standing),
                other_owners: other_owners(armed, *address, standing),
                shares: shares(armed, *address, standing),
                segments: vip.segments.keys().cloned().collect(),
                withheld: BTreeMap::new(),
                left_out: vip
                    .left_out
                    .iter()
                    .map(|(reason, nodes)| LeftOutStatus::of(reason, nodes, &plan.node))
                    .collect(),
            };
            (address.to_string(), status)
        });
        Self {
            agent: None,
            frozen: settled.is_empty,
            drain: None,
            links: links.collect(),
            nodes: nodes.collect(),
            vips: vips.collect(),
            services,
            conflicts: BTreeMap::new(),
            problems: settled
                .problems
                .iter()
                .map(ToString::to_string)
                .chain(over.iter().map(|(map, count)| left_out(map, *count)))
                .chain(untold(&plan.description, plan.links.len()))
                .collect(),
        }
    }

    /// The same with other services.
    pub fn with_services<T>(self, services: T) -> NodeStatus<T> {
        let Self { agent, frozen, drain, links, nodes, vips, services: _, conflicts, problems } = self;
        NodeStatus { agent, frozen, drain, links, nodes, vips, services, conflicts, problems }
    }

    /// The object of a node.
    pub fn object(self, node: &str) -> NodeStatusObject<S> {
        NodeStatusObject {
            api_version: "magnetite.io/v1alpha1".to_owned(),
            kind: "NodeStatus".to_owned(),
            metadata: [("name".to_owned(), node.to_owned())].into(),
            status: self,
        }
    }
}

/// What found no room in a map, or beyond the bound on segments.
fn left_out(map: &str, count: usize) -> String {
    if map == SEGMENTS {
        return format!("{count} links are not served: a node has at most {MAX_SEGMENTS} segments");
    }
    format!("map {map} is full: {count} entries are left out; raise it with --map-size {map}=NUMBER")
}

/// What follows if this node cannot tell others of all its links.
fn untold(description: &Description, all: usize) -> Option<String> {
    let said = description.links.len();
    description.has_more.then(|| {
        format!(
            "of {all} links a message to other nodes has room for {said}: they know of this node's links by the source alone, and \
             where it names no address of them VIPs do not move when such a link fails"
        )
    })
}

/// Who answers for an address, in the first of this node's segments in which somebody does.
fn owner(armed: &Armed, address: IpAddr, standing: &Standing) -> Option<String> {
    let owners = armed.owners(address.into(), standing);
    let (segment, leg) = owners.first_key_value()?;
    armed.node_of(*segment, *leg).map(ToString::to_string)
}

/// Who answers in other segments, where that is another.
fn other_owners(armed: &Armed, address: IpAddr, standing: &Standing) -> BTreeMap<String, String> {
    let first = owner(armed, address, standing);
    let owners = armed.owners(address.into(), standing).into_iter().skip(1);
    let named = owners.filter_map(|(segment, leg)| {
        let name = armed.segments.get(&segment)?.name.clone();
        Some((name, armed.node_of(segment, leg)?.to_string()))
    });
    named.filter(|(_, owner)| Some(owner) != first.as_ref()).collect()
}

/// How many shares each node has, in the first of this node's segments in which an address is spread over nodes.
fn shares(armed: &Armed, address: IpAddr, standing: &Standing) -> BTreeMap<String, u32> {
    let counts = armed.share_counts(address.into(), standing);
    let Some((segment, counts)) = counts.first_key_value() else { return BTreeMap::new() };
    let legs = armed.segments.get(segment).map(|segment| &segment.legs);
    let named = |(leg, count): (&Leg, &u32)| Some((legs?.get(leg)?.to_string(), *count));
    counts.iter().filter_map(named).collect()
}

/// Six bytes in hexadecimal, with colons between.
pub fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_none(number: &usize) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use lb_core::liveness::LinkDescription;

    use super::*;

    #[test]
    fn links_that_others_are_not_told_of_are_said() {
        let described = |count| {
            let link = |number: u8| {
                let prefix = format!("192.0.{number}.10/24").parse();
                LinkDescription::new(format!("bond0.{number}"), [2; 6].into(), prefix)
            };
            Description::of((0..count).map(link).collect())
        };
        assert_eq!(untold(&described(32), 32), None);
        let said = untold(&described(33), 33).unwrap_or_default();
        assert!(said.starts_with("of 33 links a message to other nodes has room for 32: "), "{said}");
    }

    #[test]
    fn a_full_map_is_said_with_how_to_raise_it_and_too_many_segments_without() {
        let said = left_out("VIPS", 2);
        assert_eq!(said, "map VIPS is full: 2 entries are left out; raise it with --map-size VIPS=NUMBER");
        assert_eq!(left_out(SEGMENTS, 3), "3 links are not served: a node has at most 32 segments");
    }
}
