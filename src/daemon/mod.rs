//! The one loop that knows all: what detectors find goes into the queue, what is ready goes
//! into rounds, and everything else waits for its time.

mod crowds;
mod outcome;
mod pruning;
mod space;
mod roots;
mod walks;
mod settle;
mod strays;
pub mod preview;
pub mod startup;

mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select};

use crate::daemon::startup::Prepared;
use crate::fs::roots::Roots;
use crate::fs::writeback::unseen_seconds_of;
use crate::model::check::{Checks, Detector};
use crate::model::config::{Config, Mode};
use crate::model::path::RelPath;
use crate::plan::failures::Failures;
use crate::plan::guard::{Occasion, Trust};
use crate::plan::hard_links::Links;
use crate::plan::metadata::Capabilities;
use crate::plan::pending_widen::PendingWiden;
use crate::plan::queue::{BatchLimit, Queue};
use crate::sweep::Sweep;
use crate::writer::fs::big_files::Finished;
use crate::writer::fs::probe::{MissingCapabilities, of_process, probe};
use crate::writer::fs::round::{Reconciler, Requeue, Work, WriterOptions};
use crate::writer::fs::trash::Emptied;
use crowds::Crowds;
use pruning::Pruning;
use roots::RootWatch;
use settle::Stats;
use space::OutOfSpace;
use strays::Strays;
use watching::Watching;

/// How often the roots are checked, at least.
const TICK: Duration = Duration::from_secs(1);

/// While so many names of a sweep wait, it is not listened to.
const ENOUGH: usize = 10_000;

/// What one round takes at most.
pub const PORTION: BatchLimit = BatchLimit { names: 256, dirs: 64 };
pub const WATCH_PORTION: BatchLimit = BatchLimit { names: 512, dirs: 64 };

/// Renames that one round follows at most: with their looks they take about as long as other rounds
/// do.
const RENAMES: usize = 100;

/// And at least, however slow the machine: what a round looked at and had no time for is looked
/// at again.
const LEAST: usize = 32;

/// How long a round of sweep work begins new tasks, so that it holds up nothing for long.
const SWEEP_ROUND: Duration = Duration::from_millis(5);
const WATCH_ROUND: Duration = Duration::from_millis(20);

/// The same where each round waits for the disk: many names share a wait.
const DURABLE_PORTION: BatchLimit = BatchLimit { names: 4096, dirs: 128 };
const DURABLE_ROUND: Duration = Duration::from_millis(200);

/// Files above this size, in bytes, are no matter for a round of sweep work.
const BIG_FOR_SWEEP: u64 = 1024 * 1024;
const BIG_FOR_WATCH: u64 = 8 * 1024 * 1024;

/// Of so many rounds one is of sweep work, however much the watch has told.
const TURNS: u32 = 8;

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// As asked: after one sync that left nothing to do, or by a signal.
    Done,
    /// One sync, after which something is still different.
    Incomplete,
    /// One sync, interrupted by a signal.
    Interrupted,
}

/// Why a run ended that should not have.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("cannot start a thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(std::io::Error),
    #[error("a thread of twindir has panicked")]
    Panicked,
}

/// Everything that the loop knows.
struct Daemon<'a> {
    config: &'a Config,
    reconciler: Reconciler,
    trust: Trust,
    backlog: Backlog,
    watching: Watching,
    rounds: u32,
    next_sweep: Instant,
    /// After no thread could be started for a walk.
    no_walk_before: Instant,
    roots: RootWatch,
    pruning: Pruning,
    stats: Stats,
    /// Ends whatever takes long.
    stop: Arc<AtomicBool>,
}

/// What was found out about the present roots, and what is under way because of it. When a root is
/// lost, all of it is dropped: a sweep finds it anew.
struct Backlog {
    queue: Queue,
    failures: Failures,
    /// The walk over all of both trees that runs: a sweep, a quick scan or a count.
    sweep: Option<Sweep>,
    /// The scan of some directories that runs.
    scan: Option<Sweep>,
    /// Directories below which all is to be looked at.
    scans: BTreeSet<RelPath>,
    /// Directories that were renamed here as in the source: below them a quick scan sees what was
    /// changed about that time.
    moved: BTreeSet<RelPath>,
    /// The same after that: their entries are as old as ever, and only their MD5s prove them to be
    /// what they should. That has time.
    needs_full_compare: BTreeSet<RelPath>,
    pending_widen: PendingWiden,
    strays: Strays,
    crowds: Crowds,
    /// Directories into which others are let once the walk that is under way has found all in them.
    widen_after_walk: BTreeSet<RelPath>,
    links: Links,
    /// Names that a round of sweep work could do in its time, of late.
    sweep_batch: usize,
    /// When a source that is doubted is counted again before the next sweep.
    next_count: Option<Instant>,
    refusal: Option<OutOfSpace>,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            queue: Queue::default(),
            failures: Failures::default(),
            sweep: None,
            scan: None,
            scans: BTreeSet::new(),
            moved: BTreeSet::new(),
            needs_full_compare: BTreeSet::new(),
            pending_widen: PendingWiden::default(),
            strays: Strays::default(),
            crowds: Crowds::default(),
            widen_after_walk: BTreeSet::new(),
            links: Links::default(),
            sweep_batch: PORTION.names,
            next_count: None,
            refusal: None,
        }
    }
}

/// Runs until one sync is done, or until a signal comes.
///
/// # Errors
/// [`Failed`], which no state of the two trees can bring about.
pub fn run(
    config: &Config,
    prepared: Prepared,
    signals: &Receiver<i32>,
    panicked: &AtomicBool,
) -> Result<End, Failed> {
    let Prepared { mut roots, source_mount, replica_mount, lock, filter, backup, beside, .. } =
        prepared;
    let stop = Arc::new(AtomicBool::new(false));
    let capabilities = probe_replica(&mut roots, unseen_seconds_of(config.task));
    let watched = RootWatch::new(source_mount, replica_mount, lock, beside);
    let options = WriterOptions { threads: config.threads, durable: config.durable, backup };
    let reconciler = Reconciler::start(roots, capabilities, filter, options, Arc::clone(&stop));
    let mut daemon = Daemon {
        config,
        reconciler: reconciler.map_err(Failed::Thread)?,
        trust: Trust::Unproven(Occasion::Start),
        backlog: Backlog::default(),
        watching: Watching::new(config.watch, config.debounce),
        rounds: 0,
        next_sweep: Instant::now(),
        no_walk_before: Instant::now(),
        roots: watched,
        pruning: Pruning::default(),
        stats: Stats::default(),
        stop,
    };
    daemon.run(signals, panicked)
}

impl Daemon<'_> {
    fn run(&mut self, signals: &Receiver<i32>, panicked: &AtomicBool) -> Result<End, Failed> {
        loop {
            let now = Instant::now();
            self.ensure_watch(now);
            self.prune(now);
            self.begin_scan(now)?;
            self.begin_sweep(now)?;
            self.begin_proof(now)?;
            let mut finished = Vec::new();
            let mut emptied_trash = Vec::new();
            if let Some(signal) = self.wait(signals, &mut finished, &mut emptied_trash) {
                return Ok(self.end(signal));
            }
            if panicked.load(Ordering::Relaxed) {
                return Err(Failed::Panicked);
            }
            let now = Instant::now();
            self.check_roots(now);
            self.check_room(now);
            self.backlog.queue.wake(now);
            self.round(finished, emptied_trash);
            if let Some(end) = self.finish_sync(Instant::now()) {
                self.pruning.finish();
                return Ok(end);
            }
        }
    }

    /// Waits for something to do, and takes in what has come.
    fn wait(
        &mut self,
        signals: &Receiver<i32>,
        finished: &mut Vec<Finished>,
        emptied_trash: &mut Vec<Emptied>,
    ) -> Option<i32> {
        let nobody = never();
        let swept = match &self.backlog.sweep {
            Some(sweep) if self.backlog.queue.count_sweep_names() < ENOUGH => {
                sweep.messages().clone()
            }
            _ => nobody.clone(),
        };
        let scanned = match &self.backlog.scan {
            Some(scan) if self.backlog.queue.count_resting() < ENOUGH => scan.messages().clone(),
            _ => nobody,
        };
        let changes = self.watching.watch().map_or_else(never, |watch| watch.changes().clone());
        select! {
            recv(signals) -> signal => return signal.ok(),
            recv(changes) -> change => match change {
                Ok(change) => self.handle_changes(change),
                Err(_) => self.mistrust_watch("the watch has broken down"),
            },
            recv(swept) -> message => match message {
                Ok(message) => {
                    self.handle_sweep(message);
                    // What waits already is taken along, so that rounds are not small ones.
                    let enough = self.measure(Detector::Sweep).0.names;
                    while self.backlog.queue.count_sweep_names() < enough && let Ok(message) = swept.try_recv() {
                        self.handle_sweep(message);
                    }
                }
                Err(_) => self.backlog.sweep = None,
            },
            recv(scanned) -> message => match message {
                Ok(message) => {
                    self.handle_scan(message);
                    for message in scanned.try_iter().take(WATCH_PORTION.dirs) {
                        self.handle_scan(message);
                    }
                }
                Err(_) => self.backlog.scan = None,
            },
            recv(self.reconciler.finished()) -> done => finished.extend(done),
            recv(self.reconciler.emptied_trash()) -> done => emptied_trash.extend(done),
            default(self.next_wakeup()) => {}
        }
        finished.extend(self.reconciler.finished().try_iter());
        emptied_trash.extend(self.reconciler.emptied_trash().try_iter());
        None
    }

    /// How long nothing is due.
    fn next_wakeup(&self) -> Duration {
        let ready = self.backlog.queue.has_ready(Detector::Watch)
            || self.backlog.queue.has_ready(Detector::Sweep);
        if ready && !self.roots.is_lost() {
            return Duration::ZERO;
        }
        // While something is under way, its end wakes the loop, and not the next sweep's time.
        let next =
            self.backlog.next_count.map_or(self.next_sweep, |count| count.min(self.next_sweep));
        let sweep =
            (self.is_swept() && !self.has_its_sweep() && !self.roots.is_lost()).then_some(next);
        let watch =
            self.watching.next_due(self.backlog.sweep.is_some(), self.backlog.scan.is_some());
        let watch = watch.filter(|_| !self.roots.is_lost());
        let scan = self.next_scan(Instant::now());
        let scan = scan.filter(|_| self.backlog.scan.is_none() && !self.roots.is_lost());
        let [sweep, watch, scan] =
            [sweep, watch, scan].map(|due| due.map(|due| due.max(self.no_walk_before)));
        let quiet = self.is_equal().then(|| self.stats.quiet_at()).flatten();
        let due =
            [sweep, watch, scan, quiet, self.backlog.queue.next_due()].into_iter().flatten().min();
        due.map_or(TICK, |due| due.saturating_duration_since(Instant::now()).min(TICK))
    }

    /// Does one round, where there is work for one.
    fn round(&mut self, finished: Vec<Finished>, emptied_trash: Vec<Emptied>) {
        if self.roots.is_lost() {
            return self.reconciler.forget(finished, &emptied_trash);
        }
        // Those that are published in this round make room for as many.
        self.backlog.queue.release_to_workers(self.reconciler.free_workers() + finished.len());
        let detector = self.whose_turn();
        let big = if detector == Detector::Sweep { BIG_FOR_SWEEP } else { BIG_FOR_WATCH };
        let (portion, budget) = self.measure(detector);
        let mut checks = self.backlog.queue.take(detector, portion);
        let moves = self.backlog.queue.take_renames(&mut checks, RENAMES);
        if checks.is_empty() && finished.is_empty() && emptied_trash.is_empty() {
            return;
        }
        let remembered = !self.backlog.failures.is_empty()
            || !self.backlog.links.is_empty()
            || !self.backlog.pending_widen.is_empty();
        let looked_at =
            if remembered { paths(&checks, &finished, &emptied_trash) } else { Vec::new() };
        self.backlog.links.look_at(looked_at.iter());
        let names: usize = checks.values().map(BTreeMap::len).sum();
        let work = Work {
            moves,
            checks,
            finished,
            emptied_trash,
            detector,
            deletions: self.trust.deletions(detector),
            budget: Some(budget),
            big,
            swept: self.stats.last_swept(),
        };
        let begun = Instant::now();
        match self.reconciler.round(work, &self.backlog) {
            Ok(outcome) => {
                let (done, again) = (outcome.done.len(), outcome.again.len());
                let took = begun.elapsed();
                let left =
                    outcome.again.iter().filter(|(_, _, again)| *again == Requeue::Now).count();
                self.stats.looked(names);
                if detector == Detector::Sweep {
                    self.backlog.sweep_batch = match left {
                        0 => (2 * self.backlog.sweep_batch).min(PORTION.names),
                        left => names.saturating_sub(left).max(LEAST),
                    };
                }
                tracing::debug!(
                    op = "round",
                    names,
                    done,
                    again,
                    "{names} names, {done} actions, {took:.1?}"
                );
                if detector == Detector::Watch
                    && outcome.held + outcome.waiting > 0
                    && self.trust != Trust::Trusted
                {
                    self.recount_soon();
                }
                self.apply_outcome(outcome, &looked_at);
            }
            Err(lost) => self.lose(lost),
        }
    }

    /// What a round takes, and how long it begins new tasks.
    fn measure(&self, detector: Detector) -> (BatchLimit, Duration) {
        match detector {
            // It waits for the disk, however little it does.
            _ if self.config.durable => (DURABLE_PORTION, DURABLE_ROUND),
            Detector::Sweep => {
                (BatchLimit { names: self.backlog.sweep_batch, ..PORTION }, SWEEP_ROUND)
            }
            Detector::Watch => (WATCH_PORTION, WATCH_ROUND),
        }
    }

    /// The watch's work comes first, and the sweep's is never shut out.
    fn whose_turn(&mut self) -> Detector {
        self.rounds = self.rounds.wrapping_add(1);
        let swept = self.backlog.queue.has_ready(Detector::Sweep);
        let watched = self.backlog.queue.has_ready(Detector::Watch);
        if watched && !(swept && self.rounds.is_multiple_of(TURNS)) {
            Detector::Watch
        } else {
            Detector::Sweep
        }
    }

    fn is_once(&self) -> bool {
        self.config.mode == Mode::Once
    }

    /// The end by a signal: no new work, nothing temporary left behind.
    fn end(&mut self, signal: i32) -> End {
        self.stop.store(true, Ordering::Relaxed);
        self.backlog.sweep = None;
        self.backlog.scan = None;
        self.watching.stop();
        self.reconciler.abandon();
        self.stats.log_end(signal);
        if self.is_once() { End::Interrupted } else { End::Done }
    }
}

/// Finds out what the replica keeps, and says what it does not; and in which ways the source is to
/// be looked at for that.
fn probe_replica(roots: &mut Roots, unseen: i64) -> Capabilities {
    let tells_late = roots.replica.is_remote();
    let wanted = Capabilities { unseen, tells_late, ..of_process(roots.are_local()) };
    let probed = roots.replica.open_replica().and_then(|(dir, _)| probe(&dir, wanted.clone()));
    // Where nothing can be created, each action will say so.
    let kept = probed.unwrap_or_else(|_| Capabilities {
        symlink_metadata: roots.replica.foreign_file_system().is_none(),
        ..wanted.clone()
    });
    let lacks = MissingCapabilities { wanted: &wanted, kept: &kept };
    if lacks.any() {
        tracing::warn!(
            op = "replica",
            "its file system does not keep: {lacks}. They are not mirrored, and compared as kept"
        );
    }
    roots.find_quirks(&kept);
    kept
}

/// All that a round will look at.
fn paths(checks: &Checks, finished: &[Finished], emptied_trash: &[Emptied]) -> Vec<RelPath> {
    let named = checks.iter().flat_map(|(dir, names)| names.keys().map(|name| dir.join(name)));
    let dirs = checks.keys().cloned();
    let big = finished.iter().map(|finished| finished.job.path.clone());
    let aside = emptied_trash.iter().map(|emptied_trash| emptied_trash.aside.path());
    named.chain(dirs).chain(big).chain(aside).collect()
}
