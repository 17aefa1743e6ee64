//! A pace that is kept in small bursts: whoever wakes to say one thing says others that are due as well, for to wake costs more than to
//! say it.

use std::time::{Duration, Instant};

/// So much is said at once, and then nothing for a while: below 200 in any second.
const AT_ONCE: u32 = 9;
const WINDOW: Duration = Duration::from_millis(50);

/// What was said lately.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// So much since a moment.
    burst: Option<(Instant, u32)>,
}

impl Pace {
    /// Before when nothing more may be said, if there is such a time.
    pub fn not_before(&self) -> Option<Instant> {
        self.burst.filter(|(_, count)| *count >= AT_ONCE).map(|(since, _)| since + WINDOW)
    }

    /// Whether something may be said now.
    pub fn admits(&self, now: Instant) -> bool {
        self.not_before().is_none_or(|at| at <= now)
    }

    /// Something is said.
    pub fn count(&mut self, now: Instant) {
        self.burst = match self.burst {
            Some((since, count)) if now < since + WINDOW => Some((since, count + 1)),
            _ => Some((now, 1)),
        };
    }
}
