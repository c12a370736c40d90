//! The walks that the core starts: sweeps by the interval, counts for the guard, quick sweeps after
//! lost events, and walks of new or renamed directories.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::outcome::log_resolved;
use super::{Backlog, Command, Core};
use crate::model::check::{Check, Depth, Detector};
use crate::model::path::{Name, RelPath};
use crate::model::task::Task;
use crate::plan::failures::Failure;
use crate::plan::guard::Trust;
use crate::sweep::{Extent, Message, Summary};

/// The most directories for one walk.
const SCOPES: usize = 256;

/// The wait for the next walk if no thread could be started for one.
const RETRY: Duration = Duration::from_secs(10);

/// The most directories that may wait for a walk. Beyond that, the whole tree is walked.
const MOST: usize = 50_000;

/// The two kinds of walks. One of each may run at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkKind {
    /// A full or quick sweep, or a count, of both trees. Or the full comparison of renamed
    /// directories, if there is no other work.
    Sweep,
    /// A walk of some directories, because of reports or actions. Or a quick sweep for the
    /// directories that are not watched.
    Partial,
}

/// The parameters of a walk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalkPlan {
    pub task: Task,
    pub extent: Extent,
    /// The directories to walk; the root for everything.
    pub scopes: Vec<RelPath>,
    /// The detector for which it walks.
    pub detector: Detector,
    /// Its number among all walks.
    pub number: u64,
    /// Whether to drop files that only this walk reads from the page cache again.
    pub drop_behind: bool,
}

impl WalkPlan {
    /// Returns whether it covers both trees as a whole.
    pub fn is_of_all(&self) -> bool {
        self.extent != Extent::Names && self.scopes.iter().any(RelPath::is_root)
    }
}

impl Core<'_> {
    /// Begins the walks that are due.
    pub(super) fn begin_walks(&mut self, now: Instant) {
        self.begin_partial_walk(now);
        self.begin_sweep(now);
        self.begin_full_compare(now);
    }

    /// Begins the full sweep, quick sweep or count that is due.
    fn begin_sweep(&mut self, now: Instant) {
        let quick = self.watching.wants_quick_sweep();
        let in_full_sweep = now >= self.next_sweep && !self.single_sweep_ended();
        let recount = self.backlog.next_count.is_some_and(|due| now >= due) && !in_full_sweep;
        let due = quick || (self.is_swept() && (in_full_sweep || recount));
        if !due || !self.may_walk(now) || !self.gives_way(quick, now) {
            return;
        }
        let task = if self.trust != Trust::Trusted && !self.sync.has_guard_count() {
            Task::Count
        } else if quick || recount {
            Task::Quick
        } else {
            self.config.task
        };
        if task != Task::Count {
            self.backlog.next_count = None;
        }
        if task == Task::Full {
            self.backlog.needs_full_compare.clear();
        }
        if task != Task::Count {
            self.backlog.links.sweep_begins();
            self.stats.sync_begins();
            self.sync.begins(task, recount && !quick, now);
        }
        if quick && task == Task::Quick {
            self.watching.note_quick_sweep_begun();
        }
        self.begin_walk(
            WalkKind::Sweep,
            (task, Extent::Below),
            vec![RelPath::root()],
            Detector::Sweep,
        );
    }

    /// Returns whether no sweep or count runs. If `quick`, a full sweep gives way to a quick one,
    /// because events were lost. It begins again after that.
    fn gives_way(&mut self, quick: bool, now: Instant) -> bool {
        if quick
            && self.runs_full_sweep()
            && let Some(sweep) = self.take_walk(WalkKind::Sweep)
        {
            if sweep.is_of_all() {
                self.next_sweep = now;
            } else {
                self.backlog.needs_full_compare.extend(sweep.scopes);
            }
        }
        self.backlog.sweep.is_none()
    }

    /// Returns whether a full sweep runs, or the full comparison of renamed directories.
    pub(super) fn runs_full_sweep(&self) -> bool {
        self.backlog.sweep.as_ref().is_some_and(|sweep| sweep.task == Task::Full)
    }

    /// Begins a walk of kind [`WalkKind::Partial`], the first of these that is due:
    /// - directories to compare in full;
    /// - renamed directories, by a quick sweep;
    /// - directories with too many waiting names;
    /// - directories that cannot be widened yet;
    /// - directories in which files of stray writes are searched;
    /// - everything, by a quick sweep, because of directories or names that are not watched.
    fn begin_partial_walk(&mut self, now: Instant) {
        if self.backlog.partial_walk.is_some() || !self.may_walk(now) {
            return;
        }
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let (task, extent, scopes) = if !self.backlog.to_walk.is_empty() {
            (Task::Full, Extent::Below, take_scopes(&mut self.backlog.to_walk))
        } else if !self.backlog.moved.is_empty() {
            (Task::Quick, Extent::Renamed, take_scopes(&mut self.backlog.moved))
        } else if is_due(self.backlog.crowds.next_due(now)) {
            (Task::Quick, Extent::Names, self.backlog.crowds.take(SCOPES))
        } else if is_due(self.backlog.pending_widen.next_due()) {
            (Task::Quick, Extent::Below, self.backlog.pending_widen.take(now))
        } else if is_due(self.backlog.stray_writes.next_due()) {
            self.check_latest_names(now);
            (Task::Quick, Extent::Names, self.backlog.stray_writes.take(now, SCOPES))
        } else if self.watching.wants_poll(now) {
            self.watching.note_quick_sweep_begun();
            self.backlog.links.sweep_begins();
            (Task::Quick, Extent::Below, vec![RelPath::root()])
        } else {
            return;
        };
        let detector = if self.watching.is_wanted() { Detector::Watch } else { Detector::Sweep };
        self.begin_walk(WalkKind::Partial, (task, extent), scopes, detector);
    }

    /// Returns when a walk or a new watch is due; `None` if its time depends on an event.
    pub(super) fn next_walk(&self, now: Instant) -> Option<Instant> {
        // While work is under way, its end wakes the loop. The time of the next sweep must not.
        let next =
            self.backlog.next_count.map_or(self.next_sweep, |count| count.min(self.next_sweep));
        let sweep = (self.is_swept() && !self.single_sweep_ended()).then_some(next);
        let watch = self
            .watching
            .next_due(self.backlog.sweep.is_some(), self.backlog.partial_walk.is_some());
        let Backlog { crowds, pending_widen, stray_writes, .. } = &self.backlog;
        let to_walk = [crowds.next_due(now), pending_widen.next_due(), stray_writes.next_due()];
        let partial_walk =
            to_walk.into_iter().flatten().min().filter(|_| self.backlog.partial_walk.is_none());
        // Such a walk still waits only if no thread could be started for it.
        let is_left = (self.backlog.partial_walk.is_none() && self.wants_partial_walk())
            || (self.backlog.sweep.is_none() && self.watching.wants_quick_sweep())
            || self.wants_full_compare();
        [sweep, watch, partial_walk, is_left.then_some(now)].into_iter().flatten().min()
    }

    /// Begins the full comparison of renamed directories, if there is no other work.
    fn begin_full_compare(&mut self, now: Instant) {
        if !self.wants_full_compare() || !self.may_walk(now) {
            return;
        }
        let scopes = take_scopes(&mut self.backlog.needs_full_compare);
        self.begin_walk(WalkKind::Sweep, (Task::Full, Extent::Below), scopes, Detector::Sweep);
    }

    /// Returns whether directories wait for a full comparison, or for a quick sweep after a rename.
    pub(super) fn wants_partial_walk(&self) -> bool {
        !self.backlog.to_walk.is_empty() || !self.backlog.moved.is_empty()
    }

    /// Returns whether the full comparison of renamed directories is the only work.
    fn wants_full_compare(&self) -> bool {
        !self.backlog.needs_full_compare.is_empty()
            && self.backlog.partial_walk.is_none()
            && !self.wants_partial_walk()
            && self.is_swept()
    }

    /// Schedules a full comparison of these directories, or of everything if too many wait.
    pub(super) fn want_walks(&mut self, to_walk: impl IntoIterator<Item = RelPath>) {
        self.backlog.to_walk.extend(to_walk);
        if self.backlog.to_walk.len() > MOST {
            self.backlog.to_walk.clear();
            self.backlog.to_walk.insert(RelPath::root());
        }
    }

    fn begin_walk(
        &mut self,
        kind: WalkKind,
        (task, extent): (Task, Extent),
        scopes: Vec<RelPath>,
        detector: Detector,
    ) {
        let drop_behind = self.stats.has_read_much();
        let number = self.backlog.failures.begin_walk();
        let plan = WalkPlan { task, extent, scopes, detector, number, drop_behind };
        *self.walk(kind) = Some(plan.clone());
        self.commands.push(Command::StartWalk(kind, plan));
    }

    fn walk(&mut self, kind: WalkKind) -> &mut Option<WalkPlan> {
        match kind {
            WalkKind::Sweep => &mut self.backlog.sweep,
            WalkKind::Partial => &mut self.backlog.partial_walk,
        }
    }

    /// Removes the walk of this kind, and stops it if it still runs.
    pub(super) fn take_walk(&mut self, kind: WalkKind) -> Option<WalkPlan> {
        let walk = self.walk(kind).take()?;
        self.commands.push(Command::StopWalk(kind));
        Some(walk)
    }

    /// Notes that no thread could be started for a walk. A permanent run tries again after
    /// [`RETRY`]; a single run ends with the error.
    pub(super) fn cannot_walk(&mut self, kind: WalkKind, error: std::io::Error, now: Instant) {
        if self.is_once() {
            return self.commands.push(Command::Fail(error));
        }
        // The other walk may have failed for the same reason just now.
        if now >= self.no_walk_before {
            tracing::error!(
                op = "error",
                "cannot start a thread: {error}; will try again in {RETRY:?} (raise the limit on processes, ulimit -u)"
            );
        }
        self.no_walk_before = now + RETRY;
        match (kind, self.take_walk(kind)) {
            (WalkKind::Partial, Some(partial_walk)) => {
                self.backlog.to_walk.extend(partial_walk.scopes);
            }
            (WalkKind::Sweep, Some(sweep)) if sweep.task == Task::Full => {
                self.backlog.needs_full_compare.extend(sweep.scopes);
            }
            (WalkKind::Sweep, Some(sweep)) if sweep.task == Task::Quick => {
                if self.sync.is_recount() {
                    self.backlog.next_count = Some(now);
                } else {
                    self.watching.want_quick_sweep_now();
                }
            }
            _ => {}
        }
    }

    fn may_walk(&self, now: Instant) -> bool {
        !self.is_lost && now >= self.no_walk_before
    }

    /// Handles a message of the walk of kind [`WalkKind::Sweep`].
    pub(super) fn handle_sweep(&mut self, message: Message, now: Instant) {
        match message {
            Message::Differ(dir, names) => self.receive_differences(dir, names, now),
            Message::Counted(count) => {
                self.take_walk(WalkKind::Sweep);
                self.judge(&count, now);
            }
            Message::Swept(summary) => {
                let Some(sweep) = self.take_walk(WalkKind::Sweep) else { return };
                self.end_of_walk(&sweep, now);
                if !sweep.is_of_all() {
                    return log_walked(&sweep, &summary);
                }
                if let Some(ended) = self.sync.ends(summary, now) {
                    self.waits.walk_ends(ended, now);
                    self.stats.walk_ends(ended, now);
                }
                if sweep.task == Task::Quick && self.watching.is_wanted() {
                    self.note_all_walked(summary.took, summary.watched, now);
                } else {
                    self.backlog.links.swept();
                }
            }
            other => self.handle_message(other, Detector::Sweep, now),
        }
    }

    /// Handles a message of the walk of kind [`WalkKind::Partial`]. With a watch, files that it has
    /// found rest first: somebody may be writing to them, which the watch would report.
    pub(super) fn handle_partial_walk(&mut self, message: Message, now: Instant) {
        match message {
            Message::Differ(dir, names) if self.watching.is_wanted() && !names.is_empty() => {
                let at = now + self.watching.rest();
                let (fresh, ready): (Vec<_>, Vec<_>) =
                    names.into_iter().partition(|(_, check)| check.from_walk);
                for (name, check) in fresh {
                    self.backlog.queue.push_resting(at, dir.join(&name), check);
                }
                if !ready.is_empty() {
                    self.backlog.queue.push(Detector::Watch, dir, ready);
                }
            }
            Message::Differ(dir, names) => {
                let detector = names.first().map_or(Detector::Sweep, |(_, check)| check.detector);
                self.backlog.queue.push(detector, dir, names);
            }
            Message::Swept(summary) => {
                let Some(partial_walk) = self.take_walk(WalkKind::Partial) else { return };
                log_walked(&partial_walk, &summary);
                self.end_of_walk(&partial_walk, now);
                match (partial_walk.task, partial_walk.extent) {
                    (_, Extent::Names) => self.end_names_walk(&partial_walk.scopes, &summary, now),
                    (Task::Quick, Extent::Below) if partial_walk.is_of_all() => {
                        self.note_all_walked(summary.took, summary.watched, now);
                    }
                    (Task::Quick, Extent::Renamed) => {
                        self.backlog.needs_full_compare.extend(partial_walk.scopes);
                    }
                    _ => {}
                }
            }
            other => self.handle_message(other, Detector::Watch, now),
        }
    }

    fn handle_message(&mut self, message: Message, detector: Detector, now: Instant) {
        match message {
            Message::Problem(problem) => {
                let check = Check::new(Depth::Subtree, detector, now);
                self.record_failure(&problem, check, Failure::Unreadable, now);
            }
            Message::Linked(linked) => self.note_links(&linked, now),

            Message::Unwatched(path, why) => self.note_unwatched(&path, &why, now),
            // The driver of the core handles the first three, and the callers the others.
            Message::SourceSubmount(..)
            | Message::Walked(_)
            | Message::Lost(_)
            | Message::Differ(..)
            | Message::Counted(_)
            | Message::Swept(_) => {}
        }
    }

    /// Queues differences that a sweep has found. While there is a watch, those of a full sweep
    /// rest first: the watch may report them. Those that it does not report are counted as missed.
    fn receive_differences(&mut self, dir: RelPath, names: Vec<(Name, Check)>, now: Instant) {
        if !self.runs_full_sweep() || !self.watching.stands() {
            return self.backlog.queue.push(Detector::Sweep, dir, names);
        }
        let at = now + self.watching.grace();
        if names.is_empty() {
            self.backlog.queue.push_resting(
                at,
                dir,
                Check::new(Depth::Metadata, Detector::Sweep, now),
            );
        } else {
            for (name, check) in names {
                self.backlog.queue.push_resting(at, dir.join(&name), check);
            }
        }
    }

    fn end_of_walk(&mut self, walk: &WalkPlan, now: Instant) {
        let check = || Check::new(Depth::Metadata, Detector::Sweep, now);
        for path in self.backlog.pending_widen.take_after_walk() {
            self.backlog.queue.push_path(&path, check());
        }
        if walk.extent == Extent::Names {
            return;
        }
        for scope in &walk.scopes {
            // The walk has reported nothing for these paths: they may be right by now.
            for path in self.backlog.pending_widen.walked(scope) {
                self.backlog.queue.push_path(&path, check());
            }
            for path in self.backlog.failures.end_walk(scope, walk.number) {
                self.backlog.pending_widen.hasten_above(&path, now);
                log_resolved(&path);
            }
        }
    }
}

/// Removes and returns up to [`SCOPES`] of the directories that wait, none below another.
fn take_scopes(waiting: &mut BTreeSet<RelPath>) -> Vec<RelPath> {
    let mut scopes: Vec<RelPath> = Vec::new();
    while scopes.len() < SCOPES
        && let Some(scope) = waiting.pop_first()
    {
        // In this order, entries below a directory come after it.
        if !scopes.iter().rev().any(|above| scope.is_within(above)) {
            scopes.push(scope);
        }
    }
    scopes
}

fn log_walked(walk: &WalkPlan, Summary { entries, hashed, differ, took, .. }: &Summary) {
    let scopes = walk.scopes.len();
    tracing::debug!(
        op = "look",
        scopes,
        entries,
        hashed,
        differ,
        "below {scopes} directories: {entries} entries, {hashed} MD5s, {differ} differ, {took:.1?}"
    );
}
