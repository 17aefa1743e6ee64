//! What others say of VIPs: in the node's status, and as a condition on the Services that it touches.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use lb_common::layout::Addr;
use lb_core::{
    armed::Armed,
    claims::{Report, Withheld},
    model::ObjectName,
    plan::Plan,
    probing::Spot,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    documents::{Document, document},
    events::{Facts, Reason},
    status::{NodeStatus, mac},
};

/// What others say of VIPs, by address and segment.
pub type Conflicts = BTreeMap<String, BTreeMap<String, ConflictStatus>>;

/// What others have said of a VIP in a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConflictStatus {
    /// Whether this node does not answer for the VIP because somebody else has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_taken: bool,
    /// How often another node has said that it has the VIP while this node owned it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub two_owners: u64,
    /// Machines that are no nodes and say that they have it, by MAC.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub strangers: BTreeMap<String, StrangerStatus>,
}

/// A machine that is no node, and says that it has a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StrangerStatus {
    /// How often it was heard; under a flood, less often than it said so.
    pub claims: u64,
    /// When it was first heard.
    pub first: Timestamp,
    /// When it was last heard.
    pub last: Timestamp,
}

impl<S> NodeStatus<S> {
    /// Adds what others say of VIPs.
    pub fn add_claims(&mut self, armed: &Armed, report: &Report) {
        let segment_of = |(_, segment): Spot| Some(armed.segments.get(&segment)?.name.clone());
        let address_of = |(address, _): Spot| address.to_ip().to_string();
        for (spot, withheld) in &report.withheld {
            let (Some(segment), Some(vip)) = (segment_of(*spot), self.vips.get_mut(&address_of(*spot)))
            else {
                continue;
            };
            let (why, owner) = why_withheld(armed, *spot, *withheld);
            vip.withheld.insert(segment, why);
            if is_first(armed, *spot) {
                vip.owner = owner;
            }
        }
        for (spot, strangers) in &report.strangers {
            let Some(conflict) = segment_of(*spot).map(|segment| self.conflict(*spot, segment)) else {
                continue;
            };
            conflict.is_taken = report.withheld.get(spot) == Some(&Withheld::Taken);
            conflict.strangers = strangers
                .iter()
                .map(|(address, stranger)| {
                    let status = StrangerStatus {
                        claims: stranger.claims,
                        first: seconds(stranger.first),
                        last: seconds(stranger.last),
                    };
                    (mac(address.octets()), status)
                })
                .collect();
        }
        for (spot, count) in &report.two_owners {
            if let Some(segment) = segment_of(*spot) {
                self.conflict(*spot, segment).two_owners = *count;
            }
        }
    }

    fn conflict(&mut self, (address, _): Spot, segment: String) -> &mut ConflictStatus {
        let of_address = self.conflicts.entry(address.to_ip().to_string()).or_default();
        of_address.entry(segment).or_default()
    }
}

/// Whether the VIP's owner in status is the one of this segment.
fn is_first(armed: &Armed, (address, segment): (Addr, u16)) -> bool {
    armed.vips.get(&address).and_then(|vip| vip.ranked.keys().next()) == Some(&segment)
}

fn seconds(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or_default()
}

/// Why this node does not own what it would, and who does instead, if anybody.
pub(super) fn why_withheld(armed: &Armed, spot: Spot, withheld: Withheld) -> (String, Option<String>) {
    match withheld {
        Withheld::Probing => ("new: it is asked first whether somebody has it".to_owned(), None),
        Withheld::Taken => ("another machine has it".to_owned(), None),
        Withheld::Yielded { to } => {
            let node = armed.segments.get(&spot.1).and_then(|segment| segment.legs.get(&to));
            let node = node.map_or_else(|| to.to_string(), ToString::to_string);
            (format!("{node} ranks better and says that it has it"), Some(node))
        }
    }
}

/// Type of the condition on a Service.
pub const ADDRESS_CONFLICT: &str = "magnetite.io/AddressConflict";

/// For each Service with a VIP that a stranger claims, the condition that says so. As others may see no stranger or another one,
/// each node says it in an object of its own, which has the part of the Service that this node knows.
pub(super) fn conditions(plan: &Plan, conflicts: &Conflicts) -> Vec<Document> {
    let documents = conflicts_of_services(plan, conflicts).into_iter().map(|(service, conflicts)| {
        let is_taken = conflicts.iter().any(|(.., conflict)| conflict.is_taken);
        let since = conflicts.iter().flat_map(|(.., c)| c.strangers.values()).map(|s| s.first).min();
        let messages: Vec<String> = conflicts.iter().map(|conflict| message(*conflict)).collect();
        let value = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": service.name, "namespace": service.namespace},
            "status": {"conditions": [{
                "type": ADDRESS_CONFLICT,
                "status": "True",
                "reason": if is_taken { "AddressTaken" } else { "AddressClaimed" },
                "message": messages.join("; "),
                "lastTransitionTime": since.unwrap_or_default(),
            }]},
        });
        // No Service has a point in its name.
        let name = format!("{}.{}", service.name, plan.node);
        document(&plan.node.0, "Service", &service.namespace, &name, value)
    });
    documents.collect()
}

/// The same as events, which an API server takes from a node.
pub fn conflict_facts(plan: &Plan, conflicts: &Conflicts) -> Facts {
    let facts = conflicts_of_services(plan, conflicts).into_iter().map(|(service, conflicts)| {
        let messages: Vec<String> = conflicts.into_iter().map(message).collect();
        ((service.clone(), Reason::AddressConflict), messages.join("; "))
    });
    facts.collect()
}

type Conflict<'a> = (IpAddr, &'a String, &'a ConflictStatus);

fn conflicts_of_services<'a>(
    plan: &'a Plan,
    conflicts: &'a Conflicts,
) -> BTreeMap<&'a ObjectName, Vec<Conflict<'a>>> {
    let mut of_services: BTreeMap<_, Vec<Conflict<'_>>> = BTreeMap::new();
    for (address, vip) in &plan.vips {
        let segments = conflicts.get(&address.to_string()).into_iter().flatten();
        for (segment, conflict) in segments.filter(|(_, conflict)| !conflict.strangers.is_empty()) {
            for service in &vip.services {
                of_services.entry(service).or_default().push((*address, segment, conflict));
            }
        }
    }
    of_services
}

fn message((address, segment, conflict): (IpAddr, &String, &ConflictStatus)) -> String {
    let macs: Vec<&str> = conflict.strangers.keys().map(String::as_str).collect();
    let who = format!("{address} is claimed by {} on segment {segment}", macs.join(" and "));
    if conflict.is_taken {
        format!("{who}, and not used there until it is free")
    } else {
        format!("{who}, and still answered: take the address from that machine")
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

    use lb_core::{
        armed::{ArmedLink, ArmedSegment, ArmedVip},
        claims::{Claim, Claims},
        few::Few,
        liveness::Standing,
        model::{NodeName, ObjectName},
        ownership::Ranking,
        plan::{LinkPlan, VipPlan},
    };

    use super::*;
    use crate::output::VipStatus;

    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200));
    const STRANGER: [u8; 6] = [2, 0, 0, 0, 1, 1];

    fn plan() -> Plan {
        let service = |name: &str| ObjectName { namespace: "default".into(), name: name.into() };
        let vip = VipPlan {
            services: vec![service("web")],
            segments: [("lan".to_owned(), Ranking::default())].into(),
            left_out: Few::new(),
            echo: true,
            spread: false,
        };
        let other = VipPlan { services: vec![service("other")], ..vip.clone() };
        let link = LinkPlan {
            ifindex: 7,
            device: 7,
            ports: BTreeSet::new(),
            vlan: 0,
            mac: [2; 6],
            mtu: 1500,
            asks_from: None,
            segment: "lan".to_owned(),
        };
        Plan {
            node: NodeName("n1".into()),
            cluster_uid: None,
            links: [("eth0".to_owned(), link)].into(),
            description: lb_core::liveness::Description::default(),
            nodes: BTreeMap::new(),
            vips: [(VIP, vip.into()), (Ipv4Addr::new(192, 0, 2, 201).into(), other.into())].into(),
            services: BTreeMap::new(),
            probed: [].into(),
            own: [].into(),
        }
    }

    fn armed(plan: &Plan) -> Armed {
        let own = IpAddr::from([192, 0, 2, 11]);
        let vip = ArmedVip {
            entry: lb_common::layout::Vip::default(),
            ranked: [(3, [own].into())].into(),
            tables: Few::new(),
        };
        let links = [(7, ArmedLink { mac: [2; 6].into(), asks_from: None, arrivals: [7].into() })].into();
        let segment = ArmedSegment {
            name: "lan".to_owned(),
            own: Some(own),
            claims_as: Some(own),
            legs: BTreeMap::new(),
            stand_ins: BTreeMap::new(),
            links,
        };
        Armed {
            vips: plan.vips.keys().map(|address| ((*address).into(), vip.clone())).collect(),
            segments: [(3, segment)].into(),
            ..Armed::default()
        }
    }

    /// What is said when a stranger claims a VIP, before its first use or later.
    fn said(is_used: bool) -> (NodeStatus, Vec<Document>) {
        let plan = plan();
        let armed = armed(&plan);
        let now = std::time::Instant::now();
        let spot = (Addr::from(VIP), 3);
        let mut claims = Claims::new([].into(), if is_used { [spot].into() } else { [].into() });
        let standing = Standing::default();
        claims.set(&armed, &standing, now);
        for second in [1, 9] {
            let time = UNIX_EPOCH + Duration::from_secs(second);
            let claim = Claim { spot, mac: STRANGER.into(), is_node: false, is_answer: false, at: now, time };
            claims.handle(&claim, &armed, &standing, now);
        }
        let vip = VipStatus { owner: Some("n1".to_owned()), ..VipStatus::default() };
        let mut status = NodeStatus { vips: [(VIP.to_string(), vip)].into(), ..NodeStatus::default() };
        status.add_claims(&armed, &claims.report());
        let documents = conditions(&plan, &status.conflicts);
        (status, documents)
    }

    #[test]
    fn a_stranger_is_named_on_the_service_that_it_touches_and_on_no_other() {
        for is_used in [false, true] {
            let (status, documents) = said(is_used);
            let [document] = documents.as_slice() else { panic!("{documents:?}") };
            assert_eq!((&*document.key.kind, &*document.key.namespace), ("Service", "default"));
            assert_eq!((&*document.key.name, &document.value["metadata"]["name"]), ("web.n1", &json!("web")));
            let condition = &document.value["status"]["conditions"][0];
            let (reason, what) = if is_used {
                ("AddressClaimed", "still answered: take the address from that machine")
            } else {
                ("AddressTaken", "not used there until it is free")
            };
            assert_eq!(
                (&condition["type"], &condition["status"]),
                (&json!(ADDRESS_CONFLICT), &json!("True"))
            );
            assert_eq!(condition["reason"], reason);
            let message = format!("192.0.2.200 is claimed by 02:00:00:00:01:01 on segment lan, and {what}");
            assert_eq!(condition["message"], message);
            assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:00:01Z");

            let stranger = &status.conflicts["192.0.2.200"]["lan"].strangers["02:00:00:00:01:01"];
            assert_eq!((stranger.claims, stranger.last.as_second()), (2, 9));
            let vip = &status.vips["192.0.2.200"];
            let owner = is_used.then_some("n1");
            assert_eq!((vip.owner.as_deref(), vip.withheld.contains_key("lan")), (owner, !is_used));
        }
    }
}
