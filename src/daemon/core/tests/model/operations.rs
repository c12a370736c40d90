//! What people and programs do to a tree. Each operation is done if it is possible, and reported.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use super::source::{Source, join};
use crate::model::check::Depth;

/// An operation; `None` if there is no entry for it.
type Edit = fn(&mut Source) -> Option<()>;

/// The operations with their weights. Renames come more often.
const OPERATIONS: [(u8, Edit); 26] = [
    (4, Source::create),
    (2, Source::write),
    (1, Source::append),
    (3, Source::rewrite),
    (2, Source::change_mode),
    (1, Source::truncate),
    (1, Source::set_time),
    (2, Source::remove),
    (4, Source::make_dir),
    (1, Source::make_tree),
    (1, Source::remove_empty),
    (1, Source::remove_all),
    (2, Source::make_link),
    (1, Source::turn_link),
    (2, Source::change_kind),
    (8, Source::rename_somewhere),
    (3, Source::rename_dir),
    (3, Source::rename_over),
    (3, Source::swap_at_once),
    (3, Source::swap_by_third),
    (3, Source::chain),
    (3, Source::rename_back),
    (3, Source::remake),
    (1, Source::turn_inside_out),
    (2, Source::move_out),
    (2, Source::move_in),
];

const MODES: [u32; 3] = [0o600, 0o644, 0o755];

impl Source {
    /// Does a random operation.
    pub fn operate(&mut self) {
        let all: u8 = OPERATIONS.iter().map(|(weight, _)| weight).sum();
        for _ in 0..8 {
            let mut left = self.rng.u8(..all);
            let wanted = OPERATIONS.iter().find(|(weight, _)| match left.checked_sub(*weight) {
                Some(rest) => {
                    left = rest;
                    false
                }
                None => true,
            });
            if wanted.is_some_and(|(_, operation)| operation(self).is_some()) {
                return;
            }
        }
    }

    /// Makes a few entries to begin with.
    pub fn plant(&mut self) {
        for _ in 0..self.rng.u8(3..8) {
            _ = self.make_tree();
            _ = self.create();
        }
    }

    fn text(&mut self, size: usize) -> String {
        let number = format!("{:012x}", self.number());
        number[number.len() - size.min(number.len())..].to_owned()
    }

    /// Returns a short text. Sizes and times are few, so that files look alike that differ.
    fn some_text(&mut self) -> String {
        let size = self.rng.usize(..6);
        self.text(size)
    }

    fn some_time(&mut self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + self.rng.u64(..2))
    }

    fn make_file(&mut self, path: &str) {
        let text = self.some_text();
        fs::write(self.at(path), &text).unwrap();
        self.story.tell(format!("create {path} {text:?}"));
        self.observe(path, Depth::Subtree);
        self.observe(path, Depth::Content);
        if self.rng.bool() {
            let time = self.some_time();
            self.give_time(path, time);
        }
    }

    fn give_time(&mut self, path: &str, time: SystemTime) {
        fs::File::open(self.at(path)).unwrap().set_modified(time).unwrap();
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        self.story.tell(format!("set the time of {path} to {seconds}"));
        self.observe(path, Depth::Metadata);
    }

    fn create(&mut self) -> Option<()> {
        let path = self.free_place()?;
        self.make_file(&path);
        Some(())
    }

    fn put(&mut self, path: &str, text: &str) {
        fs::write(self.at(path), text).unwrap();
        self.story.tell(format!("write {path} {text:?}"));
        self.observe(path, Depth::Content);
    }

    fn write(&mut self) -> Option<()> {
        let path = self.file()?;
        let text = self.some_text();
        self.put(&path, &text);
        Some(())
    }

    fn append(&mut self) -> Option<()> {
        let path = self.file()?;
        let text = fs::read_to_string(self.at(&path)).unwrap() + &self.text(2);
        self.put(&path, &text);
        Some(())
    }

    /// Writes contents of the same size, and sets the mtime back.
    fn rewrite(&mut self) -> Option<()> {
        let path = self.file()?;
        let entry = fs::metadata(self.at(&path)).unwrap();
        let text = self.text(usize::try_from(entry.len()).unwrap());
        self.put(&path, &text);
        self.give_time(&path, entry.modified().unwrap());
        Some(())
    }

    fn change_mode(&mut self) -> Option<()> {
        let path = self.pick(|kind| !kind.is_symlink())?;
        let least = if self.is_dir(&path) { 0o700 } else { 0 };
        let mode = MODES[self.rng.usize(..MODES.len())] | least;
        fs::set_permissions(self.at(&path), fs::Permissions::from_mode(mode)).unwrap();
        self.story.tell(format!("chmod {mode:o} {path}"));
        self.observe(&path, Depth::Metadata);
        Some(())
    }

    fn truncate(&mut self) -> Option<()> {
        let path = self.file()?;
        fs::File::options().write(true).open(self.at(&path)).unwrap().set_len(2).unwrap();
        self.story.tell(format!("truncate {path}"));
        self.observe(&path, Depth::Content);
        Some(())
    }

    fn set_time(&mut self) -> Option<()> {
        let path = self.pick(|kind| !kind.is_symlink())?;
        let time = self.some_time();
        self.give_time(&path, time);
        Some(())
    }

    fn remove(&mut self) -> Option<()> {
        let path = self.pick(|kind| !kind.is_dir())?;
        self.unlink(&path);
        Some(())
    }

    fn unlink(&mut self, path: &str) {
        fs::remove_file(self.at(path)).unwrap();
        self.story.tell(format!("remove {path}"));
        self.observe(path, Depth::Subtree);
    }

    fn add_dir(&mut self, path: &str) {
        fs::create_dir(self.at(path)).unwrap();
        self.story.tell(format!("mkdir {path}"));
        self.observe(path, Depth::Subtree);
    }

    fn make_dir(&mut self) -> Option<()> {
        let path = self.free_place()?;
        self.add_dir(&path);
        Some(())
    }

    fn make_tree(&mut self) -> Option<()> {
        let path = self.free_place()?;
        self.add_dir(&path);
        self.make_file(&join(&path, "a"));
        self.add_dir(&join(&path, "b"));
        self.make_file(&join(&path, "b/c"));
        Some(())
    }

    fn take_dir(&mut self, path: &str) -> Option<()> {
        let is_empty = fs::read_dir(self.at(path)).unwrap().next().is_none();
        if is_empty {
            self.unwatch(path);
            fs::remove_dir(self.at(path)).unwrap();
            self.story.tell(format!("rmdir {path}"));
            self.observe(path, Depth::Subtree);
        }
        is_empty.then_some(())
    }

    fn remove_empty(&mut self) -> Option<()> {
        let path = self.dir()?;
        self.take_dir(&path)
    }

    fn remove_all(&mut self) -> Option<()> {
        let path = self.dir()?;
        self.take_all(&path);
        Some(())
    }

    /// Removes an entry with all below it, the deepest first.
    fn take_all(&mut self, path: &str) {
        let below = format!("{path}/");
        let entries = self.entries();
        for (entry, kind) in entries.iter().rev().filter(|(entry, _)| entry.starts_with(&below)) {
            if kind.is_dir() {
                _ = self.take_dir(entry);
            } else {
                self.unlink(entry);
            }
        }
        if self.is_dir(path) {
            _ = self.take_dir(path);
        } else {
            self.unlink(path);
        }
    }

    fn add_link(&mut self, path: &str) {
        let target = ["a", "../b", "nowhere", "/nowhere/at/all"][self.rng.usize(..4)];
        symlink(target, self.at(path)).unwrap();
        self.story.tell(format!("symlink {path} -> {target}"));
        self.observe(path, Depth::Subtree);
    }

    fn make_link(&mut self) -> Option<()> {
        let path = self.free_place()?;
        self.add_link(&path);
        Some(())
    }

    fn turn_link(&mut self) -> Option<()> {
        let path = self.pick(fs::FileType::is_symlink)?;
        let new = join(&path[..path.rfind('/').unwrap_or(0)], "new");
        if self.stands(&new) {
            return None;
        }
        self.add_link(&new);
        self.rename(&new, &path)
    }

    fn change_kind(&mut self) -> Option<()> {
        let path = self.any()?;
        self.take_all(&path);
        self.make_any(&path);
        Some(())
    }

    fn make_any(&mut self, path: &str) {
        match self.rng.u8(..4) {
            0 => self.make_file(path),
            1 => self.add_link(path),
            _ => {
                self.add_dir(path);
                if self.rng.bool() {
                    self.make_file(&join(path, "a"));
                }
            }
        }
    }

    fn rename_somewhere(&mut self) -> Option<()> {
        let (from, to) = (self.any()?, self.free_place()?);
        self.rename(&from, &to)
    }

    fn rename_dir(&mut self) -> Option<()> {
        let (from, to) = (self.dir()?, self.free_place()?);
        self.rename(&from, &to)
    }

    fn rename_over(&mut self) -> Option<()> {
        let (from, to) = (self.any()?, self.any()?);
        self.rename(&from, &to)
    }

    fn swap_at_once(&mut self) -> Option<()> {
        let (one, other) = (self.any()?, self.any()?);
        self.exchange(&one, &other)
    }

    fn swap_by_third(&mut self) -> Option<()> {
        let (one, other, third) = (self.any()?, self.any()?, self.free_place()?);
        self.rename(&one, &third)?;
        if self.rename(&other, &one).is_some() {
            _ = self.rename(&third, &other);
        }
        Some(())
    }

    fn chain(&mut self) -> Option<()> {
        let mut at = self.any()?;
        let first = self.free_place()?;
        self.rename(&at, &first)?;
        at = first;
        for _ in 0..self.rng.u8(1..4) {
            let next = self.free_place()?;
            if self.rename(&at, &next).is_some() {
                at = next;
            }
        }
        Some(())
    }

    fn rename_back(&mut self) -> Option<()> {
        let (from, to) = self.last_rename.clone()?;
        if self.stands(&from) { None } else { self.rename(&to, &from) }
    }

    /// Renames an entry, and makes another one at its old name.
    fn remake(&mut self) -> Option<()> {
        let (from, to) = (self.any()?, self.free_place()?);
        self.rename(&from, &to)?;
        self.make_any(&from);
        Some(())
    }

    /// Moves a directory out of its parent, and then the parent into it.
    fn turn_inside_out(&mut self) -> Option<()> {
        let child = self.pick(fs::FileType::is_dir).filter(|path| path.contains('/'))?;
        let (above, to) = (child[..child.rfind('/')?].to_owned(), self.free_place()?);
        self.rename(&child, &to)?;
        let inner = join(&to, "d");
        if !self.stands(&inner) {
            _ = self.rename(&above, &inner);
        }
        Some(())
    }

    fn move_out(&mut self) -> Option<()> {
        let path = self.any()?;
        let name = self.number().to_string();
        self.unwatch(&path);
        fs::rename(self.at(&path), self.outside(&name)).unwrap();
        self.story.tell(format!("move {path} out, to {name}"));
        self.observe(&path, Depth::Subtree);
        Some(())
    }

    /// Moves an entry in that was moved out, perhaps to another place.
    fn move_in(&mut self) -> Option<()> {
        let mut names: Vec<_> = fs::read_dir(self.outside(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        let name = names.get(self.rng.usize(..names.len().max(1)))?.to_str()?.to_owned();
        let path = self.free_place()?;
        fs::rename(self.outside(&name), self.at(&path)).unwrap();
        self.story.tell(format!("move {name} in, to {path}"));
        self.observe(&path, Depth::Subtree);
        Some(())
    }
}
