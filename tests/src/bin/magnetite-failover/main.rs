//! How long a client waits when the owner of its VIP dies: on a lab of real agents, many times over.

mod harmless;

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use harmless::{Event, Losses};
use lb_agent::output::PeerStatus;
use magnetite_tests::{
    lab::{Lab, WEB, WEB_V6},
    scenarios::traffic::{Stream, udp_elsewhere},
};

/// How long the packets of a client stay away whose pod is on another node than the owner that dies, in three nodes. Needs root.
#[derive(Parser)]
#[command(name = "cargo xtask bench failover", bin_name = "cargo xtask bench failover")]
struct Arguments {
    /// One JSON object a line and figure: figure, value, unit, target, met.
    #[arg(long)]
    json: bool,
    /// Deaths of each kind, and as often what must cost nothing.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How often an agent is away for a minute, killed and stopped.
    #[arg(long, default_value_t = 30)]
    long_runs: u32,
}

/// A way to die: kills, or lets live again.
type Death = fn(&Lab, &str, bool) -> Result<()>;

const DEATHS: [(&str, Death); 2] = [
    ("port-silent", |lab, node, lives| lab.set_cable(node, lives)),
    ("link-down", |lab, node, lives| lab.set_port(node, lives)),
];

/// Milliseconds, of which half and 99 of 100 are to be below.
const TARGETS: [(f64, f64); 2] = [(0.5, 120.0), (0.99, 200.0)];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    for (name, death) in DEATHS {
        let mut lab = Lab::up()?;
        let mut gaps = Vec::new();
        let mut views = Vec::new();
        for run in 0..arguments.runs {
            let vip = if run % 2 == 0 { WEB } else { WEB_V6 };
            let (gap, view) = die(&mut lab, vip, death).with_context(|| format!("{name}, run {run}"))?;
            if !arguments.json {
                eprintln!("bench: {name} {}/{}: {} ms", run + 1, arguments.runs, gap.as_millis());
            }
            gaps.push(gap);
            views.push(view);
        }
        report(&format!("{name}: client without answers"), gaps, true, arguments.json);
        report(&format!("{name}: until both others' status says so"), views, false, arguments.json);
    }
    for (event, runs) in events(&arguments) {
        harmless(event, runs, &arguments).with_context(|| event.name())?;
    }
    Ok(())
}

/// What must cost nothing, and how often it is tried.
fn events(arguments: &Arguments) -> [(Event, u32); 7] {
    let [short, long, moment] = [Duration::from_secs(3), Duration::from_secs(60), Duration::from_millis(300)];
    [
        (Event::Upgraded, arguments.runs),
        (Event::Killed(short), arguments.runs),
        (Event::Stopped(short), arguments.runs),
        (Event::Silent(moment), arguments.runs),
        (Event::Drained, arguments.runs),
        (Event::Killed(long), arguments.long_runs),
        (Event::Stopped(long), arguments.long_runs),
    ]
}

fn harmless(event: Event, runs: u32, arguments: &Arguments) -> Result<()> {
    if runs == 0 {
        return Ok(());
    }
    let mut losses = Losses::default();
    let mut lab = Lab::up()?;
    for run in 0..runs {
        if run > 0 && event.needs_fresh_lab() {
            // One at a time: the machine is small.
            drop(lab);
            lab = Lab::up()?;
        }
        let begin = losses;
        event.run(&mut lab, &mut losses).with_context(|| format!("run {run}"))?;
        if !arguments.json {
            let (packets, connections) =
                (losses.packets - begin.packets, losses.connections - begin.connections);
            let name = event.name();
            eprintln!("bench: {name} {}/{runs}: {packets} packets, {connections} connections", run + 1);
        }
    }
    let (sent, opened, name) = (losses.sent, losses.opened, event.name());
    if event.counts_packets() {
        report_loss(
            &format!("{name}, {runs} times: packets lost, of {sent}"),
            losses.packets,
            arguments.json,
        );
    }
    let figure = format!("{name}, {runs} times: connections reset, of {opened}");
    report_loss(&figure, losses.connections, arguments.json);
    Ok(())
}

fn report_loss(figure: &str, value: u64, is_json: bool) {
    let is_met = value == 0;
    if is_json {
        let line = serde_json::json!({"figure": figure, "value": value, "unit": "count", "target": 0, "met": is_met});
        println!("{line}");
    } else {
        let met = if is_met { "met" } else { "MISSED" };
        println!("{figure:<70} {value:>7}      target 0, {met}");
    }
}

/// Kills the owner and lets it live again: how long a client had no answers, and how long the others took to say so.
fn die(lab: &mut Lab, vip: IpAddr, death: Death) -> Result<(Duration, Duration)> {
    let owner = lab.owner(vip)?;
    let client = usize::from(vip.is_ipv6());
    let stream = Stream::over(udp_elsewhere(lab, &owner, client, vip)?)?;
    thread::sleep(Duration::from_millis(200));

    let begin = Instant::now();
    death(lab, &owner, false)?;
    let text = vip.to_string();
    let survivors: Vec<String> =
        lab.nodes.iter().map(|node| node.name.clone()).filter(|name| *name != owner).collect();
    for name in &survivors {
        lab.node_mut(name)?.wait("another owner", |status| {
            status.vips.get(&text).and_then(|vip| vip.owner.as_ref()).is_some_and(|now| *now != owner)
        })?;
    }
    let view = begin.elapsed();
    thread::sleep(Duration::from_millis(300));
    let ended = stream.end_with_gap()?;
    ensure!(ended.lost > 0, "nothing was lost: the owner was not on the way");

    death(lab, &owner, true)?;
    lab.wait_all("the node to be back", |status| {
        status.nodes.values().all(PeerStatus::is_present)
            && status.links.values().all(|link| link.mode != "none")
    })?;
    lab.clients().iter().try_for_each(|client| client.forget(vip))?;
    Ok((ended.gap, view))
}

fn report(figure: &str, times: Vec<Duration>, has_target: bool, is_json: bool) {
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    for (share, target) in TARGETS {
        let value = times[((times.len() - 1) as f64 * share).ceil() as usize];
        let name = if share == 0.5 { "median" } else { "p99" };
        if is_json {
            let mut line =
                serde_json::json!({"figure": format!("{figure}, {name}"), "value": value, "unit": "ms"});
            if has_target {
                line["target"] = target.into();
                line["met"] = (value < target).into();
            }
            println!("{line}");
        } else {
            let target = match (has_target, value < target) {
                (false, _) => String::new(),
                (true, true) => format!("target {target} ms, met"),
                (true, false) => format!("target {target} ms, MISSED"),
            };
            println!("{figure:<45} {name:<7} {value:>7.1} ms   {target}");
        }
    }
}
