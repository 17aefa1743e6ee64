//! A report for people.

use std::{
    collections::BTreeSet,
    fmt::{self, Write},
    net::IpAddr,
};

use super::{
    addresses::{Announced, Change, ServiceAddresses},
    policies::NewClients,
    report::{Finding, Report},
    steps::{By, State, Step, shortened},
};
use crate::commands::table::columns;

/// A report as text.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing into a String does not fail.
    let _ = write(&mut out, report);
    out
}

/// A step in a line, as far as it is.
pub fn line(step: &Step) -> String {
    let (mark, more) = match &step.state {
        State::Done => ("done", String::new()),
        State::Todo if step.by == By::Operator => ("yours", String::new()),
        State::Todo => ("to do", String::new()),
        State::Waiting(what) => ("waiting", format!(": {what}")),
        State::Blocked(why) => ("blocked", format!(": {why}")),
        State::Whenever(left) => ("any time", format!(": {left}")),
    };
    format!("{mark:<8}  {}: {}{more}", step.name, step.what)
}

fn write(out: &mut String, report: &Report) -> fmt::Result {
    if !report.runs.is_empty() {
        writeln!(out, "MetalLB is run by {}", report.runs.join(" and "))?;
    }
    if !report.is_there {
        writeln!(
            out,
            "nothing of MetalLB's is there: no pool, and nothing of it runs in namespace {}",
            report.namespace
        )?;
    }
    findings(out, "Wrong, and not used", &report.problems)?;
    addresses(out, &report.addresses)?;
    findings(out, "Not taken over", &report.not_taken_over)?;
    findings(out, "Otherwise than with MetalLB", &report.differences)?;
    clients(out, &report.new_clients)?;
    heading(out, "Steps")?;
    for (number, step) in (1..).zip(&report.steps) {
        writeln!(out, "{number:>2}. {}", line(step))?;
        if step.state == State::Done {
            continue;
        }
        writeln!(out, "    why: {}", step.why)?;
        writeln!(out, "    without it: {}", step.without)?;
        let (shown, more) = shortened(&step.commands);
        for command in shown {
            writeln!(out, "      {command}")?;
        }
        if !more.is_empty() {
            writeln!(out, "      #{more}; -o json has them all")?;
        }
        if !step.undo.is_empty() {
            writeln!(out, "    to go back: {}", step.undo)?;
        }
    }
    Ok(())
}

fn heading(out: &mut String, title: &str) -> fmt::Result {
    let gap = if out.is_empty() { "" } else { "\n" };
    writeln!(out, "{gap}{title}")
}

fn findings(out: &mut String, title: &str, findings: &[Finding]) -> fmt::Result {
    if findings.is_empty() {
        return Ok(());
    }
    heading(out, title)?;
    for Finding { object, field, words } in findings {
        let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
        writeln!(out, "  {object}: {field}{words}")?;
    }
    Ok(())
}

fn addresses(out: &mut String, services: &[ServiceAddresses]) -> fmt::Result {
    heading(out, "Addresses")?;
    if services.is_empty() {
        return writeln!(out, "  no Service of type LoadBalancer");
    }
    let mut table = String::new();
    let rows = services.iter().map(|service| {
        let announced = match service.announced {
            Announced::Layer2 => "layer 2",
            Announced::Bgp => "BGP",
            Announced::Both => "layer 2, BGP",
            Announced::Nobody => "nobody",
        };
        let change = match service.change {
            Change::None => "same",
            Change::Gains => "gains",
            Change::Moves => "MOVES",
            Change::Loses => "LOSES",
            Change::Waits => "waits",
        };
        let pool = service.pool.clone().unwrap_or_default();
        [
            format!("  {}", service.service),
            list(&service.has),
            list(&service.gets),
            change.to_owned(),
            pool,
            announced.to_owned(),
        ]
    });
    columns(&mut table, ["  service", "has", "would have", "", "pool", "announced by"], rows)?;
    out.push_str(table.trim_start_matches('\n'));
    for service in services {
        let loss = service.loss.as_ref().map(|loss| format!("would lose {loss}"));
        for words in [loss, service.why.clone()].into_iter().flatten() {
            writeln!(out, "  {}: {words}", service.service)?;
        }
    }
    Ok(())
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(" ") }
}

fn clients(out: &mut String, services: &[NewClients]) -> fmt::Result {
    if services.is_empty() {
        return Ok(());
    }
    heading(out, "NetworkPolicies that see clients for the first time, once a Service is switched")?;
    for service in services {
        let certainty = if service.is_certain { "select" } else { "may select" };
        let lets_in: Vec<&str> = service.lets_in.iter().map(String::as_str).collect();
        let lets_in = if lets_in.is_empty() { "no network".to_owned() } else { lets_in.join(" ") };
        writeln!(
            out,
            "  Service {}: {} {certainty} its pods, and let in {lets_in} to {}",
            service.service,
            service.policies.join(", "),
            service.ports.join(", ")
        )?;
        writeln!(out, "    add to spec.ingress of one, with the networks of its clients: {}", service.add)?;
    }
    Ok(())
}
