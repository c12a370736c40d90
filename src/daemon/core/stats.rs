//! What has been done: counted for the lines that end a sync and a run.

use std::time::{Duration, Instant};

use super::settle::EndedSweep;
use crate::model::check::Detector;
use crate::model::entry::Time;
use crate::model::human::{counted, human_bytes, human_duration};
use crate::model::task::Task;
use crate::report::Operation;
use crate::sweep::is_much_to_read;
use crate::writer::Outcome;

/// All counts.
#[derive(Default)]
pub(super) struct Stats {
    sync: SyncStats,
    total: Totals,
    effort: Effort,
    /// Of the walk over all before the present one, until that has ended.
    had_left: bool,
    kept_before: u64,
}

/// Since the last walk over all began.
#[derive(Default)]
struct SyncStats {
    created: u64,
    updated: u64,
    removed: u64,
    renamed: u64,
    bytes: u64,
    held: u64,
    waiting: u64,
    /// Looks at what is kept of file systems that are no longer mounted.
    kept: u64,
    /// Files with more than one name that were copied.
    linked: u64,
    /// Actions that only the full sweep has led to, though there is a watch.
    missed: u64,
}

/// Since the start of the run.
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
    /// When it came to its end, and how many entries the last walk over all has compared.
    swept_at: Option<Instant>,
    entries: Option<u64>,
    /// Actions that only full sweeps have led to, though there is a watch.
    missed: u64,
    /// Whether it was said that a sweep takes longer than the interval.
    said_long: bool,
    /// Whether it was said that hard links are not mirrored as such.
    said_linked: bool,
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

impl Stats {
    /// A walk over all begins.
    pub fn sync_begins(&mut self) {
        (self.had_left, self.kept_before) = (self.has_left(), self.sync.kept);
        self.sync = SyncStats::default();
    }

    /// When the last full sweep began that has come to its end.
    pub fn last_swept(&self) -> Option<Time> {
        self.total.swept
    }

    /// How long the last full sweep took.
    pub fn sweep_took(&self) -> Duration {
        self.total.took
    }

    /// Whether a sweep reads more than half of the memory holds.
    pub fn has_read_much(&self) -> bool {
        is_much_to_read(self.total.read)
    }

    /// Entries that were removed since the start of the run.
    pub fn removed(&self) -> u64 {
        self.total.removed
    }

    /// When the last full sweep came to its end.
    pub fn swept_at(&self) -> Option<Instant> {
        self.total.swept_at
    }

    /// Entries and bytes of the last walk over all.
    pub fn entries_before(&self) -> Option<u64> {
        self.total.entries
    }

    pub fn bytes_before(&self) -> Option<u64> {
        self.total.swept_at.map(|_| self.total.read)
    }

    /// Since the start of the run: changes that only sweeps have found, actions, and bytes that
    /// were copied.
    pub fn missed(&self) -> u64 {
        self.total.missed
    }

    pub fn actions(&self) -> u64 {
        self.total.actions
    }

    pub fn copied_bytes(&self) -> u64 {
        self.total.bytes
    }

    /// What is kept of file systems that are no longer mounted.
    pub fn kept(&self) -> u64 {
        self.sync.kept.max(self.kept_before)
    }

    /// Whether something is left as it is that differs, or was, as far as the walk that runs has
    /// not yet seen.
    pub fn may_have_left(&self) -> bool {
        self.has_left() || self.had_left
    }

    /// Whether something was left as it is that differs.
    pub fn has_left(&self) -> bool {
        self.sync.held + self.sync.waiting + self.sync.kept > 0
    }

    /// A change was told by the watch.
    pub fn told(&mut self) {
        self.effort.told += 1;
    }

    /// A round has taken so many names.
    pub fn looked(&mut self, names: usize) {
        self.effort.looked += names;
    }

    /// A round was done. `by_clock`: while a full sweep runs.
    pub fn add(&mut self, outcome: &Outcome, by_clock: bool) {
        let Outcome { done, held, waiting, kept, linked, hashed, .. } = outcome;
        let Self { sync, total, effort, .. } = self;
        sync.held += held;
        sync.waiting += waiting;
        sync.kept += kept;
        sync.linked += linked;
        effort.hashed += hashed;
        effort.copied += done.iter().filter(|done| done.bytes.is_some()).count();
        for done in done {
            match done.operation {
                Operation::Created => sync.created += 1,
                Operation::Updated => sync.updated += 1,
                Operation::Removed => {
                    sync.removed += 1;
                    total.removed += 1;
                }
                Operation::Renamed => sync.renamed += 1,
            }
            let bytes = done.bytes.unwrap_or(0);
            sync.bytes += bytes;
            total.bytes += bytes;
            total.actions += 1;
            let is_missed = u64::from(by_clock && done.detector == Detector::Sweep);
            sync.missed += is_missed;
            total.missed += is_missed;
        }
    }

    /// A walk over all has come to its end.
    pub fn walk_ends(&mut self, ended: &EndedSweep, now: Instant) {
        self.total.entries = Some(ended.summary.entries);
        if ended.task == Task::Full {
            self.total.sweeps += 1;
            self.total.swept_at = Some(now);
            (self.total.read, self.total.took) = (ended.summary.bytes, ended.summary.took);
        }
    }

    /// Writes the line that ends a sync.
    pub fn log_swept(&mut self, ended: &EndedSweep, now: Instant, problems: usize, watching: bool) {
        let EndedSweep { task, since, summary, .. } = ended;
        (self.had_left, self.kept_before) = (false, 0);
        let Self { sync, total, .. } = self;
        if *task == Task::Full {
            total.swept = Some(summary.begun);
        }
        let linked = sync.linked + summary.linked;
        if linked > 0 && !std::mem::replace(&mut total.said_linked, true) {
            tracing::info!(
                op = "links",
                linked,
                "{linked} of the source's files have more than one name (hard links): each name is mirrored \
                 as a file of its own"
            );
        }
        let took = now.duration_since(*since).as_secs_f64();
        let word = if watching && *task == Task::Quick { "scan" } else { "sweep" };
        tracing::info!(
            op = word,
            entries = summary.entries,
            hashed = summary.hashed,
            hashed_bytes = summary.bytes,
            differ = summary.differ,
            created = sync.created,
            updated = sync.updated,
            removed = sync.removed,
            renamed = sync.renamed,
            copied_bytes = sync.bytes,
            held = sync.held,
            waiting = (sync.waiting > 0).then_some(sync.waiting),
            missed = watching.then_some(sync.missed),
            problems,
            compare_seconds = summary.took.as_secs_f64(),
            seconds = took,
            "{}, {} MD5s in {took:.2} s: {}",
            counted(summary.entries, "entry", "entries"),
            2 * summary.hashed,
            sync.in_words(problems, watching).join(", "),
        );
    }

    /// Says once that sweeps take longer than the time between them.
    pub fn log_if_long(&mut self, took: Duration, interval: Duration) {
        if took > interval && !std::mem::replace(&mut self.total.said_long, true) {
            let [took, interval] = [took, interval].map(human_duration);
            tracing::warn!(
                op = "warning",
                "a sweep has taken {took}, longer than the interval of {interval}, which is counted from its end: the \
                 trees are read most of the time (give a longer interval, or --sweep-rate)"
            );
        }
    }

    /// Writes what it took since that was last written.
    pub fn log_effort(&mut self) {
        let Effort { told, looked, copied, hashed } = std::mem::take(&mut self.effort);
        tracing::debug!(
            op = "effort",
            told,
            looked,
            copied,
            hashed,
            "{told} changes told, {looked} names looked at, {copied} files copied, {hashed} pairs hashed"
        );
    }

    /// The last line of a run.
    pub fn log_end(&self, signal: i32) {
        let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
        tracing::info!(
            op = "stopped",
            actions = self.total.actions,
            "by {name}, after {}, {}, {} copied",
            counted(self.total.sweeps, "sweep", "sweeps"),
            counted(self.total.actions, "action", "actions"),
            human_bytes(self.total.bytes),
        );
    }
}

impl SyncStats {
    /// What was done, and what was left.
    fn in_words(&self, problems: usize, watching: bool) -> Vec<String> {
        let numbers = [
            (self.created, "created"),
            (self.updated, "updated"),
            (self.renamed, "renamed"),
            (self.removed, "removed"),
        ];
        let mut words: Vec<String> = numbers
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, what)| format!("{number} {what}"))
            .collect();
        let is_left = self.held + self.waiting + self.kept > 0 || problems > 0;
        match (words.is_empty(), self.bytes) {
            (true, _) if !is_left => words.push("nothing to do".to_owned()),
            (_, 0) => {}
            (_, bytes) => words.push(format!("{} copied", human_bytes(bytes))),
        }
        if problems > 0 {
            words.push(counted(problems as u64, "problem", "problems"));
        }
        if self.held > 0 {
            words.push(format!("{} held", counted(self.held, "deletion", "deletions")));
        }
        if self.waiting > 0 {
            words.push(format!("{} new waiting", self.waiting));
        }
        if self.kept > 0 {
            words.push("what is not mounted kept".to_owned());
        }
        if watching && self.missed > 0 {
            words.push(format!("{} of them not told by the watch", self.missed));
        }
        words
    }
}
