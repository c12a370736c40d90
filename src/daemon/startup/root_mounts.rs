//! The mounts on which the two roots lie. If a root's disk is unmounted, the directory that then
//! stands at its path is not taken for that root.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fs::mounts::Mount;
use crate::fs::tree::{DirId, Root, nearest_existing};
use crate::model::error::{FsError, Side};
use crate::plan::guard::Trust;

/// How many former sources are remembered.
const FORMER: usize = 8;

/// The mount on which the source lies. If it is unmounted, the directory beneath, which may be
/// empty, is not mirrored.
#[derive(Debug)]
pub struct SourceMount {
    id: DirId,
    /// The source's path without symlinks, and its mount; `None` if this cannot be found out.
    place: Option<(PathBuf, Mount)>,
    /// Whether it was ever trusted.
    was_trusted: bool,
    /// The former sources, the last one first.
    former: Vec<Former>,
}

/// A directory that was the source before.
#[derive(Debug)]
struct Former {
    id: DirId,
    mount: Option<Mount>,
    was_trusted: bool,
    /// Whether it still had to be found complete when another directory took its place.
    had_to_be_complete: bool,
}

impl Former {
    /// Returns whether this was a trusted source, and `other` was uncovered when it was unmounted.
    fn has_uncovered(&self, other: &DirId) -> bool {
        let is_gone = !self.mount.as_ref().is_some_and(Mount::stands);
        // A directory that is mounted over itself covers nothing.
        let is_above = !self.id.was_mounted_before(other) && !self.id.same_inode(other);
        self.was_trusted && is_gone && is_above
    }
}

impl SourceMount {
    pub(super) fn of(source: &Root, id: DirId) -> Self {
        let real = fs::canonicalize(&source.path).ok();
        Self {
            id,
            place: real.zip(Mount::of(&source.path)),
            was_trusted: false,
            former: Vec::new(),
        }
    }

    /// Notes that another directory is the source now. `trust`: the guard's trust in the one
    /// before. Returns whether the new one has to be found complete before deletions are followed.
    /// That is so if it is a former source that still had to be, or that was uncovered when a
    /// trusted source was unmounted.
    pub fn adopt(&mut self, source: &Root, id: DirId, trust: Trust) -> bool {
        self.note(trust);
        let mount = self.place.take().map(|(_, mount)| mount);
        let left = Former {
            id: self.id,
            mount,
            was_trusted: self.was_trusted,
            had_to_be_complete: trust.must_be_complete(),
        };
        let mut former = std::mem::take(&mut self.former);
        former.retain(|known| known.id != self.id);
        former.truncate(FORMER - 1);
        former.insert(0, left);
        let at = former.iter().position(|known| known.id == id);
        let must_be_complete = at.is_some_and(|at| {
            former[at].had_to_be_complete
                || former[..at].iter().any(|since| since.has_uncovered(&id))
        });
        *self = Self { former, ..Self::of(source, id) };
        must_be_complete
    }

    /// Notes whether the source is trusted, before this is forgotten.
    pub fn note(&mut self, trust: Trust) {
        self.was_trusted |= trust == Trust::Trusted;
    }

    /// Updates the mount of the source, since a directory above it may have been renamed.
    pub fn follow(&mut self, source: &Root) {
        let real = fs::canonicalize(&source.path).ok();
        if real.as_ref() != self.place.as_ref().map(|(real, _)| real) {
            self.place = real.zip(Mount::of(&source.path));
        }
    }

    /// Returns whether another directory stands at the source's path only because its file system
    /// was unmounted. It is `false` in these cases:
    ///
    /// - A symlink leads elsewhere by now.
    /// - Another disk is mounted in the place of the first.
    /// - The directory is a former source.
    pub fn is_unmounted(&self, source: &Root, now: &DirId) -> bool {
        let Some((real, mount)) = self.place.as_ref().filter(|_| !self.was_source(now)) else {
            return false;
        };
        // A symlink on the disk itself is missing together with the disk.
        let leads_elsewhere = fs::canonicalize(&source.path)
            .is_ok_and(|path| path != *real && !path.starts_with(&mount.point));
        let is_new_disk = Mount::of(&source.path)
            .is_some_and(|mount| Some(mount.point) == self.point())
            && !now.was_mounted_before(&self.id);
        !leads_elsewhere && !is_new_disk && !mount.stands()
    }

    fn was_source(&self, id: &DirId) -> bool {
        self.former.iter().any(|known| known.id == *id)
    }

    fn point(&self) -> Option<PathBuf> {
        self.place.as_ref().map(|(_, mount)| mount.point.clone())
    }
}

/// The mount on which the replica lies. It tells a deleted replica, which can be made again, from
/// an unplugged disk, in whose place nothing must be written.
#[derive(Debug)]
pub struct ReplicaMount {
    /// The nearest existing directory above the replica.
    above: DirId,
    id: DirId,
    /// `None` if it cannot be found out.
    mount: Option<Mount>,
}

/// Why the directory at the replica's path is not taken for the replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotSameDisk {
    #[error("its disk is gone")]
    Gone,
    #[error("another file system stands at its path, while its own is still mounted")]
    Covered,
    #[error("another disk is mounted there, and is not empty")]
    Strange,
    #[error("a disk is mounted there that its file system does not tell from another one")]
    Unknown,
}

impl NotSameDisk {
    /// Returns whether a disk is mounted there that the user may mean.
    pub fn is_disk(self) -> bool {
        matches!(self, NotSameDisk::Strange | NotSameDisk::Unknown)
    }

    /// Returns the condition, in words, on which mirroring continues by itself.
    pub fn end(self) -> &'static str {
        match self {
            NotSameDisk::Unknown => "that is otherwise",
            _ => "it is back",
        }
    }
}

impl ReplicaMount {
    /// Finds out on which mount the replica lies.
    ///
    /// # Errors
    /// If the directory above it cannot be examined.
    pub(super) fn of(replica: &Root, id: DirId) -> Result<Self, FsError> {
        Ok(Self { above: nearest_above(&replica.path)?, id, mount: Mount::of(&replica.path) })
    }

    /// Notes that another directory is the replica now, or the same one on a disk that was mounted
    /// again.
    pub fn adopt(&mut self, replica: &Root, id: DirId) {
        // If this fails, the old facts stay, and a missing replica is waited for.
        if let Ok(home) = Self::of(replica, id) {
            *self = home;
        }
    }

    /// Returns whether a missing replica was deleted and may be made again. It must not have been a
    /// mount, and the file system that held it must still be there.
    pub fn may_create(&self, replica: &Path) -> bool {
        !self.id.is_mount_root && nearest_above(replica).is_ok_and(|id| id.same_mount(&self.above))
    }

    /// Checks whether another directory at the replica's path may take its place. It may be on the
    /// same mount, or be the same directory on a disk that was mounted again, or be an empty disk.
    ///
    /// # Errors
    /// The reason why it may not: the replica's own disk is unmounted or covered, or this disk is
    /// another one or cannot be identified.
    pub fn check_adopt(&self, replica: &Root, now: &DirId) -> Result<(), NotSameDisk> {
        if now.same_mount(&self.id) {
            return Ok(());
        }
        // A disk that was mounted again may have the very same numbers.
        let is_other = |mount: &&Mount| Mount::of(&replica.path).as_ref() != Some(*mount);
        if self.mount.as_ref().filter(is_other).is_some_and(Mount::stands) {
            return Err(NotSameDisk::Covered);
        }
        if now.is_mount_root != self.id.is_mount_root || now.was_mounted_before(&self.id) {
            return Err(NotSameDisk::Gone);
        }
        if now.is_same_on_disk(&self.id) {
            return Ok(());
        }
        let is_bare = || {
            replica.open_replica().and_then(|(dir, _)| dir.list()).is_ok_and(|list| list.is_bare())
        };
        match now.is_mount_root {
            true if is_bare() => Ok(()),
            true if now.is_distinct() => Err(NotSameDisk::Strange),
            // Without growing mount numbers, it may also be the directory beneath.
            false if now.is_distinct() || !self.id.was_mounted_before(now) => {
                Err(NotSameDisk::Gone)
            }
            _ => Err(NotSameDisk::Unknown),
        }
    }
}

fn nearest_above(path: &Path) -> Result<DirId, FsError> {
    nearest_existing(path.parent().unwrap_or(Path::new("/")), Side::Replica).map(|(_, id)| id)
}
