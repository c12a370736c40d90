//! A model of the daemon: it handles what is reported by checks and walks, in any order. In the end
//! its twin must equal the tree.

use std::collections::BTreeMap;
use std::path::Path;

use crossbeam_channel::Receiver;
use notify::Event;

use super::super::{EventHandler, Thread};
use super::kernel::{ELSEWHERE, Inode, Kernel, NamedInode, ROOT, What};
use super::{ROOT as PATH, TestStep};
use crate::model::check::Depth;
use crate::model::path::RelPath;
use crate::watch::shim::{Classified, relative, shim};

/// A task that waits.
enum FollowerTask {
    Check(RelPath, Depth),
    /// The steps of a walk: open a directory, register it, list it.
    Open(RelPath),
    Register(RelPath, Inode),
    List(RelPath, Inode),
}

pub struct Follower<F> {
    kernel: Kernel,
    thread: Thread<F>,
    told: Receiver<Event>,
    tasks: Vec<FollowerTask>,
    twin: BTreeMap<RelPath, What>,
}

impl<F: EventHandler> Follower<F> {
    pub fn new(thread: Thread<F>, told: Receiver<Event>) -> Self {
        let (mut kernel, tasks) = (Kernel::new(), vec![FollowerTask::Open(RelPath::root())]);
        thread.registry.known().places.register(kernel.watch(ROOT), &RelPath::root());
        Self { kernel, thread, told, tasks, twin: BTreeMap::new() }
    }

    pub fn step(&mut self, step: TestStep) {
        match step {
            TestStep::Create(dir, name) => {
                self.kernel.create(&(self.dir(dir), name), What::File(0));
            }
            TestStep::MakeDir(dir, name) => self.kernel.create(&(self.dir(dir), name), What::Dir),
            TestStep::Write(at) => self.with(at, ROOT, |kernel, place| kernel.write(&place)),
            TestStep::Remove(at, first) => {
                self.with(at, ROOT, |kernel, place| kernel.remove(&place, first));
            }
            TestStep::Rename(at, dir, name) => {
                let to = (self.dir(dir), name);
                self.with(at, ROOT, |kernel, from| kernel.rename(&from, &to));
            }
            TestStep::Exchange(one, other) => {
                let Some(other) = self.place(other, ROOT) else { return };
                self.with(one, ROOT, |kernel, one| kernel.exchange(&one, &other));
            }
            TestStep::Removable(at) => {
                self.with(at, ROOT, |kernel, from| {
                    kernel.rename(&from, &(ELSEWHERE, from.1.clone()));
                });
            }
            TestStep::Return(at, dir, name) => {
                let to = (self.dir(dir), name);
                self.with(at, ELSEWHERE, |kernel, from| kernel.rename(&from, &to));
            }
            TestStep::Read(number) => self.read(number),
            TestStep::Act(which) => {
                if !self.tasks.is_empty() {
                    let task = self.tasks.swap_remove(usize::from(which) % self.tasks.len());
                    self.act(task);
                }
            }
        }
    }

    /// Returns some entry of a tree.
    fn place(&self, which: u8, top: Inode) -> Option<NamedInode> {
        let places: Vec<_> =
            self.kernel.entries(top).into_values().map(|(place, _)| place).collect();
        places.get(usize::from(which) % places.len().max(1)).cloned()
    }

    /// Returns some directory of the source.
    fn dir(&self, which: u8) -> Inode {
        let mut dirs = vec![ROOT];
        dirs.extend(
            self.kernel
                .entries(ROOT)
                .into_values()
                .map(|(_, at)| at)
                .filter(|at| self.kernel.is_dir(*at)),
        );
        dirs[usize::from(which) % dirs.len()]
    }

    fn with(&mut self, which: u8, top: Inode, change: impl FnOnce(&mut Kernel, NamedInode)) {
        if let Some(place) = self.place(which, top) {
            change(&mut self.kernel, place);
        }
    }

    /// Reads up to `number` records, and queues checks for what is reported.
    fn read(&mut self, number: usize) {
        for _ in 0..number {
            let Some(record) = self.kernel.records.pop_front() else {
                self.thread.report_half();
                break;
            };
            record.give(&mut self.thread);
        }
        let useless = std::mem::take(&mut self.thread.registry.known().useless);
        for wd in useless {
            self.kernel.unwatch(wd);
        }
        while let Ok(event) = self.told.try_recv() {
            match shim(event, Path::new(PATH)) {
                Classified::Dirty(path, depth) => {
                    self.tasks.push(FollowerTask::Check(
                        relative(&path, Path::new(PATH)).unwrap(),
                        depth,
                    ));
                }
                Classified::Moved(_, ends) => {
                    let ends = ends.map(|end| relative(&end, Path::new(PATH)).unwrap());
                    self.tasks.extend(ends.map(|end| FollowerTask::Check(end, Depth::Subtree)));
                }
                Classified::Nothing => {}
                Classified::Urgent(change) => panic!("{change:?}"),
            }
        }
    }

    fn act(&mut self, task: FollowerTask) {
        match task {
            FollowerTask::Check(path, depth) => self.observe(&path, depth),
            FollowerTask::Open(path) => {
                match self.kernel.find(&path).filter(|at| self.kernel.is_dir(*at)) {
                    Some(at) => self.tasks.push(FollowerTask::Register(path, at)),
                    None => self.observe(&path, Depth::Content),
                }
            }
            FollowerTask::Register(path, at) => {
                let wd = self.kernel.watch(at);
                self.thread.registry.known().put(wd, &path, || self.kernel.find(&path) == Some(at));
                self.kernel.end_watch_if_gone(at);
                self.tasks.push(FollowerTask::List(path, at));
            }
            FollowerTask::List(path, at) => self.list(&path, at),
        }
    }

    /// Queues a check of each name that differs from the twin, and opens each directory.
    fn list(&mut self, dir: &RelPath, at: Inode) {
        let is_child = |path: &&RelPath| path.split().is_some_and(|(above, _)| above == *dir);
        let mut paths: Vec<_> = self.twin.keys().filter(is_child).cloned().collect();
        for name in self.kernel.names(at) {
            let path = dir.join(&name);
            if self.kernel.at(&(at, name)).is_some_and(|child| self.kernel.is_dir(child)) {
                self.tasks.push(FollowerTask::Open(path.clone()));
            }
            paths.push(path);
        }
        for path in paths {
            let (dir, name) = (at, path.split().unwrap().1);
            let what = self.kernel.at(&(dir, name)).map(|child| self.kernel.what(child));
            if what != self.twin.get(&path).copied() {
                self.tasks.push(FollowerTask::Check(path, Depth::Content));
            }
        }
    }

    /// Does what a round does. If a directory above the path was deleted, the highest deleted one
    /// is checked instead. Directories above it that the twin lacks are checked first.
    fn observe(&mut self, path: &RelPath, depth: Depth) {
        let Some((dir, _)) = path.split() else { return };
        for above in dir.ancestors_and_self() {
            if !self.kernel.find(&above).is_some_and(|at| self.kernel.is_dir(at)) {
                return self.observe(&above, Depth::Subtree);
            }
            if self.twin.get(&above) != Some(&What::Dir) {
                self.observe(&above, Depth::Subtree);
            }
        }
        let what = self.kernel.find(path).map(|at| self.kernel.what(at));
        if what != Some(What::Dir) || self.twin.get(path) != Some(&What::Dir) {
            self.twin.retain(|other, _| !other.is_within(path));
        }
        self.twin.extend(what.map(|what| (path.clone(), what)));
        if what == Some(What::Dir) && depth == Depth::Subtree {
            self.tasks.push(FollowerTask::Open(path.clone()));
        }
    }

    /// Runs until nothing is left to read or to do.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            self.read(usize::MAX);
            match self.tasks.pop() {
                Some(task) => self.act(task),
                None if self.kernel.records.is_empty() => return,
                None => {}
            }
        }
        panic!("it does not come to rest");
    }

    pub fn verify_twins(&self) {
        let entries = self.kernel.entries(ROOT).into_iter();
        let wanted: BTreeMap<_, _> =
            entries.map(|(path, (_, at))| (path, self.kernel.what(at))).collect();
        assert_eq!(self.twin, wanted);
    }

    /// Asserts that all directories are watched, and known by their paths.
    pub fn verify_places(&self) {
        let known = self.thread.registry.known();
        for (path, (_, at)) in self.kernel.entries(ROOT) {
            if self.kernel.is_dir(at) {
                let wd =
                    self.kernel.watch_of(at).unwrap_or_else(|| panic!("{path:?} is not watched"));
                assert_eq!(known.places.path(wd), Some(path));
            }
        }
    }
}
