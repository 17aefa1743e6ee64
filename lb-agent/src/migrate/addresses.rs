//! Service by Service: what it has, and what a controller of ours would give it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_api::{ObjectKey, Severity};
use lb_core::{
    model::{Labels, Service},
    ownership::advertisements,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    installation::{Installation, text},
    labels::{Match, selects},
};

/// The addresses of a Service, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAddresses {
    /// Namespace and name.
    pub service: String,
    /// What it has, by its status.
    pub has: BTreeSet<IpAddr>,
    /// What it would have.
    pub gets: BTreeSet<IpAddr>,
    /// The pool of that.
    pub pool: Option<String>,
    /// How that is announced now.
    pub announced: Announced,
    /// What changes.
    pub change: Change,
    /// Why, or what else there is to say.
    pub why: Option<String>,
    /// What its clients would lose when MetalLB's speakers are gone; none if nothing.
    pub loss: Option<String>,
}

/// How an address is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Announced {
    /// By ARP and NDP.
    Layer2,
    /// By BGP alone.
    Bgp,
    /// By both.
    Both,
    /// By no advertisement.
    Nobody,
}

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// Nothing.
    None,
    /// It has none, and gets one; or it gets one more.
    Gains,
    /// It gets another, or keeps only a part.
    Moves,
    /// It has one, and gets none.
    Loses,
    /// It has none, and gets none.
    Waits,
}

/// Services that MetalLB serves, and we would.
pub fn addresses(installation: &Installation) -> Vec<ServiceAddresses> {
    let class = installation.class();
    let routes = Routes::of(installation);
    let wrong = wrong(installation);
    let services = installation.of_kind("Service").filter(|(_, object)| {
        let of_class = object["spec"]["loadBalancerClass"].as_str();
        object["spec"]["type"] == "LoadBalancer" && of_class == class.as_deref()
    });
    services.map(|(key, object)| of_service(installation, key, object, &routes, &wrong)).collect()
}

fn of_service(
    installation: &Installation,
    key: &ObjectKey,
    object: &Value,
    routes: &Routes,
    wrong: &BTreeMap<ObjectKey, String>,
) -> ServiceAddresses {
    let settled = &installation.settled;
    let (name, has) = (key.object_name(), ingress(object));
    let gets: BTreeSet<IpAddr> =
        settled.allocation.addresses.get(&name).into_iter().flatten().copied().collect();
    let pool = settled.allocation.pools.get(&name).cloned();
    let service = settled.snapshot.services.get(&name);
    let announced = match (&pool, service) {
        (Some(pool), Some(service)) => routes.of_pool(installation, pool, service),
        _ => Announced::Nobody,
    };
    let change = match (has.is_empty(), gets.is_empty()) {
        _ if has == gets && !has.is_empty() => Change::None,
        (true, true) => Change::Waits,
        (true, false) => Change::Gains,
        (false, true) => Change::Loses,
        (false, false) if has.is_subset(&gets) => Change::Gains,
        (false, false) => Change::Moves,
    };
    let error = settled.allocation.errors.get(&name).map(ToString::to_string);
    let remark = settled.allocation.remarks.get(&name).map(ToString::to_string);
    let why = error.or_else(|| wrong.get(key).cloned()).or(remark);
    let loss = match (change, announced) {
        (Change::Loses, _) => Some("its address: it would get none".to_owned()),
        (Change::Moves, _) => Some("its address: it would get another".to_owned()),
        (Change::None | Change::Gains, Announced::Bgp) if !has.is_empty() => {
            Some("its route: it is announced by BGP, and by no L2Advertisement".to_owned())
        }
        (Change::None | Change::Gains, Announced::Both) if !has.is_empty() => {
            Some("its route by BGP: it would be announced by ARP and NDP alone".to_owned())
        }
        _ => None,
    };
    ServiceAddresses { service: name.to_string(), has, gets, pool, announced, change, why, loss }
}

/// The addresses in a Service's status.
pub fn ingress(service: &Value) -> BTreeSet<IpAddr> {
    let entries = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
    entries.into_iter().flatten().filter_map(|entry| entry["ip"].as_str()?.parse().ok()).collect()
}

/// What keeps Services from being read as they are.
fn wrong(installation: &Installation) -> BTreeMap<ObjectKey, String> {
    let problems = installation.settled.problems.iter();
    let errors = problems.filter(|problem| problem.severity == Severity::Error);
    errors
        .filter_map(|problem| Some((problem.object.clone()?, format!("{}: {}", problem.field, problem.kind))))
        .collect()
}

/// What is announced by BGP.
struct Routes {
    /// There is a peer to tell.
    has_peers: bool,
    /// Pools come from MetalLB's old configuration: each of them is announced in one way.
    by_config: bool,
    advertisements: Vec<Value>,
}

impl Routes {
    fn of(installation: &Installation) -> Self {
        let is_known = |kind: &str| installation.settled.origins.keys().any(|key| key.kind == kind);
        let of_kind = installation.of_kind("BGPAdvertisement").map(|(_, object)| object.clone());
        let advertisements: Vec<Value> = of_kind.collect();
        Self {
            has_peers: is_known("BGPPeer"),
            by_config: advertisements.is_empty() && is_known("BGPAdvertisement"),
            advertisements,
        }
    }

    fn of_pool(&self, installation: &Installation, pool: &str, service: &Service) -> Announced {
        let snapshot = &installation.settled.snapshot;
        let by_layer2 = !advertisements(snapshot, pool, service).is_empty();
        let labels = snapshot.pools.get(pool).map(|pool| pool.labels.clone()).unwrap_or_default();
        let is_advertised = |advertisement: &Value| {
            let spec = &advertisement["spec"];
            let names: Vec<&str> =
                spec["ipAddressPools"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let selected = |field: &str, labels: &Labels| {
                let selectors = spec[field].as_array().cloned().unwrap_or_default();
                // Labels are known: what might be selected by more of them is not.
                let is_selected = selectors.iter().filter_map(|one| serde_json::from_value(one.clone()).ok());
                (
                    selectors.is_empty(),
                    is_selected.into_iter().any(|one| selects(&one, labels) == Match::Always),
                )
            };
            let (has_no_selector, is_selected) = selected("ipAddressPoolSelectors", &labels);
            let (is_for_all, is_for_service) = selected("serviceSelectors", &service.labels);
            (names.is_empty() && has_no_selector || names.contains(&pool) || is_selected)
                && (is_for_all || is_for_service)
        };
        let by_bgp =
            self.has_peers && (self.by_config && !by_layer2 || self.advertisements.iter().any(is_advertised));
        match (by_layer2, by_bgp) {
            (true, true) => Announced::Both,
            (true, false) => Announced::Layer2,
            (false, true) => Announced::Bgp,
            (false, false) => Announced::Nobody,
        }
    }
}

/// Whether a Service is one that MetalLB serves now, and we would: with an address, and read by us.
pub fn is_taken_over(installation: &Installation, key: &ObjectKey, object: &Value) -> bool {
    text(object, "/spec/type") == "LoadBalancer"
        && !ingress(object).is_empty()
        && installation.settled.snapshot.services.contains_key(&key.object_name())
}
