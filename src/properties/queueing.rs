//! The queue, compared with a plain list of all checks that were asked for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::holds;
use crate::model::check::{Check, Checks, Depth, Detector};
use crate::model::path::RelPath;
use crate::model::path::testing::path;
use crate::plan::queue::{BatchLimit, PendingRenames, Queue, Rename, RenameBatch};

/// A step in the use of a queue.
#[derive(Clone, Debug)]
enum QueueStep {
    Push(RelPath, Depth, Detector),
    Watched(RelPath, Depth),
    Later(RelPath, Depth, Detector, u64),
    Resting(RelPath, Depth, Detector, u64),
    Park(RelPath, Depth),
    Unpark(usize),
    Cool(RelPath, u64),
    Rename(RelPath, RelPath),
    Pass(u64),
    Take(Detector, usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<QueueStep>> {
    let paths =
        || select(["a", "b", "a/x", "a/y", "a/x/z", "b/x", "c/x", "c/y"].map(path).to_vec());
    let depth = || select(vec![Depth::Metadata, Depth::Content, Depth::Subtree]);
    let detector = || select(vec![Detector::Sweep, Detector::Watch]);
    let millis = || 0..200_u64;
    let step = prop_oneof![
        4 => (paths(), depth(), detector()).prop_map(|(path, depth, by)| QueueStep::Push(path, depth, by)),
        4 => (paths(), depth()).prop_map(|(path, depth)| QueueStep::Watched(path, depth)),
        2 => (paths(), depth(), detector(), millis()).prop_map(|(path, depth, by, at)| QueueStep::Later(path, depth, by, at)),
        2 => (paths(), depth(), detector(), millis()).prop_map(|(path, depth, by, at)| QueueStep::Resting(path, depth, by, at)),
        1 => (paths(), depth()).prop_map(|(path, depth)| QueueStep::Park(path, depth)),
        1 => (0..3_usize).prop_map(QueueStep::Unpark),
        1 => (paths(), 0..60_u64).prop_map(|(path, took)| QueueStep::Cool(path, took)),
        1 => (paths(), paths()).prop_map(|(from, to)| QueueStep::Rename(from, to)),
        3 => millis().prop_map(QueueStep::Pass),
        4 => (detector(), 1..4_usize, 1..3_usize).prop_map(|(by, names, dirs)| QueueStep::Take(by, names, dirs)),
    ];
    vec(step, 0..60)
}

/// The place where a check waits. Two checks for one name in one place are merged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Waits {
    Ready(Detector),
    Delayed,
    Resting,
}

/// A check, and when it is due.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wish {
    depth: Depth,
    detector: Detector,
    first: Instant,
    since: Instant,
    due: Instant,
}

impl Wish {
    fn check(&self) -> Check {
        Check { first: self.first, ..Check::new(self.depth, self.detector, self.since) }
    }
}

/// All checks that wait, ordered only by their names.
struct Plain {
    now: Instant,
    waiting: BTreeMap<(Waits, RelPath), Wish>,
    awaiting_worker: Vec<(RelPath, Check)>,
    cooling: BTreeMap<RelPath, Instant>,
    renames: PendingRenames,
}

impl Plain {
    fn add(&mut self, place: Waits, path: &RelPath, check: &Check, due: Instant) {
        let Check { depth, detector, first, since, .. } = *check;
        let wish = Wish { depth, detector, first, since, due };
        let key = (place, path.clone());
        let merged = match self.waiting.remove(&key) {
            None => wish,
            Some(old) => Wish {
                depth: wish.depth.max(old.depth),
                detector: wish.detector.max(old.detector),
                first: wish.first.min(old.first),
                since: wish.since.max(old.since),
                due,
            },
        };
        self.waiting.insert(key, merged);
    }

    fn ready(&mut self, path: &RelPath, check: &Check) {
        self.add(Waits::Ready(check.detector), path, check, self.now);
    }

    fn watched(&mut self, path: &RelPath, mut check: Check) {
        if let Some(found) = self.waiting.remove(&(Waits::Resting, path.clone())) {
            check.merge(found.check());
        }
        // The debt up to which a file does not wait.
        let credit = Duration::from_millis(200);
        match self.cooling.get(path).and_then(|rested| rested.checked_sub(credit)) {
            Some(until) if until > self.now => self.add(Waits::Resting, path, &check, until),
            _ => self.ready(path, &check),
        }
    }

    fn wake(&mut self) {
        let is_due = |(place, _): &(Waits, RelPath), wish: &Wish| {
            matches!(place, Waits::Delayed | Waits::Resting) && wish.due <= self.now
        };
        let (due, rest): (BTreeMap<_, _>, _) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(key, wish)| is_due(key, wish));
        self.waiting = rest;
        for ((_, path), wish) in due {
            self.ready(&path, &wish.check());
        }
    }

    fn is_ready(&self, detector: Detector) -> bool {
        self.waiting.keys().any(|(place, _)| *place == Waits::Ready(detector))
    }

    /// Counts the names of the sweep that are ready, rest, or wait for a worker.
    fn of_sweep(&self) -> usize {
        let counts = |(place, wish): (Waits, &Wish)| match place {
            Waits::Ready(detector) => detector == Detector::Sweep,
            Waits::Resting => wish.detector == Detector::Sweep,
            Waits::Delayed => false,
        };
        let waiting =
            self.waiting.iter().filter(|((place, _), wish)| counts((*place, wish))).count();
        waiting + self.awaiting_worker.len()
    }

    fn next_due(&self) -> Option<Instant> {
        let wait = |place: &Waits| matches!(place, Waits::Delayed | Waits::Resting);
        self.waiting.iter().filter(|((place, _), _)| wait(place)).map(|(_, wish)| wish.due).min()
    }

    /// Removes the checks that the queue has returned. Each must have been asked for in this form.
    fn given(&mut self, detector: Detector, checks: &Checks) {
        for (path, check) in all(checks) {
            let wish = self.waiting.remove(&(Waits::Ready(detector), path.clone()));
            let wish = wish.unwrap_or_else(|| panic!("nobody asked for {path:?}"));
            assert_eq!(
                (check.depth, check.first, check.since),
                (wish.depth, wish.first, wish.since),
                "{path:?}"
            );
        }
    }

    /// Returns whether the renames have to be followed before these checks.
    fn concern(&self, checks: &Checks) -> bool {
        let dirs = checks.keys().cloned();
        all(checks).map(|(path, _)| path).chain(dirs).any(|path| self.renames.concern(&path))
    }
}

fn all(checks: &Checks) -> impl Iterator<Item = (RelPath, &Check)> {
    checks.iter().flat_map(|(dir, names)| names.iter().map(|(name, check)| (dir.join(name), check)))
}

/// The queue and the list, side by side.
struct BothQueues {
    queue: Queue,
    plain: Plain,
}

impl BothQueues {
    fn step(&mut self, step: QueueStep) {
        let Self { queue, plain } = self;
        let now = plain.now;
        let check = |depth, detector| Check::new(depth, detector, now);
        let after = |millis| now + Duration::from_millis(millis);
        match step {
            QueueStep::Push(path, depth, detector) => {
                queue.push_path(&path, check(depth, detector));
                plain.ready(&path, &check(depth, detector));
            }
            QueueStep::Watched(path, depth) => {
                assert_eq!(queue.push_watched(&path, check(depth, Detector::Watch), now), None);
                plain.watched(&path, check(depth, Detector::Watch));
            }
            QueueStep::Later(path, depth, detector, millis) => {
                queue.push_later(after(millis), path.clone(), check(depth, detector));
                plain.add(Waits::Delayed, &path, &check(depth, detector), after(millis));
            }
            QueueStep::Resting(path, depth, detector, millis) => {
                queue.push_resting(after(millis), path.clone(), check(depth, detector));
                // If it is found again, it keeps its time.
                let resting =
                    plain.waiting.get(&(Waits::Resting, path.clone())).map(|wish| wish.due);
                plain.add(
                    Waits::Resting,
                    &path,
                    &check(depth, detector),
                    resting.unwrap_or(after(millis)),
                );
            }
            QueueStep::Park(path, depth) => {
                queue.await_worker(path.clone(), check(depth, Detector::Sweep));
                plain.awaiting_worker.push((path, check(depth, Detector::Sweep)));
            }
            QueueStep::Unpark(number) => self.requeue_awaiting_workers(number),
            QueueStep::Cool(path, took) => {
                queue.cool(path.clone(), Duration::from_millis(took), now);
                let begun = now.checked_sub(Duration::from_millis(took)).unwrap_or(now);
                let most = begun + Duration::from_millis(200);
                let rested =
                    plain.cooling.get(&path).map_or(begun, |rested| begun.max(*rested).min(most));
                plain.cooling.insert(path, rested + Duration::from_millis((4 * took).max(50)));
            }
            QueueStep::Rename(from, to) => {
                let rename = Rename::new(from, to, false, now);
                queue.push_rename(rename.clone());
                plain.renames.push(rename);
            }
            QueueStep::Pass(millis) => self.pass(Duration::from_millis(millis)),
            QueueStep::Take(detector, names, dirs) => {
                _ = self.take(detector, BatchLimit { names, dirs });
            }
        }
    }

    fn requeue_awaiting_workers(&mut self, number: usize) {
        self.queue.requeue_awaiting_workers(number);
        let number = number.min(self.plain.awaiting_worker.len());
        for (path, check) in self.plain.awaiting_worker.drain(..number).collect::<Vec<_>>() {
            self.plain.ready(&path, &check);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.plain.now += time;
        self.queue.wake(self.plain.now);
        self.plain.wake();
    }

    /// Takes checks from both, and compares them. Returns whether there were any.
    fn take(&mut self, detector: Detector, portion: BatchLimit) -> bool {
        let was_ready = self.plain.is_ready(detector);
        let mut checks = self.queue.take(detector, portion);
        assert!(all(&checks).count() <= portion.names && checks.len() <= portion.dirs);
        self.plain.given(detector, &checks);
        let concern = self.plain.concern(&checks);
        let renames = self.queue.take_renames(&mut checks, usize::MAX);
        let wanted =
            if concern { self.plain.renames.take(usize::MAX) } else { RenameBatch::default() };
        assert_eq!(renames.renames(), wanted.renames());
        for end in renames.renames().iter().flat_map(|rename| [&rename.from, &rename.to]) {
            self.plain.waiting.remove(&(Waits::Ready(Detector::Watch), end.clone()));
            assert!(
                all(&checks).any(|(path, _)| path == *end),
                "{end:?} was renamed and is not looked at"
            );
        }
        assert!(!was_ready || !checks.is_empty(), "something was ready, and nothing came out");
        !checks.is_empty()
    }

    fn agree(&self) {
        let Self { queue, plain } = self;
        assert_eq!(queue.count_sweep_names(), plain.of_sweep());
        assert_eq!(queue.next_due(), plain.next_due());
        for detector in [Detector::Sweep, Detector::Watch] {
            assert!(queue.has_ready(detector) || !plain.is_ready(detector));
        }
    }
}

#[test]
fn what_was_asked_for_comes_out_once_in_time_and_nothing_else_does() {
    holds(&steps(), |steps| {
        let (waiting, cooling) = (BTreeMap::new(), BTreeMap::new());
        let plain = Plain {
            now: Instant::now(),
            waiting,
            awaiting_worker: vec![],
            cooling,
            renames: PendingRenames::default(),
        };
        let mut both = BothQueues { queue: Queue::default(), plain };
        for step in steps {
            both.step(step);
            both.agree();
        }
        both.requeue_awaiting_workers(usize::MAX);
        both.pass(Duration::from_secs(10));
        let portion = BatchLimit { names: 3, dirs: 2 };
        while [Detector::Watch, Detector::Sweep]
            .iter()
            .any(|detector| both.take(*detector, portion))
        {}
        both.agree();
        assert_eq!(both.plain.waiting, BTreeMap::new());
    });
}
