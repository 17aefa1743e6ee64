//! What many runs come to: times as a distribution, and seeds that can be run again.

use std::time::Duration;

/// Times in milliseconds, in order.
pub struct Distribution(Vec<f64>);

impl Distribution {
    /// Of times in any order.
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut times: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// The time that this share of all is below, from 0 to 1; NaN of none.
    pub fn quantile(&self, share: f64) -> f64 {
        let place = (share * (self.0.len() as f64 - 1.0)).round() as usize;
        self.0.get(place).copied().unwrap_or(f64::NAN)
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| self.quantile(share));
        write!(f, "median {p50:.0} ms, p99 {p99:.0} ms, most {max:.0} ms of {}", self.0.len())
    }
}

/// Seeds of a test: one from the environment that failed before, or those that are asked for.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let one = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let range = one.map_or(0..count, |seed: u64| seed..seed + 1);
    range.inspect(|seed| println!("seed {seed} (SEED={seed} runs it alone)"))
}
