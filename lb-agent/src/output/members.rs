//! `NodeMembers`: each node as this one sees it. Beside [`super::NodeStatus`] and [`super::Owners`], for it changes all the time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use lb_core::{
    armed::{Armed, ArmedSegment},
    liveness::{Condition, Leg, LegReport, Source, Standing},
    model::NodeName,
    plan::Plan,
};
use serde::{Deserialize, Serialize};

use super::{
    status::mac,
    writer::{Error, Text},
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
    pub(super) fn time_at(&self, instant: Instant) -> Timestamp {
        let ago = self.instant.saturating_duration_since(instant);
        SignedDuration::try_from(ago)
            .ok()
            .and_then(|ago| self.time.checked_sub(ago).ok())
            .unwrap_or(self.time)
    }
}

impl Members {
    /// The object, as it is written.
    ///
    /// # Errors
    /// None in practice: all of it has a form in YAML.
    pub fn text(self, node: &NodeName) -> Result<Text, Error> {
        Text::of_node("NodeMembers", &node.0, &MembersObject::of(&node.0, self))
    }

    /// By what was planned last, as nodes stand and as the liveness thread has seen them.
    pub fn of(plan: &Plan, armed: &Armed, standing: &Standing, snapshot: &Snapshot, now: Moment) -> Self {
        let at = now.time_at(snapshot.at);
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
                    since: reported.and_then(|reported| reported.since).and_then(|ago| before(at, ago)),
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
        Self { at, probing: !snapshot.legs.is_empty(), nodes }
    }
}

fn knowledge(
    segment: &ArmedSegment,
    leg: Leg,
    reported: Option<&LegReport>,
) -> (Knowledge, Option<Duration>) {
    match reported.map(|reported| reported.source) {
        _ if segment.own == Some(leg) => (Knowledge::Own, None),
        Some(Source::Own) => (Knowledge::Own, None),
        Some(Source::Probes { last_answer }) => (Knowledge::Probed, last_answer),
        Some(Source::Others) => (Knowledge::Told, None),
        None => (Knowledge::Assumed, None),
    }
}

/// When it was, so long before. In whole seconds: what is computed anew from an age must not change each time.
pub(super) fn before(at: Timestamp, ago: Duration) -> Option<Timestamp> {
    let ago = SignedDuration::try_from(ago).ok()?;
    at.checked_sub(ago).ok().map(seconds)
}

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
