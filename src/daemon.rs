//! The one loop that knows all: what detectors find goes into the queue, what is ready goes
//! into rounds, and everything else waits for its time.

mod roots;
mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select};

use crate::carrier::Carried;
use crate::config::{Config, Mode};
use crate::decide::Keeps;
use crate::guard::Trust;
use crate::path::RelPath;
use crate::probe::{Lacks, of_process, probe};
use crate::queue::{Depth, Detector, Look, Looks, Portion, Queue};
use crate::reaper::Reaped;
use crate::reconcile::{Again, Outcome, Reconciler, Roots, Work};
use crate::report::{Cause, Problem};
use crate::roots::Prepared;
use crate::sweep::{Message, Plan, Sweep, Task};
use crate::troubles::{Failure, Troubles};
use roots::RootWatch;
use settle::Tally;

/// How often the roots are checked, at least.
const TICK: Duration = Duration::from_secs(1);

/// While so many names of a sweep wait, it is not listened to.
const ENOUGH: usize = 10_000;

/// What one round takes at most.
const PORTION: Portion = Portion { names: 256, dirs: 64 };

/// And at least, however slow the machine: what a round looked at and had no time for is looked
/// at again.
const LEAST: usize = 32;

/// How long a round of sweep work begins new tasks, so that it holds up nothing for long.
const SWEEP_ROUND: Duration = Duration::from_millis(5);

/// Files above this size, in bytes, are no matter for a round of sweep work.
const BIG_FOR_SWEEP: u64 = 1024 * 1024;

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
    queue: Queue,
    troubles: Troubles,
    trust: Trust,
    /// The sweep, count or scan that runs.
    sweep: Option<Sweep>,
    /// Directories below which all is to be looked at.
    scans: BTreeSet<RelPath>,
    /// Names that a round could do in its time, of late.
    pace: usize,
    next_sweep: Instant,
    roots: RootWatch,
    tally: Tally,
    /// Ends whatever takes long.
    stop: Arc<AtomicBool>,
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
    let Prepared { roots, home, lock, filter, .. } = prepared;
    let stop = Arc::new(AtomicBool::new(false));
    let keeps = probe_replica(&roots);
    let watched = RootWatch::new(home, lock);
    let reconciler = Reconciler::start(roots, keeps, filter, config.threads, Arc::clone(&stop));
    let mut daemon = Daemon {
        config,
        reconciler: reconciler.map_err(Failed::Thread)?,
        queue: Queue::default(),
        troubles: Troubles::default(),
        trust: Trust::Unproven,
        sweep: None,
        scans: BTreeSet::new(),
        pace: PORTION.names,
        next_sweep: Instant::now(),
        roots: watched,
        tally: Tally::default(),
        stop,
    };
    daemon.run(signals, panicked)
}

impl Daemon<'_> {
    fn run(&mut self, signals: &Receiver<i32>, panicked: &AtomicBool) -> Result<End, Failed> {
        loop {
            self.begin_what_is_due(Instant::now())?;
            let mut carried = Vec::new();
            let mut reaped = Vec::new();
            if let Some(signal) = self.wait(signals, &mut carried, &mut reaped) {
                return Ok(self.end(signal));
            }
            if panicked.load(Ordering::Relaxed) {
                return Err(Failed::Panicked);
            }
            let now = Instant::now();
            self.check_roots(now);
            self.queue.wake(now);
            self.round(carried, reaped);
            if self.is_settled()
                && let Some(end) = self.settle(Instant::now())
            {
                return Ok(end);
            }
        }
    }

    /// Waits for something to do, and takes in what has come.
    fn wait(
        &mut self,
        signals: &Receiver<i32>,
        carried: &mut Vec<Carried>,
        reaped: &mut Vec<Reaped>,
    ) -> Option<i32> {
        let nobody = never();
        let messages = match &self.sweep {
            Some(sweep) if self.queue.sweep_names() < ENOUGH => sweep.messages().clone(),
            _ => nobody,
        };
        select! {
            recv(signals) -> signal => return signal.ok(),
            recv(messages) -> message => match message {
                Ok(message) => {
                    self.take_in(message);
                    // What waits already is taken along, so that rounds are not small ones.
                    while self.queue.sweep_names() < PORTION.names && let Ok(message) = messages.try_recv() {
                        self.take_in(message);
                    }
                }
                Err(_) => self.sweep = None,
            },
            recv(self.reconciler.carried()) -> done => carried.extend(done),
            recv(self.reconciler.reaped()) -> done => reaped.extend(done),
            default(self.patience()) => {}
        }
        carried.extend(self.reconciler.carried().try_iter());
        reaped.extend(self.reconciler.reaped().try_iter());
        None
    }

    /// How long nothing is due.
    fn patience(&self) -> Duration {
        let ready = self.queue.has_ready(Detector::Watch) || self.queue.has_ready(Detector::Sweep);
        if ready && !self.roots.is_lost() {
            return Duration::ZERO;
        }
        // While something is under way, its end wakes the loop, and not the next sweep's time.
        let sweep = (self.is_settled() && !self.roots.is_lost()).then_some(self.next_sweep);
        let due = sweep.into_iter().chain(self.queue.next_due()).min();
        due.map_or(TICK, |due| due.saturating_duration_since(Instant::now()).min(TICK))
    }

    /// Starts the sweep, count or scan whose time has come.
    fn begin_what_is_due(&mut self, now: Instant) -> Result<(), Failed> {
        if self.sweep.is_some() || self.roots.is_lost() {
            return Ok(());
        }
        let (task, scope) = if let Some(scope) = self.scans.pop_first() {
            (Task::Full, scope)
        } else if now < self.next_sweep || !self.is_settled() {
            return Ok(());
        } else if self.trust == Trust::Trusted || self.tally.is_counted() {
            (self.config.task, RelPath::root())
        } else {
            (Task::Count, RelPath::root())
        };
        if task != Task::Count {
            self.troubles.scan_begins();
        }
        if task != Task::Count && scope.is_root() {
            self.tally.sweep_begins(now);
        }
        let plan = Plan {
            roots: self.reconciler.roots.clone(),
            keeps: self.reconciler.keeps.clone(),
            filter: self.reconciler.filter.clone(),
            threads: self.config.threads,
            scope,
            task,
        };
        match Sweep::start(plan) {
            Ok(sweep) => self.sweep = Some(sweep),
            Err(error) if self.is_once() => return Err(Failed::Thread(error)),
            Err(error) => {
                let wait = self.config.interval.min(Duration::from_secs(10));
                tracing::error!(op = "error", "cannot start a sweep: {error}; will try again in {wait:?}");
                self.next_sweep = now + wait;
            }
        }
        Ok(())
    }

    fn take_in(&mut self, message: Message) {
        match message {
            Message::Differ(dir, names) => self.queue.push(Detector::Sweep, dir, names),
            Message::Crossing(path) => self.reconciler.remember_crossing(path),
            Message::Problem(problem) => {
                let look = Look::new(Depth::Subtree, Detector::Sweep, Instant::now());
                self.set_back(&problem, look, Failure::Scan);
            }
            Message::Counted(count) => {
                self.sweep = None;
                self.judge(&count);
            }
            Message::Swept(summary) => {
                let Some(sweep) = self.sweep.take() else { return };
                let full = sweep.plan.scope.is_root();
                for path in self.troubles.scanned(&sweep.plan.scope) {
                    say_resolved(&path);
                }
                if full {
                    self.tally.swept(summary);
                }
            }
            Message::Lost(lost) => {
                self.sweep = None;
                self.lose(lost);
            }
        }
    }

    /// Does one round, where there is work for one.
    fn round(&mut self, carried: Vec<Carried>, reaped: Vec<Reaped>) {
        if self.roots.is_lost() {
            return self.reconciler.forget(carried, &reaped);
        }
        // Those that are published in this round make room for as many.
        self.queue.unpark(self.reconciler.free_carriers() + carried.len());
        let looks = self.queue.take(Detector::Sweep, Portion { names: self.pace, ..PORTION });
        if looks.is_empty() && carried.is_empty() && reaped.is_empty() {
            return;
        }
        let looked_at = if self.troubles.is_empty() { Vec::new() } else { paths(&looks, &carried, &reaped) };
        let names: usize = looks.values().map(BTreeMap::len).sum();
        let work = Work {
            looks,
            carried,
            reaped,
            deletions: self.trust.deletions(),
            budget: Some(SWEEP_ROUND),
            big: BIG_FOR_SWEEP,
        };
        let begun = Instant::now();
        match self.reconciler.round(work) {
            Ok(outcome) => {
                let (done, again) = (outcome.done.len(), outcome.again.len());
                let took = begun.elapsed();
                let left = outcome.again.iter().filter(|(_, _, again)| *again == Again::Now).count();
                self.pace = match left {
                    0 => (2 * self.pace).min(PORTION.names),
                    left => names.saturating_sub(left).max(LEAST),
                };
                tracing::debug!(
                    op = "round",
                    names,
                    done,
                    again,
                    "{names} names, {done} actions, {took:.1?}"
                );
                self.take_up(outcome, looked_at);
            }
            Err(lost) => self.lose(lost),
        }
    }

    /// Takes up what a round has left.
    fn take_up(&mut self, outcome: Outcome, looked_at: Vec<RelPath>) {
        let mut open: BTreeSet<RelPath> = outcome.open.into_iter().collect();
        for (problem, look) in outcome.problems {
            open.insert(problem.path.clone());
            self.set_back(&problem, look, Failure::Entry);
        }
        for (path, look, again) in outcome.again {
            open.insert(path.clone());
            match again {
                Again::Now => self.queue.push_path(&path, look),
                Again::Carrier => self.queue.park(path, look),
                Again::Restless => {
                    let problem = Problem { path, cause: Cause::Restless };
                    self.set_back(&problem, look, Failure::Restless);
                }
            }
        }
        for path in looked_at {
            if !open.contains(&path) && self.troubles.settled(&path) {
                say_resolved(&path);
            }
        }
        self.tally.add(&outcome.done, outcome.held, outcome.linked);
        self.scans.extend(outcome.scans);
    }

    /// Notes what failed, says it where it is new, and lets it be tried again.
    fn set_back(&mut self, problem: &Problem, look: Look, failure: Failure) {
        let now = Instant::now();
        let retry = self.troubles.met(&problem.path, failure, now);
        if retry.tell {
            problem.log((!self.is_once()).then_some(retry.after));
            self.tally.disturb();
        }
        self.queue.push_later(now + retry.after, problem.path.clone(), look);
    }

    fn is_once(&self) -> bool {
        self.config.mode == Mode::Once
    }

    /// The end by a signal: no new work, nothing temporary left behind.
    fn end(&mut self, signal: i32) -> End {
        self.stop.store(true, Ordering::Relaxed);
        self.sweep = None;
        self.reconciler.abandon();
        self.tally.say_end(signal);
        if self.is_once() { End::Interrupted } else { End::Done }
    }
}

/// Finds out what the replica keeps, and says what it does not.
fn probe_replica(roots: &Roots) -> Keeps {
    let wanted = of_process(roots.are_local());
    // Where nothing can be created, each action will say so.
    let Ok(kept) = roots.replica.open_replica().and_then(|(dir, _)| probe(&dir, wanted.clone())) else {
        return wanted;
    };
    let lacks = Lacks { wanted: &wanted, kept: &kept };
    if lacks.any() {
        tracing::warn!(
            op = "replica",
            "its file system does not keep: {lacks}. They are not mirrored, and compared as kept"
        );
    }
    kept
}

/// All that a round will look at.
fn paths(looks: &Looks, carried: &[Carried], reaped: &[Reaped]) -> Vec<RelPath> {
    let named = looks.iter().flat_map(|(dir, names)| names.keys().map(|name| dir.join(name)));
    let unnamed = looks.iter().filter(|(_, names)| names.is_empty()).map(|(dir, _)| dir.clone());
    let big = carried.iter().map(|carried| carried.job.path.clone());
    let aside = reaped.iter().map(|reaped| reaped.aside.path());
    named.chain(unnamed).chain(big).chain(aside).collect()
}

fn say_resolved(path: &RelPath) {
    tracing::info!(op = "resolved", path = %path, "the problem is over");
}
