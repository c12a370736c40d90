//! Renames that the watch has reported, until a round follows them. Pure: times are arguments.
//!
//! A [`Rename`] says that an entry has moved from one path to another. It may be wrong, old or
//! reversed. A round follows it only if the source agrees. Both ends are checked afterwards in any
//! case.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use crate::model::path::RelPath;

/// The most renames that wait. One more drops them all: the renamed entries are copied instead.
const MOST: usize = 10_000;

/// A rename that the watch has reported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rename {
    pub from: RelPath,
    pub to: RelPath,
    /// When it was reported.
    pub since: Instant,
    /// Whether it is a directory, which takes everything in it along.
    pub is_dir: bool,
    /// Whether it was renamed back at once, or the two paths have exchanged their entries. The
    /// reports do not tell which.
    pub is_undone: bool,
    /// Number of times that it was put back, since the source had the entry elsewhere already.
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

/// The renames that wait, numbered in their order. Repeated renames of the same entry are joined
/// into one.
#[derive(Default)]
pub struct PendingRenames {
    waiting: BTreeMap<i64, Rename>,
    next: i64,
    /// Numbers of the renames that begin or end at a path, in their order.
    at: HashMap<RelPath, Vec<i64>>,
    /// Number of the last rename of a directory.
    last_dir: i64,
}

impl PendingRenames {
    pub fn push(&mut self, rename: Rename) {
        if self.waiting.len() == MOST {
            self.waiting.clear();
            self.at.clear();
        }
        let Some((number, before)) = self.last_at(&rename.from) else { return self.add(rename) };
        let is_last_at = |end: &RelPath| self.at.get(end).and_then(|at| at.last()) == Some(&number);
        // Renames of other entries in between do not change the result.
        let are_adjacent = self.are_adjacent(number, None, before.is_dir || rename.is_dir);
        if before.is_undone || !are_adjacent || !before.ends().into_iter().all(is_last_at) {
            self.add(rename);
        } else if rename.is_reverse_of(before) {
            self.undo(number, rename.is_dir);
        } else if before.to == rename.from && before.is_dir == rename.is_dir {
            let from = before.from.clone();
            self.remove(number);
            self.add(Rename { from, ..rename });
        } else {
            self.add(rename);
        }
    }

    /// Puts back a rename that has to be followed before all that wait.
    pub fn put_back(&mut self, rename: Rename) {
        let first = self.waiting.first_key_value().map_or(self.next, |(first, _)| *first - 1);
        for end in rename.ends() {
            self.at.entry(end.clone()).or_default().insert(0, first);
        }
        if rename.is_dir {
            self.last_dir = self.last_dir.max(first);
        }
        self.waiting.insert(first, rename);
    }

    /// Marks a rename as undone: renamed back, or an exchange. Two of these for the same two paths
    /// cancel each other.
    fn undo(&mut self, number: i64, is_dir: bool) {
        let Some(rename) = self.waiting.get_mut(&number) else { return };
        rename.is_undone = true;
        rename.is_dir |= is_dir;
        let rename = rename.clone();
        let second_last = |end| self.at.get(end).and_then(|at| at.iter().rev().nth(1)).copied();
        let [before, other] = rename.ends().map(second_last);
        let Some((before, earlier)) =
            before.and_then(|before| Some((before, self.waiting.get(&before)?)))
        else {
            return;
        };
        let are_adjacent = self.are_adjacent(before, Some(number), rename.is_dir);
        if other == Some(before) && earlier.is_undone && are_adjacent {
            self.remove(number);
            self.remove(before);
        }
    }

    /// Returns whether no rename that matters lies between `before` and `last`, the last one of
    /// all. If `last` is `None`: none after `before`. For files, only renames of directories
    /// matter.
    fn are_adjacent(&self, before: i64, last: Option<i64>, is_dir: bool) -> bool {
        if !is_dir {
            return self.last_dir <= before;
        }
        let mut between =
            self.waiting.range(before + 1..).filter(|(number, _)| Some(**number) != last);
        between.next().is_none()
    }

    fn add(&mut self, rename: Rename) {
        self.next += 1;
        for end in rename.ends() {
            self.at.entry(end.clone()).or_default().push(self.next);
        }
        if rename.is_dir {
            self.last_dir = self.next;
        }
        self.waiting.insert(self.next, rename);
    }

    fn remove(&mut self, number: i64) {
        let Some(rename) = self.waiting.remove(&number) else { return };
        for end in rename.ends() {
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

    /// Returns whether a rename that waits begins or ends at `path` or above it.
    pub fn concern(&self, path: &RelPath) -> bool {
        !self.at.is_empty() && path.ancestors_and_self().any(|at| self.at.contains_key(&at))
    }

    /// Returns whether a rename waits that was reported by `time`.
    pub fn any_since_before(&self, time: Instant) -> bool {
        self.waiting.values().any(|rename| rename.since <= time)
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Removes and returns the first `most` renames. The batch also knows those that still wait, as
    /// later ones.
    pub fn take(&mut self, most: usize) -> RenameBatch {
        let all: Vec<Rename> = self.waiting.values().cloned().collect();
        let first: Vec<i64> = self.waiting.keys().take(most).copied().collect();
        for number in &first {
            self.remove(*number);
        }
        RenameBatch::of(all, first.len())
    }
}

/// Some renames in their order: those to follow now, and later ones.
#[derive(Default)]
pub struct RenameBatch {
    renames: Vec<Rename>,
    /// Number of renames to follow now; the others come later.
    followed: usize,
    /// Indexes of the renames that begin or end at a path, in their order.
    at: HashMap<RelPath, Vec<usize>>,
}

impl RenameBatch {
    /// Makes a batch of all these renames, joined as [`PendingRenames`] joins them.
    #[cfg(test)]
    pub fn new(renames: impl IntoIterator<Item = Rename>) -> Self {
        let mut waiting = PendingRenames::default();
        for rename in renames {
            waiting.push(rename);
        }
        waiting.take(usize::MAX)
    }

    fn of(renames: Vec<Rename>, followed: usize) -> Self {
        let mut at = HashMap::<RelPath, Vec<usize>>::new();
        for (index, rename) in renames.iter().enumerate() {
            for end in rename.ends() {
                at.entry(end.clone()).or_default().push(index);
            }
        }
        Self { renames, followed, at }
    }

    /// Returns whether a later rename begins or ends at `path` or above it.
    pub fn has_deferred_at(&self, path: &RelPath) -> bool {
        path.ancestors_and_self().any(|above| self.later(&above, self.followed).next().is_some())
    }

    /// Returns the renames to follow now.
    pub fn renames(&self) -> &[Rename] {
        &self.renames[..self.followed]
    }

    /// Returns where the entry at `path` is after the renames from index `first` on. `None` if
    /// another entry has taken its name.
    pub fn last_place(&self, path: &RelPath, first: usize) -> Option<RelPath> {
        let (mut at, mut first) = (path.clone(), first);
        while let Some(index) = self.next_at(&at, first) {
            let rename = &self.renames[index];
            let moved = at.rebased(&rename.from, &rename.to);
            first = index + 1;
            if rename.is_undone {
                at = moved.or_else(|| at.rebased(&rename.to, &rename.from)).unwrap_or(at);
            } else {
                at = moved?;
            }
        }
        Some(at)
    }

    /// Returns whether a rename from index `first` on ends at `path`, or may do so.
    pub fn fill(&self, path: &RelPath, first: usize) -> bool {
        self.later(path, first)
            .any(|index| self.renames[index].is_undone || self.renames[index].to == *path)
    }

    /// Returns the index of the first rename from `first` on that begins or ends at `path` or above
    /// it.
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

    fn renames(pairs: &[(&str, &str)]) -> Vec<Rename> {
        let since = Instant::now();
        pairs.iter().map(|(from, to)| Rename::new(path(from), path(to), false, since)).collect()
    }

    fn waiting(pairs: &[(&str, &str)], are_dirs: bool) -> Vec<String> {
        let mut waiting = PendingRenames::default();
        for rename in renames(pairs) {
            waiting.push(Rename { is_dir: are_dirs, ..rename });
        }
        let arrow = |rename: &Rename| if rename.is_undone { "<>" } else { ">" };
        let taken = waiting.take(usize::MAX);
        assert!(waiting.is_empty() && waiting.at.is_empty());
        taken
            .renames()
            .iter()
            .map(|rename| format!("{}{}{}", rename.from, arrow(rename), rename.to))
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
            // Another entry was renamed to its old or its new name.
            assert_eq!(waiting(&[("a", "b"), ("x", "a"), ("b", "c")]), ["a>b", "x>a", "b>c"]);
            assert_eq!(waiting(&[("a", "t"), ("b", "a"), ("t", "b")]), ["a>t", "b>a", "t>b"]);
            assert_eq!(waiting(&[("a", "b"), ("x", "b"), ("b", "c")]), ["a>b", "x>c"]);
        }
        // Renames elsewhere do not matter, unless they are those of directories.
        let elsewhere = [("a", "b"), ("x", "y"), ("b", "c"), ("y", "z"), ("c", "a")];
        assert_eq!(waiting(&elsewhere, false), ["a<>c", "x>z"]);
        assert_eq!(waiting(&elsewhere, true).len(), 5);
        let mut exchanged = PendingRenames::default();
        for (rename, is_dir) in
            renames(&[("file", "dir"), ("dir", "file")]).into_iter().zip([false, true])
        {
            exchanged.push(Rename { is_dir, ..rename });
        }
        let exchanged = exchanged.take(9);
        assert!(
            exchanged.renames().len() == 1
                && exchanged.renames()[0].is_undone
                && exchanged.renames()[0].is_dir
        );
        let mut mixed = PendingRenames::default();
        for (rename, is_dir) in renames(&[("d/a", "d/b"), ("d", "e"), ("d/b", "d/c")])
            .into_iter()
            .zip([false, true, false])
        {
            mixed.push(Rename { is_dir, ..rename });
        }
        assert_eq!(mixed.waiting.len(), 3);
    }

    #[test]
    fn a_few_are_taken_and_what_comes_later_is_known() {
        let mut waiting = PendingRenames::default();
        for rename in renames(&[("a", "b"), ("x", "a"), ("b", "c")]) {
            waiting.push(rename);
        }
        let taken = waiting.take(1);
        assert_eq!(taken.renames(), &hints_at(&taken, &[("a", "b")]));
        assert_eq!(taken.last_place(&path("b"), 1), Some(path("c")));
        assert!(waiting.concern(&path("a")) && waiting.concern(&path("c")) && !waiting.is_empty());
        assert_eq!(waiting.take(9).renames().len(), 2);
    }

    fn hints_at(like: &RenameBatch, pairs: &[(&str, &str)]) -> Vec<Rename> {
        let since = like.renames()[0].since;
        renames(pairs).into_iter().map(|rename| Rename { since, ..rename }).collect()
    }

    #[test]
    fn a_place_is_followed_through_later_renames() {
        let end = |start: &str, pairs: &[(&str, &str)]| {
            RenameBatch::new(renames(pairs))
                .last_place(&path(start), 0)
                .map(|path| path.to_string())
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
        for rename in renames(&[("a", "b/c")]) {
            waiting.push(rename);
        }
        for (concerned, text) in
            [(true, "a"), (true, "a/x/y"), (true, "b/c/z"), (false, "b"), (false, "ab")]
        {
            assert_eq!(waiting.concern(&path(text)), concerned, "{text}");
        }
        assert_eq!(waiting.take(9).renames().len(), 1);
        assert!(!waiting.concern(&path("a")));
    }

    #[test]
    fn too_many_hints_are_forgotten() {
        let mut waiting = PendingRenames::default();
        for number in 0..=MOST {
            waiting.push(renames(&[(&format!("a{number}"), &format!("b{number}"))]).remove(0));
        }
        assert_eq!(waiting.take(usize::MAX).renames().len(), 1);
    }
}
