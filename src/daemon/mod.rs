//! The daemon: threads, channels and timers around the [core](core), which decides what to do.

pub mod control;
pub mod core;
mod hooks;
mod progress;
mod roots;
mod service;
pub mod preview;
pub mod startup;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};
use signal_hook::consts::{SIGCONT, SIGUSR1, SIGWINCH};

use self::core::{Command, Core, End, Event, Portions, WalkKind, WalkPlan};
use crate::daemon::control::{ControlServer, Request, StatusBoard};
use crate::daemon::startup::Prepared;
use crate::fs::roots::Lost;
use crate::fs::tree::FreeSpace;
use crate::fs::writeback::unseen_seconds_of;
use crate::model::check::Detector;
use crate::model::config::Config;
use crate::model::error::Side;
use crate::model::path::shown;
use crate::model::status::{JobProgress, Status, WaitResult};
use crate::report::LiveLine;
use crate::sweep::{Extent, Message, Plan, Sweep};
use crate::watch::{Change, Watch, kernel_limit};
use crate::writer::fs::pruning::Pruning;
use crate::writer::fs::round::{Reconciler, WriterOptions};
use crate::writer::{Work, Writer};
use hooks::Hooks;
use progress::Progress;
use roots::{RootKeeper, RootWatch, probe_replica};
use service::ServiceManager;

/// The longest wait of the loop. The roots are checked at least that often.
const TICK: Duration = Duration::from_secs(1);

/// How long changes are received before the next round, and how many between two checks of the
/// time. A round of renames takes about as long, so changes do not pile up.
const INTAKE: Duration = Duration::from_millis(10);
const AT_ONCE: usize = 256;

/// The error that ended a run.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("cannot start a thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(std::io::Error),
    #[error("a thread of twindir has panicked")]
    Panicked,
}

/// Runs the daemon until one sync is done (`--once`), or until a signal comes.
///
/// # Errors
/// [`Failed`]. No state of the two trees can cause it.
pub fn run(
    config: &Config,
    prepared: Prepared,
    signals: &Receiver<i32>,
    panicked: &AtomicBool,
    live: LiveLine,
) -> Result<End, Failed> {
    let Prepared {
        mut roots, source_mount, replica_mount, mut lock, filter, backup, beside, ..
    } = prepared;
    let stop = Arc::new(AtomicBool::new(false));
    let capabilities = probe_replica(&mut roots, unseen_seconds_of(config.task));
    let log_dir = beside.log.as_ref().and_then(|log| log.parent()).map(ToOwned::to_owned);
    let in_use = [roots.source.path.clone(), roots.replica.path.clone()].into_iter().chain(log_dir);
    let options = WriterOptions {
        threads: config.threads,
        durable: config.durable,
        backup,
        pruning: config.backup_keep.map(|keep| Pruning::new(keep, in_use.collect())),
    };
    let paths = [&roots.source, &roots.replica].map(|root| root.path.clone());
    let named = paths.clone().map(PathBuf::into_os_string);
    let (asked, requests) = unbounded();
    let board = StatusBoard::default();
    lock.answer_by(ControlServer::new(board.clone(), asked));
    let keeper = RootWatch::new(config, source_mount, replica_mount, lock, beside);
    let writer = Reconciler::start(roots, capabilities, filter, options, Arc::clone(&stop))
        .map_err(Failed::Thread)?;
    let hooks = Hooks::start(config.hooks.clone(), named).map_err(Failed::Thread)?;
    let progress = Progress::new(board, live, Instant::now());
    let face = Interfaces { progress, hooks, service: ServiceManager::start(), requests };
    Daemon::new(config, paths, (writer, keeper), face, stop).run(signals, panicked)
}

/// The interfaces to users and other programs.
struct Interfaces {
    progress: Progress,
    hooks: Hooks,
    service: ServiceManager,
    requests: Receiver<Request>,
}

/// The core, and all that carries out its commands.
struct Daemon<'a, W: Writer, R> {
    config: &'a Config,
    /// The absolute paths of source and replica.
    paths: [PathBuf; 2],
    core: Core<'a>,
    writer: W,
    roots: R,
    watch: Option<Watch>,
    sweep: Option<Sweep>,
    partial_walk: Option<Sweep>,
    face: Interfaces,
    /// The askers that wait, by their numbers.
    waiters: HashMap<u64, Sender<WaitResult>>,
    /// The most directories that the kernel lets this user watch.
    watches_allowed: Option<u64>,
    /// When set, all long work stops.
    stop: Arc<AtomicBool>,
    /// The end of the run, once it is known.
    end: Option<Result<End, Failed>>,
}

impl<'a, W: Writer, R: RootKeeper<W>> Daemon<'a, W, R> {
    fn new(
        config: &'a Config,
        paths: [PathBuf; 2],
        (writer, roots): (W, R),
        face: Interfaces,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            config,
            paths,
            core: Core::new(config, Instant::now()),
            writer,
            roots,
            watch: None,
            sweep: None,
            partial_walk: None,
            face,
            waiters: HashMap::new(),
            watches_allowed: kernel_limit("watches").1.parse().ok(),
            stop,
            end: None,
        }
    }

    fn run(&mut self, signals: &Receiver<i32>, panicked: &AtomicBool) -> Result<End, Failed> {
        loop {
            self.step(Event::Rest(self.writer.background()));
            if let Some(end) = self.end.take() {
                if end.is_ok() {
                    self.writer.finish();
                    let status = self.status();
                    self.face.hooks.finish(&status, signals);
                }
                return end;
            }
            self.writer.tend(Instant::now());
            self.publish();
            if let Some(signal) = self.wait(signals) {
                return Ok(self.interrupt(signal));
            }
            if panicked.load(Ordering::Relaxed) {
                return Err(Failed::Panicked);
            }
            if self.roots.is_due(Instant::now()) {
                self.inspect_roots();
            }
            let background = self.writer.background();
            self.step(Event::Turn { background, ended: self.writer.paths_given_back() });
            if self.core.is_lost() {
                self.writer.forget_given_back();
            }
        }
    }

    /// Checks both roots.
    fn inspect_roots(&mut self) {
        for side in [Side::Source, Side::Replica] {
            let (trust, now) = (self.core.trust(), Instant::now());
            let events = self.roots.inspect(side, &mut self.writer, trust, now);
            for event in events {
                self.step(event);
            }
        }
        self.note_if_back();
    }

    /// Reports to the core if both roots are back.
    fn note_if_back(&mut self) {
        if self.core.is_lost() && !self.roots.is_lost() {
            self.step(Event::RootsBack);
        }
    }

    /// Handles a root that a round or a walk has found missing or replaced.
    fn lose(&mut self, lost: Lost) {
        let (side, error) = match lost {
            Lost::Source(error) => (Side::Source, error),
            Lost::Replica(error) => (Side::Replica, error),
            Lost::SourceReplaced | Lost::ReplicaReplaced => {
                // The old root may be back already. The pending checks are dropped all the same.
                self.step(Event::RootLost);
                self.writer.abandon();
                return self.inspect_roots();
            }
        };
        let (trust, now) = (self.core.trust(), Instant::now());
        let events = self.roots.miss(side, error, &mut self.writer, trust, now);
        for event in events {
            self.step(event);
        }
        // If the replica was deleted, it has been created again by now.
        self.note_if_back();
    }

    /// Passes an event to the core, and carries out its commands.
    fn step(&mut self, event: Event) {
        self.face.progress.mark_stale();
        for command in self.core.step(Instant::now(), event) {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::StartWatch => match Watch::start(&self.paths[0], self.config.debounce) {
                Ok(watch) => {
                    self.watch = Some(watch);
                    self.step(Event::WatchStarted);
                }
                Err(error) => self.step(Event::WatchFailed(error)),
            },
            Command::StopWatch => self.watch = None,
            Command::StartWalk(kind, plan) => match Sweep::start(self.plan_of(plan)) {
                Ok(walk) => *self.walk(kind) = Some(walk),
                Err(error) => self.step(Event::WalkFailed(kind, error)),
            },
            Command::StopWalk(kind) => *self.walk(kind) = None,
            Command::Round(work) => self.round(work),
            Command::AskFreeSpace => self.step(Event::FreeSpace(self.writer.free_space())),
            Command::InspectRoots => self.inspect_roots(),
            Command::Fence(number) => {
                let fence = self.watch.as_ref().map(|watch| watch.fence(number));
                if !matches!(fence, Some(Ok(()))) {
                    self.step(Event::FenceFailed);
                }
            }
            Command::Answer(id, result) => {
                if let Some(waiter) = self.waiters.remove(&id) {
                    // The asker may have disconnected meanwhile.
                    let _ = waiter.send(result);
                }
            }
            Command::End(end) => self.end = Some(Ok(end)),
            Command::Fail(error) => self.end = Some(Err(Failed::Thread(error))),
        }
    }

    fn walk(&mut self, kind: WalkKind) -> &mut Option<Sweep> {
        match kind {
            WalkKind::Sweep => &mut self.sweep,
            WalkKind::Partial => &mut self.partial_walk,
        }
    }

    fn plan_of(&self, walk: WalkPlan) -> Plan<W::Trees> {
        let WalkPlan { task, extent, scopes, detector, drop_behind, .. } = walk;
        Plan {
            trees: self.writer.trees(),
            capabilities: self.writer.capabilities().clone(),
            filter: self.writer.filter().clone(),
            threads: self.config.threads,
            scopes,
            extent,
            task,
            rate: self.config.sweep_rate.filter(|_| detector == Detector::Sweep),
            drop_behind,
            detector,
            registry: self.watch.as_ref().map(Watch::registry),
            // A walk that compares only the names in a directory verifies nothing.
            verified_dirs: self.writer.verified_dirs().filter(|_| extent != Extent::Names).cloned(),
            submounts: self.writer.submounts(),
        }
    }

    /// Waits until something happens or is due, and handles it. Returns a signal that ends the run.
    fn wait(&mut self, signals: &Receiver<i32>) -> Option<i32> {
        let messages = |walk: &Option<Sweep>, kind| match walk {
            Some(walk) if self.core.has_capacity_for(kind) => walk.messages().clone(),
            _ => never(),
        };
        let swept = messages(&self.sweep, WalkKind::Sweep);
        let partial = messages(&self.partial_walk, WalkKind::Partial);
        let changes = self.watch.as_ref().map_or_else(never, |watch| watch.changes().clone());
        let ended = self.writer.ended().clone();
        let now = Instant::now();
        let due = self.core.next_wakeup(now).unwrap_or(now + TICK);
        select! {
            recv(signals) -> signal => match signal {
                Ok(SIGUSR1) => progress::say(&self.status()),
                Ok(SIGCONT | SIGWINCH) => self.face.progress.draw_again(),
                other => return other.ok(),
            },
            recv(self.face.requests) -> request => if let Ok(request) = request {
                self.take_request(request);
            },
            recv(changes) -> change => if let Ok(change) = change {
                self.receive_changes(change, &changes);
            } else {
                self.watch = None;
                self.step(Event::WatchEnded);
            },
            recv(swept) -> message => {
                self.receive(WalkKind::Sweep, message.ok());
                // Small rounds are inefficient: receive the messages that wait already.
                while !self.core.has_full_round() && let Ok(message) = swept.try_recv() {
                    self.receive(WalkKind::Sweep, Some(message));
                }
            },
            recv(partial) -> message => {
                self.receive(WalkKind::Partial, message.ok());
                for message in partial.try_iter().take(Portions::DEFAULT.watch.dirs) {
                    self.receive(WalkKind::Partial, Some(message));
                }
            },
            recv(ended) -> one => if let Ok(one) = one {
                self.writer.give_back(one);
            },
            default(due.saturating_duration_since(now).min(TICK).min(self.face.progress.tick()).min(self.face.service.tick())) => {}
        }
        for one in ended.try_iter() {
            self.writer.give_back(one);
        }
        None
    }

    /// Handles a change and those that wait behind it, for up to [`INTAKE`].
    fn receive_changes(&mut self, first: Change, changes: &Receiver<Change>) {
        self.step(Event::Changed(first));
        let begun = Instant::now();
        while begun.elapsed() < INTAKE && !changes.is_empty() {
            for change in changes.try_iter().take(AT_ONCE) {
                // A change may have ended the watch. Then its other reports are void.
                if self.watch.is_none() {
                    return;
                }
                self.step(Event::Changed(change));
            }
        }
    }

    /// Handles a message of a walk. `None`: the walk has ended without a final message.
    fn receive(&mut self, kind: WalkKind, message: Option<Message>) {
        match message {
            Some(Message::SourceSubmount(path, id)) => {
                let is_new = self.writer.remember_submount(path.clone(), id);
                self.step(Event::SourceSubmount { path, is_new });
            }
            Some(Message::Walked(both)) => {
                if let Some(verified_dirs) = self.writer.verified_dirs() {
                    verified_dirs.walked(&both[0], &both[1]);
                }
            }
            Some(Message::Lost(lost)) => {
                self.step(Event::WalkEnded(WalkKind::Sweep));
                self.step(Event::WalkEnded(WalkKind::Partial));
                self.lose(lost);
            }
            Some(message) => self.step(Event::Found(kind, message)),
            None => {
                *self.walk(kind) = None;
                self.step(Event::WalkEnded(kind));
            }
        }
    }

    fn round(&mut self, work: Work) {
        self.face.progress.mark_busy();
        let begun = Instant::now();
        match self.writer.round(work, self.core.waiting()) {
            Ok(outcome) => {
                let took = begun.elapsed();
                self.face.hooks.note(&outcome.done);
                let is_out_of_space =
                    outcome.problems.iter().any(|(problem, _)| problem.out_of_space().is_some());
                let free_space: Vec<FreeSpace> =
                    if is_out_of_space { self.writer.free_space() } else { Vec::new() };
                self.step(Event::RoundDone {
                    outcome: Box::new(outcome),
                    took,
                    free_space,
                    background: self.writer.background(),
                });
            }
            Err(lost) => self.lose(lost),
        }
    }

    fn take_request(&mut self, request: Request) {
        match request {
            Request::Wait { id, full, answer } => {
                self.waiters.insert(id, answer);
                self.step(Event::Wait { id, full });
            }
            Request::GiveUp(id) => {
                self.waiters.remove(&id);
                self.step(Event::WaitEnded(id));
            }
        }
    }

    /// Returns the status, with the facts that the core does not know.
    fn status(&self) -> Status {
        let mut status = self.core.status(Instant::now());
        if let (Some(walk), Some(sweep)) = (&mut status.walk, &self.sweep) {
            (walk.entries, walk.bytes) = sweep.progress();
        }
        status.watches = self.watch.as_ref().map(|watch| watch.registry().count() as u64);
        status.watches_allowed = self.watches_allowed.filter(|_| self.watch.is_some());
        status.job = self.writer.longest_job().map(|job| JobProgress {
            task: job.task,
            path: job.path.map(|path| path.to_string()),
            done: job.done,
            total: job.total,
            seconds: job.begun.elapsed().as_secs_f64(),
        });
        status.lost = self.roots.what_is_lost();
        [status.source, status.replica] = self.paths.each_ref().map(|path| shown(path).to_string());
        status
    }

    /// Publishes a new status and runs hooks, if it is time for that. Feeds the watchdog.
    fn publish(&mut self) {
        let now = Instant::now();
        let is_idle = self.core.next_wakeup(now).is_none_or(|due| due > now);
        self.face.service.turn(now);
        if self.face.progress.is_due(is_idle, now) {
            let status = self.status();
            self.face.service.update(&status, now);
            self.face.hooks.run_due(&status, now);
            self.face.progress.show(status, now);
        }
    }

    /// Ends the run because of a signal. Starts no new work, and leaves no temporary files behind.
    fn interrupt(&mut self, signal: i32) -> End {
        self.stop.store(true, Ordering::Relaxed);
        self.face.service.stop();
        (self.sweep, self.partial_walk, self.watch) = (None, None, None);
        self.writer.abandon();
        self.core.interrupt(signal)
    }
}

#[cfg(test)]
mod tests;
