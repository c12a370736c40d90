//! The daemon: threads, channels and timers around the [core](core), which says what is to be done.

pub mod core;
mod pruning;
mod roots;
pub mod preview;
pub mod startup;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select};

use self::core::{BackgroundStatus, Command, Core, End, Event, Portions, WalkKind, WalkPlan};
use crate::daemon::startup::Prepared;
use crate::fs::roots::Roots;
use crate::fs::tree::FreeSpace;
use crate::fs::writeback::unseen_seconds_of;
use crate::model::check::Detector;
use crate::model::config::Config;
use crate::model::path::RelPath;
use crate::plan::metadata::Capabilities;
use crate::sweep::{Extent, Message, Plan, Sweep};
use crate::watch::{Change, Watch};
use crate::writer::fs::big_files::Finished;
use crate::writer::fs::probe::{MissingCapabilities, of_process, probe};
use crate::writer::fs::round::{Reconciler, Work, WriterOptions};
use crate::writer::fs::trash::Emptied;
use pruning::Pruning;
use roots::RootWatch;

/// How often the roots are checked, at least.
const TICK: Duration = Duration::from_secs(1);

/// How long changes are taken in before the next round, and how many between two looks at the
/// clock: about as long as a round of renames takes, so that they do not pile up.
const INTAKE: Duration = Duration::from_millis(10);
const AT_ONCE: usize = 256;

/// Why a run ended that should not have.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("cannot start a thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(std::io::Error),
    #[error("a thread of twindir has panicked")]
    Panicked,
}

/// What the core's commands are carried out with.
struct Daemon<'a> {
    config: &'a Config,
    core: Core<'a>,
    reconciler: Reconciler,
    watch: Option<Watch>,
    sweep: Option<Sweep>,
    scan: Option<Sweep>,
    /// What has ended beside rounds, and was not taken back by one yet.
    finished: Vec<Finished>,
    emptied_trash: Vec<Emptied>,
    roots: RootWatch,
    pruning: Pruning,
    /// Ends whatever takes long.
    stop: Arc<AtomicBool>,
    /// How the run has ended.
    end: Option<Result<End, Failed>>,
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
        core: Core::new(config, Instant::now()),
        reconciler: reconciler.map_err(Failed::Thread)?,
        watch: None,
        sweep: None,
        scan: None,
        finished: Vec::new(),
        emptied_trash: Vec::new(),
        roots: watched,
        pruning: Pruning::default(),
        stop,
        end: None,
    };
    daemon.run(signals, panicked)
}

impl Daemon<'_> {
    fn run(&mut self, signals: &Receiver<i32>, panicked: &AtomicBool) -> Result<End, Failed> {
        loop {
            self.step(Event::Rest(self.background()));
            if let Some(end) = self.end.take() {
                if end.is_ok() {
                    self.pruning.finish();
                }
                return end;
            }
            self.prune(Instant::now());
            if let Some(signal) = self.wait(signals) {
                return Ok(self.interrupt(signal));
            }
            if panicked.load(Ordering::Relaxed) {
                return Err(Failed::Panicked);
            }
            self.check_roots(Instant::now());
            let ended = self.ended();
            self.step(Event::Turn { background: self.background(), ended });
            if self.core.is_lost() {
                let finished = std::mem::take(&mut self.finished);
                self.reconciler.forget(finished, &std::mem::take(&mut self.emptied_trash));
            }
        }
    }

    /// Tells the core what has happened, and carries out what it says.
    fn step(&mut self, event: Event) {
        for command in self.core.step(Instant::now(), event) {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::StartWatch => {
                let source = &self.reconciler.roots.source.path;
                match Watch::start(source, self.config.debounce) {
                    Ok(watch) => {
                        self.watch = Some(watch);
                        self.step(Event::WatchStarted);
                    }
                    Err(error) => self.step(Event::WatchFailed(error)),
                }
            }
            Command::StopWatch => self.watch = None,
            Command::StartWalk(kind, plan) => match Sweep::start(self.plan_of(plan)) {
                Ok(walk) => *self.walk(kind) = Some(walk),
                Err(error) => self.step(Event::WalkFailed(kind, error)),
            },
            Command::StopWalk(kind) => *self.walk(kind) = None,
            Command::Round(work) => self.round(work),
            Command::FindRooms => self.step(Event::Rooms(self.rooms())),
            Command::InspectRoots => self.inspect_roots(Instant::now()),
            Command::End(end) => self.end = Some(Ok(end)),
            Command::Fail(error) => self.end = Some(Err(Failed::Thread(error))),
        }
    }

    fn walk(&mut self, kind: WalkKind) -> &mut Option<Sweep> {
        match kind {
            WalkKind::Sweep => &mut self.sweep,
            WalkKind::Scan => &mut self.scan,
        }
    }

    fn plan_of(&self, walk: WalkPlan) -> Plan {
        let WalkPlan { task, extent, scopes, detector, drop_behind, .. } = walk;
        Plan {
            roots: self.reconciler.roots.clone(),
            capabilities: self.reconciler.capabilities.clone(),
            filter: self.reconciler.filter.clone(),
            threads: self.config.threads,
            scopes,
            extent,
            task,
            rate: self.config.sweep_rate.filter(|_| detector == Detector::Sweep),
            drop_behind,
            detector,
            registry: self.watch.as_ref().map(Watch::registry),
            // Of directories that are not compared as a whole nothing is to be concluded.
            verified_dirs: (extent != Extent::Names)
                .then(|| Arc::clone(&self.reconciler.verified_dirs)),
            submounts: self.reconciler.submounts(),
        }
    }

    /// Waits for something to do, and takes in what has come: a signal, if one has.
    fn wait(&mut self, signals: &Receiver<i32>) -> Option<i32> {
        let messages = |walk: &Option<Sweep>, kind| match walk {
            Some(walk) if self.core.has_capacity_for(kind) => walk.messages().clone(),
            _ => never(),
        };
        let swept = messages(&self.sweep, WalkKind::Sweep);
        let scanned = messages(&self.scan, WalkKind::Scan);
        let changes = self.watch.as_ref().map_or_else(never, |watch| watch.changes().clone());
        let now = Instant::now();
        let due = self.core.next_wakeup(now).unwrap_or(now + TICK);
        select! {
            recv(signals) -> signal => return signal.ok(),
            recv(changes) -> change => if let Ok(change) = change {
                self.receive_changes(change, &changes);
            } else {
                self.watch = None;
                self.step(Event::WatchEnded);
            },
            recv(swept) -> message => {
                self.receive(WalkKind::Sweep, message.ok());
                // What waits already is taken along, so that rounds are not small ones.
                while !self.core.has_full_round() && let Ok(message) = swept.try_recv() {
                    self.receive(WalkKind::Sweep, Some(message));
                }
            },
            recv(scanned) -> message => {
                self.receive(WalkKind::Scan, message.ok());
                for message in scanned.try_iter().take(Portions::DEFAULT.watch.dirs) {
                    self.receive(WalkKind::Scan, Some(message));
                }
            },
            recv(self.reconciler.finished()) -> done => self.finished.extend(done),
            recv(self.reconciler.emptied_trash()) -> done => self.emptied_trash.extend(done),
            default(due.saturating_duration_since(now).min(TICK)) => {}
        }
        self.finished.extend(self.reconciler.finished().try_iter());
        self.emptied_trash.extend(self.reconciler.emptied_trash().try_iter());
        None
    }

    /// Takes in a change, and those that wait behind it.
    fn receive_changes(&mut self, first: Change, changes: &Receiver<Change>) {
        self.step(Event::Changed(first));
        let begun = Instant::now();
        while begun.elapsed() < INTAKE && !changes.is_empty() {
            for change in changes.try_iter().take(AT_ONCE) {
                // One of them may have been the end of the watch: what it has told besides is void.
                if self.watch.is_none() {
                    return;
                }
                self.step(Event::Changed(change));
            }
        }
    }

    /// Takes in what a walk has found; `None` where it has ended without a word.
    fn receive(&mut self, kind: WalkKind, message: Option<Message>) {
        match message {
            Some(Message::SourceSubmount(path, pin)) => {
                let is_new = self.reconciler.remember_submount(path.clone(), pin);
                self.step(Event::SourceSubmount { path, is_new });
            }
            Some(Message::Walked(both)) => {
                self.reconciler.verified_dirs.walked(&both[0], &both[1]);
            }
            Some(Message::Lost(lost)) => {
                self.step(Event::WalkEnded(WalkKind::Sweep));
                self.step(Event::WalkEnded(WalkKind::Scan));
                self.lose(lost);
            }
            Some(message) => self.step(Event::Found(kind, message)),
            None => {
                *self.walk(kind) = None;
                self.step(Event::WalkEnded(kind));
            }
        }
    }

    /// The paths of what has ended beside rounds.
    fn ended(&self) -> Vec<RelPath> {
        let big = self.finished.iter().map(|finished| finished.job.path.clone());
        big.chain(self.emptied_trash.iter().map(|emptied| emptied.aside.path())).collect()
    }

    fn background(&self) -> BackgroundStatus {
        BackgroundStatus {
            free_workers: self.reconciler.free_workers() + self.finished.len(),
            is_idle: self.reconciler.is_idle(),
            is_idle_for_sweep: self.reconciler.is_idle_for(Detector::Sweep),
        }
    }

    fn round(&mut self, work: Work) {
        let finished = std::mem::take(&mut self.finished);
        let emptied_trash = std::mem::take(&mut self.emptied_trash);
        let work = Work { finished, emptied_trash, ..work };
        let begun = Instant::now();
        match self.reconciler.round(work, self.core.waiting()) {
            Ok(outcome) => {
                let took = begun.elapsed();
                let is_refused =
                    outcome.problems.iter().any(|(problem, _)| problem.refusal().is_some());
                let rooms = if is_refused { self.rooms() } else { Vec::new() };
                self.step(Event::RoundDone {
                    outcome: Box::new(outcome),
                    took,
                    rooms,
                    background: self.background(),
                });
            }
            Err(lost) => self.lose(lost),
        }
    }

    /// What the file systems can take that are written to.
    fn rooms(&self) -> Vec<FreeSpace> {
        let backup = self.reconciler.backup().map(|backup| backup.root());
        [Some(&self.reconciler.roots.replica), backup]
            .into_iter()
            .flatten()
            .filter_map(|root| root.room().ok())
            .collect()
    }

    /// The end by a signal: no new work, nothing temporary left behind.
    fn interrupt(&mut self, signal: i32) -> End {
        self.stop.store(true, Ordering::Relaxed);
        (self.sweep, self.scan, self.watch) = (None, None, None);
        self.reconciler.abandon();
        self.core.interrupt(signal)
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
