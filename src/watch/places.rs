//! Which watch of the kernel stands for which directory. Pure: no file system.
//!
//! An event names a watch, by a number, and an entry in the watched directory. The directories are
//! kept as a tree: one that is renamed takes all below it along in one step, and one that goes
//! costs no more in a tree of a hundred thousand than in one of ten.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::model::path::{Name, RelPath};

/// The kernel's number for a watch. Negative ones are ours: directories that are not watched, on
/// the way to one that is.
pub type Wd = i32;

/// Renames that are remembered until the renamed directory itself tells of it. The kernel queues
/// the three events of one rename together, up to what other renames put between them.
const RENAMES: usize = 256;

struct WatchedDir {
    /// `None` for the root.
    at: Option<(Wd, Name)>,
    below: BTreeMap<Name, Wd>,
}

struct WatchedRename {
    cookie: u32,
    from: (Wd, Name),
    to: Option<(Wd, Name)>,
}

/// Where a directory stood that is registered now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KnownDir {
    /// Nowhere: it is placed now.
    New,
    /// Under this path.
    Unmoved,
    /// Under another path, and it still does. Either is out of date.
    Elsewhere,
}

/// All watched directories, as of the events that were read.
#[derive(Default)]
pub struct Places {
    root: Option<Wd>,
    known: HashMap<Wd, WatchedDir>,
    renames: VecDeque<WatchedRename>,
    /// Numbers that were given out to directories that are not watched.
    unwatched: Wd,
}

impl Places {
    /// Notes that the watch `wd` stands for the directory at `path`. The root comes first.
    pub fn register(&mut self, wd: Wd, path: &RelPath) -> KnownDir {
        match self.path(wd) {
            Some(known) if known == *path => {
                // Another one may have had the name in between.
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

    /// Notes the same of a directory that may have stood elsewhere. All below it comes along.
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

    pub fn count(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Where a watched directory lies; `None` for one that is not known (any more).
    pub fn path(&self, wd: Wd) -> Option<RelPath> {
        let (mut names, mut at) = (Vec::new(), wd);
        while let Some((above, name)) = &self.known.get(&at)?.at {
            names.push(name);
            at = *above;
            // Of events that are older than a scan, a directory may seem to lie in itself for a
            // while.
            if names.len() > self.known.len() {
                return None;
            }
        }
        let bytes = names.into_iter().rev().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/');
        self.is_root(at).then(|| RelPath::new(&bytes)).flatten()
    }

    /// An entry of a watched directory was renamed: the first half of it.
    pub fn renamed_from(&mut self, cookie: u32, wd: Wd, name: Name) {
        if self.renames.len() == RENAMES {
            self.renames.pop_front();
        }
        self.renames.push_back(WatchedRename { cookie, from: (wd, name), to: None });
    }

    /// The second half. Where it came from, if that is watched too. What is no directory does not
    /// tell of itself.
    pub fn renamed_to(&mut self, cookie: u32, wd: Wd, name: Name, is_dir: bool) -> Option<RelPath> {
        let to = (wd, name);
        if is_dir {
            // What left this name before was not watched then, or it has told of itself.
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

    /// A watched directory was renamed: it says so itself, last. Which of two that exchange their
    /// names it is can be told by nothing else. The watches of what has left the tree, to be
    /// removed.
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

    /// The kernel has given up a watch.
    pub fn watch_ended(&mut self, wd: Wd) {
        self.detach(wd);
        if self.is_root(wd) {
            self.root = None;
        }
        let below = self.known.remove(&wd).map(|place| place.below);
        for wd in below.into_iter().flat_map(BTreeMap::into_values) {
            // What it held is nowhere now; the kernel gives up that too, or a scan finds it.
            self.remove(wd);
        }
    }

    /// Takes out a directory and all below it: their watches.
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

    /// The watch of the directory at `path`.
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

    /// Gives a directory its place. Another one that stood there is on its way elsewhere.
    fn attach(&mut self, wd: Wd, (above, name): (Wd, Name)) {
        self.detach(wd);
        let Some(parent) = self.known.get_mut(&above) else {
            // RACE: what it was moved into has gone meanwhile. Its own events will tell.
            return drop(self.remove(wd));
        };
        let before = parent.below.insert(name.clone(), wd);
        let place =
            self.known.entry(wd).or_insert_with(|| WatchedDir { at: None, below: BTreeMap::new() });
        place.at = Some((above, name));
        // One that was not watched is now.
        let Some(stand_in) = before.filter(|before| *before < 0 && *before != wd) else { return };
        let below = self.known.remove(&stand_in).map(|place| place.below).unwrap_or_default();
        for (name, child) in below {
            self.attach(child, (wd, name));
        }
    }

    /// Takes a directory off the one that holds it, and that too where it is there for no other.
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

    /// Watches 1, 2, 3 and so on for these directories, after 0 for the root.
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
        // It was opened before that.
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
        // One that was opened before, and has gone since.
        places.register(4, &path("a"));
        places.watch_ended(4);
        assert_eq!(shown(&places, 1..4), ["a", "b", "a/c"]);
    }

    #[test]
    fn a_removed_directory_leaves_its_name_to_the_next() {
        let mut places = places(&["a"]);
        assert_eq!(places.register(5, &path("a")), KnownDir::New);
        // The first one's end is told late.
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
        // What is watched later takes the place that was kept for it.
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
