//! Which watch of the kernel stands for which directory. Pure: no file system.
//!
//! An event gives the number of a watch, and the name of an entry in the watched directory. The
//! directories are kept as a tree. So everything below a renamed directory moves along in one step.
//! A deleted directory costs no more in a tree of a hundred thousand than in a tree of ten.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::model::path::{Name, RelPath};

/// The kernel's number of a watch. Negative numbers are our own. They stand for directories that
/// are not watched, but have a watched one below.
pub type Wd = i32;

/// Most renames that are remembered until the renamed directory reports its own move. The kernel
/// queues the three events of a rename together, apart from events of other renames in between.
const RENAMES: usize = 256;

struct WatchedDir {
    /// The watch of the parent, and the name in it; `None` for the root.
    at: Option<(Wd, Name)>,
    below: BTreeMap<Name, Wd>,
}

struct WatchedRename {
    cookie: u32,
    from: (Wd, Name),
    to: Option<(Wd, Name)>,
}

/// The former place of a directory that is registered now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KnownDir {
    /// It was not known, and is placed now.
    New,
    /// It was known under this path.
    Unmoved,
    /// It is known under another path, and stays there. One of the two is out of date.
    Elsewhere,
}

/// All watched directories, as of the last event that was read.
#[derive(Default)]
pub struct Places {
    root: Option<Wd>,
    known: HashMap<Wd, WatchedDir>,
    renames: VecDeque<WatchedRename>,
    /// The last number that was given to a directory that is not watched.
    unwatched: Wd,
}

impl Places {
    /// Notes that the watch `wd` stands for the directory at `path`. The root must be registered
    /// first.
    pub fn register(&mut self, wd: Wd, path: &RelPath) -> KnownDir {
        match self.path(wd) {
            Some(known) if known == *path => {
                // Another directory may have had the name in between.
                if self.find(path) != Some(wd) {
                    self.reattach(wd, path);
                }
                KnownDir::Unmoved
            }
            Some(_) => KnownDir::Elsewhere,
            None => {
                self.reattach(wd, path);
                KnownDir::New
            }
        }
    }

    /// Places the directory of `wd` at `path`, wherever it was before. Everything below it comes
    /// along.
    pub fn reattach(&mut self, wd: Wd, path: &RelPath) {
        if let Some((dir, name)) = path.split() {
            let above = self.find_or_make(&dir);
            self.attach(wd, (above, name));
        } else {
            self.root = Some(wd);
            self.known.insert(wd, WatchedDir { at: None, below: BTreeMap::new() });
        }
    }

    pub fn is_root(&self, wd: Wd) -> bool {
        self.root == Some(wd)
    }

    /// Returns the number of known directories, including those above that are not watched.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Returns the path of a watched directory; `None` if it is not known (any more).
    pub fn path(&self, wd: Wd) -> Option<RelPath> {
        let (mut names, mut at) = (Vec::new(), wd);
        while let Some((above, name)) = &self.known.get(&at)?.at {
            names.push(name);
            at = *above;
            // If events are older than the last sweep, a directory may seem to lie in itself for a
            // while.
            if names.len() > self.known.len() {
                return None;
            }
        }
        let bytes = names.into_iter().rev().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/');
        self.is_root(at).then(|| RelPath::new(&bytes)).flatten()
    }

    /// Notes the first half of a rename: the entry `name` of a watched directory got another name.
    pub fn renamed_from(&mut self, cookie: u32, wd: Wd, name: Name) {
        if self.renames.len() == RENAMES {
            self.renames.pop_front();
        }
        self.renames.push_back(WatchedRename { cookie, from: (wd, name), to: None });
    }

    /// Notes the second half of a rename. Returns the old path, if its directory is watched too.
    /// Only directories report their own move afterwards: the renames of other entries are
    /// forgotten.
    pub fn renamed_to(&mut self, cookie: u32, wd: Wd, name: Name, is_dir: bool) -> Option<RelPath> {
        let to = (wd, name);
        if is_dir {
            // An earlier rename from this name is done: its directory was not watched, or has
            // reported its move.
            self.renames.retain(|rename| rename.cookie == cookie || rename.from != to);
        }
        let index = self.renames.iter().rposition(|rename| rename.cookie == cookie)?;
        let (above, name) = self.renames[index].from.clone();
        if is_dir {
            self.renames[index].to = Some(to);
        } else {
            self.renames.remove(index);
        }
        Some(self.path(above)?.join(&name))
    }

    /// Handles the event by which a watched directory reports its own move. It comes after the two
    /// halves of the rename. Only this event shows which of two exchanged directories was moved.
    /// Returns the watches of directories that have left the tree; they are to be removed.
    pub fn self_moved(&mut self, wd: Wd) -> Vec<Wd> {
        let Some(at) = self.known.get(&wd).and_then(|place| place.at.as_ref()) else {
            return Vec::new();
        };
        let Some(index) = self.renames.iter().rposition(|rename| rename.from == *at) else {
            // It was registered under its new path before this was read.
            return Vec::new();
        };
        match self.renames.remove(index).and_then(|rename| rename.to) {
            Some(to) => {
                self.attach(wd, to);
                Vec::new()
            }
            None => self.remove(wd),
        }
    }

    /// Notes that the kernel has ended a watch.
    pub fn watch_ended(&mut self, wd: Wd) {
        self.detach(wd);
        if self.is_root(wd) {
            self.root = None;
        }
        let below = self.known.remove(&wd).map(|place| place.below);
        for wd in below.into_iter().flat_map(BTreeMap::into_values) {
            // The directories in it have no path now. The kernel ends their watches too, or a sweep
            // finds them.
            self.remove(wd);
        }
    }

    /// Removes a directory and everything below it. Returns their watches.
    pub fn remove(&mut self, wd: Wd) -> Vec<Wd> {
        self.detach(wd);
        let (mut waiting, mut out) = (vec![wd], Vec::new());
        while let Some(wd) = waiting.pop() {
            waiting.extend(
                self.known.remove(&wd).into_iter().flat_map(|place| place.below.into_values()),
            );
            if wd >= 0 {
                out.push(wd);
            }
        }
        out
    }

    /// Returns the number of the directory at `path`; negative if it is not watched itself.
    pub fn find(&self, path: &RelPath) -> Option<Wd> {
        let mut at = self.root?;
        for name in names(path) {
            at = *self.known.get(&at)?.below.get(name)?;
        }
        Some(at)
    }

    fn find_or_make(&mut self, path: &RelPath) -> Wd {
        let mut at = self.root.unwrap_or_default();
        for bytes in names(path) {
            let known = self.known.get(&at).and_then(|place| place.below.get(bytes));
            at = if let Some(known) = known {
                *known
            } else {
                let Some(name) = Name::new(bytes) else { return at };
                self.unwatched -= 1;
                self.attach(self.unwatched, (at, name));
                self.unwatched
            };
        }
        at
    }

    /// Places a directory under a name of the directory `above`. Another directory that had the
    /// name is being moved elsewhere.
    fn attach(&mut self, wd: Wd, (above, name): (Wd, Name)) {
        self.detach(wd);
        let Some(parent) = self.known.get_mut(&above) else {
            // RACE: the directory into which it was moved was deleted meanwhile. That has events of
            // its own.
            return drop(self.remove(wd));
        };
        let before = parent.below.insert(name.clone(), wd);
        let place =
            self.known.entry(wd).or_insert_with(|| WatchedDir { at: None, below: BTreeMap::new() });
        place.at = Some((above, name));
        // The name was kept by a number of our own: the directory is watched now.
        let Some(stand_in) = before.filter(|before| *before < 0 && *before != wd) else { return };
        let below = self.known.remove(&stand_in).map(|place| place.below).unwrap_or_default();
        for (name, child) in below {
            self.attach(child, (wd, name));
        }
    }

    /// Detaches a directory from its parent. Also removes a parent that is not watched and has no
    /// other directory.
    fn detach(&mut self, wd: Wd) {
        let at = self.known.get(&wd).and_then(|place| place.at.clone());
        let Some((above, name)) = at else { return };
        let Some(parent) = self.known.get_mut(&above) else { return };
        if parent.below.get(&name) == Some(&wd) {
            parent.below.remove(&name);
        }
        if above < 0 && parent.below.is_empty() {
            self.detach(above);
            self.known.remove(&above);
        }
    }
}

fn names(path: &RelPath) -> impl Iterator<Item = &[u8]> {
    path.as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::testing::{name, path};

    /// Returns places with watch 0 for the root, and watches 1, 2, 3 and so on for `dirs`.
    fn places(dirs: &[&str]) -> Places {
        let mut places = Places::default();
        places.register(0, &RelPath::root());
        for (number, dir) in (1..).zip(dirs) {
            assert_eq!(places.register(number, &path(dir)), KnownDir::New);
        }
        places
    }

    fn shown(places: &Places, wds: impl IntoIterator<Item = Wd>) -> Vec<String> {
        wds.into_iter()
            .map(|wd| places.path(wd).map_or("-".to_owned(), |path| path.to_string()))
            .collect()
    }

    #[test]
    fn a_renamed_directory_takes_along_what_lies_below() {
        let mut places = places(&["a", "a/b", "a/b/c"]);
        places.renamed_from(7, 0, name("a"));
        assert_eq!(places.renamed_to(7, 0, name("z"), true), Some(path("a")));
        assert!(places.self_moved(1).is_empty());
        assert_eq!(shown(&places, 0..4), [".", "z", "z/b", "z/b/c"]);
        assert_eq!(places.find(&path("a")), None);
        assert_eq!(places.find(&path("z/b")), Some(2));
    }

    #[test]
    fn two_that_exchange_their_names_keep_what_is_theirs() {
        let mut places = places(&["a", "b", "a/x", "b/y"]);
        places.renamed_from(1, 0, name("a"));
        places.renamed_to(1, 0, name("b"), true);
        places.self_moved(1);
        places.renamed_from(2, 0, name("b"));
        places.renamed_to(2, 0, name("a"), true);
        places.self_moved(2);
        assert_eq!(shown(&places, 1..5), ["b", "a", "b/x", "a/y"]);
    }

    #[test]
    fn a_directory_that_changes_places_with_its_parent_is_followed() {
        let mut places = places(&["a", "a/x"]);
        places.renamed_from(1, 1, name("x"));
        places.renamed_to(1, 0, name("x"), true);
        places.self_moved(2);
        places.renamed_from(2, 0, name("a"));
        places.renamed_to(2, 2, name("a"), true);
        places.self_moved(1);
        assert_eq!(shown(&places, 1..3), ["x/a", "x"]);
    }

    #[test]
    fn what_leaves_the_tree_gives_up_its_watches() {
        let mut places = places(&["a", "a/b", "a/b/c", "d"]);
        places.renamed_from(1, 0, name("a"));
        let mut out = places.self_moved(1);
        out.sort_unstable();
        assert_eq!(out, [1, 2, 3]);
        assert_eq!(shown(&places, 1..5), ["-", "-", "-", "d"]);
    }

    #[test]
    fn a_rename_that_a_scan_has_found_first_changes_nothing_more() {
        let mut places = places(&["a", "a/x"]);
        assert_eq!(places.register(1, &path("b")), KnownDir::Elsewhere);
        places.reattach(1, &path("b"));
        places.renamed_from(1, 0, name("a"));
        places.renamed_to(1, 0, name("b"), true);
        assert!(places.self_moved(1).is_empty());
        assert_eq!(shown(&places, 1..3), ["b", "b/x"]);
        assert_eq!(places.register(1, &path("b")), KnownDir::Unmoved);
    }

    #[test]
    fn a_rename_there_before_the_watch_is_not_taken_for_the_one_back() {
        let mut places = places(&[]);
        places.renamed_from(1, 0, name("a"));
        places.renamed_to(1, 0, name("b"), true);
        // A sweep had opened it before that rename.
        places.register(1, &path("a"));
        places.renamed_from(2, 0, name("b"));
        places.renamed_to(2, 0, name("a"), true);
        assert!(places.self_moved(1).is_empty());
        assert_eq!(shown(&places, [1]), ["a"]);
    }

    #[test]
    fn a_directory_that_is_found_again_has_its_name_again() {
        let mut places = places(&["a", "b"]);
        places.reattach(2, &path("a"));
        places.reattach(2, &path("b"));
        places.register(3, &path("a/c"));
        assert_eq!(places.register(1, &path("a")), KnownDir::Unmoved);
        // A directory that was opened before, and deleted since.
        places.register(4, &path("a"));
        places.watch_ended(4);
        assert_eq!(shown(&places, 1..4), ["a", "b", "a/c"]);
    }

    #[test]
    fn a_removed_directory_leaves_its_name_to_the_next() {
        let mut places = places(&["a"]);
        assert_eq!(places.register(5, &path("a")), KnownDir::New);
        // The end of the first watch is reported late.
        places.watch_ended(1);
        assert_eq!(places.find(&path("a")), Some(5));
        places.watch_ended(5);
        assert_eq!(places.find(&path("a")), None);
        assert_eq!(places.known.len(), 1);
    }

    #[test]
    fn below_a_directory_that_is_not_watched_one_may_be() {
        let mut places = places(&["a/b/c"]);
        assert_eq!(shown(&places, [1]), ["a/b/c"]);
        // A directory that is watched later takes the place that was kept for it.
        assert_eq!(places.register(2, &path("a")), KnownDir::New);
        assert_eq!(shown(&places, [1, 2]), ["a/b/c", "a"]);
        places.watch_ended(1);
        assert_eq!(places.known.len(), 2);
    }

    #[test]
    fn the_root_may_go() {
        let mut places = places(&["a"]);
        places.watch_ended(0);
        assert!(places.is_empty());
        assert_eq!(shown(&places, [0, 1]), ["-", "-"]);
    }
}
