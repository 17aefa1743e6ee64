//! What a process uses.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// What a process has used, and holds.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// CPU time of all its threads, also of those that have ended.
    pub cpu: Duration,
    /// Bytes of memory that are resident, and those of them that are no files. Maps are the kernel's, and in neither.
    pub resident: u64,
    /// See there.
    pub anonymous: u64,
}

impl Usage {
    /// Of a process by now.
    pub fn of(pid: u32) -> Result<Self> {
        let status = read(pid, "status")?;
        let kib = |name: &str| -> Result<u64> {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
            Ok(value.with_context(|| format!("no {name} of process {pid}"))?.parse::<u64>()? * 1024)
        };
        Ok(Self { cpu: cpu(pid)?, resident: kib("VmRSS:")?, anonymous: kib("RssAnon:")? })
    }

    /// In megabytes.
    pub fn resident_mb(&self) -> f64 {
        self.resident as f64 / 1e6
    }
}

/// CPU time of a process (proc(5): `utime` and `stime`).
fn cpu(pid: u32) -> Result<Duration> {
    let stat = read(pid, "stat")?;
    // The name, in parentheses, may have anything in it.
    let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.collect::<Result<Vec<_>, _>>()?.iter().sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("reading {path}"))
}
