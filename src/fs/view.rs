//! How the two trees are read by whoever compares them: sweeps and previews. The source is always
//! a directory here; where and how the replica is kept is for whoever implements this.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use crate::fs::digest;
use crate::fs::roots::{Lost, Roots};
use crate::fs::tree::{Dir, File, Listing};
use crate::model::entry::{DigestPair, Entry, Md5, Observed, XattrKinds, Xattrs};
use crate::model::error::{FsError, WorkError};
use crate::model::path::{Name, RelPath};

/// Both trees, not open yet.
pub trait Trees: Clone + Send + Sync + 'static {
    type Replica: ReplicaView;

    /// Opens both roots, and sees that they are what they were. No replica: there is none yet.
    ///
    /// # Errors
    /// Where one cannot be opened, or is another one now.
    fn open(&self) -> Result<(Dir, Option<Self::Replica>), Lost>;

    /// Whether a directory of the source is the replica's root, mounted there.
    fn is_replica(&self, entry: &Entry) -> bool;

    /// Whether a directory of the replica is the source's root, mounted there.
    fn is_source(&self, entry: &Entry) -> bool;

    /// Looks at a name on both sides. A reserved name counts as absent in the source (I7).
    /// `None` where it is one root, mounted inside the other: such a directory is left alone.
    fn see(
        &self,
        (source, replica): (&Dir, Option<&Self::Replica>),
        name: &Name,
    ) -> Option<(Observed, Observed)> {
        let bytes = name.as_bytes();
        let ours = if name.is_reserved() { Observed::Absent } else { source.look(bytes) };
        let theirs = replica.map_or(Observed::Absent, |replica| replica.look(bytes));
        let is_dir = |side: &Observed, test: &dyn Fn(&Entry) -> bool| {
            side.entry().is_some_and(|entry| entry.is_dir() && test(entry))
        };
        let other_root = is_dir(&ours, &|entry| self.is_replica(entry))
            || is_dir(&theirs, &|entry| self.is_source(entry));
        (!other_root).then_some((ours, theirs))
    }
}

/// A directory of the replica, to be read.
pub trait ReplicaView: Sized + Send + Sync {
    /// The directory at a path below this one. No symlink is followed (I3).
    ///
    /// # Errors
    /// Where it cannot be opened; see [`FsError::is_dir_absence`].
    fn open(&self, dir: &RelPath) -> Result<Self, FsError>;

    /// The directory itself.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    fn entry(&self) -> Result<Entry, FsError>;

    /// The names in it, in their order.
    ///
    /// # Errors
    /// Where not all of them can be read: what is not listed is not known to be absent.
    fn list(&self) -> Result<Listing, FsError>;

    /// What stands at a name.
    fn look(&self, name: &[u8]) -> Observed;

    /// The attributes of the directory itself.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn xattrs(&self, kinds: XattrKinds) -> Result<Xattrs, FsError>;

    /// A file in it, and what it was when it was opened.
    ///
    /// # Errors
    /// Where no file stands at the name, or it cannot be read.
    fn open_file(&self, name: &[u8]) -> Result<(ReplicaFile, Entry), FsError>;
}

/// A file of the replica whose contents are to be compared.
pub enum ReplicaFile {
    /// Its contents can be read here.
    Readable(File),
    /// Whoever keeps it has told what they are.
    #[cfg_attr(not(test), expect(dead_code, reason = "only the replica in memory tells"))]
    Told { md5: Md5, xattrs: Xattrs },
}

impl ReplicaFile {
    /// The MD5s of a pair of large files. `entry`: what this one was when it was opened. `heard` is
    /// told of the bytes that were read, now and then.
    ///
    /// # Errors
    /// Read errors, and [`WorkError::Cancelled`].
    pub fn compare_large(
        &self,
        entry: &Entry,
        source: (&File, &Entry),
        cancel: &AtomicBool,
        heard: &(dyn Fn(u64) + Sync),
    ) -> Result<DigestPair, WorkError> {
        match self {
            Self::Readable(file) => digest::compare_large(source, (file, entry), cancel, heard),
            Self::Told { md5, .. } => {
                let source = digest::md5_heard(source.0, source.1.size, cancel, heard)?;
                Ok(DigestPair { source, replica: *md5 })
            }
        }
    }

    /// Its attributes.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn xattrs(&self, kinds: XattrKinds) -> Result<Xattrs, FsError> {
        match self {
            Self::Readable(file) => file.xattrs(kinds),
            Self::Told { xattrs, .. } => Ok(xattrs.clone()),
        }
    }
}

/// Lists the directory `top` below `root`, and then, one after the other, those that `visit` adds to
/// what it is given. One directory is open at a time. Ends as soon as `visit` breaks.
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

    fn look(&self, name: &[u8]) -> Observed {
        Self::look(self, name)
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
        if self.replica_pin.is_none() {
            return self
                .source
                .open_source()
                .map(|(source, _)| (source, None))
                .map_err(Lost::Source);
        }
        Self::open(self).map(|(source, replica)| (source, Some(replica.into_reader())))
    }

    fn is_replica(&self, entry: &Entry) -> bool {
        self.replica_pin.is_some_and(|pin| entry.inode.id() == (pin.dev, pin.ino))
    }

    fn is_source(&self, entry: &Entry) -> bool {
        entry.inode.id() == (self.source_pin.dev, self.source_pin.ino)
    }
}
