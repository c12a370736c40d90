//! What can go wrong with one entry.

use std::fmt;

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

/// What a failed call on an entry means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FsErrorKind {
    /// The name is not there: the only sign of absence (I5).
    NotFound,
    Exists,
    /// Mode or ACL forbid it to this user.
    Denied,
    /// The system forbids it to this user, or to everybody.
    NotPermitted,
    NotADirectory,
    IsADirectory,
    /// Symlinks lead in a circle, or one stands where none is followed.
    SymlinkLoop,
    NotEmpty,
    NoSpace,
    /// The file system has no space for extended attributes. It may have space for contents.
    NoSpaceForXattrs,
    OverQuota,
    ReadOnly,
    Busy,
    /// Another file system is mounted at the entry.
    IsMount,
    /// Another file system is mounted in the directory.
    HoldsMount,
    /// The source lies in the directory.
    HoldsSource,
    /// The directory holds excluded entries.
    HoldsExcluded,
    /// The directory is append-only: nothing in it can be renamed or deleted.
    GivesNothingBack,
    /// The directory is append-only: its metadata cannot be changed.
    TakesNoMetadata,
    /// The entry is append-only or immutable.
    Locked,
    Io,
    Unsupported,
    Invalid,
    TimedOut,
    WouldBlock,
    /// A rename between two file systems, layers or branches.
    CrossDevice,
    /// A directory that may be opened in one file system only lies in another.
    OpensOtherDevice,
    NameTooLong,
    /// The name of a symlink, or what it points to, is too long.
    SymlinkTooLong,
    /// The server does not know the entry any more.
    Stale,
    TooManyOpenFiles,
    TooManyLinks,
    TooLarge,
    /// The contents go on long after the end that the size tells.
    Endless,
    NoDevice,
    Other,
}

impl FsErrorKind {
    /// The words for errors that twindir has found by itself. Those of a system call have the
    /// system's.
    fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "No such file or directory",
            Self::Exists => "File exists",
            Self::Denied => "Permission denied",
            Self::NotPermitted | Self::GivesNothingBack | Self::TakesNoMetadata | Self::Locked => {
                "Operation not permitted"
            }
            Self::NotADirectory => "Not a directory",
            Self::IsADirectory => "Is a directory",
            Self::SymlinkLoop => "Too many levels of symbolic links",
            Self::NotEmpty | Self::HoldsExcluded => "Directory not empty",
            Self::NoSpace | Self::NoSpaceForXattrs => "No space left on device",
            Self::OverQuota => "Disk quota exceeded",
            Self::ReadOnly => "Read-only file system",
            Self::Busy | Self::IsMount | Self::HoldsMount | Self::HoldsSource => {
                "Device or resource busy"
            }
            Self::Io => "Input/output error",
            Self::Unsupported => "Operation not supported",
            Self::Invalid => "Invalid argument",
            Self::TimedOut => "Connection timed out",
            Self::WouldBlock => "Resource temporarily unavailable",
            Self::CrossDevice | Self::OpensOtherDevice => "Invalid cross-device link",
            Self::NameTooLong | Self::SymlinkTooLong => "File name too long",
            Self::Stale => "Stale file handle",
            Self::TooManyOpenFiles => "Too many open files",
            Self::TooManyLinks => "Too many links",
            Self::TooLarge | Self::Endless => "File too large",
            Self::NoDevice => "No such device or address",
            Self::Other => "the call has failed",
        }
    }
}

/// A system call on an entry that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub struct FsError {
    /// What was to be done, as in "cannot _open the file_".
    pub operation: &'static str,
    pub side: Side,
    pub kind: FsErrorKind,
    /// The number that the system gave, for its words; `None` for an error that twindir has found
    /// by itself.
    pub errno: Option<i32>,
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} in the {}: {}", self.operation, self.side.as_str(), self.reason())
    }
}

impl FsError {
    /// An error that twindir has found by itself.
    pub const fn found(operation: &'static str, side: Side, kind: FsErrorKind) -> Self {
        Self { operation, side, kind, errno: None }
    }

    /// The same error, where it is of this kind, as one that means more here.
    pub fn remap_kind(self, kind: FsErrorKind, means: FsErrorKind) -> Self {
        if self.kind == kind { Self { kind: means, ..self } } else { self }
    }

    /// The system's own words for the error.
    pub fn reason(&self) -> String {
        let Some(errno) = self.errno else { return self.kind.as_str().to_owned() };
        let error = std::io::Error::from_raw_os_error(errno).to_string();
        error.split(" (os error").next().unwrap_or_default().to_owned()
    }

    /// Whether the name was not there: the only sign of absence (I5).
    pub fn is_absence(&self) -> bool {
        self.kind == FsErrorKind::NotFound
    }

    /// Whether this is how a file system answers that does not know a flag of `renameat2`.
    pub fn is_unknown_flag(&self) -> bool {
        matches!(self.kind, FsErrorKind::Invalid | FsErrorKind::Unsupported)
    }

    /// Whether this user may not do that.
    pub fn is_forbidden(&self) -> bool {
        matches!(self.kind, FsErrorKind::Denied | FsErrorKind::NotPermitted)
    }

    /// Whether the replica's file system (or that of the backups) takes nothing more for now,
    /// whatever the entry: it is full, the quota is used up, or it is read-only.
    pub fn is_refusal(&self) -> bool {
        let is_full = matches!(
            self.kind,
            FsErrorKind::NoSpace
                | FsErrorKind::NoSpaceForXattrs
                | FsErrorKind::OverQuota
                | FsErrorKind::ReadOnly
        );
        self.side != Side::Source && is_full
    }

    /// Whether a directory was looked for and what stands there is none, or nothing is there.
    pub fn is_dir_absence(&self) -> bool {
        matches!(
            self.kind,
            FsErrorKind::NotFound | FsErrorKind::NotADirectory | FsErrorKind::SymlinkLoop
        )
    }

    #[cfg(test)]
    pub fn for_test() -> Self {
        Self::found("look at it", Side::Source, FsErrorKind::Denied)
    }
}

/// For the removal of an entry: that it has gone already is as good.
pub fn gone_is_fine(error: FsError) -> Result<(), FsError> {
    if error.is_absence() { Ok(()) } else { Err(error) }
}

/// Why nothing is put into a directory that lets nothing be renamed or removed: only temporary
/// entries would come of it.
pub const GIVES_NOTHING_BACK: FsError = FsError::found(
    "rename or remove anything in the directory",
    Side::Replica,
    FsErrorKind::GivesNothingBack,
);

/// Why such a directory keeps the metadata that it has.
pub const TAKES_NO_METADATA: FsError = FsError::found(
    "change times, mode or owner of the directory",
    Side::Replica,
    FsErrorKind::TakesNoMetadata,
);

/// Why an entry of the replica stays as it is that is append-only or immutable.
pub const LOCKED: FsError =
    FsError::found("change what is append-only or immutable", Side::Replica, FsErrorKind::Locked);

/// Why a file is not copied whose contents go on long after the end that its size tells.
pub const ENDLESS: FsError =
    FsError::found("find the end of the file", Side::Source, FsErrorKind::Endless);

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
