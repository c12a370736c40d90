//! Where the source was seen to hold other file systems. What the replica has of one that is no
//! longer mounted is kept as it is: it has not been deleted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::fs::mounts::Mount;
use crate::fs::tree::{Dir, DirId};
use crate::model::path::{RelPath, within};

/// What was mounted at one place.
struct SourceSubmount {
    pin: DirId,
    /// `None` where the kernel did not say.
    mount: Option<Mount>,
}

/// All such places, as long as this process runs.
#[derive(Default)]
pub struct SourceSubmounts(BTreeMap<RelPath, SourceSubmount>);

impl SourceSubmounts {
    /// Notes what is mounted at `path` below the source `root`. Whether it was not known. What was
    /// mounted there before that, and has come to light, does not take its place.
    pub fn remember(&mut self, path: RelPath, pin: DirId, root: &Path) -> bool {
        if self
            .0
            .get(&path)
            .is_some_and(|known| known.pin == pin || pin.was_mounted_before(&known.pin))
        {
            return false;
        }
        let mount = Mount::of(&root.join(OsStr::from_bytes(path.as_bytes())));
        self.0.insert(path, SourceSubmount { pin, mount });
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

    /// Another directory is the source now.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// A place at, above or below `path` whose file system has gone from the source, which is
    /// `source`, at `root`.
    pub fn lost(&self, path: &RelPath, source: &Dir, root: &Path) -> Option<&RelPath> {
        let lost =
            within(&self.0, path).find(|(at, crossing)| !crossing.is_there(at, source, root));
        lost.map(|(at, _)| at).or_else(|| self.lost_above(path, source, root))
    }

    /// The same at `path` or above.
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
        let now = source.open(at).and_then(|dir| dir.pin());
        // One that was mounted before it, and has come to light, is another one.
        let is_mounted =
            now.is_ok_and(|now| now.is_mount_root && !now.was_mounted_before(&self.pin));
        // It moves with the directories above it.
        is_mounted
            || self.mount.as_ref().is_some_and(|mount| mount.has_moved_below(root, &self.pin))
    }
}
