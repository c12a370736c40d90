//! What goes into a round, and what comes of it.

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

/// What a round is to do.
pub struct Work {
    /// Renames, in their order. Their ends are among the looks, unless further ones concern them.
    pub moves: RenameBatch,
    pub checks: Checks,
    /// Who asked for the looks.
    pub detector: Detector,
    pub deletions: Deletions,
    /// How long the contents phase begins further tasks.
    pub budget: Option<Duration>,
    /// Files above this size, in bytes, go to a worker.
    pub big: u64,
    /// When the last full sweep began that has come to its end.
    pub swept: Option<Time>,
    /// When the round begins.
    pub now: Instant,
}

/// What waits outside of rounds and makes a directory of the replica another than the source's.
pub trait Waiting: Sync {
    /// Whether something is yet to be looked at in a directory or below: what a walk has found, or
    /// what was due by a time.
    fn comes_first_within(&self, dir: &RelPath, since: Option<Instant>) -> bool;

    /// Whether a path at a directory or below, at which something has failed, did not rest by a
    /// time, or waits for a worker, passes a test.
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

/// When a look that came to no end is to be taken up again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Requeue {
    /// As soon as there is time: the round had none left.
    Now,
    /// The same, and no lack of time: it was taken for new unseen, and something is otherwise.
    StaleListing,
    /// When a worker is free.
    Worker,
    /// After a short wait: the entry changes.
    Changing,
    /// In its turn: it was copied, and has changed since.
    ChangedSinceCopy,
    /// Once others may be let into a directory, which stays closed until then.
    Widen(WidenBlocker),
    /// After a rest: the directory has gone, and the watch has yet to tell where to.
    ParentGone,
}

/// What came of a round.
#[derive(Default)]
pub struct Outcome {
    pub done: Vec<Done>,
    pub again: Vec<(RelPath, Check, Requeue)>,
    pub problems: Vec<(Problem, Check)>,
    /// Directories below which all is to be looked at.
    pub scans: Vec<RelPath>,
    /// Directories that were renamed: what lies below should be as it was.
    pub moved: Vec<RelPath>,
    /// Files with more than one name in the source that were copied for the first time.
    pub linked: u64,
    /// Names of files that have several; where the watch asked, of all files.
    pub names: Vec<Linked>,
    /// Names of which was told that something was written, and that was not where they lead to by
    /// now.
    pub stray_writes: Vec<RelPath>,
    /// Renames that are to be followed once the watch has told where the entry went from there.
    pub renames: Vec<Rename>,
    /// Names of files that may have taken the place of others.
    pub replaced: Vec<RelPath>,
    /// Pairs of files that were read for their MD5s.
    pub hashed: u64,
    /// How long the work on files took.
    pub busy: Vec<(RelPath, Duration)>,
    /// Entries that the guard has kept from going; a directory counts as one.
    pub held: u64,
    /// New entries that wait while deletions are held.
    pub waiting: u64,
    /// Looks at what is left as it is, since its file system is no longer mounted in the source.
    pub kept: u64,
    /// What could not be looked at, in directories that another look concerns.
    pub put_off: Vec<(RelPath, Check)>,
    /// What was looked at and is not at its end: held, or in the hands of a worker or the trash
    /// thread.
    pub open: Vec<RelPath>,
    /// What is said once for each path.
    pub(super) notices: Vec<(RelPath, Notice)>,
}

impl Outcome {
    pub(super) fn absorb(&mut self, other: Outcome) {
        self.done.extend(other.done);
        self.again.extend(other.again);
        self.problems.extend(other.problems);
        self.scans.extend(other.scans);
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

    /// Changes whenever something was done, or was tried.
    pub(super) fn worked(&self) -> (usize, u64, usize) {
        (self.done.len(), self.hashed, self.again.len() + self.problems.len())
    }

    /// Notes why a look at `path` came to no end.
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

    /// Notes an entry that cannot be mirrored. That symlinks are not is said once, at the start.
    pub(super) fn name_special(&mut self, path: &RelPath, special: Special) {
        if special != Special::Symlink {
            self.notices.push((path.clone(), Notice::Special(special)));
        }
    }

    /// Notes where an entry got another mtime than its source's, since the replica cannot store
    /// that.
    pub(super) fn note_time(
        &mut self,
        path: &RelPath,
        source: &Entry,
        capabilities: &Capabilities,
    ) {
        if capabilities.moves_mtime(source) {
            self.notices.push((path.clone(), Notice::Time));
        }
    }

    /// Notes that a file's contents do not end where its size says.
    pub(super) fn note_size(&mut self, path: &RelPath) {
        self.notices.push((path.clone(), Notice::Size));
    }

    /// Notes that the guard keeps something from going.
    pub(super) fn hold(&mut self, path: &RelPath) {
        self.held += 1;
        self.open.push(path.clone());
    }

    /// Notes that something new waits while deletions are held.
    pub(super) fn wait(&mut self, path: &RelPath) {
        self.waiting += 1;
        self.open.push(path.clone());
    }

    /// Notes that what the replica has of a file system is left as it is: that was mounted at
    /// `mount`, and is no longer.
    pub(super) fn keep(&mut self, mount: RelPath, path: &RelPath) {
        self.kept += 1;
        self.open.push(path.clone());
        self.notices.push((mount, Notice::Unmounted));
    }

    /// Notes that an entry stays, where that is not for an error.
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

    /// Writes the lines of what was done.
    pub(super) fn log_done(&self) {
        self.done.iter().for_each(Done::log);
    }

    /// What was done may not be safe on the disk: it is to be looked at again.
    pub(super) fn doubt(&mut self, error: FsError) {
        for done in std::mem::take(&mut self.done) {
            let check = Check::new(Depth::Content, done.detector, done.since);
            self.record_failure(done.path, check, error.into());
        }
    }
}
