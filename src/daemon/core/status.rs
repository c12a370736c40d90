//! The status of the run.

use std::time::Instant;

use super::Core;
use crate::model::check::Detector;
use crate::model::status::{MOST_NAMED, OpenProblem, State, Status, WalkProgress};
use crate::model::task::Task;
use crate::plan::guard::Trust;

impl Core<'_> {
    /// Returns the status. The driver of the core adds the facts that only it knows.
    pub fn status(&self, now: Instant) -> Status {
        let age = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let next = self.next_sweep.saturating_duration_since(now);
        let problems = self.backlog.failures.problems();
        let named = self.backlog.failures.told().take(MOST_NAMED);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state: self.state(),
            has_walked: self.sync.has_ended_once(),
            in_sync: self.sync.in_sync_since().is_some(),
            in_sync_seconds: self.sync.in_sync_since().map(age),
            up_seconds: age(self.begun),
            queued: self.backlog.queue.count(),
            problems,
            open_problems: named
                .map(|(path, what)| OpenProblem { path: path.to_string(), what: what.to_owned() })
                .collect(),
            held: self.held.clone().filter(|_| self.trust != Trust::Trusted),
            last_full_sweep_seconds: self.stats.swept_at().map(age),
            next_full_sweep_seconds: (!self.is_once()
                && !self.is_lost
                && self.config.task == Task::Full
                && !self.runs_full_sweep())
            .then_some(next.as_secs_f64()),
            missed: self.stats.missed(),
            unwatched: self.watching.unwatched(),
            kept: self.stats.kept(),
            actions: self.stats.actions(),
            copied_bytes: self.stats.copied_bytes(),
            walk: self.backlog.sweep.as_ref().map(|walk| WalkProgress {
                task: walk.task,
                entries: 0,
                entries_before: self.stats.entries_before(),
                bytes: 0,
                bytes_before: self.stats.bytes_before().filter(|_| walk.task == Task::Full),
                seconds: self.sync.walk_since().map_or(0.0, age),
            }),
            ..Status::default()
        }
    }

    fn state(&self) -> State {
        let is_counting = self.backlog.sweep.as_ref().is_some_and(|walk| walk.task == Task::Count);
        if self.is_lost {
            State::Lost
        } else if is_counting {
            State::Counting
        } else if self.trust != Trust::Trusted && self.held.is_some() {
            State::Held
        } else if self.backlog.out_of_space.is_some() {
            State::OutOfSpace
        } else if self.sync.in_sync_since().is_some() {
            State::InSync
        } else if !self.sync.has_ended_once() {
            State::FirstCopy
        } else if self.has_work()
            || (self.backlog.failures.problems() == 0 && self.stats.kept() == 0)
        {
            State::Busy
        } else {
            State::Problems
        }
    }

    /// Returns whether known changes are not mirrored yet. Differences that the current full sweep
    /// may still find do not count.
    fn has_work(&self) -> bool {
        let queue = &self.backlog.queue;
        queue.has_ready(Detector::Watch)
            || queue.has_ready(Detector::Sweep)
            || queue.count_resting() > 0
            || queue.count_sweep_names() > 0
            || !self.background.is_idle
            || self.is_looking_for_changes()
            || !self.backlog.crowds.is_empty()
            || self.backlog.pending_widen.has_after_walk()
    }

    /// Returns whether any walk is due or under way, except a full sweep and the full comparison of
    /// renamed directories.
    pub(super) fn is_looking_for_changes(&self) -> bool {
        let is_quick = self.backlog.sweep.as_ref().is_some_and(|walk| walk.task != Task::Full);
        is_quick
            || self.backlog.partial_walk.is_some()
            || self.wants_partial_walk()
            || self.watching.wants_walk()
    }

    /// Notes whether the replica is in sync, and since when.
    pub(super) fn note_whether_in_sync(&mut self, now: Instant) {
        let is_in_sync = !self.is_lost
            && self.sync.has_ended_once()
            && !self.has_work()
            && self.trust == Trust::Trusted
            && self.backlog.failures.is_empty()
            && self.backlog.pending_widen.is_empty()
            && !self.stats.may_have_left();
        self.sync.set_in_sync(is_in_sync, now);
    }
}
