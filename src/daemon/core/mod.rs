//! The loop's core: decides what to do about each event. It has no threads or channels, and no
//! clocks except for the texts of its log lines. Events come in with their times, and commands go
//! out. Its driver carries them out: the daemon with threads, and tests in an order that a seed
//! determines.

mod crowds;
mod outcome;
mod settle;
mod space;
mod stats;
mod status;
mod stray_writes;
mod turn;
mod waits;
mod walks;
mod watching;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::fs::tree::FreeSpace;
use crate::model::check::Detector;
use crate::model::config::{Config, Mode};
use crate::model::error::Side;
use crate::model::path::RelPath;
use crate::model::status::{Held, WaitResult};
use crate::plan::failures::Failures;
use crate::plan::guard::{Occasion, Trust};
use crate::plan::hard_links::Links;
use crate::plan::pending_widen::PendingWiden;
use crate::plan::queue::Queue;
use crate::sweep::Message;
use crate::watch::Change;
use crate::writer::{BackgroundStatus, Outcome, Waiting, Work};
use crowds::Crowds;
use outcome::RoundPlan;
use settle::SyncState;
use space::OutOfSpace;
use stats::Stats;
use stray_writes::StrayWrites;
pub use turn::Portions;
use waits::Waits;
pub use walks::{WalkKind, WalkPlan};
use watching::Watching;

/// The number of waiting names of a walk at which its messages are no longer received.
const ENOUGH: usize = 10_000;

/// The end of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// As requested: after one sync that left nothing to do, or by a signal.
    Done,
    /// After one sync that left differences.
    Incomplete,
    /// A single run was interrupted by a signal.
    Interrupted,
}

/// An event.
pub enum Event {
    /// The watch reports a change.
    Changed(Change),
    /// A new watch was started. Only the source's root is registered so far.
    WatchStarted,
    /// No watch can be started.
    WatchFailed(std::io::Error),
    /// The watch reports nothing any more.
    WatchEnded,
    /// A walk has found something.
    Found(WalkKind, Message),
    /// A walk has met a file system that is mounted in the source. `is_new`: it was not known
    /// before.
    SourceSubmount { path: RelPath, is_new: bool },
    /// No thread could be started for a walk.
    WalkFailed(WalkKind, std::io::Error),
    /// The walk of this kind, if there is one, will not complete. A root seems to be lost.
    WalkEnded(WalkKind),
    /// There is time for a round. `ended`: paths whose background work has ended. The round handles
    /// their results.
    Turn { background: BackgroundStatus, ended: Vec<RelPath> },
    /// The round has ended. `free_space`: the free space of the replica and of the backups, if an entry
    /// may have failed for lack of it.
    RoundDone {
        outcome: Box<Outcome>,
        took: Duration,
        free_space: Vec<FreeSpace>,
        background: BackgroundStatus,
    },
    /// The free space of the replica and of the backups.
    FreeSpace(Vec<FreeSpace>),
    /// The turn is over: a sync may have ended, and walks may be due.
    Rest(BackgroundStatus),
    /// A root is missing or was replaced. All that is known about it is void.
    RootLost,
    /// Another directory was adopted as this root. `must_be_complete`: deletions are held until the
    /// source is complete.
    RootAdopted { side: Side, must_be_complete: bool },
    /// Both roots are present again.
    RootsBack,
    /// An asker of this number waits until every change made before is in the replica. `full`: also
    /// until the end of a full sweep that begins from now on.
    Wait { id: u64, full: bool },
    /// The asker of this number no longer waits.
    WaitEnded(u64),
    /// The watch cannot put a fence.
    FenceFailed,
}

/// A command. Commands are carried out in their order.
pub enum Command {
    StartWatch,
    StopWatch,
    StartWalk(WalkKind, WalkPlan),
    StopWalk(WalkKind),
    Round(Work),
    /// Find out the free space of the replica and of the backups.
    AskFreeSpace,
    InspectRoots,
    /// Put a fence of this number behind all events that the kernel has queued by now.
    Fence(u64),
    /// Send an answer to the asker of this number.
    Answer(u64, WaitResult),
    /// End the run.
    End(End),
    /// End the run with an error: no thread can be started for a walk.
    Fail(std::io::Error),
}

/// The state of the loop.
pub struct Core<'a> {
    config: &'a Config,
    trust: Trust,
    backlog: Backlog,
    watching: Watching,
    sync: SyncState,
    stats: Stats,
    waits: Waits,
    /// The deletions that the guard holds, as it has reported them.
    held: Option<Held>,
    /// When the run began.
    begun: Instant,
    portions: Portions,
    /// Number of turns, for `whose_turn`.
    rounds: u32,
    next_sweep: Instant,
    /// No walk starts before this time: no thread could be started for the last one.
    no_walk_before: Instant,
    /// Whether a root is missing. Nothing is done until it is back.
    is_lost: bool,
    background: BackgroundStatus,
    /// The current round.
    round: Option<RoundPlan>,
    commands: Vec<Command>,
}

/// What is known about the present roots, and the work that follows from it. If a root is lost, all
/// of it is dropped: the next sweep finds it again.
#[derive(Default)]
pub struct Backlog {
    queue: Queue,
    failures: Failures,
    /// The current walk over both trees: a full or quick sweep, or a count. Or the full comparison
    /// of renamed directories.
    sweep: Option<WalkPlan>,
    /// The current walk of some directories, or of unwatched ones.
    partial_walk: Option<WalkPlan>,
    /// Directories to compare in full, with everything below.
    to_walk: BTreeSet<RelPath>,
    /// Directories that were renamed in the replica as in the source. A quick sweep below them
    /// finds changes made about that time.
    moved: BTreeSet<RelPath>,
    /// The same directories after that sweep. Their entries have old ctimes, so only MD5s prove
    /// that both sides are equal. This comparison waits until there is no other work.
    needs_full_compare: BTreeSet<RelPath>,
    pending_widen: PendingWiden,
    stray_writes: StrayWrites,
    crowds: Crowds,
    links: Links,
    /// Number of names that recent rounds of sweep work could handle in time; `None` before the
    /// first.
    sweep_batch: Option<usize>,
    /// When to count again before the next sweep, if the source is not trusted.
    next_count: Option<Instant>,
    out_of_space: Option<OutOfSpace>,
}

impl<'a> Core<'a> {
    pub fn new(config: &'a Config, now: Instant) -> Self {
        Self {
            config,
            trust: Trust::Unproven(Occasion::Start),
            backlog: Backlog::default(),
            watching: Watching::new(config.watch, config.debounce),
            sync: SyncState::default(),
            stats: Stats::default(),
            waits: Waits::default(),
            held: None,
            begun: now,
            portions: if config.durable { Portions::DURABLE } else { Portions::DEFAULT },
            rounds: 0,
            next_sweep: now,
            no_walk_before: now,
            is_lost: false,
            background: BackgroundStatus {
                free_workers: 0,
                is_idle: true,
                is_idle_for_sweep: true,
                oldest: None,
            },
            round: None,
            commands: Vec::new(),
        }
    }

    /// Handles an event. Returns the commands that follow from it.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Command> {
        match event {
            Event::Changed(change) => self.handle_change(change, now),
            Event::WatchStarted => {
                self.watching.starts();
                self.waits.fences_are_lost();
                self.begin_walks(now);
            }
            Event::WatchFailed(error) => {
                self.watching.fails(&error, now);
                self.begin_walks(now);
            }
            Event::WatchEnded => self.mistrust_watch("the watch has failed"),
            Event::Found(WalkKind::Sweep, message) => self.handle_sweep(message, now),
            Event::Found(WalkKind::Partial, message) => self.handle_partial_walk(message, now),
            Event::SourceSubmount { path, is_new } => self.note_mount(&path, is_new),
            Event::WalkFailed(kind, error) => self.cannot_walk(kind, error, now),
            Event::WalkEnded(kind) => _ = self.take_walk(kind),
            Event::Turn { background, ended } => {
                self.background = background;
                self.turn(ended, now);
            }
            Event::RoundDone { outcome, took, free_space, background } => {
                self.background = background;
                self.end_round(*outcome, took, &free_space, now);
            }
            Event::FreeSpace(free_space) => self.receive_free_space(&free_space, now),
            Event::Rest(background) => {
                self.background = background;
                self.rest(now);
            }
            Event::RootLost => self.drop_work(),
            Event::RootAdopted { side, must_be_complete } => {
                self.adopt_root(side, must_be_complete, now);
            }
            Event::RootsBack => {
                self.is_lost = false;
                self.next_sweep = now;
                self.sync.discard_guard_count();
            }
            Event::Wait { id, full } => self.begin_wait(id, full, now),
            Event::WaitEnded(id) => self.end_wait(id),
            Event::FenceFailed => {
                self.waits.fences_are_lost();
                self.hasten_walks(now);
            }
        }
        std::mem::take(&mut self.commands)
    }

    /// Ends the sync if its work is done. Begins the walks that are due, unless the run ends.
    fn rest(&mut self, now: Instant) {
        let end = self.finish_sync(now);
        self.note_whether_in_sync(now);
        self.answer_waits(now);
        match end {
            Some(end) => self.commands.push(Command::End(end)),
            None if self.ensure_watch(now) => self.begin_walks(now),
            // Walks register directories with the watch: they begin once it is started.
            None => {}
        }
    }

    /// Drops all work: what is known about the roots is void.
    fn drop_work(&mut self) {
        self.is_lost = true;
        self.round = None;
        for kind in [WalkKind::Sweep, WalkKind::Partial] {
            self.take_walk(kind);
        }
        self.backlog = Backlog::default();
        self.stop_watch();
    }

    fn adopt_root(&mut self, side: Side, must_be_complete: bool, now: Instant) {
        // A source that is not trusted stays so until it is counted, even if only the replica is
        // new.
        self.trust = if must_be_complete {
            Trust::requiring_complete(self.config.max_delete)
        } else {
            Trust::Unproven(Occasion::Adopted)
        };
        self.sync.mark_active(now);
        if side == Side::Replica {
            self.sync.discard_guard_count();
            self.next_sweep = now;
        }
    }

    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Returns the guard's judgement of the source.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// Returns the work that waits outside rounds.
    pub fn waiting(&self) -> &impl Waiting {
        &self.backlog
    }

    /// Returns whether to receive messages of this walk: fewer than `ENOUGH` of its names wait.
    pub fn has_capacity_for(&self, kind: WalkKind) -> bool {
        let queue = &self.backlog.queue;
        match kind {
            WalkKind::Sweep => queue.count_sweep_names() < ENOUGH,
            WalkKind::Partial => queue.count_resting() < ENOUGH,
        }
    }

    /// Returns whether enough names of the sweep wait for a full round.
    pub fn has_full_round(&self) -> bool {
        self.backlog.queue.count_sweep_names() >= self.measure(Detector::Sweep).0.names
    }

    /// Returns when something is due without a further event; `None` if nothing is.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        if self.is_lost {
            return None;
        }
        let queue = &self.backlog.queue;
        if queue.has_ready(Detector::Watch) || queue.has_ready(Detector::Sweep) {
            return Some(now);
        }
        let walk = self.next_walk(now).map(|due| due.max(self.no_walk_before));
        let quiet = self.is_in_sync().then(|| self.sync.quiet_at()).flatten();
        let space =
            self.backlog.out_of_space.as_ref().and_then(|out_of_space| {
                out_of_space.next_due(self.backlog.queue.has_out_of_space())
            });
        [walk, quiet, queue.next_due(), space].into_iter().flatten().min()
    }

    /// Returns whether this is a single run (`--once`).
    fn is_once(&self) -> bool {
        self.config.mode == Mode::Once
    }

    /// Logs the end of the run by a signal. Returns how the run has ended.
    pub fn interrupt(&self, signal: i32) -> End {
        self.stats.log_end(signal);
        if self.is_once() { End::Interrupted } else { End::Done }
    }
}

#[cfg(test)]
mod tests;
