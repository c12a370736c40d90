//! Where the two roots are at home: what stands at a root's path once its disk is gone is not taken for that root.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fault::{Fault, Where};
use crate::mounts;
use crate::tree::{Pin, Root, nearest_existing};

/// What is known of the source's place, so that the directory beneath its disk, which may be empty, is not mirrored.
#[derive(Clone, Debug)]
pub struct SourceHome {
    /// Its path without symlinks, and where the file system is mounted that it lies on; `None` where that cannot be told.
    place: Option<(PathBuf, PathBuf)>,
}

impl SourceHome {
    pub fn of(source: &Root) -> Self {
        let real = fs::canonicalize(&source.path).ok();
        Self { place: real.zip(mounts::point_of(&source.path)) }
    }

    /// Whether another directory stands at the source's path for no other reason than that its file system was unmounted.
    /// A symlink that leads elsewhere by now, and another disk in the place of that one, are reasons of their own.
    pub fn is_unmounted(&self, source: &Root) -> bool {
        self.place.as_ref().is_some_and(|(real, point)| {
            fs::canonicalize(&source.path).is_ok_and(|now| now == *real) && !mounts::points().contains(point)
        })
    }
}

/// What is known of the replica's place, so that it can be made again when it is deleted, and
/// nothing is written in its stead when its disk is unplugged.
#[derive(Clone, Debug)]
pub struct ReplicaHome {
    /// The file system of the directory above the replica.
    above: Pin,
    pin: Pin,
    file_system: Option<u64>,
}

impl ReplicaHome {
    /// # Errors
    /// Where what lies above cannot be looked at.
    pub(super) fn of(replica: &Root, pin: Pin) -> Result<Self, Fault> {
        Ok(Self { above: nearest_above(&replica.path)?, pin, file_system: replica.file_system() })
    }

    /// Another directory is the replica now, or the same one on a disk that was mounted again.
    pub fn follow(&mut self, replica: &Root, pin: Pin) {
        // Where nothing can be learned of it, a replica that is gone is waited for.
        if let Ok(home) = Self::of(replica, pin) {
            *self = home;
        }
    }

    /// Whether a replica that is gone was deleted, and may be made again: the file system that
    /// held it is still there.
    pub fn may_create(&self, replica: &Path) -> bool {
        !self.pin.is_mount_root && nearest_above(replica).is_ok_and(|pin| pin.same_mount(&self.above))
    }

    /// Whether another directory at the replica's path may take its place. The directory under
    /// a mount point may not, nor one on another disk.
    pub fn may_adopt(&self, replica: &Root, pin: &Pin) -> bool {
        if self.pin.is_mount_root {
            return pin.is_mount_root;
        }
        pin.dev == self.pin.dev || (self.file_system.is_some() && replica.file_system() == self.file_system)
    }
}

fn nearest_above(path: &Path) -> Result<Pin, Fault> {
    nearest_existing(path.parent().unwrap_or(Path::new("/")), Where::Replica).map(|(_, pin)| pin)
}
