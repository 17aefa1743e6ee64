//! The text of the metrics, all of it. `MAGNETITE_BLESS=1 cargo test --package lb-agent --test metrics` writes it anew; read the
//! difference: names and labels are what dashboards and alerts are made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_agent::{
    liveness::{OpenError, Snapshot, TakenOver},
    metrics::{
        BackendFacts, ControllerFacts, ControllerPage, Counted, Facts, Page, ServiceFacts, ShareFacts,
        SourceFacts, text,
    },
    output::{DrainStatus, FlowsStatus},
};
use lb_common::{
    Reason,
    layout::{ReasonCount, Stats, VipStats},
};
use lb_core::{
    allocate::{Allocation, AllocationError, Count, PoolCounts},
    claims::{self, Report, Withheld},
    liveness::{Condition, Counts, LegReport, Source},
    model::{NodeName, ObjectName, Protocol},
};

type Done = Result<(), Box<dyn std::error::Error>>;

fn facts() -> Result<Facts, std::net::AddrParseError> {
    let vip: IpAddr = "192.0.2.200".parse()?;
    let backend = |address: &str, node: &str, place| -> Result<_, std::net::AddrParseError> {
        Ok(BackendFacts { address: address.parse()?, port: 8080, node: NodeName(node.into()), place })
    };
    let leg = |node: &str| (node.to_owned(), "eth0".to_owned());
    Ok(Facts {
        node: "n1".to_owned(),
        vips: vec![(vip, 1), ("2001:db8::200".parse()?, 2)],
        announced: vec![("shop/web".to_owned(), vip)],
        services: vec![Arc::new(ServiceFacts {
            service: ObjectName { namespace: "shop".into(), name: "web".into() },
            ip: vip,
            port: 80,
            protocol: Protocol::Tcp,
            place: 0,
            backends: [backend("10.0.1.2", "n1", 0)?, backend("10.0.2.2", "", 1)?].into(),
        })],
        legs: [("192.0.2.11".parse()?, leg("n1")), ("192.0.2.12".parse()?, leg("n2"))].into(),
        segments: [(0, "eth0".to_owned())].into(),
        shares: vec![ShareFacts { ip: vip, segment: "eth0".to_owned(), node: "n2".to_owned(), shares: 512 }],
        map_bytes: 1 << 20,
        problems: 2,
        source: SourceFacts::default(),
        drain: Some(DrainStatus {
            flows_at_begin: Some(400),
            flows: Some(FlowsStatus { left: 12, entering: 3, to_pods: 9 }),
            ..DrainStatus::default()
        }),
    })
}

fn snapshot() -> Result<Snapshot, std::net::AddrParseError> {
    let vip: IpAddr = "192.0.2.200".parse()?;
    let leg = |condition, source| LegReport { condition, since: None, observers: Vec::new(), source };
    let last_answer = Some(Duration::from_millis(25));
    Ok(Snapshot {
        at: Instant::now(),
        legs: [
            ("192.0.2.11".parse()?, leg(Condition::Answering, Source::Own)),
            ("192.0.2.12".parse()?, leg(Condition::Yielding, Source::Probes { last_answer })),
            // Not in the facts yet.
            ("192.0.2.13".parse()?, leg(Condition::Silent, Source::Others)),
        ]
        .into(),
        owners: BTreeMap::new(),
        counts: Counts { probes: 1_000, messages: 20, suspicions: 3, accusations: 2, slips: 1 },
        moves: 4,
        refused: [(OpenError::Forged, 7)].into(),
        claims: claims(vip),
        announced: [(vip.into(), 5)].into(),
        taken_over: Some(TakenOver { places: 1_000, after: Duration::from_millis(42) }),
    })
}

fn claims(vip: IpAddr) -> Report {
    Report {
        withheld: [((vip.into(), 0), Withheld::Taken)].into(),
        strangers: [((vip.into(), 0), BTreeMap::new())].into(),
        two_owners: BTreeMap::new(),
        counts: claims::Counts {
            two_owners: 6,
            yields: 5,
            foreign: 40,
            conflicts: 3,
            announced_again: 2,
            probes: 9,
        },
    }
}

fn counted() -> Counted {
    let stats = |packets, new_flows| Stats { packets, bytes: packets * 100, new_flows, ..Stats::default() };
    let reasons = Reason::ALL.iter().map(|reason| (*reason, ReasonCount::default()));
    let mut reasons: BTreeMap<Reason, ReasonCount> = reasons.collect();
    reasons.insert(Reason::NewForwarded, ReasonCount { packets: 3, bytes: 300 });
    Counted {
        reasons,
        vips: vec![VipStats { requests: 12, answers: 11, left: 1 }, VipStats::default()],
        services: vec![(Some(stats(9, 3)), vec![Some(stats(6, 2)), Some(stats(3, 1))])],
    }
}

fn controller() -> Result<ControllerPage, std::net::AddrParseError> {
    let vip: IpAddr = "192.0.2.200".parse()?;
    let (used, free) = (Count { v4: 3, v6: 1 }, Count { v4: 5, v6: u64::MAX });
    let counts = PoolCounts { assigned: used, available: free, left_out: Vec::new() };
    let mut allocation = Allocation::default();
    allocation.counts.insert("main".to_owned(), counts);
    let web = ObjectName { namespace: "shop".into(), name: "web".into() };
    allocation.addresses.insert(web.clone(), vec![vip]);
    allocation.errors.insert(web, AllocationError::OneClusterIp);
    let mut facts = ControllerFacts { leads: true, ..ControllerFacts::default() };
    facts.source = SourceFacts {
        updates: 100,
        errors: 3,
        is_loaded: true,
        is_stale: true,
        heard: [("Node", true), ("Service", false)].into(),
    };
    facts.decided(&allocation, 2);
    Ok(ControllerPage(facts))
}

#[test]
fn all_names_labels_and_values() -> Done {
    let page = Page { facts: Arc::new(facts()?), snapshot: Arc::new(snapshot()?), counted: counted() };
    compare(&text(page)?, "metrics.txt")?;
    compare(&controller()?.text()?, "metrics-controller.txt")
}

/// Holds a page against what it was.
fn compare(happened: &str, file: &str) -> Done {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    if std::env::var_os("MAGNETITE_BLESS").is_some() {
        return Ok(fs::write(path, happened)?);
    }
    let expected = fs::read_to_string(path)?;
    for (line, (expected, happened)) in (1..).zip(expected.lines().zip(happened.lines())) {
        assert_eq!(happened, expected, "line {line}");
    }
    assert_eq!(happened.len(), expected.len());
    Ok(())
}

/// What Prometheus' own parser would refuse or warn of: a family in two parts, a series twice, a counter without its ending.
#[test]
fn families_are_whole_described_and_of_their_kind() -> Done {
    let page = Page { facts: Arc::new(facts()?), snapshot: Arc::new(snapshot()?), counted: counted() };
    check(&text(page)?)?;
    check(&controller()?.text()?)
}

fn check(text: &str) -> Done {
    let (mut families, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let mut family = String::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name)) => {
                name.clone_into(&mut family);
                assert!(families.insert(name), "{name} is there twice");
            }
            (Some("#"), Some("TYPE"), Some(name)) => {
                assert_eq!(name, family);
                let is_counter = line.ends_with(" counter");
                // MetalLB's gauges are called so.
                let is_named_so = name.ends_with("_total") && !name.starts_with("metallb_allocator_");
                assert_eq!(is_counter, is_named_so, "{line}");
            }
            (Some(series), Some(value), None) => {
                assert!(series.split('{').next() == Some(&family), "{line} is not of {family}");
                assert!(seen.insert(series), "{series} is there twice");
                value.parse::<f64>()?;
            }
            _ => panic!("{line}"),
        }
    }
    assert!(seen.len() > 10);
    Ok(())
}
