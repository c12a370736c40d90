//! The rules of removal: whether an entry of the replica may be removed, or replaced. Asked by rounds, for files, directories and
//! moves alike, and by previews.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::excluded::{Removable, removable_part};
use super::submounts::SourceSubmounts;
use super::{Deletions, Roots};
use crate::fs::filter::Filter;
use crate::fs::mounts;
use crate::fs::tree::Dir;
use crate::model::entry::Entry;
use crate::model::error::FsErrorKind;
use crate::model::error::{FsError, GIVES_NOTHING_BACK, LOCKED, Side};
use crate::model::path::RelPath;

/// Why a directory that holds excluded entries does not give way to an entry of another kind.
const EXCLUDED: FsError = FsError::found(
    "replace a directory with excluded entries in it",
    Side::Replica,
    FsErrorKind::HoldsExcluded,
);

/// Why an entry stays that is mounted there.
const IS_MOUNT: FsError = FsError::found("remove or replace a mount", Side::Replica, FsErrorKind::IsMount);

/// Why a directory in which another file system is mounted stays.
const MOUNTED: FsError =
    FsError::found("move a directory with a mount in it", Side::Replica, FsErrorKind::HoldsMount);

/// Why a directory stays in which somebody has put the source.
const HOLDS_SOURCE: FsError =
    FsError::found("move a directory with the source in it", Side::Replica, FsErrorKind::HoldsSource);

/// What is to become of an entry that stands in the replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The source lacks it.
    Removed,
    /// Another one takes its name.
    Replaced,
    /// It gets another name.
    Moved,
}

/// What the rules say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ruling {
    Goes,
    /// These entries below it go, with all that they hold. The rest stays, for the sake of what is excluded.
    GoesInParts(Vec<RelPath>),
    Stays(Stay),
}

/// Why an entry stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stay {
    /// The guard holds deletions.
    Held,
    /// A file system was mounted at this path of the source, and is no longer: what the replica has of it is kept.
    Unmounted(RelPath),
    /// It cannot be done: a problem.
    FsError(FsError),
}

/// What is mounted where; asked once, and only when a directory is to go.
#[derive(Default)]
pub struct MountPoints(OnceLock<Vec<PathBuf>>);

/// What the rules are asked of.
pub struct RemovalRules<'a> {
    pub roots: &'a Roots,
    /// The replica's root, open.
    pub replica: &'a Dir,
    pub filter: &'a Filter,
    pub deletions: Deletions,
    /// The source's root, open, and where file systems were mounted in it; `None` where nobody remembers any.
    pub submounts: Option<(&'a Dir, &'a SourceSubmounts)>,
    pub mounts: &'a MountPoints,
}

impl RemovalRules<'_> {
    /// Whether the entry that stands at a path of the replica may meet its fate. Whether its absence in the source is proved (I5)
    /// is for whoever asks.
    ///
    /// `gives_nothing_back`: whether the directory that holds it is append-only.
    pub fn on(&self, path: &RelPath, standing: &Entry, fate: Fate, gives_nothing_back: bool) -> Ruling {
        let is_dir = standing.is_dir();
        // A file that is replaced by a file is no deletion.
        if self.deletions.are_held() && (is_dir || fate != Fate::Replaced) {
            return Ruling::Stays(Stay::Held);
        }
        if let Some(mount) = self.lost_mount(path).filter(|_| is_dir || fate != Fate::Replaced) {
            return Ruling::Stays(Stay::Unmounted(mount.clone()));
        }
        if standing.mount_root {
            return Ruling::Stays(Stay::FsError(IS_MOUNT));
        }
        if gives_nothing_back {
            return Ruling::Stays(Stay::FsError(GIVES_NOTHING_BACK));
        }
        if standing.is_locked() {
            return Ruling::Stays(Stay::FsError(LOCKED));
        }
        if !is_dir {
            return Ruling::Goes;
        }
        if let Some(error) = self.must_stay(path) {
            return Ruling::Stays(Stay::FsError(error));
        }
        match (removable_part(self.replica, path, self.filter), fate) {
            (Removable::Whole, _) => Ruling::Goes,
            (Removable::Parts(parts), Fate::Removed) => Ruling::GoesInParts(parts),
            (Removable::Parts(_), Fate::Replaced | Fate::Moved) => Ruling::Stays(Stay::FsError(EXCLUDED)),
        }
    }

    /// Where a file system was mounted in the source that is gone, if `path` is at it, above or below.
    pub fn lost_mount(&self, path: &RelPath) -> Option<&RelPath> {
        let (source, submounts) = self.submounts?;
        submounts.lost(path, source, &self.roots.source.path)
    }

    /// Why a directory of the replica can be neither moved nor removed, if there is a reason: another file system is
    /// mounted in it, or somebody has moved the source there.
    fn must_stay(&self, path: &RelPath) -> Option<FsError> {
        let Ok(root) = self.roots.replica.path.canonicalize() else { return Some(MOUNTED) };
        let dir = root.join(OsStr::from_bytes(path.as_bytes()));
        if self.mounts.0.get_or_init(mounts::points).iter().any(|point| point.starts_with(&dir)) {
            return Some(MOUNTED);
        }
        let source = self.roots.source.path.canonicalize();
        source.map_or(true, |source| source.starts_with(&dir)).then_some(HOLDS_SOURCE)
    }
}
