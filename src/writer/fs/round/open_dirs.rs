//! The beginning of a round: where each look leads, and what stands there on both sides.

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

/// After so long a directory is looked at once more before something is published in it.
const ASKED_AGAIN: Duration = Duration::from_millis(5);

/// A directory in which names are looked at, open on both sides.
pub(super) struct DirPair<'a> {
    pub source: Dir,
    /// `None` where the replica has no such directory (yet).
    pub replica: Option<ReplicaDir>,
    pub observations: Vec<Observation>,
    /// Big files to be published here.
    pub finished: Vec<Finished>,
    pub filter: DirFilter<'a>,
    /// When the replica's was restricted, if it could be.
    restricted: Option<Instant>,
    /// Whether `source` still stands at its path below the pinned root; asked once (I5).
    standing: OnceLock<bool>,
    /// Whether what is put into the replica's stays there.
    pub gives_nothing_back: bool,
    /// Whether nobody else can put another file in the place of one of the replica's; asked once.
    ours_alone: OnceLock<bool>,
}

impl DirPair<'_> {
    /// The directory on both sides, where it stands on both.
    pub fn both(&self) -> Option<(&Dir, &ReplicaDir)> {
        Some((&self.source, self.replica.as_ref()?))
    }

    /// Whether the source's directory has been closed to some since the replica's was restricted.
    /// Not asked at once: a round is mostly over by then.
    pub fn is_too_open_by_now(&self) -> bool {
        self.restricted.is_some_and(|restricted| restricted.elapsed() > ASKED_AGAIN)
            && self.both().is_some_and(|(source, replica)| is_wider(source, replica))
    }

    /// Whether an absence seen in this directory may be believed (I5).
    pub fn is_standing(&self, round: &Round<'_>, rel: &RelPath) -> bool {
        *self.standing.get_or_init(|| {
            let same_root = round.shared.roots.source.pin() == Ok(round.shared.roots.source_pin);
            let id = |dir: &Dir| dir.entry().map(|entry| entry.inode.id());
            same_root && matches!((round.source.open(rel).and_then(|dir| id(&dir)), id(&self.source)), (Ok(a), Ok(b)) if a == b)
        })
    }

    /// Whether a file of the replica is known by its name to be the twin of the source's: the
    /// directories are twins, and nobody else may write to the replica's.
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

/// The directory above a path, and the step from there.
pub(super) fn step_to(path: &RelPath) -> Option<(RelPath, RelPath)> {
    let (above, name) = path.split()?;
    Some((above, RelPath::root().join(&name)))
}

/// Whether the replica's directory is more open than the source's, where both can be looked at.
fn is_wider(source: &Dir, replica: &Dir) -> bool {
    matches!((source.entry(), replica.entry()), (Ok(source), Ok(replica)) if replica.is_wider_than(&source))
}

impl Round<'_> {
    /// Sorts what workers for big files bring: files to be published are kept for the contents
    /// phase, a verdict on a pair becomes the evidence of a look, and what failed is thrown away.
    pub(super) fn sort_finished(&mut self, mut checks: Checks, finished: Vec<Finished>) -> Checks {
        for Finished { job, result, took } in finished {
            self.out.busy.push((job.path.clone(), took));
            let work_error = match (&job.load, result) {
                (JobKind::Compare { replica_entry, .. }, Ok(JobResult::Digests(verdict))) => {
                    let evidence = CachedDigests {
                        source: job.identity(),
                        replica: replica_entry.identity(),
                        verdict,
                    };
                    let check = Check { evidence: Some(Box::new(evidence)), ..job.check };
                    self.out.hashed += 1;
                    add(&mut checks, &job.path, check);
                    continue;
                }
                (JobKind::Fill { .. }, Ok(_)) => {
                    let Some((dir, _)) = job.path.split() else { continue };
                    // The directory is gathered for the sake of the temporary file in it.
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
                // Overtaken by another change.
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

    /// Removes the temporary file of a big file that is not to be published.
    fn discard(&mut self, job: &Job) {
        let (JobKind::Fill { name, .. }, Some((dir, _))) = (&job.load, job.path.split()) else {
            return;
        };
        if let Ok(open) = self.replica.open(&dir) {
            drop(Temp::adopt(&open, name.clone(), &self.shared.names));
            self.touch(dir, None);
        }
    }

    /// Opens the directories of all looks on both sides. Where the source's directory is gone,
    /// the look moves to its highest missing ancestor; where the replica's is, its missing
    /// ancestors are looked at too.
    pub(super) fn open_dirs(&mut self, mut checks: Checks) {
        self.refresh_rules(&checks);
        // The moves phase may have taken a while.
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
            let unlooked = |(name, check)| Observation {
                name,
                check,
                source: Observed::Unlooked,
                replica: Observed::Unlooked,
            };
            dir_pair.observations = merged.into_iter().map(unlooked).collect();
        }
    }

    /// Names in a directory that the round does not get to see: what was wrong with them still is,
    /// unless the replica has them no more.
    fn put_off(&mut self, dir: &RelPath, names: BTreeMap<Name, Check>) {
        if self.open_replica(dir).is_ok() && !self.shared.filter.excludes_dir(dir) {
            self.out
                .put_off
                .extend(names.into_iter().map(|(name, check)| (dir.join(&name), check)));
        }
    }

    /// Reads the rules of the filter again where a look concerns an entry that holds some. What
    /// they bring about is found by a scan.
    fn refresh_rules(&mut self, checks: &Checks) {
        let named =
            checks.iter().flat_map(|(dir, names)| names.keys().map(move |name| (dir, name)));
        for governed in named.filter_map(|(dir, name)| self.shared.filter.governed_by(dir, name)) {
            if let Ok(source) = self.source.open(&governed)
                && self.shared.filter.refresh(&governed, &source, |_| true)
            {
                self.out.scans.push(governed);
            }
        }
    }

    /// Opens one directory; `None` where its looks leave the round.
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
            evidence: None,
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
                // From the deepest up: in a deep tree only the last ones are missing. Those above
                // one that the round has met already were seen to then.
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
                    // One that was reported has its children reported too.
                    if !self.is_looked_at(&missing, checks) {
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
        let gives_nothing_back = replica.as_ref().is_some_and(|dir| dir.gives_nothing_back());
        let dir_pair = DirPair {
            source,
            replica,
            observations,
            finished,
            filter,
            restricted,
            standing,
            gives_nothing_back,
            ours_alone,
        };
        self.dir_pairs.insert(dir.clone(), dir_pair);
        Some(())
    }

    /// Whether the round looks at this name anyway.
    fn is_looked_at(&self, path: &RelPath, checks: &Checks) -> bool {
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

    /// The source has no directory `dir`: looks at the highest ancestor that is missing.
    fn climb_to_missing(&mut self, dir: &RelPath, checks: &mut Checks, check: Check) {
        let gone =
            |above: &RelPath| self.source.open(above).is_err_and(|error| error.is_dir_absence());
        match dir.ancestors_and_self().rev().take_while(gone).last() {
            // It may have been renamed: the watch tells of itself what has become of it.
            Some(missing) if check.detector == Detector::Watch => {
                if !self.is_looked_at(&missing, checks) {
                    self.out.again.push((missing, check, Requeue::ParentGone));
                }
            }
            Some(missing) => add(checks, &missing, check),
            // RACE: it is there again. Worst case one more check at all of it.
            None => self.out.again.push((dir.clone(), check, Requeue::Now)),
        }
    }

    /// Opens a directory of the source, from the one above where the round has that open: a walk
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

    /// The same for the replica. One whose mode keeps its own owner out is opened up until the end
    /// of the round.
    fn open_replica_nearby(&mut self, rel: &RelPath) -> Result<ReplicaDir, FsError> {
        let near = step_to(rel)
            .and_then(|(above, step)| Some(self.restricted_pair(&above)?.1.open(&step)));
        match near {
            Some(Ok(dir)) => self.let_owner_in(rel, dir),
            Some(Err(error)) if error.is_dir_absence() => Err(error),
            Some(Err(_)) | None => self.open_replica(rel),
        }
    }

    /// Opens a directory of the replica. One whose mode keeps its own owner out is opened up
    /// until the end of the round.
    pub(super) fn open_replica(&mut self, rel: &RelPath) -> Result<ReplicaDir, FsError> {
        let dir = match self.replica.open(rel) {
            Err(error) if error.kind == FsErrorKind::Denied => self.open_up(rel)?,
            other => other?,
        };
        self.let_owner_in(rel, dir)
    }

    fn let_owner_in(&mut self, rel: &RelPath, dir: ReplicaDir) -> Result<ReplicaDir, FsError> {
        if !self.shared.privileged
            && let Some(mode) = dir.let_owner_in()?
        {
            self.saved_modes.insert(rel.clone(), mode);
            self.touch(rel.clone(), None);
        }
        Ok(dir)
    }

    fn open_up(&mut self, rel: &RelPath) -> Result<ReplicaDir, FsError> {
        let mut at = self.replica.open(&RelPath::root())?;
        for path in rel.ancestors_and_self() {
            let Some((_, step)) = step_to(&path) else { continue };
            at = match at.open(&step) {
                Err(error) if error.kind == FsErrorKind::Denied => {
                    let (dir, mode) = at.open_up(step.as_bytes())?;
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
