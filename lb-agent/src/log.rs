//! The log.

use std::io::IsTerminal;

use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_subscriber::EnvFilter;

/// Lines that wait to be written: there is room for all of them from the beginning, of 32 bytes each.
const MOST_LINES: usize = 16_384;

/// The log goes to standard error until what is returned is dropped. Whoever reads it slowly keeps nobody waiting: lines that find the
/// queue full are left out. Without a filter, what `RUST_LOG` says is logged, or what changes.
pub fn log(filter: Option<&str>) -> tracing_appender::non_blocking::WorkerGuard {
    // What a request fails of is said by whoever made it.
    let quiet = |filter: &str| EnvFilter::new(format!("{filter},kube_client=off,kube_runtime=off"));
    let filter = match filter {
        Some(filter) => quiet(filter),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| quiet("info")),
    };
    let queue = NonBlockingBuilder::default().buffered_lines_limit(MOST_LINES);
    let (writer, written_at_end) = queue.finish(std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // It would say on standard error that standard error is closed, and panic.
    let log = log.log_internal_errors(false);
    log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
    written_at_end
}
