//! The source, and what a watch would report of it. Events come from directories that were
//! registered. A rename between two of those is reported as a rename. Nothing else is known.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;

use fastrand::Rng;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::model::check::Depth;
use crate::model::path::RelPath;

/// Few names, so that they collide.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// How many names a path of [`Source::place`] has, at most.
const DEEPEST: usize = 4;

/// The record of a history, to find out why a seed fails.
#[derive(Clone, Default)]
pub struct Story(Rc<RefCell<Vec<String>>>);

impl Story {
    pub fn tell(&self, line: String) {
        self.0.borrow_mut().push(line);
    }

    pub fn all(&self) -> String {
        self.0.borrow().join("\n")
    }
}

/// A report of the watch.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    Check(String, Depth),
    /// From, to, and whether it is a directory.
    Renamed(String, String, bool),
}

/// The source's tree, and a place beside it.
pub struct Source {
    root: PathBuf,
    outside: PathBuf,
    pub rng: Rng,
    /// Inode numbers of the directories that are registered with the watch.
    watched: HashSet<u64>,
    pub told: Vec<WatchEvent>,
    /// The last rename, so that it can be undone.
    pub last_rename: Option<(String, String)>,
    /// How many renames within the source were watched at both ends.
    pub renames: usize,
    pub story: Story,
    count: u32,
}

impl Source {
    pub fn new(root: PathBuf, outside: PathBuf, seed: u64, story: Story) -> Self {
        let rng = Rng::with_seed(seed);
        let (watched, told) = (HashSet::new(), Vec::new());
        Self { root, outside, rng, watched, told, last_rename: None, renames: 0, story, count: 0 }
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub fn outside(&self, name: &str) -> PathBuf {
        self.outside.join(name)
    }

    /// Returns a number that was not given out before.
    pub fn number(&mut self) -> u32 {
        self.count += 1;
        self.count
    }

    /// Returns all entries, as they stand.
    pub fn entries(&self) -> Vec<(String, fs::FileType)> {
        let mut all = Vec::new();
        self.add_below("", &mut all);
        all
    }

    fn add_below(&self, dir: &str, all: &mut Vec<(String, fs::FileType)>) {
        let mut here: Vec<_> = fs::read_dir(self.at(dir)).unwrap().map(Result::unwrap).collect();
        here.sort_by_key(fs::DirEntry::file_name);
        for entry in here {
            let (path, kind) =
                (join(dir, entry.file_name().to_str().unwrap()), entry.file_type().unwrap());
            all.push((path.clone(), kind));
            if kind.is_dir() {
                self.add_below(&path, all);
            }
        }
    }

    /// Returns any entry of a kind that is wanted.
    pub fn pick(&mut self, is_wanted: impl Fn(&fs::FileType) -> bool) -> Option<String> {
        let mut fit = self.entries();
        fit.retain(|(_, kind)| is_wanted(kind));
        let index = self.rng.usize(..fit.len().max(1));
        fit.into_iter().nth(index).map(|(path, _)| path)
    }

    pub fn any(&mut self) -> Option<String> {
        self.pick(|_| true)
    }

    pub fn file(&mut self) -> Option<String> {
        self.pick(fs::FileType::is_file)
    }

    pub fn dir(&mut self) -> Option<String> {
        self.pick(fs::FileType::is_dir)
    }

    /// Returns a path in some directory, whether it is taken or not.
    pub fn place(&mut self) -> String {
        let above = if self.rng.u8(..3) == 0 { None } else { self.dir() };
        let above = above.filter(|dir| dir.split('/').count() < DEEPEST).unwrap_or_default();
        join(&above, NAMES[self.rng.usize(..NAMES.len())])
    }

    /// Returns a path in some directory that is not taken.
    pub fn free_place(&mut self) -> Option<String> {
        (0..6).find_map(|_| Some(self.place()).filter(|path| !self.stands(path)))
    }

    pub fn stands(&self, path: &str) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok()
    }

    pub fn is_dir(&self, path: &str) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok_and(|entry| entry.is_dir())
    }

    /// Returns whether all above it are directories, and none a symlink.
    pub fn is_reached(&self, path: &str) -> bool {
        path.match_indices('/').all(|(end, _)| self.is_dir(&path[..end]))
    }

    /// Registers a directory and those below it, as the walk does that lists them next.
    pub fn watch_below(&mut self, scope: &RelPath) {
        let scope = if scope.is_root() { String::new() } else { scope.to_string() };
        if !self.is_reached(&scope) || !self.is_dir(&scope) {
            return;
        }
        let mut below = vec![];
        self.add_below(&scope, &mut below);
        self.watched.insert(self.inode(&scope));
        for (path, _) in below.iter().filter(|(_, kind)| kind.is_dir()) {
            self.watched.insert(self.inode(path));
        }
    }

    /// Begins a new watch, which knows of the root alone. Reports of the former one are lost.
    pub fn watch_anew(&mut self) {
        self.watched = HashSet::from([self.inode("")]);
        self.told.clear();
    }

    /// Gives up the watches of a directory that leaves, and of all below it.
    pub fn unwatch(&mut self, path: &str) {
        if !self.is_dir(path) {
            return;
        }
        let mut below = vec![];
        self.add_below(path, &mut below);
        self.watched.remove(&self.inode(path));
        for (path, _) in below.iter().filter(|(_, kind)| kind.is_dir()) {
            self.watched.remove(&self.inode(path));
        }
    }

    fn inode(&self, path: &str) -> u64 {
        fs::symlink_metadata(self.at(path)).unwrap().ino()
    }

    /// Returns whether the watch sees what happens to this name.
    fn is_seen(&self, path: &str) -> bool {
        self.watched.contains(&self.inode(parent(path)))
    }

    /// Reports a change, if it is seen. A directory itself reports changes of its attributes.
    pub fn observe(&mut self, path: &str, depth: Depth) {
        let by_itself = depth == Depth::Metadata && self.is_dir(path);
        if self.is_seen(path) || (by_itself && self.watched.contains(&self.inode(path))) {
            self.told.push(WatchEvent::Check(path.to_owned(), depth));
        }
    }

    /// Renames an entry, over what may stand there; `None` if that is impossible.
    pub fn rename(&mut self, from: &str, to: &str) -> Option<()> {
        if from == to || !self.stands(from) || !self.is_reached(from) || !self.is_reached(to) {
            return None;
        }
        let replaced = self.is_dir(to).then(|| self.inode(to));
        fs::rename(self.at(from), self.at(to)).ok()?;
        replaced.inspect(|replaced| _ = self.watched.remove(replaced));
        self.story.tell(format!("rename {from} {to}"));
        self.renamed(from, to);
        let is_followed = self.is_seen(from) && self.is_seen(to);
        if !is_followed {
            self.unwatch(to);
        }
        self.last_rename = Some((from.to_owned(), to.to_owned()));
        Some(())
    }

    /// Exchanges the names of two entries; `None` if that is impossible.
    pub fn exchange(&mut self, one: &str, other: &str) -> Option<()> {
        if one == other || is_within(one, other) || is_within(other, one) {
            return None;
        }
        renameat_with(CWD, self.at(one), CWD, self.at(other), RenameFlags::EXCHANGE).ok()?;
        self.story.tell(format!("exchange {one} {other}"));
        self.renamed(one, other);
        self.renamed(other, one);
        let is_followed = self.is_seen(one) && self.is_seen(other);
        if !is_followed {
            self.unwatch(one);
            self.unwatch(other);
        }
        Some(())
    }

    /// Reports a rename, and then both ends.
    fn renamed(&mut self, from: &str, to: &str) {
        if self.is_seen(from) && self.is_seen(to) {
            self.told.push(WatchEvent::Renamed(from.to_owned(), to.to_owned(), self.is_dir(to)));
            self.renames += 1;
        }
        self.observe(from, Depth::Subtree);
        self.observe(to, Depth::Subtree);
    }
}

pub fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |end| &path[..end])
}

fn is_within(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}
