//! Actions on entries of the replica, and their log lines.

use std::time::Instant;

use crate::fs::writeback::unseen_seconds;
use crate::model::check::{CachedDigests, Check, Detector};
use crate::model::entry::{Entry, Kind, Time};
use crate::model::path::{RelPath, Shown};
use crate::model::reason::Reason;
use crate::plan::decide::was_copied_soon;
use crate::plan::metadata::MetadataDiff;

/// The kind of an action on an entry of the replica.
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

/// Number of entries in a removed directory, itself included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entries {
    pub number: u64,
    /// Whether counting was cut short: `number` is then the least possible number.
    pub at_least: bool,
}

/// One completed action: one line in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    pub operation: Operation,
    pub path: RelPath,
    /// The old path, if it was renamed.
    pub from: Option<RelPath>,
    pub kind: &'static str,
    /// The target of a created or updated symlink, escaped for display.
    pub leads_to: Option<String>,
    /// Bytes written into a file.
    pub bytes: Option<u64>,
    pub reason: Reason,
    pub detector: Detector,
    /// When the check became due that led to the action.
    pub since: Instant,
    pub entries: Option<Entries>,
    /// The metadata that differed, if the reason is metadata.
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

    /// Logs a difference that `--check` found, and that a run would correct.
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

    /// Logs the action.
    pub fn log(&self) {
        self.write(None, Some(self.since.elapsed().as_secs_f64()));
    }

    /// Logs an action that `--dry-run` did not perform: the same line, marked.
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

/// Warns if contents differ although size and mtime agree. Then nobody has written to the file in
/// the ordinary way: one of the two disks may be failing.
///
/// There is no warning if somebody may have written to the file:
/// - The watch has reported the path.
/// - The mtime is later than `swept`, or at most [`unseen_seconds`] earlier. `swept` is the start
///   of the last full sweep, which found the two equal.
/// - The file was copied at most `unseen` seconds after its last change. A quick run reads such
///   files again.
pub fn log_if_silent(
    path: &RelPath,
    cached: &CachedDigests,
    detector: Detector,
    swept: Option<Time>,
    unseen: i64,
) {
    let CachedDigests { source, replica, digests } = cached;
    if (source.mtime, source.size) != (replica.mtime, replica.size)
        || digests.same()
        || detector == Detector::Watch
    {
        return;
    }
    // A write through a mapping may have come after that sweep, without a newer mtime.
    let since_swept =
        swept.is_some_and(|swept| source.mtime.plus_seconds(unseen_seconds()) >= swept);
    if since_swept || (unseen > 0 && was_copied_soon(source, replica, unseen)) {
        return;
    }
    tracing::warn!(
        op = "silent",
        path = %path,
        source_md5 = %digests.source,
        source_ctime = %source.ctime,
        replica_md5 = %digests.replica,
        replica_ctime = %replica.ctime,
        "same size and mtime, other contents: source MD5 {}, last changed {}; replica MD5 {}, last changed {}. \
         A run copies the source's. If nobody wrote to either file in this way, a disk may be failing",
        digests.source,
        source.ctime,
        digests.replica,
        replica.ctime,
    );
}

pub fn kind_word(kind: &Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink(_) => "symlink",
        Kind::Special(_) => "special",
    }
}
