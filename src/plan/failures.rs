//! What could not be done, and when it is tried again. Pure: times come in.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::model::path::{RelPath, within};

/// The wait before the second try, doubled each time up to the limit.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(5 * 60);

/// The same for an entry that changes while it is worked on: it may rest at any moment.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// For so long an entry may change before that is a Problem.
const RESTLESS: Duration = Duration::from_secs(10);

/// What is known of one path.
#[derive(Debug)]
struct Trouble {
    begun: Instant,
    /// When the check that failed was first due.
    due: Instant,
    tries: u32,
    /// Whether the user was told.
    told: bool,
    /// What is wrong, in words.
    what: String,
    /// How it failed last.
    failure: Failure,
    /// The last sweep in which it was met.
    met_in: u64,
}

impl Trouble {
    /// Whether it is none that may be over before anybody needs to know.
    fn is_problem(&self) -> bool {
        self.told || !self.failure.is_soft()
    }
}

/// How a look failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// A round's system call on the entry.
    Entry,
    /// The entry changed meanwhile.
    Restless,
    /// A directory could not be opened or listed by a sweep.
    Scan,
    /// A directory has to stay closed to others, for the sake of what it holds.
    PendingWiden,
    /// The replica's file system takes no more: one word for all entries is enough.
    Refused,
    /// The replica's directory lets nothing be renamed or removed: one word for it and all entries
    /// in it is enough.
    Stuck,
    /// It is that directory itself.
    StuckDir,
}

impl Failure {
    /// It may be over before anybody needs to know.
    fn is_soft(self) -> bool {
        matches!(self, Failure::Restless | Failure::PendingWiden)
    }

    /// The stuck directory that is the reason.
    fn stuck_dir(self, path: &RelPath) -> Option<RelPath> {
        match self {
            Failure::Stuck => path.split().map(|(dir, _)| dir),
            Failure::StuckDir => Some(path.clone()),
            _ => None,
        }
    }
}

/// When to try again, and whether the user is to be told now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryDecision {
    pub after: Duration,
    pub tell: bool,
}

/// All paths that have a Problem, or may come to have one.
#[derive(Default, Debug)]
pub struct Failures {
    paths: BTreeMap<RelPath, Trouble>,
    /// How many of them the replica's file system does not take.
    out_of_space: usize,
    /// Of each stuck directory the one path of which the user was told: its own, or that of an
    /// entry.
    stuck: HashMap<RelPath, RelPath>,
    /// Counts sweeps.
    sweep: u64,
}

impl Failures {
    /// Notes a failure.
    pub fn met(&mut self, path: &RelPath, failure: Failure, now: Instant) -> RetryDecision {
        if let Some(before) =
            self.paths.get(path).map(|trouble| trouble.failure).filter(|at| *at != failure)
        {
            self.leave_stuck(path, before);
        }
        let trouble = self.paths.entry(path.clone()).or_insert_with(|| Trouble {
            begun: now,
            due: now,
            tries: 0,
            told: false,
            what: String::new(),
            failure: Failure::Restless,
            met_in: 0,
        });
        let is_first_refused = self.out_of_space == 0;
        self.out_of_space -= usize::from(trouble.failure == Failure::Refused);
        self.out_of_space += usize::from(failure == Failure::Refused);
        trouble.failure = failure;
        trouble.met_in = self.sweep;
        let after = wait(failure, trouble.tries);
        trouble.tries += 1;
        if failure == Failure::Refused {
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

    /// Notes that a round looked at a path without a failure. Whether the user was told of one.
    pub fn settled(&mut self, path: &RelPath) -> bool {
        match self.paths.get(path) {
            Some(trouble) if trouble.failure != Failure::Scan => self.forget(path),
            _ => false,
        }
    }

    /// How long what is known to fail would have to wait now, without a further failure.
    pub fn wait(&self, path: &RelPath) -> Option<Duration> {
        self.paths.get(path).map(|trouble| wait(trouble.failure, trouble.tries))
    }

    /// A directory has gone, with all that was wrong in it. The paths of which the user was told.
    pub fn gone(&mut self, dir: &RelPath) -> Vec<RelPath> {
        let gone: Vec<_> = within(&self.paths, dir).map(|(path, _)| path.clone()).collect();
        gone.into_iter().filter(|path| self.forget(path)).collect()
    }

    /// A sweep, of all or of a part, begins: its number.
    pub fn scan_begins(&mut self) -> u64 {
        self.sweep += 1;
        self.sweep
    }

    /// The scan of this number, of all below `scope`, has ended: directories of which nobody has
    /// complained since it began are well again. Those of which the user was told.
    pub fn scanned(&mut self, scope: &RelPath, sweep: u64) -> Vec<RelPath> {
        let over = |trouble: &Trouble| trouble.failure == Failure::Scan && trouble.met_in < sweep;
        let over: Vec<_> = within(&self.paths, scope)
            .filter(|(_, trouble)| over(trouble))
            .map(|(path, _)| path.clone())
            .collect();
        over.into_iter().filter(|path| self.forget(path)).collect()
    }

    /// Notes since when the check was due that has failed at a path. It may fail much later.
    pub fn was_due(&mut self, path: &RelPath, since: Instant) {
        if let Some(trouble) = self.paths.get_mut(path) {
            trouble.due = trouble.due.min(since);
        }
    }

    /// Notes what is wrong at a path, in words.
    pub fn describe(&mut self, path: &RelPath, what: String) {
        if let Some(trouble) = self.paths.get_mut(path) {
            trouble.what = what;
        }
    }

    /// All problems, without those that may be over before anybody needs to know.
    pub fn told(&self) -> impl Iterator<Item = (&RelPath, &str)> {
        let such = self.paths.iter().filter(|(_, trouble)| trouble.is_problem());
        such.map(|(path, trouble)| (path, trouble.what.as_str()))
    }

    /// Those of them that were problems before a time.
    pub fn begun_before(&self, time: Instant) -> impl Iterator<Item = (&RelPath, &str)> {
        let such = self.paths.iter();
        let such = such.filter(move |(_, trouble)| trouble.is_problem() && trouble.begun < time);
        such.map(|(path, trouble)| (path, trouble.what.as_str()))
    }

    /// Whether something that was due by a time is to be tried again soon.
    pub fn has_restless_due_by(&self, time: Instant) -> bool {
        self.paths.values().any(|trouble| !trouble.is_problem() && trouble.due <= time)
    }

    /// Where something has failed at a directory or below, so that an older state may still be
    /// there: not where a directory is closed, nor where a file's check was due after `since` only,
    /// or never rests, which would keep others out for ever.
    pub fn failed_within(
        &self,
        dir: &RelPath,
        since: Option<Instant>,
    ) -> impl Iterator<Item = &RelPath> {
        let failed = within(&self.paths, dir).filter(move |(_, trouble)| match trouble.failure {
            Failure::PendingWiden => false,
            Failure::Restless => !trouble.told && since.is_some_and(|since| trouble.due <= since),
            _ => true,
        });
        failed.map(|(path, _)| path)
    }

    /// Whether something failed at this path.
    pub fn is_met(&self, path: &RelPath) -> bool {
        self.paths.contains_key(path)
    }

    /// Whether the user was told of it.
    pub fn is_told(&self, path: &RelPath) -> bool {
        self.paths.get(path).is_some_and(|trouble| trouble.told)
    }

    fn forget(&mut self, path: &RelPath) -> bool {
        let Some(trouble) = self.paths.remove(path) else { return false };
        self.out_of_space -= usize::from(trouble.failure == Failure::Refused);
        self.leave_stuck(path, trouble.failure);
        trouble.told
    }

    /// Another path may stand for a stuck directory from now on.
    fn leave_stuck(&mut self, path: &RelPath, failure: Failure) {
        if let Some(dir) = failure.stuck_dir(path)
            && self.stuck.get(&dir) == Some(path)
        {
            self.stuck.remove(&dir);
        }
    }

    /// Whether something waits for the replica's file system to take more.
    pub fn has_out_of_space(&self) -> bool {
        self.out_of_space > 0
    }

    /// Whether something is to be tried again soon that the user was not told of.
    pub fn has_restless(&self) -> bool {
        self.paths.values().any(|trouble| !trouble.told && trouble.failure.is_soft())
    }

    /// Number of the paths that have a problem, without those that may be over before anybody needs
    /// to know.
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
        failures.met(&path("d/big"), Failure::Restless, at(5));
        assert_eq!(fails(&failures), 0, "it changed after that time");
        failures.was_due(&path("d/big"), at(2));
        failures.was_due(&path("d/big"), at(4));
        failures.met(&path("d/big"), Failure::Restless, at(6));
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
            failures.met(&path("a"), Failure::Restless, now),
            RetryDecision { after: FIRST_PAUSE, tell: false }
        );
        assert!(failures.has_restless());
        assert!(!failures.met(&path("a"), Failure::Restless, at(9)).tell);
        assert_eq!(failures.problems(), 0);
        assert!(failures.met(&path("a"), Failure::Restless, at(10)).tell);
        assert!(!failures.met(&path("a"), Failure::Restless, at(11)).tell);
        assert!(!failures.has_restless() && !failures.is_empty());
        assert_eq!(failures.problems(), 1);
    }

    #[test]
    fn a_full_disk_is_told_once_for_all_entries() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let mut met = |name, failure| failures.met(&path(name), failure, now).tell;
        assert!(met("a", Failure::Refused));
        assert!(!met("b", Failure::Refused) && !met("a", Failure::Refused));
        assert!(met("b", Failure::Entry), "another error of one of them is a word of its own");
        assert!(failures.has_out_of_space());
        assert!(!failures.settled(&path("a")), "nobody was told of this one");
        assert!(!failures.has_out_of_space());
        assert!(
            failures.met(&path("c"), Failure::Refused, now).tell,
            "and once more the next time"
        );
    }

    #[test]
    fn of_a_stuck_directory_one_entry_is_told_as_long_as_any_is_stuck() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let mut met = |name| failures.met(&path(name), Failure::Stuck, now).tell;
        assert!(met("d/a"));
        assert!(!met("d/b") && !met("d/a") && !met("d/b"));
        assert!(!failures.met(&path("d"), Failure::StuckDir, now).tell, "nor the directory itself");
        assert!(!failures.has_restless(), "nothing that comes to rest is waited for");
        assert_eq!(failures.problems(), 3);
        assert!(!failures.settled(&path("d")));
        let mut met = |name| failures.met(&path(name), Failure::Stuck, now).tell;
        assert!(met("e/a"), "another directory");
        assert!(failures.settled(&path("d/a")));
        assert!(failures.met(&path("d/b"), Failure::Stuck, now).tell, "it stands for the rest now");
        assert!(
            failures.settled(&path("d/b")) && failures.settled(&path("e/a")) && failures.is_empty()
        );
        assert!(failures.stuck.is_empty());
    }

    #[test]
    fn only_a_scan_heals_what_a_scan_could_not_read() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let first = failures.scan_begins();
        failures.met(&path("locked"), Failure::Scan, now);
        assert!(!failures.settled(&path("locked")));
        assert_eq!(failures.scanned(&RelPath::root(), first), []);
        assert_eq!(failures.scanned(&path("other"), first), []);
        let second = failures.scan_begins();
        // One that began before it was met, and ends only now, knows nothing of that.
        assert_eq!(failures.scanned(&RelPath::root(), first), []);
        assert_eq!(failures.scanned(&path("other"), second), []);
        assert_eq!(failures.scanned(&path("locked"), second), [path("locked")]);
        assert!(failures.is_empty());
    }
}
