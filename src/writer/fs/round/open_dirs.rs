//! The `open_dirs` phase: opens the directories of all checks on both sides.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{Observation, Requeue, Round};
use crate::fs::filter::DirFilter;
use crate::fs::tree::{Dir, ReplicaDir};
use crate::fs::view::Trees;
use crate::model::check::{CachedDigests, Check, Checks, Depth, Detector, add};
use crate::model::entry::Observed;
use crate::model::error::FsError;
use crate::model::error::FsErrorKind;
use crate::model::error::WorkError;
use crate::model::path::{Name, RelPath};
use crate::writer::fs::big_files::{Finished, Job, JobKind, JobResult};
use crate::writer::fs::copy::Temp;

/// How long after its restriction a directory is checked again before an entry is published in it.
const ASKED_AGAIN: Duration = Duration::from_millis(5);

/// A directory in which names are checked, open on both sides.
pub(super) struct DirPair<'a> {
    pub source: Dir,
    /// `None` if the replica has no such directory (yet).
    pub replica: Option<ReplicaDir>,
    pub observations: Vec<Observation>,
    /// Big files to be published here.
    pub finished: Vec<Finished>,
    pub filter: DirFilter<'a>,
    /// When the replica's was restricted; `None` if it stays too open.
    restricted: Option<Instant>,
    /// Whether `source` still stands at its path below the pinned root; asked once (I5).
    standing: OnceLock<bool>,
    /// Whether the replica's is append-only: an entry in it can be neither renamed nor removed.
    pub is_append_only_dir: bool,
    /// Whether nobody else can replace a file in the replica's; asked once.
    ours_alone: OnceLock<bool>,
}

impl DirPair<'_> {
    /// Returns the directory on both sides, if it stands on both.
    pub fn both(&self) -> Option<(&Dir, &ReplicaDir)> {
        Some((&self.source, self.replica.as_ref()?))
    }

    /// Returns whether the source's directory has been restricted since the replica's was. Checked
    /// only after [`ASKED_AGAIN`]: most rounds are over by then.
    pub fn is_too_open_by_now(&self) -> bool {
        self.restricted.is_some_and(|restricted| restricted.elapsed() > ASKED_AGAIN)
            && self.both().is_some_and(|(source, replica)| is_wider(source, replica))
    }

    /// Returns whether an absence in the source's directory proves a deletion (I5): it still stands
    /// at its path, below the pinned root.
    pub fn is_standing(&self, round: &Round<'_>, rel: &RelPath) -> bool {
        *self.standing.get_or_init(|| {
            let same_root = round.shared.roots.source.id() == Ok(round.shared.roots.source_id);
            let id = |dir: &Dir| dir.entry().map(|entry| entry.inode.id());
            same_root && matches!((round.source.open(rel).and_then(|dir| id(&dir)), id(&self.source)), (Ok(a), Ok(b)) if a == b)
        })
    }

    /// Returns whether a file's name proves that it is the source's. The two directories are
    /// verified, and nobody else can write to the replica's, or could before.
    pub fn is_ours_alone(&self, round: &Round<'_>) -> bool {
        *self.ours_alone.get_or_init(|| {
            let Some(Ok(replica)) = self.replica.as_ref().map(|replica| replica.entry()) else {
                return false;
            };
            let Ok(source) = self.source.entry() else { return false };
            let is_ours =
                replica.uid == round.shared.capabilities.user && replica.mode & 0o022 == 0;
            let verified_dirs = &round.shared.verified_dirs;
            is_ours
                && verified_dirs.are_verified(&source, &replica)
                && !verified_dirs.had_other_renamers(&replica)
        })
    }
}

/// Returns the directory above a path, and the step from there.
pub(super) fn step_to(path: &RelPath) -> Option<(RelPath, RelPath)> {
    let (above, name) = path.split()?;
    Some((above, RelPath::root().join(&name)))
}

/// Returns whether the replica's directory is wider than the source's, if both can be examined.
fn is_wider(source: &Dir, replica: &Dir) -> bool {
    matches!((source.entry(), replica.entry()), (Ok(source), Ok(replica)) if replica.is_wider_than(&source))
}

impl Round<'_> {
    /// Sorts the results of workers. Copies are kept for the `contents` phase. The MD5s of a pair
    /// become the evidence of a check. Failed copies are removed.
    pub(super) fn sort_finished(&mut self, mut checks: Checks, finished: Vec<Finished>) -> Checks {
        for Finished { job, result, took } in finished {
            self.out.busy.push((job.path.clone(), took));
            let work_error = match (&job.kind, result) {
                (JobKind::Compare { replica_entry, .. }, Ok(JobResult::Digests(digests))) => {
                    let cached = CachedDigests {
                        source: job.identity(),
                        replica: replica_entry.identity(),
                        digests,
                    };
                    let check = Check { cached: Some(Box::new(cached)), ..job.check };
                    self.out.hashed += 1;
                    add(&mut checks, &job.path, check);
                    continue;
                }
                (JobKind::Fill { .. }, Ok(_)) => {
                    let Some((dir, _)) = job.path.split() else { continue };
                    // The directory is opened for the temporary file in it.
                    let dir_pair = self.place(&dir, &mut checks, Some(&job.check));
                    match dir_pair.and_then(|()| self.dir_pairs.get_mut(&dir)) {
                        Some(dir_pair) => dir_pair.finished.push(Finished { job, result, took }),
                        None => self.discard(&job),
                    }
                    continue;
                }
                (_, Err(work_error)) => work_error,
                (JobKind::Compare { .. }, Ok(JobResult::Length(_))) => WorkError::Changed,
            };
            let (path, check) = (job.path.clone(), job.check.clone());
            self.discard(&job);
            match work_error {
                // Overtaken by a newer change.
                WorkError::Cancelled => {
                    self.out.again.push((
                        path,
                        Check { unseen_in_replica: false, ..check },
                        Requeue::Changing,
                    ));
                }
                other => self.out.record_failure(path, check, other),
            }
        }
        checks
    }

    /// Removes the temporary file of a big file that is not published.
    fn discard(&mut self, job: &Job) {
        let (JobKind::Fill { name, .. }, Some((dir, _))) = (&job.kind, job.path.split()) else {
            return;
        };
        if let Ok(open) = self.replica.open(&dir) {
            drop(Temp::adopt(&open, name.clone(), &self.shared.names));
            self.touch(dir, None);
        }
    }

    /// Opens the directories of all checks on both sides. If the source's directory is missing, the
    /// check moves to its highest missing ancestor. If the replica's is missing, its missing
    /// ancestors are checked too.
    pub(super) fn open_dirs(&mut self, mut checks: Checks) {
        self.refresh_rules(&checks);
        // The `moves` phase may have taken long.
        self.forget_restricted();
        while let Some((dir, names)) = checks.pop_first() {
            let first = names.values().next().cloned();
            if self.place(&dir, &mut checks, first.as_ref()).is_none() {
                self.put_off(&dir, names);
                continue;
            }
            let Some(dir_pair) = self.dir_pairs.get_mut(&dir) else { continue };
            let mut merged: BTreeMap<Name, Check> = dir_pair
                .observations
                .drain(..)
                .map(|observation| (observation.name, observation.check))
                .collect();
            for (name, check) in names {
                match merged.get_mut(&name) {
                    Some(waiting) => waiting.merge(check),
                    None => _ = merged.insert(name, check),
                }
            }
            let unobserved = |(name, check)| Observation {
                name,
                check,
                source: Observed::Unobserved,
                replica: Observed::Unobserved,
            };
            dir_pair.observations = merged.into_iter().map(unobserved).collect();
        }
    }

    /// Notes names that are not checked, since their directory was not opened. Their problems
    /// remain, unless the replica lacks that directory too.
    fn put_off(&mut self, dir: &RelPath, names: BTreeMap<Name, Check>) {
        if self.open_replica(dir).is_ok() && !self.shared.filter.excludes_dir(dir) {
            self.out
                .put_off
                .extend(names.into_iter().map(|(name, check)| (dir.join(&name), check)));
        }
    }

    /// Reads the filter's rules again if a check concerns an entry that holds some. A walk finds
    /// what they change.
    fn refresh_rules(&mut self, checks: &Checks) {
        let named =
            checks.iter().flat_map(|(dir, names)| names.keys().map(move |name| (dir, name)));
        for governed in named.filter_map(|(dir, name)| self.shared.filter.governed_by(dir, name)) {
            if let Ok(source) = self.source.open(&governed)
                && self.shared.filter.refresh(&governed, &source, |_| true)
            {
                self.out.to_walk.push(governed);
            }
        }
    }

    /// Opens one directory on both sides; `None` if its checks leave the round. `check`: the first
    /// check in it; `None` if the directory itself is checked.
    fn place(&mut self, dir: &RelPath, checks: &mut Checks, check: Option<&Check>) -> Option<()> {
        if self.dir_pairs.contains_key(dir) {
            return Some(());
        }
        let look_at_itself = check.is_none();
        let check = check
            .cloned()
            .unwrap_or_else(|| Check::new(Depth::Content, self.terms.detector, self.terms.now));
        let wider = Check {
            depth: Depth::Subtree,
            cached: None,
            unseen_in_replica: false,
            ..check.clone()
        };
        let source = match self.open_source(dir) {
            Ok(source) => source,
            Err(error) if error.is_dir_absence() => {
                self.climb_to_missing(dir, checks, wider);
                return None;
            }
            Err(error) => return self.give_up(dir, wider, error.into()),
        };
        if source.entry().is_ok_and(|entry| self.shared.roots.is_replica(&entry)) {
            return None; // The replica, mounted inside the source.
        }
        if self.shared.filter.excludes_dir(dir) {
            return None;
        }
        if let Some(mount) = self.lost_mount_above(dir).cloned() {
            self.out.keep(mount, dir);
            return None;
        }
        let replica = match self.open_replica_nearby(dir) {
            Ok(replica) => Some(replica),
            Err(error) if error.is_dir_absence() => {
                // From the bottom up: in a deep tree, only the last ones are missing. Ancestors of
                // a directory that the round has met were checked then.
                let mut missing = vec![dir.clone()];
                for above in dir.ancestors_and_self().rev().skip(1) {
                    let is_met = self.dir_pairs.contains_key(&above)
                        || self.restricted.known.contains_key(&above);
                    if is_met || self.open_replica(&above).is_ok() {
                        break;
                    }
                    missing.push(above);
                }
                for missing in missing {
                    // If it was reported, its children were reported too.
                    if !self.is_checked(&missing, checks) {
                        add(checks, &missing, wider.clone());
                    }
                }
                None
            }
            Err(error) => return self.give_up(dir, wider, error.into()),
        };
        let restricted =
            replica.as_ref().map(|replica| self.restrict_down_to(dir, &source, replica));
        if let Some(Err(work_error)) = restricted {
            return self.give_up(dir, wider, work_error);
        }
        let asked = look_at_itself.then_some(check.since);
        self.touch(dir.clone(), asked);
        let filter = self.shared.filter.at(dir);
        let (observations, finished) = (vec![], vec![]);
        let (standing, ours_alone) = (OnceLock::new(), OnceLock::new());
        let stays_open = replica.as_ref().is_some_and(|replica| is_wider(&source, replica));
        let restricted = (!stays_open).then(Instant::now);
        let is_append_only_dir = replica.as_ref().is_some_and(|dir| dir.is_append_only_dir());
        let dir_pair = DirPair {
            source,
            replica,
            observations,
            finished,
            filter,
            restricted,
            standing,
            is_append_only_dir,
            ours_alone,
        };
        self.dir_pairs.insert(dir.clone(), dir_pair);
        Some(())
    }

    /// Returns whether the round checks this path anyway.
    fn is_checked(&self, path: &RelPath, checks: &Checks) -> bool {
        let Some((dir, name)) = path.split() else { return true };
        checks.get(&dir).is_some_and(|names| names.contains_key(&name))
            || self
                .dir_pairs
                .get(&dir)
                .is_some_and(|dir_pair| dir_pair.observations.iter().any(|s| s.name == name))
    }

    fn give_up(&mut self, dir: &RelPath, check: Check, work_error: WorkError) -> Option<()> {
        self.out.record_failure(dir.clone(), check, work_error);
        None
    }

    /// Moves a check from `dir`, which the source lacks, to its highest missing ancestor.
    fn climb_to_missing(&mut self, dir: &RelPath, checks: &mut Checks, check: Check) {
        let gone =
            |above: &RelPath| self.source.open(above).is_err_and(|error| error.is_dir_absence());
        match dir.ancestors_and_self().rev().take_while(gone).last() {
            // It may have been renamed: then the watch reports its new name.
            Some(missing) if check.detector == Detector::Watch => {
                if !self.is_checked(&missing, checks) {
                    self.out.again.push((missing, check, Requeue::ParentGone));
                }
            }
            Some(missing) => add(checks, &missing, check),
            // RACE: it exists again. At worst, all of it is checked once more.
            None => self.out.again.push((dir.clone(), check, Requeue::Now)),
        }
    }

    /// Opens a directory of the source, from the one above if the round has that open. Opening it
    /// from the root takes long in a deep tree.
    fn open_source(&mut self, rel: &RelPath) -> Result<Dir, FsError> {
        let Some((above, step)) = step_to(rel) else { return self.source.open(rel) };
        if let Some(dir_pair) = self.dir_pairs.get(&above) {
            return dir_pair.source.open(&step);
        }
        match self.restricted_pair(&above) {
            Some((above, _)) => above.open(&step),
            None => self.source.open(rel),
        }
    }

    /// Opens a directory of the replica, from the one above if the round has restricted that. A
    /// directory whose mode locks out its owner is opened up until the end of the round.
    fn open_replica_nearby(&mut self, rel: &RelPath) -> Result<ReplicaDir, FsError> {
        let near = step_to(rel)
            .and_then(|(above, step)| Some(self.restricted_pair(&above)?.1.open(&step)));
        match near {
            Some(Ok(dir)) => self.grant_owner_access(rel, dir),
            Some(Err(error)) if error.is_dir_absence() => Err(error),
            Some(Err(_)) | None => self.open_replica(rel),
        }
    }

    /// Opens a directory of the replica by its path. A directory whose mode locks out its owner is
    /// opened up until the end of the round.
    pub(super) fn open_replica(&mut self, rel: &RelPath) -> Result<ReplicaDir, FsError> {
        let dir = match self.replica.open(rel) {
            Err(error) if error.kind == FsErrorKind::Denied => self.open_denied(rel)?,
            other => other?,
        };
        self.grant_owner_access(rel, dir)
    }

    fn grant_owner_access(
        &mut self,
        rel: &RelPath,
        dir: ReplicaDir,
    ) -> Result<ReplicaDir, FsError> {
        if !self.shared.privileged
            && let Some(mode) = dir.grant_owner_access()?
        {
            self.saved_modes.insert(rel.clone(), mode);
            self.touch(rel.clone(), None);
        }
        Ok(dir)
    }

    fn open_denied(&mut self, rel: &RelPath) -> Result<ReplicaDir, FsError> {
        let mut at = self.replica.open(&RelPath::root())?;
        for path in rel.ancestors_and_self() {
            let Some((_, step)) = step_to(&path) else { continue };
            at = match at.open(&step) {
                Err(error) if error.kind == FsErrorKind::Denied => {
                    let (dir, mode) = at.open_denied(step.as_bytes())?;
                    self.saved_modes.insert(path.clone(), mode);
                    self.touch(path.clone(), None);
                    dir
                }
                other => other?,
            };
        }
        Ok(at)
    }
}
