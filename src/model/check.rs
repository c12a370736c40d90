//! What is to be looked at, how closely, and for whom.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::model::entry::{DigestPair, Entry, Identity};
use crate::model::path::{Name, RelPath};

/// How closely to look.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Depth {
    /// The entry's metadata; its contents only where size or mtime differ.
    Metadata,
    /// The entry itself.
    Content,
    /// And, where it is a directory, all that lies below it.
    Subtree,
}

/// Which detector asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Detector {
    Sweep,
    Watch,
}

impl Detector {
    pub fn as_str(self) -> &'static str {
        match self {
            Detector::Sweep => "sweep",
            Detector::Watch => "watch",
        }
    }
}

/// What the contents of a pair of files were found to be, valid as long as both are in the
/// states that were read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CachedDigests {
    pub source: Identity,
    pub replica: Identity,
    pub verdict: DigestPair,
}

impl CachedDigests {
    /// The verdict, where both files are still in the states that were read.
    pub fn verdict_on(&self, source: &Entry, replica: &Entry) -> Option<DigestPair> {
        let valid = self.source == source.identity() && self.replica == replica.identity();
        valid.then_some(self.verdict)
    }
}

/// A wish to look at one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    pub depth: Depth,
    pub detector: Detector,
    /// When it was first known that a look is due, and no round has looked since.
    pub first: Instant,
    /// When that was last known.
    pub since: Instant,
    pub evidence: Option<Box<CachedDigests>>,
    /// Whether it is a walk that has found it, and it is no directory: somebody may be writing to
    /// it this very moment.
    pub from_walk: bool,
    /// Whether a walk has listed it as a file of the source that the replica lacks, and nobody has
    /// told of it since: it is copied without another look.
    pub unseen_in_replica: bool,
    /// Whether the watch has told of this very name.
    pub told: bool,
}

impl Check {
    pub fn new(depth: Depth, detector: Detector, since: Instant) -> Self {
        Self {
            depth,
            detector,
            first: since,
            since,
            evidence: None,
            from_walk: false,
            unseen_in_replica: false,
            told: false,
        }
    }

    /// Whether a walk has led to it, or it was due by a time.
    pub fn comes_before(&self, time: Option<Instant>) -> bool {
        let is_found = self.from_walk || self.detector == Detector::Sweep;
        is_found || time.is_some_and(|time| self.first <= time)
    }

    /// Two wishes for one name become one that serves both.
    pub fn merge(&mut self, other: Check) {
        self.depth = self.depth.max(other.depth);
        self.detector = self.detector.max(other.detector);
        self.first = self.first.min(other.first);
        self.since = self.since.max(other.since);
        self.unseen_in_replica &= other.unseen_in_replica;
        self.told |= other.told;
        // The newer evidence; a round checks it against what it finds.
        self.evidence = other.evidence.or(self.evidence.take());
    }
}

/// The names to look at, by directory. A directory without names is looked at only for its
/// own metadata.
pub type Checks = BTreeMap<RelPath, BTreeMap<Name, Check>>;

/// Adds one wish. The root, which has no name, is looked at for its metadata.
pub fn add(checks: &mut Checks, path: &RelPath, check: Check) {
    match path.split() {
        Some((dir, name)) => add_name(checks.entry(dir).or_default(), name, check),
        None => {
            checks.entry(RelPath::root()).or_default();
        }
    }
}

pub fn add_name(names: &mut BTreeMap<Name, Check>, name: Name, check: Check) {
    match names.entry(name) {
        std::collections::btree_map::Entry::Vacant(free) => {
            free.insert(check);
        }
        std::collections::btree_map::Entry::Occupied(mut waiting) => waiting.get_mut().merge(check),
    }
}
