//! Rounds, which make every change that becomes visible in the replica (I1). Detectors only report
//! what to check. A round decides what is to be done.
//!
//! A round takes some checks and runs these phases. Nobody else writes meanwhile.
//!
//! - `moves` follows renames.
//! - `open_dirs` opens the directories on both sides, and restricts the replica's.
//! - `observe` finds out what stands at each name on both sides.
//! - `directories` makes, exchanges and removes directories, top down.
//! - `contents` copies and removes files and symlinks, in parallel.
//! - `finish_dirs` sets modes, owners and times of the directories that were checked, bottom up.
//!
//! A round uses neither the queue nor the daemon. It can run alone, on one thread.

mod finish_dirs;
mod contents;
mod submounts;
mod emptying;
mod excluded;
mod in_flight;
mod open_dirs;
mod in_place;
mod moves;
mod observe;
mod publish;
mod removable;
mod removal;
mod pending_trash;
mod access;
mod directories;
mod widening;

pub use removable::{MountPoints, RemovalRules};
pub use removal::{COUNTING, count_below};

#[cfg(test)]
pub mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::{Receiver, unbounded};

use crate::fs::clock;
use crate::fs::filter::Filter;
use crate::fs::roots::{Lost, Roots};
use crate::fs::tree::{Dir, DirId, FreeSpace, ReplicaDir, Settings};
use crate::model::check::{Check, Detector};
use crate::model::entry::{Entry, Observed, Time};
use crate::model::path::{Name, RelPath};
use crate::plan::deletions::Deletions;
use crate::plan::metadata::Capabilities;
use crate::plan::verified_dirs::VerifiedDirs;
use crate::report::Notice;
use crate::writer::fs::backup::Backup;
use crate::writer::fs::big_files::{BigFileWorkers, Finished, Job};
use crate::writer::fs::copy::TempNames;
use crate::writer::fs::pruning::Pruning;
use crate::writer::fs::trash::{Emptied, Trash, TrashThread};
use crate::writer::{BackgroundStatus, LongJob, Outcome, Requeue, Waiting, Work, Writer};
use emptying::Emptying;
use in_flight::InFlight;
use open_dirs::DirPair;
use pending_trash::PendingTrash;
use submounts::SourceSubmounts;

/// How many names of one directory a task has, at most.
const TASK: usize = 32;

/// How many notices are remembered, so that each is logged once. Further ones are not logged.
const NAMED: usize = 1_000;

/// The settings of a [`Reconciler`].
#[derive(Default)]
pub struct WriterOptions {
    /// Threads for the contents phase, and workers for big files.
    pub threads: usize,
    /// Whether an action is logged only once it is safe on the disk (`--durable`).
    pub durable: bool,
    /// The backup for entries that are deleted or overwritten.
    pub backup: Option<Arc<Backup>>,
    /// The schedule for removing old backups; `None` to keep them for ever.
    pub pruning: Option<Pruning>,
}

/// A result of work in the background.
pub enum Ended {
    BigFile(Box<Finished>),
    Trash(Emptied),
}

impl Ended {
    pub fn path(&self) -> RelPath {
        match self {
            Self::BigFile(finished) => finished.job.path.clone(),
            Self::Trash(emptied) => emptied.trash.path(),
        }
    }
}

/// The writer of a replica on a file system. It holds what outlives a round: big files in flight,
/// pending trash, and which notices were logged.
pub struct Reconciler {
    pub roots: Roots,
    pub capabilities: Capabilities,
    pub filter: Filter,
    threads: usize,
    /// Whether an action is logged only once it is safe on the disk (`--durable`).
    durable: bool,
    backup: Option<Arc<Backup>>,
    pruning: Option<Pruning>,
    /// Whether it runs as root, whom modes do not keep out: locked directories need not be opened
    /// up.
    privileged: bool,
    stop: Arc<AtomicBool>,
    names: Arc<TempNames>,
    workers: BigFileWorkers,
    trash_thread: TrashThread,
    /// The results of the workers and of the trash thread, and those that the next round handles.
    ended: Receiver<Ended>,
    given_back: Vec<Ended>,
    in_flight: InFlight,
    pending_trash: PendingTrash,
    named: Mutex<HashSet<(RelPath, Notice)>>,
    /// Directories that are being emptied in place, with the number of their deleted entries.
    emptied: Emptying,
    submounts: SourceSubmounts,
    verified_dirs: Arc<VerifiedDirs>,
}

impl Reconciler {
    /// Starts the workers for big files and the trash thread. `stop` interrupts their work.
    ///
    /// # Errors
    /// If their threads cannot be started.
    pub fn start(
        roots: Roots,
        capabilities: Capabilities,
        filter: Filter,
        options: WriterOptions,
        stop: Arc<AtomicBool>,
    ) -> std::io::Result<Self> {
        let WriterOptions { threads, durable, backup, pruning } = options;
        let (done, ended) = unbounded();
        let told = done.clone();
        Ok(Self {
            workers: BigFileWorkers::start(threads, move |finished| {
                told.send(Ended::BigFile(Box::new(finished))).is_ok()
            })?,
            trash_thread: TrashThread::start(
                roots.replica.clone(),
                Arc::clone(&stop),
                move |emptied| done.send(Ended::Trash(emptied)).is_ok(),
            )?,
            ended,
            given_back: Vec::new(),
            roots,
            capabilities,
            filter,
            threads,
            durable,
            backup,
            pruning,
            privileged: rustix::process::geteuid().is_root(),
            stop,
            names: Arc::default(),
            in_flight: InFlight::default(),
            pending_trash: PendingTrash::default(),
            named: Mutex::default(),
            emptied: Emptying::default(),
            submounts: SourceSubmounts::default(),
            verified_dirs: Arc::default(),
        })
    }

    /// Returns how many big files and trash directories are in the background.
    #[cfg(test)]
    pub fn count_in_background(&self) -> usize {
        self.workers.count_taken() + self.pending_trash.len()
    }

    /// Takes another directory as the source.
    pub fn adopt_source(&mut self, id: DirId) {
        let before = &self.roots.source_id;
        // If it may be the same directory, the known mounts still count, so that more is kept.
        if !id.is_same_on_disk(before) && (id.is_distinct() || !id.same_inode(before)) {
            self.submounts.forget();
        }
        self.roots.source_id = id;
        self.roots.find_quirks(&self.capabilities);
    }

    /// Takes another directory as the replica.
    pub fn adopt_replica(&mut self, id: DirId) {
        self.verified_dirs.forget();
        self.roots.replica_id = Some(id);
    }

    fn begin<'a>(
        &'a self,
        (source, replica): (Dir, ReplicaDir),
        terms: Terms,
        waiting: &'a dyn Waiting,
    ) -> Round<'a> {
        Round {
            shared: self,
            source,
            replica,
            create_budget: terms.deletions.create_budget().map(AtomicU64::new),
            terms,
            dir_pairs: BTreeMap::new(),
            needs_finish: BTreeMap::new(),
            saved_modes: HashMap::new(),
            made: HashSet::new(),
            moved: HashSet::new(),
            restricted: RestrictedDirs::default(),
            waiting,
            renamed_files: Vec::new(),
            mounts: MountPoints::default(),
            out: RoundOutput::default(),
        }
    }

    /// Hands the round's jobs and trash to the workers and the trash thread, and logs its notices.
    fn start_background(&mut self, out: &mut RoundOutput) {
        for job in out.jobs.drain(..) {
            self.workers.hand_over(job);
        }
        for trash in out.trash.drain(..) {
            let progress = self.pending_trash.begin(&trash);
            self.trash_thread.hand_over(trash, progress);
        }
        let mut named = self.named.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (path, notice) in out.notices.drain(..) {
            let of = if notice.is_general() { RelPath::root() } else { path.clone() };
            if named.len() < NAMED && named.insert((of, notice)) {
                notice.log(&path);
            }
        }
    }

    /// Cancels the big files in flight at `path` and below.
    fn cancel_within(&self, path: &RelPath) {
        self.in_flight.cancel_within(path);
    }

    /// Ends the flights of finished jobs, and gives each its present path. Drops jobs that were
    /// given up meanwhile.
    fn still_wanted(&self, mut finished: Vec<Finished>) -> Vec<Finished> {
        finished.retain_mut(|finished| self.in_flight.end(&mut finished.job));
        finished
    }

    /// Takes out the results that were given back, by kind.
    fn take_given_back(&mut self) -> (Vec<Finished>, Vec<Emptied>) {
        let (mut finished, mut emptied) = (Vec::new(), Vec::new());
        for ended in self.given_back.drain(..) {
            match ended {
                Ended::BigFile(one) => finished.push(*one),
                Ended::Trash(one) => emptied.push(one),
            }
        }
        (finished, emptied)
    }

    fn is_in_use(&self, name: &Name) -> bool {
        self.pending_trash.has(name) || self.in_flight.fills(name)
    }
}

impl Writer for Reconciler {
    type Ended = Ended;
    type Trees = Roots;

    fn round(&mut self, work: Work, waiting: &dyn Waiting) -> Result<Outcome, Lost> {
        let (source, replica) = match self.roots.open() {
            Ok(roots) => roots,
            Err(lost) => {
                self.forget_given_back();
                return Err(lost);
            }
        };
        let (finished, emptied) = self.take_given_back();
        let Work { moves, mut checks, detector, deletions, budget, big, swept, now } = work;
        // The time of the clock at `now`: opening the roots may have taken a while.
        let begun = clock::now().before(now.elapsed());
        let terms = Terms { detector, deletions, big, swept, now, begun };
        let mut round = self.begin((source, replica), terms, waiting);
        round.moves(&moves, &mut checks);
        let finished = round.shared.still_wanted(finished);
        let checks = round.sort_finished(checks, finished);
        round.open_dirs(checks);
        round.observe();
        round.directories();
        round.contents(budget);
        round.remove_emptied(emptied);
        round.finish_dirs();
        round.tell();
        let mut out = round.out;
        self.start_background(&mut out);
        // If a root was lost meanwhile, these are not problems of the entries.
        if !out.problems.is_empty() {
            self.roots.open()?;
        }
        Ok(out.outcome)
    }

    fn ended(&self) -> &Receiver<Ended> {
        &self.ended
    }

    fn give_back(&mut self, ended: Ended) {
        self.given_back.push(ended);
    }

    fn paths_given_back(&self) -> Vec<RelPath> {
        self.given_back.iter().map(Ended::path).collect()
    }

    fn forget_given_back(&mut self) {
        let (finished, emptied) = self.take_given_back();
        drop(self.still_wanted(finished));
        for emptied in emptied {
            self.pending_trash.end(&emptied.trash);
        }
    }

    fn background(&self) -> BackgroundStatus {
        let is_big = |ended: &&Ended| matches!(ended, Ended::BigFile(_));
        BackgroundStatus {
            free_workers: self.workers.free() + self.given_back.iter().filter(is_big).count(),
            is_idle: self.in_flight.is_empty() && self.pending_trash.is_empty(),
            is_idle_for_sweep: !self.in_flight.any_for(Detector::Sweep),
            oldest: self.in_flight.oldest(),
        }
    }

    fn longest_job(&self) -> Option<LongJob> {
        let jobs = [self.in_flight.longest(), self.pending_trash.current()];
        jobs.into_iter().flatten().min_by_key(|job| job.begun)
    }

    fn abandon(&mut self) {
        let in_flight = self.in_flight.abandon();
        let Ok((replica, id)) = self.roots.replica.open_replica() else { return };
        if Some(id) != self.roots.replica_id {
            return;
        }
        for (path, temp) in in_flight {
            if let (Some((dir, _)), Some(temp)) = (path.split(), temp) {
                // The next run's sweep removes what cannot be removed now (I7).
                let _ = replica.open(&dir).and_then(|dir| remove_unseen(&dir, &temp));
            }
        }
    }

    fn free_space(&self) -> Vec<FreeSpace> {
        let backup = self.backup.as_ref().map(|backup| backup.root());
        [Some(&self.roots.replica), backup]
            .into_iter()
            .flatten()
            .filter_map(|root| root.free_space().ok())
            .collect()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn trees(&self) -> Roots {
        self.roots.clone()
    }

    fn filter(&self) -> &Filter {
        &self.filter
    }

    fn verified_dirs(&self) -> Option<&Arc<VerifiedDirs>> {
        Some(&self.verified_dirs)
    }

    fn remember_submount(&mut self, path: RelPath, id: DirId) -> bool {
        self.submounts.remember(path, id, &self.roots.source.path)
    }

    fn submounts(&self) -> Vec<RelPath> {
        self.submounts.paths().cloned().collect()
    }

    fn tend(&mut self, now: Instant) {
        if let (Some(pruning), Some(backup)) = (&mut self.pruning, &self.backup) {
            pruning.prune_if_due(backup, &self.stop, now);
        }
    }

    fn finish(&mut self) {
        if let Some(pruning) = &mut self.pruning {
            pruning.finish();
        }
    }
}

/// Removes a temporary file. The mode and mtime of its directory stay as they were.
fn remove_unseen(dir: &ReplicaDir, temp: &Name) -> crate::fs::tree::Result<()> {
    let before = dir.entry()?;
    let mode = dir.grant_owner_access()?;
    let removed = dir.remove_reserved(temp);
    dir.set(&Settings { mode, mtime: Some(before.mtime), ..Settings::default() })?;
    removed
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// The results of a round: its outcome, and the work for the background.
#[derive(Default)]
struct RoundOutput {
    outcome: Outcome,
    jobs: Vec<Job>,
    trash: Vec<Trash>,
}

impl RoundOutput {
    /// Adds the results of another task of the round.
    fn absorb(&mut self, other: Self) {
        self.outcome.absorb(other.outcome);
        self.jobs.extend(other.jobs);
        self.trash.extend(other.trash);
    }
}

impl Deref for RoundOutput {
    type Target = Outcome;

    fn deref(&self) -> &Outcome {
        &self.outcome
    }
}

impl DerefMut for RoundOutput {
    fn deref_mut(&mut self) -> &mut Outcome {
        &mut self.outcome
    }
}

/// One name of a round: its check, and what stands on each side. Both sides stay
/// [`Observed::Unobserved`] if a walk has listed the name as new.
struct Observation {
    name: Name,
    check: Check,
    source: Observed,
    replica: Observed,
}

/// The terms of a round: for which detector it works, what it may do, and when it began.
#[derive(Clone, Copy)]
struct Terms {
    detector: Detector,
    deletions: Deletions,
    /// Files above this size, in bytes, are handed to a worker.
    big: u64,
    /// When the last completed full sweep began.
    swept: Option<Time>,
    /// When the round began, by the monotonic clock and by the clock of the system.
    now: Instant,
    begun: Time,
}

/// Directories that this round has restricted, with all above them.
#[derive(Default)]
struct RestrictedDirs {
    /// Their facts at that time, in the source and in the replica.
    known: HashMap<RelPath, (Entry, Entry)>,
    /// The last one that was opened, as the start for directories below it.
    near: Option<(RelPath, (Dir, ReplicaDir))>,
}

/// One round, from opening the roots to finishing the directories.
struct Round<'a> {
    shared: &'a Reconciler,
    source: Dir,
    replica: ReplicaDir,
    terms: Terms,
    /// How many new entries may still be created; `None` for no limit.
    create_budget: Option<AtomicU64>,
    /// The directories in which names are checked.
    dir_pairs: BTreeMap<RelPath, DirPair<'a>>,
    /// The directories whose metadata `finish_dirs` sets. The time is when the last check of the
    /// directory itself was due; `None` if there is no such check.
    needs_finish: BTreeMap<RelPath, Option<Instant>>,
    /// The former modes of directories of the replica that this round has opened up or restricted.
    saved_modes: HashMap<RelPath, u32>,
    /// Directories that this round has made. Setting their metadata is not an action of its own.
    made: HashSet<RelPath>,
    /// The new paths of entries that this round has renamed.
    moved: HashSet<RelPath>,
    restricted: RestrictedDirs,
    waiting: &'a dyn Waiting,
    /// The last paths of renamed files and symlinks, and when each rename was reported.
    renamed_files: Vec<(RelPath, Instant)>,
    mounts: MountPoints,
    out: RoundOutput,
}

impl Round<'_> {
    /// Logs the actions. With `--durable`, they are written to the disk first; if that fails, they
    /// are recorded as failed.
    fn tell(&mut self) {
        if self.shared.durable && !self.out.done.is_empty() {
            match self.replica.sync() {
                Ok(()) => {}
                Err(error) => self.out.doubt(error),
            }
        }
        self.out.log_done();
    }

    /// Takes one new entry from the budget. Returns whether it may be created.
    fn may_create(&self) -> bool {
        let Some(budget) = &self.create_budget else { return true };
        budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
    }

    /// Notes that `finish_dirs` has to set a directory's metadata. `since`: when a check of the
    /// directory itself was due.
    fn touch(&mut self, dir: RelPath, since: Option<Instant>) {
        let known = self.needs_finish.entry(dir).or_default();
        *known = (*known).max(since);
    }

    /// Returns the rules of removal for this round.
    fn rules(&self) -> RemovalRules<'_> {
        RemovalRules {
            roots: &self.shared.roots,
            replica: &self.replica,
            filter: &self.shared.filter,
            deletions: self.terms.deletions,
            submounts: Some((&self.source, &self.shared.submounts)),
            mounts: &self.mounts,
        }
    }

    /// Returns the path of `name` if a file system was mounted there that is no longer mounted.
    fn lost_mount_at(&self, dir: &RelPath, name: &Name) -> Option<RelPath> {
        let submounts = &self.shared.submounts;
        let path =
            (!submounts.is_empty()).then(|| dir.join(name)).filter(|path| submounts.has(path))?;
        self.lost_mount_above(&path).map(|_| path)
    }

    /// Returns a lost mount at `path` or above, if there is one. All below it is kept.
    fn lost_mount_above(&self, path: &RelPath) -> Option<&RelPath> {
        self.shared.submounts.lost_above(path, &self.source, &self.shared.roots.source.path)
    }
}
