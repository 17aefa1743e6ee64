use lb_core::{
    drain::{Limit, Reason},
    model::{EndpointCondition, Family, FamilyPolicy, Forwarding, L2Mode, TableSize},
};
use proptest::prelude::*;

use super::*;
use crate::Memory;

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
  creationTimestamp: "2026-07-01T00:00:01Z"
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

#[test]
fn an_advertisement_that_says_nothing_is_for_all_pools() {
    let object = "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: all}\n";
    let decoded = decode_one(object);
    assert!(decoded.problems.is_empty(), "{:?}", decoded.problems);
    assert!(decoded.snapshot.l2_advertisements["all"].pools.is_empty());
    let pool = problems("apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: main}\n");
    assert_eq!(pool, ["error: objects.yaml: IPAddressPool default/main: spec: missing field `addresses`"]);
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
    assert_eq!(snapshot.nodes[&NodeName("n1".into())].pod_cidrs.len(), 2);
    assert!(snapshot.pools["main"].avoid_buggy && snapshot.pools["main"].auto_assign);
    assert_eq!(snapshot.l2_advertisements["all"].node_selectors.len(), 1);
    let Some(web) = snapshot.services.values().next() else { panic!("no service") };
    assert_eq!(web.families, [Family::V4, Family::V6]);
    assert_eq!(web.created, Some(1_782_864_001));
    assert_eq!(web.forwarding, Forwarding::Dsr);
    assert_eq!(web.table_size, Some(TableSize { length: 4096, previous: Some(2048) }));
    let conditions: Vec<_> = web.endpoints[0].iter().map(|endpoint| endpoint.condition).collect();
    let expected =
        [EndpointCondition::Ready, EndpointCondition::ServingTerminating, EndpointCondition::NotReady];
    assert_eq!(conditions, expected);
    assert!(web.endpoints[1].is_empty());
}

#[test]
fn a_service_says_what_its_allocation_depends_on() {
    let service = |annotations: &str, spec: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web, annotations: {{{annotations}}}}}, spec: {{type: LoadBalancer, {spec}}}}}"
        );
        let decoded = decode_one(&text);
        decoded.snapshot.services.into_values().next().ok_or(decoded.problems)
    };
    let good = |annotations: &str, spec: &str| service(annotations, spec).expect("it is good");
    let new = "metallb.io/allow-shared-ip: new, metallb.universe.tf/allow-shared-ip: old, metallb.io/ip-allocated-from-pool: p";
    let sctp = "selector: {app: a}, ports: [{port: 80}, {port: 81, protocol: SCTP}]";
    let web = good(new, sctp);
    assert_eq!((web.sharing_key.as_str(), web.held_pool.as_deref()), ("new", Some("p")));
    assert_eq!(web.sctp_ports.iter().map(|port| port.get()).collect::<Vec<_>>(), [81]);
    assert_eq!(web.selector, [("app".to_owned(), "a".to_owned())].into());
    assert_eq!(good("metallb.universe.tf/allow-shared-ip: old", "").sharing_key, "old");

    use FamilyPolicy::{PreferDualStack, RequireDualStack, SingleStack};
    let (v4, both) = (vec![Family::V4], vec![Family::V4, Family::V6]);
    for (spec, families, policy) in [
        ("", &v4, SingleStack),
        ("clusterIPs: [10.0.0.1], ipFamilyPolicy: PreferDualStack", &v4, PreferDualStack),
        ("clusterIPs: [10.0.0.1, 'fd00::1'], ipFamilyPolicy: PreferDualStack", &both, PreferDualStack),
        ("ipFamilies: [IPv4], ipFamilyPolicy: RequireDualStack", &v4, RequireDualStack),
        ("ipFamilyPolicy: RequireDualStack", &both, RequireDualStack),
        ("ipFamilies: [IPv4, IPv6]", &both, RequireDualStack),
    ] {
        let web = good("", spec);
        assert_eq!((&web.families, web.family_policy), (families, policy), "{spec}");
    }
    assert_eq!(service("", "clusterIP: None"), Err(Vec::new()), "headless");
    let twice = service("metallb.io/loadBalancerIPs: 192.0.2.1", "loadBalancerIP: 192.0.2.1");
    let words: Vec<_> = twice.expect_err("which of the two?").iter().map(ToString::to_string).collect();
    let expected = "error: objects.yaml: Service default/web: metadata.annotations[metallb.io/loadBalancerIPs]: says what \
                    spec.loadBalancerIP says as well: leave out one of the two";
    assert_eq!(words, [expected]);
}

#[test]
fn spreading_is_asked_for_by_service_and_by_advertisement() {
    let modes = |text: &str| {
        let snapshot = decode_one(text).snapshot;
        (snapshot.services.values().next().and_then(|web| web.l2), snapshot.l2_advertisements["all"].l2)
    };
    assert_eq!(modes(GOOD), (None, None));
    let text = GOOD.replacen("magnetite.io/forwarding: dsr", "magnetite.io/l2: owner", 1).replacen(
        "metadata: {name: all, namespace: metallb-system}",
        "metadata: {name: all, namespace: metallb-system, annotations: {magnetite.io/l2: spread}}",
        1,
    );
    assert_eq!(modes(&text), (Some(L2Mode::Owner), Some(L2Mode::Spread)));
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
            "{name: http, port: 80}",
            "{name: http, prt: 1, port: 80}",
            "warning: objects.yaml: Service default/web: spec.ports[0].prt: is no field",
        ),
        (
            "matchLabels: {zone: a}",
            "matchLabel: {zone: a}",
            "warning: objects.yaml: L2Advertisement metallb-system/all: spec.nodeSelectors[0].matchLabel: is no field",
        ),
        (
            "matchLabels: {zone: a}",
            "matchLabels: {a.example/zone/b: a}",
            "error: objects.yaml: L2Advertisement metallb-system/all: spec.nodeSelectors[0].matchLabels: \"a.example/zone/b\" is \
             not the key of a label",
        ),
        (
            "matchLabels: {zone: a}",
            "matchLabels: {zone: a b}",
            "error: objects.yaml: L2Advertisement metallb-system/all: spec.nodeSelectors[0].matchLabels.zone: \"a b\" is not the \
             value of a label",
        ),
        (
            "matchLabels: {zone: a}",
            "matchExpressions: [{key: zone, operator: Exists, values: [a]}]",
            "error: objects.yaml: L2Advertisement metallb-system/all: spec.nodeSelectors[0].matchExpressions[0].values: has to be \
             there for operators In and NotIn, and for no others",
        ),
        (
            "matchLabels: {zone: a}",
            "matchExpressions: [{key: zone, operator: NotIn}]",
            "error: objects.yaml: L2Advertisement metallb-system/all: spec.nodeSelectors[0].matchExpressions[0].values: has to be",
        ),
        (
            "matchLabels: {zone: a}",
            "matchExpressions: [{key: Zone.Example/zone, operator: Exists}]",
            "error: objects.yaml: L2Advertisement metallb-system/all: spec.nodeSelectors[0].matchExpressions[0].key: \"Zone.Exam",
        ),
        (
            "[{matchLabels: {zone: a}}]",
            "[{matchLabels: {zone: a}}, {}, {matchLabels: {zone: a}}]",
            "warning: objects.yaml: L2Advertisement metallb-system/all: spec.nodeSelectors[2]: is in the list already: leave it out",
        ),
        (
            "nodeSelectors: [{matchLabels: {zone: a}}]",
            "ipAddressPools: [main, main]",
            "warning: objects.yaml: L2Advertisement metallb-system/all: spec.ipAddressPools[1]: is in the list already",
        ),
        (
            "avoidBuggyIPs: true",
            "serviceAllocation: {namespaces: [a, b, a]}",
            "warning: objects.yaml: IPAddressPool metallb-system/main: spec.serviceAllocation.namespaces[2]: is in the list already",
        ),
        (
            "[192.0.2.100-192.0.2.110, \"2001:db8::/120\"]",
            "[]",
            "error: objects.yaml: IPAddressPool metallb-system/main: spec.addresses: is empty: a pool has one CIDR or range at least",
        ),
        (
            "apiVersion: v1\nkind: Service",
            "apiVersion: v2\nkind: Service",
            "error: objects.yaml: Service default/web: apiVersion: \"v2\" is not v1, the version of this kind that is read",
        ),
        (
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool",
            "apiVersion: metallb.io/v1\nkind: IPAddressPool",
            "error: objects.yaml: IPAddressPool metallb-system/main: apiVersion: \"metallb.io/v1\" is not metallb.io/v1beta1, \
             the version",
        ),
        (
            "spec:\n  addresses: [192.0.2.100-192.0.2.110, \"2001:db8::/120\"]\n  avoidBuggyIPs: true\n",
            "",
            "error: objects.yaml: IPAddressPool metallb-system/main: spec: missing field `addresses`",
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
            "magnetite.io/forwarding: dsr",
            "magnetite.io/fowarding: dsr, example.com/forwarding: dsr",
            "warning: objects.yaml: Service default/web: metadata.annotations[magnetite.io/fowarding]: is none of the annotations \
             that are read, magnetite.io/forwarding, magnetite.io/echo, magnetite.io/table-size, magnetite.io/table-grown, magnetite.io/l2: check its spelling",
        ),
        (
            "forwarding: dsr",
            "l2: spraed",
            "error: objects.yaml: Service default/web: metadata.annotations[magnetite.io/l2]: \"spraed\" is not owner or spread",
        ),
        (
            "metadata: {name: all, namespace: metallb-system}",
            "metadata: {name: all, namespace: metallb-system, annotations: {magnetite.io/l2: \"\"}}",
            "error: objects.yaml: L2Advertisement metallb-system/all: metadata.annotations[magnetite.io/l2]: \"\" is not owner or \
             spread",
        ),
        (
            "metadata: {name: all, namespace: metallb-system}",
            "metadata: {name: all, namespace: metallb-system, annotations: {magnetite.io/echo: ready}}",
            "warning: objects.yaml: L2Advertisement metallb-system/all: metadata.annotations[magnetite.io/echo]: is none of the \
             annotations that are read, magnetite.io/l2: check its spelling",
        ),
        (
            "protocol: UDP",
            "protocol: SCTP",
            "warning: objects.yaml: Service default/web: spec.ports[1].protocol:",
        ),
        (
            "ipFamilies:",
            "sessionAffinity: Client\n  ipFamilies:",
            "error: objects.yaml: Service default/web: spec.sessionAffinity: \"Client\" is not None or ClientIP",
        ),
        (
            "ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]",
            "ports: [{name: http, port: 80}]\nstatus: {loadBalancer: {ingress: [{hostname: a.example}, {ip: 192.0.2.300}]}}",
            "error: objects.yaml: Service default/web: status.loadBalancer.ingress[1].ip: \"192.0.2.300\" is not an IP address",
        ),
        (
            "name: n1,",
            "name: n1, annotations: {magnetite.io/drain: soon, example.com/drain: soon},",
            "warning: objects.yaml: Node n1: metadata.annotations[magnetite.io/drain]: \"soon\" is not true, false or a duration \
             like 10m: it drains",
        ),
        (
            "name: n1,",
            "name: n1, annotations: {magnetite.io/drian: \"true\"},",
            "warning: objects.yaml: Node n1: metadata.annotations[magnetite.io/drian]: is none of the annotations that are read, \
             magnetite.io/drain: check its spelling",
        ),
        ("192.0.2.11}", "192.0.2.11.12}", "error: objects.yaml: Node n1: status.addresses[0].address:"),
        (
            "[10.1.0.7]",
            "[ten]",
            "warning: objects.yaml: EndpointSlice default/web-1: endpoints[2].addresses[0]: \"ten\" is not an IP address",
        ),
        (
            "{name: http, port: 8080}",
            "{name: htp, port: 8080}",
            "warning: objects.yaml: EndpointSlice default/web-1: ports[0]: no port of the Service has the name \"htp\" and \
             protocol TCP",
        ),
        (
            "{name: http, port: 8080}",
            "{name: http, port: 8080, protocol: UDP}",
            "warning: objects.yaml: EndpointSlice default/web-1: ports[0]: no port of the Service has the name \"http\" and \
             protocol UDP",
        ),
        (
            "{name: http, port: 8080}",
            "{name: http, port: 70000}",
            "warning: objects.yaml: EndpointSlice default/web-1: ports[0].port: \"70000\" is not a port from 1 to 65535",
        ),
        (
            "{name: http, port: 8080}",
            "{name: http}",
            "warning: objects.yaml: EndpointSlice default/web-1: ports[0].port: \"\" is not a port from 1 to 65535",
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
            "error: objects.yaml: cannot be read: line 4 column",
        ),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let found = problems(&GOOD.replacen(from, to, 1));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{to}: {found:#?}\nexpected {expected}");
    }
}

/// Changes to a good Node, and why it leaves then.
#[test]
fn a_node_that_leaves_says_why_and_one_that_is_cordoned_stays() {
    let minutes = |minutes: u64| Limit::Within(std::time::Duration::from_secs(60 * minutes));
    let annotated =
        |value: &str| ("name: n1,", format!("name: n1, annotations: {{magnetite.io/drain: \"{value}\"}},"));
    let tainted = |key: &str| {
        ("spec: {podCIDRs", format!("spec: {{taints: [{{key: {key}, effect: NoSchedule}}], podCIDRs"))
    };
    for ((from, to), expected) in [
        (annotated("true"), Some((Reason::Annotation, Limit::Unlimited))),
        (annotated(""), Some((Reason::Annotation, Limit::Unlimited))),
        (annotated("soon"), Some((Reason::Annotation, Limit::Unlimited))),
        (annotated("1h30m"), Some((Reason::Annotation, minutes(90)))),
        (annotated("false"), None),
        (tainted("node.kubernetes.io/out-of-service"), Some((Reason::OutOfService, Limit::Unlimited))),
        (tainted("ToBeDeletedByClusterAutoscaler"), Some((Reason::Autoscaler, Limit::Unlimited))),
        (tainted("karpenter.sh/disrupted"), Some((Reason::Disrupted, Limit::Unlimited))),
        // Cordon, and what else is no reason.
        (("spec: {", "spec: {unschedulable: true, ".to_owned()), None),
        (tainted("node.kubernetes.io/unschedulable"), None),
        (tainted("node.kubernetes.io/not-ready"), None),
        (tainted("DeletionCandidateOfClusterAutoscaler"), None),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let Decoded { snapshot, problems, .. } = decode_one(&GOOD.replacen(from, &to, 1));
        assert_eq!(problems.len(), usize::from(to.contains("soon")), "{problems:?}");
        let found = &snapshot.nodes[&NodeName("n1".into())].leaving;
        assert_eq!(*found, expected.into_iter().collect(), "{to}");
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
    let decoded = decode_one(advertisement);
    assert_eq!(decoded.problems, []);
    let advertisement = &decoded.snapshot.l2_advertisements["main"];
    assert_eq!(advertisement.service_selectors.len(), 1);
    let zone = |zone: &str| [("zone".to_owned(), zone.to_owned())].into();
    assert_eq!(["a", "b"].map(|name| advertisement.score(&zone(name))), [50, 0]);
}

#[test]
fn preferences_are_refused_by_field() {
    for (preferred, expected) in [
        (
            "[{weight: 1, preference: {}}, {weight: 0, preference: {}}]",
            "spec.preferredNodeSelectors[1].weight: \"0\" is not a weight from 1 to 100",
        ),
        (
            "[{weight: 101, preference: {}}]",
            "spec.preferredNodeSelectors[0].weight: \"101\" is not a weight from 1 to 100",
        ),
        (
            "[{weight: 9, preference: {matchExpressions: [{key: zone, operator: Near}]}}]",
            "spec.preferredNodeSelectors[0].preference.matchExpressions[0].operator: \"Near\" is not one of In, NotIn, \
             Exists, DoesNotExist",
        ),
    ] {
        let object = "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: main}\nspec:\n  \
                      preferredNodeSelectors: ";
        let decoded = decode_one(&format!("{object}{preferred}\n"));
        let said: Vec<String> = decoded.problems.iter().map(ToString::to_string).collect();
        assert_eq!(said, [format!("error: objects.yaml: L2Advertisement default/main: {expected}")]);
        assert!(decoded.snapshot.l2_advertisements.is_empty());
    }
}

/// With a warning alone the pool would be everybody's.
#[test]
fn a_pool_whose_restriction_is_not_understood_is_not_used() {
    for (restriction, field) in [
        ("{namespace: [default]}", "namespace"),
        ("{serviceSelectors: [{matchLabel: {tier: a}}]}", "serviceSelectors[0].matchLabel"),
    ] {
        let text = GOOD.replacen("avoidBuggyIPs: true", &format!("serviceAllocation: {restriction}"), 1);
        let decoded = decode_one(&text);
        assert!(decoded.snapshot.pools.is_empty(), "{restriction}");
        let found: Vec<_> = decoded.problems.iter().map(ToString::to_string).collect();
        let expected = format!("spec.serviceAllocation.{field}: is no field of this kind");
        assert!(
            found.len() == 1 && found[0].starts_with("error") && found[0].contains(&expected),
            "{found:?}"
        );
    }
}

#[test]
fn a_bad_document_does_not_hide_the_others() {
    let decoded =
        decode_one(&GOOD.replacen("metadata: {name: kube-system, uid: 4a8fd5f2}", "metadata: {name: [", 1));
    assert_eq!(decoded.snapshot.services.len(), 1);
    assert_eq!(decoded.snapshot.nodes.len(), 1);
}

/// An object may begin on the line of the marker, and a line is counted as the file has it.
#[test]
fn what_stands_beside_a_document_marker_is_read() {
    let node = |marker: &str, name: &str| {
        format!("{marker}{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}\n")
    };
    let text = [
        node("--- ", "a"),
        node("---\t", "b"),
        node("--- # a comment\n", "c"),
        node("--- # a comment\n", "d"),
        "--- # nothing\n---\n".to_owned(),
        node("---   ", "e"),
        "---\nmetadata: {name: f}\n--- {[\n".to_owned(),
    ];
    let decoded = decode_one(&text.concat());
    let names: Vec<_> = decoded.snapshot.nodes.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    let found: Vec<_> = decoded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].contains("line 12 column"), "{found:#?}");
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
fn a_pool_that_overlaps_with_itself_is_refused() {
    let pool = "{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: a}, spec: {addresses: [192.0.2.0/24, 198.51.100.1-198.51.100.9, 192.0.2.255/32]}}";
    let expected = "error: objects.yaml: IPAddressPool default/a: spec.addresses[2]: 192.0.2.255-192.0.2.255 overlaps with another \
                    range of the same pool: leave out one of them";
    assert_eq!(problems(pool), [expected]);
    assert!(decode_one(pool).snapshot.pools.is_empty());
}

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

#[test]
fn a_previous_secret_that_can_be_guessed_opens_nothing() {
    let object = |previous: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: memberlist, namespace: metallb-system}}\n\
             stringData: {{secretkey: 0123456789abcdef, previous: \"{previous}\"}}\n"
        )
    };
    for previous in ["", "0123456789abcde"] {
        let decoded = decode_one(&object(previous));
        let secret = decoded.snapshot.gossip_secret;
        assert!(secret.is_some_and(|secret| secret.previous.is_none()), "{previous:?}");
        assert_eq!(decoded.problems.len(), 1);
        assert_eq!(decoded.problems[0].field, "data.previous");
    }
    let decoded = decode_one(&object("0123456789abcdeg"));
    assert!(decoded.snapshot.gossip_secret.is_some_and(|secret| secret.previous.is_some()));
    assert!(decoded.problems.is_empty());
}

#[test]
fn services_of_our_class_are_ours_and_no_others() {
    let of = |class: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{type: LoadBalancer, ports: [{{port: 80}}]{class}}}}}"
        )
    };
    for (spec, flag, is_ours) in [
        ("", None, true),
        ("", Some("a/b"), false),
        (", loadBalancerClass: a/b", None, false),
        (", loadBalancerClass: a/b", Some("a/b"), true),
        (", loadBalancerClass: a/c", Some("a/b"), false),
    ] {
        let mut memory = Memory::default();
        memory.set_reading(Reading { lb_class: flag.map(str::to_owned), ..Reading::default() });
        let settled = memory.settle(&[("a.yaml".to_owned(), of(spec).into_bytes())].into());
        assert_eq!(settled.snapshot.services.len(), usize::from(is_ours), "{spec} {flag:?}");
    }
}

#[test]
fn nodes_that_are_labelled_to_be_left_out_are_unless_that_is_ignored() {
    let node = "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {node.kubernetes.io/exclude-from-external-load-balancers: ''}}}";
    for ignore_exclude_lb in [false, true] {
        let mut memory = Memory::default();
        memory.set_reading(Reading { ignore_exclude_lb, ..Reading::default() });
        let settled = memory.settle(&[("a.yaml".to_owned(), node.as_bytes().to_vec())].into());
        assert!(settled.snapshot.nodes.values().all(|node| node.excluded != ignore_exclude_lb));
    }
}

#[test]
fn a_service_is_never_open_to_more_than_was_meant() {
    let of = |ranges: &str| {
        let spec = format!("type: LoadBalancer, ports: [{{port: 80}}], loadBalancerSourceRanges: {ranges}");
        decode(
            &[(
                "a.yaml".to_owned(),
                format!("{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{{spec}}}}}")
                    .into_bytes(),
            )]
            .into(),
        )
    };
    let decoded = of("['192.0.2.7/24 ', '2001:db8::/32']");
    let sources: Vec<String> =
        decoded.snapshot.services.values().flat_map(|web| &web.sources).map(ToString::to_string).collect();
    assert_eq!(sources, ["192.0.2.0/24", "2001:db8::/32"]);
    let decoded = of("['192.0.2.0/24', x]");
    assert!(decoded.snapshot.services.is_empty());
    assert_eq!(decoded.problems[0].field, "spec.loadBalancerSourceRanges[1]");
}
