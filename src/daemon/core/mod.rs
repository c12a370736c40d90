//! The loop's core: what is done about what has happened. It has no threads or channels, and no
//! clocks, save for the texts of its log lines. Events come in with their times, and commands go
//! out. Whoever drives it carries them out: the daemon with threads, and tests in an order that a
//! seed says.

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

/// While so many names of a walk wait, it is not listened to.
const ENOUGH: usize = 10_000;

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

/// What has happened.
pub enum Event {
    /// The watch tells of a change.
    Changed(Change),
    /// A watch stands where there was none: only the source's root is registered yet.
    WatchStarted,
    /// None can be had.
    WatchFailed(std::io::Error),
    /// The watch tells nothing any more.
    WatchEnded,
    /// A walk has found something.
    Found(WalkKind, Message),
    /// A walk has met a file system that is mounted in the source. `is_new`: which was not known.
    SourceSubmount { path: RelPath, is_new: bool },
    /// No thread could be started for a walk.
    WalkFailed(WalkKind, std::io::Error),
    /// A walk, if there is one of this kind, comes to no end: a root seemed to be lost.
    WalkEnded(WalkKind),
    /// There is time for a round. `ended`: the paths of what has ended beside rounds, which the
    /// round is to take back.
    Turn { background: BackgroundStatus, ended: Vec<RelPath> },
    /// The round is over. `rooms`: what the file systems that are written to can take, where an
    /// entry may have been refused for that.
    RoundDone {
        outcome: Box<Outcome>,
        took: Duration,
        rooms: Vec<FreeSpace>,
        background: BackgroundStatus,
    },
    /// What the file systems that are written to can take.
    Rooms(Vec<FreeSpace>),
    /// The turn is over: a sync may have come to its end, and walks may be due.
    Rest(BackgroundStatus),
    /// A root is not what it was: all that was found out about it is void.
    RootLost,
    /// Another directory is this root now. `is_doubted`: it has to be whole before deletions are
    /// followed.
    RootAdopted { side: Side, is_doubted: bool },
    /// Both roots are there again.
    RootsBack,
    /// Somebody waits, under this number, until every change made before is in the replica. `full`:
    /// and for a full sweep that begins from now on.
    Wait { id: u64, full: bool },
    /// He waits no longer.
    WaitEnded(u64),
    /// No fence can be had from the watch.
    FenceFailed,
}

/// What is to be done, in this order.
pub enum Command {
    StartWatch,
    StopWatch,
    StartWalk(WalkKind, WalkPlan),
    StopWalk(WalkKind),
    Round(Work),
    /// To find out what the file systems that are written to can take.
    FindRooms,
    InspectRoots,
    /// A fence of this number is to be put behind what the kernel has told by now.
    Fence(u64),
    /// An answer to whoever waits under this number.
    Answer(u64, WaitResult),
    /// The run is over.
    End(End),
    /// So it is, since this walk cannot be done.
    Fail(std::io::Error),
}

/// Everything that the loop knows.
pub struct Core<'a> {
    config: &'a Config,
    trust: Trust,
    backlog: Backlog,
    watching: Watching,
    sync: SyncState,
    stats: Stats,
    waits: Waits,
    /// Deletions that the guard holds, as it has said.
    held: Option<Held>,
    /// When the run began.
    begun: Instant,
    portions: Portions,
    /// Counts rounds.
    rounds: u32,
    next_sweep: Instant,
    /// After no thread could be started for a walk.
    no_walk_before: Instant,
    /// Whether a root is not there. Nothing is done until it is back.
    is_lost: bool,
    background: BackgroundStatus,
    /// The round that is under way.
    round: Option<RoundPlan>,
    commands: Vec<Command>,
}

/// What was found out about the present roots, and what is under way because of it. When a root is
/// lost, all of it is dropped: a sweep finds it anew.
#[derive(Default)]
pub struct Backlog {
    queue: Queue,
    failures: Failures,
    /// The walk over all of both trees that runs: a sweep, a quick scan or a count.
    sweep: Option<WalkPlan>,
    /// The scan of some directories that runs.
    scan: Option<WalkPlan>,
    /// Directories below which all is to be looked at.
    scans: BTreeSet<RelPath>,
    /// Directories that were renamed here as in the source: below them a quick scan sees what was
    /// changed about that time.
    moved: BTreeSet<RelPath>,
    /// The same after that: their entries are as old as ever, and only their MD5s prove them to be
    /// what they should. That has time.
    needs_full_compare: BTreeSet<RelPath>,
    pending_widen: PendingWiden,
    stray_writes: StrayWrites,
    crowds: Crowds,
    links: Links,
    /// Names that a round of sweep work could do in its time, of late; `None` before the first.
    sweep_batch: Option<usize>,
    /// When a source that is doubted is counted again before the next sweep.
    next_count: Option<Instant>,
    refusal: Option<OutOfSpace>,
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

    /// Takes in what has happened, and says what is to be done about it.
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
            Event::WatchEnded => self.mistrust_watch("the watch has broken down"),
            Event::Found(WalkKind::Sweep, message) => self.handle_sweep(message, now),
            Event::Found(WalkKind::Scan, message) => self.handle_scan(message, now),
            Event::SourceSubmount { path, is_new } => self.note_mount(&path, is_new),
            Event::WalkFailed(kind, error) => self.cannot_walk(kind, error, now),
            Event::WalkEnded(kind) => _ = self.take_walk(kind),
            Event::Turn { background, ended } => {
                self.background = background;
                self.turn(ended, now);
            }
            Event::RoundDone { outcome, took, rooms, background } => {
                self.background = background;
                self.end_round(*outcome, took, &rooms, now);
            }
            Event::Rooms(rooms) => self.receive_rooms(&rooms, now),
            Event::Rest(background) => {
                self.background = background;
                self.rest(now);
            }
            Event::RootLost => self.drop_work(),
            Event::RootAdopted { side, is_doubted } => self.adopt_root(side, is_doubted, now),
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

    /// Ends a sync where that is possible, and begins what is due otherwise.
    fn rest(&mut self, now: Instant) {
        let end = self.finish_sync(now);
        self.note_whether_equal(now);
        self.answer_waits(now);
        match end {
            Some(end) => self.commands.push(Command::End(end)),
            None if self.ensure_watch(now) => self.begin_walks(now),
            // Once it stands, the walks register with it.
            None => {}
        }
    }

    /// Nothing that was found is of use any more.
    fn drop_work(&mut self) {
        self.is_lost = true;
        self.round = None;
        for kind in [WalkKind::Sweep, WalkKind::Scan] {
            self.take_walk(kind);
        }
        self.backlog = Backlog::default();
        self.stop_watch();
    }

    fn adopt_root(&mut self, side: Side, is_doubted: bool, now: Instant) {
        // One that is doubted stays so, whatever becomes of the replica, until it is counted.
        self.trust = if is_doubted {
            Trust::doubted(self.config.max_delete)
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

    /// What is made of the source.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// What waits outside of rounds.
    pub fn waiting(&self) -> &impl Waiting {
        &self.backlog
    }

    /// Whether what this walk finds is to be taken in, or has to wait since enough waits already.
    pub fn has_capacity_for(&self, kind: WalkKind) -> bool {
        let queue = &self.backlog.queue;
        match kind {
            WalkKind::Sweep => queue.count_sweep_names() < ENOUGH,
            WalkKind::Scan => queue.count_resting() < ENOUGH,
        }
    }

    /// Whether the next round of sweep work is a full one already.
    pub fn has_full_round(&self) -> bool {
        self.backlog.queue.count_sweep_names() >= self.measure(Detector::Sweep).0.names
    }

    /// When something is due by itself, if nothing happens before; `None` where nothing is.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        if self.is_lost {
            return None;
        }
        let queue = &self.backlog.queue;
        if queue.has_ready(Detector::Watch) || queue.has_ready(Detector::Sweep) {
            return Some(now);
        }
        let walk = self.next_walk(now).map(|due| due.max(self.no_walk_before));
        let quiet = self.is_equal().then(|| self.sync.quiet_at()).flatten();
        let room = self
            .backlog
            .refusal
            .as_ref()
            .and_then(|refusal| refusal.next_due(self.backlog.queue.has_out_of_space()));
        [walk, quiet, queue.next_due(), room].into_iter().flatten().min()
    }

    /// Whether this run is a single one.
    fn is_once(&self) -> bool {
        self.config.mode == Mode::Once
    }

    /// The end by a signal: what was done.
    pub fn interrupt(&self, signal: i32) -> End {
        self.stats.log_end(signal);
        if self.is_once() { End::Interrupted } else { End::Done }
    }
}

#[cfg(test)]
mod tests;
