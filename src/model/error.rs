//! What can go wrong with one entry.

use std::fmt;

use rustix::io::Errno;

/// Which of the two trees, or what was in the replica and is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Source,
    Replica,
    Backup,
}

impl Side {
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Replica => "replica",
            Side::Backup => "backup folder",
        }
    }
}

/// A system call on an entry that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub struct FsError {
    /// What was to be done, as in "cannot _open the file_".
    pub operation: &'static str,
    pub side: Side,
    pub errno: Errno,
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} in the {}: {}", self.operation, self.side.as_str(), self.reason())
    }
}

impl FsError {
    /// The system's own words for the error.
    pub fn reason(&self) -> String {
        let error = std::io::Error::from(self.errno).to_string();
        error.split(" (os error").next().unwrap_or_default().to_owned()
    }

    /// Whether the name was not there: the only sign of absence (I5).
    pub fn is_absence(&self) -> bool {
        self.errno == Errno::NOENT
    }

    /// Whether this is how a file system answers that does not know a flag of `renameat2`.
    pub fn is_unknown_flag(&self) -> bool {
        matches!(self.errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
    }

    /// Whether the replica's file system (or that of the backups) takes nothing more for now, whatever the entry: it is
    /// full, the quota is used up, or it is read-only.
    pub fn is_refusal(&self) -> bool {
        self.side != Side::Source && matches!(self.errno, Errno::NOSPC | Errno::DQUOT | Errno::ROFS)
    }

    /// Whether it was met when extended attributes were set.
    pub fn is_of_attributes(&self) -> bool {
        matches!(self.operation, "set the extended attributes" | "set the ACL")
    }

    /// Whether a directory was looked for and what stands there is none, or nothing is there.
    pub fn is_no_dir(&self) -> bool {
        matches!(self.errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
    }

    #[cfg(test)]
    pub fn for_test() -> Self {
        FsError { operation: "look at it", side: Side::Source, errno: Errno::ACCESS }
    }
}

/// For the removal of an entry: that it has gone already is as good.
pub fn gone_is_fine(error: FsError) -> Result<(), FsError> {
    if error.is_absence() { Ok(()) } else { Err(error) }
}

/// Why nothing is put into a directory that lets nothing be renamed or removed: only temporary entries would come of it.
pub const GIVES_NOTHING_BACK: FsError = FsError {
    operation: "rename or remove anything in the directory",
    side: Side::Replica,
    errno: Errno::PERM,
};

/// Why such a directory keeps the metadata that it has.
pub const TAKES_NO_METADATA: FsError = FsError {
    operation: "change times, mode or owner of the directory",
    side: Side::Replica,
    errno: Errno::PERM,
};

/// Why an entry of the replica stays as it is that is append-only or immutable.
pub const LOCKED: FsError =
    FsError { operation: "change what is append-only or immutable", side: Side::Replica, errno: Errno::PERM };

/// Why a file is not copied whose contents go on long after the end that its size tells.
pub const ENDLESS: FsError =
    FsError { operation: "find the end of the file", side: Side::Source, errno: Errno::FBIG };

/// Why a look at an entry did not come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WorkError {
    /// A system call failed: a Problem, tried again later.
    FsError(FsError),
    /// The entry changed while it was worked on: tried again soon.
    Changed,
    /// twindir is to stop, or the work was overtaken by another change.
    Cancelled,
}

impl From<FsError> for WorkError {
    fn from(error: FsError) -> Self {
        WorkError::FsError(error)
    }
}
