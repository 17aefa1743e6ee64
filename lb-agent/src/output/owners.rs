//! `NodeOwners`: who owns what by what this node knows, and why.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lb_core::{
    armed::{Armed, ArmedVip},
    liveness::{Condition, Leg, Standing},
    model::NodeName,
    plan::Plan,
    probing::Spot,
};
use serde::{Deserialize, Serialize};

use super::{
    conflicts::why_withheld,
    members::{Moment, before, condition_name},
    status::LeftOutStatus,
    writer::{Error, Text},
};
use crate::liveness::Snapshot;

/// The object in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnersObject {
    /// `magnetite.io/v1alpha1`.
    pub api_version: String,
    /// `NodeOwners`.
    pub kind: String,
    /// Name: the node's.
    pub metadata: BTreeMap<String, String>,
    /// What there is to say.
    pub status: Owners,
}

/// Who owns what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owners {
    /// By address, then by segment.
    pub vips: BTreeMap<String, BTreeMap<String, OwnerStatus>>,
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

impl Owners {
    /// The object, as it is written.
    ///
    /// # Errors
    /// None in practice: all of it has a form in YAML.
    pub fn text(self, node: &NodeName) -> Result<Text, Error> {
        let object = OwnersObject {
            api_version: "magnetite.io/v1alpha1".to_owned(),
            kind: "NodeOwners".to_owned(),
            metadata: [("name".to_owned(), node.to_string())].into(),
            status: self,
        };
        Text::of_node("NodeOwners", &node.0, &object)
    }

    /// By what was planned last, as nodes stand and as the liveness thread has seen them.
    pub fn of(plan: &Plan, armed: &Armed, standing: &Standing, snapshot: &Snapshot, now: Moment) -> Self {
        let at = now.time_at(snapshot.at);
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
                    since: seen.and_then(|seen| before(at, seen.since)),
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
        Self { vips }
    }
}

/// Who owns a VIP in a segment, and by which rule.
fn owner(armed: &Armed, spot: Spot, vip: &ArmedVip, standing: &Standing) -> (Option<Leg>, String) {
    let (address, place) = spot;
    let ranked = vip.ranked.get(&place).map_or(&[][..], |ranked| ranked);
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
