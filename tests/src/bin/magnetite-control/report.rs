//! Figures: a table for people, or JSON.

use std::{fs, time::Duration};

use serde_json::json;

/// Where figures go.
pub struct Report {
    is_json: bool,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Below this.
    Under(f64),
    /// This, or more.
    AtLeast(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::Under(most) => value < most,
            Self::AtLeast(least) => value >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Under(most) => format!("under {most}"),
            Self::AtLeast(least) => format!("at least {least}"),
        }
    }
}

impl Report {
    /// Of one benchmark.
    pub fn new(is_json: bool) -> Self {
        Self { is_json }
    }

    /// Says a figure.
    pub fn figure(&self, figure: &str, value: f64, unit: &str, target: Option<Target>) {
        if self.is_json {
            let mut line = json!({"figure": figure, "value": value, "unit": unit});
            if let Some(target) = target {
                line["target"] = target.text().into();
                line["met"] = target.is_met(value).into();
            }
            println!("{line}");
            return;
        }
        let target = target.map_or(String::new(), |target| {
            format!("target {}, {}", target.text(), if target.is_met(value) { "met" } else { "MISSED" })
        });
        println!("{figure:<75} {value:>9.2} {unit:<12} {target}");
    }

    /// Says the median and the 99th percentile; the target is for the latter.
    pub fn times(&self, figure: &str, times: &[Duration], target: Option<Target>) {
        let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        for (name, share, target) in [("p50", 0.5, None), ("p99", 0.99, target)] {
            let place = (times.len().saturating_sub(1) as f64 * share).ceil() as usize;
            self.figure(
                &format!("{figure}, {name}"),
                times.get(place).copied().unwrap_or_default(),
                "ms",
                target,
            );
        }
    }

    /// Says how busy the machine is.
    pub fn load(&self, when: &str) {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
        eprintln!("bench: load of the machine {when}: {load}");
    }
}
