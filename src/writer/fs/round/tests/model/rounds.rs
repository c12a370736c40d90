//! The daemon's loop without its threads: what it does with looks, rounds and walks, in an order
//! that a seed says and by a clock that stands still meanwhile.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::super::Fixture;
use super::source::{Story, WatchEvent};
use crate::fs::roots::Lost;
use crate::model::check::{Check, Checks, Depth, Detector};
use crate::model::path::{Name, RelPath};
use crate::model::task::Task;
use crate::plan::deletions::Deletions;
use crate::plan::failures::{Failure, Failures};
use crate::plan::queue::{BatchLimit, Queue, Rename};
use crate::report::{Cause, Operation, Problem};
use crate::sweep::{Extent, Message, Plan, walked};
use crate::writer::fs::big_files::Finished;
use crate::writer::fs::round::{Outcome, Requeue, Work};
use crate::writer::fs::trash::Emptied;

/// How long what a scan has found rests, and how long the watch is given to tell what a sweep has.
const REST: Duration = Duration::from_millis(20);
const GRACE: Duration = Duration::from_secs(1);

/// For a worker or the trash thread, which have next to nothing to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// A walk that has ended, and what of it was not taken in yet.
struct Walk {
    task: Task,
    detector: Detector,
    scopes: Vec<RelPath>,
    messages: VecDeque<Message>,
}

/// The queue, the rounds, and all that waits between them.
pub struct Rounds {
    pub pair: Fixture,
    pub rng: Rng,
    queue: Queue,
    failures: Failures,
    now: Instant,
    scans: BTreeSet<RelPath>,
    moved: BTreeSet<RelPath>,
    needs_full_compare: BTreeSet<RelPath>,
    walk: Option<Walk>,
    finished: Vec<Finished>,
    emptied_trash: Vec<Emptied>,
    /// Jobs that workers for big files can have at a time.
    slots: usize,
    /// Renames that rounds have followed.
    pub followed: usize,
    /// Whether system calls may fail, so that a root may seem to be lost.
    pub bears_faults: bool,
    /// What the guard says.
    pub deletions: Deletions,
    story: Story,
}

impl Rounds {
    pub fn new(pair: Fixture, seed: u64, story: Story) -> Self {
        Self {
            slots: pair.reconciler.free_workers(),
            pair,
            rng: Rng::with_seed(!seed),
            queue: Queue::default(),
            failures: Failures::default(),
            now: Instant::now(),
            scans: BTreeSet::new(),
            moved: BTreeSet::new(),
            needs_full_compare: BTreeSet::new(),
            walk: None,
            finished: Vec::new(),
            emptied_trash: Vec::new(),
            followed: 0,
            bears_faults: false,
            deletions: Deletions::Followed,
            story,
        }
    }

    pub fn want_scan(&mut self, scope: RelPath) {
        self.scans.insert(scope);
    }

    /// Takes in what the watch tells.
    pub fn take(&mut self, told: &WatchEvent) {
        self.story.tell(format!("    told: {told:?}"));
        match told {
            WatchEvent::Check(path, depth) => {
                let path = super::super::path(path);
                let depth = if self.failures.is_met(&path) { Depth::Subtree } else { *depth };
                let check = Check::new(depth, Detector::Watch, self.now);
                assert_eq!(
                    self.queue.push_watched(&path, check, self.now),
                    None,
                    "it is not too much"
                );
            }
            WatchEvent::Renamed(from, to, is_dir) => {
                let [from, to] = [from, to].map(|path| super::super::path(path));
                self.queue.push_rename(Rename::new(from, to, *is_dir, self.now));
            }
        }
    }

    /// Wants a comparison of all, once nothing else is to be done.
    pub fn want_sweep(&mut self) {
        self.needs_full_compare.insert(RelPath::root());
    }

    /// Lets some time pass, and does a round where there is work for one: the renames that it was
    /// to follow.
    pub fn turn(&mut self) -> Option<Vec<Rename>> {
        self.now += Duration::from_millis(self.rng.u64(..30));
        if self.bears_faults && self.rng.u8(..8) == 0 {
            // What has failed is tried again.
            self.now += Duration::from_secs(self.rng.u64(1..10));
        }
        self.listen();
        self.queue.wake(self.now);
        self.round()
    }

    /// What the next walk is to look at, and how; `None` where none is due, or one is not taken in.
    pub fn due_walk(&mut self) -> Option<(Task, Detector, Vec<RelPath>)> {
        if self.walk.is_some() {
            return None;
        }
        let (task, waiting) = if self.scans.is_empty() {
            (Task::Quick, &mut self.moved)
        } else {
            (Task::Full, &mut self.scans)
        };
        let scopes = take_scopes(waiting);
        (!scopes.is_empty()).then_some((task, Detector::Watch, scopes))
    }

    /// The same for the full comparison of what was renamed.
    pub fn due_proof(&mut self) -> Option<(Task, Detector, Vec<RelPath>)> {
        let scopes = take_scopes(&mut self.needs_full_compare);
        (!scopes.is_empty()).then_some((Task::Full, Detector::Sweep, scopes))
    }

    /// Walks at once. What comes of it is taken in bit by bit.
    pub fn walk(&mut self, (task, detector, scopes): (Task, Detector, Vec<RelPath>)) {
        let reconciler = &self.pair.reconciler;
        let plan = Plan {
            roots: reconciler.roots.clone(),
            capabilities: reconciler.capabilities.clone(),
            filter: reconciler.filter.clone(),
            threads: 1,
            scopes: scopes.clone(),
            task,
            rate: None,
            drop_behind: false,
            detector,
            number: self.failures.scan_begins(),
            registry: None,
            extent: Extent::Below,
            verified_dirs: Some(std::sync::Arc::clone(&reconciler.verified_dirs)),
            submounts: Vec::new(),
        };
        self.story.tell(format!("    walk: {task:?} {scopes:?}"));
        let messages = walked(plan).collect();
        self.walk = Some(Walk { task, detector, scopes, messages });
    }

    /// Takes in some of what the walk has found.
    fn listen(&mut self) {
        for _ in 0..self.rng.u8(1..4) {
            let Some(walk) = &mut self.walk else { return };
            let detector = walk.detector;
            match walk.messages.pop_front() {
                Some(Message::Differ(dir, names)) => {
                    self.receive_differences(&dir, names, detector);
                }
                Some(Message::Problem(problem)) => {
                    let check = Check::new(Depth::Subtree, detector, self.now);
                    self.record_failure(&problem, check, Failure::Scan);
                }
                Some(Message::Lost(lost)) => self.lose(lost),
                Some(_) => {}
                None => self.end_walk(),
            }
        }
    }

    fn end_walk(&mut self) {
        let Some(Walk { task, scopes, .. }) = self.walk.take() else { return };
        if task == Task::Quick {
            self.needs_full_compare.extend(scopes);
        }
    }

    fn receive_differences(
        &mut self,
        dir: &RelPath,
        names: Vec<(Name, Check)>,
        detector: Detector,
    ) {
        let found: Vec<_> = names.iter().map(|(name, check)| (name, check.depth)).collect();
        self.story.tell(format!("    found: {dir:?} {found:?}"));
        let (rest, now) = (if detector == Detector::Sweep { GRACE } else { REST }, self.now);
        if names.is_empty() && detector == Detector::Sweep {
            let check = Check::new(Depth::Metadata, detector, now);
            return self.queue.push_resting(now + rest, dir.clone(), check);
        }
        let (resting, ready): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|(_, check)| check.from_walk || detector == Detector::Sweep);
        let is_ready = resting.is_empty() || !ready.is_empty();
        for (name, check) in resting {
            self.queue.push_resting(now + rest, dir.join(&name), check);
        }
        if is_ready {
            self.queue.push(detector, dir.clone(), ready);
        }
    }

    fn whose_turn(&mut self) -> Detector {
        let swept = self.queue.has_ready(Detector::Sweep);
        let watched = self.queue.has_ready(Detector::Watch);
        if watched && !(swept && self.rng.u8(..8) == 0) { Detector::Watch } else { Detector::Sweep }
    }

    fn round(&mut self) -> Option<Vec<Rename>> {
        let finished = self.some_finished();
        let emptied_trash =
            if self.rng.bool() { std::mem::take(&mut self.emptied_trash) } else { Vec::new() };
        self.queue.release_to_workers(self.pair.reconciler.free_workers() + finished.len());
        let detector = self.whose_turn();
        let portion = BatchLimit { names: self.rng.usize(1..8), dirs: self.rng.usize(1..5) };
        let mut checks = self.queue.take(detector, portion);
        let moves = self.queue.take_renames(&mut checks, self.rng.usize(1..6));
        if checks.is_empty() && finished.is_empty() && emptied_trash.is_empty() {
            return None;
        }
        let looked_at = paths(&checks, &finished);
        let renames: Vec<_> = moves.hints().iter().map(|hint| (&hint.from, &hint.to)).collect();
        let back: Vec<_> = finished.iter().map(|finished| &finished.job.path).collect();
        self.story.tell(format!(
            "    round of the {}, deletions {:?}: renames {renames:?}, looks {}, carried {back:?}",
            detector.as_str(),
            self.deletions,
            tell_looks(&checks)
        ));
        let budget = (self.rng.u8(..4) == 0).then_some(Duration::ZERO);
        let big = [0, 3, u64::MAX, u64::MAX][self.rng.usize(..4)];
        let deletions = self.deletions;
        let followed = moves.hints().to_vec();
        let swept = None;
        let work = Work {
            moves,
            checks,
            finished,
            emptied_trash,
            detector,
            deletions,
            budget,
            big,
            swept,
        };
        let outcome = self.pair.reconciler.round(work, &());
        self.wait_for_others();
        match outcome {
            Ok(outcome) => self.apply_outcome(outcome, &looked_at),
            Err(lost) => self.lose(lost),
        }
        Some(followed)
    }

    /// A root seems to be lost: nothing that was found is of use any more, and all is scanned anew.
    fn lose(&mut self, lost: Lost) {
        assert!(self.bears_faults, "{lost}");
        self.story.tell(format!("    lost: {lost}"));
        self.walk = None;
        self.queue = Queue::default();
        self.failures = Failures::default();
        self.moved.clear();
        self.pair.reconciler.abandon();
        self.want_scan(RelPath::root());
    }

    /// Some big files arrive at once, and some late.
    fn some_finished(&mut self) -> Vec<Finished> {
        let number = self.rng.usize(..=self.finished.len());
        self.finished.drain(..number).collect()
    }

    /// Waits for workers for big files and the trash thread, so that a seed gives the same history
    /// each time.
    fn wait_for_others(&mut self) {
        let reconciler = &self.pair.reconciler;
        while reconciler.free_workers() + self.finished.len() < self.slots {
            self.finished.push(reconciler.finished().recv_timeout(PATIENCE).unwrap());
        }
        while self.emptied_trash.len() < reconciler.pending_trash.len() {
            self.emptied_trash.push(reconciler.emptied_trash().recv_timeout(PATIENCE).unwrap());
        }
    }

    fn apply_outcome(&mut self, outcome: Outcome, looked_at: &[RelPath]) {
        self.tell_outcome(&outcome);
        self.followed +=
            outcome.done.iter().filter(|done| done.operation == Operation::Renamed).count();
        for (path, _) in outcome.busy {
            let took = Duration::from_millis(self.rng.u64(..40));
            self.queue.cool(path, took, self.now);
        }
        let mut open: BTreeSet<RelPath> = outcome.open.into_iter().collect();
        for (problem, check) in outcome.problems {
            open.insert(problem.path.clone());
            self.record_failure(&problem, check, Failure::Entry);
        }
        self.queue.put_back_renames(outcome.renames);
        for (path, check, again) in outcome.again {
            if again != Requeue::ChangedSinceCopy {
                open.insert(path.clone());
            }
            self.put_back(path, check, again);
        }
        for (path, check) in outcome.put_off {
            if let Some(wait) = self.failures.wait(&path) {
                self.queue.push_later(self.now + wait, path.clone(), check);
            }
            open.insert(path);
        }
        for path in looked_at.iter().filter(|path| !open.contains(path)) {
            self.failures.settled(path);
        }
        self.scans.extend(outcome.scans);
        self.moved.extend(outcome.moved);
    }

    fn put_back(&mut self, path: RelPath, check: Check, again: Requeue) {
        match again {
            Requeue::ChangedSinceCopy => {
                let check = Check { first: self.now, ..check };
                self.queue.push_watched(&path, check, self.now);
            }
            Requeue::Now | Requeue::StaleListing => self.queue.push_path(&path, check),
            Requeue::Worker => self.queue.await_worker(path, check),
            Requeue::ParentGone | Requeue::WidenLater => {
                self.queue.push_resting(self.now + REST, path, check);
            }
            Requeue::Changing => {
                self.record_failure(
                    &Problem { path, cause: Cause::Restless },
                    check,
                    Failure::Restless,
                );
            }
            Requeue::WidenUnverified => {
                self.moved.insert(path.clone());
                self.record_failure(
                    &Problem { path, cause: Cause::PendingWiden },
                    check,
                    Failure::PendingWiden,
                );
            }
        }
    }

    fn record_failure(&mut self, problem: &Problem, check: Check, failure: Failure) {
        let retry = self.failures.met(&problem.path, failure, self.now);
        self.failures.was_due(&problem.path, check.first);
        self.queue.push_later(self.now + retry.after, problem.path.clone(), check);
    }

    fn tell_outcome(&self, outcome: &Outcome) {
        let again: Vec<_> = outcome.again.iter().map(|(path, _, again)| (path, again)).collect();
        let problems: Vec<_> = outcome.problems.iter().map(|(problem, _)| &problem.path).collect();
        let done: Vec<_> = outcome.done.iter().map(|done| (done.operation, &done.path)).collect();
        self.story.tell(format!(
            "        {done:?}, again {again:?}, problems {problems:?}, scans {:?}, moved {:?}",
            outcome.scans, outcome.moved
        ));
    }

    /// Whether nothing waits, save for a walk that is due. Where only time has to pass, it does.
    pub fn is_at_rest(&mut self) -> bool {
        let is_ready =
            [Detector::Watch, Detector::Sweep].iter().any(|lane| self.queue.has_ready(*lane));
        let is_busy = self.walk.is_some() || !self.pair.reconciler.is_idle();
        if !is_ready && let Some(due) = self.queue.next_due() {
            self.now = self.now.max(due);
            return false;
        }
        !is_ready && !is_busy && self.queue.count_sweep_names() == 0
    }
}

/// Some of the directories that wait for a scan, none below another.
fn take_scopes(waiting: &mut BTreeSet<RelPath>) -> Vec<RelPath> {
    let mut scopes: Vec<RelPath> = Vec::new();
    while let Some(scope) = waiting.pop_first() {
        if !scopes.iter().any(|above| scope.is_within(above)) {
            scopes.push(scope);
        }
    }
    scopes
}

fn paths(checks: &Checks, finished: &[Finished]) -> Vec<RelPath> {
    let named = checks.iter().flat_map(|(dir, names)| names.keys().map(|name| dir.join(name)));
    let unnamed = checks.iter().filter(|(_, names)| names.is_empty()).map(|(dir, _)| dir.clone());
    named.chain(unnamed).chain(finished.iter().map(|finished| finished.job.path.clone())).collect()
}

fn tell_looks(checks: &Checks) -> String {
    let depths = |(dir, names): (&RelPath, &std::collections::BTreeMap<Name, Check>)| {
        let names: Vec<_> = names.iter().map(|(name, check)| (name, check.depth)).collect();
        format!("{dir:?}: {names:?}")
    };
    checks.iter().map(depths).collect::<Vec<_>>().join("; ")
}
