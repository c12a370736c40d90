//! The roots of both trees, and whether they are still the directories that they were.

use crate::fs::tree::{Dir, DirId, Quirks, ReplicaDir, Root};
use crate::model::entry::{Entry, Observed};
use crate::model::error::FsError;
use crate::model::path::Name;
use crate::plan::metadata::Capabilities;

/// Where the two trees lie and which directories they are.
#[derive(Clone, Debug)]
pub struct Roots {
    pub source: Root,
    pub replica: Root,
    pub source_pin: DirId,
    /// `None` where there is no replica yet: then it is only read what would be made.
    pub replica_pin: Option<DirId>,
}

impl Roots {
    /// Looks at a name on both sides. A reserved name counts as absent in the source (I7).
    /// `None` where it is one root, mounted inside the other: such a directory is left alone.
    pub fn see(
        &self,
        (source, replica): (&Dir, Option<&Dir>),
        name: &Name,
    ) -> Option<(Observed, Observed)> {
        let bytes = name.as_bytes();
        let ours = if name.is_reserved() { Observed::Absent } else { source.look(bytes) };
        let theirs = replica.map_or(Observed::Absent, |replica| replica.look(bytes));
        let is_dir = |side: &Observed, test: &dyn Fn(&Entry) -> bool| {
            side.entry().is_some_and(|entry| entry.is_dir() && test(entry))
        };
        let is_source =
            |entry: &Entry| entry.inode.id() == (self.source_pin.dev, self.source_pin.ino);
        let other_root =
            is_dir(&ours, &|entry| self.is_replica(entry)) || is_dir(&theirs, &is_source);
        (!other_root).then_some((ours, theirs))
    }

    /// Whether a directory is the replica's root.
    pub fn is_replica(&self, entry: &Entry) -> bool {
        self.replica_pin.is_some_and(|pin| entry.inode.id() == (pin.dev, pin.ino))
    }

    /// Finds out in which ways the source is to be looked at. `capabilities`: what the replica
    /// keeps.
    pub fn find_quirks(&mut self, capabilities: &Capabilities) {
        let source = self.source.open_source();
        self.source.quirks = Quirks {
            refuses_xattrs: source.is_ok_and(|(dir, _)| dir.refuses_xattrs()),
            modes_without_acl: capabilities.modes && !capabilities.xattrs.acl,
        };
    }

    /// Whether no other host and no user's program keeps either tree.
    pub fn are_local(&self) -> bool {
        [&self.source, &self.replica].iter().all(|root| root.foreign_file_system().is_none())
    }

    /// Opens both roots, and sees that they are the directories that were pinned.
    ///
    /// # Errors
    /// Where they are not.
    pub fn open(&self) -> Result<(Dir, ReplicaDir), Lost> {
        let (source, pin) = self.source.open_source().map_err(Lost::Source)?;
        if pin != self.source_pin {
            return Err(Lost::SourceReplaced);
        }
        let (replica, pin) = self.replica.open_replica().map_err(Lost::Replica)?;
        if Some(pin) != self.replica_pin {
            return Err(Lost::ReplicaReplaced);
        }
        Ok((source, replica))
    }
}

/// Why a round could not begin or was given up: the roots are not what they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Lost {
    #[error("{0}")]
    Source(FsError),
    #[error("the source is another directory now")]
    SourceReplaced,
    #[error("{0}")]
    Replica(FsError),
    #[error("the replica is another directory now")]
    ReplicaReplaced,
}
