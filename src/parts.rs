//! Parts of the program that `benches/parts.rs` runs alone. They exist only with the feature
//! `parts`, and are no public interface: every error panics.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::daemon::core::Portions;
use crate::fs::digest;
use crate::fs::filter::Filter;
use crate::fs::roots::Roots;
use crate::fs::tree::{Dir, File, Root};
use crate::model::check::{Check, Checks, Depth, Detector, add};
use crate::model::entry::Entry;
use crate::model::error::Side;
use crate::model::path::{Name, RelPath};
use crate::model::task::Task;
use crate::plan::deletions::Deletions;
use crate::plan::metadata::Capabilities;
use crate::plan::queue::{Queue, RenameBatch};
use crate::sweep::{Extent, Message, Plan, walked};
use crate::writer::fs::probe::{of_process, probe};
use crate::writer::fs::round::{Reconciler, WriterOptions};
use crate::writer::{Work, Writer};

/// Number of names in one directory, which a sweep reports in one batch.
const BATCH: usize = 100;

/// Selects how MD5s are computed from now on: in lanes, or by `md-5` alone.
pub fn use_lanes(used: bool) {
    digest::use_lanes(used);
}

/// Computes the MD5s of small files that a sweep has read. Returns their number.
pub fn digest_together(contents: &[&[u8]]) -> usize {
    black_box(digest::hash_all(contents)).len()
}

/// Two trees, opened as at the start of a run.
pub struct Trees {
    roots: Roots,
    capabilities: Capabilities,
}

impl Trees {
    pub fn open(source: &Path, replica: &Path) -> Self {
        let root = |path: &Path, side| Root::new(path, side);
        let (source, replica) = (root(source, Side::Source), root(replica, Side::Replica));
        let (source_id, replica_id) =
            (source.id().expect("it is a directory"), replica.id().expect("it is a directory"));
        let roots = Roots { source, replica, source_id, replica_id: Some(replica_id) };
        let (_, replica) = roots.open().expect("both can be opened");
        let capabilities =
            probe(&replica, of_process(true)).expect("the replica can be written to");
        Self { roots, capabilities }
    }

    /// Compares one pair of large files. Returns whether they are the same.
    pub fn compare_pair(&self, name: &str) -> bool {
        let pair = self.pair(name);
        let ((ours, source), (theirs, replica)) = (&pair.source, &pair.replica);
        let digests = digest::compare_large(
            (ours, source),
            (theirs, replica),
            &AtomicBool::new(false),
            &|_| {},
        );
        digests.expect("they can be read").same()
    }

    /// Compares pairs of large files side by side. Returns how many pairs are the same.
    pub fn compare_pairs(&self, names: &[String]) -> usize {
        let mut pairs = names.iter().map(|name| self.pair(name));
        let mut same = 0;
        digest::compare_all(
            || pairs.next(),
            false,
            |_| {},
            &AtomicBool::new(false),
            |_, digests| same += usize::from(digests.expect("they can be read").same()),
        );
        same
    }

    fn pair(&self, name: &str) -> digest::Pair<()> {
        let open = |dir: &Dir| -> (File, Entry) {
            dir.open_file(name.as_bytes()).expect("it can be opened")
        };
        let (source, replica) = self.roots.open().expect("both can be opened");
        digest::Pair { what: (), source: open(&source), replica: open(&replica) }
    }

    /// Walks both trees by a full or a quick sweep. They must be in sync. Returns the number of
    /// entries, and the number of pairs of files that were read.
    pub fn walk(&self, full: bool, threads: usize) -> (u64, u64) {
        let plan = Plan {
            trees: self.roots.clone(),
            capabilities: self.capabilities.clone(),
            filter: Filter::default(),
            threads,
            scopes: vec![RelPath::root()],
            task: if full { Task::Full } else { Task::Quick },
            rate: None,
            drop_behind: false,
            detector: Detector::Sweep,
            registry: None,
            extent: Extent::Below,
            verified_dirs: None,
            submounts: Vec::new(),
        };
        let told: Vec<Message> = walked(plan).collect();
        let [Message::Swept(summary)] = told.as_slice() else { panic!("the trees are equal") };
        (summary.entries, summary.hashed)
    }

    /// Starts a writer for these trees.
    pub fn rounds(&self, threads: usize) -> RoundBench {
        let (roots, capabilities) = (self.roots.clone(), self.capabilities.clone());
        let options = WriterOptions { threads, ..WriterOptions::default() };
        let started = Reconciler::start(
            roots,
            capabilities,
            Filter::default(),
            options,
            AtomicBool::default().into(),
        );
        RoundBench(started.expect("threads can be started"))
    }
}

/// A writer that runs single rounds.
pub struct RoundBench(Reconciler);

/// The work of one round.
pub struct Due(Work);

impl Due {
    /// Makes checks of these paths below the roots, as if the watch had reported them.
    pub fn looks(paths: &[String]) -> Self {
        let mut checks = Checks::new();
        let now = Instant::now();
        for path in paths {
            add(&mut checks, &rel_path(path), Check::new(Depth::Content, Detector::Watch, now));
        }
        Self(Work {
            moves: RenameBatch::default(),
            checks,
            detector: Detector::Watch,
            deletions: Deletions::Followed,
            budget: None,
            big: u64::MAX,
            swept: None,
            now: std::time::Instant::now(),
        })
    }
}

impl RoundBench {
    /// Runs one round. Returns the number of actions, and the number of pairs that were read.
    pub fn round(&mut self, Due(work): Due) -> (usize, u64) {
        let outcome = self.0.round(work, &()).expect("the roots stand");
        assert!(
            outcome.problems.is_empty() && outcome.again.is_empty(),
            "all looks come to an end"
        );
        (outcome.done.len(), outcome.hashed)
    }
}

/// The detectors that report to the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Teller {
    Sweep,
    Watch,
    /// The sweep finds what the watch reports soon after.
    Both,
}

/// Checks that pass through the queue.
#[derive(Clone)]
pub struct QueueEvents {
    swept: Vec<(RelPath, Vec<(Name, Check)>)>,
    watched: Vec<(RelPath, Check)>,
    teller: Teller,
    now: Instant,
}

impl QueueEvents {
    /// Makes checks of `names` names, 100 in each directory.
    pub fn new(names: usize, teller: Teller) -> Self {
        let now = Instant::now();
        let check = |detector| Check::new(Depth::Content, detector, now);
        let (mut swept, mut watched) = (Vec::new(), Vec::new());
        for first in (0..names).step_by(BATCH) {
            let dir = rel_path(&format!("some/directory{first:06}"));
            let batch =
                (first..names.min(first + BATCH)).map(|number| format!("file{number:06}.txt"));
            let batch: Vec<Name> = batch.filter_map(|name| Name::new(name.as_bytes())).collect();
            if teller != Teller::Sweep {
                watched.extend(batch.iter().map(|name| (dir.join(name), check(Detector::Watch))));
            }
            if teller != Teller::Watch {
                swept.push((
                    dir,
                    batch.into_iter().map(|name| (name, check(Detector::Sweep))).collect(),
                ));
            }
        }
        Self { swept, watched, teller, now }
    }

    /// Pushes all checks, as the daemon does. Then takes them out, a round's limit at a time.
    /// Returns the number of names.
    pub fn pass(self) -> usize {
        let mut queue = Queue::default();
        let rested = self.now + Duration::from_millis(20);
        for (dir, names) in self.swept {
            if self.teller == Teller::Sweep {
                queue.push(Detector::Sweep, dir, names);
            } else {
                for (name, check) in names {
                    queue.push_resting(rested, dir.join(&name), check);
                }
            }
        }
        for (path, check) in self.watched {
            let scan = queue.push_watched(&path, check, self.now);
            assert!(scan.is_none(), "the queue has room");
        }
        take_all(&mut queue)
    }
}

fn take_all(queue: &mut Queue) -> usize {
    let mut taken = 0;
    for (detector, portion) in
        [(Detector::Watch, Portions::DEFAULT.watch), (Detector::Sweep, Portions::DEFAULT.sweep)]
    {
        while queue.has_ready(detector) {
            taken += queue.take(detector, portion).values().map(BTreeMap::len).sum::<usize>();
        }
    }
    taken
}

fn rel_path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("it is a path below the root")
}
