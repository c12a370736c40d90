//! Checks: which names the writer examines, how closely, and for which detector.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::model::entry::{DigestPair, Entry, Identity};
use crate::model::path::{Name, RelPath};

/// The depth of a check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Depth {
    /// The entry's metadata; its contents only if size or mtime differ.
    Metadata,
    /// The entry with its contents.
    Content,
    /// The entry, and everything below it if it is a directory.
    Subtree,
}

/// The detector that asked for a check.
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

/// MD5s of a pair of files. They are valid while both files are in the states that were read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CachedDigests {
    pub source: Identity,
    pub replica: Identity,
    pub digests: DigestPair,
}

impl CachedDigests {
    /// Returns the MD5s if both files are still in the states that were read.
    pub fn digests_for(&self, source: &Entry, replica: &Entry) -> Option<DigestPair> {
        let valid = self.source == source.identity() && self.replica == replica.identity();
        valid.then_some(self.digests)
    }
}

/// A request to examine one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    pub depth: Depth,
    pub detector: Detector,
    /// When the name first became due. No round has examined it since.
    pub first: Instant,
    /// When it last became due.
    pub since: Instant,
    pub cached: Option<Box<CachedDigests>>,
    /// Whether a comparison of a walk has found it. If it is a file, somebody may be writing to it
    /// at this moment.
    pub from_walk: bool,
    /// Whether a walk has listed it as a file that the replica lacks, and nothing was reported of
    /// it since. Then it is copied without another check.
    pub unseen_in_replica: bool,
    /// Whether the watch has reported this very name.
    pub told: bool,
}

impl Check {
    pub fn new(depth: Depth, detector: Detector, since: Instant) -> Self {
        Self {
            depth,
            detector,
            first: since,
            since,
            cached: None,
            from_walk: false,
            unseen_in_replica: false,
            told: false,
        }
    }

    /// Returns whether a walk asked for it, or it was due by `time`.
    pub fn comes_before(&self, time: Option<Instant>) -> bool {
        let is_found = self.from_walk || self.detector == Detector::Sweep;
        is_found || time.is_some_and(|time| self.first <= time)
    }

    /// Merges another check of the same name, so that one check serves both.
    pub fn merge(&mut self, other: Check) {
        self.depth = self.depth.max(other.depth);
        self.detector = self.detector.max(other.detector);
        self.first = self.first.min(other.first);
        self.since = self.since.max(other.since);
        self.unseen_in_replica &= other.unseen_in_replica;
        self.told |= other.told;
        // The newer MD5s win. A round uses them only if both files are unchanged.
        self.cached = other.cached.or(self.cached.take());
    }
}

/// The names to check, by directory. If a directory has no names, only its own metadata is checked.
pub type Checks = BTreeMap<RelPath, BTreeMap<Name, Check>>;

/// Adds one check. The root has no name: only its metadata is checked.
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
