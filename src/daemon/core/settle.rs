//! The end of a sync: the summary, the line `in sync`, and the plan for the next sweep. Also the
//! guard's judgement of a count.

use std::time::{Duration, Instant};

use super::{Core, End};
use crate::model::check::Detector;
use crate::model::human::counted;
use crate::model::status::Held;
use crate::model::task::Task;
use crate::plan::guard::{Count, Trust, judge, log_held};
use crate::report::log_in_sync;
use crate::sweep::Summary;

/// While there is a watch, `in sync` is logged once nothing has happened for this long.
const QUIET: Duration = Duration::from_secs(1);

/// The most open problems that are logged again after a full sweep.
const STILL: usize = 20;

/// If the work took less than this, the log file, the journal and terminals omit `in sync`, unless
/// `-v` is given.
const BRIEF: Duration = Duration::from_secs(1);

/// The least wait before a new count, after changes in a source that is not trusted.
const RECOUNT: Duration = Duration::from_secs(5);

/// A full or quick sweep that has ended. Its summary is not logged yet.
pub(super) struct EndedSweep {
    pub task: Task,
    pub since: Instant,
    /// When the walk ended. The work that it found may have ended later.
    at: Instant,
    pub summary: Summary,
    /// Whether it followed an extra count of a source that is not trusted.
    is_recount: bool,
}

/// The full or quick sweep of the current sync.
#[derive(Default)]
enum Walk {
    #[default]
    None,
    Begun {
        task: Task,
        since: Instant,
        is_recount: bool,
    },
    Ended(EndedSweep),
}

/// The progress of the sync, and what was logged of it.
#[derive(Default)]
pub(super) struct SyncState {
    walk: Walk,
    /// Whether a full sweep has ended with its work done, and since then no other one has begun and
    /// no root was lost. Without a watch, a quick sweep is enough.
    is_complete: bool,
    /// The time of the first and the last action since `in sync` was last logged.
    active: Option<[Instant; 2]>,
    /// Whether `in sync` was logged, and nothing has happened since.
    logged_in_sync: bool,
    /// Whether `in sync` was ever logged.
    was_in_sync: bool,
    /// Whether the count for the sweep that is due was made.
    is_counted: bool,
    /// Whether a sweep has ended with its work done, since the start or the loss of a root.
    has_ended_once: bool,
    /// Since when nothing is known to differ. `None` while something differs, or nothing is known.
    in_sync_since: Option<Instant>,
}

impl SyncState {
    /// Notes that a full or quick sweep begins.
    pub fn begins(&mut self, task: Task, is_recount: bool, now: Instant) {
        // A quick sweep keeps the count and the result of the last full sweep. A full one needs new
        // ones.
        self.is_counted &= task == Task::Quick;
        self.is_complete &= task == Task::Quick;
        self.walk = Walk::Begun { task, since: now, is_recount };
    }

    /// Notes that the sweep has ended. Returns it.
    pub fn ends(&mut self, summary: Summary, now: Instant) -> Option<&EndedSweep> {
        if let Walk::Begun { task, since, is_recount } = self.walk {
            self.walk = Walk::Ended(EndedSweep { task, since, at: now, summary, is_recount });
        }
        self.ended()
    }

    /// Removes the sweep if it has ended, and notes that its work is done.
    fn take_ended(&mut self, watching: bool) -> Option<EndedSweep> {
        let Walk::Ended(ended) = std::mem::take(&mut self.walk) else { return None };
        self.is_complete |= ended.task == Task::Full || !watching;
        self.has_ended_once = true;
        Some(ended)
    }

    fn ended(&self) -> Option<&EndedSweep> {
        match &self.walk {
            Walk::Ended(ended) => Some(ended),
            Walk::None | Walk::Begun { .. } => None,
        }
    }

    /// Returns whether it is a full sweep, which runs or has ended.
    pub fn is_full(&self) -> bool {
        match &self.walk {
            Walk::None => false,
            Walk::Begun { task, .. } | Walk::Ended(EndedSweep { task, .. }) => *task == Task::Full,
        }
    }

    /// Returns whether it runs, and follows an extra count.
    pub fn is_recount(&self) -> bool {
        matches!(self.walk, Walk::Begun { is_recount: true, .. })
    }

    pub fn has_guard_count(&self) -> bool {
        self.is_counted
    }

    /// Discards the count and the progress of the sync: the roots may be other directories now.
    pub fn discard_guard_count(&mut self) {
        *self = Self {
            logged_in_sync: self.logged_in_sync,
            was_in_sync: self.was_in_sync,
            active: self.active,
            ..Self::default()
        };
    }

    /// Notes that something has happened: `in sync` will be logged again.
    pub fn mark_active(&mut self, now: Instant) {
        self.logged_in_sync = false;
        self.active.get_or_insert([now, now])[1] = now;
        self.in_sync_since = None;
    }

    /// Returns the time of the last action since `in sync` was logged.
    fn last_action(&self) -> Option<Instant> {
        self.active.map(|[_, last]| last)
    }

    /// Logs that the replica is in sync.
    fn log_in_sync(&mut self) {
        let worked = self.active.take().map(|[first, last]| last.duration_since(first));
        let is_brief = self.was_in_sync && worked.is_none_or(|worked| worked < BRIEF);
        (self.logged_in_sync, self.was_in_sync) = (true, true);
        log_in_sync(is_brief);
    }

    /// Returns whether a sweep has ended with its work done, since the start or the loss of a root.
    pub fn has_ended_once(&self) -> bool {
        self.has_ended_once
    }

    /// Returns when the current sweep began.
    pub fn walk_since(&self) -> Option<Instant> {
        match &self.walk {
            Walk::Begun { since, .. } => Some(*since),
            Walk::None | Walk::Ended(_) => None,
        }
    }

    /// Returns since when nothing is known to differ. `None` while something differs, or nothing is
    /// known.
    pub fn in_sync_since(&self) -> Option<Instant> {
        self.in_sync_since
    }

    pub fn set_in_sync(&mut self, is_in_sync: bool, now: Instant) {
        self.in_sync_since = is_in_sync.then(|| self.in_sync_since.unwrap_or(now));
    }

    /// Returns when `in sync` is to be logged, if nothing happens before.
    pub fn quiet_at(&self) -> Option<Instant> {
        let waits = self.is_complete && !self.logged_in_sync;
        self.last_action().filter(|_| waits).map(|last| last + QUIET)
    }
}

impl Core<'_> {
    /// Returns whether nothing is under way, and only retries wait. A single run also waits for
    /// failures that may resolve themselves soon.
    pub(super) fn is_settled(&self) -> bool {
        self.is_at_rest() && !(self.is_once() && self.may_resolve_itself())
    }

    /// Returns whether no work is ready or under way. Retries do not count.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_swept()
            && self.backlog.partial_walk.is_none()
            && self.backlog.to_walk.is_empty()
            && self.backlog.crowds.is_empty()
            && !self.watching.wants_walk()
            && self.backlog.moved.is_empty()
            && self.backlog.needs_full_compare.is_empty()
            && !self.backlog.queue.has_ready(Detector::Watch)
            && self.backlog.queue.count_resting() == 0
            && self.background.is_idle
    }

    /// Returns whether some path may still be resolved: it keeps changing, or cannot be widened
    /// yet, and no problem was reported.
    fn may_resolve_itself(&self) -> bool {
        self.backlog.failures.has_changing()
            || !self.backlog.pending_widen.paths().all(|path| self.backlog.failures.is_told(path))
    }

    /// Returns whether the replica was found to be in sync. That is logged once nothing happens.
    pub(super) fn is_in_sync(&self) -> bool {
        let is_done = self.backlog.failures.is_empty() && self.backlog.pending_widen.is_empty();
        self.is_settled()
            && self.sync.is_complete
            && is_done
            && self.trust == Trust::Trusted
            && !self.stats.has_left()
    }

    /// Returns whether no sweep or count runs, and all that one has found is done. With a watch,
    /// this becomes true even if there is always other work. Without one, all walks must have
    /// ended.
    pub(super) fn is_swept(&self) -> bool {
        self.backlog.sweep.is_none()
            && !self.backlog.queue.has_ready(Detector::Sweep)
            && self.backlog.queue.count_sweep_names() == 0
            && self.background.is_idle_for_sweep
            && (self.watching.is_wanted()
                || (self.backlog.partial_walk.is_none() && self.backlog.to_walk.is_empty()))
    }

    /// Returns whether this is a single run whose sweep has ended. It only finishes the work that
    /// was found.
    pub(super) fn single_sweep_ended(&self) -> bool {
        self.is_once() && self.sync.ended().is_some()
    }

    /// Ends a sync if its work is done: logs the summary, and plans the next sweep. Returns the end
    /// of the run for `--once`.
    pub(super) fn finish_sync(&mut self, now: Instant) -> Option<End> {
        let settled = self.is_settled();
        let over = if self.watching.is_wanted() { self.is_swept() } else { settled };
        if !over {
            return None;
        }
        if self.is_lost {
            if self.is_once() {
                tracing::error!(
                    op = "error",
                    "stopped half-way: the source or the replica was lost or replaced"
                );
            }
            return self.is_once().then_some(End::Incomplete);
        }
        if self.is_once() && self.retry_after_deletions(now) {
            return None;
        }
        let watching = self.watching.is_wanted();
        let ended = self.sync.take_ended(watching);
        if let Some(ended) = &ended {
            // The wait for a retry does not count.
            let done = self.sync.last_action().map_or(ended.at, |last| last.max(ended.at));
            let worked = done.duration_since(ended.since);
            self.stats.log_swept(ended, worked, self.backlog.failures.problems(), watching);
            if ended.task == Task::Full && !self.is_once() {
                self.repeat_what_is_open(ended.since);
                let (interval, has_rate) = (self.config.interval, self.config.sweep_rate.is_some());
                self.stats.log_if_long(ended.summary.took, interval, has_rate);
            }
        }
        let in_sync = self.is_in_sync();
        let quiet = ended.is_some() || self.sync.quiet_at().is_none_or(|due| due <= now);
        if in_sync && quiet && !self.sync.logged_in_sync {
            self.stats.log_effort();
            self.sync.log_in_sync();
        }
        let ended = ended?;
        if self.trust != Trust::Trusted && !self.stats.has_left() && !self.is_once() {
            self.recount_soon(now);
        }
        if ended.task == Task::Full || ended.is_recount {
            self.trust.clear_create_budget();
            self.sync.is_counted = false;
        }
        if ended.task == Task::Quick && watching {
            return None;
        }
        // If the clock cannot represent the time, 34 years are as good.
        self.next_sweep =
            now.checked_add(self.config.interval).unwrap_or(now + Duration::from_secs(1 << 30));
        let end = if in_sync { End::Done } else { End::Incomplete };
        self.is_once().then_some(end)
    }

    /// Logs again the problems that are open since before a sweep, and held deletions. Otherwise
    /// they would scroll out of view.
    fn repeat_what_is_open(&self, begun: Instant) {
        let failures = &self.backlog.failures;
        for (path, what) in failures.begun_before(begun).take(STILL) {
            tracing::warn!(op = "still", path = %path, "{what}");
        }
        let more = failures.begun_before(begun).count().saturating_sub(STILL);
        if more > 0 {
            tracing::warn!(
                op = "still",
                "and {} (see --status)",
                counted(more as u64, "problem", "problems")
            );
        }
        if let Some(held) = self.held.as_ref().filter(|_| self.trust != Trust::Trusted) {
            tracing::warn!(
                op = "still",
                "{} If they are to be deleted, stop this twindir, run this once, and start it again: {}",
                held.sentence(),
                held.command
            );
        }
    }

    /// Schedules another count: deletions are held, but the source may be complete again. A quick
    /// sweep follows. The wait is at least as long as the last full sweep took.
    pub(super) fn recount_soon(&mut self, now: Instant) {
        let wait = RECOUNT.max(self.stats.sweep_took());
        self.backlog.next_count.get_or_insert(now + wait);
    }

    /// Applies the guard's judgement to a count. Logs whether deletions are held, if that has
    /// changed.
    pub(super) fn judge(&mut self, count: &Count, now: Instant) {
        self.sync.is_counted = true;
        let (before, limit) = (self.trust, self.config.max_delete);
        let occasion = before.occasion();
        let known = Count { entries: before.entries(count), ..count.clone() };
        let (trust, doubt) = match judge(&known, limit, occasion) {
            Some(doubt) => (before.after_doubt(count, &doubt, limit), Some(doubt)),
            None => before.after_clean_count(count),
        };
        self.trust = trust;
        if trust.told() != before.told() {
            if let Some(doubt) = doubt {
                let command = log_held(count, &doubt, (limit, occasion), &self.config.rerun);
                let deletions = count.deletions;
                self.held = Some(Held { deletions, doubt: doubt.to_string(), command });
            } else {
                self.held = None;
                tracing::info!(
                    op = "trusted",
                    "the source is complete again: deletions are mirrored"
                );
            }
        }
        if trust != Trust::Trusted {
            self.sync.mark_active(now);
        }
    }
}
