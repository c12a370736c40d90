//! The file systems that were seen to be mounted in the source. If one is no longer mounted, its
//! entries in the replica are kept: they were not deleted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::fs::mounts::Mount;
use crate::fs::tree::{Dir, DirId};
use crate::model::path::{RelPath, within};

/// A file system that is or was mounted in the source.
struct SourceSubmount {
    id: DirId,
    /// `None` if the kernel did not report it.
    mount: Option<Mount>,
}

/// All mounts that were seen in the source while this process runs.
#[derive(Default)]
pub struct SourceSubmounts(BTreeMap<RelPath, SourceSubmount>);

impl SourceSubmounts {
    /// Notes the mount at `path` below the source `root`. Returns whether it is new. An older mount
    /// that was uncovered there does not replace the known one.
    pub fn remember(&mut self, path: RelPath, id: DirId, root: &Path) -> bool {
        if self.0.get(&path).is_some_and(|known| known.id == id || id.was_mounted_before(&known.id))
        {
            return false;
        }
        let mount = Mount::of(&root.join(OsStr::from_bytes(path.as_bytes())));
        self.0.insert(path, SourceSubmount { id, mount });
        true
    }

    pub fn paths(&self) -> impl Iterator<Item = &RelPath> {
        self.0.keys()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, path: &RelPath) -> bool {
        self.0.contains_key(path)
    }

    /// Forgets all mounts: another directory is the source now.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// Returns a mount at, above or below `path` that the source has lost. `source`: the open
    /// source; `root`: its path.
    pub fn lost(&self, path: &RelPath, source: &Dir, root: &Path) -> Option<&RelPath> {
        let lost =
            within(&self.0, path).find(|(at, crossing)| !crossing.is_there(at, source, root));
        lost.map(|(at, _)| at).or_else(|| self.lost_above(path, source, root))
    }

    /// Returns such a mount at `path` or above.
    pub fn lost_above(&self, path: &RelPath, source: &Dir, root: &Path) -> Option<&RelPath> {
        if self.0.is_empty() {
            return None;
        }
        let above = path.ancestors_and_self().filter_map(|above| self.0.get_key_value(&above));
        above
            .into_iter()
            .find(|(at, crossing)| !crossing.is_there(at, source, root))
            .map(|(at, _)| at)
    }
}

impl SourceSubmount {
    fn is_there(&self, at: &RelPath, source: &Dir, root: &Path) -> bool {
        let now = source.open(at).and_then(|dir| dir.id());
        // An older mount that was uncovered is another one.
        let is_mounted =
            now.is_ok_and(|now| now.is_mount_root && !now.was_mounted_before(&self.id));
        // A mount moves with the directories above it.
        is_mounted || self.mount.as_ref().is_some_and(|mount| mount.has_moved_below(root, &self.id))
    }
}
