//! The input and the outcome of a round.

use std::time::{Duration, Instant};

use crate::model::check::{Check, Checks, Depth, Detector};
use crate::model::entry::{Entry, Special, Time};
use crate::model::error::{FsError, WorkError};
use crate::model::path::RelPath;
use crate::plan::deletions::Deletions;
use crate::plan::hard_links::Linked;
use crate::plan::metadata::Capabilities;
use crate::plan::queue::{Rename, RenameBatch};
use crate::plan::removal::Stay;
use crate::plan::widen::WidenBlocker;
use crate::report::{Done, Notice, Problem};

/// The work for one round.
pub struct Work {
    /// Renames, in their order. Their ends are among `checks`, unless later renames concern them.
    pub moves: RenameBatch,
    pub checks: Checks,
    /// The detector that asked for the checks.
    pub detector: Detector,
    pub deletions: Deletions,
    /// For how long the contents phase may begin tasks; `None` for no limit.
    pub budget: Option<Duration>,
    /// Files above this size, in bytes, are handed to a worker.
    pub big: u64,
    /// When the last completed full sweep began.
    pub swept: Option<Time>,
    /// When the round begins.
    pub now: Instant,
}

/// Work that is still pending outside rounds: until it is done, a directory of the replica may
/// differ from its source.
pub trait Waiting: Sync {
    /// Returns whether a check waits in `dir` or below that a walk has led to, or that was due by
    /// `since`.
    fn comes_first_within(&self, dir: &RelPath, since: Option<Instant>) -> bool;

    /// Returns whether `test` accepts a path at or below `dir` that has failed, waits for a worker,
    /// or was due by `since` and keeps changing.
    fn has_failed_within(
        &self,
        dir: &RelPath,
        since: Option<Instant>,
        test: &dyn Fn(&RelPath) -> bool,
    ) -> bool;
}

/// Nothing waits.
impl Waiting for () {
    fn comes_first_within(&self, _: &RelPath, _: Option<Instant>) -> bool {
        false
    }

    fn has_failed_within(
        &self,
        _: &RelPath,
        _: Option<Instant>,
        _: &dyn Fn(&RelPath) -> bool,
    ) -> bool {
        false
    }
}

/// Why a check did not complete, and when it is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Requeue {
    /// At once: the round had no time left for it.
    Now,
    /// At once: a walk has listed the entry as new, and a round has found something else.
    StaleListing,
    /// Once a worker is free.
    Worker,
    /// After a short wait: the entry is changing.
    Changing,
    /// As a new change: the entry was copied, and has changed since.
    ChangedSinceCopy,
    /// Once the directory may be widened. It stays closed until then.
    Widen(WidenBlocker),
    /// After a short wait: the directory is missing, and the watch may yet report its new name.
    ParentGone,
}

/// The outcome of a round.
#[derive(Default)]
pub struct Outcome {
    pub done: Vec<Done>,
    pub again: Vec<(RelPath, Check, Requeue)>,
    pub problems: Vec<(Problem, Check)>,
    /// Directories that a walk has to compare in full, with all below them.
    pub to_walk: Vec<RelPath>,
    /// Directories that were renamed. A quick sweep checks what is below them.
    pub moved: Vec<RelPath>,
    /// Number of created entries whose source has more than one hard link.
    pub linked: u64,
    /// Names of files that have several hard links; if the watch asked, names of all files.
    pub names: Vec<Linked>,
    /// Names for which the watch reported a write that did not change the file that has the name
    /// now.
    pub stray_writes: Vec<RelPath>,
    /// Renames to retry once the watch has reported where the entry was renamed to next.
    pub renames: Vec<Rename>,
    /// Names of files that may have replaced others.
    pub replaced: Vec<RelPath>,
    /// Number of pairs of files that were compared by MD5.
    pub hashed: u64,
    /// The time that the work on each file took.
    pub busy: Vec<(RelPath, Duration)>,
    /// Number of entries whose deletion the guard holds; a directory counts as one.
    pub held: u64,
    /// Number of new entries that wait while deletions are held.
    pub waiting: u64,
    /// Number of checks that kept an entry because its file system is no longer mounted in the
    /// source.
    pub kept: u64,
    /// Checks that were not done because the round did not open their directory. It has recorded
    /// why.
    pub put_off: Vec<(RelPath, Check)>,
    /// Paths that were checked but are not finished: held, or handed to a worker or the trash
    /// thread.
    pub open: Vec<RelPath>,
    /// Notices that are logged once for each path.
    pub(super) notices: Vec<(RelPath, Notice)>,
}

impl Outcome {
    pub(super) fn absorb(&mut self, other: Outcome) {
        self.done.extend(other.done);
        self.again.extend(other.again);
        self.problems.extend(other.problems);
        self.to_walk.extend(other.to_walk);
        self.moved.extend(other.moved);
        self.names.extend(other.names);
        self.stray_writes.extend(other.stray_writes);
        self.replaced.extend(other.replaced);
        self.busy.extend(other.busy);
        self.hashed += other.hashed;
        self.held += other.held;
        self.waiting += other.waiting;
        self.kept += other.kept;
        self.linked += other.linked;
        self.put_off.extend(other.put_off);
        self.open.extend(other.open);
        self.notices.extend(other.notices);
    }

    /// Returns numbers that change whenever something was done or tried.
    pub(super) fn worked(&self) -> (usize, u64, usize) {
        (self.done.len(), self.hashed, self.again.len() + self.problems.len())
    }

    /// Records why the check of `path` did not complete: as a retry if something has changed, as a
    /// problem if a system call has failed.
    pub(super) fn record_failure(&mut self, path: RelPath, check: Check, work_error: WorkError) {
        let again = if check.unseen_in_replica { Requeue::StaleListing } else { Requeue::Changing };
        let check = Check { unseen_in_replica: false, ..check };
        match work_error {
            WorkError::Changed => self.again.push((path, check, again)),
            WorkError::Cancelled => {}
            WorkError::FsError(_) => {
                self.problems.extend(
                    Problem::from_work_error(path, work_error).map(|problem| (problem, check)),
                );
            }
        }
    }

    /// Notes an entry that cannot be mirrored. Symlinks need no note: the start of the run logs
    /// that they are not mirrored.
    pub(super) fn note_special(&mut self, path: &RelPath, special: Special) {
        if special != Special::Symlink {
            self.notices.push((path.clone(), Notice::Special(special)));
        }
    }

    /// Notes an entry whose mtime differs from its source's, because the replica cannot store that
    /// time.
    pub(super) fn note_time(
        &mut self,
        path: &RelPath,
        source: &Entry,
        capabilities: &Capabilities,
    ) {
        if capabilities.clamps_mtime(source) {
            self.notices.push((path.clone(), Notice::Time));
        }
    }

    /// Notes that a file's contents do not end at its reported size.
    pub(super) fn note_size(&mut self, path: &RelPath) {
        self.notices.push((path.clone(), Notice::Size));
    }

    /// Notes a deletion that the guard holds.
    pub(super) fn hold(&mut self, path: &RelPath) {
        self.held += 1;
        self.open.push(path.clone());
    }

    /// Notes a new entry that waits while deletions are held.
    pub(super) fn wait(&mut self, path: &RelPath) {
        self.waiting += 1;
        self.open.push(path.clone());
    }

    /// Notes an entry that is kept because its file system, which was mounted at `mount` in the
    /// source, is no longer mounted.
    pub(super) fn keep(&mut self, mount: RelPath, path: &RelPath) {
        self.kept += 1;
        self.open.push(path.clone());
        self.notices.push((mount, Notice::Unmounted));
    }

    /// Notes why an entry stays.
    ///
    /// # Errors
    /// The reason, if it is an error.
    pub(super) fn stays(&mut self, stay: Stay, path: &RelPath) -> Result<(), WorkError> {
        match stay {
            Stay::Held => self.hold(path),
            Stay::Unmounted(mount) => self.keep(mount, path),
            Stay::FsError(error) => return Err(error.into()),
        }
        Ok(())
    }

    pub(super) fn act(&mut self, done: Done) {
        self.done.push(done);
    }

    /// Logs the actions.
    pub(super) fn log_done(&self) {
        self.done.iter().for_each(Done::log);
    }

    /// Records all actions as failed, so that they are checked again: they may not be safe on the
    /// disk.
    pub(super) fn doubt(&mut self, error: FsError) {
        for done in std::mem::take(&mut self.done) {
            let check = Check::new(Depth::Content, done.detector, done.since);
            self.record_failure(done.path, check, error.into());
        }
    }
}
