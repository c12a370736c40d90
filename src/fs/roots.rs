//! The roots of both trees, and whether they are still the directories that they were.

use crate::fs::tree::{Dir, DirId, Quirks, ReplicaDir, Root};
use crate::model::error::FsError;
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
