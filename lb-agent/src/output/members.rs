//! `NodeMembers`: each node as this one sees it, and who owns what. Beside [`super::NodeStatus`], for it changes all the time.

use std::{collections::BTreeMap, time::Instant};

use jiff::{SignedDuration, Timestamp};
use lb_core::{
    armed::{Armed, ArmedSegment, ArmedVip},
    liveness::{Condition, Leg, LegReport, Source, Standing},
    model::NodeName,
    plan::Plan,
    probing::Spot,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    conflicts::why_withheld,
    documents::{Document, document},
    status::{LeftOutStatus, mac},
};
use crate::liveness::Snapshot;

/// The object in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MembersObject {
    /// `magnetite.io/v1alpha1`.
    pub api_version: String,
    /// `NodeMembers`.
    pub kind: String,
    /// Name: the node's.
    pub metadata: BTreeMap<String, String>,
    /// What there is to say.
    pub status: Members,
}

/// What a node sees of all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Members {
    /// When it was so.
    pub at: Timestamp,
    /// Whether nodes probe each other. Without Secret `memberlist` all are taken to be well.
    pub probing: bool,
    /// By name of the node, then by segment.
    pub nodes: BTreeMap<String, BTreeMap<String, Member>>,
    /// By address, then by segment.
    pub vips: BTreeMap<String, BTreeMap<String, OwnerStatus>>,
}

/// A node in a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its address there, which is probed.
    pub address: Leg,
    /// Its MAC, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// [`condition_name`].
    pub condition: String,
    /// Since when; none of a node that was never found otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// How this node knows.
    pub known: Knowledge,
    /// Milliseconds between its last answer to a probe and [`Members::at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_answer_ms: Option<u64>,
    /// Nodes that probe it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observers: Vec<String>,
}

/// How a node knows of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Knowledge {
    /// It is that node.
    Own,
    /// It probes it.
    Probed,
    /// Others say so.
    Told,
    /// It takes all to be well: nodes do not probe each other.
    Assumed,
}

/// Who owns a VIP in a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerStatus {
    /// The Services that have the VIP.
    pub services: Vec<String>,
    /// The owner; none if nobody may own it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// When this node's agent saw it become the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The rule by which it is.
    pub why: String,
    /// Nodes that may not own it here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOutStatus>,
}

impl MembersObject {
    /// Of a node.
    pub fn of(node: &str, status: Members) -> Self {
        Self {
            api_version: "magnetite.io/v1alpha1".to_owned(),
            kind: "NodeMembers".to_owned(),
            metadata: [("name".to_owned(), node.to_owned())].into(),
            status,
        }
    }
}

/// The moment at which something is looked at, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For times that others have measured.
    pub instant: Instant,
    /// For people.
    pub time: Timestamp,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self { instant: Instant::now(), time: Timestamp::now() }
    }

    /// The time at another instant, which is not later.
    fn time_at(&self, instant: Instant) -> Timestamp {
        let ago = self.instant.saturating_duration_since(instant);
        SignedDuration::try_from(ago)
            .ok()
            .and_then(|ago| self.time.checked_sub(ago).ok())
            .unwrap_or(self.time)
    }
}

impl Members {
    /// The object, as it is written.
    pub fn document(self, node: &NodeName) -> Document {
        document(&node.0, "NodeMembers", "", &node.0, json!(MembersObject::of(&node.0, self)))
    }

    /// By what was planned last, as nodes stand and as the liveness thread has seen them.
    pub fn of(plan: &Plan, armed: &Armed, standing: &Standing, snapshot: &Snapshot, now: Moment) -> Self {
        let at = now.time_at(snapshot.at);
        let before =
            |ago| SignedDuration::try_from(ago).ok().and_then(|ago| at.checked_sub(ago).ok()).map(seconds);
        let mut nodes: BTreeMap<String, BTreeMap<String, Member>> = BTreeMap::new();
        for segment in armed.segments.values() {
            for (leg, name) in &segment.legs {
                let reported = snapshot.legs.get(leg);
                let (known, last_answer) = knowledge(segment, *leg, reported);
                let observers = reported.map_or(&[][..], |reported| &reported.observers);
                let mac =
                    plan.nodes.get(name).and_then(|node| node.legs.get(&segment.name)).copied().map(mac);
                let member = Member {
                    address: *leg,
                    mac,
                    condition: condition_name(standing.condition(*leg)).to_owned(),
                    since: reported.and_then(|reported| reported.since).and_then(before),
                    known,
                    last_answer_ms: last_answer.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
                    observers: observers
                        .iter()
                        .filter_map(|leg| Some(segment.legs.get(leg)?.to_string()))
                        .collect(),
                };
                nodes.entry(name.to_string()).or_default().insert(segment.name.clone(), member);
            }
        }
        let mut vips: BTreeMap<String, BTreeMap<String, OwnerStatus>> = BTreeMap::new();
        for (address, vip) in &plan.vips {
            let Some(armed_vip) = armed.vips.get(&(*address).into()) else { continue };
            for place in armed_vip.ranked.keys() {
                let Some(segment) = armed.segments.get(place) else { continue };
                let spot = ((*address).into(), *place);
                let (leg, why) = owner(armed, spot, armed_vip, standing);
                let seen = snapshot.owners.get(&spot).filter(|seen| Some(seen.leg) == leg);
                let named = leg.and_then(|leg| Some(segment.node_of(leg)?.to_string()));
                let withheld = snapshot.claims.withheld.get(&spot);
                let (owner, seen, why) = match withheld.map(|withheld| why_withheld(armed, spot, *withheld)) {
                    Some((why, owner)) => (owner, None, format!("this node does not own it: {why}")),
                    None => (named, seen, why),
                };
                let status = OwnerStatus {
                    services: vip.services.iter().map(ToString::to_string).collect(),
                    owner,
                    since: seen.and_then(|seen| before(seen.since)),
                    why,
                    left_out: vip
                        .left_out
                        .iter()
                        .filter(|(reason, _)| reason.segment().is_none_or(|name| name == segment.name))
                        .map(|(reason, nodes)| LeftOutStatus::of(reason, nodes, &plan.node))
                        .collect(),
                };
                vips.entry(address.to_string()).or_default().insert(segment.name.clone(), status);
            }
        }
        Self { at, probing: !snapshot.legs.is_empty(), nodes, vips }
    }
}

fn knowledge(
    segment: &ArmedSegment,
    leg: Leg,
    reported: Option<&LegReport>,
) -> (Knowledge, Option<std::time::Duration>) {
    match reported.map(|reported| reported.source) {
        _ if segment.own == Some(leg) => (Knowledge::Own, None),
        Some(Source::Own) => (Knowledge::Own, None),
        Some(Source::Probes { last_answer }) => (Knowledge::Probed, last_answer),
        Some(Source::Others) => (Knowledge::Told, None),
        None => (Knowledge::Assumed, None),
    }
}

/// Who owns a VIP in a segment, and by which rule.
fn owner(armed: &Armed, spot: Spot, vip: &ArmedVip, standing: &Standing) -> (Option<Leg>, String) {
    let (address, place) = spot;
    let ranked = vip.ranked.get(&place).map_or(&[][..], Vec::as_slice);
    let name = |leg: &Leg| armed.node_of(place, *leg).map_or_else(|| leg.to_string(), ToString::to_string);
    let Some(owner) = standing.owner(ranked) else {
        return (None, "no node that may own it has an address here".to_owned());
    };
    if let Some(counts) = armed.share_counts(address, standing).get(&place) {
        let nodes = counts.values().filter(|count| **count > 0).count();
        return (None, format!("spread over {nodes} nodes, each for a share of the clients"));
    }
    let before = ranked.iter().take_while(|leg| **leg != owner);
    let passed: Vec<String> =
        before.map(|leg| format!("{} is {}", name(leg), condition_name(standing.condition(*leg)))).collect();
    let rank = if passed.is_empty() {
        format!("best-ranked of {}", ranked.len())
    } else {
        format!("next of {}: {}", ranked.len(), passed.join(", "))
    };
    let why = match standing.condition(owner) {
        Condition::Answering => rank,
        condition => format!("{rank}; it is {}, and nobody is better", condition_name(condition)),
    };
    (Some(owner), why)
}

/// Whole seconds: what is computed anew from an age must not change each time.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// A condition, as status and metrics name it.
pub fn condition_name(condition: Condition) -> &'static str {
    match condition {
        Condition::Answering => "answering",
        Condition::Returning => "returning",
        Condition::Leaving => "leaving",
        Condition::Yielding => "yielding",
        Condition::Absent => "absent",
        Condition::Silent => "silent",
    }
}
