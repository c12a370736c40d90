//! The interface by which sweeps and previews read both trees. The source is always a directory. An
//! implementation decides where and how the replica is kept.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use crate::fs::digest;
use crate::fs::roots::{Lost, Roots};
use crate::fs::tree::{Dir, File, Listing};
use crate::model::entry::{DigestPair, Entry, Md5, Observed, XattrKinds, Xattrs};
use crate::model::error::{FsError, WorkError};
use crate::model::path::{Name, RelPath};

/// Both trees, before they are opened.
pub trait Trees: Clone + Send + Sync + 'static {
    type Replica: ReplicaView;

    /// Opens both roots and checks that they are still the same directories. Returns no replica if
    /// there is none yet.
    ///
    /// # Errors
    /// [`Lost`] if a root cannot be opened or is another directory now.
    fn open(&self) -> Result<(Dir, Option<Self::Replica>), Lost>;

    /// Whether `entry`, a directory of the source, is the replica's root, mounted there.
    fn is_replica(&self, entry: &Entry) -> bool;

    /// Whether `entry`, a directory of the replica, is the source's root, mounted there.
    fn is_source(&self, entry: &Entry) -> bool;

    /// Observes `name` on both sides. A reserved name counts as absent in the source (I7). Returns
    /// `None` if one root is mounted at this name in the other tree. Such a directory is neither
    /// mirrored nor deleted.
    fn see(
        &self,
        (source, replica): (&Dir, Option<&Self::Replica>),
        name: &Name,
    ) -> Option<(Observed, Observed)> {
        let bytes = name.as_bytes();
        let ours = if name.is_reserved() { Observed::Absent } else { source.observe(bytes) };
        let theirs = replica.map_or(Observed::Absent, |replica| replica.observe(bytes));
        let is_dir = |side: &Observed, test: &dyn Fn(&Entry) -> bool| {
            side.entry().is_some_and(|entry| entry.is_dir() && test(entry))
        };
        let other_root = is_dir(&ours, &|entry| self.is_replica(entry))
            || is_dir(&theirs, &|entry| self.is_source(entry));
        (!other_root).then_some((ours, theirs))
    }
}

/// A directory of the replica, open for reading.
pub trait ReplicaView: Sized + Send + Sync {
    /// Opens the directory at the path `dir` below this one. Follows no symlink (I3).
    ///
    /// # Errors
    /// If it cannot be opened; see [`FsError::is_dir_absence`].
    fn open(&self, dir: &RelPath) -> Result<Self, FsError>;

    /// Returns the facts of the directory itself.
    ///
    /// # Errors
    /// If they cannot be read.
    fn entry(&self) -> Result<Entry, FsError>;

    /// Lists the names in the directory, sorted.
    ///
    /// # Errors
    /// If not all names can be read. A name that is missing in a partial listing would not be known
    /// to be absent.
    fn list(&self) -> Result<Listing, FsError>;

    /// Observes what stands at `name`.
    fn observe(&self, name: &[u8]) -> Observed;

    /// Returns the extended attributes of the directory itself.
    ///
    /// # Errors
    /// If they cannot be read.
    fn xattrs(&self, kinds: XattrKinds) -> Result<Xattrs, FsError>;

    /// Opens a file in the directory. Also returns its facts when it was opened.
    ///
    /// # Errors
    /// If `name` is no regular file, or cannot be opened.
    fn open_file(&self, name: &[u8]) -> Result<(ReplicaFile, Entry), FsError>;
}

/// A file of the replica whose contents are compared.
pub enum ReplicaFile {
    /// A file that can be read here.
    Readable(File),
    /// A file that cannot be read here: the keeper of the replica has reported its MD5 and
    /// attributes.
    #[cfg_attr(not(test), expect(dead_code, reason = "only the replica in memory tells"))]
    Told { md5: Md5, xattrs: Xattrs },
}

impl ReplicaFile {
    /// Returns the MD5s of a pair of large files. `entry`: the facts of this file when it was
    /// opened. Calls `on_read` after each chunk with the number of bytes read.
    ///
    /// # Errors
    /// Read errors, and [`WorkError::Cancelled`] once `cancel` is set.
    pub fn compare_large(
        &self,
        entry: &Entry,
        source: (&File, &Entry),
        cancel: &AtomicBool,
        on_read: &(dyn Fn(u64) + Sync),
    ) -> Result<DigestPair, WorkError> {
        match self {
            Self::Readable(file) => digest::compare_large(source, (file, entry), cancel, on_read),
            Self::Told { md5, .. } => {
                let source = digest::md5_with_progress(source.0, source.1.size, cancel, on_read)?;
                Ok(DigestPair { source, replica: *md5 })
            }
        }
    }

    /// Returns the file's extended attributes. `kinds` selects those that are read from a file
    /// system; attributes that the keeper has reported are returned as they are.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn xattrs(&self, kinds: XattrKinds) -> Result<Xattrs, FsError> {
        match self {
            Self::Readable(file) => file.xattrs(kinds),
            Self::Told { xattrs, .. } => Ok(xattrs.clone()),
        }
    }
}

/// Lists the directory `top` below `root`, then, one after the other, the directories that `visit`
/// adds to its last argument. Calls `visit` with an error for a directory that cannot be opened or
/// listed. Only one directory is open at a time. Ends as soon as `visit` breaks.
pub fn descend<V: ReplicaView>(
    root: &V,
    top: RelPath,
    mut visit: impl FnMut(
        &RelPath,
        Result<(&V, &Listing), FsError>,
        &mut Vec<RelPath>,
    ) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut waiting = vec![top];
    while let Some(at) = waiting.pop() {
        match root.open(&at).and_then(|open| Ok((open.list()?, open))) {
            Ok((listing, open)) => visit(&at, Ok((&open, &listing)), &mut waiting)?,
            Err(error) => visit(&at, Err(error), &mut waiting)?,
        }
    }
    ControlFlow::Continue(())
}

impl ReplicaView for Dir {
    fn open(&self, dir: &RelPath) -> Result<Self, FsError> {
        Self::open(self, dir)
    }

    fn entry(&self) -> Result<Entry, FsError> {
        Self::entry(self)
    }

    fn list(&self) -> Result<Listing, FsError> {
        Self::list(self)
    }

    fn observe(&self, name: &[u8]) -> Observed {
        Self::observe(self, name)
    }

    fn xattrs(&self, kinds: XattrKinds) -> Result<Xattrs, FsError> {
        Self::xattrs(self, kinds)
    }

    fn open_file(&self, name: &[u8]) -> Result<(ReplicaFile, Entry), FsError> {
        Self::open_file(self, name).map(|(file, entry)| (ReplicaFile::Readable(file), entry))
    }
}

impl Trees for Roots {
    type Replica = Dir;

    fn open(&self) -> Result<(Dir, Option<Dir>), Lost> {
        if self.replica_id.is_none() {
            return self
                .source
                .open_source()
                .map(|(source, _)| (source, None))
                .map_err(Lost::Source);
        }
        Self::open(self).map(|(source, replica)| (source, Some(replica.into_reader())))
    }

    fn is_replica(&self, entry: &Entry) -> bool {
        self.replica_id.is_some_and(|id| entry.inode.id() == (id.dev, id.ino))
    }

    fn is_source(&self, entry: &Entry) -> bool {
        entry.inode.id() == (self.source_id.dev, self.source_id.ino)
    }
}
