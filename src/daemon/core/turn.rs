//! A turn of the loop: ready checks go into a round.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::outcome::RoundPlan;
use super::{Command, Core};
use crate::model::check::{Checks, Detector};
use crate::model::path::RelPath;
use crate::plan::queue::BatchLimit;
use crate::writer::Work;

/// The most work of a round.
#[derive(Clone, Copy, Debug)]
pub struct Portions {
    pub watch: BatchLimit,
    pub sweep: BatchLimit,
    /// Number of renames. With their checks they take about as long as other work.
    pub renames: usize,
}

impl Portions {
    pub const DEFAULT: Self = Self {
        watch: BatchLimit { names: 512, dirs: 64 },
        sweep: BatchLimit { names: 256, dirs: 64 },
        renames: 100,
    };
    /// The limits for `--durable`. Each round waits for the disk, so a larger one saves time.
    pub const DURABLE: Self = {
        let portion = BatchLimit { names: 4096, dirs: 128 };
        Self { watch: portion, sweep: portion, ..Self::DEFAULT }
    };
}

/// How long a round begins new tasks. Sweep work must not delay the watch's.
const SWEEP_ROUND: Duration = Duration::from_millis(5);
const WATCH_ROUND: Duration = Duration::from_millis(20);

/// The same for `--durable`: each round waits for the disk, however little it does.
const DURABLE_ROUND: Duration = Duration::from_millis(200);

/// Files above this size, in bytes, are compared and copied outside rounds.
const BIG_FOR_SWEEP: u64 = 1024 * 1024;
const BIG_FOR_WATCH: u64 = 8 * 1024 * 1024;

/// One of this number of turns is for sweep work, however much the watch has reported.
const TURNS: u32 = 8;

impl Core<'_> {
    /// Begins a round if there is work for one. `ended`: paths whose background work has ended.
    pub(super) fn turn(&mut self, ended: Vec<RelPath>, now: Instant) {
        self.check_free_space(now);
        if self.is_lost {
            return;
        }
        self.backlog.queue.wake(now);
        self.backlog.queue.requeue_awaiting_workers(self.background.free_workers);
        let detector = self.whose_turn();
        let big = if detector == Detector::Sweep { BIG_FOR_SWEEP } else { BIG_FOR_WATCH };
        let (portion, budget) = self.measure(detector);
        let mut checks = self.backlog.queue.take(detector, portion);
        let moves = self.backlog.queue.take_renames(&mut checks, self.portions.renames);
        if checks.is_empty() && ended.is_empty() {
            return;
        }
        let remembered = !self.backlog.failures.is_empty()
            || !self.backlog.links.is_empty()
            || !self.backlog.pending_widen.is_empty();
        let checked_paths = if remembered { paths(&checks, ended) } else { Vec::new() };
        self.backlog.links.look_at(checked_paths.iter());
        let names: usize = checks.values().map(BTreeMap::len).sum();
        self.round = Some(RoundPlan { detector, names, checked_paths });
        self.commands.push(Command::Round(Work {
            moves,
            checks,
            detector,
            deletions: self.trust.deletions(detector),
            budget: Some(budget),
            big,
            swept: self.stats.last_swept(),
            now,
        }));
    }

    /// Returns the limits of a round: its work, and how long it begins new tasks.
    pub(super) fn measure(&self, detector: Detector) -> (BatchLimit, Duration) {
        let Portions { watch, sweep, .. } = self.portions;
        match detector {
            Detector::Watch if self.config.durable => (watch, DURABLE_ROUND),
            Detector::Sweep if self.config.durable => (sweep, DURABLE_ROUND),
            Detector::Watch => (watch, WATCH_ROUND),
            Detector::Sweep => {
                let names = self.backlog.sweep_batch.unwrap_or(sweep.names).min(sweep.names);
                (BatchLimit { names, ..sweep }, SWEEP_ROUND)
            }
        }
    }

    /// Returns whose checks the next round takes. The watch's come first, but the sweep's always
    /// have their turn.
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
}

/// Returns all paths that a round will check.
fn paths(checks: &Checks, ended: Vec<RelPath>) -> Vec<RelPath> {
    let named = checks.iter().flat_map(|(dir, names)| names.keys().map(|name| dir.join(name)));
    let dirs = checks.keys().cloned();
    named.chain(dirs).chain(ended).collect()
}
