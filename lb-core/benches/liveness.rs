//! Liveness in simulated clusters of the real state machine: how fast a death is known, how often a verdict is wrong, what it costs.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use lb_core::liveness::{Condition, Profile};
use lb_sim::{Cluster, Distribution, vip};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// Simulated clusters on a virtual clock; seeds are the same each time.
#[derive(Parser)]
#[command(name = "cargo xtask bench liveness", bin_name = "cargo xtask bench liveness")]
struct Arguments {
    /// One JSON object a line and figure: figure, value, unit, target, met.
    #[arg(long)]
    json: bool,
    /// Deaths of each size of cluster.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Simulated hours in which verdicts are counted.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..))]
    hours: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    for nodes in [3, 50, 500] {
        deaths(nodes, &arguments);
    }
    for nodes in [3, 50, 500] {
        cost(nodes, &arguments);
    }
    let loss = |share| move |cluster: &mut Cluster, _: &mut StdRng| cluster.faults.loss = share;
    wrong_verdicts("1 % loss", 0.0, &arguments, loss(0.01));
    wrong_verdicts("5 % loss", 1.0, &arguments, loss(0.05));
    wrong_verdicts("agents starved for 500 ms", 0.0, &arguments, |cluster, random| {
        let starved = random.random_range(0..50);
        cluster.put_to_sleep(starved);
        cluster.run_for(SECOND / 2);
        cluster.wake(starved);
    });
}

/// Owners die one after the other; of the last ones the cluster is not whole any more.
fn deaths(nodes: usize, arguments: &Arguments) {
    let deaths_each = (nodes as u64 / 10).clamp(1, 10);
    let times: [Mutex<Vec<Duration>>; 2] = Default::default();
    let note = |what: usize, time: Option<Duration>| {
        // Never in time is longer than any target.
        times[what].lock().unwrap_or_else(PoisonError::into_inner).push(time.unwrap_or(5 * SECOND));
    };
    in_parallel(arguments.runs.div_ceil(deaths_each), |seed| {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = Cluster::with_vips(nodes, 2 * deaths_each as usize, Profile::FAST, seed);
        cluster.run_for(5 * SECOND);
        for death in 0..deaths_each as usize {
            cluster.run_for(Duration::from_micros(random.random_range(0..1_000_000)));
            let Some(owner) = cluster.owners(vip(death)).first().copied() else { continue };
            let begin = cluster.elapsed();
            cluster.kill(owner);
            // A client's packets flow again when it has heard the next owner; those of others when all avoid the dead.
            let is_heard = |cluster: &Cluster| cluster.is_announced(vip(death), begin);
            note(0, cluster.run_until(5 * SECOND, is_heard));
            let all_know = |cluster: &Cluster| cluster.all_hold(owner, Condition::Silent);
            let rest = cluster.run_until(5 * SECOND, all_know);
            note(1, rest.map(|_| cluster.elapsed() - begin));
        }
    });
    let target = (nodes > 3).then_some(250.0);
    for (what, times) in ["its VIP is announced by another", "all know"].into_iter().zip(times) {
        let times = Distribution::of(times.into_inner().unwrap_or_default());
        for (name, share, target) in [("median", 0.5, None), ("p99", 0.99, target)] {
            let figure = format!("{nodes} nodes, an owner dies; until {what}, {name}");
            report(&figure, times.quantile(share), "ms", target, arguments);
        }
    }
}

fn cost(nodes: usize, arguments: &Arguments) {
    let mut cluster = Cluster::new(nodes, Profile::FAST, 1);
    cluster.run_for(20 * SECOND);
    cluster.count_anew();
    cluster.run_for(30 * SECOND);
    let packets = cluster.packets_per_node_and_second();
    report(&format!("{nodes} nodes: packets sent per node and second"), packets, "", Some(200.0), arguments);
    let bits = cluster.kilobits_per_node_and_second();
    report(&format!("{nodes} nodes: sent per node and second"), bits, "kbit", Some(200.0), arguments);
}

/// Verdicts that a leg is silent which has answered all the time, while something is wrong in each second.
fn wrong_verdicts(
    what: &str,
    target: f64,
    arguments: &Arguments,
    wrong: impl Fn(&mut Cluster, &mut StdRng) + Sync,
) {
    let (accusations, suspicions) = (AtomicU64::new(0), AtomicU64::new(0));
    in_parallel(arguments.hours, |seed| {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = Cluster::new(50, Profile::FAST, seed);
        cluster.run_for(5 * SECOND);
        let end = cluster.elapsed() + HOUR;
        while cluster.elapsed() < end {
            wrong(&mut cluster, &mut random);
            cluster.run_for(SECOND);
        }
        accusations.fetch_add(cluster.accusations(), Ordering::Relaxed);
        suspicions.fetch_add(cluster.suspicions(), Ordering::Relaxed);
    });
    let figure = format!("50 nodes, {} h, {what}: wrong verdicts", arguments.hours);
    report_up_to(&figure, accusations.into_inner() as f64, target, arguments);
    let figure = format!("50 nodes, {} h, {what}: suspicions that came to nothing", arguments.hours);
    report(&figure, suspicions.into_inner() as f64, "", None, arguments);
}

/// One seed each, on all CPUs.
fn in_parallel(seeds: u64, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    work(seed);
                    eprintln!("bench: {}/{seeds}", seed + 1);
                }
            });
        }
    });
}

/// A figure that is to be below its target.
fn report(figure: &str, value: f64, unit: &str, target: Option<f64>, arguments: &Arguments) {
    print(figure, value, unit, target.map(|target| (format!("under {target}"), value < target)), arguments);
}

/// A figure that may reach its target.
fn report_up_to(figure: &str, value: f64, target: f64, arguments: &Arguments) {
    print(figure, value, "", Some((format!("at most {target}"), value <= target)), arguments);
}

fn print(figure: &str, value: f64, unit: &str, target: Option<(String, bool)>, arguments: &Arguments) {
    if arguments.json {
        let mut line = serde_json::json!({"figure": figure, "value": value, "unit": unit});
        if let Some((target, met)) = target {
            line["target"] = target.into();
            line["met"] = met.into();
        }
        println!("{line}");
    } else {
        let target = match target {
            Some((target, true)) => format!("target {target}, met"),
            Some((target, false)) => format!("target {target}, MISSED"),
            None => String::new(),
        };
        println!("{figure:<70} {value:>8.1} {unit:<5} {target}");
    }
}
