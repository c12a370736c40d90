//! When nothing waits any more: the summary of a sync, the guard's judgement, and what is next.

use std::time::{Duration, Instant};

use super::{Core, End};
use crate::model::check::Detector;
use crate::model::human::counted;
use crate::model::status::Held;
use crate::model::task::Task;
use crate::plan::guard::{Count, Trust, judge, log_held};
use crate::report::log_in_sync;
use crate::sweep::Summary;

/// While there is a watch, "equal" is said once nothing has happened for so long.
const QUIET: Duration = Duration::from_secs(1);

/// Open problems that are named again at each full sweep.
const STILL: usize = 20;

/// So soon is counted again after changes in a source that is doubted.
const RECOUNT: Duration = Duration::from_secs(5);

/// A walk over all that has come to its end, of which the last line is still to be written.
pub(super) struct EndedSweep {
    pub task: Task,
    pub since: Instant,
    pub summary: Summary,
    /// Whether it followed a count of its own.
    is_recount: bool,
}

/// The walk over all: a sweep or a quick scan, with what it has led to.
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

/// How far the sync has come, and what was said of it.
#[derive(Default)]
pub(super) struct SyncState {
    walk: Walk,
    /// Whether a full sweep has come to its end since the last begin or loss.
    is_complete: bool,
    /// When something was last done.
    last_action: Option<Instant>,
    /// Whether the replica was said to be equal, and nothing has happened since.
    said_equal: bool,
    /// Whether a count has been taken for the sweep that is due.
    is_counted: bool,
    /// Whether a walk over all, with what it has found, has come to an end since the begin or loss.
    has_ended_once: bool,
    /// Since when nothing is known to differ.
    equal_since: Option<Instant>,
}

impl SyncState {
    /// A walk over all begins.
    pub fn begins(&mut self, task: Task, is_recount: bool, now: Instant) {
        // A quick scan proves nothing anew, and takes nothing back.
        self.is_counted &= task == Task::Quick;
        self.is_complete &= task == Task::Quick;
        self.walk = Walk::Begun { task, since: now, is_recount };
    }

    /// It has come to its end.
    pub fn ends(&mut self, summary: Summary) -> Option<&EndedSweep> {
        if let Walk::Begun { task, since, is_recount } = self.walk {
            self.walk = Walk::Ended(EndedSweep { task, since, summary, is_recount });
        }
        self.ended()
    }

    /// Takes it where it has ended; then all that it has found was done.
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

    /// Whether it is a full one, which runs or has ended.
    pub fn is_full(&self) -> bool {
        match &self.walk {
            Walk::None => false,
            Walk::Begun { task, .. } | Walk::Ended(EndedSweep { task, .. }) => *task == Task::Full,
        }
    }

    /// Whether it follows a count of its own, and runs.
    pub fn is_recount(&self) -> bool {
        matches!(self.walk, Walk::Begun { is_recount: true, .. })
    }

    pub fn has_guard_count(&self) -> bool {
        self.is_counted
    }

    /// The roots are others now, or may be: the count is to be taken anew.
    pub fn discard_guard_count(&mut self) {
        *self =
            Self { said_equal: self.said_equal, last_action: self.last_action, ..Self::default() };
    }

    /// Something happened: "equal" is worth saying again.
    pub fn mark_active(&mut self, now: Instant) {
        self.said_equal = false;
        self.last_action = Some(now);
        self.equal_since = None;
    }

    /// Whether both trees were walked once, and what was found was done.
    pub fn has_ended_once(&self) -> bool {
        self.has_ended_once
    }

    /// Since when the walk over all runs.
    pub fn walk_since(&self) -> Option<Instant> {
        match &self.walk {
            Walk::Begun { since, .. } => Some(*since),
            Walk::None | Walk::Ended(_) => None,
        }
    }

    /// Since when nothing is known to differ; `None` while something is, or nothing is known.
    pub fn equal_since(&self) -> Option<Instant> {
        self.equal_since
    }

    pub fn set_equal(&mut self, is_equal: bool, now: Instant) {
        self.equal_since = is_equal.then(|| self.equal_since.unwrap_or(now));
    }

    /// When it will have been quiet for long enough for a word.
    pub fn quiet_at(&self) -> Option<Instant> {
        let waits = self.is_complete && !self.said_equal;
        self.last_action.filter(|_| waits).map(|last| last + QUIET)
    }
}

impl Core<'_> {
    /// Whether nothing is under way and nothing waits but what has to wait for its time. A single
    /// run also waits for what may come to rest any moment; a lasting one sweeps on.
    pub(super) fn is_settled(&self) -> bool {
        self.is_at_rest() && !(self.is_once() && self.may_come_to_rest())
    }

    /// Whether nothing is to be done or under way, save what waits after a failure.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_swept()
            && self.backlog.scan.is_none()
            && self.backlog.scans.is_empty()
            && self.backlog.crowds.is_empty()
            && !self.watching.wants_scan()
            && self.backlog.moved.is_empty()
            && self.backlog.needs_full_compare.is_empty()
            && !self.backlog.queue.has_ready(Detector::Watch)
            && self.backlog.queue.count_resting() == 0
            && self.background.is_idle
    }

    /// Whether there is something of which it is not yet known that it stays as it is.
    fn may_come_to_rest(&self) -> bool {
        self.backlog.failures.has_restless()
            || !self.backlog.pending_widen.paths().all(|path| self.backlog.failures.is_told(path))
    }

    /// Whether the replica was found to be equal: then it is worth a word once it is quiet.
    pub(super) fn is_equal(&self) -> bool {
        let is_done = self.backlog.failures.is_empty() && self.backlog.pending_widen.is_empty();
        self.is_settled() && self.sync.is_complete && is_done && !self.stats.has_left()
    }

    /// Whether no walk over all runs, and nothing that one has found waits. With a watch this
    /// comes to be also while there is always something to do; without, all has to be done.
    pub(super) fn is_swept(&self) -> bool {
        self.backlog.sweep.is_none()
            && !self.backlog.queue.has_ready(Detector::Sweep)
            && self.backlog.queue.count_sweep_names() == 0
            && self.background.is_idle_for_sweep
            && (self.watching.is_wanted()
                || (self.backlog.scan.is_none() && self.backlog.scans.is_empty()))
    }

    /// Whether a single run has swept: it waits for what was found, and no more.
    pub(super) fn has_its_sweep(&self) -> bool {
        self.is_once() && self.sync.ended().is_some()
    }

    /// Ends a sync: says what it did, and plans the next. The end of the run, for `--once`.
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
                    "stopped half-way: the source or the replica is not what it was"
                );
            }
            return self.is_once().then_some(End::Incomplete);
        }
        if self.is_once() && self.try_with_what_went(now) {
            return None;
        }
        let watching = self.watching.is_wanted();
        let ended = self.sync.take_ended(watching);
        if let Some(ended) = &ended {
            self.stats.log_swept(ended, now, self.backlog.failures.problems(), watching);
            if ended.task == Task::Full && !self.is_once() {
                self.repeat_what_is_open(ended.since);
                self.stats.log_if_long(ended.summary.took, self.config.interval);
            }
        }
        let equal = self.is_equal();
        let quiet = ended.is_some() || self.sync.quiet_at().is_none_or(|due| due <= now);
        if equal && quiet && !std::mem::replace(&mut self.sync.said_equal, true) {
            self.stats.log_effort();
            log_in_sync();
        }
        let ended = ended?;
        if ended.task == Task::Full || ended.is_recount {
            self.trust.clear_create_budget();
            self.sync.is_counted = false;
        }
        if ended.task == Task::Quick && watching {
            return None;
        }
        // An interval of a year is as good as none, where the clock cannot count that far.
        self.next_sweep =
            now.checked_add(self.config.interval).unwrap_or(now + Duration::from_secs(1 << 30));
        let end = if equal { End::Done } else { End::Incomplete };
        self.is_once().then_some(end)
    }

    /// Says once more what is still open since before a sweep, so that it does not scroll away.
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
                "{} held, since {}. If they are to go, stop this twindir, run this once, and start it again: {}",
                counted(held.deletions, "deletion is", "deletions are"),
                held.doubt,
                held.command
            );
        }
    }

    /// Something waits because the source is doubted: it may have become whole again. It is counted
    /// again, and scanned quickly, but that leaves at least as much time as the last sweep took.
    pub(super) fn recount_soon(&mut self, now: Instant) {
        let wait = RECOUNT.max(self.stats.sweep_took());
        self.backlog.next_count.get_or_insert(now + wait);
    }

    /// The guard's judgement on what was counted.
    pub(super) fn judge(&mut self, count: &Count, now: Instant) {
        self.sync.is_counted = true;
        let (before, limit) = (self.trust, self.config.max_delete);
        let occasion = before.occasion();
        let known = Count { entries: before.entries(count), ..count.clone() };
        let (trust, doubt) = match judge(&known, limit, occasion) {
            Some(doubt) => (before.shaken(count, &doubt, limit), Some(doubt)),
            None => before.restored(count),
        };
        self.trust = trust;
        if trust.told() != before.told() {
            if let Some(doubt) = doubt {
                let command = log_held(count, &doubt, (limit, occasion), &self.config.rerun);
                let deletions = count.deletions;
                self.held = Some(Held { deletions, doubt: doubt.to_string(), command });
            } else {
                self.held = None;
                tracing::info!(op = "trusted", "the source is whole again: deletions are followed");
            }
        }
        if trust != Trust::Trusted {
            self.sync.mark_active(now);
        }
    }
}
