//! The steps of a walk, and what they hand on.

use std::ops::Range;
use std::sync::Arc;

use super::join::Joined;
use super::subtree::DirVerdict;
use crate::fs::tree::File;
use crate::model::entry::Entry;
use crate::model::path::{Name, RelPath};

/// A file and what is known of it.
pub(super) type Opened = (File, Entry);

pub(super) enum Step {
    /// A directory, and the one that holds it.
    Dir(RelPath, ReplicaState, Option<Arc<DirVerdict>>),
    /// Some of the names in a wide directory.
    Names(RelPath, ReplicaState, Arc<Joined>, Range<usize>, Arc<DirVerdict>),
    /// Pairs of big files.
    Bigs(Vec<BigPair>),
}

/// What is known of the replica's directory before it is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplicaState {
    Open,
    /// The source's directory may have been moved here, with all that it holds. Such entries are as
    /// old as ever: their ctimes tell nothing, and a quick scan reads them.
    Doubted,
    /// Its parent was listed without it. What stands there by now was made by rounds after that,
    /// and needs no reading.
    Absent,
}

/// A file that is big on both sides.
pub(super) struct BigPair {
    pub dir: RelPath,
    pub subtree: Arc<DirVerdict>,
    pub name: Name,
}
