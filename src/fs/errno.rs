//! Translates errno values. Code above this folder decides by [`FsErrorKind`], never by number.

use rustix::io::Errno;

use crate::model::error::{FsError, FsErrorKind, Side};

/// Returns the kind of an error, independent of the operation that failed.
pub fn kind_of(errno: Errno) -> FsErrorKind {
    match errno {
        Errno::NOENT => FsErrorKind::NotFound,
        Errno::EXIST => FsErrorKind::Exists,
        Errno::ACCESS => FsErrorKind::Denied,
        Errno::PERM => FsErrorKind::NotPermitted,
        Errno::NOTDIR => FsErrorKind::NotADirectory,
        Errno::ISDIR => FsErrorKind::IsADirectory,
        Errno::LOOP => FsErrorKind::SymlinkLoop,
        Errno::NOTEMPTY => FsErrorKind::NotEmpty,
        Errno::NOSPC => FsErrorKind::NoSpace,
        Errno::DQUOT => FsErrorKind::OverQuota,
        Errno::ROFS => FsErrorKind::ReadOnly,
        Errno::BUSY => FsErrorKind::Busy,
        Errno::IO => FsErrorKind::Io,
        Errno::OPNOTSUPP | Errno::NOSYS => FsErrorKind::Unsupported,
        Errno::INVAL => FsErrorKind::Invalid,
        Errno::TIMEDOUT => FsErrorKind::TimedOut,
        Errno::AGAIN => FsErrorKind::WouldBlock,
        Errno::XDEV => FsErrorKind::CrossDevice,
        Errno::NAMETOOLONG => FsErrorKind::NameTooLong,
        Errno::STALE => FsErrorKind::Stale,
        Errno::MFILE | Errno::NFILE => FsErrorKind::TooManyOpenFiles,
        Errno::MLINK => FsErrorKind::TooManyLinks,
        Errno::FBIG => FsErrorKind::TooLarge,
        Errno::NXIO => FsErrorKind::NoDevice,
        _ => FsErrorKind::Other,
    }
}

/// Returns the error of a failed system call. `operation`: its purpose, in words for the user.
pub fn fs_error(operation: &'static str, side: Side, errno: Errno) -> FsError {
    let (kind, errno) = (kind_of(errno), Some(errno.raw_os_error()));
    FsError { operation, side, kind, errno, needed: None }
}
