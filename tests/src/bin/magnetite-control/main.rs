//! What the control plane takes, beside a real API server: until a Service has its address, next to MetalLB's controller; until an endpoint
//! is in the maps; and what it costs while nothing changes.

mod addresses;
mod endpoints;
mod process;
mod report;
mod site;
mod steady;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use magnetite_tests::lab::Controller;

use addresses::{Cold, cold_start, create, delete, one_by_one};
use report::{Report, Target};
use site::{Metallb, Site};

/// How long it takes until a Service has its address, and until a changed endpoint is in the maps, on a real API server; and what node and
/// controller cost while nothing changes. MetalLB's controller is measured beside it, on the same API server's program. Needs root, and a
/// machine that does nothing else.
#[derive(Parser)]
#[command(name = "cargo xtask bench control", bin_name = "cargo xtask bench control")]
struct Arguments {
    /// One JSON object a line and figure: figure, value, unit, and target and met of those that have one.
    #[arg(long)]
    json: bool,
    /// Services, each with ten endpoints.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u16).range(1..=12_000))]
    services: u16,
    /// Services that wait for MetalLB's controller, which needs minutes for thousands: rates are compared.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=12_000))]
    metallb_services: u16,
    /// Services that are created one by one.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    creations: u16,
    /// Endpoints that come and go one by one.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u16).range(1..))]
    changes: u16,
    /// Seconds in which nothing changes.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Ours alone.
    #[arg(long)]
    without_metallb: bool,
    /// MetalLB's controller.
    #[arg(long, hide = true, conflicts_with = "without_metallb")]
    metallb: Option<PathBuf>,
}

/// Services that are created one by one beside all others.
const FURTHER: usize = 50;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let report = Report::new(arguments.json);
    report.load("at the beginning");
    let metallb = match &arguments.metallb {
        Some(program) => Some(metallb(program.clone(), &arguments, &report)?),
        None => None,
    };
    ours(&arguments, metallb.as_ref(), &report)?;
    report.load("at the end");
    Ok(())
}

/// MetalLB's controller alone; how it started cold.
fn metallb(program: PathBuf, arguments: &Arguments, report: &Report) -> Result<Cold> {
    let site = Site::up()?;
    let name = "MetalLB";
    let controller = Metallb::start(&site, &program)?;
    let times = one_by_one(&site, "one", arguments.creations.into())?;
    report.times(&format!("{name}: a Service's address"), &times, None);
    drop(controller);
    delete(&site, "one", arguments.creations.into())?;
    let services = arguments.metallb_services.into();
    create(&site, services)?;
    let (controller, cold) = cold_start(&site, services, || Metallb::start(&site, &program), Metallb::id)?;
    report_cold(name, services, &cold, report, None);
    let times = one_by_one(&site, "further", FURTHER)?;
    report.times(&format!("{name}: a further Service's address, with {services}"), &times, None);
    let used = process::Usage::of(controller.id())?;
    report.figure(
        &format!("{name}: controller with {services} Services, resident"),
        used.resident_mb(),
        "MB",
        None,
    );
    Ok(cold)
}

fn ours(arguments: &Arguments, metallb: Option<&Cold>, report: &Report) -> Result<()> {
    let mut site = Site::up()?;
    let controller = Controller::start(&site.api)?;
    let times = one_by_one(&site, "one", arguments.creations.into())?;
    report.times("a Service's address", &times, None);
    controller.terminate()?;
    delete(&site, "one", arguments.creations.into())?;

    let services = arguments.services.into();
    create(&site, services)?;
    let (controller, cold) = cold_start(&site, services, || Controller::start(&site.api), Controller::id)?;
    report_cold("cold start", services, &cold, report, Some(Target::Under(2.0)));
    if let Some(metallb) = metallb {
        let ratio = cold.rate() / metallb.rate();
        report.figure(
            "cold start: addresses per second, of MetalLB's",
            ratio,
            "times",
            Some(Target::AtLeast(5.0)),
        );
    }
    let times = one_by_one(&site, "further", FURTHER)?;
    report.times(&format!("a further Service's address, with {services}"), &times, None);
    delete(&site, "further", FURTHER)?;

    endpoints::create(&site, services)?;
    site.start_node(services)?;
    steady::wait_until_quiet(&site)?;
    let changes = endpoints::change(&site, services, arguments.changes.into())?;
    ensure!(!changes.is_empty(), "no endpoint was changed");
    endpoints::report(&changes, services, report);
    steady::wait_until_quiet(&site)?;
    steady::measure(&site, controller.id(), arguments.seconds, report)
}

fn report_cold(name: &str, services: usize, cold: &Cold, report: &Report, target: Option<Target>) {
    let figure = |what: &str| format!("{name}: {services} Services, {what}");
    report.figure(&figure("until the last has its address"), cold.wall.as_secs_f64(), "s", None);
    report.figure(&figure("addresses per second"), cold.rate(), "1/s", None);
    report.figure(&figure("CPU time of the controller"), cold.cpu.as_secs_f64(), "s", target);
}
