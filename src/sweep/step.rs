//! The steps of a walk, and what they hand on.

use std::ops::Range;
use std::sync::Arc;

use super::join::Joined;
use super::subtree::DirVerdict;
use crate::fs::tree::File;
use crate::fs::view::ReplicaFile;
use crate::model::entry::Entry;
use crate::model::path::{Name, RelPath};

/// A pair of files, and what they were when they were opened.
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
    /// A directory, and the one that holds it.
    Dir(RelPath, ReplicaDirHint, Option<Arc<DirVerdict>>),
    /// Some of the names in a wide directory.
    Names(RelPath, ReplicaDirHint, Arc<Joined>, Range<usize>, Arc<DirVerdict>),
    /// Pairs of big files.
    Bigs(Vec<BigPair>),
}

/// What is known of the replica's directory before it is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplicaDirHint {
    Exists,
    /// The source's directory may have been moved here, with all that it holds. Such entries are as
    /// old as ever: their ctimes tell nothing, and a quick scan reads them.
    MaybeMoved,
    /// Its parent was listed without it. What stands there by now was made by rounds after that,
    /// and needs no reading.
    NotListed,
}

/// A file that is big on both sides.
pub(super) struct BigPair {
    pub dir: RelPath,
    pub subtree: Arc<DirVerdict>,
    pub name: Name,
}
