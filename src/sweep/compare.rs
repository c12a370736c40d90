//! Full and quick sweeps. They list a directory of each side, join the two listings by name, and
//! compare the two entries of each name. A full sweep reads all pairs of files of equal size. A
//! quick sweep reads only those that may have changed since they were copied.

use std::sync::Arc;
use std::time::Instant;

use super::join::Joined;
use super::step::{OpenedPair, ReplicaDirHint, Step};
use super::subtree::{ComparedDirs, DirVerdict};
use super::walk::walk;
use super::{Extent, Message, Task, Walker};
use crate::fs::renamers::Renamers;
use crate::fs::tree::Dir;
use crate::fs::view::{ReplicaView, Trees};
use crate::model::check::{CachedDigests, Check, Depth};
use crate::model::entry::{DigestPair, Entry, Observed, XattrKinds, Xattrs};
use crate::model::error::FsError;
use crate::model::error::FsErrorKind;
use crate::model::error::WorkError;
use crate::model::path::RelPath;
use crate::plan::decide::may_be_newer;
use crate::plan::metadata::{MetadataDiff, grants_more, is_wider};
use crate::report::{Cause, Problem};

/// Names of one directory that one thread compares before it reports.
pub(super) const CHUNK: usize = 256;

impl<T: Trees> Walker<'_, T> {
    pub(super) fn compare(&self) {
        let known =
            if self.replica.is_some() { ReplicaDirHint::Exists } else { ReplicaDirHint::NotListed };
        let first =
            self.plan.scopes.iter().map(|scope| Step::Dir(scope.clone(), known, None)).collect();
        let threads = self.plan.threads;
        walk(threads, first, |step, more| self.run_step(step, more));
        let rest = self.bigs.rest(threads).into_iter().map(Step::BigPairs).collect();
        walk(threads, rest, |step, more| self.run_step(step, more));
    }

    fn run_step(&self, step: Step, more: &mut Vec<Step>) {
        if self.is_cancelled() {
            return;
        }
        match step {
            Step::Dir(dir, replica, above) => {
                if self.compare_dir(&dir, replica, above.as_ref(), more).is_none() {
                    above.inspect(|above| above.mark_different());
                }
            }
            Step::Names(dir, replica, joined, range, subtree) => {
                // Another task has listed the directory.
                let Some((source, open)) = self.open_both(&dir, replica) else {
                    return subtree.mark_different();
                };
                subtree.verify_identity(&source, open.as_ref());
                let mut chunk = self.chunk((&dir, &subtree), replica, &source, open.as_ref());
                chunk.compare_names(&joined, range, more);
                chunk.report();
            }
            Step::BigPairs(bigs) => self.compare_bigs(bigs),
        }
    }

    /// Compares one directory. Returns `None` if it could not be opened or listed.
    fn compare_dir(
        &self,
        dir: &RelPath,
        known: ReplicaDirHint,
        above: Option<&Arc<DirVerdict>>,
        more: &mut Vec<Step>,
    ) -> Option<()> {
        let (source, replica) = self.open_both(dir, known)?;
        if let Some(above) = above.filter(|_| known != ReplicaDirHint::NotListed) {
            self.verify_parent(above, dir, &source, replica.as_ref());
        }
        self.register(dir, &source);
        let listed = source.list();
        let also = replica.as_ref().map(ReplicaView::list).transpose();
        let (ours, theirs) = match (listed, also) {
            (Ok(ours), Ok(theirs)) => (ours, theirs.unwrap_or_default()),
            // The directory was deleted after it was opened.
            (Err(error), _) | (_, Err(error)) if error.is_dir_absence() => {
                return self.look_at(dir, Depth::Content);
            }
            (Err(error), _) | (_, Err(error)) => return self.problem(dir, error),
        };
        let known = match (known, &replica) {
            (ReplicaDirHint::Exists, Some(replica)) => self.known_of_open(&source, replica),
            (known, _) => known,
        };
        let subtree = Arc::new(self.compare_dir_itself(dir, &source, replica.as_ref(), above));

        self.plan.filter.refresh(dir, &source, |name| ours.find(name).is_some());
        let joined = Arc::new(Joined::new(ours, theirs));
        let mut chunk = self.chunk((dir, &subtree), known, &source, replica.as_ref());
        // A round deletes those of the replica, which are left over, and reports those of the
        // source (I7).
        for name in joined.reserved() {
            chunk.note_reserved(name);
        }
        chunk.compare_names(&joined, 0..joined.len().min(CHUNK), more);
        chunk.report();
        if let Some(rules) = self.plan.filter.dir_of_rules(dir)
            && let Ok(below) = self.source.open(&rules)
        {
            self.register(&rules, &below);
        }
        for start in (CHUNK..joined.len()).step_by(CHUNK) {
            let range = start..joined.len().min(start + CHUNK);
            more.push(Step::Names(
                dir.clone(),
                known,
                Arc::clone(&joined),
                range,
                Arc::clone(&subtree),
            ));
        }
        Some(())
    }

    /// Opens a directory on both sides. Returns `None` if there is nothing to compare.
    pub(super) fn open_both(
        &self,
        dir: &RelPath,
        known: ReplicaDirHint,
    ) -> Option<(Dir, Option<T::Replica>)> {
        let source = match self.source.open(dir) {
            Ok(source) => source,
            // Deleted or replaced since its parent was listed: a round checks its name.
            Err(error) if error.is_dir_absence() => return self.look_at(dir, Depth::Content),
            Err(error) => return self.problem(dir, error),
        };
        if self.is_replica(dir, &source) {
            return None;
        }
        let Some(replica) = self.replica.as_ref().filter(|_| known != ReplicaDirHint::NotListed)
        else {
            return Some((source, None));
        };
        match replica.open(dir) {
            Ok(replica) => Some((source, Some(replica))),
            Err(error) if error.is_dir_absence() => Some((source, None)),
            // Its mode denies access. A round changes that, and everything below is then checked.
            Err(error) if error.kind == FsErrorKind::Denied => self.look_at(dir, Depth::Subtree),
            Err(error) => self.problem(dir, error),
        }
    }

    /// Marks the directory `above` as different if `source` and `replica` are not the entries at
    /// `dir` in it. If other users can rename there, a path may lead to another directory by now.
    fn verify_parent(
        &self,
        above: &DirVerdict,
        dir: &RelPath,
        source: &Dir,
        replica: Option<&T::Replica>,
    ) {
        if above.renamers_within() == Renamers::Nobody {
            return;
        }
        let lies = || {
            let (path, name) = dir.split()?;
            let (ours, theirs) = (source.entry().ok()?, replica?.entry().ok()?);
            let source = self.source.open(&path).ok()?;
            let replica = self.replica.as_ref()?.open(&path).ok()?;
            let is_here =
                |seen: Observed, it: &Entry| seen.entry().is_some_and(|seen| seen.is_inode_of(it));
            Some(
                above.is(&source, &replica)
                    && is_here(source.observe(name.as_bytes()), &ours)
                    && is_here(replica.observe(name.as_bytes()), &theirs),
            )
        };
        if lies() != Some(true) {
            above.mark_different();
        }
    }

    pub(super) fn observe(&self) -> Check {
        // If the walk leaves out everything below the names that it finds, the checks include it.
        let depth = if self.plan.extent == Extent::Names { Depth::Subtree } else { Depth::Content };
        Check::new(depth, self.plan.detector, Instant::now())
    }

    /// Returns a check of a name that the walk has found.
    pub(super) fn found(&self, cached: Option<CachedDigests>) -> Check {
        Check { cached: cached.map(Box::new), from_walk: true, ..self.observe() }
    }

    /// Returns the digests to report for two files that were read; `None` if the files agree in
    /// everything that is mirrored. `differ`: whether metadata or attributes differ.
    pub(super) fn judge(
        &self,
        source: &Entry,
        replica: &Entry,
        digests: DigestPair,
        differ: bool,
    ) -> Option<CachedDigests> {
        self.counts.hashed(source.size + replica.size);
        // A quick sweep also reports files that agree: the round marks them by setting their times
        // again, and the next quick sweep need not read them.
        let mark = self.plan.task == Task::Quick && self.plan.capabilities.ctimes;
        (!digests.same() || differ || mark).then(|| CachedDigests {
            source: source.identity(),
            replica: replica.identity(),
            digests,
        })
    }

    /// Whether metadata or attributes of two files differ.
    pub(super) fn metadata_differs(&self, pair: &OpenedPair) -> Result<bool, WorkError> {
        let OpenedPair { source: (file, source), replica: (other, replica) } = pair;
        let kinds = self.plan.capabilities.xattrs;
        Ok(MetadataDiff::between(source, replica, &self.plan.capabilities).any()
            || file.xattrs(kinds)? != other.xattrs(kinds)?)
    }

    fn look_at<R>(&self, path: &RelPath, depth: Depth) -> Option<R> {
        if let Some((dir, name)) = path.split() {
            self.counts.differs();
            self.send(Message::Differ(dir, vec![(name, Check { depth, ..self.observe() })]));
        }
        None
    }

    fn problem<R>(&self, dir: &RelPath, error: FsError) -> Option<R> {
        self.send(Message::Problem(Problem { path: dir.clone(), cause: Cause::FsError(error) }));
        None
    }

    fn known_of_open(&self, source: &Dir, replica: &T::Replica) -> ReplicaDirHint {
        match (source.entry(), replica.entry()) {
            (Ok(source), Ok(replica)) if self.may_be_moved(&source, &replica) => {
                ReplicaDirHint::MaybeMoved
            }
            _ => ReplicaDirHint::Exists,
        }
    }

    /// Whether a directory of the source may have been moved to its place since the replica's was
    /// last changed. A move sets the ctime of a directory and nothing else, as a chmod does. An
    /// entry that is made in it afterwards hides the move from quick sweeps, until the next full
    /// sweep.
    pub(super) fn may_be_moved(&self, source: &Entry, replica: &Entry) -> bool {
        source.inode.ctime != source.mtime && may_be_newer(source, replica, &self.plan.capabilities)
    }

    /// Compares the metadata of a directory that exists on both sides, and begins the verdict on
    /// its contents.
    fn compare_dir_itself(
        &self,
        dir: &RelPath,
        source: &Dir,
        replica: Option<&T::Replica>,
        above: Option<&Arc<DirVerdict>>,
    ) -> DirVerdict {
        let capabilities = &self.plan.capabilities;
        let kinds = capabilities.xattrs;
        let ours = facts(source, kinds);
        // The file system at this directory is no longer mounted. The replica's copy of it does not
        // affect the directories above.
        let is_lost = self.plan.submounts.contains(dir)
            && ours.as_ref().is_ok_and(|(entry, _)| !entry.inode.mount_root);
        let above = above.filter(|_| !is_lost);
        let subtree = DirVerdict::new(above.cloned(), capabilities.user, self.cancel);
        let Some(replica) = replica else { return subtree };
        let (Ok(ours), Ok(theirs)) = (ours, facts(replica, kinds)) else {
            subtree.mark_different();
            return subtree;
        };
        let differs = MetadataDiff {
            xattrs: ours.1 != theirs.1,
            ..MetadataDiff::between(&ours.0, &theirs.0, capabilities)
        };
        let verified_dirs = self.plan.verified_dirs.as_ref().filter(|_| !is_lost);
        let rights = differs.of_rights((&ours.1, &theirs.1));
        let is_closed = grants_more(&ours.0, &theirs.0, rights, capabilities);
        // A directory that is to be widened is reported after everything below it.
        if differs.any() && !(is_closed && verified_dirs.is_some()) {
            self.send(Message::Differ(dir.clone(), Vec::new()));
        }
        let Some(verified_dirs) = verified_dirs else { return subtree };
        let renamers = match above {
            Some(above) => above.renamers_within(),
            None => self.replica.as_ref().map_or(Renamers::Many, |root| {
                Renamers::of(root, dir, &theirs.0, verified_dirs, capabilities.user)
            }),
        };
        let is_wider = is_wider(&ours.0, &theirs.0, rights, capabilities);
        let subtree =
            subtree.of(ComparedDirs { source: ours.0, replica: theirs.0, renamers }, verified_dirs);
        if is_wider {
            subtree.mark_parent_different();
        }
        if is_closed { subtree.tell(dir, self.found(None), self.out) } else { subtree }
    }
}

/// Reads the facts of a directory, and its attributes.
fn facts(dir: &impl ReplicaView, kinds: XattrKinds) -> Result<(Entry, Xattrs), FsError> {
    Ok((dir.entry()?, dir.xattrs(kinds)?))
}
