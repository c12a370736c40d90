//! Where to look, merged and in order. No file system and no clock: times come in.
//!
//! A change says where to look, never what to do; merging is union, so that duplicates, wrong
//! orders and wrong reports cost only work.

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

/// How much one round takes.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimit {
    pub names: usize,
    /// Bounds the number of open directories.
    pub dirs: usize,
}

/// So many names the watch may have waiting, and so many of one directory. Beyond, directories are
/// scanned instead.
const MOST: usize = 200_000;
const CROWD: usize = 20_000;

/// What is to be done instead of looking at names of which too many wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Instead {
    /// To look at all names in a directory.
    Names(RelPath),
    /// To look at all in it and below.
    Below(RelPath),
}

/// All work that waits.
#[derive(Default)]
pub struct Queue {
    watch: Ready,
    sweep: Ready,
    /// What has failed, until it is tried again.
    later: DelayQueue,
    /// What a scan has found, until its source may have come to rest, or until the watch would
    /// have told of it: then it is the watch's. And hot files, until it is their turn.
    resting: DelayQueue,
    /// What was worked on just now and has to wait.
    cooling: Throttle,
    /// Renames that no round has followed yet.
    hints: PendingRenames,
    /// Looks that wait for a worker to be free.
    awaiting_worker: VecDeque<(RelPath, Check)>,
    /// What the replica's file system does not take, until it may.
    out_of_space: BTreeMap<RelPath, Check>,
}

impl Queue {
    /// Adds names of one directory to the lane of their detector. No names: the directory's own
    /// metadata.
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

    /// Lets a path be looked at again at a time. It waits once: a newer time takes the place of
    /// an older one.
    pub fn push_later(&mut self, at: Instant, path: RelPath, check: Check) {
        self.later.push(at, path, check);
    }

    /// Lets a path that a scan has found rest until a time, or until the watch tells of it. One
    /// that rests already and is found again rests no longer for that: walks may come faster than
    /// it.
    pub fn push_resting(&mut self, at: Instant, path: RelPath, check: Check) {
        let at = self.resting.due.get(&path).map_or(at, |(due, _)| *due);
        self.resting.push(at, path, check);
    }

    /// Adds what the watch has told; it takes the place of what a scan has found there. Where too
    /// much waits, something else is to be done instead.
    pub fn push_watched(
        &mut self,
        path: &RelPath,
        mut check: Check,
        now: Instant,
    ) -> Option<Instead> {
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
            return Some(Instead::Names(dir));
        }
        (self.watch.names > MOST).then(|| self.watch.coarsen())
    }

    /// Notes how long it took to work on a file: one that is worked on again and again waits in
    /// between, so that none takes more than its share.
    pub fn cool(&mut self, path: RelPath, took: Duration, now: Instant) {
        self.cooling.push(path, took, now);
    }

    /// Adds a rename. It is followed by the round that first looks at one of its ends, or below.
    pub fn push_rename(&mut self, hint: Rename) {
        self.hints.push(hint);
    }

    /// Puts back renames that could not be followed yet.
    pub fn put_back_renames(&mut self, hints: Vec<Rename>) {
        for hint in hints.into_iter().rev() {
            self.hints.put_back(hint);
        }
    }

    /// The renames that have to be followed before these looks, so many at most. Their ends are
    /// added to the looks; what has to come after further ones is put back.
    pub fn take_renames(&mut self, checks: &mut Checks, most: usize) -> RenameBatch {
        let concerned = |(dir, names): (&RelPath, &BTreeMap<Name, Check>)| {
            self.hints.concern(dir) || names.keys().any(|name| self.hints.concern(&dir.join(name)))
        };
        if self.hints.is_empty() || !checks.iter().any(concerned) {
            return RenameBatch::default();
        }
        let renames = self.hints.take(most);
        self.put_back_concerned(checks);
        for hint in renames.hints() {
            for end in [&hint.from, &hint.to] {
                if !self.hints.concern(end) {
                    let own = Check::new(Depth::Subtree, Detector::Watch, hint.since);
                    add(checks, end, self.watch.pull(end).unwrap_or(own));
                }
            }
        }
        renames
    }

    /// Puts back the looks that would see the traces of renames which are not followed yet.
    fn put_back_concerned(&mut self, checks: &mut Checks) {
        if self.hints.is_empty() {
            return;
        }
        for (dir, names) in std::mem::take(checks) {
            let is_below = self.hints.concern(&dir);
            let (later, now): (BTreeMap<_, _>, BTreeMap<_, _>) = names
                .into_iter()
                .partition(|(name, _)| is_below || self.hints.concern(&dir.join(name)));
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

    /// Whether something in a directory or below is to be looked at first: a walk has found it, or
    /// it was due by a time.
    pub fn comes_first_within(&self, dir: &RelPath, since: Option<Instant>) -> bool {
        let comes_first = |check: &Check| check.comes_before(since);
        let is_ready =
            [&self.watch, &self.sweep].iter().any(|lane| lane.has_within(dir, comes_first));
        is_ready || self.resting.any_below(dir, comes_first)
    }

    /// What waits for a worker at a directory or below.
    pub fn paths_awaiting_worker(&self, dir: &RelPath) -> impl Iterator<Item = &RelPath> {
        self.awaiting_worker.iter().map(|(path, _)| path).filter(|path| path.is_within(dir))
    }

    /// Lets so many of the looks that wait for a worker be tried again.
    pub fn requeue_awaiting_workers(&mut self, number: usize) {
        for _ in 0..number {
            let Some((path, check)) = self.awaiting_worker.pop_front() else { break };
            self.push_path(&path, check);
        }
    }

    /// Lets a path wait until the replica's file system may take more.
    pub fn push_out_of_space(&mut self, path: &RelPath, check: Check) {
        match self.out_of_space.get_mut(path) {
            Some(waiting) => waiting.merge(check),
            None => _ = self.out_of_space.insert(path.clone(), check),
        }
    }

    /// Whether something waits for the replica's file system to take more.
    pub fn has_out_of_space(&self) -> bool {
        !self.out_of_space.is_empty()
    }

    /// Lets all that the replica's file system did not take be tried again.
    pub fn wake_out_of_space(&mut self) {
        for (path, check) in std::mem::take(&mut self.out_of_space) {
            self.push_path(&path, check);
        }
    }

    /// Moves what is due by `now` to its lane.
    pub fn wake(&mut self, now: Instant) {
        while let Some((path, check)) = self.later.pop(now).or_else(|| self.resting.pop(now)) {
            self.push_path(&path, check);
        }
    }

    /// When the next look that waits for a time is due.
    pub fn next_due(&self) -> Option<Instant> {
        [&self.later, &self.resting].iter().filter_map(|later| later.next_due()).min()
    }

    /// Takes work for one round; an empty map where none is ready.
    pub fn take(&mut self, detector: Detector, portion: BatchLimit) -> Checks {
        self.lane(detector).take(portion)
    }

    pub fn has_ready(&self, detector: Detector) -> bool {
        match detector {
            Detector::Watch => !self.watch.order.is_empty(),
            Detector::Sweep => !self.sweep.order.is_empty(),
        }
    }

    /// Number of the sweep's names that wait, for a round, for rest or for a worker.
    pub fn count_sweep_names(&self) -> usize {
        self.sweep.names + self.resting.of_sweep + self.awaiting_worker.len()
    }

    /// Number of all names that wait, for whatever.
    pub fn count(&self) -> usize {
        let delayed = self.later.due.len() + self.resting.due.len();
        let refused = self.out_of_space.len();
        self.watch.names + self.sweep.names + delayed + self.awaiting_worker.len() + refused
    }

    /// Whether anything waits, but for what has failed, of which was known by a time: by the watch,
    /// or by whoever found it.
    pub fn has_known_by(&self, time: Instant) -> bool {
        let is_such =
            |check: &Check| check.comes_before(Some(time)) || check.since <= time || !check.told;
        let lanes = [&self.watch, &self.sweep];
        lanes.iter().any(|lane| lane.has_any(is_such))
            || self.resting.any(is_such)
            || self.awaiting_worker.iter().any(|(_, check)| is_such(check))
            || self.hints.any_since_before(time)
    }

    /// Number of names that rest, on the watch's behalf or the sweep's.
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
