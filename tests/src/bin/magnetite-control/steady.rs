//! What node and controller cost while nothing changes.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    process::Usage,
    report::{Report, Target},
    site::Site,
};

/// For so long nothing was written.
const QUIET: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(300);
/// Renewed all the time by whoever leads.
const LEASES: &str = "leases";
/// Of requests that write; a server-side apply has a verb of its own.
const WRITES: [&str; 5] = ["POST", "PUT", "PATCH", "APPLY", "DELETE"];

/// Waits until nobody writes to the API server, but for Leases.
pub fn wait_until_quiet(site: &Site) -> Result<()> {
    eprintln!("bench: waiting until nothing is written any more");
    let (begin, mut since, mut known) = (Instant::now(), Instant::now(), BTreeMap::new());
    while since.elapsed() < QUIET {
        thread::sleep(PAUSE);
        let mut writes = writes(site)?;
        writes.remove(LEASES);
        if writes != known {
            (since, known) = (Instant::now(), writes);
        }
        if begin.elapsed() > PATIENCE {
            bail!("something is written again and again");
        }
    }
    Ok(())
}

/// Measures for so long, and says what was seen.
pub fn measure(site: &Site, controller: u32, seconds: u64, report: &Report) -> Result<()> {
    eprintln!("bench: nothing changes for {seconds} s");
    let agent = site.node.status()?.agent.context("the agent says nothing of itself")?;
    let processes = [("node", agent.pid), ("controller", controller)];
    let usage = || -> Result<Vec<Usage>> { processes.iter().map(|(_, pid)| Usage::of(*pid)).collect() };
    let (writes_before, before, begin) = (writes(site)?, usage()?, Instant::now());
    thread::sleep(Duration::from_secs(seconds));
    let (after, elapsed, writes_after) = (usage()?, begin.elapsed(), writes(site)?);

    for (((name, _), before), after) in processes.iter().zip(&before).zip(&after) {
        let share = 100.0 * (after.cpu - before.cpu).as_secs_f64() / elapsed.as_secs_f64();
        report.figure(
            &format!("{name}: CPU while nothing changes"),
            share,
            "% of a core",
            Some(Target::Under(1.0)),
        );
        let most = Some(Target::Under(50.0));
        report.figure(&format!("{name}: resident"), after.resident_mb(), "MB", most);
        report.figure(&format!("{name}: of that, no files"), after.anonymous as f64 / 1e6, "MB", None);
    }
    report.figure("all maps of the node", agent.map_bytes as f64 / 1e6, "MB", None);
    let mut written = BTreeMap::new();
    for (resource, count) in writes_after {
        let more = count - writes_before.get(&resource).copied().unwrap_or(0);
        if more > 0 {
            written.insert(resource, more);
        }
    }
    let leases = written.remove(LEASES).unwrap_or(0);
    for (resource, count) in &written {
        eprintln!("bench: {count} writes of {resource}");
    }
    let count = written.values().sum::<u64>() as f64;
    report.figure("API writes while nothing changes", count, "", Some(Target::Under(1.0)));
    report.figure("of Leases, the API server's own among them", leases as f64, "", None);
    Ok(())
}

/// Requests that wrote something so far, by resource.
fn writes(site: &Site) -> Result<BTreeMap<String, u64>> {
    let text = site.api.with_client(|client| async move {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        Ok(client.request_text(request).await?)
    })?;
    let mut writes = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| line.split_once(&format!("{name}=\""))?.1.split('"').next();
        if label("verb").is_some_and(|verb| WRITES.contains(&verb)) {
            let (_, count) = line.rsplit_once(' ').with_context(|| format!("{line:?} has no value"))?;
            let resource = label("resource").unwrap_or_default().to_owned();
            *writes.entry(resource).or_default() += count.parse::<f64>()? as u64;
        }
    }
    Ok(writes)
}
