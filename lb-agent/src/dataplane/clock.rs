//! The data path's clock: jiffies, whose rate the kernel tells nobody.

use std::{
    io,
    time::{Duration, Instant},
};

use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp};

use super::error::Error;

/// The data path's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// [`lb_common::layout::Config::tick_shift`].
    pub tick_shift: u32,
    /// The tick at which the clock was measured.
    pub tick: u32,
}

/// How long jiffies are counted: long enough to tell 100 from 250 by far.
const WINDOW: Duration = Duration::from_millis(50);

/// Runs the program that returns jiffies twice, a while apart.
pub(super) fn measure(program: &mut Xdp) -> Result<Clock, Error> {
    program.load().map_err(failed)?;
    let begin = Instant::now();
    let first = jiffies(program)?;
    std::thread::sleep(WINDOW);
    let passed = jiffies(program)?.wrapping_sub(first);
    let hertz = f64::from(passed) / begin.elapsed().as_secs_f64();
    let tick_shift = shift_of(hertz);
    Ok(Clock { tick_shift, tick: first >> tick_shift })
}

/// Runs the program that returns jiffies.
pub(super) fn jiffies(program: &mut Xdp) -> Result<u32, Error> {
    let frame = [0_u8; 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    program.test_run(options).map(|result| result.return_value).map_err(failed)
}

fn failed(source: ProgramError) -> Error {
    Error::Program { program: "magnetite_clock", link: "none".to_owned(), source: Box::new(source) }
}

/// The power of two nearest to the rate: 100 → 7, 250 and 300 → 8, 1000 → 10.
fn shift_of(hertz: f64) -> u32 {
    (hertz.max(1.0).log2().round() as u32).clamp(6, 10)
}

/// `CLOCK_BOOTTIME`.
pub(super) fn boot_time() -> Result<Duration, Error> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) } != 0 {
        return Err(Error::Kernel { what: "CLOCK_BOOTTIME", source: io::Error::last_os_error() });
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::shift_of;

    #[test]
    fn every_rate_of_the_kernel_has_its_shift() {
        for (hertz, shift) in
            [(100.0, 7), (98.0, 7), (250.0, 8), (260.0, 8), (300.0, 8), (1000.0, 10), (940.0, 10)]
        {
            assert_eq!(shift_of(hertz), shift, "{hertz} Hz");
        }
    }
}
