//! Where the two roots are at home: what stands at a root's path once its disk is gone is not taken
//! for that root.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fs::mounts::Mount;
use crate::fs::tree::{DirId, Root, nearest_existing};
use crate::model::error::{FsError, Side};
use crate::plan::guard::Trust;

/// So many directories that were a root before are known again.
const FORMER: usize = 8;

/// What is known of the source's place, so that what comes to light beneath its disk, which may be
/// empty, is not mirrored.
#[derive(Debug)]
pub struct SourceMount {
    pin: DirId,
    /// Its path without symlinks, and the mount that it lies on; `None` where that cannot be told.
    place: Option<(PathBuf, Mount)>,
    /// Whether it has ever been trusted.
    was_trusted: bool,
    /// The last one first.
    former: Vec<Former>,
}

/// A directory that was the source before.
#[derive(Debug)]
struct Former {
    pin: DirId,
    mount: Option<Mount>,
    was_trusted: bool,
    /// Whether it was doubted when it was left, because of one that had come to lie over it.
    was_doubted: bool,
}

impl Former {
    /// Whether it was the right one, as far as anybody knew, and the other has come to light
    /// because its mount went.
    fn has_uncovered(&self, other: &DirId) -> bool {
        let is_gone = !self.mount.as_ref().is_some_and(Mount::stands);
        // A directory that is mounted over itself covers nothing.
        let is_above = !self.pin.was_mounted_before(other) && !self.pin.same_inode(other);
        self.was_trusted && is_gone && is_above
    }
}

impl SourceMount {
    pub(super) fn of(source: &Root, pin: DirId) -> Self {
        let real = fs::canonicalize(&source.path).ok();
        Self {
            pin,
            place: real.zip(Mount::of(&source.path)),
            was_trusted: false,
            former: Vec::new(),
        }
    }

    /// Another directory is the source now; of the one before, this was made. Whether the new one
    /// is to be doubted: it was the source before, and has come to light because a trusted one was
    /// unmounted that lay over it.
    pub fn adopt(&mut self, source: &Root, pin: DirId, trust: Trust) -> bool {
        self.note(trust);
        let mount = self.place.take().map(|(_, mount)| mount);
        let left = Former {
            pin: self.pin,
            mount,
            was_trusted: self.was_trusted,
            was_doubted: trust.is_doubted(),
        };
        let mut former = std::mem::take(&mut self.former);
        former.retain(|known| known.pin != self.pin);
        former.truncate(FORMER - 1);
        former.insert(0, left);
        let at = former.iter().position(|known| known.pin == pin);
        let is_doubted = at.is_some_and(|at| {
            former[at].was_doubted || former[..at].iter().any(|since| since.has_uncovered(&pin))
        });
        *self = Self { former, ..Self::of(source, pin) };
        is_doubted
    }

    /// What is made of the source, before that is forgotten.
    pub fn note(&mut self, trust: Trust) {
        self.was_trusted |= trust == Trust::Trusted;
    }

    /// The source stands where it did, or a directory above it was renamed.
    pub fn follow(&mut self, source: &Root) {
        let real = fs::canonicalize(&source.path).ok();
        if real.as_ref() != self.place.as_ref().map(|(real, _)| real) {
            self.place = real.zip(Mount::of(&source.path));
        }
    }

    /// Whether another directory stands at the source's path for no other reason than that its file
    /// system was unmounted. A symlink that leads elsewhere by now, another disk in the place of
    /// that one, and a directory that was the source before are reasons of their own.
    pub fn is_unmounted(&self, source: &Root, now: &DirId) -> bool {
        let Some((real, mount)) = self.place.as_ref().filter(|_| !self.was_source(now)) else {
            return false;
        };
        // A symlink on the disk itself has gone with it.
        let leads_elsewhere = fs::canonicalize(&source.path)
            .is_ok_and(|path| path != *real && !path.starts_with(&mount.point));
        let is_new_disk = Mount::of(&source.path)
            .is_some_and(|mount| Some(mount.point) == self.point())
            && !now.was_mounted_before(&self.pin);
        !leads_elsewhere && !is_new_disk && !mount.stands()
    }

    fn was_source(&self, pin: &DirId) -> bool {
        self.former.iter().any(|known| known.pin == *pin)
    }

    fn point(&self) -> Option<PathBuf> {
        self.place.as_ref().map(|(_, mount)| mount.point.clone())
    }
}

/// What is known of the replica's place, so that it can be made again when it is deleted, and
/// nothing is written in its stead when its disk is unplugged.
#[derive(Debug)]
pub struct ReplicaMount {
    /// The file system of the directory above the replica.
    above: DirId,
    pin: DirId,
    /// `None` where it cannot be told.
    mount: Option<Mount>,
}

/// Why what stands at the replica's path is not taken for it.
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
    /// Whether a disk is mounted there that may be meant.
    pub fn is_disk(self) -> bool {
        matches!(self, NotSameDisk::Strange | NotSameDisk::Unknown)
    }

    /// When mirroring goes on by itself.
    pub fn end(self) -> &'static str {
        match self {
            NotSameDisk::Unknown => "that is otherwise",
            _ => "it is back",
        }
    }
}

impl ReplicaMount {
    /// # Errors
    /// Where what lies above cannot be looked at.
    pub(super) fn of(replica: &Root, pin: DirId) -> Result<Self, FsError> {
        Ok(Self { above: nearest_above(&replica.path)?, pin, mount: Mount::of(&replica.path) })
    }

    /// Another directory is the replica now, or the same one on a disk that was mounted again.
    pub fn adopt(&mut self, replica: &Root, pin: DirId) {
        // Where nothing can be learned of it, a replica that is gone is waited for.
        if let Ok(home) = Self::of(replica, pin) {
            *self = home;
        }
    }

    /// Whether a replica that is gone was deleted, and may be made again: the file system that
    /// held it is still there.
    pub fn may_create(&self, replica: &Path) -> bool {
        !self.pin.is_mount_root
            && nearest_above(replica).is_ok_and(|pin| pin.same_mount(&self.above))
    }

    /// Whether another directory at the replica's path may take its place: the same on its disk
    /// that was mounted again, or a disk that is empty.
    ///
    /// # Errors
    /// Where it may not, for then its own disk is gone or covered, or is not known for what it is.
    pub fn may_adopt(&self, replica: &Root, now: &DirId) -> Result<(), NotSameDisk> {
        if now.same_mount(&self.pin) {
            return Ok(());
        }
        // One that is mounted again may be like the old one to the last number.
        let is_other = |mount: &&Mount| Mount::of(&replica.path).as_ref() != Some(*mount);
        if self.mount.as_ref().filter(is_other).is_some_and(Mount::stands) {
            return Err(NotSameDisk::Covered);
        }
        if now.is_mount_root != self.pin.is_mount_root || now.was_mounted_before(&self.pin) {
            return Err(NotSameDisk::Gone);
        }
        if now.is_same_on_disk(&self.pin) {
            return Ok(());
        }
        let is_bare = || {
            replica.open_replica().and_then(|(dir, _)| dir.list()).is_ok_and(|list| list.is_bare())
        };
        match now.is_mount_root {
            true if is_bare() => Ok(()),
            true if now.is_distinct() => Err(NotSameDisk::Strange),
            // Without numbers that grow, it may as well be what lies beneath.
            false if now.is_distinct() || !self.pin.was_mounted_before(now) => {
                Err(NotSameDisk::Gone)
            }
            _ => Err(NotSameDisk::Unknown),
        }
    }
}

fn nearest_above(path: &Path) -> Result<DirId, FsError> {
    nearest_existing(path.parent().unwrap_or(Path::new("/")), Side::Replica).map(|(_, pin)| pin)
}
