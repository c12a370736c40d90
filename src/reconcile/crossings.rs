//! Where the source was seen to hold other file systems. What the replica has of one that is no longer mounted is kept as it
//! is: it has not been deleted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::mounts::{self, FileSystem};
use crate::path::RelPath;
use crate::tree::{Dir, Pin};

/// What was mounted at one place.
struct Crossing {
    pin: Pin,
    /// `None` where the kernel did not say.
    file_system: Option<FileSystem>,
}

/// All such places, as long as this process runs.
#[derive(Default)]
pub struct Crossings(BTreeMap<RelPath, Crossing>);

impl Crossings {
    /// Notes what is mounted at `path` below the source `root`. Whether it was not known.
    pub fn remember(&mut self, path: RelPath, pin: Pin, root: &Path) -> bool {
        if self.0.get(&path).is_some_and(|known| known.pin == pin) {
            return false;
        }
        let file_system = mounts::file_system_at(&root.join(OsStr::from_bytes(path.as_bytes())));
        self.0.insert(path, Crossing { pin, file_system });
        true
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

    /// A place at, above or below `path` whose file system has gone from the source, which is `source`, at `root`.
    pub fn lost(&self, path: &RelPath, source: &Dir, root: &Path) -> Option<&RelPath> {
        let related = self.0.iter().filter(|(at, _)| at.is_within(path) || path.is_within(at));
        related.into_iter().find(|(at, crossing)| !crossing.is_there(at, source, root)).map(|(at, _)| at)
    }

    /// The same at `path` or above.
    pub fn lost_above(&self, path: &RelPath, source: &Dir, root: &Path) -> Option<&RelPath> {
        self.lost(path, source, root).filter(|at| path.is_within(at))
    }
}

impl Crossing {
    fn is_there(&self, at: &RelPath, source: &Dir, root: &Path) -> bool {
        let now = source.open(at).and_then(|dir| dir.pin());
        // One that was mounted before it, and has come to light, is another one.
        let is_mounted = now.is_ok_and(|now| now.is_mount_root && !now.is_on_older_mount(&self.pin));
        // It moves with the directories above it.
        is_mounted || self.file_system.as_ref().is_some_and(|lost| mounts::is_mounted_below(lost, root))
    }
}
