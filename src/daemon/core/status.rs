//! What somebody is told who asks how it stands.

use std::time::Instant;

use super::Core;
use crate::model::check::Detector;
use crate::model::path::shown;
use crate::model::status::{MOST_NAMED, OpenProblem, State, Status, WalkProgress};
use crate::model::task::Task;
use crate::plan::guard::Trust;

impl Core<'_> {
    /// How it stands. What is known outside of the core is for whoever drives it to add.
    pub fn status(&self, now: Instant) -> Status {
        let age = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let next = self.next_sweep.saturating_duration_since(now);
        let problems = self.backlog.failures.problems();
        let named = self.backlog.failures.told().take(MOST_NAMED);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            source: shown(&self.config.source).to_string(),
            replica: shown(&self.config.replica).to_string(),
            state: self.state(),
            has_walked: self.sync.has_ended_once(),
            in_sync: self.sync.equal_since().is_some(),
            in_sync_seconds: self.sync.equal_since().map(age),
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
                && !self.is_swept_by_clock())
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
        } else if self.backlog.refusal.is_some() {
            State::OutOfSpace
        } else if self.sync.equal_since().is_some() {
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

    /// Whether changes are known that were not followed yet, whatever a sweep may still find.
    fn has_work(&self) -> bool {
        let queue = &self.backlog.queue;
        queue.has_ready(Detector::Watch)
            || queue.has_ready(Detector::Sweep)
            || queue.count_resting() > 0
            || queue.count_sweep_names() > 0
            || !self.background.is_idle
            || self.is_scanning()
            || !self.backlog.crowds.is_empty()
            || self.backlog.pending_widen.has_after_walk()
    }

    /// Whether something looks for what is not known yet, or is to.
    pub(super) fn is_scanning(&self) -> bool {
        let rescans = self.backlog.sweep.as_ref().is_some_and(|walk| walk.task != Task::Full);
        rescans || self.backlog.scan.is_some() || self.wants_scan() || self.watching.wants_scan()
    }

    /// Notes whether anything is known to differ, since when.
    pub(super) fn note_whether_equal(&mut self, now: Instant) {
        let is_equal = !self.is_lost
            && self.sync.has_ended_once()
            && !self.has_work()
            && self.trust == Trust::Trusted
            && self.backlog.failures.is_empty()
            && self.backlog.pending_widen.is_empty()
            && !self.stats.may_have_left();
        self.sync.set_equal(is_equal, now);
    }
}
