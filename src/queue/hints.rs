//! Renames that the watch has told of, until a round follows them. Pure: times come in.
//!
//! A hint says that what stood here stands there by now. It may be wrong, old or reversed: a round
//! sees to it that the source agrees, and both ends are looked at afterwards in any case.

use std::collections::HashSet;
use std::time::Instant;

use crate::path::RelPath;

/// Beyond so many, renames are not followed: what was renamed is copied.
const MOST: usize = 2_000;

/// An entry was renamed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    pub from: RelPath,
    pub to: RelPath,
    /// When it was told.
    pub since: Instant,
}

impl Hint {
    /// Whether this and the next are the two halves of an exchange of names, or of a way there and
    /// back.
    pub fn is_undone_by(&self, next: Option<&Hint>) -> bool {
        next.is_some_and(|next| next.from == self.to && next.to == self.from)
    }
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

/// Where that what stands at `path` stands after further renames; `None` where another entry has
/// taken its name.
pub fn last_place(path: &RelPath, mut later: &[Hint]) -> Option<RelPath> {
    let mut at = path.clone();
    while let Some((hint, rest)) = later.split_first() {
        later = rest;
        let moved = at.rebased(&hint.from, &hint.to);
        if hint.is_undone_by(rest.first()) {
            later = &rest[1..];
            at = moved.or_else(|| at.rebased(&hint.to, &hint.from)).unwrap_or(at);
        } else if let Some(moved) = moved {
            at = moved;
        } else if at.is_within(&hint.to) {
            return None;
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn hints(pairs: &[(&str, &str)]) -> Vec<Hint> {
        let since = Instant::now();
        pairs.iter().map(|(from, to)| Hint { from: path(from), to: path(to), since }).collect()
    }

    #[test]
    fn a_place_is_followed_through_later_renames() {
        let end = |start: &str, pairs: &[(&str, &str)]| {
            last_place(&path(start), &hints(pairs)).map(|path| path.to_string())
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
