//! Those who wait until every change made before is in the replica.

use std::time::Instant;

use super::{Backlog, Command, Core};
use crate::model::check::Detector;
use crate::model::human::counted;
use crate::model::status::WaitResult;
use crate::model::task::Task;
use crate::plan::guard::Trust;

/// Problems that are named to somebody who waits.
const NAMED: usize = 20;

/// Somebody who waits.
struct Wait {
    id: u64,
    asked: Instant,
    /// What was known by then is to be in the replica: once nothing is needed any more.
    until: Instant,
    needs: Needs,
}

/// What has to come first, so that all such changes are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Needs {
    /// A fence has to come out of the watch: what the kernel told before came out before.
    Fence,
    /// A walk over all that has begun since.
    Walk(Task),
    Nothing,
}

/// A walk over both trees.
#[derive(Clone, Copy)]
struct WholeWalk {
    task: Task,
    begun: Instant,
    /// Whether it has come to its end.
    has_ended: bool,
}

#[derive(Default)]
pub(super) struct Waits {
    waits: Vec<Wait>,
    walk: Option<WholeWalk>,
}

impl Waits {
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// A walk over both trees begins.
    pub fn walk_begins(&mut self, task: Task, now: Instant) {
        self.walk = Some(WholeWalk { task, begun: now, has_ended: false });
    }

    /// It has come to its end: what it has found is in the queue.
    pub fn walk_ends(&mut self, now: Instant) {
        if let Some(walk) = &mut self.walk {
            walk.has_ended = true;
            for wait in &mut self.waits {
                if let Needs::Walk(task) = wait.needs
                    && walk.begun >= wait.asked
                    && (task == Task::Quick || walk.task == Task::Full)
                {
                    (wait.needs, wait.until) = (Needs::Nothing, now);
                }
            }
        }
    }

    /// What was told before the fence of this number has come out of the watch.
    fn fence_passed(&mut self, number: u64, now: Instant) {
        for wait in &mut self.waits {
            if wait.id == number && wait.needs == Needs::Fence {
                // Of a path that was told again meanwhile, only the later time is known.
                (wait.needs, wait.until) = (Needs::Nothing, now);
            }
        }
    }

    /// No fence that is under way comes out any more. A walk that begins from now on finds all.
    pub fn fences_are_lost(&mut self) {
        for wait in &mut self.waits {
            if wait.needs == Needs::Fence {
                wait.needs = Needs::Walk(Task::Quick);
            }
        }
    }

    /// Whether somebody waits for a walk that has not begun.
    fn wants_walk(&self) -> Option<Task> {
        let is_under_way =
            |asked| self.walk.is_some_and(|walk| !walk.has_ended && walk.begun >= asked);
        let wanted = self.waits.iter().filter_map(|wait| match wait.needs {
            Needs::Walk(task) if !is_under_way(wait.asked) => Some(task),
            _ => None,
        });
        wanted.max_by_key(|task| *task == Task::Full)
    }
}

impl Core<'_> {
    /// Somebody waits. `full`: also for a full sweep that begins from now on.
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

    /// Has the sweep begin for which somebody waits.
    pub(super) fn hasten_walks(&mut self, now: Instant) {
        match self.waits.wants_walk() {
            Some(Task::Quick) if self.watching.is_wanted() => self.watching.want_rescan(),
            Some(_) => self.next_sweep = self.next_sweep.min(now),
            None => {}
        }
    }

    /// Answers those whose changes are all in the replica, or cannot be.
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

    /// Whether nothing waits or is under way of which was known by a time. What has failed does not
    /// count.
    fn has_done_all_before(&self, time: Instant) -> bool {
        let Backlog { queue, crowds, failures, pending_widen, .. } = &self.backlog;
        // A full sweep beside a watch looks for what nobody has told of.
        let is_sweeping =
            !self.watching.is_wanted() && (self.is_walking() || queue.has_ready(Detector::Sweep));
        !self.is_scanning()
            && !is_sweeping
            && crowds.is_empty()
            && !queue.has_known_by(time)
            && !pending_widen.has_after_walk()
            && self.background.oldest.is_none_or(|oldest| oldest > time)
            && !failures.has_restless_due_by(time)
            && pending_widen.paths().all(|path| failures.is_told(path))
    }

    /// What keeps the replica from being equal: open problems, held deletions, what is kept.
    fn left_undone(&self) -> Vec<String> {
        let problems = self.backlog.failures.told().take(NAMED);
        let mut left: Vec<String> =
            problems.map(|(path, what)| format!("{path}: {what}")).collect();
        if let Some(held) = self.held.as_ref().filter(|_| self.trust != Trust::Trusted) {
            let number = counted(held.deletions, "deletion is", "deletions are");
            left.push(format!("{number} held, since {}", held.doubt));
        }
        if self.stats.kept() > 0 {
            left.push("what was mounted in the source is no longer, and is kept".to_owned());
        }
        left
    }
}
