//! Checks that wait for a time.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::model::check::{Check, Detector};
use crate::model::path::{RelPath, within};

/// Checks that wait for a time, at most one for each path.
#[derive(Default)]
pub struct DelayQueue {
    pub by_time: BTreeMap<(Instant, u64), (RelPath, Check)>,
    /// The key of each path in `by_time`.
    pub due: BTreeMap<RelPath, (Instant, u64)>,
    /// Number of checks that the sweep asked for.
    pub of_sweep: usize,
    /// A counter that distinguishes checks of the same instant.
    count: u64,
}

impl DelayQueue {
    /// Adds a check that is due at `at`. A check that waits at the same path is merged into it, and
    /// loses its time.
    pub fn push(&mut self, at: Instant, path: RelPath, mut check: Check) {
        if let Some(waiting) = self.remove(&path) {
            check.merge(waiting);
        }
        self.count += 1;
        let key = (at, self.count);
        self.of_sweep += usize::from(check.detector == Detector::Sweep);
        self.due.insert(path.clone(), key);
        self.by_time.insert(key, (path, check));
    }

    pub fn remove(&mut self, path: &RelPath) -> Option<Check> {
        // Most of the time nothing waits. Then the path need not be searched for.
        let key = if self.due.is_empty() { None } else { self.due.remove(path) };
        let (_, check) = self.by_time.remove(&key?)?;
        self.of_sweep -= usize::from(check.detector == Detector::Sweep);
        Some(check)
    }

    /// Removes and returns the next check that is due by `now`.
    pub fn pop(&mut self, now: Instant) -> Option<(RelPath, Check)> {
        let (path, check) =
            self.by_time.first_entry().filter(|first| first.key().0 <= now)?.remove();
        self.due.remove(&path);
        self.of_sweep -= usize::from(check.detector == Detector::Sweep);
        Some((path, check))
    }

    /// Returns whether a check below `dir` passes a test.
    pub fn any_below(&self, dir: &RelPath, test: impl Fn(&Check) -> bool) -> bool {
        let below = within(&self.due, dir).filter(|(path, _)| *path != dir);
        below.filter_map(|(_, key)| self.by_time.get(key)).any(|(_, check)| test(check))
    }

    /// Returns whether any check passes a test.
    pub fn any(&self, test: impl Fn(&Check) -> bool) -> bool {
        self.by_time.values().any(|(_, check)| test(check))
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }
}
