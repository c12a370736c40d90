//! Directories that cannot be widened yet, since they hold entries that others may not see. Says
//! when they are checked again. Pure: times are arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::model::path::{RelPath, within};

/// The first wait before the next check, doubled each time, and the longest one.
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5 * 60);

/// The time of the next check of a directory, and the wait before the one after it.
struct WidenWait {
    /// `None` while a walk compares it.
    due: Option<Instant>,
    next: Duration,
}

#[derive(Default)]
pub struct PendingWiden {
    waits: BTreeMap<RelPath, WidenWait>,
    by_time: BTreeSet<(Instant, RelPath)>,
    /// Directories to be checked when the current walk has ended.
    after_walk: BTreeSet<RelPath>,
}

impl PendingWiden {
    /// Notes that a directory cannot be widened yet. Returns how long it waits from now.
    pub fn note(&mut self, path: &RelPath, now: Instant) -> Duration {
        let wait = self.waits.entry(path.clone()).or_insert(WidenWait { due: None, next: FIRST });
        let due = *wait.due.get_or_insert_with(|| {
            let due = now + wait.next;
            wait.next = LAST.min(2 * wait.next);
            self.by_time.insert((due, path.clone()));
            due
        });
        due.saturating_duration_since(now)
    }

    /// Notes that a directory is to be checked when the current walk has ended: the walk may find
    /// more in it.
    pub fn note_after_walk(&mut self, path: RelPath) {
        self.after_walk.insert(path);
    }

    /// Removes and returns the directories to be checked when a walk has ended.
    pub fn take_after_walk(&mut self) -> BTreeSet<RelPath> {
        std::mem::take(&mut self.after_walk)
    }

    /// Forgets a directory: it does not have to be widened any more.
    pub fn over(&mut self, path: &RelPath) {
        if let Some(WidenWait { due: Some(due), .. }) = self.waits.remove(path) {
            self.by_time.remove(&(due, path.clone()));
        }
    }

    /// Makes the directories above `path` due at once: the cause that kept them closed may be
    /// resolved.
    pub fn hasten_above(&mut self, path: &RelPath, now: Instant) {
        for above in
            path.ancestors_and_self().chain([RelPath::root()]).filter(|above| above != path)
        {
            let Some(wait) = self.waits.get_mut(&above) else { continue };
            wait.next = FIRST;
            if let Some(due) = wait.due.filter(|due| *due > now) {
                wait.due = Some(now);
                self.by_time.remove(&(due, above.clone()));
                self.by_time.insert((now, above));
            }
        }
    }

    /// Forgets a deleted directory, and all below it.
    pub fn gone(&mut self, dir: &RelPath) {
        let gone: Vec<_> = within(&self.waits, dir).map(|(path, _)| path.clone()).collect();
        for path in &gone {
            self.over(path);
        }
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.by_time.first().map(|(due, _)| *due)
    }

    /// Returns the directories that are due, for a walk to compare. None lies below another.
    pub fn take(&mut self, now: Instant) -> Vec<RelPath> {
        let mut taken = BTreeSet::new();
        while self.next_due().is_some_and(|due| due <= now)
            && let Some((_, path)) = self.by_time.pop_first()
        {
            if let Some(wait) = self.waits.get_mut(&path) {
                wait.due = None;
            }
            taken.insert(path);
        }
        let is_below = |path: &RelPath| {
            path.ancestors_and_self()
                .chain([RelPath::root()])
                .any(|above| above != *path && taken.contains(&above))
        };
        taken.iter().filter(|path| !is_below(path)).cloned().collect()
    }

    /// Returns the directories at `scope` and below that a walk has now compared. They have to be
    /// checked themselves now.
    pub fn walked(&self, scope: &RelPath) -> Vec<RelPath> {
        let waits = within(&self.waits, scope).filter(|(_, wait)| wait.due.is_none());
        waits.map(|(path, _)| path.clone()).collect()
    }

    pub fn paths(&self) -> impl Iterator<Item = &RelPath> {
        self.waits.keys()
    }

    /// Returns whether directories are to be checked when the current walk has ended.
    pub fn has_after_walk(&self) -> bool {
        !self.after_walk.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::testing::path;

    #[test]
    fn they_are_looked_into_at_growing_distances_until_they_are_open() {
        let (mut pending_widen, begun) = (PendingWiden::default(), Instant::now());
        let mut now = begun;
        for round in 0..20 {
            pending_widen.note(&path("a"), now);
            let wait = pending_widen.note(&path("a"), now);
            let due = pending_widen.next_due().unwrap();
            assert_eq!((due - now, wait), (wait, LAST.min(FIRST * 2_u32.pow(round))));
            assert!(pending_widen.take(now).is_empty());
            now = due;
            assert_eq!(pending_widen.take(now), [path("a")]);
            assert_eq!(pending_widen.next_due(), None);
        }
        assert!(pending_widen.walked(&path("b")).is_empty());
        assert_eq!(pending_widen.walked(&path("a")), [path("a")]);
        pending_widen.over(&path("a"));
        assert!(pending_widen.is_empty());
    }

    #[test]
    fn those_above_what_is_over_wait_no_longer() {
        let (mut pending_widen, now) = (PendingWiden::default(), Instant::now());
        let mut due = now;
        for _ in 0..10 {
            for text in ["a", "a/b", "c"] {
                pending_widen.note(&path(text), due);
            }
            due = pending_widen.next_due().unwrap();
            pending_widen.take(due);
        }
        pending_widen.note(&path("a"), due);
        pending_widen.hasten_above(&path("a/b"), now);
        pending_widen.hasten_above(&path("a/b/f"), now);
        assert_eq!(pending_widen.take(now), [path("a")]);
        for text in ["a", "a/b"] {
            assert_eq!(pending_widen.note(&path(text), now), FIRST);
        }
        assert!(pending_widen.note(&path("c"), now) > FIRST);
    }

    #[test]
    fn one_walk_looks_into_all_below_a_directory() {
        let (mut pending_widen, now) = (PendingWiden::default(), Instant::now());
        for text in ["a", "a-b", "a/b", "c/d"] {
            pending_widen.note(&path(text), now);
        }
        assert_eq!(pending_widen.take(now + FIRST), [path("a"), path("a-b"), path("c/d")]);
        pending_widen.note(&path("a/b"), now);
        assert_eq!(pending_widen.walked(&path("a")), [path("a")]);
        pending_widen.gone(&path("c"));
        pending_widen.over(&path("a-b"));
        pending_widen.over(&path("a"));
        assert_eq!(pending_widen.paths().cloned().collect::<Vec<_>>(), [path("a/b")]);
    }
}
