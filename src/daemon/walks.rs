//! The walks that the loop has done for it: the interval's sweeps, the guard's counts, quick
//! scans of all, and scans of directories that are new or moved.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outcome::log_resolved;
use super::{Backlog, Daemon, Failed};
use crate::model::check::{Check, Depth, Detector};
use crate::model::path::{Name, RelPath};
use crate::model::task::Task;
use crate::plan::failures::Failure;
use crate::plan::guard::Trust;
use crate::sweep::{Extent, Message, Plan, Summary, Sweep};

/// Directories that one scan takes on.
const SCOPES: usize = 256;

/// How long no walk is tried after no thread could be started for one.
const RETRY: Duration = Duration::from_secs(10);

/// So many directories may wait for a scan of their own.
const MOST: usize = 50_000;

impl Daemon<'_> {
    /// Starts the sweep, quick scan or count whose time has come.
    pub(super) fn begin_sweep(&mut self, now: Instant) -> Result<(), Failed> {
        let quick = self.watching.wants_rescan();
        let by_clock = now >= self.next_sweep && !self.has_its_sweep();
        let recount = self.backlog.next_count.is_some_and(|due| now >= due) && !by_clock;
        let due = quick || (self.is_swept() && (by_clock || recount));
        if !due || !self.may_walk(now) || !self.gives_way(quick) {
            return Ok(());
        }
        let task = if self.trust != Trust::Trusted && !self.stats.has_guard_count() {
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
            self.stats.sweep_begins(now, task);
            if recount && !quick {
                self.stats.recounts();
            }
        }
        match self.start_walk(task, vec![RelPath::root()], Detector::Sweep, Extent::Below) {
            Ok(sweep) => {
                self.backlog.sweep = Some(sweep);
                if quick && task == Task::Quick {
                    self.watching.scan_begins();
                }
            }
            Err(error) => self.cannot_start(error, now)?,
        }
        Ok(())
    }

    /// Whether no walk runs, or what runs gives way. A sweep by the clock does so to a quick scan,
    /// which is wanted since something may have been missed; it begins anew after that.
    fn gives_way(&mut self, quick: bool) -> bool {
        if quick
            && let Some(sweep) = self.backlog.sweep.take_if(|sweep| sweep.plan.task == Task::Full)
        {
            if sweep.is_of_all() {
                self.next_sweep = Instant::now();
            } else {
                self.backlog.needs_full_compare.extend(sweep.plan.scopes.iter().cloned());
            }
        }
        self.backlog.sweep.is_none()
    }

    /// Starts a scan of the directories below which something was found to be new; where there are
    /// none, a quick one of those that were renamed; where there are none of these, a quick one of
    /// all, for the sake of what is not watched.
    pub(super) fn begin_scan(&mut self, now: Instant) -> Result<(), Failed> {
        if self.backlog.scan.is_some() || !self.may_walk(now) {
            return Ok(());
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
        } else if is_due(self.backlog.strays.next_due()) {
            self.look_at_lately();
            (Task::Quick, Extent::Names, self.backlog.strays.take(now, SCOPES))
        } else if self.watching.wants_poll(now) {
            self.watching.scan_begins();
            self.backlog.links.sweep_begins();
            (Task::Quick, Extent::Below, vec![RelPath::root()])
        } else {
            return Ok(());
        };
        let detector = if self.watching.is_wanted() { Detector::Watch } else { Detector::Sweep };
        match self.start_walk(task, scopes.clone(), detector, extent) {
            Ok(scan) => self.backlog.scan = Some(scan),
            Err(error) => {
                self.backlog.scans.extend(scopes);
                self.cannot_start(error, now)?;
            }
        }
        Ok(())
    }

    /// When a scan is due that waits for its time.
    pub(super) fn next_scan(&self, now: Instant) -> Option<Instant> {
        let Backlog { crowds, pending_widen, strays, .. } = &self.backlog;
        [crowds.next_due(now), pending_widen.next_due(), strays.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Starts, when nothing else is to be done, the full comparison of what was renamed.
    pub(super) fn begin_proof(&mut self, now: Instant) -> Result<(), Failed> {
        let waits = self.backlog.scan.is_some()
            || !self.backlog.scans.is_empty()
            || !self.backlog.moved.is_empty();
        if self.backlog.needs_full_compare.is_empty()
            || waits
            || !self.is_swept()
            || !self.may_walk(now)
        {
            return Ok(());
        }
        let scopes = take_scopes(&mut self.backlog.needs_full_compare);
        match self.start_walk(Task::Full, scopes.clone(), Detector::Sweep, Extent::Below) {
            Ok(sweep) => self.backlog.sweep = Some(sweep),
            Err(error) => {
                self.backlog.needs_full_compare.extend(scopes);
                self.cannot_start(error, now)?;
            }
        }
        Ok(())
    }

    /// Has these directories scanned, or all where they are many.
    pub(super) fn want_scans(&mut self, scans: impl IntoIterator<Item = RelPath>) {
        self.backlog.scans.extend(scans);
        if self.backlog.scans.len() > MOST {
            self.backlog.scans.clear();
            self.backlog.scans.insert(RelPath::root());
        }
    }

    fn start_walk(
        &mut self,
        task: Task,
        scopes: Vec<RelPath>,
        detector: Detector,
        extent: Extent,
    ) -> std::io::Result<Sweep> {
        Sweep::start(Plan {
            roots: self.reconciler.roots.clone(),
            capabilities: self.reconciler.capabilities.clone(),
            filter: self.reconciler.filter.clone(),
            threads: self.config.threads,
            scopes,
            extent,
            task,
            rate: self.config.sweep_rate.filter(|_| detector == Detector::Sweep),
            drop_behind: self.stats.has_read_much(),
            detector,
            number: self.backlog.failures.scan_begins(),
            registry: self.watching.registry(),
            // Of directories that are not compared as a whole nothing is to be concluded.
            verified_dirs: (extent != Extent::Names)
                .then(|| Arc::clone(&self.reconciler.verified_dirs)),
            submounts: self.reconciler.submounts(),
        })
    }

    /// A lasting run tries again after a while.
    fn cannot_start(&mut self, error: std::io::Error, now: Instant) -> Result<(), Failed> {
        if self.is_once() {
            return Err(Failed::Thread(error));
        }
        tracing::error!(
            op = "error",
            "cannot start a thread: {error}; will try again in {RETRY:?} (raise the limit on processes, ulimit -u)"
        );
        self.no_walk_before = now + RETRY;
        Ok(())
    }

    fn may_walk(&self, now: Instant) -> bool {
        !self.roots.is_lost() && now >= self.no_walk_before
    }

    /// Takes in what the walk over all has found.
    pub(super) fn handle_sweep(&mut self, message: Message) {
        match message {
            Message::Differ(dir, names) => self.receive_differences(dir, names),
            Message::Counted(count) => {
                self.backlog.sweep = None;
                self.judge(&count);
            }
            Message::Swept(summary) => {
                let Some(sweep) = self.backlog.sweep.take() else { return };
                self.end_of_walk(&sweep);
                if !sweep.is_of_all() {
                    return log_scanned(&sweep, &summary);
                }
                self.stats.swept(summary);
                if sweep.plan.task == Task::Quick && self.watching.is_wanted() {
                    self.all_scanned(summary.took, summary.watched);
                } else {
                    self.backlog.links.swept();
                }
            }
            other => self.handle_message(other, Detector::Sweep),
        }
    }

    /// Takes in what an event scan has found. Files may be written to this very moment: they
    /// rest, and the watch, which stands by now, tells when they change.
    pub(super) fn handle_scan(&mut self, message: Message) {
        match message {
            Message::Differ(dir, names) if self.watching.is_wanted() && !names.is_empty() => {
                let at = Instant::now() + self.watching.rest();
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
                let Some(scan) = self.backlog.scan.take() else { return };
                log_scanned(&scan, &summary);
                self.end_of_walk(&scan);
                match (scan.plan.task, scan.plan.extent) {
                    (_, Extent::Names) => self.looked_at_names(&scan.plan.scopes, &summary),
                    (Task::Quick, Extent::Below) if scan.is_of_all() => {
                        self.all_scanned(summary.took, summary.watched);
                    }
                    (Task::Quick, Extent::Renamed) => {
                        self.backlog.needs_full_compare.extend(scan.plan.scopes.iter().cloned());
                    }
                    _ => {}
                }
            }
            other => self.handle_message(other, Detector::Watch),
        }
    }

    fn handle_message(&mut self, message: Message, detector: Detector) {
        match message {
            Message::SourceSubmount(path, pin) => self.note_mount(path, pin),
            Message::Problem(problem) => {
                let check = Check::new(Depth::Subtree, detector, Instant::now());
                self.record_failure(&problem, check, Failure::Scan);
            }
            Message::Linked(linked) => self.note_links(&linked),
            Message::Walked(both) => self.reconciler.verified_dirs.walked(&both[0], &both[1]),
            Message::Unwatched(path, why) => self.note_unwatched(&path, &why),
            Message::Lost(lost) => {
                self.backlog.sweep = None;
                self.backlog.scan = None;
                self.lose(lost);
            }
            Message::Differ(..) | Message::Counted(_) | Message::Swept(_) => {}
        }
    }

    /// Differences that a sweep by the clock has found while there is a watch are the watch's to
    /// tell: they wait for that, so that those that it has missed can be counted.
    fn receive_differences(&mut self, dir: RelPath, names: Vec<(Name, Check)>) {
        let by_clock =
            self.backlog.sweep.as_ref().is_some_and(|sweep| sweep.plan.task == Task::Full);
        if !by_clock || self.watching.watch().is_none() {
            return self.backlog.queue.push(Detector::Sweep, dir, names);
        }
        let now = Instant::now();
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

    fn end_of_walk(&mut self, walk: &Sweep) {
        let check = || Check::new(Depth::Metadata, Detector::Sweep, Instant::now());
        for path in std::mem::take(&mut self.backlog.widen_after_walk) {
            self.backlog.queue.push_path(&path, check());
        }
        if walk.plan.extent == Extent::Names {
            return;
        }
        for scope in &walk.plan.scopes {
            // What it has not told of may be right by now.
            for path in self.backlog.pending_widen.walked(scope) {
                self.backlog.queue.push_path(&path, check());
            }
            for path in self.backlog.failures.scanned(scope, walk.plan.number) {
                self.backlog.pending_widen.hasten_above(&path, Instant::now());
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

fn log_scanned(walk: &Sweep, Summary { entries, hashed, differ, took, .. }: &Summary) {
    let scopes = walk.plan.scopes.len();
    tracing::debug!(
        op = "look",
        scopes,
        entries,
        hashed,
        differ,
        "below {scopes} directories: {entries} entries, {hashed} pairs hashed, {differ} differ, {took:.1?}"
    );
}
