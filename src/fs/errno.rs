//! What the numbers of errors mean. Whoever is above this folder decides by kinds, not by numbers.

use rustix::io::Errno;

use crate::model::error::{FsError, FsErrorKind, Side};

/// What a number means, whatever was to be done.
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

/// The error of a system call that failed.
pub fn fs_error(operation: &'static str, side: Side, errno: Errno) -> FsError {
    FsError { operation, side, kind: kind_of(errno), errno: Some(errno.raw_os_error()) }
}
