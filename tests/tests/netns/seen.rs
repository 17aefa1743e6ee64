//! What people and their tools see: metrics, events, statuses of Services, each node as each sees it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use magnetite_tests::lab::{Lab, Node, WEB, WEB_V6, frontend};
use serde_json::Value;

use crate::agent::Test;

/// Names, and what they do with a lab of their own.
pub const TESTS: &[(&str, Test)] = &[
    ("metrics_count_what_happens", metrics_count_what_happens),
    ("statuses_and_events_follow_the_owner", statuses_and_events_follow_the_owner),
    ("members_say_who_is_silent_and_why_a_vip_moved", members_say_who_is_silent_and_why_a_vip_moved),
];

/// Longer than a page of metrics is kept, and than nodes take to write how they see each other.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than a node that is back is quiet.
pub(crate) const UNTIL_SETTLED: Duration = Duration::from_secs(60);

/// Asks again until it is as it should be; what was seen last is in the error.
pub(crate) fn wait<T: std::fmt::Debug>(
    what: &str,
    ask: impl FnMut() -> Result<T>,
    is_met: impl Fn(&T) -> bool,
) -> Result<T> {
    wait_for(PATIENCE, what, ask, is_met)
}

/// Like [`wait`], for so long.
pub(crate) fn wait_for<T: std::fmt::Debug>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<T>,
    is_met: impl Fn(&T) -> bool,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        let seen = ask()?;
        if is_met(&seen) {
            return Ok(seen);
        }
        ensure!(begin.elapsed() < patience, "waited in vain for {what}: {seen:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn metrics_count_what_happens(lab: &mut Lab) -> Result<()> {
    let owner = lab.owner(WEB)?;
    let of_ip = |name: &str, ip: IpAddr| format!("{name}{{ip=\"{ip}\"}}");
    let watched: Vec<(&str, IpAddr)> = [WEB, WEB_V6]
        .into_iter()
        .flat_map(|ip| {
            [
                ("metallb_layer2_requests_received", ip),
                ("metallb_layer2_responses_sent", ip),
                ("magnetite_vip_requests_left_total", ip),
            ]
        })
        .collect();
    let before: Vec<BTreeMap<String, f64>> = lab.nodes.iter().map(Node::metrics).collect::<Result<_>>()?;
    for client in &lab.clients()[..2] {
        for vip in [WEB, WEB_V6] {
            client.forget(vip)?;
            client.connect(frontend(vip))?;
        }
    }
    for (node, before) in lab.nodes.iter().zip(&before) {
        let is_owner = node.name == owner;
        let grown = |now: &BTreeMap<String, f64>, (name, ip): &(&str, IpAddr)| -> f64 {
            let series = of_ip(name, *ip);
            now.get(&series).copied().unwrap_or(f64::NAN) - before.get(&series).copied().unwrap_or(f64::NAN)
        };
        wait(
            "questions to be counted",
            || node.metrics(),
            |now| {
                watched.iter().all(|watched| {
                    let is_ours = is_owner != watched.0.contains("left");
                    if is_ours { grown(now, watched) >= 2.0 } else { grown(now, watched) == 0.0 }
                })
            },
        )
        .with_context(|| format!("{}, owner {owner}", node.name))?;
        let now = node.metrics()?;
        let value = |series: &str| now.get(series).copied().unwrap_or(f64::NAN);
        let name = &node.name;
        let announced = value(&format!(
            "metallb_speaker_announced{{service=\"default/web\",protocol=\"layer2\",node=\"{name}\",ip=\"{WEB}\"}}"
        ));
        ensure!(
            if is_owner { announced == 1.0 } else { announced.is_nan() },
            "announced by {name}: {announced}"
        );
        let gratuitous = value(&of_ip("metallb_layer2_gratuitous_sent", WEB));
        ensure!((gratuitous >= 1.0) == is_owner, "{name} has announced {WEB} {gratuitous} times");
        let taken_over = value("magnetite_takeover_vips");
        ensure!(
            !is_owner || taken_over >= 1.0 && value("magnetite_takeover_seconds") > 0.0,
            "{name} took over {taken_over}"
        );
        for other in ["n1", "n2", "n3"] {
            let series = format!(
                "magnetite_leg_condition{{node=\"{other}\",segment=\"eth0\",condition=\"answering\"}}"
            );
            ensure!(value(&series) == 1.0, "{name}: {series} {}", value(&series));
        }
        ensure!(value("magnetite_liveness_probes_total") > 0.0 && value("magnetite_map_bytes") > 1e6);
        for path in ["/healthz", "/readyz"] {
            let answer = node.get(path)?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        }
    }
    // The next agent goes on counting.
    let series = of_ip("metallb_layer2_requests_received", WEB);
    let node = lab.node_mut(&owner)?;
    let before = node.metrics()?[&series];
    node.stop()?;
    node.start()?;
    let after = wait("the next agent's metrics", || Ok(node.metrics().ok()), Option::is_some)?;
    let after = after.and_then(|metrics| metrics.get(&series).copied()).unwrap_or(0.0);
    ensure!(after >= before, "{series} was {before}, and is {after}");
    Ok(())
}

fn statuses_and_events_follow_the_owner(lab: &mut Lab) -> Result<()> {
    let status = |node: &str| format!("ServiceL2Status/metallb-system/l2-default.web.{node}.yaml");
    let event = |node: &str| format!("Event/default/web.nodeassigned.{node}.yaml");
    let holders = |lab: &Lab| -> Result<Vec<String>> {
        let has = |node: &&Node| node.document(&status(&node.name)).is_some();
        Ok(lab.nodes.iter().filter(has).map(|node| node.name.clone()).collect())
    };
    let first = lab.owner(WEB)?;
    wait("a status of the owner's alone", || holders(lab), |holders| *holders == [&*first])?;
    let text = lab.nodes[0].document(&status(&first)).unwrap_or_default();
    ensure!(text.contains(&format!("node: {first}")) && text.contains("name: eth0"), "{text}");
    let text = lab.nodes[0].document(&event(&first)).unwrap_or_default();
    let message = format!("announcing from node \"{first}\" with protocol \"layer2\"");
    ensure!(text.replace('\\', "").contains(&message), "{text}");

    lab.set_member(&first, false)?;
    let second = lab.owner(WEB)?;
    ensure!(second != first);
    wait("a status of the new owner's alone", || holders(lab), |holders| *holders == [&*second])?;
    let text = lab.nodes[0].document(&event(&second)).unwrap_or_default();
    ensure!(text.contains("reason: nodeAssigned") && text.contains("count: 1"), "{text}");
    lab.set_member(&first, true)?;
    wait("a status of the old owner's again", || holders(lab), |holders| *holders == [&*first])?;
    let node = &lab.nodes[0];
    wait(
        "its event to count",
        || Ok(node.document(&event(&first)).unwrap_or_default()),
        |text| text.contains("count: 2\n"),
    )?;
    Ok(())
}

fn members_say_who_is_silent_and_why_a_vip_moved(lab: &mut Lab) -> Result<()> {
    let members = |node: &Node| -> Result<Value> { Ok(serde_json::from_str(&node.ask_members(true)?)?) };
    let node = &lab.nodes[0];
    // Of the other two, in a cluster of three, each node is told by nobody.
    let sees = |viewer: &str, view: &Value| {
        let is_seen = |other: &&str| {
            let seen = &view["nodes"][*other]["eth0"];
            let is_other = *other != viewer;
            seen["condition"] == "answering"
                && seen["known"] == if is_other { "probed" } else { "own" }
                && seen["lastAnswerMs"].is_number() == is_other
        };
        let why = &view["vips"][WEB.to_string()]["eth0"]["why"];
        ["n1", "n2", "n3"].iter().all(is_seen) && *why == "best-ranked of 3"
    };
    wait(
        "three views that agree",
        || members(node),
        |all| {
            let views: Vec<(&String, &Value)> = all["views"].as_object().into_iter().flatten().collect();
            views.len() == 3
                && views.iter().all(|(viewer, view)| sees(viewer, view))
                && all["disagreements"].as_array().is_some_and(Vec::is_empty)
        },
    )?;

    let dead = lab.owner(WEB)?;
    lab.set_cable(&dead, false)?;
    let survivors: Vec<&Node> = lab.nodes.iter().filter(|node| node.name != dead).collect();
    let says = format!("next of 3: {dead} is silent");
    for survivor in &survivors {
        wait(
            "the reason of the move",
            || Ok(members(survivor)?["views"][&survivor.name].clone()),
            |view| {
                let owner = &view["vips"][&WEB.to_string()]["eth0"];
                owner["why"].as_str().is_some_and(|why| why.starts_with(&says))
                    && owner["since"].is_string()
                    && view["nodes"][&dead]["eth0"]["condition"] == "silent"
            },
        )?;
    }
    // It does not know that it is cut off, and says otherwise.
    let table = wait(
        "what is not agreed",
        || survivors[0].ask_members(false),
        |table| table.contains(&format!("NOT AGREED: {WEB} on eth0")),
    )?;
    ensure!(table.contains(&says), "{table}");
    let left_out = table.lines().find(|line| line.contains("noMatchingAdvertisement")).unwrap_or_default();
    ensure!(left_out.ends_with("n4"), "{table}");
    Ok(())
}
