//! Checks that wait, merged and in order. No file system and no clock: times are arguments.
//!
//! A report asks for a check, never for an action. Checks of the same name are merged. So
//! duplicate, late and wrong reports only cost work.

mod throttle;
mod renames;
mod ready;
mod delay;

pub use renames::{PendingRenames, Rename, RenameBatch};

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::model::check::{Check, Checks, Depth, Detector, add};
use crate::model::path::{Name, RelPath};
use delay::DelayQueue;
use ready::Ready;
use throttle::Throttle;

/// The most work that one round takes.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimit {
    pub names: usize,
    /// Bounds the number of open directories.
    pub dirs: usize,
}

/// The most names reported by the watch that may wait, in total and in one directory. Beyond that,
/// whole directories are checked instead.
const MOST: usize = 200_000;
const CROWD: usize = 20_000;

/// The check to make instead when too many names wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CoarseCheck {
    /// Check all names in a directory.
    Names(RelPath),
    /// Check everything in a directory and below.
    Below(RelPath),
}

/// All checks that wait.
#[derive(Default)]
pub struct Queue {
    watch: Ready,
    sweep: Ready,
    /// Failed checks, until their retry.
    later: DelayQueue,
    /// Names that a walk has found, until they may have stopped changing, or until the watch has
    /// had time to report them. Also hot files, until their wait is over.
    resting: DelayQueue,
    /// Files that were worked on lately, and may have to wait.
    cooling: Throttle,
    /// Renames that no round has followed yet.
    renames: PendingRenames,
    /// Checks that wait for a free worker.
    awaiting_worker: VecDeque<(RelPath, Check)>,
    /// Checks that wait for space in the replica.
    out_of_space: BTreeMap<RelPath, Check>,
}

impl Queue {
    /// Adds checks for names of one directory to those of their detector. Without names, only the
    /// directory's own metadata is checked.
    pub fn push(
        &mut self,
        detector: Detector,
        dir: RelPath,
        names: impl IntoIterator<Item = (Name, Check)>,
    ) {
        self.lane(detector).push(dir, names);
    }

    pub fn push_path(&mut self, path: &RelPath, check: Check) {
        let detector = check.detector;
        match path.split() {
            Some((dir, name)) => self.push(detector, dir, [(name, check)]),
            None => self.push(detector, RelPath::root(), []),
        }
    }

    /// Adds a check that becomes ready at `at`. A path waits only once: a newer time replaces an
    /// older one.
    pub fn push_later(&mut self, at: Instant, path: RelPath, check: Check) {
        self.later.push(at, path, check);
    }

    /// Adds a check for a path that a walk has found. It becomes ready at `at`, or when the watch
    /// reports the path. A path that rests already keeps its time: otherwise frequent walks would
    /// delay it for ever.
    pub fn push_resting(&mut self, at: Instant, path: RelPath, check: Check) {
        let at = self.resting.due.get(&path).map_or(at, |(due, _)| *due);
        self.resting.push(at, path, check);
    }

    /// Adds a check that the watch asks for, merged with one that rests at the same path. The check
    /// of a hot file waits for its turn. If too many names wait, drops some, and returns the check
    /// to make instead.
    pub fn push_watched(
        &mut self,
        path: &RelPath,
        mut check: Check,
        now: Instant,
    ) -> Option<CoarseCheck> {
        if let Some(found) = self.resting.remove(path) {
            check.merge(found);
        }
        match self.cooling.until(path, now) {
            Some(time) => self.resting.push(time, path.clone(), check),
            None => self.push_path(path, check),
        }
        if let Some((dir, _)) = path.split()
            && self.watch.count_names_in(&dir) > CROWD
        {
            self.watch.give_up(&dir);
            return Some(CoarseCheck::Names(dir));
        }
        (self.watch.names > MOST).then(|| self.watch.coarsen())
    }

    /// Notes how long work on a file took. A hot file then waits, so that it does not take more
    /// than its share.
    pub fn cool(&mut self, path: RelPath, took: Duration, now: Instant) {
        self.cooling.push(path, took, now);
    }

    /// Adds a rename. The first round that checks one of its ends, or a path below, follows it.
    pub fn push_rename(&mut self, rename: Rename) {
        self.renames.push(rename);
    }

    /// Puts back renames that could not be followed yet.
    pub fn put_back_renames(&mut self, renames: Vec<Rename>) {
        for rename in renames.into_iter().rev() {
            self.renames.put_back(rename);
        }
    }

    /// Removes and returns the first `most` renames, if they have to be followed before these
    /// checks. Adds their ends to `checks`. Checks that have to come after later renames are put
    /// back.
    pub fn take_renames(&mut self, checks: &mut Checks, most: usize) -> RenameBatch {
        let concerned = |(dir, names): (&RelPath, &BTreeMap<Name, Check>)| {
            self.renames.concern(dir)
                || names.keys().any(|name| self.renames.concern(&dir.join(name)))
        };
        if self.renames.is_empty() || !checks.iter().any(concerned) {
            return RenameBatch::default();
        }
        let renames = self.renames.take(most);
        self.put_back_concerned(checks);
        for rename in renames.renames() {
            for end in [&rename.from, &rename.to] {
                if !self.renames.concern(end) {
                    let own = Check::new(Depth::Subtree, Detector::Watch, rename.since);
                    add(checks, end, self.watch.pull(end).unwrap_or(own));
                }
            }
        }
        renames
    }

    /// Puts back the checks of paths that are concerned by renames not followed yet.
    fn put_back_concerned(&mut self, checks: &mut Checks) {
        if self.renames.is_empty() {
            return;
        }
        for (dir, names) in std::mem::take(checks) {
            let is_below = self.renames.concern(&dir);
            let (later, now): (BTreeMap<_, _>, BTreeMap<_, _>) = names
                .into_iter()
                .partition(|(name, _)| is_below || self.renames.concern(&dir.join(name)));
            let is_itself = later.is_empty() && now.is_empty();
            if is_itself && is_below {
                self.push(Detector::Watch, dir.clone(), []);
            }
            for (name, check) in later {
                self.push(check.detector, dir.clone(), [(name, check)]);
            }
            if !now.is_empty() || (is_itself && !is_below) {
                checks.insert(dir, now);
            }
        }
    }

    pub fn await_worker(&mut self, path: RelPath, check: Check) {
        self.awaiting_worker.push_back((path, check));
    }

    /// Returns whether a check in `dir` or below comes first: a walk asked for it, or it was due by
    /// `since`.
    pub fn comes_first_within(&self, dir: &RelPath, since: Option<Instant>) -> bool {
        let comes_first = |check: &Check| check.comes_before(since);
        let is_ready =
            [&self.watch, &self.sweep].iter().any(|lane| lane.has_within(dir, comes_first));
        is_ready || self.resting.any_below(dir, comes_first)
    }

    /// Returns the paths at `dir` or below whose checks wait for a worker.
    pub fn paths_awaiting_worker(&self, dir: &RelPath) -> impl Iterator<Item = &RelPath> {
        self.awaiting_worker.iter().map(|(path, _)| path).filter(|path| path.is_within(dir))
    }

    /// Makes up to `number` checks ready that wait for a worker.
    pub fn requeue_awaiting_workers(&mut self, number: usize) {
        for _ in 0..number {
            let Some((path, check)) = self.awaiting_worker.pop_front() else { break };
            self.push_path(&path, check);
        }
    }

    /// Adds a check that waits until the replica may have space again.
    pub fn push_out_of_space(&mut self, path: &RelPath, check: Check) {
        match self.out_of_space.get_mut(path) {
            Some(waiting) => waiting.merge(check),
            None => _ = self.out_of_space.insert(path.clone(), check),
        }
    }

    /// Returns whether any check waits for space in the replica.
    pub fn has_out_of_space(&self) -> bool {
        !self.out_of_space.is_empty()
    }

    /// Makes all checks ready that wait for space in the replica.
    pub fn wake_out_of_space(&mut self) {
        for (path, check) in std::mem::take(&mut self.out_of_space) {
            self.push_path(&path, check);
        }
    }

    /// Makes all checks ready that are due by `now`.
    pub fn wake(&mut self, now: Instant) {
        while let Some((path, check)) = self.later.pop(now).or_else(|| self.resting.pop(now)) {
            self.push_path(&path, check);
        }
    }

    /// Returns when the next check is due that waits for a time.
    pub fn next_due(&self) -> Option<Instant> {
        [&self.later, &self.resting].iter().filter_map(|later| later.next_due()).min()
    }

    /// Removes checks for one round. Returns an empty map if none is ready.
    pub fn take(&mut self, detector: Detector, portion: BatchLimit) -> Checks {
        self.lane(detector).take(portion)
    }

    pub fn has_ready(&self, detector: Detector) -> bool {
        match detector {
            Detector::Watch => !self.watch.order.is_empty(),
            Detector::Sweep => !self.sweep.order.is_empty(),
        }
    }

    /// Counts the sweep's names that wait: for a round, for rest, or for a worker.
    pub fn count_sweep_names(&self) -> usize {
        self.sweep.names + self.resting.of_sweep + self.awaiting_worker.len()
    }

    /// Counts all names that wait, for any reason.
    pub fn count(&self) -> usize {
        let delayed = self.later.due.len() + self.resting.due.len();
        let refused = self.out_of_space.len();
        self.watch.names + self.sweep.names + delayed + self.awaiting_worker.len() + refused
    }

    /// Returns whether a check or rename waits that was known by `time`. Checks that a walk asked
    /// for, or whose name the watch has not reported, always count. Those that have failed, or wait
    /// for space, never count.
    pub fn has_known_by(&self, time: Instant) -> bool {
        let is_such =
            |check: &Check| check.comes_before(Some(time)) || check.since <= time || !check.told;
        let lanes = [&self.watch, &self.sweep];
        lanes.iter().any(|lane| lane.has_any(is_such))
            || self.resting.any(is_such)
            || self.awaiting_worker.iter().any(|(_, check)| is_such(check))
            || self.renames.any_since_before(time)
    }

    /// Counts the names that rest, for either detector.
    pub fn count_resting(&self) -> usize {
        self.resting.due.len()
    }

    fn lane(&mut self, detector: Detector) -> &mut Ready {
        match detector {
            Detector::Watch => &mut self.watch,
            Detector::Sweep => &mut self.sweep,
        }
    }
}

#[cfg(test)]
mod tests;
