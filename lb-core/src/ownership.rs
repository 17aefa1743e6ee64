//! Who answers ARP and NDP for a VIP.

use std::{collections::BTreeSet, net::IpAddr};

use sha2::{Digest, Sha256};

use crate::model::{
    EndpointCondition, L2Advertisement, Node, NodeName, Pool, Service, Snapshot, TrafficPolicy,
};

/// Nodes in the order in which they own an address: MetalLB's, by SHA-256 of `node#address` (`speaker/layer2_controller.go`), where
/// the address is the first of the Service. A pure function: whoever knows the same nodes comes to the same order.
pub fn ranked<'a>(first_address: IpAddr, nodes: impl IntoIterator<Item = &'a NodeName>) -> Vec<NodeName> {
    let mut ranked: Vec<NodeName> = nodes.into_iter().cloned().collect();
    ranked.sort_by_cached_key(|node| Sha256::digest(format!("{node}#{first_address}").as_bytes()));
    ranked
}

/// Nodes that may own a Service's addresses: those that an advertisement of its pool selects, that are neither excluded nor
/// without network nor leave on purpose, and with `externalTrafficPolicy: Local` those that run a serving endpoint.
pub fn eligible<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
    advertisements: &[&L2Advertisement],
) -> BTreeSet<&'a NodeName> {
    let serving =
        || service.endpoints.iter().flatten().filter(|e| e.condition != EndpointCondition::NotReady);
    if serving().next().is_none() {
        return BTreeSet::new();
    }
    let is_selected = |node: &Node| {
        advertisements.iter().any(|advertisement| {
            advertisement.node_selectors.is_empty()
                || advertisement.node_selectors.iter().any(|selector| selector.matches(&node.labels))
        })
    };
    let has_endpoint = |name: &NodeName| match service.policy {
        TrafficPolicy::Cluster => true,
        TrafficPolicy::Local => serving().any(|endpoint| endpoint.node.as_ref() == Some(name)),
    };
    let is_eligible = |(name, node): &(&NodeName, &Node)| {
        !node.excluded
            && !node.network_unavailable
            && node.leaving.is_empty()
            && is_selected(node)
            && has_endpoint(name)
    };
    snapshot.nodes.iter().filter(is_eligible).map(|(name, _)| name).collect()
}

/// The advertisements that select a pool and a Service; one without names and selectors selects all.
pub fn advertisements<'a>(
    snapshot: &'a Snapshot,
    pool_name: &str,
    pool: &Pool,
    service: &Service,
) -> Vec<&'a L2Advertisement> {
    let selects_pool = |advertisement: &L2Advertisement| {
        advertisement.pools.is_empty() && advertisement.pool_selectors.is_empty()
            || advertisement.pools.contains(pool_name)
            || advertisement.pool_selectors.iter().any(|selector| selector.matches(&pool.labels))
    };
    let selects_service = |advertisement: &L2Advertisement| {
        advertisement.service_selectors.is_empty()
            || advertisement.service_selectors.iter().any(|selector| selector.matches(&service.labels))
    };
    let selects =
        |advertisement: &&L2Advertisement| selects_pool(advertisement) && selects_service(advertisement);
    snapshot.l2_advertisements.values().filter(selects).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{
        drain::{Limit, Reason},
        model::{
            Operator, Requirement, Selector,
            testing::{endpoint, node, pool, service},
        },
    };

    fn names(names: &[&str]) -> Vec<NodeName> {
        names.iter().map(|name| NodeName((*name).to_owned())).collect()
    }

    /// In the order of `sha256sum` over `a#192.0.2.1` and the others.
    #[test]
    fn owners_follow_metallbs_order() {
        let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
        let order = ranked(address, &names(&["a", "b", "c", "d", "e"]));
        assert_eq!(order, names(&["c", "a", "b", "e", "d"]));
    }

    #[test]
    fn an_advertisement_selects_services_by_label() {
        let selector = Selector {
            requirements: vec![Requirement { key: "open".to_owned(), operator: Operator::Exists }],
        };
        let open = L2Advertisement { service_selectors: vec![selector], ..L2Advertisement::default() };
        let snapshot =
            Snapshot { l2_advertisements: [("open".to_owned(), open)].into(), ..Snapshot::default() };
        let main = pool("192.0.2.1-192.0.2.9");
        let labels = [("open".to_owned(), String::new())].into();
        assert_eq!(advertisements(&snapshot, "main", &main, &Service { labels, ..service() }).len(), 1);
        assert_eq!(advertisements(&snapshot, "main", &main, &service()).len(), 0);
    }

    #[test]
    fn nodes_are_eligible_that_are_selected_and_serve() {
        let address = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1));
        let mut snapshot = Snapshot::default();
        for name in names(&["a", "b", "c"]) {
            snapshot.nodes.insert(name, node(address));
        }
        if let Some(node) = snapshot.nodes.get_mut(&NodeName("b".to_owned())) {
            node.excluded = true;
        }
        snapshot.nodes.insert(NodeName("d".to_owned()), node(address));
        if let Some(node) = snapshot.nodes.get_mut(&NodeName("d".to_owned())) {
            node.leaving.insert(Reason::Annotation, Limit::Unlimited);
        }
        let everywhere = L2Advertisement::default();
        let mut served = service();
        assert!(eligible(&snapshot, &served, &[&everywhere]).is_empty(), "no endpoint serves");
        served.endpoints[0].insert(endpoint(address, "c"));
        let eligible = |service: &Service, ads: &[&L2Advertisement]| {
            eligible(&snapshot, service, ads).into_iter().map(|name| name.0.clone()).collect::<Vec<_>>()
        };
        assert_eq!(eligible(&served, &[&everywhere]), ["a", "c"]);
        assert_eq!(eligible(&served, &[]), Vec::<String>::new());
        let local = Service { policy: TrafficPolicy::Local, ..served };
        assert_eq!(eligible(&local, &[&everywhere]), ["c"]);
    }
}
