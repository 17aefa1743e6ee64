//! The demo: what Magnetite promises, tried step by step on a cluster in network namespaces, as a table.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use comfy_table::{Cell, ColumnConstraint, ContentArrangement, Table, Width, presets::UTF8_FULL};
use magnetite_tests::{
    lab::Lab,
    scenarios::{ALL, Scenario},
};

fn main() -> ExitCode {
    let begin = Instant::now();
    let mut table = Table::new();
    table.load_preset(UTF8_FULL).set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none() {
        table.set_width(140);
    }
    table.set_header(["", "what is done", "what is expected", "what happened", ""]);
    for (column, share) in [(1, 27), (2, 27)] {
        if let Some(column) = table.column_mut(column) {
            column.set_constraint(ColumnConstraint::UpperBoundary(Width::Percentage(share)));
        }
    }
    let mut passed = 0;
    let mut failures = Vec::new();
    let mut lab = None;
    for (number, scenario) in ALL.iter().enumerate() {
        eprintln!("demo: {}/{} {}", number + 1, ALL.len(), scenario.name);
        let (has_passed, happened) = match step(&mut lab, scenario) {
            Ok(outcome) => outcome,
            Err(error) => (false, format!("{error:#}")),
        };
        if has_passed {
            passed += 1;
        } else {
            failures.push(format!("step {} failed: {}: {happened}", number + 1, scenario.name));
            // What it has left may not be what the next step expects.
            lab = None;
        }
        table.add_row([
            Cell::new(number + 1),
            Cell::new(scenario.done),
            Cell::new(scenario.expected),
            Cell::new(happened),
            Cell::new(if has_passed { "pass" } else { "FAIL" }),
        ]);
    }
    drop(lab);
    println!("{table}");
    eprintln!("demo: {} seconds", begin.elapsed().as_secs());
    // Once more below the table: of a log often only the end is kept.
    for failure in &failures {
        println!("demo: {failure}");
    }
    println!("demo: {passed} passed, {} failed, 0 skipped", failures.len());
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn step(lab: &mut Option<Lab>, scenario: &Scenario) -> Result<(bool, String)> {
    let lab = match lab {
        Some(lab) => lab,
        None => lab.insert(Lab::up()?),
    };
    let outcome = (scenario.run)(lab)?;
    Ok((outcome.has_passed(), outcome.happened()))
}
