//! Errors of one entry.

use std::fmt;

/// The source, the replica, or the folder of backups.
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

/// The meaning of a failed call on an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FsErrorKind {
    /// The name does not exist: the only proof of absence (I5).
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
    AppendOnlyDir,
    /// The directory is append-only: its metadata cannot be changed.
    AppendOnlyMetadata,
    /// The entry is append-only or immutable.
    Locked,
    Io,
    Unsupported,
    Invalid,
    TimedOut,
    WouldBlock,
    /// A rename between two file systems, layers or branches.
    CrossDevice,
    /// A directory lies on another file system than its root, where that is not allowed.
    OpensOtherDevice,
    NameTooLong,
    /// The name of a symlink, or what it points to, is too long.
    SymlinkTooLong,
    /// The server does not know the entry any more.
    Stale,
    TooManyOpenFiles,
    TooManyLinks,
    TooLarge,
    /// The contents continue far beyond the size of the file.
    Endless,
    NoDevice,
    Other,
}

impl FsErrorKind {
    /// Returns the text for errors that twindir itself has found. An error of a system call has the
    /// system's text.
    fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "No such file or directory",
            Self::Exists => "File exists",
            Self::Denied => "Permission denied",
            Self::NotPermitted | Self::AppendOnlyDir | Self::AppendOnlyMetadata | Self::Locked => {
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

/// A failed operation on an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub struct FsError {
    /// The operation, as in "cannot _open the file_".
    pub operation: &'static str,
    pub side: Side,
    pub kind: FsErrorKind,
    /// The system's number of the error. `None` for an error that twindir itself has found.
    pub errno: Option<i32>,
    /// The bytes that the entry needs, if it is a file that did not fit.
    pub needed: Option<u64>,
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} in the {}: {}", self.operation, self.side.as_str(), self.reason())
    }
}

impl FsError {
    /// Makes an error that twindir itself has found.
    pub const fn found(operation: &'static str, side: Side, kind: FsErrorKind) -> Self {
        Self { operation, side, kind, errno: None, needed: None }
    }

    /// Replaces the kind `kind` by `means`, which is more precise for this operation. Any other
    /// kind stays.
    pub fn remap_kind(self, kind: FsErrorKind, means: FsErrorKind) -> Self {
        if self.kind == kind { Self { kind: means, ..self } } else { self }
    }

    /// Returns the text of the error: the system's if it has a number, else twindir's.
    pub fn reason(&self) -> String {
        let Some(errno) = self.errno else { return self.kind.as_str().to_owned() };
        let error = std::io::Error::from_raw_os_error(errno).to_string();
        error.split(" (os error").next().unwrap_or_default().to_owned()
    }

    /// Returns whether the name does not exist: the only proof of absence (I5).
    pub fn is_absence(&self) -> bool {
        self.kind == FsErrorKind::NotFound
    }

    /// Returns whether the error means that the file system does not know a flag of `renameat2`.
    pub fn is_unknown_flag(&self) -> bool {
        matches!(self.kind, FsErrorKind::Invalid | FsErrorKind::Unsupported)
    }

    /// Returns whether this user has no permission for the operation.
    pub fn is_forbidden(&self) -> bool {
        matches!(self.kind, FsErrorKind::Denied | FsErrorKind::NotPermitted)
    }

    /// Returns whether the file system of the replica or of the backups is out of space: full, over
    /// its quota, or read-only. Other entries would fail in the same way.
    pub fn is_out_of_space(&self) -> bool {
        let is_full = matches!(
            self.kind,
            FsErrorKind::NoSpace
                | FsErrorKind::NoSpaceForXattrs
                | FsErrorKind::OverQuota
                | FsErrorKind::ReadOnly
        );
        self.side != Side::Source && is_full
    }

    /// Returns whether there is no directory at the path: nothing is there, or something else.
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

/// Accepts that an entry to be deleted does not exist any more.
///
/// # Errors
/// Any other error.
pub fn ignore_absence(error: FsError) -> Result<(), FsError> {
    if error.is_absence() { Ok(()) } else { Err(error) }
}

/// The error for an append-only directory. Nothing is put into it, since a temporary entry could be
/// neither renamed nor deleted.
pub const APPEND_ONLY_DIR: FsError = FsError::found(
    "rename or remove anything in the directory",
    Side::Replica,
    FsErrorKind::AppendOnlyDir,
);

/// The error for an append-only directory whose metadata differs: it cannot be changed.
pub const APPEND_ONLY_METADATA: FsError = FsError::found(
    "change times, mode or owner of the directory",
    Side::Replica,
    FsErrorKind::AppendOnlyMetadata,
);

/// The error for an entry of the replica that is append-only or immutable: it stays as it is.
pub const LOCKED: FsError =
    FsError::found("change what is append-only or immutable", Side::Replica, FsErrorKind::Locked);

/// The error for a file whose contents continue far beyond its size: it is not copied.
pub const ENDLESS: FsError =
    FsError::found("find the end of the file", Side::Source, FsErrorKind::Endless);

/// The reason why work on an entry did not finish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WorkError {
    /// A system call failed: a problem, retried later.
    FsError(FsError),
    /// The entry changed during the work: retried soon.
    Changed,
    /// twindir stops, or another change has made the work obsolete.
    Cancelled,
}

impl From<FsError> for WorkError {
    fn from(error: FsError) -> Self {
        WorkError::FsError(error)
    }
}
