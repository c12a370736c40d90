//! When the replica's file system takes no more, since it is full or read-only: one line for all
//! that has to wait, and when that is tried again.

use std::time::{Duration, Instant};

use super::{Command, Core};
use crate::fs::tree::FreeSpace;
use crate::model::check::Check;
use crate::model::error::FsError;
use crate::model::error::FsErrorKind;
use crate::model::path::RelPath;
use crate::plan::failures::Failure;
use crate::report::advice;

/// How often the file system is asked whether there is more room.
const ASK: Duration = Duration::from_secs(1);

/// More than the attributes of one file take, in bytes.
const LARGEST_ATTRIBUTES: u64 = 1 << 20;

/// When it is tried again although there is not, so far as the file system tells: it tells nothing
/// of quotas, nor of room that came between the refusal and the question. What is tried in vain may
/// be many gigabytes, so the wait is doubled each time up to the limit.
const FIRST_TRY: Duration = Duration::from_secs(1);
const LAST_TRY: Duration = Duration::from_secs(60);
const LAST_TRY_OF_QUOTA: Duration = Duration::from_secs(3);

/// A file system that takes no more.
pub(super) struct OutOfSpace {
    /// What it (and that of the backups) could take when something was last refused.
    rooms: Vec<FreeSpace>,
    asked: Instant,
    tried: Instant,
    /// How long until it is tried without a sign.
    wait: Duration,
    is_quota: bool,
    /// Entries that this run had removed when it was last tried.
    removed: u64,
    /// Since when nothing waits any more. What is written to all the time may fit at one moment,
    /// and not at the next.
    over: Option<Instant>,
}

impl OutOfSpace {
    /// When it is asked whether there is more room, where something waits for that, or said that
    /// all was taken. What was refused may be held by now, and no matter of room.
    pub fn next_due(&self, is_waited_for: bool) -> Option<Instant> {
        self.over.or_else(|| is_waited_for.then_some(self.asked)).map(|since| since + ASK)
    }
}

impl Core<'_> {
    /// Notes an entry that the replica's file system does not take. `removed`: what this run had
    /// removed before the round in which it was tried. `rooms`: what could be taken after that.
    pub(super) fn defer_for_space(
        &mut self,
        path: &RelPath,
        check: Check,
        error: &FsError,
        (removed, rooms): (u64, &[FreeSpace]),
        now: Instant,
    ) {
        if self.backlog.failures.met(path, Failure::Refused, now).tell
            && self.backlog.refusal.is_none()
        {
            let advice = advice(error);
            tracing::error!(
                op = "full",
                path = %path,
                "{error}; it waits, with all else that is not taken, and the old versions stay{advice}",
            );
            self.sync.mark_active(now);
        } else {
            tracing::debug!(op = "full", path = %path, "{error}; it waits");
        }
        self.backlog.failures.describe(path, error.to_string());
        let refusal = self.backlog.refusal.get_or_insert(OutOfSpace {
            rooms: Vec::new(),
            asked: now,
            tried: now,
            wait: FIRST_TRY,
            is_quota: false,
            removed,
            over: None,
        });
        refusal.over = None;
        refusal.rooms = rooms.to_vec();
        refusal.is_quota = error.kind == FsErrorKind::OverQuota;
        self.backlog.queue.push_out_of_space(path, check);
    }

    /// Says so when all is taken that was not, and has been for a while.
    pub(super) fn note_if_space_is_back(&mut self, now: Instant) {
        let is_once = self.is_once();
        let Some(refusal) =
            self.backlog.refusal.as_mut().filter(|_| !self.backlog.failures.has_out_of_space())
        else {
            return;
        };
        let since = *refusal.over.get_or_insert(now);
        if is_once || now.duration_since(since) >= ASK {
            self.backlog.refusal = None;
            tracing::info!(op = "resolved", "all that had to wait was taken");
        }
    }

    /// Asks, now and then, whether there is more room where something has to wait for that.
    pub(super) fn check_room(&mut self, now: Instant) {
        self.note_if_space_is_back(now);
        if let Some(refusal) = &mut self.backlog.refusal
            && now >= refusal.asked + ASK
        {
            refusal.asked = now;
            self.commands.push(Command::FindRooms);
        }
    }

    /// Tries what has to wait again, now and then, and at once where there is more room.
    pub(super) fn receive_rooms(&mut self, rooms: &[FreeSpace], now: Instant) {
        let Some(refusal) = &mut self.backlog.refusal else { return };
        let is_more =
            rooms.iter().zip(&refusal.rooms).any(|(room, before)| room.has_gained_over(before));
        if is_more {
            refusal.wait = FIRST_TRY;
            self.try_refused(now);
        } else if now >= refusal.tried + refusal.wait {
            let last = if refusal.is_quota { LAST_TRY_OF_QUOTA } else { LAST_TRY };
            refusal.wait = (2 * refusal.wait).min(last);
            self.try_refused(now);
        }
    }

    /// Tries what has to wait again where this run has removed something since the last time.
    /// Whether it has.
    pub(super) fn try_with_what_went(&mut self, now: Instant) -> bool {
        let removed = self.stats.removed();
        let is_more =
            self.backlog.refusal.as_ref().is_some_and(|refusal| removed > refusal.removed);
        if is_more {
            self.try_refused(now);
        }
        is_more
    }

    fn try_refused(&mut self, now: Instant) {
        if let Some(refusal) = &mut self.backlog.refusal {
            (refusal.tried, refusal.removed) = (now, self.stats.removed());
            self.backlog.queue.wake_out_of_space();
        }
    }
}

/// Whether this answer means that the file system takes no more. One that has room says so of
/// attributes, too, if they are larger than it can store.
pub(super) fn is_refused(error: &FsError, rooms: &[FreeSpace]) -> bool {
    let has_room = |room: &FreeSpace| room.bytes >= LARGEST_ATTRIBUTES;
    !(error.kind == FsErrorKind::NoSpaceForXattrs && rooms.first().is_some_and(has_room))
}
