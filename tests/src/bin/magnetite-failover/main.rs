//! How long a client waits when the owner of its VIP dies: on a lab of real agents, many times over.

mod harmless;
mod many;

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use harmless::{Event, Losses};
use lb_agent::output::PeerStatus;
use lb_core::announce::MOST_PER_SECOND;
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
    /// Only the figures with this in their names.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }
}

/// A way to die: kills, or lets live again.
type Death = fn(&Lab, &str, bool) -> Result<()>;

const DEATHS: [(&str, Death); 2] = [
    ("port-silent", |lab, node, lives| lab.set_cable(node, lives)),
    ("link-down", |lab, node, lives| lab.set_port(node, lives)),
];

/// What half and 99 of 100 values are to be below; the worst of fewer.
type Targets = [Option<f64>; 2];

/// Milliseconds until a client has answers again.
const ANSWERS: Targets = [Some(120.0), Some(200.0)];
/// Milliseconds until a thousand VIPs have been announced.
const ANNOUNCED: Targets = [None, Some(300.0)];
const MANY: &str = "1,000 VIPs move at once";

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    for (name, death) in DEATHS.into_iter().filter(|(name, _)| arguments.wants(name)) {
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
        report(&format!("{name}: client without answers"), gaps, ANSWERS, arguments.json);
        report(&format!("{name}: until both others' status says so"), views, [None; 2], arguments.json);
    }
    if arguments.wants(MANY) {
        many_vips(&arguments)?;
    }
    for (event, runs) in events(&arguments).into_iter().filter(|(event, _)| arguments.wants(&event.name())) {
        harmless(event, runs, &arguments).with_context(|| event.name())?;
    }
    Ok(())
}

fn many_vips(arguments: &Arguments) -> Result<()> {
    let mut times = Vec::new();
    let mut busiest = 0;
    for run in 0..arguments.runs {
        let moved = many::run().with_context(|| format!("{MANY}, run {run}"))?;
        if !arguments.json {
            let (ms, frames) = (moved.announced.as_millis(), moved.busiest_second);
            eprintln!("bench: {MANY} {}/{}: {ms} ms, then {frames} frames/s", run + 1, arguments.runs);
        }
        times.push(moved.announced);
        busiest = busiest.max(moved.busiest_second);
    }
    report(&format!("{MANY}: from the verdict to the last"), times, ANNOUNCED, arguments.json);
    let figure = format!("{MANY}: frames in the busiest second afterwards");
    // Whoever counts begins at another moment than whoever sends.
    report_count(&figure, busiest as u64, MOST_PER_SECOND + 1, arguments.json);
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
        report_count(
            &format!("{name}, {runs} times: packets lost, of {sent}"),
            losses.packets,
            0,
            arguments.json,
        );
    }
    let figure = format!("{name}, {runs} times: connections reset, of {opened}");
    report_count(&figure, losses.connections, 0, arguments.json);
    Ok(())
}

/// What is to be no more than the target.
fn report_count(figure: &str, value: u64, target: u64, is_json: bool) {
    let is_met = value <= target;
    if is_json {
        let line = serde_json::json!({"figure": figure, "value": value, "unit": "count", "target": target, "met": is_met});
        println!("{line}");
    } else {
        let met = if is_met { "met" } else { "MISSED" };
        println!("{figure:<70} {value:>7}      target {target}, {met}");
    }
}

/// Kills the owner and lets it live again: how long a client had no answers, and how long the others took to say so.
fn die(lab: &mut Lab, vip: IpAddr, death: Death) -> Result<(Duration, Duration)> {
    let (owner, stream) = through_owner(lab, vip)?;
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

/// The owner, and packets that come in by it: one that has just come back may have said for a moment that it still owns, and clients that
/// believed it are told right within a second.
fn through_owner(lab: &Lab, vip: IpAddr) -> Result<(String, Stream)> {
    let client = &lab.clients()[usize::from(vip.is_ipv6())];
    let begin = Instant::now();
    loop {
        let owner = lab.owner(vip)?;
        let stream = Stream::over(udp_elsewhere(lab, &owner, (client, vip))?)?;
        thread::sleep(Duration::from_millis(200));
        let mac = client.neighbour(vip)?;
        if mac.as_ref() == Some(&lab.node(&owner)?.mac) {
            return Ok((owner, stream));
        }
        ensure!(
            begin.elapsed() < Duration::from_secs(20),
            "{owner} owns {vip}, and the client sends to {mac:?}"
        );
        stream.end_with_gap()?;
    }
}

fn report(figure: &str, times: Vec<Duration>, targets: Targets, is_json: bool) {
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    for ((name, share), target) in [("median", 0.5), ("p99", 0.99)].into_iter().zip(targets) {
        let value = times[((times.len() - 1) as f64 * share).ceil() as usize];
        if is_json {
            let mut line =
                serde_json::json!({"figure": format!("{figure}, {name}"), "value": value, "unit": "ms"});
            if let Some(target) = target {
                line["target"] = target.into();
                line["met"] = (value < target).into();
            }
            println!("{line}");
        } else {
            let target = target.map_or(String::new(), |target| {
                format!("target {target} ms, {}", if value < target { "met" } else { "MISSED" })
            });
            println!("{figure:<55} {name:<7} {value:>7.1} ms   {target}");
        }
    }
}
