//! Counts of actions and work, for the lines that end a sync and a run.

use std::time::{Duration, Instant};

use super::settle::EndedSweep;
use crate::model::check::Detector;
use crate::model::entry::Time;
use crate::model::human::{counted, human_bytes, human_duration, with_separators};
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
    /// The same of the sweep before the current one, until that has ended: whether it left
    /// differences, and how many entries it kept.
    had_left: bool,
    kept_before: u64,
}

/// The counts since the last full or quick sweep began.
#[derive(Default)]
struct SyncStats {
    created: u64,
    updated: u64,
    removed: u64,
    renamed: u64,
    bytes: u64,
    held: u64,
    waiting: u64,
    /// Number of checks that kept an entry because its file system is no longer mounted.
    kept: u64,
    /// Number of copied files with more than one name.
    linked: u64,
    /// Number of actions that a full sweep led to. With a watch, it did not report them.
    missed: u64,
}

/// The counts since the start of the run.
#[derive(Default)]
struct Totals {
    actions: u64,
    removed: u64,
    bytes: u64,
    sweeps: u64,
    /// Bytes that the last full sweep has read, and its duration.
    read: u64,
    took: Duration,
    /// When it began, by the system clock.
    swept: Option<Time>,
    /// When it ended, and how many entries the last full or quick sweep has compared.
    swept_at: Option<Instant>,
    entries: Option<u64>,
    /// Number of actions that full sweeps led to. With a watch, it did not report them.
    missed: u64,
    /// Whether it was logged that a sweep takes longer than the interval.
    logged_long: bool,
    /// Whether it was logged that hard links are not mirrored as such.
    logged_linked: bool,
}

/// The work since `in sync` was last logged.
#[derive(Default)]
struct Effort {
    /// Number of changes that the watch has reported.
    reported: usize,
    /// Number of names that rounds have checked.
    checked: usize,
    /// Number of copied files.
    copied: usize,
    /// Number of MD5s that rounds have computed.
    hashed: u64,
}

impl Stats {
    /// Notes that a full or quick sweep begins.
    pub fn sync_begins(&mut self) {
        (self.had_left, self.kept_before) = (self.has_left(), self.sync.kept);
        self.sync = SyncStats::default();
    }

    /// Returns when the last full sweep that has ended began.
    pub fn last_swept(&self) -> Option<Time> {
        self.total.swept
    }

    /// Returns how long the last full sweep took.
    pub fn sweep_took(&self) -> Duration {
        self.total.took
    }

    /// Returns whether the last full sweep read more than half of the memory can hold.
    pub fn has_read_much(&self) -> bool {
        is_much_to_read(self.total.read)
    }

    /// Returns the number of entries deleted since the start of the run.
    pub fn removed(&self) -> u64 {
        self.total.removed
    }

    /// Returns when the last full sweep ended.
    pub fn swept_at(&self) -> Option<Instant> {
        self.total.swept_at
    }

    /// Returns the number of entries in the last full or quick sweep.
    pub fn entries_before(&self) -> Option<u64> {
        self.total.entries
    }

    /// Returns the bytes that the last full sweep has read.
    pub fn bytes_before(&self) -> Option<u64> {
        self.total.swept_at.map(|_| self.total.read)
    }

    /// Returns the number of actions since the start of the run that full sweeps led to. With a
    /// watch, it did not report them.
    pub fn missed(&self) -> u64 {
        self.total.missed
    }

    /// Returns the number of actions since the start of the run.
    pub fn actions(&self) -> u64 {
        self.total.actions
    }

    /// Returns the number of bytes copied since the start of the run.
    pub fn copied_bytes(&self) -> u64 {
        self.total.bytes
    }

    /// Returns how often an entry was kept because its file system is no longer mounted.
    pub fn kept(&self) -> u64 {
        self.sync.kept.max(self.kept_before)
    }

    /// Returns whether a difference is left, as far as is known: the current sweep may not have
    /// reached one that the last one has left.
    pub fn may_have_left(&self) -> bool {
        self.has_left() || self.had_left
    }

    /// Returns whether a difference was left since the last sweep began.
    pub fn has_left(&self) -> bool {
        self.sync.held + self.sync.waiting + self.sync.kept > 0
    }

    /// Counts a change that the watch has reported.
    pub fn reported(&mut self) {
        self.effort.reported += 1;
    }

    /// Counts the names of a round.
    pub fn checked(&mut self, names: usize) {
        self.effort.checked += names;
    }

    /// Counts the outcome of a round. `in_full_sweep`: it came during a full sweep.
    pub fn add(&mut self, outcome: &Outcome, in_full_sweep: bool) {
        let Outcome { done, held, waiting, kept, linked, hashed, .. } = outcome;
        let Self { sync, total, effort, .. } = self;
        sync.held += held;
        sync.waiting += waiting;
        sync.kept += kept;
        sync.linked += linked;
        effort.hashed += 2 * hashed;
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
            let is_missed = u64::from(in_full_sweep && done.detector == Detector::Sweep);
            sync.missed += is_missed;
            total.missed += is_missed;
        }
    }

    /// Notes that a full or quick sweep has ended.
    pub fn walk_ends(&mut self, ended: &EndedSweep, now: Instant) {
        self.total.entries = Some(ended.summary.entries);
        if ended.task == Task::Full {
            self.total.sweeps += 1;
            self.total.swept_at = Some(now);
            (self.total.read, self.total.took) = (ended.summary.bytes, ended.summary.took);
        }
    }

    /// Logs the end of a sync.
    ///
    /// `worked`: its duration, without the wait for retries.
    pub fn log_swept(
        &mut self,
        ended: &EndedSweep,
        worked: Duration,
        problems: usize,
        watching: bool,
    ) {
        let EndedSweep { task, summary, .. } = ended;
        (self.had_left, self.kept_before) = (false, 0);
        let Self { sync, total, .. } = self;
        if *task == Task::Full {
            total.swept = Some(summary.begun);
        }
        let linked = sync.linked + summary.linked;
        if linked > 0 && !std::mem::replace(&mut total.logged_linked, true) {
            tracing::info!(
                op = "links",
                linked,
                "{linked} of the source's files have more than one name (hard links): each name is mirrored \
                 as a file of its own"
            );
        }
        let md5s = 2 * summary.hashed;
        let task = if *task == Task::Full { "full" } else { "quick" };
        let took = worked.as_secs_f64();
        tracing::info!(
            op = "sweep",
            task,
            entries = summary.entries,
            hashed = md5s,
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
            "{task}, {}, {} in {took:.2} s: {}",
            counted(summary.entries, "entry", "entries"),
            counted(md5s, "MD5", "MD5s"),
            sync.in_words(problems, watching).join(", "),
        );
    }

    /// Logs once that a sweep takes longer than the interval.
    pub fn log_if_long(&mut self, took: Duration, interval: Duration, has_rate: bool) {
        if took > interval && !std::mem::replace(&mut self.total.logged_long, true) {
            let [took, interval] = [took, interval].map(human_duration);
            let advice = if has_rate { ", or a higher --sweep-rate" } else { "" };
            tracing::warn!(
                op = "warning",
                "a full sweep has taken {took}, longer than the interval of {interval}: the trees are read most of \
                 the time (give a longer interval{advice})"
            );
        }
    }

    /// Logs the work since the last call.
    pub fn log_effort(&mut self) {
        let Effort { reported, checked, copied, hashed } = std::mem::take(&mut self.effort);
        tracing::debug!(
            op = "effort",
            reported = reported,
            checked = checked,
            copied,
            hashed,
            "{reported} changes reported, {checked} names checked, {copied} files copied, {hashed} MD5s"
        );
    }

    /// Logs the last line of a run.
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
    /// Returns in words what was done, and what was left.
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
            .map(|(number, what)| format!("{} {what}", with_separators(*number)))
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
            words.push("entries of unmounted file systems kept".to_owned());
        }
        if watching && self.missed > 0 {
            words.push(format!("{} of them not reported by the watch", self.missed));
        }
        words
    }
}
