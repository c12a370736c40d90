//! The roots of both trees, and the check that they are still the same directories.

use crate::fs::tree::{Dir, DirId, Quirks, ReplicaDir, Root};
use crate::model::error::FsError;
use crate::plan::metadata::Capabilities;

/// The paths of both roots, and the identities of the directories there.
#[derive(Clone, Debug)]
pub struct Roots {
    pub source: Root,
    pub replica: Root,
    pub source_id: DirId,
    /// `None` if the replica does not exist yet: a preview then only reads.
    pub replica_id: Option<DirId>,
}

impl Roots {
    /// Detects the quirks of the source's file system and stores them in `source.quirks`.
    /// `capabilities`: those of the replica.
    pub fn find_quirks(&mut self, capabilities: &Capabilities) {
        let source = self.source.open_source();
        self.source.quirks = Quirks {
            refuses_xattrs: source.is_ok_and(|(dir, _)| dir.refuses_xattrs()),
            modes_without_acl: capabilities.modes && !capabilities.xattrs.acl,
        };
    }

    /// Whether both trees are on local file systems: see [`Root::foreign_file_system`].
    pub fn are_local(&self) -> bool {
        [&self.source, &self.replica].iter().all(|root| root.foreign_file_system().is_none())
    }

    /// Opens both roots and checks that they are still the same directories.
    ///
    /// # Errors
    /// [`Lost`] if a root cannot be opened or is another directory now.
    pub fn open(&self) -> Result<(Dir, ReplicaDir), Lost> {
        let (source, id) = self.source.open_source().map_err(Lost::Source)?;
        if id != self.source_id {
            return Err(Lost::SourceReplaced);
        }
        let (replica, id) = self.replica.open_replica().map_err(Lost::Replica)?;
        if Some(id) != self.replica_id {
            return Err(Lost::ReplicaReplaced);
        }
        Ok((source, replica))
    }
}

/// The reason why a round or a sweep could not begin, or was given up: a root cannot be opened, or
/// is another directory now.
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
