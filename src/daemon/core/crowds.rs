//! Directories with too many waiting names. All names in them are checked by a walk instead. Pure:
//! times are arguments.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::model::path::RelPath;

#[derive(Default)]
pub(super) struct Crowds {
    dirs: BTreeSet<RelPath>,
    /// No walk of them starts before this time, so that they take half of the time at most.
    not_before: Option<Instant>,
}

impl Crowds {
    pub fn push(&mut self, dir: RelPath) {
        self.dirs.insert(dir);
    }

    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty()
    }

    /// Returns when to walk them; `None` if there are none.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        (!self.is_empty()).then(|| self.not_before.unwrap_or(now))
    }

    /// Removes and returns the first `most` directories.
    pub fn take(&mut self, most: usize) -> Vec<RelPath> {
        let rest = self.dirs.iter().nth(most).cloned();
        let rest = rest.map(|first| self.dirs.split_off(&first)).unwrap_or_default();
        std::mem::replace(&mut self.dirs, rest).into_iter().collect()
    }

    /// Notes how long a walk of some directories took. The next one waits as long.
    pub fn note_duration(&mut self, took: Duration, now: Instant) {
        self.not_before = Some(now + took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::testing::path;

    #[test]
    fn they_are_looked_into_half_of_the_time() {
        let (mut crowds, now) = (Crowds::default(), Instant::now());
        assert_eq!(crowds.next_due(now), None);
        for text in ["a", "b", "a", "c"] {
            crowds.push(path(text));
        }
        assert_eq!((crowds.next_due(now), crowds.take(2)), (Some(now), vec![path("a"), path("b")]));
        crowds.note_duration(Duration::from_secs(1), now);
        assert_eq!(crowds.next_due(now), Some(now + Duration::from_secs(1)));
        assert_eq!(crowds.take(2), [path("c")]);
        assert!(crowds.is_empty());
    }
}
