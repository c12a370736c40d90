//! One turn of the loop: what is ready goes into a round.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::outcome::RoundPlan;
use super::{Command, Core};
use crate::model::check::{Checks, Detector};
use crate::model::path::RelPath;
use crate::plan::queue::BatchLimit;
use crate::writer::Work;

/// What one round takes at most.
#[derive(Clone, Copy, Debug)]
pub struct Portions {
    pub watch: BatchLimit,
    pub sweep: BatchLimit,
    /// Renames that it follows: with their looks they take about as long as other work does.
    pub renames: usize,
}

impl Portions {
    pub const DEFAULT: Self = Self {
        watch: BatchLimit { names: 512, dirs: 64 },
        sweep: BatchLimit { names: 256, dirs: 64 },
        renames: 100,
    };
    /// Where each round waits for the disk: many names share a wait.
    pub const DURABLE: Self = {
        let portion = BatchLimit { names: 4096, dirs: 128 };
        Self { watch: portion, sweep: portion, ..Self::DEFAULT }
    };
}

/// How long a round of sweep work begins new tasks, so that it holds up nothing for long.
const SWEEP_ROUND: Duration = Duration::from_millis(5);
const WATCH_ROUND: Duration = Duration::from_millis(20);

/// It waits for the disk, however little it does.
const DURABLE_ROUND: Duration = Duration::from_millis(200);

/// Files above this size, in bytes, are no matter for a round of sweep work.
const BIG_FOR_SWEEP: u64 = 1024 * 1024;
const BIG_FOR_WATCH: u64 = 8 * 1024 * 1024;

/// Of so many rounds one is of sweep work, however much the watch has told.
const TURNS: u32 = 8;

impl Core<'_> {
    /// Begins a round, where there is work for one. `ended`: paths of what it is to take back.
    pub(super) fn turn(&mut self, ended: Vec<RelPath>, now: Instant) {
        self.check_room(now);
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
        let looked_at = if remembered { paths(&checks, ended) } else { Vec::new() };
        self.backlog.links.look_at(looked_at.iter());
        let names: usize = checks.values().map(BTreeMap::len).sum();
        self.round = Some(RoundPlan { detector, names, looked_at });
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

    /// What a round takes, and how long it begins new tasks.
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
}

/// All that a round will look at.
fn paths(checks: &Checks, ended: Vec<RelPath>) -> Vec<RelPath> {
    let named = checks.iter().flat_map(|(dir, names)| names.keys().map(|name| dir.join(name)));
    let dirs = checks.keys().cloned();
    named.chain(dirs).chain(ended).collect()
}
