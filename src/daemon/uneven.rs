//! Directories that stay closed to others, since they hold what those may not see: when that is looked at again. Pure: times
//! come in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::path::RelPath;

/// The wait before they are looked into again, doubled each time up to the limit.
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5 * 60);

/// When a directory is to be looked into, and how long it waits before the next time.
struct Wait {
    /// `None` while a walk looks into it.
    due: Option<Instant>,
    next: Duration,
}

#[derive(Default)]
pub(super) struct Uneven(BTreeMap<RelPath, Wait>);

impl Uneven {
    /// Notes that a directory cannot be opened yet.
    pub fn note(&mut self, path: RelPath, now: Instant) {
        let wait = self.0.entry(path).or_insert(Wait { due: None, next: FIRST });
        if wait.due.is_none() {
            wait.due = Some(now + wait.next);
            wait.next = LAST.min(2 * wait.next);
        }
    }

    /// It is as open as it is to be.
    pub fn over(&mut self, path: &RelPath) {
        self.0.remove(path);
    }

    /// It has gone, with all below it.
    pub fn gone(&mut self, dir: &RelPath) {
        self.0.retain(|path, _| !path.is_within(dir));
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.0.values().filter_map(|wait| wait.due).min()
    }

    /// Those that are due, none below another; a walk is to look into them.
    pub fn take(&mut self, now: Instant) -> Vec<RelPath> {
        let mut taken: Vec<RelPath> = Vec::new();
        for (path, wait) in self.0.iter_mut().filter(|(_, wait)| wait.due.is_some_and(|due| due <= now)) {
            wait.due = None;
            // In their order, what lies below a directory comes after it.
            if !taken.iter().rev().any(|above| path.is_within(above)) {
                taken.push(path.clone());
            }
        }
        taken
    }

    /// A walk has looked into a directory. What it has not told of needs no further look.
    pub fn walked(&mut self, scope: &RelPath) {
        self.0.retain(|path, wait| wait.due.is_some() || !path.is_within(scope));
    }

    pub fn paths(&self) -> impl Iterator<Item = &RelPath> {
        self.0.keys()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::testing::path;

    #[test]
    fn they_are_looked_into_at_growing_distances_until_nothing_is_told_of_them() {
        let (mut uneven, begun) = (Uneven::default(), Instant::now());
        let mut now = begun;
        for round in 0..20 {
            uneven.note(path("a"), now);
            uneven.note(path("a"), now);
            let due = uneven.next_due().unwrap();
            assert_eq!(due - now, LAST.min(FIRST * 2_u32.pow(round)));
            assert!(uneven.take(now).is_empty());
            now = due;
            assert_eq!(uneven.take(now), [path("a")]);
            assert_eq!(uneven.next_due(), None);
        }
        uneven.walked(&path("b"));
        assert!(!uneven.is_empty());
        uneven.walked(&path("a"));
        assert!(uneven.is_empty());
    }

    #[test]
    fn one_walk_looks_into_all_below_a_directory() {
        let (mut uneven, now) = (Uneven::default(), Instant::now());
        for text in ["a", "a/b", "ab", "c/d"] {
            uneven.note(path(text), now);
        }
        assert_eq!(uneven.take(now + FIRST), [path("a"), path("ab"), path("c/d")]);
        uneven.note(path("a/b"), now);
        uneven.walked(&path("a"));
        assert_eq!(uneven.paths().cloned().collect::<Vec<_>>(), [path("a/b"), path("ab"), path("c/d")]);
        uneven.gone(&path("c"));
        uneven.over(&path("ab"));
        assert_eq!(uneven.paths().cloned().collect::<Vec<_>>(), [path("a/b")]);
    }
}
