use lb_core::model::{EndpointCondition, Family, Forwarding, TableSize};
use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: kube-system, uid: 4a8fd5f2}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {zone: a}}
spec: {podCIDRs: [10.1.0.0/24, "fd00:1::/64"]}
status:
  addresses: [{type: InternalIP, address: 192.0.2.11}, {type: Hostname, address: n1}]
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: main, namespace: metallb-system}
spec:
  addresses: [192.0.2.100-192.0.2.110, "2001:db8::/120"]
  avoidBuggyIPs: true
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: all, namespace: metallb-system}
spec:
  nodeSelectors: [{matchLabels: {zone: a}}]
---
apiVersion: v1
kind: Service
metadata:
  name: web
  annotations: {magnetite.io/table-size: "4096,2048", magnetite.io/forwarding: dsr}
spec:
  type: LoadBalancer
  ipFamilies: [IPv4, IPv6]
  ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.1.0.5], nodeName: n1}
- {addresses: [10.1.0.6], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.1.0.7], nodeName: n1, conditions: {ready: false}}
"#;

fn decode_one(text: &str) -> Decoded {
    decode(&[("objects.yaml".to_owned(), text.as_bytes().to_vec())].into())
}

fn problems(text: &str) -> Vec<String> {
    decode_one(text).problems.iter().map(ToString::to_string).collect()
}

#[test]
fn good_objects_become_a_snapshot() {
    let decoded = decode_one(GOOD);
    assert_eq!(decoded.problems, []);
    let snapshot = decoded.snapshot;
    assert_eq!(snapshot.cluster_uid.as_deref(), Some("4a8fd5f2"));
    assert_eq!(snapshot.nodes[&NodeName("n1".to_owned())].pod_cidrs.len(), 2);
    assert!(snapshot.pools["main"].avoid_buggy && snapshot.pools["main"].auto_assign);
    assert_eq!(snapshot.l2_advertisements["all"].node_selectors.len(), 1);
    let Some(web) = snapshot.services.values().next() else { panic!("no service") };
    assert_eq!(web.families, [Family::V4, Family::V6]);
    assert_eq!(web.forwarding, Forwarding::Dsr);
    assert_eq!(web.table_size, Some(TableSize { length: 4096, previous: Some(2048) }));
    let conditions: Vec<_> = web.endpoints[0].iter().map(|endpoint| endpoint.condition).collect();
    let expected =
        [EndpointCondition::Ready, EndpointCondition::ServingTerminating, EndpointCondition::NotReady];
    assert_eq!(conditions, expected);
    assert!(web.endpoints[1].is_empty());
}

#[test]
fn json_and_lists_are_read_too() {
    let json = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b"}}]}"#;
    let decoded = decode(&[("nodes.json".to_owned(), json.as_bytes().to_vec())].into());
    assert_eq!((decoded.problems.len(), decoded.snapshot.nodes.len()), (0, 2));
}

/// Each change to the good objects, and all that is said of it.
#[test]
fn what_is_wrong_is_said_with_file_object_and_field() {
    for (from, to, expected) in [
        (
            "port: 80}",
            "port: eighty}",
            "error: objects.yaml: Service default/web: spec.ports[0].port: invalid type",
        ),
        (
            "ipFamilies:",
            "ipFamilys:",
            "warning: objects.yaml: Service default/web: spec.ipFamilys: is no field",
        ),
        (
            "192.0.2.100-",
            "192.0.2.200-",
            "error: objects.yaml: IPAddressPool metallb-system/main: spec.addresses[0]: \"192.0.2.200",
        ),
        (
            "4096,2048",
            "4096,5",
            "error: objects.yaml: Service default/web: metadata.annotations[magnetite.io/table-size]:",
        ),
        (
            "forwarding: dsr",
            "forwarding: dst",
            "error: objects.yaml: Service default/web: metadata.annotations[magnetite.io/forwarding]:",
        ),
        (
            "protocol: UDP",
            "protocol: SCTP",
            "warning: objects.yaml: Service default/web: spec.ports[1].protocol:",
        ),
        ("192.0.2.11}", "192.0.2.11.12}", "error: objects.yaml: Node n1: status.addresses[0].address:"),
        (
            "[10.1.0.7]",
            "[ten]",
            "warning: objects.yaml: EndpointSlice default/web-1: endpoints[2].addresses:",
        ),
        (
            "{name: http, port: 8080}",
            "{name: htp, port: 8080}",
            "warning: objects.yaml: EndpointSlice default/web-1: ports:",
        ),
        ("kind: Node\n", "kind: Nod\n", "warning: objects.yaml: Nod default/n1: kind: this kind is not used"),
        (
            "metadata: {name: n1,",
            "metadata: {nam: n1,",
            "error: objects.yaml: Node : metadata.name: is missing",
        ),
        (
            "metadata: {name: kube-system, uid: 4a8fd5f2}",
            "metadata: {name: [",
            "error: objects.yaml: cannot be read:",
        ),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let found = problems(&GOOD.replacen(from, to, 1));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{to}: {found:#?}\nexpected {expected}");
    }
}

/// Each field of MetalLB's, of which nothing may be said but what is not carried out.
#[test]
fn fields_of_metallb_are_known() {
    let pool = "apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: main, namespace: metallb-system}
spec:
  addresses: [192.0.2.0/24]
  serviceAllocation:
    priority: 10
    namespaces: [default]
    namespaceSelectors: [{matchLabels: {team: a}}]
    serviceSelectors: [{matchLabels: {tier: a}}]
status: {assignedIPv4: 1, assignedIPv6: 0, availableIPv4: 255, availableIPv6: 0}
";
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {team: a}}\n";
    let decoded = decode_one(&format!("{pool}{namespace}"));
    assert_eq!(decoded.problems, []);
    let restriction = decoded.snapshot.pools["main"].service_allocation.as_ref();
    assert_eq!(restriction.map(|restriction| restriction.service_selectors.len()), Some(1));
    assert_eq!(
        problems(pool),
        ["warning: objects.yaml: IPAddressPool metallb-system/main: \
          spec.serviceAllocation.namespaceSelectors[0]: selects no Namespace of the source: by it no Service gets an \
          address; add the Namespaces to the source, or name them in spec.serviceAllocation.namespaces"]
    );

    let advertisement = "apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: main, namespace: metallb-system}
spec:
  serviceSelectors: [{matchLabels: {tier: a}}]
  preferredNodeSelectors: [{weight: 50, preference: {matchLabels: {zone: a}}}]
status: {}
";
    assert_eq!(
        problems(advertisement),
        ["warning: objects.yaml: L2Advertisement metallb-system/main: spec.preferredNodeSelectors: \
          is not carried out yet: all nodes that may announce are preferred alike"]
    );
    assert_eq!(decode_one(advertisement).snapshot.l2_advertisements["main"].service_selectors.len(), 1);
}

#[test]
fn a_bad_document_does_not_hide_the_others() {
    let decoded =
        decode_one(&GOOD.replacen("metadata: {name: kube-system, uid: 4a8fd5f2}", "metadata: {name: [", 1));
    assert_eq!(decoded.snapshot.services.len(), 1);
    assert_eq!(decoded.snapshot.nodes.len(), 1);
}

#[test]
fn the_same_object_twice_is_used_once() {
    let files =
        [("a.yaml".to_owned(), GOOD.as_bytes().to_vec()), ("b.yaml".to_owned(), GOOD.as_bytes().to_vec())];
    let decoded = decode(&files.into());
    assert_eq!(decoded.problems.len(), 6);
    assert!(
        decoded.problems[0]
            .to_string()
            .starts_with("error: b.yaml: Namespace kube-system: the same object stands in a.yaml")
    );
}

#[test]
fn pools_that_overlap_are_told_apart() {
    let other = "\n---\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: other, namespace: metallb-system}\n\
                 spec: {addresses: [192.0.2.110/32]}\n";
    let found = problems(&format!("{GOOD}{other}"));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains(
            "IPAddressPool metallb-system/other: spec.addresses[0]: 192.0.2.110-192.0.2.110 overlaps"
        ),
        "{found:?}"
    );
}

/// Aliases that would fill the memory are refused.
#[test]
fn a_small_file_cannot_become_a_large_one() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let found = problems(&bomb);
    assert!(found.len() == 1 && found[0].starts_with("error: objects.yaml: cannot be read"), "{found:?}");
}

proptest! {
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        decode(&[("a.yaml".to_owned(), bytes.clone()), ("a.json".to_owned(), bytes)].into());
    }

    #[test]
    fn no_damage_panics(at in 0..GOOD.len(), byte in any::<u8>()) {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] = byte;
        decode(&[("a.yaml".to_owned(), bytes)].into());
    }
}
