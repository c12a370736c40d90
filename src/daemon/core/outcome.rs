//! What a round has left: what failed and comes again, what is over, and what is to be looked at
//! because of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::space::is_refused;
use super::{Backlog, Core};
use crate::fs::tree::FreeSpace;
use crate::model::check::{Check, Detector};
use crate::model::path::RelPath;
use crate::plan::failures::Failure;
use crate::plan::guard::Trust;
use crate::report::{Cause, Done, Operation, Problem};
use crate::writer::{Outcome, Requeue, Waiting};

/// How long the rest of what was found in a directory is waited for, before others are let into it.
const CONTENTS: Duration = Duration::from_millis(100);

/// A directory that is looked into no more often than that has been closed for minutes.
const LONG: Duration = Duration::from_secs(60);

/// A round of sweep work takes at least so many names, however slow the machine: what it looked at
/// and had no time for is looked at again.
const LEAST: usize = 32;

/// A round that is under way.
pub struct RoundPlan {
    pub detector: Detector,
    /// How many names it looks at.
    pub names: usize,
    /// All paths that it looks at, where something is remembered of any path.
    pub looked_at: Vec<RelPath>,
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
    /// Takes up what the round that was under way has left.
    pub(super) fn end_round(
        &mut self,
        outcome: Outcome,
        took: Duration,
        rooms: &[FreeSpace],
        now: Instant,
    ) {
        let Some(RoundPlan { detector, names, looked_at }) = self.round.take() else { return };
        let (done, again) = (outcome.done.len(), outcome.again.len());
        let left = outcome.again.iter().filter(|(_, _, again)| *again == Requeue::Now).count();
        self.stats.looked(names);
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
        if detector == Detector::Watch
            && outcome.held + outcome.waiting > 0
            && self.trust != Trust::Trusted
        {
            self.recount_soon(now);
        }
        self.apply_outcome(outcome, &looked_at, rooms, now);
    }

    fn apply_outcome(
        &mut self,
        outcome: Outcome,
        looked_at: &[RelPath],
        rooms: &[FreeSpace],
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
            match problem.refusal() {
                Some(error) if is_refused(&error, rooms) => {
                    self.defer_for_space(&problem.path, check, &error, (removed, rooms), now);
                }
                _ => self.record_failure(&problem, check, problem.failure_kind(), now),
            }
        }
        self.backlog.queue.put_back_renames(outcome.renames);
        for (path, check, again) in outcome.again {
            if again == Requeue::ChangedSinceCopy && self.watching.is_wanted() {
                // It was copied: whatever was wrong with it is over, and what it was due for is
                // done.
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
        self.note_resolved(&outcome.done, looked_at, &open, now);
        self.note_if_space_is_back(now);
        self.want_scans(outcome.scans);
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
            // The walk may yet find more in it.
            Requeue::Widen(_)
                if check.detector == Detector::Sweep
                    && (self.backlog.sweep.is_some() || self.backlog.scan.is_some()) =>
            {
                self.backlog.pending_widen.note_after_walk(path);
            }
            Requeue::Widen(why) if why.passes_soon() => {
                self.backlog.queue.push_resting(now + CONTENTS, path, check);
            }
            Requeue::Widen(_) => self.note_pending_widen(path, now),
            Requeue::Changing | Requeue::ChangedSinceCopy => {
                let problem = Problem { path, cause: Cause::Restless };
                self.record_failure(&problem, check, Failure::Restless, now);
            }
        }
    }

    /// A directory has to stay closed for now. That is worth a word when it does so for long
    /// although nothing else is to be done that may change it, or for very long.
    fn note_pending_widen(&mut self, path: RelPath, now: Instant) {
        if self.trust != Trust::Trusted {
            // What is held stays, and so does this. The walk after the next count sees to it again.
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

    /// Says of what a round has looked at, and of what has gone, that there is no problem any more.
    fn note_resolved(
        &mut self,
        done: &[Done],
        looked_at: &[RelPath],
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
        for path in looked_at.iter().chain(gone().map(|done| &done.path)) {
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

    /// Notes what failed, says it where it is new, and lets it be tried again.
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
