//! What twindir says: actions, Problems, summaries. Everything goes through `tracing` to two
//! writers, the console and the log file, that can neither stop nor slow the mirroring.

mod advice;
mod burst;
mod console;
mod console_format;
mod format;
mod logfile;

use crate::model::human::human_duration;
pub use advice::advice;
pub use console::{Console, LiveLine};
pub use logfile::RotatingFile;

use std::fmt as text;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use jiff::Zoned;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::fs::writeback::unseen_seconds;
use crate::model::check::{CachedDigests, Check, Detector};
use crate::model::config::Format;
use crate::model::entry::{Entry, Kind, Special, Time};
use crate::model::error::{FsError, FsErrorKind, WorkError};
use crate::model::path::{Name, RelPath, Shown};
use crate::model::reason::Reason;
use crate::plan::decide::was_copied_soon;
use crate::plan::failures::Failure;
use crate::plan::metadata::MetadataDiff;
use console_format::ConsoleLayer;
pub use format::time_of_day;
use format::{LocalTime, LogFormat};

/// What was done to an entry of the replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Created,
    Updated,
    Removed,
    Renamed,
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Created => "created",
            Operation::Updated => "updated",
            Operation::Removed => "removed",
            Operation::Renamed => "renamed",
        }
    }
}

/// How many entries a removed directory held, itself included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entries {
    pub number: u64,
    /// Whether the counting was cut short: there were at least so many.
    pub at_least: bool,
}

/// One action, done: one line in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    pub operation: Operation,
    pub path: RelPath,
    /// Where it was, if it was renamed.
    pub from: Option<RelPath>,
    pub kind: &'static str,
    /// Where a symlink leads to, as it is shown.
    pub leads_to: Option<String>,
    /// Bytes written into a file.
    pub bytes: Option<u64>,
    pub reason: Reason,
    pub detector: Detector,
    /// When it was first known that the action is due.
    pub since: Instant,
    pub entries: Option<Entries>,
    /// What differed, where the reason is metadata.
    pub differs: MetadataDiff,
}

impl Done {
    pub fn new(
        operation: Operation,
        path: RelPath,
        entry: &Entry,
        reason: Reason,
        check: &Check,
    ) -> Self {
        let is_put = matches!(operation, Operation::Created | Operation::Updated);
        Self {
            operation,
            path,
            from: None,
            kind: kind_word(&entry.kind),
            leads_to: match &entry.kind {
                Kind::Symlink(target) if is_put && reason != Reason::Metadata => {
                    Some(Shown(target).to_string())
                }
                _ => None,
            },
            bytes: None,
            reason,
            detector: check.detector,
            since: check.since,
            entries: None,
            differs: MetadataDiff::default(),
        }
    }

    /// Writes the line of a check: what a run would mend.
    pub fn log_difference(&self) {
        let reason = match self.reason {
            Reason::New => "missing",
            Reason::Removed => "extra",
            reason => reason.as_str(),
        };
        tracing::info!(op = "differs", path = %self.path, kind = self.kind, reason, differs = self.differs());
    }

    fn differs(&self) -> Option<String> {
        self.differs.any().then(|| self.differs.to_string())
    }

    /// Writes the line of what was done.
    pub fn log(&self) {
        self.write(None, Some(self.since.elapsed().as_secs_f64()));
    }

    /// Writes the line of a dry run: the same words, marked.
    pub fn log_dry(&self) {
        self.write(Some(true), None);
    }

    fn write(&self, dry_run: Option<bool>, lag: Option<f64>) {
        tracing::info!(
            dry_run,
            op = self.operation.as_str(),
            path = %self.path,
            from = self.from.as_ref().map(tracing::field::display),
            kind = self.kind,
            leads_to = self.leads_to,
            bytes = self.bytes,
            entries = self.entries.map(|entries| entries.number),
            at_least = self.entries.filter(|entries| entries.at_least).map(|_| true),
            reason = self.reason.as_str(),
            differs = self.differs(),
            detector = self.detector.as_str(),
            lag,
        );
    }
}

/// Warns of contents that differed although size and mtime agreed: nobody wrote to the file in
/// the ordinary way, so that one of the two disks may be failing. Where the watch has told of the
/// path, somebody did.
///
/// `swept`: when the last full sweep began, which found them equal. `unseen`: seconds. A quick run
/// reads a file that changed no longer than that before it was copied.
pub fn log_if_silent(
    path: &RelPath,
    evidence: &CachedDigests,
    detector: Detector,
    swept: Option<Time>,
    unseen: i64,
) {
    let CachedDigests { source, replica, verdict } = evidence;
    if (source.mtime, source.size) != (replica.mtime, replica.size)
        || verdict.same()
        || detector == Detector::Watch
    {
        return;
    }
    // It may have been written to through a mapping since it was equal.
    let since_swept =
        swept.is_some_and(|swept| source.mtime.plus_seconds(unseen_seconds()) >= swept);
    if since_swept || (unseen > 0 && was_copied_soon(source, replica, unseen)) {
        return;
    }
    tracing::warn!(
        op = "silent",
        path = %path,
        source_md5 = %verdict.source,
        source_ctime = %source.ctime,
        replica_md5 = %verdict.replica,
        replica_ctime = %replica.ctime,
        "same size and mtime, other contents: source MD5 {}, last changed {}; replica MD5 {}, last changed {}. \
         The source's counts. If nobody wrote to either file so, a disk may be failing",
        verdict.source,
        source.ctime,
        verdict.replica,
        replica.ctime,
    );
}

/// Says that the replica is equal now, by the clock of the system.
pub fn log_in_sync() {
    let time = Zoned::now().strftime("%H:%M:%S").to_string();
    tracing::info!(op = "synced", "in sync as of {time}");
}

pub fn kind_word(kind: &Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink(_) => "symlink",
        Kind::Special(_) => "special",
    }
}

/// Something that could not be done. The replica's old entry stays, and the path is looked at
/// again (I10).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub path: RelPath,
    pub cause: Cause,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    FsError(FsError),
    /// The entry did not rest for long enough to be copied or compared.
    Restless,
    /// A directory that holds what others may not see, and is to be opened to them.
    PendingWiden,
    /// The replica's file system takes it for the same name as this other one of the source.
    Collides(Name),
    /// What was removed could not be deleted to the last entry.
    Remains(FsError),
}

impl text::Display for Cause {
    fn fmt(&self, f: &mut text::Formatter<'_>) -> text::Result {
        match self {
            Self::FsError(error) => write!(f, "{error}{}", advice(error)),
            Self::Restless => f.write_str("it changes all the time while it is read"),
            Self::PendingWiden => f.write_str(
                "others are not let into it, since the replica's holds entries that the source does not have, or not so open",
            ),
            Self::Collides(other) => {
                write!(f, "the replica's file system takes this name for that of {other}")
            }
            Self::Remains(error) => {
                write!(f, "what was removed cannot be deleted: {error}{}", advice(error))
            }
        }
    }
}

impl Problem {
    /// What came of a setback, if it is one that is worth a line.
    pub fn from_work_error(path: RelPath, work_error: WorkError) -> Option<Self> {
        match work_error {
            WorkError::FsError(error) => Some(Self { path, cause: Cause::FsError(error) }),
            WorkError::Changed => Some(Self { path, cause: Cause::Restless }),
            WorkError::Cancelled => None,
        }
    }

    /// What kind of failure it is, as far as it matters for when it is tried again and told.
    pub fn failure_kind(&self) -> Failure {
        let Cause::FsError(error) = self.cause else { return Failure::Entry };
        match error.kind {
            FsErrorKind::GivesNothingBack => Failure::Stuck,
            FsErrorKind::TakesNoMetadata => Failure::StuckDir,
            _ => Failure::Entry,
        }
    }

    /// The error, where it says that the replica's file system takes nothing more for now.
    pub fn refusal(&self) -> Option<FsError> {
        match self.cause {
            Cause::FsError(error) if error.is_refusal() => Some(error),
            _ => None,
        }
    }

    /// Writes the line that says that it began, and when it is tried again, if it is.
    pub fn log(&self, retry: Option<Duration>) {
        let retry = match retry {
            Some(wait) => format!("will try again in {}", human_duration(wait)),
            None => "it is left to the next run".to_owned(),
        };
        match &self.cause {
            Cause::FsError(error) => {
                let advice = advice(error);
                tracing::error!(
                    op = "problem",
                    path = %self.path,
                    "{error}; left the replica as it was, {retry}{advice}",
                );
            }
            Cause::Collides(other) => tracing::error!(
                op = "problem",
                path = %self.path,
                "the replica's file system takes this name for that of {other}, which is mirrored instead; {retry} \
                 (rename one of them in the source)",
            ),
            Cause::Remains(error) => {
                let advice = advice(error);
                tracing::error!(
                    op = "problem",
                    path = %self.path,
                    "what lies here under a temporary name was removed and cannot be deleted: {error}; {retry}{advice}",
                );
            }
            Cause::PendingWiden => tracing::error!(
                op = "problem",
                path = %self.path,
                "others are not let into it in the replica as in the source, since there it holds entries that the source \
                 does not have, or not so open; {retry} (see the problems below it, and what is excluded there)",
            ),
            Cause::Restless => tracing::error!(
                op = "problem",
                path = %self.path,
                "it changes all the time while it is read; the replica keeps the old version whole, {retry}",
            ),
        }
    }
}

/// What is worth a line once for each path, and no problem.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Notice {
    /// The source has something there that is never mirrored.
    Special(Special),
    /// A name of the source has the form of twindir's own temporary names.
    Reserved,
    /// The source lacks a directory that the replica keeps, for the sake of excluded entries in it.
    HoldsExcluded,
    /// The file system that was mounted there in the source is no longer mounted.
    Unmounted,
    /// Its mtime is earlier or later than the replica's file system can store.
    Time,
    /// Its contents do not end where its size says.
    Size,
}

impl Notice {
    fn text(self) -> &'static str {
        match self {
            Notice::Special(special) => special.skip_reason(),
            Notice::Reserved => {
                "not mirrored: its name has the form of twindir's own temporary names"
            }
            Notice::HoldsExcluded => {
                "kept in the replica, with the entries in it that are excluded"
            }
            Notice::Unmounted => {
                "kept in the replica: the file system that held it in the source is no longer mounted (mount it again; \
                 or restart twindir, and it goes)"
            }
            Notice::Time => {
                "its mtime is earlier or later than the replica's file system can store: the nearest is stored, and compared \
                 as the same (others like it are not named)"
            }
            Notice::Size => {
                "its contents do not end where its size says: they are read to their end, and that is mirrored (others like \
                 it are not named)"
            }
        }
    }

    /// Whether one line is enough for all paths.
    pub fn is_general(self) -> bool {
        matches!(self, Notice::Time | Notice::Size)
    }

    /// Writes the line: a warning where it may be a surprise, else a note.
    pub fn log(self, path: &RelPath) {
        let text = self.text();
        match self {
            Notice::Special(_) | Notice::HoldsExcluded | Notice::Time | Notice::Size => {
                tracing::info!(op = "note", path = %path, "{text}");
            }
            Notice::Reserved | Notice::Unmounted => {
                tracing::warn!(op = "warning", path = %path, "{text}");
            }
        }
    }
}

/// One object a line, with the keys that docs/guide.md lists.
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

/// What and how much is said, and where.
pub struct LogSettings {
    pub format: Format,
    /// -1 for warnings and errors only, 0 for actions, 1 for details.
    pub verbosity: i8,
    /// Where the lines are the result that was asked for, the console is waited for until this is
    /// set.
    pub patient_until: Option<Arc<AtomicBool>>,
}

/// Keeps the writers alive; dropped last, it writes out what waits.
pub struct Reporting {
    log: Option<WorkerGuard>,
    console: Console,
    /// Whether the console is for people who watch.
    is_watched: bool,
}

impl Reporting {
    /// The live line of the terminal, where there is one that people watch.
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

/// Lines that may wait for the log's disk before the mirroring waits for it too.
const WAITING_LINES: usize = 8_192;

/// Sends all that is said to the console, and to the log file where there is one.
///
/// # Panics
/// When called twice in a process.
pub fn start(settings: LogSettings, log: Option<RotatingFile>) -> Reporting {
    let is_terse = settings.verbosity == 0 && settings.patient_until.is_none();
    let console = Console::start(settings.patient_until);
    let is_watched = settings.format == Format::Text && settings.verbosity >= 0;
    let level = match settings.verbosity {
        ..=-1 => LevelFilter::WARN,
        0 => LevelFilter::INFO,
        1.. => LevelFilter::DEBUG,
    };
    let on_console = match settings.format {
        Format::Text => ConsoleLayer::new(console.clone(), is_terse).with_filter(level).boxed(),
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
    let in_file = writer.map(|writer| match settings.format {
        Format::Text => {
            fmt::layer().event_format(LogFormat).with_writer(writer).with_filter(level).boxed()
        }
        Format::Json => json().with_writer(writer).with_filter(level).boxed(),
    });
    let subscriber = Registry::default().with(on_console).with(in_file);
    tracing::subscriber::set_global_default(subscriber).expect("reporting is started once");
    Reporting { log: guard, console, is_watched }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::{FsErrorKind, Side};

    #[test]
    fn what_an_error_does_not_prove_is_said_with_a_perhaps() {
        let advice = |kind| advice(&FsError::found("rename", Side::Replica, kind));
        for kind in [
            FsErrorKind::CrossDevice,
            FsErrorKind::Io,
            FsErrorKind::SymlinkTooLong,
            FsErrorKind::NameTooLong,
            FsErrorKind::Stale,
            FsErrorKind::Busy,
            FsErrorKind::NotEmpty,
        ] {
            assert!(advice(kind).contains("perhaps"), "{kind:?}");
        }
        assert!(advice(FsErrorKind::SymlinkTooLong).contains("target"));
        for kind in [FsErrorKind::OpensOtherDevice, FsErrorKind::HoldsMount] {
            assert!(!advice(kind).contains("perhaps"), "{kind:?}");
        }
    }
}
