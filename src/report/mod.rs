//! Output: actions, problems, summaries. All of it goes through `tracing` to two writers, the
//! console and the log file. A stuck console does not stop the mirroring.

mod action;
mod advice;
mod burst;
mod console;
mod console_format;
mod format;
mod logfile;
mod notice;
mod problem;

pub use action::{Done, Entries, Operation, log_if_silent};
pub use advice::advice;
pub use console::{Console, LiveLine};
pub use format::time_of_day;
pub use logfile::RotatingFile;
pub use notice::Notice;
pub use problem::{Cause, Problem};

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::model::config::Format;
use console_format::{ConsoleLayer, LineFormat};
use format::{LocalTime, LogFormat};

/// Logs that the replica is in sync now, by the clock of the system.
///
/// `is_brief`: the work was short, so the log file omits this line.
pub fn log_in_sync(is_brief: bool) {
    let time = time_of_day(0.0);
    if is_brief {
        tracing::info!(target: BRIEF, op = "synced", "in sync as of {time}");
    } else {
        tracing::info!(op = "synced", "in sync as of {time}");
    }
}

/// The target of lines that only report the end of brief work. The log file, the journal and
/// terminals omit them, unless details are asked for.
const BRIEF: &str = "twindir::brief";

/// Returns the JSON layer: one object a line, with the keys that docs/reference.md lists.
fn json<S>()
-> fmt::Layer<S, fmt::format::JsonFields, fmt::format::Format<fmt::format::Json, LocalTime>>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_target(false)
        .with_timer(LocalTime)
}

/// The format and amount of output.
pub struct LogSettings {
    pub format: Format,
    /// -1 for warnings and errors only, 0 for actions, 1 for details.
    pub verbosity: i8,
    /// If set, the lines are the result that the user asked for. The console then drops no line
    /// before this flag is true.
    pub patient_until: Option<Arc<AtomicBool>>,
}

/// The owner of both writers. When dropped, it writes all waiting lines: drop it last.
pub struct Reporting {
    log: Option<WorkerGuard>,
    console: Console,
    /// Whether people may be watching the console: text, and not `--quiet`.
    is_watched: bool,
}

impl Reporting {
    /// Returns the live line. It is shown only on a terminal that people may be watching.
    pub fn live_line(&self) -> LiveLine {
        let console = self.is_watched && self.console.has_live_line;
        LiveLine::new(console.then(|| self.console.clone()))
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        drop(self.log.take());
        self.console.finish();
    }
}

/// Makes a filter that passes [`BRIEF`] lines only if `wanted`, and all other lines.
fn brief_if(wanted: bool) -> FilterFn<impl Fn(&tracing::Metadata<'_>) -> bool> {
    FilterFn::new(move |line: &tracing::Metadata<'_>| wanted || line.target() != BRIEF)
}

/// Number of lines that may wait for the log's disk. Then the mirroring waits too.
const WAITING_LINES: usize = 8_192;

/// Starts the reporting to the console, and to the log file if there is one.
///
/// # Panics
/// If called twice in a process.
pub fn start(settings: LogSettings, log: Option<RotatingFile>) -> Reporting {
    let details = settings.verbosity > 0;
    let is_terse = settings.verbosity == 0 && settings.patient_until.is_none();
    let format = LineFormat::of_process(is_terse);
    let keeps_brief = details || !format.is_kept();
    let console = Console::start(settings.patient_until, format);
    let is_watched = settings.format == Format::Text && settings.verbosity >= 0;
    let level = match settings.verbosity {
        ..=-1 => LevelFilter::WARN,
        0 => LevelFilter::INFO,
        1.. => LevelFilter::DEBUG,
    };
    let on_console = match settings.format {
        Format::Text => {
            let layer = ConsoleLayer(console.clone()).with_filter(level);
            layer.with_filter(brief_if(keeps_brief)).boxed()
        }
        Format::Json => json().with_writer(console.clone()).with_filter(level).boxed(),
    };
    let (writer, guard) = match log {
        Some(mut file) => {
            file.complain_to(console.clone());
            let builder =
                NonBlockingBuilder::default().lossy(false).buffered_lines_limit(WAITING_LINES);
            let (writer, guard) = builder.thread_name("twindir-log").finish(file);
            (Some(writer), Some(guard))
        }
        None => (None, None),
    };
    let level = level.max(LevelFilter::INFO);
    let in_file = writer.map(|writer| {
        let layer = match settings.format {
            Format::Text => fmt::layer().event_format(LogFormat).with_writer(writer).boxed(),
            Format::Json => json().with_writer(writer).boxed(),
        };
        layer.with_filter(level).with_filter(brief_if(details)).boxed()
    });
    let subscriber = Registry::default().with(on_console).with(in_file);
    tracing::subscriber::set_global_default(subscriber).expect("reporting is started once");
    Reporting { log: guard, console, is_watched }
}
