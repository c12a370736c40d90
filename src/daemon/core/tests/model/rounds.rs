//! Drives the core in place of the daemon. Rounds and walks are done at once, in an order that a
//! seed decides, and by a clock that stands still meanwhile.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::super::super::{Command, Core, Event, Portions, WalkKind, WalkPlan};
use super::source::{Story, WatchEvent};
use crate::fs::roots::Lost;
use crate::model::check::{Check, Checks};
use crate::model::config::Config;
use crate::model::config::testing::config;
use crate::model::error::Side;
use crate::model::limit::Limit;
use crate::model::path::testing::path;
use crate::model::path::{Name, RelPath};
use crate::model::task::Task;
use crate::plan::deletions::Deletions;
use crate::plan::guard::Trust;
use crate::plan::queue::{BatchLimit, Rename};
use crate::report::{Done, Operation};
use crate::sweep::{Extent, Message, Plan, walked};
use crate::watch::Change;
use crate::writer::fs::round::Ended;
use crate::writer::fs::round::tests::Fixture;
use crate::writer::{Outcome, Work, Writer};

/// How long to wait for a worker or the trash thread, which have little to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// Work that is due later is due by the clock alone: the next sweep.
const SOON: Duration = Duration::from_secs(24 * 3600);

/// The messages of finished walks that the core has not received yet.
#[derive(Default)]
struct Told {
    sweep: VecDeque<Message>,
    partial_walk: VecDeque<Message>,
}

impl Told {
    fn of(&mut self, kind: WalkKind) -> &mut VecDeque<Message> {
        match kind {
            WalkKind::Sweep => &mut self.sweep,
            WalkKind::Partial => &mut self.partial_walk,
        }
    }
}

/// The core, the rounds, and all that waits between them.
pub struct Rounds {
    pub pair: Fixture,
    pub rng: Rng,
    core: Core<'static>,
    now: Instant,
    /// Walks that were asked for and have not begun.
    due: Vec<(WalkKind, WalkPlan)>,
    told: Told,
    /// Results from the background that were not given back to a round yet.
    ended: Vec<Ended>,
    /// Whether a root seems to be lost.
    is_lost: bool,
    /// Whether a new watch was asked for, which knows of no directory yet.
    is_watch_new: bool,
    /// The renames of the last round, and what it could delete.
    last_round: Option<(Vec<Rename>, Deletions)>,
    /// Renames that rounds have followed.
    pub followed: usize,
    /// Times that a root seemed to be lost.
    pub losses: usize,
    /// Whether system calls may fail, so that a root may seem to be lost.
    pub bears_faults: bool,
    story: Story,
}

impl Rounds {
    pub fn new(pair: Fixture, seed: u64, story: Story) -> Self {
        let now = Instant::now();
        // This leaks a few hundred bytes for each seed.
        let config: &'static Config = Box::leak(Box::new(config()));
        Self {
            pair,
            rng: Rng::with_seed(!seed),
            core: Core::new(config, now),
            now,
            due: Vec::new(),
            told: Told::default(),
            ended: Vec::new(),
            is_lost: false,
            is_watch_new: false,
            last_round: None,
            followed: 0,
            losses: 0,
            bears_faults: false,
            story,
        }
    }

    /// Returns the time at which the next turn begins, at the earliest.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Returns whether the watch was begun anew since the last call.
    pub fn take_new_watch(&mut self) -> bool {
        std::mem::take(&mut self.is_watch_new)
    }

    /// Hands a report of the watch to the core. `since`: when the watch knew of it.
    pub fn take(&mut self, told: &WatchEvent, since: Instant) {
        self.story.tell(format!("    told: {told:?}"));
        let change = match told {
            WatchEvent::Check(text, depth) => {
                Change::Check { path: path(text), depth: *depth, since }
            }
            WatchEvent::Renamed(from, to, is_dir) => {
                Change::Moved { from: path(from), to: path(to), is_dir: *is_dir }
            }
        };
        self.step(Event::Changed(change));
    }

    /// Asks for a full comparison of all, once nothing else is to be done.
    pub fn want_sweep(&mut self) {
        self.core.backlog.needs_full_compare.insert(RelPath::root());
    }

    /// Has the guard hold deletions, or follow them.
    pub fn hold_deletions(&mut self, is_held: bool) {
        if is_held {
            self.core.trust = Trust::requiring_complete(Limit::Percent(50.0));
        } else if self.core.trust != Trust::Trusted {
            // As after a count: a sweep checks what was held.
            self.core.trust = Trust::Trusted;
            self.core.next_sweep = self.now;
        }
    }

    /// Has the guard follow all deletions from now on, as a user does with `--max-delete 100%`.
    pub fn let_all_pass(&mut self) {
        let config = Config { max_delete: Limit::Percent(100.0), ..self.core.config.clone() };
        self.core.config = Box::leak(Box::new(config));
        self.hold_deletions(false);
    }

    /// Lets some time pass, and does a round if there is work for one. Returns the renames of that
    /// round, and what it could delete.
    pub fn turn(&mut self) -> Option<(Vec<Rename>, Deletions)> {
        self.now += Duration::from_millis(self.rng.u64(..30));
        if self.bears_faults && self.rng.u8(..8) == 0 {
            // Enough time for failed checks to be tried again.
            self.now += Duration::from_secs(self.rng.u64(1..10));
        }
        if self.is_lost && self.rng.bool() {
            self.is_lost = false;
            self.step(Event::RootsBack);
        }
        self.listen();
        let portion = BatchLimit { names: self.rng.usize(1..8), dirs: self.rng.usize(1..5) };
        let renames = self.rng.usize(1..6);
        self.core.portions = Portions { watch: portion, sweep: portion, renames };
        self.give_some_back();
        let writer = &self.pair.reconciler;
        let (background, ended) = (writer.background(), writer.paths_given_back());
        self.step(Event::Turn { background, ended });
        self.pair.reconciler.forget_given_back();
        self.step(Event::Rest(self.pair.reconciler.background()));
        self.last_round.take()
    }

    fn step(&mut self, event: Event) {
        for command in self.core.step(self.now, event) {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::StartWatch => {
                self.is_watch_new = true;
                self.step(Event::WatchStarted);
            }
            // Reports that it has not delivered are lost.
            Command::StopWatch => self.is_watch_new = true,
            Command::StartWalk(kind, _) if self.bears_faults && self.rng.u8(..20) == 0 => {
                self.story.tell(format!("    no thread for {kind:?}"));
                self.step(Event::WalkFailed(kind, std::io::ErrorKind::WouldBlock.into()));
            }
            Command::StartWalk(kind, plan) => self.due.push((kind, plan)),
            Command::StopWalk(kind) => {
                self.due.retain(|(due, _)| *due != kind);
                self.told.of(kind).clear();
            }
            Command::Round(work) => self.round(work),
            Command::AskFreeSpace => self.step(Event::FreeSpace(Vec::new())),
            Command::InspectRoots
            | Command::Fence(_)
            | Command::Answer(..)
            | Command::End(_)
            | Command::Fail(_) => {
                unreachable!("nothing leads to this")
            }
        }
    }

    /// Returns a walk that was asked for; `None` if there is none but the full comparison of
    /// renamed entries.
    pub fn due_walk(&mut self) -> Option<(WalkKind, WalkPlan)> {
        let index = self.due.iter().position(|(kind, plan)| !is_proof(*kind, plan))?;
        Some(self.due.remove(index))
    }

    /// Returns that comparison, if it was asked for.
    pub fn due_proof(&mut self) -> Option<(WalkKind, WalkPlan)> {
        let index = self.due.iter().position(|(kind, plan)| is_proof(*kind, plan))?;
        Some(self.due.remove(index))
    }

    /// Walks at once. The core receives the messages bit by bit.
    pub fn walk(&mut self, (kind, plan): (WalkKind, WalkPlan)) {
        let reconciler = &self.pair.reconciler;
        let WalkPlan { task, extent, scopes, detector, .. } = plan;
        self.story.tell(format!("    walk: {kind:?} {task:?} {extent:?} {scopes:?}"));
        let plan = Plan {
            trees: reconciler.trees(),
            capabilities: reconciler.capabilities.clone(),
            filter: reconciler.filter.clone(),
            threads: 1,
            scopes,
            task,
            rate: None,
            drop_behind: false,
            detector,
            registry: None,
            extent,
            verified_dirs: reconciler.verified_dirs().filter(|_| extent != Extent::Names).cloned(),
            submounts: Vec::new(),
        };
        let now = self.now;
        // By the clock of this history, and not by the machine's.
        let timed =
            |(name, check): (Name, Check)| (name, Check { first: now, since: now, ..check });
        let messages = walked(plan).map(|message| match message {
            Message::Differ(dir, names) => {
                Message::Differ(dir, names.into_iter().map(timed).collect())
            }
            message => message,
        });
        let messages: VecDeque<Message> = messages.collect();
        *self.told.of(kind) = messages;
    }

    /// Hands some messages of the walks to the core.
    fn listen(&mut self) {
        for kind in [WalkKind::Sweep, WalkKind::Partial] {
            for _ in 0..self.rng.u8(1..4) {
                match self.told.of(kind).pop_front() {
                    None => break,
                    Some(Message::Walked(both)) => {
                        if let Some(verified_dirs) = self.pair.reconciler.verified_dirs() {
                            verified_dirs.walked(&both[0], &both[1]);
                        }
                    }
                    Some(Message::Lost(lost)) => {
                        self.step(Event::WalkEnded(WalkKind::Sweep));
                        self.step(Event::WalkEnded(WalkKind::Partial));
                        self.lose(lost);
                    }
                    Some(message) => {
                        if let Message::Differ(dir, names) = &message {
                            let found: Vec<_> =
                                names.iter().map(|(name, check)| (name, check.depth)).collect();
                            self.story.tell(format!("    found: {dir:?} {found:?}"));
                        }
                        self.step(Event::Found(kind, message));
                    }
                }
            }
        }
    }

    fn round(&mut self, work: Work) {
        let followed = work.moves.renames().to_vec();
        let renames: Vec<_> = followed.iter().map(|rename| (&rename.from, &rename.to)).collect();
        let back = self.pair.reconciler.paths_given_back();
        self.story.tell(format!(
            "    round of the {}, deletions {:?}: renames {renames:?}, looks {}, carried {back:?}",
            work.detector.as_str(),
            work.deletions,
            tell_looks(&work.checks)
        ));
        let budget = (self.rng.u8(..4) == 0).then_some(Duration::ZERO);
        let big = [0, 3, u64::MAX, u64::MAX][self.rng.usize(..4)];
        self.last_round = Some((followed, work.deletions));
        let work = Work { budget, big, ..work };
        let outcome = self.pair.reconciler.round(work, self.core.waiting());
        self.wait_for_others();
        match outcome {
            Ok(mut outcome) => {
                self.tell_outcome(&outcome);
                let is_rename = |done: &&Done| done.operation == Operation::Renamed;
                self.followed += outcome.done.iter().filter(is_rename).count();
                for (_, took) in &mut outcome.busy {
                    *took = Duration::from_millis(self.rng.u64(..40));
                }
                let took = Duration::from_millis(self.rng.u64(..20));
                let background = self.pair.reconciler.background();
                self.step(Event::RoundDone {
                    outcome: Box::new(outcome),
                    took,
                    free_space: Vec::new(),
                    background,
                });
            }
            Err(lost) => self.lose(lost),
        }
    }

    /// Reports to the core that a root seems to be lost: nothing that was found is valid any more.
    fn lose(&mut self, lost: Lost) {
        assert!(self.bears_faults, "{lost}");
        self.story.tell(format!("    lost: {lost}"));
        self.losses += 1;
        self.step(Event::RootLost);
        self.pair.reconciler.abandon();
        if self.rng.u8(..4) == 0 {
            // It is made again at once.
            let must_be_complete = self.rng.bool();
            self.step(Event::RootAdopted { side: Side::Replica, must_be_complete });
            return self.step(Event::RootsBack);
        }
        self.is_lost = true;
        self.step(Event::Rest(self.pair.reconciler.background()));
        assert_eq!(self.core.next_wakeup(self.now), None, "nothing is due while a root is lost");
    }

    /// Gives back some of the results from the background now, and leaves some for later.
    fn give_some_back(&mut self) {
        let number = self.rng.usize(..=self.ended.len());
        for ended in self.ended.drain(..number) {
            self.pair.reconciler.give_back(ended);
        }
    }

    /// Waits for workers for big files and the trash thread, so that a seed gives the same history
    /// each time.
    fn wait_for_others(&mut self) {
        let writer = &self.pair.reconciler;
        while self.ended.len() < writer.count_in_background() {
            self.ended.push(writer.ended().recv_timeout(PATIENCE).unwrap());
        }
        // Which of them was the first is random.
        self.ended.sort_by_key(Ended::path);
    }

    fn tell_outcome(&self, outcome: &Outcome) {
        let again: Vec<_> = outcome.again.iter().map(|(path, _, again)| (path, again)).collect();
        let problems: Vec<_> = outcome.problems.iter().map(|(problem, _)| &problem.path).collect();
        let done: Vec<_> = outcome.done.iter().map(|done| (done.operation, &done.path)).collect();
        self.story.tell(format!(
            "        {done:?}, again {again:?}, problems {problems:?}, scans {:?}, moved {:?}",
            outcome.to_walk, outcome.moved
        ));
    }

    /// Returns whether nothing waits but a walk that is due. If only time has to pass, moves the
    /// clock on.
    pub fn is_at_rest(&mut self) -> bool {
        let is_told = self.told.sweep.is_empty() && self.told.partial_walk.is_empty();
        let is_idle = self.ended.is_empty() && self.pair.reconciler.background().is_idle;
        if !is_told || !is_idle || self.is_lost {
            return false;
        }
        match self.core.next_wakeup(self.now) {
            Some(due) if due < self.now + SOON => {
                self.now = self.now.max(due);
                false
            }
            _ => true,
        }
    }
}

/// Returns whether a walk is the full comparison of renamed entries.
fn is_proof(kind: WalkKind, plan: &WalkPlan) -> bool {
    kind == WalkKind::Sweep && plan.task == Task::Full && !plan.is_of_all()
}

fn tell_looks(checks: &Checks) -> String {
    let depths = |(dir, names): (&RelPath, &std::collections::BTreeMap<Name, Check>)| {
        let names: Vec<_> = names.iter().map(|(name, check)| (name, check.depth)).collect();
        format!("{dir:?}: {names:?}")
    };
    checks.iter().map(depths).collect::<Vec<_>>().join("; ")
}
