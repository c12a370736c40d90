//! The one writer: rounds. Whoever detects a change only says where to look; what is done
//! about it, and all that becomes visible in the replica, is done here (I1).
//!
//! A round takes some checks and goes through its phases, with nobody else writing meanwhile:
//! `moves` follows renames; `open_dirs` and `observe` find out what stands on both sides;
//! `directories` makes, exchanges and puts aside directories, top down; `contents` copies files and
//! symlinks, in parallel; `finish_dirs` sets modes and times of the directories that were checked,
//! bottom up.
//!
//! A round knows no queue and no daemon. It can be run alone, on one thread.

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
use crate::writer::{BackgroundStatus, Outcome, Requeue, Waiting, Work, Writer};
use emptying::Emptying;
use in_flight::InFlight;
use open_dirs::DirPair;
use pending_trash::PendingTrash;
use submounts::SourceSubmounts;

/// Names of one directory that one task works on.
const TASK: usize = 32;

/// At most so many entries of which something was noted are told apart; beyond, they are no longer
/// named.
const NAMED: usize = 1_000;

/// How a reconciler works.
#[derive(Default)]
pub struct WriterOptions {
    /// Threads for the contents phase, and workers for big files.
    pub threads: usize,
    /// Whether what is said to be done is safe on the disk.
    pub durable: bool,
    /// Where what is removed or overwritten is kept.
    pub backup: Option<Arc<Backup>>,
    /// When backups are removed; they are kept for ever where there is none.
    pub pruning: Option<Pruning>,
}

/// What has ended in the background.
pub enum Ended {
    BigFile(Box<Finished>),
    Trash(Emptied),
}

impl Ended {
    pub fn path(&self) -> RelPath {
        match self {
            Self::BigFile(finished) => finished.job.path.clone(),
            Self::Trash(emptied) => emptied.aside.path(),
        }
    }
}

/// What outlives the rounds: big files and trees on their way, and what was said already.
pub struct Reconciler {
    pub roots: Roots,
    pub capabilities: Capabilities,
    pub filter: Filter,
    threads: usize,
    /// Whether what is said to be done is safe on the disk.
    durable: bool,
    backup: Option<Arc<Backup>>,
    pruning: Option<Pruning>,
    /// Whether modes keep nobody out: for root, locked directories need no opening up.
    privileged: bool,
    stop: Arc<AtomicBool>,
    names: Arc<TempNames>,
    workers: BigFileWorkers,
    trash_thread: TrashThread,
    /// Where comes out what they have ended, and what of it the next round takes up.
    ended: Receiver<Ended>,
    given_back: Vec<Ended>,
    in_flight: InFlight,
    pending_trash: PendingTrash,
    named: Mutex<HashSet<(RelPath, Notice)>>,
    /// How many entries have gone of directories that are emptied in their place.
    emptied: Emptying,
    submounts: SourceSubmounts,
    verified_dirs: Arc<VerifiedDirs>,
}

impl Reconciler {
    /// Starts the workers for big files and the trash thread. `stop` ends what they do.
    ///
    /// # Errors
    /// Where their threads cannot be started.
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

    /// How many big files and trees that were put aside are in the background.
    #[cfg(test)]
    pub fn count_in_background(&self) -> usize {
        self.workers.count_taken() + self.pending_trash.len()
    }

    /// Another directory is the source now.
    pub fn adopt_source(&mut self, pin: DirId) {
        let before = &self.roots.source_pin;
        // Where that cannot be told, more is kept.
        if !pin.is_same_on_disk(before) && (pin.is_distinct() || !pin.same_inode(before)) {
            self.submounts.forget();
        }
        self.roots.source_pin = pin;
        self.roots.find_quirks(&self.capabilities);
    }

    /// Another directory is the replica now.
    pub fn adopt_replica(&mut self, pin: DirId) {
        self.verified_dirs.forget();
        self.roots.replica_pin = Some(pin);
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

    /// Hands what a round began to the workers for big files and to the trash thread.
    fn start_background(&mut self, out: &mut RoundOutput) {
        for job in out.jobs.drain(..) {
            self.workers.hand_over(job);
        }
        for aside in out.asides.drain(..) {
            // What was on its way below is on its way to nowhere.
            self.pending_trash.begin(&aside);
            self.trash_thread.hand_over(aside);
        }
        let mut named = self.named.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (path, notice) in out.notices.drain(..) {
            let of = if notice.is_general() { RelPath::root() } else { path.clone() };
            if named.len() < NAMED && named.insert((of, notice)) {
                notice.log(&path);
            }
        }
    }

    /// Cancels what workers for big files do at `path` and below it.
    fn cancel_within(&self, path: &RelPath) {
        self.in_flight.cancel_within(path);
    }

    /// Takes back what workers for big files have ended, under the names that it has by now; big
    /// files that were given up meanwhile are no longer of interest.
    fn still_wanted(&self, mut finished: Vec<Finished>) -> Vec<Finished> {
        finished.retain_mut(|finished| self.in_flight.end(&mut finished.job));
        finished
    }

    /// What was given back, taken apart.
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
        // The time that it was then, since roots may take a while to be opened.
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
        // What failed because a root went away is no Problem of the entries.
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
            self.pending_trash.end(&emptied.aside);
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

    fn abandon(&mut self) {
        let in_flight = self.in_flight.abandon();
        let Ok((replica, pin)) = self.roots.replica.open_replica() else { return };
        if Some(pin) != self.roots.replica_pin {
            return;
        }
        for (path, temp) in in_flight {
            if let (Some((dir, _)), Some(temp)) = (path.split(), temp) {
                // What cannot be removed now is removed by the next run's sweep (I7).
                let _ = replica.open(&dir).and_then(|dir| remove_unseen(&dir, &temp));
            }
        }
    }

    fn free_space(&self) -> Vec<FreeSpace> {
        let backup = self.backup.as_ref().map(|backup| backup.root());
        [Some(&self.roots.replica), backup]
            .into_iter()
            .flatten()
            .filter_map(|root| root.room().ok())
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

/// Removes a temporary file and leaves its directory's mode and mtime as they were.
fn remove_unseen(dir: &ReplicaDir, temp: &Name) -> crate::fs::tree::Result<()> {
    let before = dir.entry()?;
    let mode = dir.let_owner_in()?;
    let removed = dir.remove_reserved(temp);
    dir.set(&Settings { mode, mtime: Some(before.mtime), ..Settings::default() })?;
    removed
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// What a round comes to: its outcome, and what it hands to the background.
#[derive(Default)]
struct RoundOutput {
    outcome: Outcome,
    jobs: Vec<Job>,
    asides: Vec<Trash>,
}

impl RoundOutput {
    /// Takes in what another task of the round comes to.
    fn absorb(&mut self, other: Self) {
        self.outcome.absorb(other.outcome);
        self.jobs.extend(other.jobs);
        self.asides.extend(other.asides);
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

/// One name under work: what was asked, and what stands on each side. One that is known to be new
/// has not been looked at.
struct Observation {
    name: Name,
    check: Check,
    source: Observed,
    replica: Observed,
}

/// For whom a round works, what it may do, and when it began.
#[derive(Clone, Copy)]
struct Terms {
    detector: Detector,
    deletions: Deletions,
    /// Files above this size, in bytes, go to a worker.
    big: u64,
    /// When the last full sweep began that has come to its end.
    swept: Option<Time>,
    /// When the round began, by the clock of whoever asked for it, and by that of the system.
    now: Instant,
    begun: Time,
}

/// Directories that were restricted with all above them.
#[derive(Default)]
struct RestrictedDirs {
    /// As they were then, in the source and in the replica.
    known: HashMap<RelPath, (Entry, Entry)>,
    /// The last one of them that was opened for what lies below it.
    near: Option<(RelPath, (Dir, ReplicaDir))>,
}

/// One round, from opening the roots to closing the directories.
struct Round<'a> {
    shared: &'a Reconciler,
    source: Dir,
    replica: ReplicaDir,
    terms: Terms,
    /// How many new entries may come yet, where that is limited.
    create_budget: Option<AtomicU64>,
    /// The directories in which names are looked at.
    dir_pairs: BTreeMap<RelPath, DirPair<'a>>,
    /// The directories whose metadata is set at the end, and since when that is due where somebody
    /// asked for it.
    needs_finish: BTreeMap<RelPath, Option<Instant>>,
    /// Directories of the replica that were opened up for the round, or closed to others, and their
    /// former modes.
    saved_modes: HashMap<RelPath, u32>,
    /// Directories that this round made: what it sets on them is no action of its own.
    made: HashSet<RelPath>,
    /// What this round has renamed, by the new names.
    moved: HashSet<RelPath>,
    restricted: RestrictedDirs,
    waiting: &'a dyn Waiting,
    /// Where files and symlinks that it has renamed stand in the end, and since when that is due.
    renamed_files: Vec<(RelPath, Instant)>,
    mounts: MountPoints,
    out: RoundOutput,
}

impl Round<'_> {
    /// Writes the lines of what was done, once it is safe on the disk where that is asked for.
    fn tell(&mut self) {
        if self.shared.durable && !self.out.done.is_empty() {
            match self.replica.sync() {
                Ok(()) => {}
                Err(error) => self.out.doubt(error),
            }
        }
        self.out.log_done();
    }

    /// Whether one more new entry may come. It counts as if it came.
    fn may_create(&self) -> bool {
        let Some(budget) = &self.create_budget else { return true };
        budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
    }

    /// Has a directory's metadata set at the end.
    fn touch(&mut self, dir: RelPath, since: Option<Instant>) {
        let known = self.needs_finish.entry(dir).or_default();
        *known = (*known).max(since);
    }

    /// What may be removed or replaced.
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

    /// Whether one is gone that was mounted at this very name.
    fn lost_mount_at(&self, dir: &RelPath, name: &Name) -> Option<RelPath> {
        let submounts = &self.shared.submounts;
        let path =
            (!submounts.is_empty()).then(|| dir.join(name)).filter(|path| submounts.has(path))?;
        self.lost_mount_above(&path).map(|_| path)
    }

    /// The same at `path` or above: there, all is left as it is.
    fn lost_mount_above(&self, path: &RelPath) -> Option<&RelPath> {
        self.shared.submounts.lost_above(path, &self.source, &self.shared.roots.source.path)
    }
}
