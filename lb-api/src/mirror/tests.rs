use std::net::IpAddr;

use lb_core::model::Forwarding;
use proptest::{prelude::*, sample::subsequence};
use serde_json::json;

use super::*;
use crate::decode;

const SYSTEM: &str = "metallb-system";

fn key(kind: &str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
}

fn web() -> ObjectName {
    ObjectName { namespace: "shop".into(), name: "web".into() }
}

fn service(spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "uid": "1"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    });
    if let (Value::Object(fields), Value::Object(more)) = (&mut object["spec"], spec) {
        fields.extend(more);
    }
    object
}

fn slice(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 8080}],
        "endpoints": [{"addresses": [address], "nodeName": "n1"}],
    })
}

fn node() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.101"}]},
    })
}

fn pool(name: &str, addresses: &str) -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": "IPAddressPool",
        "metadata": {"name": name, "namespace": SYSTEM},
        "spec": {"addresses": [addresses]},
    })
}

fn full() -> Mirror {
    let mut mirror = Mirror::default();
    for object in [pool("main", "192.0.2.0/26"), slice("web-1", "10.0.0.1"), service(json!({})), node()] {
        assert!(mirror.insert(object));
    }
    mirror
}

fn hold(snapshot: &Snapshot, changed: &BTreeSet<ObjectName>, allocation: &mut Allocation) {
    allocation.hold(snapshot, changed);
}

fn words(settled: &Settled) -> Vec<String> {
    settled.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn what_nobody_reads_is_no_news_and_what_has_not_changed_stays_the_same() {
    let mut mirror = full();
    let first = Arc::clone(&mirror.settle(hold).snapshot.services[&web()]);
    let mut touched = service(json!({}));
    touched["metadata"]["resourceVersion"] = json!("7");
    assert!(!mirror.insert(touched), "a version is no news");
    assert!(!mirror.insert(slice("web-1", "10.0.0.1")) && !mirror.insert(node()));
    assert!(mirror.insert(pool("other", "192.0.2.64/26")));
    assert!(Arc::ptr_eq(&first, &mirror.settle(hold).snapshot.services[&web()]));
    assert!(mirror.insert(slice("web-2", "10.0.0.2")));
    mirror.settle(hold);
    assert_eq!(mirror.changed(), &Changed { services: [(web(), Some(first))].into(), others: false });
    let settled = mirror.settle(hold);
    assert_eq!(settled.snapshot.services[&web()].endpoints[0].len(), 2);
    assert_eq!(settled.allocation.pools[&web()], "main");
}

#[test]
fn an_object_that_goes_wrong_stays_as_it_was_and_says_why() {
    let mut mirror = full();
    mirror.settle(hold);
    assert!(mirror.insert(service(json!({"externalTrafficPolicy": "Sometimes"}))));
    let mut wrong = node();
    wrong["status"]["addresses"][0]["address"] = json!("x");
    assert!(mirror.insert(wrong.clone()) && !mirror.insert(wrong));
    let settled = mirror.settle(hold);
    assert!(settled.allocation.addresses.contains_key(&web()));
    assert_eq!(settled.snapshot.nodes.len(), 1);
    let words = words(settled);
    assert_eq!(words.len(), 2, "{words:#?}");
    assert!(
        words[1].starts_with("error: cluster: Service shop/web: spec.externalTrafficPolicy: \"Sometimes\"")
    );
    assert!(mirror.insert(service(json!({}))) && mirror.insert(node()));
    assert!(mirror.settle(hold).problems.is_empty());
}

#[test]
fn a_service_that_is_ours_no_more_is_released_and_one_that_is_gone_is_not() {
    let mut mirror = full();
    mirror.settle(hold);
    let mut other = service(json!({"type": "ClusterIP"}));
    other["metadata"]["annotations"] = json!({ALLOCATED_FROM: "main"});
    assert!(mirror.insert(other));
    assert_eq!(mirror.released().collect::<Vec<_>>(), [&web()]);
    assert!(mirror.settle(hold).allocation.addresses.is_empty());
    assert!(mirror.remove(&key("Service", "shop", "web")) && !mirror.remove(&key("Service", "shop", "web")));
    assert_eq!(mirror.released().count(), 0);
}

#[test]
fn what_is_wrong_and_was_never_right_keeps_what_it_was_given() {
    let wrong = |annotations: Value| {
        let mut object = service(json!({"loadBalancerIP": "192.0.2.9"}));
        object["metadata"]["annotations"] = annotations;
        object
    };
    let bad = json!({"magnetite.io/forwarding": "atuo", "metallb.io/loadBalancerIPs": "192.0.2.1,"});
    let mut held = bad.clone();
    held[ALLOCATED_FROM] = "main".into();
    for (annotations, kept) in [(bad, false), (held, true)] {
        // It has never seen the Service otherwise.
        let mut mirror = Mirror::default();
        for object in [pool("main", "192.0.2.0/26"), slice("web-1", "10.0.0.1"), wrong(annotations)] {
            mirror.insert(object);
        }
        let settled = mirror.settle(hold).clone();
        assert!(settled.problems.iter().any(|problem| problem.severity == Severity::Error));
        let addresses = settled.allocation.addresses.get(&web()).cloned().unwrap_or_default();
        assert_eq!(addresses == [IpAddr::from([192, 0, 2, 1])], kept, "{addresses:?}");
        assert_eq!(mirror.released().count(), 0);
        if kept {
            assert_eq!(settled.snapshot.services[&web()].forwarding, Forwarding::Kernel, "in doubt");
            // And is right again when it is mended.
            assert!(mirror.insert(service(json!({}))));
            assert_eq!(mirror.settle(hold).snapshot.services[&web()].forwarding, Forwarding::Auto);
        }
    }
}

#[test]
fn without_any_configuration_the_last_one_holds() {
    let mut mirror = full();
    mirror.settle(hold);
    assert!(mirror.remove(&key("IPAddressPool", SYSTEM, "main")));
    let settled = mirror.settle(hold);
    assert_eq!(settled.snapshot.pools.len(), 1);
    assert!(settled.allocation.addresses.contains_key(&web()));
    assert!(
        words(settled)[0].contains("what they said last holds until there is one"),
        "{:?}",
        words(settled)
    );
    assert!(mirror.insert(pool("new", "198.51.100.0/24")));
    let settled = mirror.settle(hold);
    assert_eq!(settled.snapshot.pools.keys().collect::<Vec<_>>(), ["new"]);
    assert!(settled.allocation.addresses.is_empty(), "somebody else's address");
}

#[test]
fn what_was_written_to_a_service_is_no_news_when_it_comes_back() {
    let mut waiting = service(json!({}));
    waiting["status"] = json!({});
    let mut written = service(json!({}));
    written["metadata"]["annotations"] = json!({"metallb.io/ip-allocated-from-pool": "main"});
    let mut elsewhere = written.clone();
    elsewhere["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.9"}]);
    let mut asking = written.clone();
    asking["spec"]["externalTrafficPolicy"] = json!("Local");
    let mut other = written.clone();
    other["metadata"]["uid"] = json!("2");
    for (object, is_news) in [(&written, false), (&elsewhere, true), (&asking, true), (&other, true)] {
        let mut mirror = Mirror::default();
        mirror.insert(pool("main", "192.0.2.0/26"));
        mirror.insert(waiting.clone());
        assert!(mirror.has_news());
        mirror.settle(|snapshot, _, allocation| {
            *allocation = lb_core::allocate::allocate(snapshot);
            allocation.addresses.insert(web(), vec![IpAddr::from([192, 0, 2, 1])]);
        });
        assert!(!mirror.has_news());
        assert!(mirror.insert(object.clone()));
        assert_eq!(mirror.has_news(), is_news, "{object}");
    }
    let mut mirror = full();
    mirror.settle(hold);
    assert!(mirror.insert(slice("web-9", "10.0.0.9")) && !mirror.has_news(), "it has no say in addresses");
    assert!(mirror.remove(&key("Service", "shop", "web")) && mirror.has_news());
}

#[test]
fn what_is_known_of_a_kind_can_be_removed() {
    let mut mirror = full();
    mirror.settle(hold);
    for kind in ["EndpointSlice", "Node", "IPAddressPool"] {
        let keys = mirror.keys_of(kind);
        assert!(mirror.has_kind(kind) && keys.len() == 1, "{keys:?}");
        assert!(keys.iter().all(|key| mirror.remove(key)) && !mirror.has_kind(kind), "{kind}");
    }
    let settled = mirror.settle(hold);
    assert!(settled.snapshot.services[&web()].endpoints[0].is_empty());
    assert!(settled.snapshot.nodes.is_empty());
}

proptest! {
    /// However objects came and went, what is left says what it says in files.
    #[test]
    fn the_order_in_which_objects_arrive_does_not_matter(
        before in subsequence((0..8).collect::<Vec<usize>>(), 0..8),
        after in Just((0..8).collect::<Vec<usize>>()).prop_shuffle(),
        gone in subsequence((0..8).collect::<Vec<usize>>(), 0..4),
    ) {
        let objects = [
            pool("main", "192.0.2.0/26"),
            pool("other", "192.0.2.128/26"),
            service(json!({})),
            slice("web-1", "10.0.0.1"),
            slice("web-2", "10.0.0.2"),
            node(),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": "u"}}),
            service(json!({"externalTrafficPolicy": "Local"})),
        ];
        let mut mirror = Mirror::default();
        for turn in [&before, &after] {
            turn.iter().for_each(|object| { mirror.insert(objects[*object].clone()); });
            mirror.settle(hold);
        }
        gone.iter().for_each(|object| { mirror.remove(&key_of(&objects[*object])); });
        // The last of those with one name is what is there.
        let last: BTreeMap<ObjectKey, &Value> =
            after.iter().map(|object| (key_of(&objects[*object]), &objects[*object])).collect();
        let mut files = BTreeMap::new();
        for (key, object) in last {
            if gone.iter().all(|gone| key_of(&objects[*gone]) != key) || key.kind == "IPAddressPool" && gone.contains(&0) && gone.contains(&1) {
                files.insert(format!("{key}.json").replace('/', "-"), object.to_string().into_bytes());
            }
        }
        let settled = mirror.settle(hold);
        prop_assert_eq!(&settled.snapshot, &decode(&files).snapshot);
    }
}
