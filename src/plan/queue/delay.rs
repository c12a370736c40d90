//! Work that waits for a time.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::model::check::{Check, Detector};
use crate::model::path::{RelPath, within};

/// Looks that wait for their time, one a path.
#[derive(Default)]
pub struct DelayQueue {
    pub by_time: BTreeMap<(Instant, u64), (RelPath, Check)>,
    /// Where in `by_time` a path waits.
    pub due: BTreeMap<RelPath, (Instant, u64)>,
    /// How many were asked for by the sweep.
    pub of_sweep: usize,
    /// Tells apart the looks of one instant.
    count: u64,
}

impl DelayQueue {
    /// Lets a path wait until a time: it takes the place of an older one.
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
        // Most of the time nothing waits, and a path need not be hashed to know that.
        let key = if self.due.is_empty() { None } else { self.due.remove(path) };
        let (_, check) = self.by_time.remove(&key?)?;
        self.of_sweep -= usize::from(check.detector == Detector::Sweep);
        Some(check)
    }

    /// The next one that is due by `now`.
    pub fn pop(&mut self, now: Instant) -> Option<(RelPath, Check)> {
        let (path, check) =
            self.by_time.first_entry().filter(|first| first.key().0 <= now)?.remove();
        self.due.remove(&path);
        self.of_sweep -= usize::from(check.detector == Detector::Sweep);
        Some((path, check))
    }

    /// Whether one of those that wait below a directory passes a test.
    pub fn any_below(&self, dir: &RelPath, test: impl Fn(&Check) -> bool) -> bool {
        let below = within(&self.due, dir).filter(|(path, _)| *path != dir);
        below.filter_map(|(_, key)| self.by_time.get(key)).any(|(_, check)| test(check))
    }

    /// Whether one of those that wait passes a test.
    pub fn any(&self, test: impl Fn(&Check) -> bool) -> bool {
        self.by_time.values().any(|(_, check)| test(check))
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }
}
