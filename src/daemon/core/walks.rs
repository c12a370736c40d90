//! The walks that the loop has done for it: the interval's sweeps, the guard's counts, quick
//! scans of all, and scans of directories that are new or moved.

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

/// Directories that one scan takes on.
const SCOPES: usize = 256;

/// How long no walk is tried after no thread could be started for one.
const RETRY: Duration = Duration::from_secs(10);

/// So many directories may wait for a scan of their own.
const MOST: usize = 50_000;

/// The two walks that may be under way at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkKind {
    /// Over all of both trees: a sweep, a quick scan or a count. Or the full comparison of what was
    /// renamed, when nothing else is to be done.
    Sweep,
    /// Of some directories, because of what has happened.
    Scan,
}

/// What a walk is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalkPlan {
    pub task: Task,
    pub extent: Extent,
    /// The directories below which it looks; the root for all.
    pub scopes: Vec<RelPath>,
    /// On whose behalf it looks.
    pub detector: Detector,
    /// Which of the walks it is, since several may be under way.
    pub number: u64,
    /// Whether what is read for it alone leaves the memory again.
    pub drop_behind: bool,
}

impl WalkPlan {
    /// Whether it looks at both trees as a whole.
    pub fn is_of_all(&self) -> bool {
        self.extent != Extent::Names && self.scopes.iter().any(RelPath::is_root)
    }
}

impl Core<'_> {
    /// Begins the walks that are due.
    pub(super) fn begin_walks(&mut self, now: Instant) {
        self.begin_scan(now);
        self.begin_sweep(now);
        self.begin_proof(now);
    }

    /// Begins the sweep, quick scan or count whose time has come.
    fn begin_sweep(&mut self, now: Instant) {
        let quick = self.watching.wants_rescan();
        let by_clock = now >= self.next_sweep && !self.has_its_sweep();
        let recount = self.backlog.next_count.is_some_and(|due| now >= due) && !by_clock;
        let due = quick || (self.is_swept() && (by_clock || recount));
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
            self.watching.scan_begins();
        }
        self.begin_walk(
            WalkKind::Sweep,
            (task, Extent::Below),
            vec![RelPath::root()],
            Detector::Sweep,
        );
    }

    /// Whether no walk runs, or what runs gives way. A sweep by the clock does so to a quick scan,
    /// which is wanted since something may have been missed; it begins anew after that.
    fn gives_way(&mut self, quick: bool, now: Instant) -> bool {
        if quick
            && self.is_swept_by_clock()
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

    /// Whether a full sweep runs, or a full comparison of what was renamed.
    pub(super) fn is_swept_by_clock(&self) -> bool {
        self.backlog.sweep.as_ref().is_some_and(|sweep| sweep.task == Task::Full)
    }

    /// Begins a scan of the directories below which something was found to be new; where there are
    /// none, a quick one of those that were renamed; where there are none of these, a quick one of
    /// all, for the sake of what is not watched.
    fn begin_scan(&mut self, now: Instant) {
        if self.backlog.scan.is_some() || !self.may_walk(now) {
            return;
        }
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let (task, extent, scopes) = if !self.backlog.scans.is_empty() {
            (Task::Full, Extent::Below, take_scopes(&mut self.backlog.scans))
        } else if !self.backlog.moved.is_empty() {
            (Task::Quick, Extent::Renamed, take_scopes(&mut self.backlog.moved))
        } else if is_due(self.backlog.crowds.next_due(now)) {
            (Task::Quick, Extent::Names, self.backlog.crowds.take(SCOPES))
        } else if is_due(self.backlog.pending_widen.next_due()) {
            (Task::Quick, Extent::Below, self.backlog.pending_widen.take(now))
        } else if is_due(self.backlog.stray_writes.next_due()) {
            self.look_at_lately(now);
            (Task::Quick, Extent::Names, self.backlog.stray_writes.take(now, SCOPES))
        } else if self.watching.wants_poll(now) {
            self.watching.scan_begins();
            self.backlog.links.sweep_begins();
            (Task::Quick, Extent::Below, vec![RelPath::root()])
        } else {
            return;
        };
        let detector = if self.watching.is_wanted() { Detector::Watch } else { Detector::Sweep };
        self.begin_walk(WalkKind::Scan, (task, extent), scopes, detector);
    }

    /// When a walk is due that waits for its time, or a new watch.
    pub(super) fn next_walk(&self, now: Instant) -> Option<Instant> {
        // While something is under way, its end wakes the loop, and not the next sweep's time.
        let next =
            self.backlog.next_count.map_or(self.next_sweep, |count| count.min(self.next_sweep));
        let sweep = (self.is_swept() && !self.has_its_sweep()).then_some(next);
        let watch =
            self.watching.next_due(self.backlog.sweep.is_some(), self.backlog.scan.is_some());
        let Backlog { crowds, pending_widen, stray_writes, .. } = &self.backlog;
        let scans = [crowds.next_due(now), pending_widen.next_due(), stray_writes.next_due()];
        let scan = scans.into_iter().flatten().min().filter(|_| self.backlog.scan.is_none());
        // Only where no thread was to be had for it.
        let is_left = (self.backlog.scan.is_none() && self.wants_scan())
            || (self.backlog.sweep.is_none() && self.watching.wants_rescan())
            || self.wants_proof();
        [sweep, watch, scan, is_left.then_some(now)].into_iter().flatten().min()
    }

    /// Begins, when nothing else is to be done, the full comparison of what was renamed.
    fn begin_proof(&mut self, now: Instant) {
        if !self.wants_proof() || !self.may_walk(now) {
            return;
        }
        let scopes = take_scopes(&mut self.backlog.needs_full_compare);
        self.begin_walk(WalkKind::Sweep, (Task::Full, Extent::Below), scopes, Detector::Sweep);
    }

    /// Whether directories wait for a scan because of what was found or done in them.
    pub(super) fn wants_scan(&self) -> bool {
        !self.backlog.scans.is_empty() || !self.backlog.moved.is_empty()
    }

    /// Whether nothing is to be done but the full comparison of what was renamed.
    fn wants_proof(&self) -> bool {
        !self.backlog.needs_full_compare.is_empty()
            && self.backlog.scan.is_none()
            && !self.wants_scan()
            && self.is_swept()
    }

    /// Has these directories scanned, or all where they are many.
    pub(super) fn want_scans(&mut self, scans: impl IntoIterator<Item = RelPath>) {
        self.backlog.scans.extend(scans);
        if self.backlog.scans.len() > MOST {
            self.backlog.scans.clear();
            self.backlog.scans.insert(RelPath::root());
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
        let number = self.backlog.failures.scan_begins();
        let plan = WalkPlan { task, extent, scopes, detector, number, drop_behind };
        *self.walk(kind) = Some(plan.clone());
        self.commands.push(Command::StartWalk(kind, plan));
    }

    fn walk(&mut self, kind: WalkKind) -> &mut Option<WalkPlan> {
        match kind {
            WalkKind::Sweep => &mut self.backlog.sweep,
            WalkKind::Scan => &mut self.backlog.scan,
        }
    }

    /// The walk of this kind is over, or is to end.
    pub(super) fn take_walk(&mut self, kind: WalkKind) -> Option<WalkPlan> {
        let walk = self.walk(kind).take()?;
        self.commands.push(Command::StopWalk(kind));
        Some(walk)
    }

    /// A walk could not be begun. A lasting run tries again after a while.
    pub(super) fn cannot_walk(&mut self, kind: WalkKind, error: std::io::Error, now: Instant) {
        if self.is_once() {
            return self.commands.push(Command::Fail(error));
        }
        // The other walk may have met the same just now.
        if now >= self.no_walk_before {
            tracing::error!(
                op = "error",
                "cannot start a thread: {error}; will try again in {RETRY:?} (raise the limit on processes, ulimit -u)"
            );
        }
        self.no_walk_before = now + RETRY;
        match (kind, self.take_walk(kind)) {
            (WalkKind::Scan, Some(scan)) => self.backlog.scans.extend(scan.scopes),
            (WalkKind::Sweep, Some(sweep)) if sweep.task == Task::Full => {
                self.backlog.needs_full_compare.extend(sweep.scopes);
            }
            (WalkKind::Sweep, Some(sweep)) if sweep.task == Task::Quick => {
                if self.sync.is_recount() {
                    self.backlog.next_count = Some(now);
                } else {
                    self.watching.scan_is_due();
                }
            }
            _ => {}
        }
    }

    fn may_walk(&self, now: Instant) -> bool {
        !self.is_lost && now >= self.no_walk_before
    }

    /// Takes in what the walk over all has found.
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
                    return log_scanned(&sweep, &summary);
                }
                if let Some(ended) = self.sync.ends(summary) {
                    self.waits.walk_ends(ended, now);
                    self.stats.walk_ends(ended, now);
                }
                if sweep.task == Task::Quick && self.watching.is_wanted() {
                    self.all_scanned(summary.took, summary.watched, now);
                } else {
                    self.backlog.links.swept();
                }
            }
            other => self.handle_message(other, Detector::Sweep, now),
        }
    }

    /// Takes in what an event scan has found. Files may be written to this very moment: they
    /// rest, and the watch, which stands by now, tells when they change.
    pub(super) fn handle_scan(&mut self, message: Message, now: Instant) {
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
                let Some(scan) = self.take_walk(WalkKind::Scan) else { return };
                log_scanned(&scan, &summary);
                self.end_of_walk(&scan, now);
                match (scan.task, scan.extent) {
                    (_, Extent::Names) => self.end_names_walk(&scan.scopes, &summary, now),
                    (Task::Quick, Extent::Below) if scan.is_of_all() => {
                        self.all_scanned(summary.took, summary.watched, now);
                    }
                    (Task::Quick, Extent::Renamed) => {
                        self.backlog.needs_full_compare.extend(scan.scopes);
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
                self.record_failure(&problem, check, Failure::Scan, now);
            }
            Message::Linked(linked) => self.note_links(&linked, now),

            Message::Unwatched(path, why) => self.note_unwatched(&path, &why, now),
            // The first three are for who drives the core.
            Message::SourceSubmount(..)
            | Message::Walked(_)
            | Message::Lost(_)
            | Message::Differ(..)
            | Message::Counted(_)
            | Message::Swept(_) => {}
        }
    }

    /// Differences that a sweep by the clock has found while there is a watch are the watch's to
    /// tell: they wait for that, so that those that it has missed can be counted.
    fn receive_differences(&mut self, dir: RelPath, names: Vec<(Name, Check)>, now: Instant) {
        if !self.is_swept_by_clock() || !self.watching.stands() {
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
            // What it has not told of may be right by now.
            for path in self.backlog.pending_widen.walked(scope) {
                self.backlog.queue.push_path(&path, check());
            }
            for path in self.backlog.failures.scanned(scope, walk.number) {
                self.backlog.pending_widen.hasten_above(&path, now);
                log_resolved(&path);
            }
        }
    }
}

/// Some of the directories that wait for a scan, none below another.
fn take_scopes(waiting: &mut BTreeSet<RelPath>) -> Vec<RelPath> {
    let mut scopes: Vec<RelPath> = Vec::new();
    while scopes.len() < SCOPES
        && let Some(scope) = waiting.pop_first()
    {
        // In their order, what lies below a directory comes after it.
        if !scopes.iter().rev().any(|above| scope.is_within(above)) {
            scopes.push(scope);
        }
    }
    scopes
}

fn log_scanned(walk: &WalkPlan, Summary { entries, hashed, differ, took, .. }: &Summary) {
    let scopes = walk.scopes.len();
    tracing::debug!(
        op = "look",
        scopes,
        entries,
        hashed,
        differ,
        "below {scopes} directories: {entries} entries, {hashed} pairs hashed, {differ} differ, {took:.1?}"
    );
}
