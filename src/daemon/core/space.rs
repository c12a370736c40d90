//! The replica or the backup is out of space: full, over its quota, or read-only. It is logged once
//! for all entries that wait, and they are retried.

use std::time::{Duration, Instant};

use super::{Command, Core};
use crate::fs::tree::FreeSpace;
use crate::model::check::Check;
use crate::model::error::{FsError, FsErrorKind, Side};
use crate::model::human::human_bytes;
use crate::model::path::RelPath;
use crate::plan::failures::Failure;
use crate::report::advice;

/// How often to ask for the free space.
const ASK: Duration = Duration::from_secs(1);

/// An upper limit for the attributes of one file, in bytes.
const LARGEST_ATTRIBUTES: u64 = 1 << 20;

/// The first wait before a retry without a sign of more space, doubled each time, and the longest
/// one: in general, and for a quota. The reported free space does not show quotas, nor space that
/// became free between the failure and the question. The waits are long because a vain try may
/// write many gigabytes.
const FIRST_TRY: Duration = Duration::from_secs(1);
const LAST_TRY: Duration = Duration::from_secs(60);
const LAST_TRY_OF_QUOTA: Duration = Duration::from_secs(3);

/// A replica or backup that is out of space.
pub(super) struct OutOfSpace {
    /// The free space of the replica and of the backups when an entry last failed.
    free_space: Vec<FreeSpace>,
    asked: Instant,
    tried: Instant,
    /// The wait before the next retry without a sign of more space.
    wait: Duration,
    is_quota: bool,
    /// Number of entries that this run had deleted at the last try.
    removed: u64,
    /// Since when no entry waits any more. A file that is written to all the time may fit at one
    /// moment and not at the next.
    over: Option<Instant>,
}

impl OutOfSpace {
    /// Returns when to ask for the free space, or to log that all entries were mirrored.
    /// `is_waited_for`: a check waits for space. Without one, the failed entries may be held by the
    /// guard.
    pub fn next_due(&self, is_waited_for: bool) -> Option<Instant> {
        self.over.or_else(|| is_waited_for.then_some(self.asked)).map(|since| since + ASK)
    }
}

impl Core<'_> {
    /// Notes an entry that is out of space. `removed`: number of entries that this run had deleted
    /// before the round of the try. `free_space`: the free space after that round.
    pub(super) fn defer_for_space(
        &mut self,
        path: &RelPath,
        check: Check,
        error: &FsError,
        (removed, free_space): (u64, &[FreeSpace]),
        now: Instant,
    ) {
        if self.backlog.failures.met(path, Failure::OutOfSpace, now).tell
            && self.backlog.out_of_space.is_none()
        {
            let (advice, free) = (advice(error), free_for(error, free_space));
            let space = match (error.needed.map(human_bytes), free.map(human_bytes)) {
                (Some(needed), Some(free)) => format!("needs {needed}, {free} are free: "),
                (None, Some(free)) => format!("{free} are free: "),
                (_, None) => String::new(),
            };
            tracing::error!(
                op = "out_of_space",
                path = %path,
                needed = error.needed,
                free,
                "{space}{error}; it waits, and so does everything else that does not fit; the old versions stay{advice}",
            );
            self.sync.mark_active(now);
        } else {
            tracing::debug!(op = "out_of_space", path = %path, "{error}; it waits");
        }
        self.backlog.failures.describe(path, error.to_string());
        let out_of_space = self.backlog.out_of_space.get_or_insert(OutOfSpace {
            free_space: Vec::new(),
            asked: now,
            tried: now,
            wait: FIRST_TRY,
            is_quota: false,
            removed,
            over: None,
        });
        out_of_space.over = None;
        out_of_space.free_space = free_space.to_vec();
        out_of_space.is_quota = error.kind == FsErrorKind::OverQuota;
        self.backlog.queue.push_out_of_space(path, check);
    }

    /// Logs that all entries were mirrored that were out of space. A permanent run waits for
    /// [`ASK`] first, in case one is out of space again.
    pub(super) fn note_if_space_is_back(&mut self, now: Instant) {
        let is_once = self.is_once();
        let Some(out_of_space) = self
            .backlog
            .out_of_space
            .as_mut()
            .filter(|_| !self.backlog.failures.has_out_of_space())
        else {
            return;
        };
        let since = *out_of_space.over.get_or_insert(now);
        if is_once || now.duration_since(since) >= ASK {
            self.backlog.out_of_space = None;
            tracing::info!(op = "resolved", "everything that had to wait is in the replica");
        }
    }

    /// Asks for the free space if an entry waits for it, and [`ASK`] has passed since the last
    /// time.
    pub(super) fn check_free_space(&mut self, now: Instant) {
        self.note_if_space_is_back(now);
        if let Some(out_of_space) = &mut self.backlog.out_of_space
            && now >= out_of_space.asked + ASK
        {
            out_of_space.asked = now;
            self.commands.push(Command::AskFreeSpace);
        }
    }

    /// Retries all entries that wait for space: at once if there is more free space, else when
    /// their wait is over.
    pub(super) fn receive_free_space(&mut self, free_space: &[FreeSpace], now: Instant) {
        let Some(out_of_space) = &mut self.backlog.out_of_space else { return };
        let is_more = free_space
            .iter()
            .zip(&out_of_space.free_space)
            .any(|(space, before)| space.has_gained_over(before));
        if is_more {
            out_of_space.wait = FIRST_TRY;
            self.retry_out_of_space(now);
        } else if now >= out_of_space.tried + out_of_space.wait {
            let last = if out_of_space.is_quota { LAST_TRY_OF_QUOTA } else { LAST_TRY };
            out_of_space.wait = (2 * out_of_space.wait).min(last);
            self.retry_out_of_space(now);
        }
    }

    /// Retries all entries that wait for space if this run has deleted entries since the last try.
    /// Returns whether it has.
    pub(super) fn retry_after_deletions(&mut self, now: Instant) -> bool {
        let removed = self.stats.removed();
        let is_more = self
            .backlog
            .out_of_space
            .as_ref()
            .is_some_and(|out_of_space| removed > out_of_space.removed);
        if is_more {
            self.retry_out_of_space(now);
        }
        is_more
    }

    fn retry_out_of_space(&mut self, now: Instant) {
        if let Some(out_of_space) = &mut self.backlog.out_of_space {
            (out_of_space.tried, out_of_space.removed) = (now, self.stats.removed());
            self.backlog.queue.wake_out_of_space();
        }
    }
}

/// Returns the free bytes where an entry failed, if it failed for lack of them. `None` for a quota,
/// which they do not show.
fn free_for(error: &FsError, free_space: &[FreeSpace]) -> Option<u64> {
    let space = free_space.get(usize::from(error.side == Side::Backup))?;
    (error.kind == FsErrorKind::NoSpace).then_some(space.bytes)
}

/// Returns whether the error means that the file system is out of space. A file system with free
/// space reports the same for attributes that are larger than it can store.
pub(super) fn is_out_of_space(error: &FsError, free_space: &[FreeSpace]) -> bool {
    let has_room = |space: &FreeSpace| space.bytes >= LARGEST_ATTRIBUTES;
    !(error.kind == FsErrorKind::NoSpaceForXattrs && free_space.first().is_some_and(has_room))
}
