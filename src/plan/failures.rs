//! Failed paths, and when they are retried. Pure: times are arguments.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::model::path::{RelPath, within};

/// The wait before the first retry, doubled each time, and the longest one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(5 * 60);

/// The same for a soft failure ([`Failure::is_soft`]), which may resolve itself at any moment.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// The time after which a soft failure is a problem.
const RESTLESS: Duration = Duration::from_secs(10);

/// The failure of one path.
#[derive(Debug)]
struct FailureRecord {
    begun: Instant,
    /// When the check that failed was first due.
    due: Instant,
    tries: u32,
    /// Whether it was reported to the user.
    told: bool,
    /// The description for the user.
    what: String,
    /// The kind of the last failure.
    failure: Failure,
    /// The number of the last walk that had begun when it failed.
    met_in: u64,
}

impl FailureRecord {
    /// Returns whether it is a problem: reported, or no soft failure.
    fn is_problem(&self) -> bool {
        self.told || !self.failure.is_soft()
    }
}

/// The kind of a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// A system call on the entry failed in a round.
    Entry,
    /// The entry changed during the check.
    Changing,
    /// A walk could not open or list the directory.
    Unreadable,
    /// The directory cannot be widened yet.
    PendingWiden,
    /// The replica is out of space. That is reported once for all entries.
    OutOfSpace,
    /// The directory in the replica is append-only. That is reported once for it and all entries in
    /// it.
    AppendOnly,
    /// The append-only directory itself: its metadata cannot be changed.
    AppendOnlyDir,
}

impl Failure {
    /// Returns whether the failure may resolve itself before the user has to know.
    fn is_soft(self) -> bool {
        matches!(self, Failure::Changing | Failure::PendingWiden)
    }

    /// Returns the append-only directory that is the cause.
    fn stuck_dir(self, path: &RelPath) -> Option<RelPath> {
        match self {
            Failure::AppendOnly => path.split().map(|(dir, _)| dir),
            Failure::AppendOnlyDir => Some(path.clone()),
            _ => None,
        }
    }
}

/// The wait before the retry, and whether to report the failure now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryDecision {
    pub after: Duration,
    pub tell: bool,
}

/// All paths with a failure.
#[derive(Default, Debug)]
pub struct Failures {
    paths: BTreeMap<RelPath, FailureRecord>,
    /// Number of paths that wait for space in the replica.
    out_of_space: usize,
    /// For each append-only directory the one path that was reported: its own, or that of an entry
    /// in it.
    stuck: HashMap<RelPath, RelPath>,
    /// Number of the last walk.
    sweep: u64,
}

impl Failures {
    /// Notes a failure. Returns when to retry, and whether to report it now.
    pub fn met(&mut self, path: &RelPath, failure: Failure, now: Instant) -> RetryDecision {
        if let Some(before) =
            self.paths.get(path).map(|trouble| trouble.failure).filter(|at| *at != failure)
        {
            self.leave_stuck(path, before);
        }
        let trouble = self.paths.entry(path.clone()).or_insert_with(|| FailureRecord {
            begun: now,
            due: now,
            tries: 0,
            told: false,
            what: String::new(),
            failure: Failure::Changing,
            met_in: 0,
        });
        let is_first_refused = self.out_of_space == 0;
        self.out_of_space -= usize::from(trouble.failure == Failure::OutOfSpace);
        self.out_of_space += usize::from(failure == Failure::OutOfSpace);
        trouble.failure = failure;
        trouble.met_in = self.sweep;
        let after = wait(failure, trouble.tries);
        trouble.tries += 1;
        if failure == Failure::OutOfSpace {
            return RetryDecision { after, tell: is_first_refused };
        }
        if let Some(dir) = failure.stuck_dir(path)
            && self.stuck.entry(dir).or_insert_with(|| path.clone()) != path
        {
            return RetryDecision { after, tell: false };
        }
        let serious = !failure.is_soft() || now.duration_since(trouble.begun) >= RESTLESS;
        let tell = serious && !trouble.told;
        trouble.told |= serious;
        RetryDecision { after, tell }
    }

    /// Notes that a round has checked a path without a failure. Returns whether a failure had been
    /// reported. A failure of a walk ([`Failure::Unreadable`]) stays.
    pub fn settled(&mut self, path: &RelPath) -> bool {
        match self.paths.get(path) {
            Some(trouble) if trouble.failure != Failure::Unreadable => self.forget(path),
            _ => false,
        }
    }

    /// Returns how long a failed path has to wait for its retry, counted from now. `None` if it has
    /// not failed.
    pub fn wait(&self, path: &RelPath) -> Option<Duration> {
        self.paths.get(path).map(|trouble| wait(trouble.failure, trouble.tries))
    }

    /// Forgets a deleted directory, with all failures in it. Returns the paths whose failure was
    /// reported.
    pub fn gone(&mut self, dir: &RelPath) -> Vec<RelPath> {
        let gone: Vec<_> = within(&self.paths, dir).map(|(path, _)| path.clone()).collect();
        gone.into_iter().filter(|path| self.forget(path)).collect()
    }

    /// Notes that a walk begins, of everything or of a part. Returns its number.
    pub fn begin_walk(&mut self) -> u64 {
        self.sweep += 1;
        self.sweep
    }

    /// Notes that the walk `sweep` of everything below `scope` has ended. Forgets the directories
    /// that it could read again. Returns those whose failure was reported.
    pub fn end_walk(&mut self, scope: &RelPath, sweep: u64) -> Vec<RelPath> {
        let over = |trouble: &FailureRecord| {
            trouble.failure == Failure::Unreadable && trouble.met_in < sweep
        };
        let over: Vec<_> = within(&self.paths, scope)
            .filter(|(_, trouble)| over(trouble))
            .map(|(path, _)| path.clone())
            .collect();
        over.into_iter().filter(|path| self.forget(path)).collect()
    }

    /// Notes since when the failed check was due. It may have failed much later.
    pub fn was_due(&mut self, path: &RelPath, since: Instant) {
        if let Some(trouble) = self.paths.get_mut(path) {
            trouble.due = trouble.due.min(since);
        }
    }

    /// Stores the description of a failure.
    pub fn describe(&mut self, path: &RelPath, what: String) {
        if let Some(trouble) = self.paths.get_mut(path) {
            trouble.what = what;
        }
    }

    /// Returns all problems, with their descriptions.
    pub fn told(&self) -> impl Iterator<Item = (&RelPath, &str)> {
        let such = self.paths.iter().filter(|(_, trouble)| trouble.is_problem());
        such.map(|(path, trouble)| (path, trouble.what.as_str()))
    }

    /// Returns the problems that began before `time`, with their descriptions.
    pub fn begun_before(&self, time: Instant) -> impl Iterator<Item = (&RelPath, &str)> {
        let such = self.paths.iter();
        let such = such.filter(move |(_, trouble)| trouble.is_problem() && trouble.begun < time);
        such.map(|(path, trouble)| (path, trouble.what.as_str()))
    }

    /// Returns whether a soft failure that is no problem yet was due by `time`.
    pub fn has_changing_due_by(&self, time: Instant) -> bool {
        self.paths.values().any(|trouble| !trouble.is_problem() && trouble.due <= time)
    }

    /// Returns the failed paths at `dir` or below, where an older state may still be visible. These
    /// do not count, since they could keep a directory closed for ever:
    ///
    /// - a directory that cannot be widened yet;
    /// - an entry that changed during its check, if that was due only after `since` or was
    ///   reported.
    pub fn failed_within(
        &self,
        dir: &RelPath,
        since: Option<Instant>,
    ) -> impl Iterator<Item = &RelPath> {
        let failed = within(&self.paths, dir).filter(move |(_, trouble)| match trouble.failure {
            Failure::PendingWiden => false,
            Failure::Changing => !trouble.told && since.is_some_and(|since| trouble.due <= since),
            _ => true,
        });
        failed.map(|(path, _)| path)
    }

    /// Returns whether this path has failed.
    pub fn is_met(&self, path: &RelPath) -> bool {
        self.paths.contains_key(path)
    }

    /// Returns whether the failure of this path was reported.
    pub fn is_told(&self, path: &RelPath) -> bool {
        self.paths.get(path).is_some_and(|trouble| trouble.told)
    }

    fn forget(&mut self, path: &RelPath) -> bool {
        let Some(trouble) = self.paths.remove(path) else { return false };
        self.out_of_space -= usize::from(trouble.failure == Failure::OutOfSpace);
        self.leave_stuck(path, trouble.failure);
        trouble.told
    }

    /// Notes that another path may be reported for an append-only directory from now on.
    fn leave_stuck(&mut self, path: &RelPath, failure: Failure) {
        if let Some(dir) = failure.stuck_dir(path)
            && self.stuck.get(&dir) == Some(path)
        {
            self.stuck.remove(&dir);
        }
    }

    /// Returns whether any path waits for space in the replica.
    pub fn has_out_of_space(&self) -> bool {
        self.out_of_space > 0
    }

    /// Returns whether there is a soft failure that was not reported.
    pub fn has_changing(&self) -> bool {
        self.paths.values().any(|trouble| !trouble.told && trouble.failure.is_soft())
    }

    /// Counts the problems.
    pub fn problems(&self) -> usize {
        self.paths.values().filter(|trouble| trouble.is_problem()).count()
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

fn wait(failure: Failure, tries: u32) -> Duration {
    let (first, last) =
        if failure.is_soft() { (FIRST_PAUSE, LAST_PAUSE) } else { (FIRST_RETRY, LAST_RETRY) };
    first.saturating_mul(1 << tries.min(16)).min(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::testing::path;

    #[test]
    fn a_file_that_did_not_rest_counts_from_when_its_check_was_due() {
        let (mut failures, begun) = (Failures::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        let fails = |failures: &Failures| failures.failed_within(&path("d"), Some(at(3))).count();
        failures.met(&path("d/big"), Failure::Changing, at(5));
        assert_eq!(fails(&failures), 0, "it changed after that time");
        failures.was_due(&path("d/big"), at(2));
        failures.was_due(&path("d/big"), at(4));
        failures.met(&path("d/big"), Failure::Changing, at(6));
        assert_eq!(fails(&failures), 1);
    }

    #[test]
    fn a_problem_is_told_once_and_tried_at_growing_distances() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let tries: Vec<_> =
            (0..12).map(|_| failures.met(&path("a"), Failure::Entry, now)).collect();
        let waits: Vec<_> = tries.iter().map(|retry| retry.after.as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(tries.iter().filter(|retry| retry.tell).count(), 1);
        assert!(tries[0].tell);
        assert!(failures.settled(&path("a")));
        assert!(!failures.settled(&path("a")));
    }

    #[test]
    fn an_entry_that_changes_is_a_problem_only_after_ten_seconds() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(
            failures.met(&path("a"), Failure::Changing, now),
            RetryDecision { after: FIRST_PAUSE, tell: false }
        );
        assert!(failures.has_changing());
        assert!(!failures.met(&path("a"), Failure::Changing, at(9)).tell);
        assert_eq!(failures.problems(), 0);
        assert!(failures.met(&path("a"), Failure::Changing, at(10)).tell);
        assert!(!failures.met(&path("a"), Failure::Changing, at(11)).tell);
        assert!(!failures.has_changing() && !failures.is_empty());
        assert_eq!(failures.problems(), 1);
    }

    #[test]
    fn a_full_disk_is_told_once_for_all_entries() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let mut met = |name, failure| failures.met(&path(name), failure, now).tell;
        assert!(met("a", Failure::OutOfSpace));
        assert!(!met("b", Failure::OutOfSpace) && !met("a", Failure::OutOfSpace));
        assert!(met("b", Failure::Entry), "another error of one of them is a word of its own");
        assert!(failures.has_out_of_space());
        assert!(!failures.settled(&path("a")), "nobody was told of this one");
        assert!(!failures.has_out_of_space());
        assert!(
            failures.met(&path("c"), Failure::OutOfSpace, now).tell,
            "and once more the next time"
        );
    }

    #[test]
    fn of_a_stuck_directory_one_entry_is_told_as_long_as_any_is_stuck() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let mut met = |name| failures.met(&path(name), Failure::AppendOnly, now).tell;
        assert!(met("d/a"));
        assert!(!met("d/b") && !met("d/a") && !met("d/b"));
        assert!(
            !failures.met(&path("d"), Failure::AppendOnlyDir, now).tell,
            "nor the directory itself"
        );
        assert!(!failures.has_changing(), "nothing that comes to rest is waited for");
        assert_eq!(failures.problems(), 3);
        assert!(!failures.settled(&path("d")));
        let mut met = |name| failures.met(&path(name), Failure::AppendOnly, now).tell;
        assert!(met("e/a"), "another directory");
        assert!(failures.settled(&path("d/a")));
        assert!(
            failures.met(&path("d/b"), Failure::AppendOnly, now).tell,
            "it stands for the rest now"
        );
        assert!(
            failures.settled(&path("d/b")) && failures.settled(&path("e/a")) && failures.is_empty()
        );
        assert!(failures.stuck.is_empty());
    }

    #[test]
    fn only_a_scan_heals_what_a_scan_could_not_read() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let first = failures.begin_walk();
        failures.met(&path("locked"), Failure::Unreadable, now);
        assert!(!failures.settled(&path("locked")));
        assert_eq!(failures.end_walk(&RelPath::root(), first), []);
        assert_eq!(failures.end_walk(&path("other"), first), []);
        let second = failures.begin_walk();
        // A walk that began before the failure, and ends only now, cannot resolve it.
        assert_eq!(failures.end_walk(&RelPath::root(), first), []);
        assert_eq!(failures.end_walk(&path("other"), second), []);
        assert_eq!(failures.end_walk(&path("locked"), second), [path("locked")]);
        assert!(failures.is_empty());
    }
}
