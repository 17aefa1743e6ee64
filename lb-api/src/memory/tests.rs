use lb_core::model::ObjectName;

use super::*;

const POOL: &str = "apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: main, namespace: metallb-system}
spec: {addresses: [192.0.2.0/24]}
";

fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: LoadBalancer, ports: [{{port: 80}}], {spec}}}\n"
    )
}

fn files(files: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
}

fn addresses(settled: &Settled) -> Vec<String> {
    let shown = |(name, addresses): (&ObjectName, &Vec<std::net::IpAddr>)| {
        format!("{} {}", name.name, addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
    };
    settled.allocation.addresses.iter().map(shown).collect()
}

fn words(settled: &Settled) -> Vec<String> {
    settled.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn an_object_that_goes_wrong_stays_as_it_was_and_the_others_change() {
    let mut memory = Memory::default();
    let a = service("a", "loadBalancerIP: 192.0.2.7");
    memory.settle(&files(&[("pool.yaml", POOL), ("a.yaml", &a), ("b.yaml", &service("b", ""))]));
    for bad in ["loadBalancerIP: 192.0.2.300", "ports: 7", "loadBalancerIP: 203.0.113.1"] {
        let b = service("b", "loadBalancerIP: 192.0.2.9");
        let now = files(&[("pool.yaml", POOL), ("a.yaml", &service("a", bad)), ("b.yaml", &b)]);
        let settled = memory.settle(&now);
        assert_eq!(addresses(&settled), ["a 192.0.2.7", "b 192.0.2.9"], "{bad}");
        assert_eq!(settled.problems.len(), 1, "{:?}", words(&settled));
        assert!(words(&settled)[0].starts_with("error: a.yaml: "), "{:?}", words(&settled));
    }
}

#[test]
fn a_file_that_cannot_be_read_keeps_its_objects_and_one_that_is_gone_does_not() {
    let mut memory = Memory::default();
    let both = format!("{}---\n{}", service("a", ""), service("b", ""));
    memory.settle(&files(&[("pool.yaml", POOL), ("services.yaml", &both)]));
    let half = format!("{}---\n{{[", service("a", ""));
    let settled = memory.settle(&files(&[("pool.yaml", POOL), ("services.yaml", &half)]));
    assert_eq!(addresses(&settled), ["a 192.0.2.0", "b 192.0.2.1"]);
    let settled = memory.settle(&files(&[("pool.yaml", POOL), ("services.yaml", &service("a", ""))]));
    assert_eq!(addresses(&settled), ["a 192.0.2.0"]);
}

#[test]
fn a_pool_that_grows_into_another_stays_as_it_was() {
    let mut memory = Memory::default();
    let other = POOL.replace("main", "aaa").replace("192.0.2.0", "198.51.100.0");
    memory.settle(&files(&[("a.yaml", &other), ("pool.yaml", POOL)]));
    let grown = other.replace("198.51.100.0/24", "192.0.0.0/8");
    let settled = memory.settle(&files(&[("a.yaml", &grown), ("pool.yaml", POOL)]));
    assert_eq!(settled.snapshot.pools["aaa"].ranges[0].first().to_string(), "198.51.100.0");
    assert!(settled.snapshot.pools.contains_key("main"));
    assert!(words(&settled)[0].contains("a.yaml: IPAddressPool metallb-system/aaa: spec.addresses[0]"));
}

#[test]
fn an_empty_source_changes_nothing_and_says_so() {
    let mut memory = Memory::default();
    let full = files(&[("pool.yaml", POOL), ("a.yaml", &service("a", ""))]);
    memory.settle(&full);
    for _ in 0..2 {
        let settled = memory.settle(&files(&[("a.yaml", "# nothing\n")]));
        assert!(settled.is_empty);
        assert_eq!(addresses(&settled), ["a 192.0.2.0"]);
        assert!(words(&settled)[0].contains("everything stays as it is"));
    }
    assert!(!memory.settle(&full).is_empty);
}

#[test]
fn a_new_object_cannot_take_the_place_of_one_that_goes_wrong_in_the_same_read() {
    let mut memory = Memory::default();
    let a = service("a", "");
    memory.settle(&files(&[("lab.yaml", POOL), ("services.yaml", &a)]));
    let broken = POOL.replace("[192.0.2.0/24]", "7");
    let other = POOL.replace("main", "aaa");
    let now = files(&[("lab.yaml", &broken), ("aaa.yaml", &other), ("services.yaml", &a)]);
    for _ in 0..2 {
        let settled = memory.settle(&now);
        assert_eq!(settled.snapshot.pools.keys().collect::<Vec<_>>(), ["main"]);
        assert_eq!(addresses(&settled), ["a 192.0.2.0"]);
        let words = words(&settled);
        assert_eq!(words.len(), 2, "{words:#?}");
        assert!(words[0].starts_with("error: lab.yaml: IPAddressPool metallb-system/main: spec.addresses:"));
        assert!(words[1].ends_with("overlaps with IPAddressPool main: an address belongs to one pool"));
    }
}

/// One goes back to where another has moved to, which has to go back too.
#[test]
fn objects_that_go_back_take_each_other_along() {
    let pool = |name, network| POOL.replace("main", name).replace("192.0.2.0/24", network);
    let mut memory = Memory::default();
    let (a, b, c) = (pool("a", "10.0.0.0/24"), pool("b", "10.0.1.0/24"), pool("c", "10.0.2.0/24"));
    memory.settle(&files(&[("1.yaml", &a), ("2.yaml", &b), ("3.yaml", &c)]));
    let (a, b, c) = (pool("a", "10.0.1.0/24"), pool("b", "10.0.2.0/24"), pool("c", "10.0.3"));
    let settled = memory.settle(&files(&[("1.yaml", &a), ("2.yaml", &b), ("3.yaml", &c)]));
    let networks: Vec<_> =
        settled.snapshot.pools.values().map(|pool| pool.ranges[0].first().to_string()).collect();
    assert_eq!(networks, ["10.0.0.0", "10.0.1.0", "10.0.2.0"]);
    let words = words(&settled);
    assert_eq!(words.len(), 3, "{words:#?}");
    assert!(words[1].contains("b: spec.addresses[0]: 10.0.2.0-10.0.2.255 overlaps with IPAddressPool c"));
    assert!(words[2].contains("a: spec.addresses[0]: 10.0.1.0-10.0.1.255 overlaps with IPAddressPool b"));
}

/// It is no last good state: there never was one.
#[test]
fn a_service_that_was_never_served_is_judged_by_what_its_file_says() {
    let mut memory = Memory::default();
    for (asked, said) in [("203.0.113.1", "203.0.113.1 is in no"), ("203.0.113.2", "203.0.113.2 is in no")] {
        let a = service("a", &format!("loadBalancerIP: {asked}"));
        let words = words(&memory.settle(&files(&[("pool.yaml", POOL), ("a.yaml", &a)])));
        assert!(words.len() == 1 && words[0].contains(said), "{words:#?}");
    }
}

#[test]
fn an_allocation_error_names_the_field_that_the_value_is_in() {
    let annotated = |annotation| {
        service("b", "").replace("{name: b}", &format!("{{name: b, annotations: {{{annotation}}}}}"))
    };
    let asked = "metadata.annotations[metallb.io/loadBalancerIPs]: 192.0.2.7 belongs to Service default/a, which comes first by \
                 namespace and name, and has no annotation metallb.io/allow-shared-ip: ask for another address, or let that Service \
                 give it up";
    let held = "status.loadBalancer.ingress[1].ip: the Service gives up what it had: 198.51.100.1 is in no IPAddressPool: add it to one, or take it out of this \
                status, and the Service gets another";
    for (b, expected) in [
        (annotated("metallb.io/loadBalancerIPs: 192.0.2.7"), asked),
        (
            annotated("metallb.universe.tf/loadBalancerIPs: 203.0.113.1"),
            "metadata.annotations[metallb.universe.tf/loadBalancerIPs]: 203.0.113.1 is in no",
        ),
        (
            annotated("metallb.universe.tf/loadBalancerIPs: 192.0.2.300"),
            "metadata.annotations[metallb.universe.tf/loadBalancerIPs]: \"192.0.2.300\" is not",
        ),
        (
            annotated("metallb.io/address-pool: x"),
            "metadata.annotations[metallb.io/address-pool]: there is no",
        ),
        (
            annotated("metallb.universe.tf/address-pool: x"),
            "metadata.annotations[metallb.universe.tf/address-pool]: there is no",
        ),
        (service("b", "loadBalancerIP: 203.0.113.1"), "spec.loadBalancerIP: 203.0.113.1 is in no"),
        (
            service("b", "")
                + "status: {loadBalancer: {ingress: [{hostname: b.example}, {ip: 198.51.100.1}]}}\n",
            held,
        ),
    ] {
        let a = service("a", "loadBalancerIP: 192.0.2.7");
        let mut words =
            words(&Memory::default().settle(&files(&[("pool.yaml", POOL), ("a.yaml", &a), ("b.yaml", &b)])));
        words.retain(|words| !words.contains("old prefix"));
        let severity = if expected == held { "warning" } else { "error" };
        let expected = format!("{severity}: b.yaml: Service default/b: {expected}");
        assert!(words.len() == 1 && words[0].starts_with(&expected), "{words:#?}\nexpected {expected}");
    }
}

#[test]
fn a_pool_says_what_of_it_nobody_is_given() {
    let node = "apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.0}]}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [192.0.2.4/31]}
";
    let settled = Memory::default().settle(&files(&[("pool.yaml", POOL), ("node.yaml", node)]));
    let expected = [("192.0.2.0-192.0.2.0", "an address of Node n1"), ("192.0.2.4-192.0.2.5", "in ServiceCIDR kubernetes")]
        .map(|(part, purpose)| {
            format!(
                "warning: pool.yaml: IPAddressPool metallb-system/main: spec.addresses: {part} is {purpose}: no Service gets an address of it"
            )
        });
    assert_eq!(words(&settled), expected);
}
