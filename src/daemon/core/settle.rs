//! When nothing waits any more: the summary of a sync, the guard's judgement, and what is next.

use std::time::{Duration, Instant};

use super::{Core, End};

use crate::model::check::Detector;
use crate::model::entry::Time;
use crate::model::human::{counted, human_bytes, human_duration};
use crate::model::task::Task;
use crate::plan::guard::{Count, Trust, judge, log_held};
use crate::report::{Operation, log_settled};
use crate::sweep::{Summary, is_much_to_read};
use crate::writer::fs::round::Outcome;

/// While there is a watch, "equal" is said once nothing has happened for so long.
const QUIET: Duration = Duration::from_secs(1);

/// So soon is counted again after changes in a source that is doubted.
const RECOUNT: Duration = Duration::from_secs(5);

/// What has been done, for the summaries.
#[derive(Default)]
pub(super) struct Stats {
    created: u64,
    updated: u64,
    removed: u64,
    renamed: u64,
    bytes: u64,
    held: u64,
    waiting: u64,
    /// Looks at what is kept of file systems that are no longer mounted.
    kept: u64,
    /// Files with more than one name, copied by this sync.
    linked: u64,
    /// The same since the start of the run.
    total: Totals,
    work: Effort,
    /// Of the walk over all: what it does, and since when.
    begun: Option<(Instant, Task)>,
    /// Actions that only the sweep has led to, though there is a watch.
    missed: u64,
    /// When something was last done.
    last_action: Option<Instant>,
    swept: Option<Summary>,
    /// Whether a full sweep has come to its end since the last begin or loss.
    complete: bool,
    /// Whether the replica was said to be equal, and nothing has happened since.
    said_equal: bool,
    /// Whether a count has been taken for the sweep that is due.
    counted: bool,
    /// Whether the quick scan that runs follows a count of its own.
    recounted: bool,
}

/// What it took since "equal" was last said.
#[derive(Default)]
struct Effort {
    /// Changes that the watch has told.
    told: usize,
    /// Names that rounds have taken.
    looked: usize,
    /// Files that were copied.
    copied: usize,
    /// Pairs of files that rounds have read for their MD5s.
    hashed: u64,
}

#[derive(Default)]
struct Totals {
    actions: u64,
    removed: u64,
    bytes: u64,
    sweeps: u64,
    /// Bytes that the last full sweep has read, and how long it took.
    read: u64,
    took: Duration,
    /// When that began.
    swept: Option<Time>,
    /// Whether it was said that a sweep takes longer than the interval.
    said_long: bool,
    /// Whether it was said that hard links are not mirrored as such.
    said_linked: bool,
}

impl Stats {
    pub fn sweep_begins(&mut self, now: Instant, task: Task) {
        let (total, work) = (std::mem::take(&mut self.total), std::mem::take(&mut self.work));
        let Self { said_equal, last_action, .. } = *self;
        // A quick scan proves nothing anew, and takes nothing back.
        let (counted, complete) =
            (task == Task::Quick && self.counted, task == Task::Quick && self.complete);
        let (begun, recounted) = (Some((now, task)), false);
        *self = Self {
            total,
            work,
            begun,
            last_action,
            complete,
            said_equal,
            counted,
            recounted,
            ..Self::default()
        };
    }

    /// When it will have been quiet for long enough for a word.
    pub fn quiet_at(&self) -> Option<Instant> {
        let waits = self.complete && !self.said_equal;
        self.last_action.filter(|_| waits).map(|last| last + QUIET)
    }

    /// When the last full sweep began that has come to its end.
    pub fn last_swept(&self) -> Option<Time> {
        self.total.swept
    }

    pub fn has_guard_count(&self) -> bool {
        self.counted
    }

    /// Whether the quick scan that runs follows a count of its own.
    pub fn is_recount(&self) -> bool {
        self.recounted
    }

    pub fn recounts(&mut self) {
        self.recounted = true;
    }

    /// The roots are others now, or may be: the count is to be taken anew.
    pub fn discard_guard_count(&mut self) {
        self.counted = false;
        self.swept = None;
        self.complete = false;
    }

    pub fn swept(&mut self, summary: Summary) {
        self.swept = Some(summary);
        if matches!(self.begun, Some((_, Task::Full))) {
            self.total.sweeps += 1;
            (self.total.read, self.total.took) = (summary.bytes, summary.took);
        }
    }

    /// Whether a sweep reads more than half of the memory holds.
    pub fn has_read_much(&self) -> bool {
        is_much_to_read(self.total.read)
    }

    /// A change was told by the watch.
    pub fn told(&mut self) {
        self.work.told += 1;
    }

    /// A round has taken so many names.
    pub fn looked(&mut self, names: usize) {
        self.work.looked += names;
    }

    pub fn add(&mut self, outcome: &Outcome, now: Instant) {
        let Outcome { done, held, waiting, kept, linked, hashed, .. } = outcome;
        self.held += held;
        self.waiting += waiting;
        self.kept += kept;
        self.linked += linked;
        self.work.hashed += hashed;
        self.work.copied += done.iter().filter(|done| done.bytes.is_some()).count();
        for done in done {
            match done.operation {
                Operation::Created => self.created += 1,
                Operation::Updated => self.updated += 1,
                Operation::Removed => {
                    self.removed += 1;
                    self.total.removed += 1;
                }
                Operation::Renamed => self.renamed += 1,
            }
            let bytes = done.bytes.unwrap_or(0);
            self.bytes += bytes;
            self.total.bytes += bytes;
            self.total.actions += 1;
            let by_clock = matches!(self.begun, Some((_, Task::Full)));
            self.missed += u64::from(by_clock && done.detector == Detector::Sweep);
        }
        if !done.is_empty() {
            self.mark_active(now);
        }
    }

    /// Entries that were removed since the start of the run.
    pub fn removed(&self) -> u64 {
        self.total.removed
    }

    /// Something happened: "equal" is worth saying again.
    pub fn mark_active(&mut self, now: Instant) {
        self.said_equal = false;
        self.last_action = Some(now);
    }

    /// Whether something was left as it is that differs.
    fn has_left(&self) -> bool {
        self.held + self.waiting + self.kept > 0
    }

    /// The line that ends a sync, if one has ended.
    fn log_swept(&mut self, now: Instant, problems: usize, watching: bool) -> Option<Task> {
        let (Some(summary), Some((begun, task))) = (self.swept.take(), self.begun.take()) else {
            return None;
        };
        self.complete |= task == Task::Full || !watching;
        if task == Task::Full {
            self.total.swept = Some(summary.begun);
        }
        let linked = self.linked + summary.linked;
        if linked > 0 && !std::mem::replace(&mut self.total.said_linked, true) {
            tracing::info!(
                op = "links",
                linked,
                "{linked} of the source's files have more than one name (hard links): each name is mirrored \
                 as a file of its own"
            );
        }
        let took = now.duration_since(begun).as_secs_f64();
        let numbers = [
            (self.created, "created"),
            (self.updated, "updated"),
            (self.renamed, "renamed"),
            (self.removed, "removed"),
        ];
        let mut done: Vec<String> = numbers
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, what)| format!("{number} {what}"))
            .collect();
        match (done.is_empty(), self.bytes) {
            (true, _) if !self.has_left() && problems == 0 => done.push("nothing to do".to_owned()),
            (_, 0) => {}
            (_, bytes) => done.push(format!("{} copied", human_bytes(bytes))),
        }
        if problems > 0 {
            done.push(counted(problems as u64, "problem", "problems"));
        }
        if self.held > 0 {
            done.push(format!("{} held", counted(self.held, "deletion", "deletions")));
        }
        if self.waiting > 0 {
            done.push(format!("{} new waiting", self.waiting));
        }
        if self.kept > 0 {
            done.push("what is not mounted kept".to_owned());
        }
        if watching && self.missed > 0 {
            done.push(format!("{} of them not told by the watch", self.missed));
        }
        let word = if watching && task == Task::Quick { "scan" } else { "sweep" };
        tracing::info!(
            op = word,
            entries = summary.entries,
            hashed = summary.hashed,
            hashed_bytes = summary.bytes,
            differ = summary.differ,
            created = self.created,
            updated = self.updated,
            removed = self.removed,
            renamed = self.renamed,
            copied_bytes = self.bytes,
            held = self.held,
            waiting = (self.waiting > 0).then_some(self.waiting),
            missed = watching.then_some(self.missed),
            problems,
            compare_seconds = summary.took.as_secs_f64(),
            seconds = took,
            "{}, {} MD5s in {took:.2} s: {}",
            counted(summary.entries, "entry", "entries"),
            2 * summary.hashed,
            done.join(", "),
        );
        Some(task)
    }

    /// Says once that sweeps take longer than the time between them.
    fn log_if_long(&mut self, took: Duration, interval: Duration) {
        if took > interval && !std::mem::replace(&mut self.total.said_long, true) {
            let [took, interval] = [took, interval].map(human_duration);
            tracing::warn!(
                op = "warning",
                "a sweep has taken {took}, longer than the interval of {interval}, which is counted from its end: the \
                 trees are read most of the time (give a longer interval, or --sweep-rate)"
            );
        }
    }

    /// The last line of a run.
    pub fn log_end(&self, signal: i32) {
        let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
        tracing::info!(
            op = "stopped",
            actions = self.total.actions,
            "by {name}, after {} sweeps, {} actions, {} copied",
            self.total.sweeps,
            self.total.actions,
            human_bytes(self.total.bytes),
        );
    }
}

impl Core<'_> {
    /// Whether nothing is under way and nothing waits but what has to wait for its time. A single
    /// run also waits for what may come to rest any moment; a lasting one sweeps on.
    pub(super) fn is_settled(&self) -> bool {
        self.is_at_rest() && !(self.is_once() && self.may_come_to_rest())
    }

    /// Whether nothing is to be done or under way, save what waits after a failure.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_swept()
            && self.backlog.scan.is_none()
            && self.backlog.scans.is_empty()
            && self.backlog.crowds.is_empty()
            && !self.watching.wants_scan()
            && self.backlog.moved.is_empty()
            && self.backlog.needs_full_compare.is_empty()
            && !self.backlog.queue.has_ready(Detector::Watch)
            && self.backlog.queue.count_resting() == 0
            && self.background.is_idle
    }

    /// Whether there is something of which it is not yet known that it stays as it is.
    fn may_come_to_rest(&self) -> bool {
        self.backlog.failures.has_restless()
            || !self.backlog.pending_widen.paths().all(|path| self.backlog.failures.is_told(path))
    }

    /// Whether the replica was found to be equal: then it is worth a word once it is quiet.
    pub(super) fn is_equal(&self) -> bool {
        let is_done = self.backlog.failures.is_empty() && self.backlog.pending_widen.is_empty();
        self.is_settled() && self.stats.complete && is_done && !self.stats.has_left()
    }

    /// Whether no walk over all runs, and nothing that one has found waits. With a watch this
    /// comes to be also while there is always something to do; without, all has to be done.
    pub(super) fn is_swept(&self) -> bool {
        self.backlog.sweep.is_none()
            && !self.backlog.queue.has_ready(Detector::Sweep)
            && self.backlog.queue.count_sweep_names() == 0
            && self.background.is_idle_for_sweep
            && (self.watching.is_wanted()
                || (self.backlog.scan.is_none() && self.backlog.scans.is_empty()))
    }

    /// Whether a single run has swept: it waits for what was found, and no more.
    pub(super) fn has_its_sweep(&self) -> bool {
        self.is_once() && self.stats.swept.is_some()
    }

    /// Ends a sync: says what it did, and plans the next. The end of the run, for `--once`.
    pub(super) fn finish_sync(&mut self, now: Instant) -> Option<End> {
        let settled = self.is_settled();
        let over = if self.watching.is_wanted() { self.is_swept() } else { settled };
        if !over {
            return None;
        }
        if self.is_lost {
            if self.is_once() {
                tracing::error!(
                    op = "error",
                    "stopped half-way: the source or the replica is not what it was"
                );
            }
            return self.is_once().then_some(End::Incomplete);
        }
        if self.is_once() && self.try_with_what_went(now) {
            return None;
        }
        let walked = self.stats.swept.filter(|_| matches!(self.stats.begun, Some((_, Task::Full))));
        let swept =
            self.stats.log_swept(now, self.backlog.failures.problems(), self.watching.is_wanted());
        if let Some(summary) = walked.filter(|_| !self.is_once()) {
            self.stats.log_if_long(summary.took, self.config.interval);
        }
        let equal = self.is_equal();
        let quiet = swept.is_some() || self.stats.quiet_at().is_none_or(|due| due <= now);
        if equal && quiet && !self.stats.said_equal {
            self.stats.said_equal = true;
            let Effort { told, looked, copied, hashed } = std::mem::take(&mut self.stats.work);
            tracing::debug!(
                op = "effort",
                told,
                looked,
                copied,
                hashed,
                "{told} changes told, {looked} names looked at, {copied} files copied, {hashed} pairs hashed"
            );
            log_settled();
        }
        if swept == Some(Task::Full)
            || (swept.is_some() && std::mem::take(&mut self.stats.recounted))
        {
            self.trust.exhaust();
            self.stats.counted = false;
        }
        if swept? == Task::Quick && self.watching.is_wanted() {
            return None;
        }
        // An interval of a year is as good as none, where the clock cannot count that far.
        self.next_sweep =
            now.checked_add(self.config.interval).unwrap_or(now + Duration::from_secs(1 << 30));
        let end = if equal { End::Done } else { End::Incomplete };
        self.is_once().then_some(end)
    }

    /// Something waits because the source is doubted: it may have become whole again. It is counted
    /// again, and scanned quickly, but that leaves at least as much time as the last sweep took.
    pub(super) fn recount_soon(&mut self, now: Instant) {
        let wait = RECOUNT.max(self.stats.total.took);
        self.backlog.next_count.get_or_insert(now + wait);
    }

    /// The guard's judgement on what was counted.
    pub(super) fn judge(&mut self, count: &Count, now: Instant) {
        self.stats.counted = true;
        let (before, limit) = (self.trust, self.config.max_delete);
        let occasion = before.occasion();
        let known = Count { entries: before.entries(count), ..count.clone() };
        let (trust, doubt) = match judge(&known, limit, occasion) {
            Some(doubt) => (before.shaken(count, &doubt, limit), Some(doubt)),
            None => before.restored(count),
        };
        self.trust = trust;
        if trust.told() != before.told() {
            if let Some(doubt) = doubt {
                log_held(count, &doubt, (limit, occasion), &self.config.rerun);
            } else {
                tracing::info!(op = "trusted", "the source is whole again: deletions are followed");
            }
        }
        if trust != Trust::Trusted {
            self.stats.mark_active(now);
        }
    }
}
