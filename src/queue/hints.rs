//! Renames that the watch has told of, until a round follows them. Pure: times come in.
//!
//! A hint says that what stood here stands there by now. It may be wrong, old or reversed: a round
//! sees to it that the source agrees, and both ends are looked at afterwards in any case.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use crate::path::RelPath;

/// Beyond so many, renames are not followed: what was renamed is copied.
const MOST: usize = 10_000;

/// An entry was renamed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    pub from: RelPath,
    pub to: RelPath,
    /// When it was told.
    pub since: Instant,
}

/// The hints that wait, in the order of the renames.
#[derive(Default)]
pub struct Hints {
    waiting: Vec<Hint>,
    ends: HashSet<RelPath>,
}

impl Hints {
    pub fn push(&mut self, hint: Hint) {
        if self.waiting.len() == MOST {
            self.take();
        }
        self.ends.extend([hint.from.clone(), hint.to.clone()]);
        self.waiting.push(hint);
    }

    /// Whether a look at this path would see the traces of a rename.
    pub fn concern(&self, path: &RelPath) -> bool {
        !self.ends.is_empty() && path.lineage().any(|at| self.ends.contains(&at))
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn take(&mut self) -> Vec<Hint> {
        self.ends.clear();
        std::mem::take(&mut self.waiting)
    }
}

/// Some renames in their order, as one story.
pub struct Renames {
    pub hints: Vec<Hint>,
    /// Which of them begin or end at a path, in their order.
    at: HashMap<RelPath, Vec<usize>>,
}

impl Renames {
    pub fn new(hints: Vec<Hint>) -> Self {
        let mut at = HashMap::<RelPath, Vec<usize>>::new();
        for (index, hint) in hints.iter().enumerate() {
            for end in [&hint.from, &hint.to] {
                at.entry(end.clone()).or_default().push(index);
            }
        }
        Self { hints, at }
    }

    /// Whether this rename and the next are the two halves of an exchange of names, or of a way
    /// there and back.
    pub fn is_undone(&self, index: usize) -> bool {
        let hint = &self.hints[index];
        self.hints.get(index + 1).is_some_and(|next| next.from == hint.to && next.to == hint.from)
    }

    /// Where that what stands at `path` stands after the renames from `first` on; `None` where
    /// another entry has taken its name.
    pub fn last_place(&self, path: &RelPath, first: usize) -> Option<RelPath> {
        let (mut at, mut first) = (path.clone(), first);
        while let Some(index) = self.next_at(&at, first) {
            let hint = &self.hints[index];
            let moved = at.rebased(&hint.from, &hint.to);
            first = index + 1;
            if self.is_undone(index) {
                first += 1;
                at = moved.or_else(|| at.rebased(&hint.to, &hint.from)).unwrap_or(at);
            } else {
                at = moved?;
            }
        }
        Some(at)
    }

    /// Whether one of the renames from `first` on goes to this path.
    pub fn fill(&self, path: &RelPath, first: usize) -> bool {
        self.later(path, first).any(|index| self.hints[index].to == *path)
    }

    /// The first rename from `first` on that begins or ends at a path or above it.
    fn next_at(&self, path: &RelPath, first: usize) -> Option<usize> {
        path.lineage().filter_map(|above| self.later(&above, first).next()).min()
    }

    fn later(&self, path: &RelPath, first: usize) -> impl Iterator<Item = usize> {
        let all = self.at.get(path).map(Vec::as_slice).unwrap_or_default();
        all[all.partition_point(|index| *index < first)..].iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::testing::path;

    fn hints(pairs: &[(&str, &str)]) -> Vec<Hint> {
        let since = Instant::now();
        pairs.iter().map(|(from, to)| Hint { from: path(from), to: path(to), since }).collect()
    }

    #[test]
    fn a_place_is_followed_through_later_renames() {
        let end = |start: &str, pairs: &[(&str, &str)]| {
            Renames::new(hints(pairs)).last_place(&path(start), 0).map(|path| path.to_string())
        };
        assert_eq!(end("b", &[]).as_deref(), Some("b"));
        assert_eq!(end("b", &[("b", "c")]).as_deref(), Some("c"));
        assert_eq!(end("d/a", &[("d", "e")]).as_deref(), Some("e/a"));
        assert_eq!(end("t", &[("b", "a"), ("t", "b")]).as_deref(), Some("b"));
        assert_eq!(end("b", &[("x", "b")]), None);
        assert_eq!(end("b/x", &[("c", "b")]), None);
        // An exchange.
        assert_eq!(end("a", &[("a", "b"), ("b", "a")]).as_deref(), Some("b"));
        assert_eq!(end("b/x", &[("a", "b"), ("b", "a")]).as_deref(), Some("a/x"));
        assert_eq!(end("c", &[("a", "b"), ("b", "a")]).as_deref(), Some("c"));
    }

    #[test]
    fn a_look_at_an_end_or_below_it_concerns_a_hint() {
        let mut waiting = Hints::default();
        for hint in hints(&[("a", "b/c")]) {
            waiting.push(hint);
        }
        for (concerned, text) in [(true, "a"), (true, "a/x/y"), (true, "b/c/z"), (false, "b"), (false, "ab")]
        {
            assert_eq!(waiting.concern(&path(text)), concerned, "{text}");
        }
        assert_eq!(waiting.take().len(), 1);
        assert!(!waiting.concern(&path("a")));
    }

    #[test]
    fn too_many_hints_are_forgotten() {
        let mut waiting = Hints::default();
        for number in 0..=MOST {
            waiting.push(hints(&[(&format!("a{number}"), &format!("b{number}"))]).remove(0));
        }
        assert_eq!(waiting.take().len(), 1);
    }
}
