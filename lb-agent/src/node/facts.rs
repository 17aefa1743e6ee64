//! What a node has to say of Services, in events.

use std::net::IpAddr;

use lb_api::Settled;
use lb_core::{
    legs::Interfaces,
    model::{Network, NodeName, ObjectName},
    ownership,
};

use crate::output::{Facts, Owned, Reason};

/// What a node has to say of Services: for which it answers, and for which it cannot though it would be its turn.
pub fn facts(settled: &Settled, node: &NodeName, network: &Network, owned: &Owned) -> Facts {
    let assigned = owned.keys().map(|service| {
        let message = format!("announcing from node {node:?} with protocol \"layer2\"", node = node.0);
        ((service.clone(), Reason::NodeAssigned), message)
    });
    let failed = settled.allocation.addresses.iter().filter_map(|(service, addresses)| {
        let address = without_interface(settled, node, network, service, addresses)?;
        let message = format!(
            "the interfaces specified by LB IP \"{address}\" doesn't exist in assigned node {node:?} with protocol \"layer2\"",
            node = node.0
        );
        Some(((service.clone(), Reason::AnnounceFailed), message))
    });
    assigned.chain(failed).collect()
}

/// The first address of a Service, if this node ranks best for it, and has none of the interfaces on which it is to be announced.
fn without_interface(
    settled: &Settled,
    node: &NodeName,
    network: &Network,
    name: &ObjectName,
    addresses: &[IpAddr],
) -> Option<IpAddr> {
    let (snapshot, first) = (&settled.snapshot, *addresses.first()?);
    let service = snapshot.services.get(name)?;
    let advertisements = ownership::advertisements(snapshot, settled.allocation.pools.get(name)?, service);
    let mut eligible = ownership::eligible(snapshot, service, &advertisements);
    let scores = eligible.iter().filter_map(|(name, judged)| Some((*name, judged.as_ref().ok()?.score)));
    if ownership::ranked(first, scores).first() != Some(&node) {
        return None;
    }
    match eligible.remove(node)?.ok()?.interfaces {
        Interfaces::All => None,
        named @ Interfaces::Named(_) => {
            (!network.links.keys().any(|link| named.contains(link))).then_some(first)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lb_api::Memory;
    use lb_core::model::NodeLink;

    use super::*;

    fn objects(interfaces: &str) -> String {
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 8080, protocol: TCP}}]
endpoints: [{{addresses: [10.0.0.1], nodeName: n1, conditions: {{ready: true}}}}]
---
apiVersion: v1
kind: Node
metadata: {{name: n1}}
status: {{addresses: [{{type: InternalIP, address: 192.0.2.11}}]}}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {{name: a, namespace: metallb-system}}
spec: {{addresses: [192.0.2.200/32]}}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {{name: a, namespace: metallb-system}}
spec: {{interfaces: {interfaces}}}
"
        )
    }

    fn settled(text: &str) -> Settled {
        Memory::default().settle(&[("all.yaml".to_owned(), text.as_bytes().to_vec())].into())
    }

    fn node() -> NodeName {
        NodeName("n1".into())
    }

    fn network() -> Network {
        let link = NodeLink {
            ifindex: 2,
            device: 2,
            ports: BTreeSet::new(),
            vlan: 0,
            mac: [2; 6],
            mtu: 1500,
            prefixes: BTreeSet::new(),
        };
        Network { links: [("eth0".to_owned(), link)].into(), ..Network::default() }
    }

    fn web() -> ObjectName {
        ObjectName { namespace: "shop".into(), name: "web".into() }
    }

    /// The words are MetalLB's, which its tests and its users look for.
    #[test]
    fn what_is_said_is_what_metallb_says() {
        let address = IpAddr::from([192, 0, 2, 200]);
        let owned = [(web(), [(address, ["eth0".to_owned()].into())].into())].into();
        let says = |interfaces, owned: &Owned| -> Vec<String> {
            facts(&settled(&objects(interfaces)), &node(), &network(), owned).into_values().collect()
        };
        let nothing = Owned::new();
        assert_eq!(says("[]", &owned), ["announcing from node \"n1\" with protocol \"layer2\""]);
        let failed = "the interfaces specified by LB IP \"192.0.2.200\" doesn't exist in assigned node \"n1\" with protocol \"layer2\"";
        assert_eq!(says("[bond0, eth1]", &nothing), [failed]);
        assert_eq!(says("[bond0, eth0]", &nothing), Vec::<String>::new());
        assert_eq!(says("[]", &nothing), Vec::<String>::new());
    }

    #[test]
    fn only_the_node_that_would_announce_says_that_it_cannot() {
        let other = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n2}\n";
        let text = format!("{}{other}", objects("[bond0]"));
        let settled = settled(&text);
        let says =
            |name: &str| !facts(&settled, &NodeName(name.into()), &network(), &Owned::new()).is_empty();
        assert!(says("n1") != says("n2"), "{} {}", says("n1"), says("n2"));
    }
}
