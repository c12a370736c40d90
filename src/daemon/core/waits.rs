//! Askers that wait until every change made before is in the replica.

use std::time::Instant;

use super::settle::EndedSweep;
use super::{Backlog, Command, Core};
use crate::model::check::Detector;
use crate::model::status::WaitResult;
use crate::model::task::Task;
use crate::plan::guard::Trust;

/// The most problems that are named to an asker.
const NAMED: usize = 20;

/// An asker that waits.
struct Wait {
    id: u64,
    asked: Instant,
    /// The wait ends once all work known by this time is done, and `needs` is `Nothing`.
    until: Instant,
    needs: Needs,
}

/// The condition under which all changes made before are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Needs {
    /// A fence has to come out of the watch. All events that the kernel had queued before come out
    /// before it.
    Fence,
    /// A sweep of this task has to begin, after the question, and to end.
    Walk(Task),
    Nothing,
}

#[derive(Default)]
pub(super) struct Waits {
    waits: Vec<Wait>,
}

impl Waits {
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Notes that a sweep has ended: all that it found is in the queue.
    pub fn walk_ends(&mut self, ended: &EndedSweep, now: Instant) {
        for wait in &mut self.waits {
            if let Needs::Walk(task) = wait.needs
                && ended.since >= wait.asked
                && (task == Task::Quick || ended.task == Task::Full)
            {
                (wait.needs, wait.until) = (Needs::Nothing, now);
            }
        }
    }

    /// Notes that the fence of this number has come out of the watch.
    fn fence_passed(&mut self, number: u64, now: Instant) {
        for wait in &mut self.waits {
            if wait.id == number && wait.needs == Needs::Fence {
                // A path may have been reported again meanwhile. Then only the later time is known.
                (wait.needs, wait.until) = (Needs::Nothing, now);
            }
        }
    }

    /// Notes that no pending fence will come out any more. A sweep that begins from now on finds
    /// all changes.
    pub fn fences_are_lost(&mut self) {
        for wait in &mut self.waits {
            if wait.needs == Needs::Fence {
                wait.needs = Needs::Walk(Task::Quick);
            }
        }
    }

    /// Returns the sweep that askers wait for, if it has not begun. `running`: when the current one
    /// began.
    fn wants_walk(&self, running: Option<Instant>) -> Option<Task> {
        let is_under_way = |asked| running.is_some_and(|begun| begun >= asked);
        let wanted = self.waits.iter().filter_map(|wait| match wait.needs {
            Needs::Walk(task) if !is_under_way(wait.asked) => Some(task),
            _ => None,
        });
        wanted.max_by_key(|task| *task == Task::Full)
    }
}

impl Core<'_> {
    /// Adds an asker that waits. `full`: also for a full sweep that begins from now on.
    pub(super) fn begin_wait(&mut self, id: u64, full: bool, now: Instant) {
        let needs = if full {
            Needs::Walk(Task::Full)
        } else if self.watching.stands() && self.watching.unwatched() == 0 {
            self.commands.push(Command::Fence(id));
            Needs::Fence
        } else {
            Needs::Walk(Task::Quick)
        };
        self.waits.waits.push(Wait { id, asked: now, until: now, needs });
        self.hasten_walks(now);
    }

    pub(super) fn end_wait(&mut self, id: u64) {
        self.waits.waits.retain(|wait| wait.id != id);
    }

    pub(super) fn pass_fence(&mut self, number: u64, now: Instant) {
        self.waits.fence_passed(number, now);
    }

    /// Makes the sweep due at once for which an asker waits.
    pub(super) fn hasten_walks(&mut self, now: Instant) {
        let sweep = self.backlog.sweep.as_ref();
        let is_whole = sweep.is_some_and(|walk| walk.task != Task::Count && walk.is_of_all());
        match self.waits.wants_walk(self.sync.walk_since().filter(|_| is_whole)) {
            Some(Task::Quick) if self.watching.is_wanted() => self.watching.want_quick_sweep(),
            Some(_) => self.next_sweep = self.next_sweep.min(now),
            None => {}
        }
    }

    /// Answers the askers whose changes are all in the replica, or cannot be.
    pub(super) fn answer_waits(&mut self, now: Instant) {
        if self.waits.is_empty() || self.is_lost || !self.sync.has_ended_once() {
            return;
        }
        self.hasten_walks(now);
        let ready: Vec<u64> = self
            .waits
            .waits
            .iter()
            .filter(|wait| wait.needs == Needs::Nothing && self.has_done_all_before(wait.until))
            .map(|wait| wait.id)
            .collect();
        for id in ready {
            let result = match self.left_undone() {
                left if left.is_empty() => WaitResult::Mirrored,
                left => WaitResult::Problem(left),
            };
            self.end_wait(id);
            self.commands.push(Command::Answer(id, result));
        }
    }

    /// Returns whether all work is done that was known by `time`. Failures that were reported do
    /// not count.
    fn has_done_all_before(&self, time: Instant) -> bool {
        let Backlog { queue, sweep, crowds, failures, pending_widen, .. } = &self.backlog;
        // With a watch, a full sweep only finds changes that were not reported.
        let is_sweeping =
            !self.watching.is_wanted() && (sweep.is_some() || queue.has_ready(Detector::Sweep));
        !self.is_looking_for_changes()
            && !is_sweeping
            && crowds.is_empty()
            && !queue.has_known_by(time)
            && !pending_widen.has_after_walk()
            && self.background.oldest.is_none_or(|oldest| oldest > time)
            && !failures.has_changing_due_by(time)
            && pending_widen.paths().all(|path| failures.is_told(path))
    }

    /// Returns what differs in the replica: open problems, held deletions, and entries of file
    /// systems that are no longer mounted.
    fn left_undone(&self) -> Vec<String> {
        let problems = self.backlog.failures.told().take(NAMED);
        let mut left: Vec<String> =
            problems.map(|(path, what)| format!("{path}: {what}")).collect();
        if let Some(held) = self.held.as_ref().filter(|_| self.trust != Trust::Trusted) {
            left.push(held.sentence());
        }
        if self.stats.kept() > 0 {
            left.push(
                "a file system is no longer mounted in the source: its entries are kept".to_owned(),
            );
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{BackgroundStatus, Event, WalkKind};
    use super::*;
    use crate::model::check::Depth;
    use crate::model::config::testing::config;
    use crate::model::path::testing::path;
    use crate::plan::guard::Count;
    use crate::sweep::{Message, Summary};
    use crate::watch::Change;
    use crate::writer::Outcome;

    const IDLE: BackgroundStatus =
        BackgroundStatus { free_workers: 1, is_idle: true, is_idle_for_sweep: true, oldest: None };

    /// A core whose walks find nothing, and its other commands.
    struct Stepped {
        core: Core<'static>,
        now: Instant,
        asked: Vec<Command>,
        /// Whether walks end at once.
        walks_end: bool,
    }

    impl Stepped {
        /// Makes a core that watches, and is in sync.
        fn in_sync() -> Self {
            let now = Instant::now();
            let core = Core::new(Box::leak(Box::new(config())), now);
            let mut stepped = Self { core, now, asked: Vec::new(), walks_end: true };
            for _ in 0..10 {
                stepped.rest();
            }
            assert!(stepped.core.status(now).in_sync);
            stepped.asked.clear();
            stepped
        }

        fn step(&mut self, event: Event) {
            for command in self.core.step(self.now, event) {
                match command {
                    Command::StartWatch => self.step(Event::WatchStarted),
                    Command::StartWalk(kind, plan) if self.walks_end => {
                        let message = match plan.task {
                            Task::Count => Message::Counted(Count::default()),
                            Task::Quick | Task::Full => Message::Swept(Summary::default()),
                        };
                        self.step(Event::Found(kind, message));
                    }
                    other => self.asked.push(other),
                }
            }
        }

        fn rest(&mut self) {
            self.step(Event::Rest(IDLE));
        }

        fn change(&mut self, name: &str) {
            let (path, since) = (path(name), self.now);
            self.step(Event::Changed(Change::Check { path, depth: Depth::Content, since }));
        }

        /// Runs a turn. Returns whether a round was begun. The round does all its work.
        fn round(&mut self) -> bool {
            self.step(Event::Turn { background: IDLE, ended: Vec::new() });
            let before = self.asked.len();
            self.asked.retain(|command| !matches!(command, Command::Round(_)));
            if self.asked.len() == before {
                return false;
            }
            self.step(Event::RoundDone {
                outcome: Box::new(Outcome::default()),
                took: Duration::ZERO,
                free_space: Vec::new(),
                background: IDLE,
            });
            true
        }

        fn wait(&mut self, id: u64, full: bool) {
            self.step(Event::Wait { id, full });
        }

        fn has_asked_for_fence(&self, id: u64) -> bool {
            self.asked.iter().any(|command| matches!(command, Command::Fence(it) if *it == id))
        }

        fn answer(&self, id: u64) -> Option<&WaitResult> {
            self.asked.iter().find_map(|command| match command {
                Command::Answer(it, result) if *it == id => Some(result),
                _ => None,
            })
        }
    }

    #[test]
    fn a_wait_is_over_once_its_fence_has_passed_and_all_before_it_is_done() {
        let mut stepped = Stepped::in_sync();
        stepped.wait(1, false);
        assert!(stepped.has_asked_for_fence(1));
        stepped.rest();
        assert_eq!(stepped.answer(1), None, "its fence has not passed");
        stepped.change("f");
        stepped.step(Event::Changed(Change::Fence(1)));
        stepped.rest();
        assert_eq!(stepped.answer(1), None, "a change before it was not followed");
        assert!(stepped.round());
        stepped.rest();
        assert_eq!(stepped.answer(1), Some(&WaitResult::Mirrored));
    }

    #[test]
    fn what_is_told_later_is_not_waited_for() {
        let mut stepped = Stepped::in_sync();
        stepped.wait(1, false);
        stepped.step(Event::Changed(Change::Fence(1)));
        stepped.now += Duration::from_millis(1);
        stepped.change("later");
        stepped.rest();
        assert_eq!(stepped.answer(1), Some(&WaitResult::Mirrored));
    }

    #[test]
    fn a_lost_fence_becomes_a_walk_and_a_lost_walk_another_one() {
        let mut stepped = Stepped::in_sync();
        stepped.wait(1, false);
        stepped.walks_end = false;
        stepped.step(Event::FenceFailed);
        stepped.rest();
        assert_eq!(stepped.answer(1), None, "the walk runs");
        stepped.step(Event::WalkEnded(WalkKind::Sweep));
        stepped.walks_end = true;
        for _ in 0..3 {
            stepped.rest();
        }
        assert_eq!(stepped.answer(1), Some(&WaitResult::Mirrored));
    }

    #[test]
    fn a_full_wait_needs_a_full_sweep_that_begins_after_it() {
        let mut stepped = Stepped::in_sync();
        stepped.walks_end = false;
        stepped.wait(1, true);
        stepped.rest();
        let full = stepped.asked.iter().any(
            |command| matches!(command, Command::StartWalk(_, plan) if plan.task == Task::Full),
        );
        assert!(full && stepped.answer(1).is_none());
        stepped.step(Event::Found(WalkKind::Sweep, Message::Swept(Summary::default())));
        stepped.rest();
        assert_eq!(stepped.answer(1), Some(&WaitResult::Mirrored));
    }

    #[test]
    fn while_lost_events_are_looked_for_nothing_is_in_sync() {
        let mut stepped = Stepped::in_sync();
        stepped.walks_end = false;
        stepped.step(Event::Changed(Change::Everything("events were lost")));
        stepped.now += Duration::from_secs(5);
        for _ in 0..3 {
            stepped.rest();
        }
        stepped.wait(1, false);
        stepped.step(Event::Changed(Change::Fence(1)));
        stepped.rest();
        assert_eq!(stepped.answer(1), None, "the quick sweep runs");
        assert!(!stepped.core.status(stepped.now).in_sync);
        stepped.step(Event::Found(WalkKind::Sweep, Message::Swept(Summary::default())));
        for _ in 0..3 {
            stepped.rest();
        }
        assert_eq!(stepped.answer(1), Some(&WaitResult::Mirrored));
        assert!(stepped.core.status(stepped.now).in_sync);
    }

    #[test]
    fn somebody_who_has_gone_is_not_answered() {
        let mut stepped = Stepped::in_sync();
        stepped.wait(1, false);
        stepped.step(Event::WaitEnded(1));
        stepped.step(Event::Changed(Change::Fence(1)));
        stepped.rest();
        assert_eq!(stepped.answer(1), None);
    }
}
