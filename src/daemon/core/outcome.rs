//! The outcome of a round: failures and retries, resolved problems, and the checks that follow.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::space::is_out_of_space;
use super::{Backlog, Core};
use crate::fs::tree::FreeSpace;
use crate::model::check::{Check, Detector};
use crate::model::path::RelPath;
use crate::plan::failures::Failure;
use crate::plan::guard::Trust;
use crate::report::{Cause, Done, Operation, Problem};
use crate::writer::{Outcome, Requeue, Waiting};

/// The wait before a directory is checked again that cannot be widened yet, because other work in
/// it comes first.
const CONTENTS: Duration = Duration::from_millis(100);

/// The wait between two checks of a directory that has been closed for minutes.
const LONG: Duration = Duration::from_secs(60);

/// The fewest names in a round of sweep work, even on a slow machine. Names for which the round has
/// no time are observed twice.
const LEAST: usize = 32;

/// The current round.
pub struct RoundPlan {
    pub detector: Detector,
    /// Number of names that it checks.
    pub names: usize,
    /// All paths that it checks. Empty if nothing is remembered that a check may change.
    pub checked_paths: Vec<RelPath>,
}

impl Waiting for Backlog {
    fn comes_first_within(&self, dir: &RelPath, since: Option<Instant>) -> bool {
        self.queue.comes_first_within(dir, since)
    }

    fn has_failed_within(
        &self,
        dir: &RelPath,
        since: Option<Instant>,
        test: &dyn Fn(&RelPath) -> bool,
    ) -> bool {
        self.failures
            .failed_within(dir, since)
            .chain(self.queue.paths_awaiting_worker(dir))
            .any(test)
    }
}

impl Core<'_> {
    /// Applies the outcome of the current round. `took`: its duration. `free_space`: the free space
    /// after it.
    pub(super) fn end_round(
        &mut self,
        outcome: Outcome,
        took: Duration,
        free_space: &[FreeSpace],
        now: Instant,
    ) {
        let Some(RoundPlan { detector, names, checked_paths }) = self.round.take() else { return };
        let (done, again) = (outcome.done.len(), outcome.again.len());
        let left = outcome.again.iter().filter(|(_, _, again)| *again == Requeue::Now).count();
        self.stats.checked(names);
        if detector == Detector::Sweep {
            self.backlog.sweep_batch = Some(match left {
                0 => (2 * self.measure(detector).0.names).min(self.portions.sweep.names),
                left => names.saturating_sub(left).max(LEAST),
            });
        }
        tracing::debug!(
            op = "round",
            names,
            done,
            again,
            "{names} names, {done} actions, {took:.1?}"
        );
        // Also if nothing is held any more: then the source may be complete again.
        if detector == Detector::Watch && self.trust != Trust::Trusted {
            self.recount_soon(now);
        }
        self.apply_outcome(outcome, &checked_paths, free_space, now);
    }

    fn apply_outcome(
        &mut self,
        outcome: Outcome,
        checked_paths: &[RelPath],
        free_space: &[FreeSpace],
        now: Instant,
    ) {
        let removed = self.stats.removed();
        self.stats.add(&outcome, self.sync.is_full());
        if !outcome.done.is_empty() {
            self.sync.mark_active(now);
        }
        let created =
            outcome.done.iter().filter(|done| done.operation == Operation::Created).count();
        self.trust.created(created as u64);
        for (path, took) in outcome.busy {
            self.backlog.queue.cool(path, took, now);
        }
        let mut open: BTreeSet<RelPath> = outcome.open.into_iter().collect();
        for (problem, check) in outcome.problems {
            open.insert(problem.path.clone());
            match problem.out_of_space() {
                Some(error) if is_out_of_space(&error, free_space) => {
                    self.defer_for_space(&problem.path, check, &error, (removed, free_space), now);
                }
                _ => self.record_failure(&problem, check, problem.failure_kind(), now),
            }
        }
        self.backlog.queue.put_back_renames(outcome.renames);
        for (path, check, again) in outcome.again {
            if again == Requeue::ChangedSinceCopy && self.watching.is_wanted() {
                // It was copied: an earlier problem is resolved, and the check is done. The change
                // since then needs a new check.
                self.look_at(&path, Check { first: now, ..check }, now);
            } else {
                open.insert(path.clone());
                self.put_back(path, check, again, now);
            }
        }
        for (path, check) in outcome.put_off {
            if let Some(wait) = self.backlog.failures.wait(&path) {
                self.backlog.queue.push_later(now + wait, path.clone(), check);
            }
            open.insert(path);
        }
        self.note_resolved(&outcome.done, checked_paths, &open, now);
        self.note_if_space_is_back(now);
        self.want_walks(outcome.to_walk);
        self.backlog.moved.extend(outcome.moved);
        for (from, done) in outcome.done.iter().filter_map(|done| Some((done.from.as_ref()?, done)))
        {
            self.backlog.links.renamed(from, &done.path);
        }
        self.note_links(&outcome.names, now);
        self.note_updated(&outcome.done, now);
        self.note_stray_writes(&outcome.stray_writes, outcome.replaced, &outcome.names, now);
    }

    fn put_back(&mut self, path: RelPath, check: Check, again: Requeue, now: Instant) {
        match again {
            Requeue::Now | Requeue::StaleListing => self.backlog.queue.push_path(&path, check),
            Requeue::Worker => self.backlog.queue.await_worker(path, check),
            Requeue::ParentGone => {
                self.backlog.queue.push_resting(now + self.watching.rest(), path, check);
            }
            // The walk may find more entries in it.
            Requeue::Widen(_)
                if check.detector == Detector::Sweep
                    && (self.backlog.sweep.is_some() || self.backlog.partial_walk.is_some()) =>
            {
                self.backlog.pending_widen.note_after_walk(path);
            }
            Requeue::Widen(why) if why.passes_soon() => {
                self.backlog.queue.push_resting(now + CONTENTS, path, check);
            }
            Requeue::Widen(_) => self.note_pending_widen(path, now),
            Requeue::Changing | Requeue::ChangedSinceCopy => {
                let problem = Problem { path, cause: Cause::Changing };
                self.record_failure(&problem, check, Failure::Changing, now);
            }
        }
    }

    /// Notes that a directory cannot be widened yet. Reports a problem only if no pending work
    /// could change that, or if it has lasted for minutes.
    fn note_pending_widen(&mut self, path: RelPath, now: Instant) {
        if self.trust != Trust::Trusted {
            // Held deletions keep the directory closed. The walk after the next count checks it
            // again.
            return;
        }
        let wait = self.backlog.pending_widen.note(&path, now);
        let is_long = wait >= LONG;
        if (is_long || self.is_at_rest())
            && self.backlog.failures.met(&path, Failure::PendingWiden, now).tell
        {
            let problem = Problem { path, cause: Cause::PendingWiden };
            problem.log((!self.is_once()).then_some(wait));
            self.sync.mark_active(now);
        }
    }

    /// Notes the paths without a failure, and logs those that were problems. These are the checked
    /// paths that are not in `open`, and the deleted entries with everything below.
    fn note_resolved(
        &mut self,
        done: &[Done],
        checked_paths: &[RelPath],
        open: &BTreeSet<RelPath>,
        now: Instant,
    ) {
        let gone = || done.iter().filter(|done| done.operation == Operation::Removed);
        for dir in gone().filter(|done| done.entries.is_some()) {
            self.backlog.links.gone(&dir.path);
            self.backlog.pending_widen.gone(&dir.path);
            self.backlog.pending_widen.hasten_above(&dir.path, now);
            self.backlog.failures.gone(&dir.path).iter().for_each(log_resolved);
        }
        for path in checked_paths.iter().chain(gone().map(|done| &done.path)) {
            if open.contains(path) {
                continue;
            }
            self.backlog.pending_widen.over(path);
            if self.backlog.failures.is_met(path) {
                self.backlog.pending_widen.hasten_above(path, now);
            }
            if self.backlog.failures.settled(path) {
                log_resolved(path);
            }
        }
    }

    /// Notes a failure, reports it if it is new, and schedules the retry.
    pub(super) fn record_failure(
        &mut self,
        problem: &Problem,
        check: Check,
        failure: Failure,
        now: Instant,
    ) {
        let retry = self.backlog.failures.met(&problem.path, failure, now);
        self.backlog.failures.was_due(&problem.path, check.first);
        self.backlog.failures.describe(&problem.path, problem.cause.to_string());
        if retry.tell {
            problem.log((!self.is_once()).then_some(retry.after));
            self.sync.mark_active(now);
        }
        self.backlog.queue.push_later(now + retry.after, problem.path.clone(), check);
    }
}

pub(super) fn log_resolved(path: &RelPath) {
    tracing::info!(op = "resolved", path = %path, "the problem is over");
}
