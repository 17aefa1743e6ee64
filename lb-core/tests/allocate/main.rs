//! Which addresses Services get: what MetalLB's users expect, and what is beyond it.

mod objects;
mod properties;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::{NonZeroI64, NonZeroU16},
    time::{Duration, Instant},
};

use lb_core::{
    allocate::{
        Allocation, AllocationError, Allocator, Claim, Count, Families, Obstacle, PoolEdit, Precedence,
        Purpose, Remark, allocate,
    },
    model::{
        Family, FamilyPolicy, NodeName, Operator, Pool, Protocol, Requirement, Selector, Service,
        ServiceAllocation, TrafficPolicy,
    },
};
use objects::{address, dual, held, name, node, pool, port, service, sharing, snapshot, with_pools};

#[test]
fn what_is_had_stays_what_is_asked_for_comes_next_and_the_rest_by_name() {
    let mut has = service();
    has.ingress = vec![address("192.0.2.1")];
    let mut asks = service();
    asks.requested = vec![address("192.0.2.0")];
    let allocation = allocate(&snapshot(&[("a", service()), ("b", asks), ("c", has), ("d", service())]));
    let addresses: Vec<_> = allocation.addresses.values().map(|addresses| addresses[0].to_string()).collect();
    assert_eq!(addresses, ["192.0.2.2", "192.0.2.0", "192.0.2.1", "192.0.2.3"]);
    assert_eq!(allocation.errors, BTreeMap::new());
}

#[test]
fn two_that_ask_for_one_address_and_one_that_asks_for_none_of_ours() {
    let asking = |text| Service { requested: vec![address(text)], ..service() };
    let services = [("a", asking("192.0.2.1")), ("b", asking("192.0.2.1")), ("c", asking("203.0.113.1"))];
    let allocation = allocate(&snapshot(&services));
    let taken = AllocationError::Taken {
        address: address("192.0.2.1"),
        claim: Claim::Requested,
        holder: name("a"),
        precedence: Precedence::First,
        obstacle: Obstacle::HolderHasNoKey,
    };
    let outside = AllocationError::OutsidePools { address: address("203.0.113.1"), claim: Claim::Requested };
    assert_eq!(allocation.errors, [(name("b"), taken), (name("c"), outside)].into());
}

#[test]
fn the_oldest_gets_the_address_that_several_ask_for_unless_one_has_it() {
    let asking = |created| Service { created, requested: vec![address("192.0.2.1")], ..service() };
    let holding = |created| Service { created, ingress: vec![address("192.0.2.1")], ..service() };
    for (a, b, expected) in [
        (asking(Some(2)), asking(Some(1)), ("b", Precedence::Older)),
        (asking(None), asking(Some(1)), ("b", Precedence::Dated)),
        (asking(Some(1)), asking(Some(1)), ("a", Precedence::First)),
        (asking(None), asking(None), ("a", Precedence::First)),
        (asking(Some(1)), holding(Some(2)), ("b", Precedence::Held)),
        (holding(Some(2)), holding(Some(1)), ("b", Precedence::Older)),
    ] {
        let Allocation { errors, remarks, .. } = allocate(&snapshot(&[("a", a), ("b", b)]));
        let cleared = remarks.into_values().map(|remark| match remark {
            Remark::Cleared(error) => error,
            other => panic!("{other}"),
        });
        let found: Vec<_> = errors
            .into_values()
            .chain(cleared)
            .map(|error| match error {
                AllocationError::Taken { holder, precedence, .. } => (holder, precedence),
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(found, [(name(expected.0), expected.1)]);
    }
}

#[test]
fn the_oldest_chooses_first() {
    let of = |created| Service { created, ..service() };
    let allocation =
        allocate(&snapshot(&[("a", of(None)), ("b", of(Some(2))), ("c", of(Some(1))), ("d", of(None))]));
    let given: Vec<_> = allocation.addresses.values().map(|addresses| addresses[0].to_string()).collect();
    assert_eq!(given, ["192.0.2.2", "192.0.2.1", "192.0.2.0", "192.0.2.3"]);
}

#[test]
fn both_families_come_from_one_pool_or_not_at_all() {
    let dual = dual(FamilyPolicy::RequireDualStack);
    let allocation = allocate(&snapshot(&[("a", dual.clone()), ("b", dual.clone()), ("c", dual)]));
    let b = vec![address("192.0.2.1"), address("2001:db8::2")];
    assert_eq!(allocation.addresses.get(&name("b")), Some(&b));
    assert!(matches!(allocation.errors[&name("c")], AllocationError::Exhausted { .. }));
}

fn restricted(ranges: &str, restriction: ServiceAllocation) -> Pool {
    Pool { service_allocation: Some(restriction), ..pool(ranges) }
}

fn with_label(key: &str) -> Vec<Selector> {
    vec![Selector { requirements: vec![Requirement { key: key.to_owned(), operator: Operator::Exists }] }]
}

#[test]
fn a_pool_gives_to_those_that_its_service_allocation_admits_and_to_no_others() {
    let mut labelled = service();
    labelled.labels = [("tier".to_owned(), "a".to_owned())].into();
    let mut asks = service();
    asks.requested = vec![address("198.51.100.9")];
    let mut pinned = service();
    pinned.requested_pool = Some("lab".to_owned());
    let services = [("a", labelled), ("b", service()), ("asks", asks), ("pinned", pinned)];
    let allowed = |restriction: ServiceAllocation, namespaces: &[(&str, &str)]| {
        let mut snapshot = snapshot(&services);
        snapshot.pools = [("lab".to_owned(), restricted("198.51.100.1-198.51.100.9", restriction))].into();
        snapshot.namespaces = namespaces
            .iter()
            .map(|(name, label)| ((*name).to_owned(), [((*label).to_owned(), String::new())].into()))
            .collect();
        let allocation = allocate(&snapshot);
        let count = allocation.addresses.len();
        let names = allocation.addresses.into_keys().map(|service| service.name);
        (names.collect::<Vec<_>>().join(" "), count, allocation.errors)
    };
    let by_label = ServiceAllocation { service_selectors: with_label("tier"), ..Default::default() };
    let (names, _, errors) = allowed(by_label, &[]);
    assert_eq!(names, "a");
    let reserved = AllocationError::Reserved {
        address: address("198.51.100.9"),
        claim: Claim::Requested,
        pool: "lab".to_owned(),
    };
    assert_eq!(errors[&name("asks")], reserved);
    assert_eq!(errors[&name("pinned")], AllocationError::NotAdmitted { pool: "lab".to_owned() });
    assert!(matches!(errors[&name("b")], AllocationError::Exhausted { .. }));

    let by_name = |namespace: &str| ServiceAllocation {
        namespaces: [namespace.to_owned()].into(),
        ..Default::default()
    };
    assert_eq!(allowed(by_name("default"), &[]).1, 4);
    assert_eq!(allowed(by_name("other"), &[]).1, 0);
    let by_namespace_label =
        || ServiceAllocation { namespace_selectors: with_label("team"), ..Default::default() };
    assert_eq!(allowed(by_namespace_label(), &[("default", "team")]).1, 4);
    assert_eq!(allowed(by_namespace_label(), &[("default", "x"), ("other", "team")]).1, 0);
    assert_eq!(allowed(by_namespace_label(), &[]).1, 0, "no Namespace is known: nobody is admitted");
    let both = ServiceAllocation { namespaces: ["default".to_owned()].into(), ..by_namespace_label() };
    assert_eq!(allowed(both, &[]).1, 4);
}

#[test]
fn restricted_pools_come_first_by_priority_then_by_name() {
    let of = |priority| ServiceAllocation { priority: NonZeroI64::new(priority), ..Default::default() };
    let mut snapshot = snapshot(&[]);
    for (pool_name, last, restriction) in
        [("a", 1, None), ("b", 2, Some(0)), ("c", 3, Some(0)), ("d", 4, Some(20)), ("e", 5, Some(3))]
    {
        let mut one = pool(&format!("203.0.113.{last}-203.0.113.{last}"));
        one.service_allocation = restriction.map(of);
        snapshot.pools.insert(pool_name.to_owned(), one);
    }
    snapshot.services = ["1", "2", "3", "4", "5"].iter().map(|n| (name(n), service().into())).collect();
    let addresses = allocate(&snapshot).addresses.into_values();
    let given: Vec<_> = addresses.map(|addresses| addresses[0].to_string()).collect();
    assert_eq!(given, ["203.0.113.5", "203.0.113.4", "203.0.113.2", "203.0.113.3", "203.0.113.1"]);
}

#[test]
fn buggy_addresses_are_left_out() {
    let mut snapshot = snapshot(&[("a", service())]);
    snapshot.pools.values_mut().for_each(|pool| pool.avoid_buggy = true);
    assert_eq!(allocate(&snapshot).addresses[&name("a")], [address("192.0.2.1")]);
}

/// By Service: its addresses, or why it has none.
fn shown(allocation: &Allocation) -> Vec<String> {
    let addresses = allocation.addresses.iter().map(|(name, addresses)| {
        let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        format!("{} {}", name.name, addresses.join(","))
    });
    let errors = allocation.errors.iter().map(|(name, error)| format!("{} {error:?}", name.name));
    addresses.chain(errors).collect()
}

#[test]
fn who_prefers_two_families_takes_the_first_pool_that_has_both_and_else_its_first_family() {
    let prefers = || dual(FamilyPolicy::PreferDualStack);
    let (v4, v6) = (pool("192.0.2.1-192.0.2.1"), pool("2001:db8::1-2001:db8::1"));
    let both = pool("192.0.2.2-192.0.2.2,2001:db8::2-2001:db8::2");
    let pools = [("a", v4), ("b", v6), ("c", both)];
    let services = [("1", prefers()), ("2", prefers()), ("3", prefers()), ("4", prefers())];
    let allocation = allocate(&with_pools(&pools, &services));
    let addresses = allocation.addresses.values().map(Vec::as_slice).collect::<Vec<_>>();
    let [c, b, a] = [
        vec![address("192.0.2.2"), address("2001:db8::2")],
        vec![address("2001:db8::1")],
        vec![address("192.0.2.1")],
    ];
    assert_eq!(addresses, [&c[..], &b[..], &a[..]]);
    assert_eq!(allocation.errors[&name("4")], AllocationError::Exhausted { families: Families::Both });
}

#[test]
fn the_second_family_comes_later_from_the_same_pool() {
    let mut one = held(&["2001:db8::1"], Some("main"));
    (one.families, one.family_policy) = (vec![Family::V6, Family::V4], FamilyPolicy::PreferDualStack);
    let allocation = allocate(&snapshot(&[("a", one.clone()), ("b", held(&["192.0.2.0"], None))]));
    assert_eq!(shown(&allocation), ["a 192.0.2.1,2001:db8::1", "b 192.0.2.0"]);
    assert_eq!(allocation.remarks, BTreeMap::new());
    let pools = [("main", pool("2001:db8::1-2001:db8::1")), ("other", pool("192.0.2.1-192.0.2.9"))];
    let allocation = allocate(&with_pools(&pools, &[("a", one.clone())]));
    assert_eq!(shown(&allocation), ["a 2001:db8::1"]);
    let missing = AllocationError::Exhausted { families: Families::V4 };
    assert_eq!(allocation.remarks[&name("a")], Remark::OneFamily(missing));

    // Who requires both gives up one for two of another pool.
    one.family_policy = FamilyPolicy::RequireDualStack;
    let both = pool("192.0.2.1-192.0.2.9,2001:db8::9-2001:db8::9");
    let pools = [("main", pool("2001:db8::1-2001:db8::1")), ("other", both)];
    let allocation = allocate(&with_pools(&pools, &[("a", one.clone())]));
    assert_eq!(shown(&allocation), ["a 192.0.2.1,2001:db8::9"]);
    assert!(matches!(allocation.remarks[&name("a")], Remark::Cleared(_)));
    one.families = vec![Family::V6];
    let allocation = allocate(&with_pools(&pools[..1], &[("a", one)]));
    assert_eq!(allocation.errors[&name("a")], AllocationError::OneClusterIp);
}

#[test]
fn who_wants_one_family_keeps_that_of_the_two_that_it_has() {
    let mut one = held(&["192.0.2.2", "2001:db8::2"], Some("main"));
    one.families = vec![Family::V6];
    assert_eq!(
        shown(&allocate(&snapshot(&[("a", one), ("b", service())]))),
        ["a 2001:db8::2", "b 192.0.2.0"]
    );
}

#[test]
fn an_address_is_shared_by_key_ports_and_backends() {
    let local = |mut service: Service, app: &str| {
        service.policy = TrafficPolicy::Local;
        service.selector = [("app".to_owned(), app.to_owned())].into();
        service
    };
    let mut udp = sharing("k", 80);
    udp.ports[0].protocol = Protocol::Udp;
    let mut sctp = sharing("k", 443);
    sctp.sctp_ports = [NonZeroU16::MIN].into();
    let none = service();
    for (first, second, obstacle) in [
        (sharing("k", 80), sharing("k", 81), None),
        (sharing("k", 80), udp, None),
        (sharing("k", 80), sharing("k", 80), Some(Obstacle::Port { port: port(80), protocol: "TCP" })),
        (
            sctp.clone(),
            {
                let mut other = sctp;
                other.ports.clear();
                other
            },
            Some(Obstacle::Port { port: NonZeroU16::MIN, protocol: "SCTP" }),
        ),
        (sharing("k", 80), sharing("other", 81), Some(Obstacle::OtherKey)),
        (sharing("k", 80), sharing("", 81), Some(Obstacle::NoKey)),
        (none, sharing("k", 81), Some(Obstacle::HolderHasNoKey)),
        (local(sharing("k", 80), "a"), local(sharing("k", 81), "a"), None),
        (local(sharing("k", 80), "a"), local(sharing("k", 81), "b"), Some(Obstacle::OtherBackends)),
        (local(sharing("k", 80), "a"), sharing("k", 81), Some(Obstacle::OtherBackends)),
    ] {
        let what = format!("{first:?} {second:?}");
        let asks = Service { requested: vec![address("192.0.2.2")], ..second.clone() };
        let holds = Service { ingress: vec![address("192.0.2.2")], ..first };
        let allocation = allocate(&snapshot(&[("a", holds.clone()), ("b", asks)]));
        let found = allocation.errors.get(&name("b")).map(|error| match error {
            AllocationError::Taken { obstacle, .. } => *obstacle,
            other => panic!("{other}"),
        });
        assert_eq!(found, obstacle, "{what}");
        // Sharing is a permission: the lowest that fits is taken, which may be a fresh one.
        let allocation = allocate(&snapshot(&[("a", holds), ("b", second.clone())]));
        assert_eq!(allocation.addresses[&name("b")], [address("192.0.2.0")], "{what}");
        let full = Service { ingress: vec![address("192.0.2.0")], ..service() };
        let first = Service { ingress: vec![address("192.0.2.1")], ..sharing("k", 80) };
        let allocation = allocate(&snapshot(&[("a", full), ("b", first), ("c", sharing("k", 81))]));
        assert_eq!(allocation.addresses[&name("c")], [address("192.0.2.1")]);
        assert_eq!(
            allocation.counts["main"].assigned,
            Count { v4: 2, v6: 0 },
            "a shared address counts once"
        );
    }
}

#[test]
fn a_request_must_fit_the_service_and_one_pool() {
    let asking = |addresses: &[&str]| Service {
        requested: addresses.iter().map(|text| address(text)).collect(),
        ..dual(FamilyPolicy::PreferDualStack)
    };
    let pools = [
        ("a", pool("192.0.2.1-192.0.2.9,2001:db8::1-2001:db8::9")),
        ("b", Pool { auto_assign: false, ..pool("198.51.100.1-198.51.100.9,2001:db8:b::1-2001:db8:b::9") }),
    ];
    let error = |service: Service| {
        let services = [("x", service)];
        allocate(&with_pools(&pools, &services)).errors.into_values().next()
    };
    let claim = Claim::Requested;
    assert_eq!(error(asking(&["198.51.100.1", "2001:db8:b::1"])), None, "autoAssign does not count");
    assert_eq!(
        error(asking(&["192.0.2.1"])),
        Some(AllocationError::Families { found: Families::V4, families: Families::Both, claim })
    );
    let second = address("2001:db8:b::1");
    assert_eq!(
        error(asking(&["192.0.2.1", "2001:db8:b::1"])),
        Some(AllocationError::TwoPools { address: second, pool: "a".to_owned(), claim })
    );
    let mut both = asking(&["192.0.2.1", "2001:db8::1"]);
    both.requested_pool = Some("b".to_owned());
    let other = AllocationError::OtherPool { address: address("192.0.2.1"), pool: "b".to_owned() };
    assert_eq!(error(both.clone()), Some(other));
    both.requested_pool = Some("a".to_owned());
    assert_eq!(error(both), None);
}

#[test]
fn who_asks_for_something_else_gives_up_what_it_has_even_if_it_is_refused() {
    let asks = |text, pool: Option<&str>| Service {
        requested: vec![address(text)],
        requested_pool: pool.map(str::to_owned),
        ..held(&["192.0.2.2"], Some("main"))
    };
    assert_eq!(shown(&allocate(&snapshot(&[("a", asks("192.0.2.1", None))]))), ["a 192.0.2.1"]);
    let refused = allocate(&snapshot(&[("a", asks("203.0.113.1", None)), ("b", service())]));
    assert_eq!(refused.addresses.keys().collect::<Vec<_>>(), [&name("b")]);
    assert!(matches!(refused.errors[&name("a")], AllocationError::OutsidePools { .. }));
    let mut other = held(&["192.0.2.2"], Some("main"));
    other.requested_pool = Some("other".to_owned());
    let pools = [("main", pool("192.0.2.1-192.0.2.9")), ("other", pool("198.51.100.7-198.51.100.9"))];
    assert_eq!(shown(&allocate(&with_pools(&pools, &[("a", other)]))), ["a 198.51.100.7"]);
}

#[test]
fn what_a_pool_does_not_give_any_more_stays_until_something_else_is_asked_for() {
    let restricted = restricted(
        "192.0.2.0-192.0.2.9",
        ServiceAllocation { namespaces: ["x".to_owned()].into(), ..Default::default() },
    );
    let buggy = Pool { avoid_buggy: true, ..pool("192.0.2.0-192.0.2.9") };
    let elsewhere = pool("198.51.100.1-198.51.100.9");
    for main in [restricted, buggy, elsewhere] {
        let pools = [("main", main), ("other", pool("203.0.113.1-203.0.113.9"))];
        let pools = |first| with_pools(&pools[first..], &[("a", held(&["192.0.2.0"], Some("main")))]);
        for first in [0, 1] {
            let allocation = allocate(&pools(first));
            assert_eq!(shown(&allocation), ["a 192.0.2.0"]);
            assert_eq!(allocation.pools[&name("a")], "main");
            assert!(matches!(allocation.remarks[&name("a")], Remark::Stranded(_)), "{allocation:?}");
        }
        let mut moving = Allocator::new(Duration::ZERO, PoolEdit::Reassign);
        let allocation = moving.handle_snapshot(&pools(1), Instant::now());
        assert_eq!(shown(&allocation), ["a 203.0.113.1"]);
        assert!(matches!(allocation.remarks[&name("a")], Remark::Cleared(_)), "{allocation:?}");
        // What somebody else has given is no address of ours.
        let foreign =
            with_pools(&[("other", pool("203.0.113.1-203.0.113.9"))], &[("a", held(&["192.0.2.0"], None))]);
        assert_eq!(shown(&allocate(&foreign)), ["a 203.0.113.1"]);
    }
}

#[test]
fn a_pool_that_is_renamed_or_split_keeps_its_addresses() {
    let services = [("a", held(&["192.0.2.1"], Some("old"))), ("b", held(&["192.0.2.9"], Some("old")))];
    let pools = [("one", pool("192.0.2.0-192.0.2.7")), ("two", pool("192.0.2.8-192.0.2.15"))];
    let allocation = allocate(&with_pools(&pools, &services));
    assert_eq!(shown(&allocation), ["a 192.0.2.1", "b 192.0.2.9"]);
    assert_eq!(allocation.pools.values().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(allocation.remarks, BTreeMap::new());
}

#[test]
fn nobody_is_given_what_is_there_for_something_else() {
    let mut snapshot = snapshot(&[("a", service()), ("b", held(&["192.0.2.0"], Some("main")))]);
    snapshot.nodes = [(NodeName("n".into()), node(address("192.0.2.0")))].into();
    snapshot.service_cidrs =
        [("kubernetes".to_owned(), vec!["192.0.2.1/32".parse().expect("a network")])].into();
    let allocation = allocate(&snapshot);
    assert_eq!(shown(&allocation), ["a 192.0.2.2", "b 192.0.2.0"]);
    assert!(matches!(
        &allocation.remarks[&name("b")],
        Remark::Stranded(AllocationError::InUse { purpose: Purpose::Node(_), .. })
    ));
    let counts = &allocation.counts["main"];
    assert_eq!(counts.available, Count { v4: 1, v6: 2 });
    assert_eq!(counts.left_out.len(), 2);
    snapshot
        .services
        .insert(name("c"), Service { requested: vec![address("192.0.2.1")], ..service() }.into());
    assert!(matches!(allocate(&snapshot).errors[&name("c")], AllocationError::InUse { .. }));
}

#[test]
fn a_large_pool_is_as_cheap_as_a_small_one() {
    let large = Pool {
        avoid_buggy: true,
        ..pool("10.0.0.0-10.255.255.255,fd00::-fd00:0:0:ffff:ffff:ffff:ffff:ffff")
    };
    let names: Vec<String> = (0..2_000).map(|number| format!("s{number}")).collect();
    let services: Vec<(&str, Service)> =
        names.iter().map(|name| (name.as_str(), dual(FamilyPolicy::RequireDualStack))).collect();
    let allocation = allocate(&with_pools(&[("large", large)], &services));
    assert_eq!(allocation.addresses.len(), 2_000);
    let counts = &allocation.counts["large"];
    assert_eq!(counts.available, Count { v4: (1 << 24) - (1 << 17) - 2_000, v6: u64::MAX });
    assert_eq!(counts.assigned, Count { v4: 2_000, v6: 2_000 });
}

#[test]
fn what_was_given_is_given_again_before_it_shows() {
    let mut allocator = Allocator::new(Duration::from_secs(60), PoolEdit::Keep);
    let now = Instant::now();
    let first = held(&["192.0.2.0"], Some("main"));
    let allocation = allocator.handle_snapshot(&snapshot(&[("a", first), ("b", service())]), now);
    assert_eq!(shown(&allocation), ["a 192.0.2.0", "b 192.0.2.1"]);
    // The lowest is free now, and the status of b is not written yet.
    let allocation = allocator.handle_snapshot(&snapshot(&[("b", service())]), now);
    assert_eq!(shown(&allocation), ["b 192.0.2.1"]);
}

#[test]
fn what_was_given_up_rests_and_its_service_gets_it_back() {
    let rest = Duration::from_secs(60);
    let mut allocator = Allocator::new(rest, PoolEdit::Keep);
    let mut now = Instant::now();
    let mut given = |services: &[&str], after: Duration| {
        now += after;
        let services: Vec<_> = services.iter().map(|name| (*name, service())).collect();
        shown(&allocator.handle_snapshot(&snapshot(&services), now)).join(" ")
    };
    assert_eq!(given(&["a", "b"], Duration::ZERO), "a 192.0.2.0 b 192.0.2.1");
    assert_eq!(given(&["b"], Duration::ZERO), "b 192.0.2.1");
    assert_eq!(given(&["b", "c"], rest - Duration::from_secs(1)), "b 192.0.2.1 c 192.0.2.2");
    assert_eq!(
        given(&["b", "c", "d", "e"], Duration::ZERO),
        "b 192.0.2.1 c 192.0.2.2 d 192.0.2.3 e 192.0.2.0",
        "there is no other"
    );
    assert_eq!(given(&["c", "d"], Duration::ZERO), "c 192.0.2.2 d 192.0.2.3");
    assert_eq!(
        given(&["b", "c", "d", "f"], rest),
        "b 192.0.2.1 c 192.0.2.2 d 192.0.2.3 f 192.0.2.0",
        "b is back, and what e had has rested"
    );
}

#[test]
fn of_two_that_share_whoever_changes_goes() {
    let mut allocator = Allocator::new(Duration::ZERO, PoolEdit::Keep);
    let now = Instant::now();
    let asks = |key: &str, port, created| Service {
        created: Some(created),
        requested: vec![address("192.0.2.1")],
        ..sharing(key, port)
    };
    let both =
        allocator.handle_snapshot(&snapshot(&[("old", asks("k", 80, 1)), ("new", asks("k", 81, 2))]), now);
    assert_eq!(shown(&both), ["new 192.0.2.1", "old 192.0.2.1"]);
    let changed = allocator
        .handle_snapshot(&snapshot(&[("old", asks("other", 80, 1)), ("new", asks("k", 81, 2))]), now);
    assert_eq!(changed.addresses.keys().collect::<Vec<_>>(), [&name("new")]);
    let cleared = &changed.remarks[&name("old")];
    assert!(
        matches!(cleared, Remark::Cleared(AllocationError::Taken { precedence: Precedence::Unchanged, .. })),
        "{cleared}"
    );
    let alone = allocator.handle_snapshot(&snapshot(&[("new", asks("yet another", 81, 2))]), now);
    assert_eq!(shown(&alone), ["new 192.0.2.1"], "who is alone may change as it likes");
}

#[test]
fn what_another_has_by_now_is_not_given_back() {
    let mut allocator = Allocator::new(Duration::from_secs(60), PoolEdit::Keep);
    let now = Instant::now();
    assert_eq!(shown(&allocator.handle_snapshot(&snapshot(&[("a", service())]), now)), ["a 192.0.2.0"]);
    allocator.handle_snapshot(&snapshot(&[]), now);
    let asks = Service { requested: vec![address("192.0.2.0")], ..service() };
    let both = allocator.handle_snapshot(&snapshot(&[("a", service()), ("b", asks)]), now);
    assert_eq!(shown(&both), ["a 192.0.2.1", "b 192.0.2.0"]);
}
