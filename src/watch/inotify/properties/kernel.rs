//! A model of a tree, and of the events that inotify(7) reports for its watched directories, in the
//! order of the changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::CString;

use super::super::{EventHandler, ReadFlags, Thread, Wd};
use crate::model::path::{Name, RelPath};

/// A record of an event, as it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub wd: Wd,
    pub flags: ReadFlags,
    pub cookie: u32,
    pub name: Option<String>,
}

impl Record {
    pub fn give(&self, thread: &mut Thread<impl EventHandler>) {
        let name = self.name.as_ref().map(|name| CString::new(&**name).unwrap());
        thread.take(self.wd, self.flags, self.cookie, name.as_deref());
    }
}

/// The kind of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    Dir,
    /// A file, and how often it was written to.
    File(u32),
}

pub type Inode = usize;

/// The roots of two trees: the source, and a tree outside it.
pub const ROOT: Inode = 0;
pub const ELSEWHERE: Inode = 1;

enum Node {
    Dir(BTreeMap<Name, Inode>),
    File(u32),
}

/// A name in a directory.
pub type NamedInode = (Inode, Name);

pub struct Kernel {
    nodes: Vec<Node>,
    watches: HashMap<Inode, Wd>,
    last_wd: Wd,
    cookie: u32,
    pub records: VecDeque<Record>,
}

impl Kernel {
    pub fn new() -> Self {
        let nodes = vec![Node::Dir(BTreeMap::new()), Node::Dir(BTreeMap::new())];
        Self { nodes, watches: HashMap::new(), last_wd: 0, cookie: 0, records: VecDeque::new() }
    }

    pub fn what(&self, at: Inode) -> What {
        match self.nodes[at] {
            Node::Dir(_) => What::Dir,
            Node::File(version) => What::File(version),
        }
    }

    pub fn names(&self, dir: Inode) -> Vec<Name> {
        self.below(dir).keys().cloned().collect()
    }

    fn below(&self, dir: Inode) -> &BTreeMap<Name, Inode> {
        match &self.nodes[dir] {
            Node::Dir(below) => below,
            Node::File(_) => panic!("no directory"),
        }
    }

    fn below_mut(&mut self, dir: Inode) -> &mut BTreeMap<Name, Inode> {
        match &mut self.nodes[dir] {
            Node::Dir(below) => below,
            Node::File(_) => panic!("no directory"),
        }
    }

    pub fn at(&self, (dir, name): &NamedInode) -> Option<Inode> {
        self.below(*dir).get(name).copied()
    }

    pub fn is_dir(&self, at: Inode) -> bool {
        matches!(self.nodes[at], Node::Dir(_))
    }

    /// Returns all entries below a directory, by their paths from it.
    pub fn entries(&self, top: Inode) -> BTreeMap<RelPath, (NamedInode, Inode)> {
        let (mut all, mut waiting) = (BTreeMap::new(), vec![(RelPath::root(), top)]);
        while let Some((path, dir)) = waiting.pop() {
            for (name, at) in self.below(dir) {
                let path = path.join(name);
                if self.is_dir(*at) {
                    waiting.push((path.clone(), *at));
                }
                all.insert(path, ((dir, name.clone()), *at));
            }
        }
        all
    }

    /// Returns the entry at a path of the source.
    pub fn find(&self, path: &RelPath) -> Option<Inode> {
        let mut at = ROOT;
        for above in path.ancestors_and_self() {
            let (_, name) = above.split()?;
            at = if self.is_dir(at) { self.at(&(at, name))? } else { return None };
        }
        Some(at)
    }

    fn tell(&mut self, of: Inode, flags: ReadFlags, cookie: u32, name: Option<&Name>) {
        let Some(wd) = self.watches.get(&of).copied() else { return };
        let record = Record { wd, flags, cookie, name: name.map(ToString::to_string) };
        // The kernel merges two equal records in a row.
        if self.records.back() != Some(&record) {
            self.records.push_back(record);
        }
    }

    fn tell_entry(
        &mut self,
        (dir, name): &NamedInode,
        flags: ReadFlags,
        cookie: u32,
        is_dir: bool,
    ) {
        let flags = if is_dir { flags | ReadFlags::ISDIR } else { flags };
        self.tell(*dir, flags, cookie, Some(name));
    }

    pub fn watch(&mut self, at: Inode) -> Wd {
        let last = &mut self.last_wd;
        *self.watches.entry(at).or_insert_with(|| {
            *last += 1;
            *last
        })
    }

    pub fn watch_of(&self, at: Inode) -> Option<Wd> {
        self.watches.get(&at).copied()
    }

    pub fn unwatch(&mut self, wd: Wd) {
        let watched = self.watches.iter().find(|(_, other)| **other == wd).map(|(at, _)| *at);
        if let Some(at) = watched {
            self.tell(at, ReadFlags::IGNORED, 0, None);
            self.watches.remove(&at);
        }
    }

    pub fn create(&mut self, place: &NamedInode, what: What) {
        if self.at(place).is_some() {
            return;
        }
        self.nodes.push(match what {
            What::Dir => Node::Dir(BTreeMap::new()),
            What::File(version) => Node::File(version),
        });
        let new = self.nodes.len() - 1;
        self.below_mut(place.0).insert(place.1.clone(), new);
        self.tell_entry(place, ReadFlags::CREATE, 0, what == What::Dir);
    }

    pub fn write(&mut self, place: &NamedInode) {
        let Some(at) = self.at(place) else { return };
        if let Node::File(version) = &mut self.nodes[at] {
            *version += 1;
            self.tell_entry(place, ReadFlags::MODIFY, 0, false);
            self.tell_entry(place, ReadFlags::CLOSE_WRITE, 0, false);
        }
    }

    /// Removes an entry with everything in it. `first`: whether a directory's own watch reports
    /// that before the watch of its parent.
    pub fn remove(&mut self, place: &NamedInode, first: bool) {
        let Some(at) = self.at(place) else { return };
        let is_dir = self.is_dir(at);
        for name in if is_dir { self.names(at) } else { vec![] } {
            self.remove(&(at, name), first);
        }
        self.below_mut(place.0).remove(&place.1);
        if first {
            self.end(at);
        }
        self.tell_entry(place, ReadFlags::DELETE, 0, is_dir);
        self.end(at);
    }

    /// Ends the watch of a deleted directory.
    fn end(&mut self, at: Inode) {
        self.tell(at, ReadFlags::DELETE_SELF, 0, None);
        self.tell(at, ReadFlags::IGNORED, 0, None);
        self.watches.remove(&at);
    }

    /// Whether a directory was deleted. Those who have it open still see it.
    pub fn is_gone(&self, at: Inode) -> bool {
        let stands = |top| at == top || self.entries(top).values().any(|(_, other)| *other == at);
        !stands(ROOT) && !stands(ELSEWHERE)
    }

    /// Ends a watch that was set on a directory after it was deleted.
    pub fn end_watch_if_gone(&mut self, at: Inode) {
        if self.is_gone(at) {
            self.end(at);
        }
    }

    pub fn is_within(&self, at: Inode, top: Inode) -> bool {
        at == top || (self.is_dir(top) && self.entries(top).values().any(|(_, other)| *other == at))
    }

    /// Renames an entry. A file may replace a file, and a directory an empty directory.
    pub fn rename(&mut self, from: &NamedInode, to: &NamedInode) {
        let Some(at) = self.at(from) else { return };
        let replaced = self.at(to);
        let fits = replaced.is_none_or(|old| match (&self.nodes[at], &self.nodes[old]) {
            (Node::Dir(_), Node::Dir(below)) => below.is_empty(),
            (Node::File(_), Node::File(_)) => true,
            _ => false,
        });
        if !fits || from == to || self.is_within(to.0, at) {
            return;
        }
        self.below_mut(from.0).remove(&from.1);
        self.below_mut(to.0).insert(to.1.clone(), at);
        self.tell_rename(from, to, at);
        if let Some(old) = replaced.filter(|old| self.is_dir(*old)) {
            self.end(old);
        }
    }

    fn tell_rename(&mut self, from: &NamedInode, to: &NamedInode, at: Inode) {
        self.cookie += 1;
        let (cookie, is_dir) = (self.cookie, self.is_dir(at));
        self.tell_entry(from, ReadFlags::MOVED_FROM, cookie, is_dir);
        self.tell_entry(to, ReadFlags::MOVED_TO, cookie, is_dir);
        self.tell(at, ReadFlags::MOVE_SELF, 0, None);
    }

    pub fn exchange(&mut self, one: &NamedInode, other: &NamedInode) {
        let (Some(first), Some(second)) = (self.at(one), self.at(other)) else { return };
        if self.is_within(second, first) || self.is_within(first, second) {
            return;
        }
        self.below_mut(one.0).insert(one.1.clone(), second);
        self.below_mut(other.0).insert(other.1.clone(), first);
        self.tell_rename(one, other, first);
        self.tell_rename(other, one, second);
    }
}
