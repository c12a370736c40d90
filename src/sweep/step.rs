//! The steps of a walk, and the data that they pass on.

use std::ops::Range;
use std::sync::Arc;

use super::join::Joined;
use super::subtree::DirVerdict;
use crate::fs::tree::File;
use crate::fs::view::ReplicaFile;
use crate::model::entry::Entry;
use crate::model::path::{Name, RelPath};

/// A pair of open files, each with its facts when it was opened.
pub(super) struct OpenedPair {
    pub source: (File, Entry),
    pub replica: (ReplicaFile, Entry),
}

impl OpenedPair {
    pub fn are_of_one_size(&self) -> bool {
        self.source.1.size == self.replica.1.size
    }
}

pub(super) enum Step {
    /// Compare a directory. The last field: the directory that holds it.
    Dir(RelPath, ReplicaDirHint, Option<Arc<DirVerdict>>),
    /// Compare some of the names in a wide directory.
    Names(RelPath, ReplicaDirHint, Arc<Joined>, Range<usize>, Arc<DirVerdict>),
    /// Compare pairs of big files.
    BigPairs(Vec<BigPair>),
}

/// Knowledge about the replica's directory before it is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplicaDirHint {
    Exists,
    /// The source's directory may have been moved here with everything in it. A move does not
    /// change the ctimes of these entries, so a quick sweep has to read them.
    MaybeMoved,
    /// It was missing when its parent was listed. If it exists by now, rounds have made it since,
    /// and it need not be read.
    NotListed,
}

/// A file that is big on both sides.
pub(super) struct BigPair {
    pub dir: RelPath,
    pub subtree: Arc<DirVerdict>,
    pub name: Name,
}
