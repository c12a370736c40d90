//! Renames that the watch has told of, until a round follows them. Pure: times come in.
//!
//! A hint says that what stood here stands there by now. It may be wrong, old or reversed: a round
//! sees to it that the source agrees, and both ends are looked at afterwards in any case.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use crate::model::path::RelPath;

/// Beyond so many, renames are not followed: what was renamed is copied.
const MOST: usize = 10_000;

/// An entry was renamed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rename {
    pub from: RelPath,
    pub to: RelPath,
    /// When it was told.
    pub since: Instant,
    /// Whether it is a directory, and takes all below it along.
    pub is_dir: bool,
    /// Whether it was renamed back at once, or the two have exchanged their names. Which of these,
    /// nobody tells.
    pub is_undone: bool,
    /// How often it was put back, since the source had it elsewhere already.
    pub tries: u8,
}

impl Rename {
    pub fn new(from: RelPath, to: RelPath, is_dir: bool, since: Instant) -> Self {
        Self { from, to, since, is_dir, is_undone: false, tries: 0 }
    }

    fn ends(&self) -> [&RelPath; 2] {
        [&self.from, &self.to]
    }

    fn is_reverse_of(&self, other: &Rename) -> bool {
        (&self.from, &self.to) == (&other.to, &other.from)
    }
}

/// The hints that wait, by numbers in the order of the renames. What is renamed again and again has
/// one.
#[derive(Default)]
pub struct PendingRenames {
    waiting: BTreeMap<i64, Rename>,
    next: i64,
    /// The hints that begin or end at a path, in their order.
    at: HashMap<RelPath, Vec<i64>>,
    /// The last one of a directory.
    last_dir: i64,
}

impl PendingRenames {
    pub fn push(&mut self, hint: Rename) {
        if self.waiting.len() == MOST {
            self.waiting.clear();
            self.at.clear();
        }
        let Some((number, before)) = self.last_at(&hint.from) else { return self.add(hint) };
        let is_last_at = |end: &RelPath| self.at.get(end).and_then(|at| at.last()) == Some(&number);
        // Renames of other entries than these two take the same effect before as after.
        let are_adjacent = self.are_adjacent(number, None, before.is_dir || hint.is_dir);
        if before.is_undone || !are_adjacent || !before.ends().into_iter().all(is_last_at) {
            self.add(hint);
        } else if hint.is_reverse_of(before) {
            self.undo(number, hint.is_dir);
        } else if before.to == hint.from && before.is_dir == hint.is_dir {
            let from = before.from.clone();
            self.remove(number);
            self.add(Rename { from, ..hint });
        } else {
            self.add(hint);
        }
    }

    /// Puts back one that is to be followed before all that wait.
    pub fn put_back(&mut self, hint: Rename) {
        let first = self.waiting.first_key_value().map_or(self.next, |(first, _)| *first - 1);
        for end in hint.ends() {
            self.at.entry(end.clone()).or_default().insert(0, first);
        }
        if hint.is_dir {
            self.last_dir = self.last_dir.max(first);
        }
        self.waiting.insert(first, hint);
    }

    /// A hint turns out to be a way there and back, or an exchange. Two of the same two entries
    /// undo each other.
    fn undo(&mut self, number: i64, is_dir: bool) {
        let Some(hint) = self.waiting.get_mut(&number) else { return };
        hint.is_undone = true;
        hint.is_dir |= is_dir;
        let hint = hint.clone();
        let second_last = |end| self.at.get(end).and_then(|at| at.iter().rev().nth(1)).copied();
        let [before, other] = hint.ends().map(second_last);
        let Some((before, earlier)) =
            before.and_then(|before| Some((before, self.waiting.get(&before)?)))
        else {
            return;
        };
        let are_adjacent = self.are_adjacent(before, Some(number), hint.is_dir);
        if other == Some(before) && earlier.is_undone && are_adjacent {
            self.remove(number);
            self.remove(before);
        }
    }

    /// Whether nothing that matters was renamed between `before` and `last`, the last one of all;
    /// without it, after `before`.
    fn are_adjacent(&self, before: i64, last: Option<i64>, is_dir: bool) -> bool {
        if !is_dir {
            return self.last_dir <= before;
        }
        let mut between =
            self.waiting.range(before + 1..).filter(|(number, _)| Some(**number) != last);
        between.next().is_none()
    }

    fn add(&mut self, hint: Rename) {
        self.next += 1;
        for end in hint.ends() {
            self.at.entry(end.clone()).or_default().push(self.next);
        }
        if hint.is_dir {
            self.last_dir = self.next;
        }
        self.waiting.insert(self.next, hint);
    }

    fn remove(&mut self, number: i64) {
        let Some(hint) = self.waiting.remove(&number) else { return };
        for end in hint.ends() {
            if let Some(at) = self.at.get_mut(end) {
                at.retain(|other| *other != number);
                if at.is_empty() {
                    self.at.remove(end);
                }
            }
        }
    }

    fn last_at(&self, path: &RelPath) -> Option<(i64, &Rename)> {
        let number = *self.at.get(path)?.last()?;
        Some((number, self.waiting.get(&number)?))
    }

    /// Whether a look at this path would see the traces of a rename.
    pub fn concern(&self, path: &RelPath) -> bool {
        !self.at.is_empty() && path.ancestors_and_self().any(|at| self.at.contains_key(&at))
    }

    /// Whether one waits that was told by a time.
    pub fn any_since_before(&self, time: Instant) -> bool {
        self.waiting.values().any(|rename| rename.since <= time)
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes out the first ones, so many at most. Those that wait on come along as what happened
    /// afterwards.
    pub fn take(&mut self, most: usize) -> RenameBatch {
        let all: Vec<Rename> = self.waiting.values().cloned().collect();
        let first: Vec<i64> = self.waiting.keys().take(most).copied().collect();
        for number in &first {
            self.remove(*number);
        }
        RenameBatch::of(all, first.len())
    }
}

/// Some renames in their order, as one story.
#[derive(Default)]
pub struct RenameBatch {
    hints: Vec<Rename>,
    /// So many are to be followed; the others come later.
    followed: usize,
    /// Which of them begin or end at a path, in their order.
    at: HashMap<RelPath, Vec<usize>>,
}

impl RenameBatch {
    /// All that come of these.
    #[cfg(test)]
    pub fn new(hints: impl IntoIterator<Item = Rename>) -> Self {
        let mut waiting = PendingRenames::default();
        for hint in hints {
            waiting.push(hint);
        }
        waiting.take(usize::MAX)
    }

    fn of(hints: Vec<Rename>, followed: usize) -> Self {
        let mut at = HashMap::<RelPath, Vec<usize>>::new();
        for (index, hint) in hints.iter().enumerate() {
            for end in hint.ends() {
                at.entry(end.clone()).or_default().push(index);
            }
        }
        Self { hints, followed, at }
    }

    /// Whether one that is to be followed later begins or ends at a path or above it.
    pub fn has_deferred_at(&self, path: &RelPath) -> bool {
        path.ancestors_and_self().any(|above| self.later(&above, self.followed).next().is_some())
    }

    /// Those that are to be followed.
    pub fn hints(&self) -> &[Rename] {
        &self.hints[..self.followed]
    }

    /// Where that what stands at `path` stands after the renames from `first` on; `None` where
    /// another entry has taken its name.
    pub fn last_place(&self, path: &RelPath, first: usize) -> Option<RelPath> {
        let (mut at, mut first) = (path.clone(), first);
        while let Some(index) = self.next_at(&at, first) {
            let hint = &self.hints[index];
            let moved = at.rebased(&hint.from, &hint.to);
            first = index + 1;
            if hint.is_undone {
                at = moved.or_else(|| at.rebased(&hint.to, &hint.from)).unwrap_or(at);
            } else {
                at = moved?;
            }
        }
        Some(at)
    }

    /// Whether one of the renames from `first` on goes to this path.
    pub fn fill(&self, path: &RelPath, first: usize) -> bool {
        self.later(path, first)
            .any(|index| self.hints[index].is_undone || self.hints[index].to == *path)
    }

    /// The first rename from `first` on that begins or ends at a path or above it.
    fn next_at(&self, path: &RelPath, first: usize) -> Option<usize> {
        path.ancestors_and_self().filter_map(|above| self.later(&above, first).next()).min()
    }

    fn later(&self, path: &RelPath, first: usize) -> impl Iterator<Item = usize> {
        let all = self.at.get(path).map(Vec::as_slice).unwrap_or_default();
        all[all.partition_point(|index| *index < first)..].iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::testing::path;

    fn hints(pairs: &[(&str, &str)]) -> Vec<Rename> {
        let since = Instant::now();
        pairs.iter().map(|(from, to)| Rename::new(path(from), path(to), false, since)).collect()
    }

    fn waiting(pairs: &[(&str, &str)], are_dirs: bool) -> Vec<String> {
        let mut waiting = PendingRenames::default();
        for hint in hints(pairs) {
            waiting.push(Rename { is_dir: are_dirs, ..hint });
        }
        let arrow = |hint: &Rename| if hint.is_undone { "<>" } else { ">" };
        let taken = waiting.take(usize::MAX);
        assert!(waiting.is_empty() && waiting.at.is_empty());
        taken
            .hints()
            .iter()
            .map(|hint| format!("{}{}{}", hint.from, arrow(hint), hint.to))
            .collect()
    }

    #[test]
    fn what_is_renamed_again_and_again_has_one_hint() {
        for are_dirs in [false, true] {
            let waiting = |pairs: &[(&str, &str)]| waiting(pairs, are_dirs);
            assert_eq!(waiting(&[("a", "b"), ("b", "c"), ("c", "d")]), ["a>d"]);
            assert_eq!(waiting(&[("a", "b"), ("b", "a")]), ["a<>b"]);
            assert_eq!(waiting(&[("a", "b"), ("b", "a"), ("a", "b")]), ["a<>b", "a>b"]);
            assert_eq!(waiting(&[("a", "b"), ("b", "a"), ("a", "b"), ("b", "a")]), [""; 0]);
            assert_eq!(waiting(&[("a", "b"), ("b", "a"), ("b", "a"), ("a", "b")]), [""; 0]);
            assert_eq!(waiting(&[("a", "b"), ("b", "c"), ("c", "a")]), ["a<>c"]);
            // Another entry has come to where it was, or to where it goes.
            assert_eq!(waiting(&[("a", "b"), ("x", "a"), ("b", "c")]), ["a>b", "x>a", "b>c"]);
            assert_eq!(waiting(&[("a", "t"), ("b", "a"), ("t", "b")]), ["a>t", "b>a", "t>b"]);
            assert_eq!(waiting(&[("a", "b"), ("x", "b"), ("b", "c")]), ["a>b", "x>c"]);
        }
        // What happens elsewhere does not count, unless one may lie in the other.
        let elsewhere = [("a", "b"), ("x", "y"), ("b", "c"), ("y", "z"), ("c", "a")];
        assert_eq!(waiting(&elsewhere, false), ["a<>c", "x>z"]);
        assert_eq!(waiting(&elsewhere, true).len(), 5);
        let mut exchanged = PendingRenames::default();
        for (hint, is_dir) in
            hints(&[("file", "dir"), ("dir", "file")]).into_iter().zip([false, true])
        {
            exchanged.push(Rename { is_dir, ..hint });
        }
        let exchanged = exchanged.take(9);
        assert!(
            exchanged.hints().len() == 1
                && exchanged.hints()[0].is_undone
                && exchanged.hints()[0].is_dir
        );
        let mut mixed = PendingRenames::default();
        for (hint, is_dir) in hints(&[("d/a", "d/b"), ("d", "e"), ("d/b", "d/c")])
            .into_iter()
            .zip([false, true, false])
        {
            mixed.push(Rename { is_dir, ..hint });
        }
        assert_eq!(mixed.waiting.len(), 3);
    }

    #[test]
    fn a_few_are_taken_and_what_comes_later_is_known() {
        let mut waiting = PendingRenames::default();
        for hint in hints(&[("a", "b"), ("x", "a"), ("b", "c")]) {
            waiting.push(hint);
        }
        let taken = waiting.take(1);
        assert_eq!(taken.hints(), &hints_at(&taken, &[("a", "b")]));
        assert_eq!(taken.last_place(&path("b"), 1), Some(path("c")));
        assert!(waiting.concern(&path("a")) && waiting.concern(&path("c")) && !waiting.is_empty());
        assert_eq!(waiting.take(9).hints().len(), 2);
    }

    fn hints_at(like: &RenameBatch, pairs: &[(&str, &str)]) -> Vec<Rename> {
        let since = like.hints()[0].since;
        hints(pairs).into_iter().map(|hint| Rename { since, ..hint }).collect()
    }

    #[test]
    fn a_place_is_followed_through_later_renames() {
        let end = |start: &str, pairs: &[(&str, &str)]| {
            RenameBatch::new(hints(pairs)).last_place(&path(start), 0).map(|path| path.to_string())
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
        let mut waiting = PendingRenames::default();
        for hint in hints(&[("a", "b/c")]) {
            waiting.push(hint);
        }
        for (concerned, text) in
            [(true, "a"), (true, "a/x/y"), (true, "b/c/z"), (false, "b"), (false, "ab")]
        {
            assert_eq!(waiting.concern(&path(text)), concerned, "{text}");
        }
        assert_eq!(waiting.take(9).hints().len(), 1);
        assert!(!waiting.concern(&path("a")));
    }

    #[test]
    fn too_many_hints_are_forgotten() {
        let mut waiting = PendingRenames::default();
        for number in 0..=MOST {
            waiting.push(hints(&[(&format!("a{number}"), &format!("b{number}"))]).remove(0));
        }
        assert_eq!(waiting.take(usize::MAX).hints().len(), 1);
    }
}
