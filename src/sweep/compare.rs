//! The full sweep and the quick scan: list a directory of each side, join the two by name, look
//! at both entries of a name, and read the files whose size is equal; the quick scan only those
//! that may have changed since they were copied.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::io::Errno;

use super::batch::Batch;
use super::big::Big;
use super::join::{Joined, Pair};
use super::subtree::Subtree;
use super::walk::walk;
use super::{Message, Task, Walker};
use crate::decide::{Action, Contents, Differs, decide, is_more_open, may_be_newer};
use crate::entry::{Entry, Kind, Side, Verdict};
use crate::fault::Fault;
use crate::fault::Setback;
use crate::filter::DirFilter;
use crate::links::Linked;
use crate::path::{Name, RelPath};
use crate::queue::{Depth, Evidence, Look};
use crate::report::{Cause, Problem};
use crate::tree::{Dir, File, Hint, ReplicaDir};

/// Names of one directory that one thread compares before it reports.
pub(super) const CHUNK: usize = 256;

/// Files of this size, in bytes, and above are a task of their own.
const BIG: u64 = 1024 * 1024;

/// A file and what is known of it.
pub(super) type Opened = (File, Entry);

pub(super) enum Step {
    /// A directory, and the one that holds it.
    Dir(RelPath, Replica, Option<Arc<Subtree>>),
    /// Some of the names in a wide directory.
    Names(RelPath, Replica, Arc<Joined>, Range<usize>, Arc<Subtree>),
    /// Pairs of big files.
    Bigs(Vec<Big>),
}

/// What is known of the replica's directory before it is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Replica {
    Open,
    /// The source's directory may have been moved here, with all that it holds. Such entries are as
    /// old as ever: their ctimes tell nothing, and a quick scan reads them.
    Doubted,
    /// Its parent was listed without it. What stands there by now was made by rounds after that,
    /// and needs no reading.
    Lacks,
}

/// What one thread has found in one directory.
struct Chunk<'a> {
    walker: &'a Walker<'a>,
    dir: &'a RelPath,
    subtree: &'a Arc<Subtree>,
    known: Replica,
    source: &'a Dir,
    replica: Option<&'a ReplicaDir>,
    filter: DirFilter<'a>,
    batch: Batch,
    found: Vec<(Name, Look)>,
    linked: Vec<Linked>,
}

impl Walker<'_> {
    pub(super) fn compare(&self) {
        let known = if self.replica.is_some() { Replica::Open } else { Replica::Lacks };
        let first = self.plan.scopes.iter().map(|scope| Step::Dir(scope.clone(), known, None)).collect();
        let threads = self.plan.threads;
        walk(threads, first, |step, more| self.take_step(step, more));
        let rest = self.bigs.rest(threads).into_iter().map(Step::Bigs).collect();
        walk(threads, rest, |step, more| self.take_step(step, more));
    }

    fn take_step(&self, step: Step, more: &mut Vec<Step>) {
        if self.is_cancelled() {
            return;
        }
        match step {
            Step::Dir(dir, replica, above) => {
                if self.compare_dir(&dir, replica, above.as_ref(), more).is_none() {
                    above.inspect(|above| above.spoil());
                }
            }
            Step::Names(dir, replica, joined, range, subtree) => {
                // Another task has listed it.
                let Some((source, open)) = self.open_both(&dir, replica) else { return subtree.spoil() };
                let mut chunk = self.chunk((&dir, &subtree), replica, &source, open.as_ref());
                chunk.compare_names(&joined, range, more);
                chunk.report();
            }
            Step::Bigs(bigs) => self.compare_bigs(bigs),
        }
    }

    /// `None` where it could not be looked into.
    fn compare_dir(
        &self,
        dir: &RelPath,
        known: Replica,
        above: Option<&Arc<Subtree>>,
        more: &mut Vec<Step>,
    ) -> Option<()> {
        let (source, replica) = self.open_both(dir, known)?;
        self.register(dir, &source);
        let listed = source.list();
        let also = replica.as_ref().map(|replica| replica.list()).transpose();
        let (ours, theirs) = match (listed, also) {
            (Ok(ours), Ok(theirs)) => (ours, theirs.unwrap_or_default()),
            // Removed since it was opened.
            (Err(fault), _) | (_, Err(fault)) if fault.is_no_dir() => {
                return self.look_at(dir, Depth::Content);
            }
            (Err(fault), _) | (_, Err(fault)) => return self.problem(dir, fault),
        };
        let known = match (known, &replica) {
            (Replica::Open, Some(replica)) if self.may_be_moved(&source, replica) => Replica::Doubted,
            (known, _) => known,
        };
        let subtree = Arc::new(self.compare_dir_itself(dir, &source, replica.as_ref(), above));

        self.plan.filter.refresh(dir, &source, |name| ours.find(name).is_some());
        let joined = Arc::new(Joined::new(ours, theirs));
        let mut chunk = self.chunk((dir, &subtree), known, &source, replica.as_ref());
        // Left over in the replica: to be removed. In the source: to be named (I7).
        for name in joined.reserved() {
            chunk.see_reserved(name);
        }
        chunk.compare_names(&joined, 0..joined.len().min(CHUNK), more);
        chunk.report();
        if let Some(rules) = self.plan.filter.rules_below(dir)
            && let Ok(below) = self.source.open(&rules)
        {
            self.register(&rules, &below);
        }
        for start in (CHUNK..joined.len()).step_by(CHUNK) {
            let range = start..joined.len().min(start + CHUNK);
            more.push(Step::Names(dir.clone(), known, Arc::clone(&joined), range, Arc::clone(&subtree)));
        }
        Some(())
    }

    fn chunk<'a>(
        &'a self,
        (dir, subtree): (&'a RelPath, &'a Arc<Subtree>),
        known: Replica,
        source: &'a Dir,
        replica: Option<&'a ReplicaDir>,
    ) -> Chunk<'a> {
        let filter = self.plan.filter.at(dir);
        let (batch, found, linked) = (Batch::default(), Vec::new(), Vec::new());
        Chunk { walker: self, dir, subtree, known, source, replica, filter, batch, found, linked }
    }

    /// Opens a directory on both sides; `None` where there is nothing to compare.
    pub(super) fn open_both(&self, dir: &RelPath, known: Replica) -> Option<(Dir, Option<ReplicaDir>)> {
        let source = match self.source.open(dir) {
            Ok(source) => source,
            // Gone or swapped since its parent was listed: its parent's name is looked at.
            Err(fault) if fault.is_no_dir() => return self.look_at(dir, Depth::Content),
            Err(fault) => return self.problem(dir, fault),
        };
        if self.is_replica(dir, &source) {
            return None;
        }
        let Some(replica) = self.replica.as_ref().filter(|_| known != Replica::Lacks) else {
            return Some((source, None));
        };
        match replica.open(dir) {
            Ok(replica) => Some((source, Some(replica))),
            Err(fault) if fault.is_no_dir() => Some((source, None)),
            // Its mode locks it: a round opens it up, and then what lies below is looked at.
            Err(fault) if fault.errno == Errno::ACCESS => self.look_at(dir, Depth::Subtree),
            Err(fault) => self.problem(dir, fault),
        }
    }

    fn look(&self) -> Look {
        Look::new(Depth::Content, self.plan.detector, Instant::now())
    }

    /// A wish to look at a name that a comparison has found.
    pub(super) fn found(&self, evidence: Option<Evidence>) -> Look {
        Look { evidence: evidence.map(Box::new), fresh: true, ..self.look() }
    }

    /// What is to be told of two files that were read; `None` where they are equal in all that is mirrored.
    pub(super) fn judge(
        &self,
        source: &Entry,
        replica: &Entry,
        verdict: Verdict,
        differ: bool,
    ) -> Option<Evidence> {
        self.hashed.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(source.size + replica.size, Ordering::Relaxed);
        // Found equal by a quick scan, it is to be marked so: the next one need not read it.
        let mark = self.plan.task == Task::Quick && self.plan.keeps.ctimes;
        (!verdict.same() || differ || mark).then(|| Evidence {
            source: source.identity(),
            replica: replica.identity(),
            verdict,
        })
    }

    /// Whether two files differ in what is no part of their contents.
    pub(super) fn differ_beside(
        &self,
        file: &File,
        source: &Entry,
        other: &File,
        replica: &Entry,
    ) -> Result<bool, Setback> {
        let kinds = self.plan.keeps.xattrs;
        Ok(Differs::between(source, replica, &self.plan.keeps).any()
            || file.xattrs(kinds)? != other.xattrs(kinds)?)
    }

    fn look_at<T>(&self, path: &RelPath, depth: Depth) -> Option<T> {
        if let Some((dir, name)) = path.split() {
            self.differ.fetch_add(1, Ordering::Relaxed);
            self.send(Message::Differ(dir, vec![(name, Look { depth, ..self.look() })]));
        }
        None
    }

    fn problem<T>(&self, dir: &RelPath, fault: Fault) -> Option<T> {
        self.send(Message::Problem(Problem { path: dir.clone(), cause: Cause::Fault(fault) }));
        None
    }

    /// Whether a directory of the source may have been moved to where it is since the replica's was
    /// last touched. A move sets its ctime, and nothing else. (So does a chmod; and an entry that is
    /// made in it afterwards hides the move from quick scans, until the next sweep.)
    fn may_be_moved(&self, source: &Dir, replica: &ReplicaDir) -> bool {
        let (Ok(source), Ok(replica)) = (source.entry(), replica.entry()) else { return false };
        source.ctime != source.mtime && may_be_newer(&source, &replica, &self.plan.keeps)
    }

    /// Compares the metadata of a directory that stands on both sides, and begins to find out what it holds.
    fn compare_dir_itself(
        &self,
        dir: &RelPath,
        source: &Dir,
        replica: Option<&ReplicaDir>,
        above: Option<&Arc<Subtree>>,
    ) -> Subtree {
        let keeps = &self.plan.keeps;
        let xattrs = |dir: &Dir| dir.xattrs(keeps.xattrs);
        let facts = |dir: &Dir| -> Result<_, Fault> { Ok((dir.entry()?, xattrs(dir)?)) };
        let ours = facts(source);
        // What the replica has of a file system that is no longer mounted is none of the directories' above.
        let is_lost =
            self.plan.crossings.contains(dir) && ours.as_ref().is_ok_and(|(entry, _)| !entry.mount_root);
        let above = above.filter(|_| !is_lost);
        let subtree = Subtree::new(above.cloned(), self.cancel);
        let Some(replica) = replica else { return subtree };
        let (Ok(ours), Ok(theirs)) = (ours, facts(replica)) else {
            subtree.spoil();
            return subtree;
        };
        let differs = Differs { xattrs: ours.1 != theirs.1, ..Differs::between(&ours.0, &theirs.0, keeps) };
        if differs.any() {
            self.send(Message::Differ(dir.clone(), Vec::new()));
        }
        let Some(twins) = self.plan.twins.as_ref().filter(|_| !is_lost) else { return subtree };
        if is_more_open(&ours.0, &theirs.0, differs, keeps)
            && let Some(above) = above
        {
            above.spoil();
        }
        let subtree = subtree.of(twins, ours.0, theirs.0, keeps.user);
        if differs.visible() { subtree.tell(dir, self.out) } else { subtree }
    }
}

impl Chunk<'_> {
    fn compare_names(&mut self, joined: &Joined, range: Range<usize>, more: &mut Vec<Step>) {
        for pair in joined.pairs(range) {
            let Some(name) = Name::new(pair.name) else { continue };
            if !self.is_excluded(&pair) {
                self.compare_name(name, pair.source, pair.replica, more);
                continue;
            }
            if pair.replica.is_some() {
                self.see_excluded(&name);
            }
            if let Some(registry) = &self.walker.plan.registry {
                // It may have been watched before it came to be excluded.
                registry.forget(&self.dir.join(&name));
            }
        }
    }

    /// What is excluded stays in the replica. If it is not of the one whose directory this is in the source, that one is
    /// not to see it: rules may be anybody's.
    fn see_excluded(&self, name: &Name) {
        let owner = |entry: &Entry| Some(entry.uid);
        let whose = self.source.entry().ok().as_ref().and_then(owner);
        let theirs = self.replica.map_or(Side::Absent, |replica| replica.look(name.as_bytes()));
        if theirs.entry().and_then(owner) != whose {
            self.subtree.spoil();
        }
    }

    /// A reserved name: what is under way is for its maker alone, what was put aside is as open as it was.
    fn see_reserved(&mut self, name: &[u8]) {
        let theirs = self.replica.map_or(Side::Absent, |replica| replica.look(name));
        let is_closed = |entry: &Entry| match entry.kind {
            Kind::File => entry.is_closed(),
            Kind::Symlink(_) => true,
            Kind::Dir | Kind::Special(_) => false,
        };
        if !theirs.entry().is_none_or(is_closed) {
            self.subtree.spoil();
        }
        self.found.extend(Name::new(name).map(|name| (name, self.walker.look())));
    }

    /// Without a rule, no name is looked at for the sake of one.
    fn is_excluded(&self, pair: &Pair<'_>) -> bool {
        let name = pair.name;
        let source = |hint: Hint| hint.is_dir_or(|| self.source.look(name).is_dir());
        let other = |hint: Hint| hint.is_dir_or(|| self.replica.is_some_and(|dir| dir.look(name).is_dir()));
        !self.walker.plan.filter.is_empty()
            && self.filter.excludes_either(name, [pair.source.map(source), pair.replica.map(other)])
    }

    fn compare_name(
        &mut self,
        name: Name,
        source: Option<Hint>,
        replica: Option<Hint>,
        more: &mut Vec<Step>,
    ) {
        self.walker.entries.fetch_add(u64::from(source.is_some()), Ordering::Relaxed);
        match (source, replica) {
            (Some(Hint::Dir), Some(Hint::Dir)) => more.push(self.step_into(&name, self.known)),
            // To be named, once; it makes no difference.
            (Some(Hint::Special), None) => self.found.push((name, self.walker.look())),
            (Some(Hint::Dir), None) => {
                more.push(self.step_into(&name, Replica::Lacks));
                self.walker.differ.fetch_add(1, Ordering::Relaxed);
                self.found.push((name, self.walker.look()));
            }
            (Some(Hint::File), None) => self.lacks_file(name),
            (Some(Hint::Symlink), None) => self.differs(name, None),
            (None, _) => self.differs_there(name),
            (Some(Hint::File), Some(Hint::File)) if self.walker.plan.task == Task::Full => {
                self.compare_listed_files(name, more);
            }
            (Some(_), _) => self.compare_entries(name, more),
        }
    }

    /// Compares what both listings say to be files: opened, they tell what a look would.
    fn compare_listed_files(&mut self, name: Name, more: &mut Vec<Step>) {
        let Ok((ours, theirs)) = self.open_pair(&name) else { return self.compare_entries(name, more) };
        self.note_links(&name, &ours.1);
        match ours.1.size {
            size if size != theirs.1.size => self.differs_there(name),
            BIG.. => self.walker.put_off((self.dir, self.subtree), name, more),
            _ => self.read_pair(name, ours, theirs),
        }
    }

    fn compare_entries(&mut self, name: Name, more: &mut Vec<Step>) {
        let source = self.source.look(name.as_bytes());
        let replica = self.replica.map_or(Side::Absent, |replica| replica.look(name.as_bytes()));
        if let Some(entry) = source.entry() {
            self.note_links(&name, entry);
        }
        if source.is_dir() {
            more.push(self.step_into(&name, if replica.is_dir() { self.known } else { Replica::Lacks }));
        }
        match decide(&source, &replica, Contents::Unread, &self.walker.plan.keeps) {
            Action::Nothing => {}
            // A directory compares its own metadata.
            Action::SetMetadata(_) if source.is_dir() => {}
            Action::NotMirrored { stale: false, .. } => {
                replica.fault().inspect(|_| self.subtree.spoil());
                self.found.push((name, self.walker.look()));
            }
            Action::Compare if self.is_settled(&source, &replica) => {}
            Action::Compare if source.entry().is_some_and(|entry| entry.size >= BIG) => {
                self.walker.put_off((self.dir, self.subtree), name, more);
            }
            Action::Compare => self.compare_files(name),
            _ if replica == Side::Absent => self.differs(name, None),
            Action::SetMetadata(_)
            | Action::CopyFile(_)
            | Action::MakeSymlink(_)
            | Action::MakeDir(_)
            | Action::Remove
            | Action::NotMirrored { stale: true, .. }
            | Action::Unsure => self.differs_there(name),
        }
    }

    fn step_into(&self, name: &Name, known: Replica) -> Step {
        Step::Dir(self.dir.join(name), known, Some(Arc::clone(self.subtree)))
    }

    /// Whether a quick scan takes two files of equal size for equal, unread.
    fn is_settled(&self, source: &Side, replica: &Side) -> bool {
        let keeps = &self.walker.plan.keeps;
        let (Some(source), Some(replica)) = (source.entry(), replica.entry()) else { return false };
        self.walker.plan.task == Task::Quick
            && self.known != Replica::Doubted
            && !may_be_newer(source, replica, keeps)
            && !Differs::between(source, replica, keeps).any()
    }

    /// Reads a pair of files of equal size.
    fn compare_files(&mut self, name: Name) {
        match self.open_pair(&name) {
            Ok((ours, theirs)) if ours.1.size == theirs.1.size => self.read_pair(name, ours, theirs),
            // Whatever went wrong, a round looks at the name and says it.
            _ => self.differs_there(name),
        }
    }

    fn open_pair(&self, name: &Name) -> Result<(Opened, Opened), Setback> {
        let ours = self.source.open_file(name.as_bytes())?;
        let theirs = self.replica.ok_or(Setback::Changed)?.open_file(name.as_bytes())?;
        Ok((ours, theirs))
    }

    /// Reads a pair, which is compared with others of the directory.
    fn read_pair(&mut self, name: Name, (file, source): Opened, (other, replica): Opened) {
        let (walker, size) = (self.walker, source.size + replica.size);
        // RACE: one may be written to while it is read. Whoever acts on the evidence sees that;
        // what was wrongly found equal is found by the next look.
        let result = walker.differ_beside(&file, &source, &other, &replica).and_then(|differs| {
            let manner = (walker.drops_behind(), &**walker.cancel);
            self.batch.read(&name, (&file, source), (&other, replica), differs, manner)
        });
        match result {
            Ok(()) => {
                walker.rate.pace(size, walker.cancel);
                if self.batch.is_full() {
                    self.conclude();
                }
            }
            Err(Setback::Cancelled) => {}
            Err(Setback::Changed | Setback::Fault(_)) => self.differs_there(name),
        }
    }

    /// Hashes what was read.
    fn conclude(&mut self) {
        for (read, verdict) in self.batch.take() {
            if read.differs || !verdict.same() {
                self.subtree.spoil();
            }
            if let Some(evidence) = self.walker.judge(&read.source, &read.replica, verdict, read.differs) {
                self.differs(read.name, Some(evidence));
            }
        }
    }

    fn differs(&mut self, name: Name, evidence: Option<Evidence>) {
        self.walker.differ.fetch_add(1, Ordering::Relaxed);
        self.found.push((name, self.walker.found(evidence)));
    }

    /// The same of what the replica has.
    fn differs_there(&mut self, name: Name) {
        self.subtree.spoil();
        self.differs(name, None);
    }

    fn lacks_file(&mut self, name: Name) {
        self.walker.differ.fetch_add(1, Ordering::Relaxed);
        // Where upper and lower case are one, the file may be there under another name.
        let new = !self.walker.plan.keeps.folds_case;
        self.found.push((name, Look { new, ..self.walker.found(None) }));
    }

    fn note_links(&mut self, name: &Name, entry: &Entry) {
        if entry.has_links() {
            self.walker.linked.fetch_add(1, Ordering::Relaxed);
            let watched = self.walker.plan.registry.is_some();
            self.linked.extend(Linked::of(&self.dir.join(name), entry, false).filter(|_| watched));
        }
    }

    fn report(mut self) {
        self.conclude();
        if !self.linked.is_empty() {
            self.walker.send(Message::Linked(self.linked));
        }
        if !self.found.is_empty() {
            self.walker.send(Message::Differ(self.dir.clone(), self.found));
        }
    }
}
