//! Advice on errors for users.

use crate::model::error::FsError;

/// Returns what the user can do about an error, or an empty string. A cause that the error does not
/// prove is given with a "perhaps".
pub fn advice(error: &FsError) -> &'static str {
    use crate::model::error::{FsErrorKind as Kind, Side};
    match (error.kind, error.side) {
        (Kind::Denied | Kind::NotPermitted, Side::Source) => {
            " (give the user who runs twindir the right to read it)"
        }
        (Kind::Denied, Side::Replica) => " (give the user who runs twindir the right to change it)",
        (Kind::AppendOnlyDir | Kind::AppendOnlyMetadata, _) => {
            " (other entries of it wait too, and are not named: perhaps it is append-only, see lsattr)"
        }
        (Kind::NotPermitted | Kind::Locked, Side::Replica) => {
            " (give the user who runs twindir the right to change it; from root it may be locked by chattr, see lsattr)"
        }
        (Kind::Denied | Kind::NotPermitted, Side::Backup) => {
            " (give the user who runs twindir the right to write there)"
        }
        (Kind::NotFound | Kind::NotADirectory, Side::Backup) => {
            " (mount its disk, or make that folder again)"
        }
        (Kind::WouldBlock, Side::Source) => " (perhaps another program holds a lease on it)",
        (Kind::HoldsSource, _) => " (move the source out of the replica)",
        (Kind::IsMount | Kind::HoldsMount, _) => {
            " (another file system is mounted there: unmount it, or leave it)"
        }
        (Kind::Busy, _) => " (perhaps another program or a mount uses it)",
        (Kind::NoSpaceForXattrs, _) => {
            " (the replica's file system may be unable to store such large attributes)"
        }
        (Kind::NoSpace | Kind::OverQuota, _) => " (free some space there)",
        (Kind::ReadOnly, _) => " (mount that file system for writing)",
        (Kind::Io, _) => {
            " (perhaps the disk is failing, or what serves this file system: see the kernel's messages, and check your \
             other copies)"
        }
        (Kind::SymlinkLoop, _) => " (symlinks lead in a circle there: name the directory itself)",
        (Kind::TooManyOpenFiles, _) => " (raise the limit on open files: ulimit -n)",
        (Kind::OpensOtherDevice, Side::Replica) => {
            " (another file system is mounted there: twindir does not enter it)"
        }
        (Kind::CrossDevice, Side::Replica) => {
            " (perhaps another file system is mounted there, or this one cannot rename what lies in two of its layers)"
        }
        (Kind::HoldsExcluded, _) => " (remove what is excluded there, or exclude the name too)",
        (Kind::NotEmpty, Side::Replica) => " (perhaps another program writes there)",
        (Kind::Stale, Side::Backup) => {
            " (another directory stands at its path: mount its disk again, or restart twindir)"
        }
        (Kind::Stale, _) => " (perhaps it was removed on the server meanwhile)",
        (Kind::SymlinkTooLong, _) => {
            " (perhaps the symlink's target is longer than the replica's file system can store)"
        }
        (Kind::NameTooLong, _) => {
            " (perhaps the replica's file system cannot store such a long name)"
        }
        (Kind::Endless, _) => {
            " (its size says little, and 64 MiB more were read than that: leave it out with --exclude)"
        }
        (Kind::TooLarge, _) => {
            " (the replica's file system, or a limit on sizes, ulimit -f, does not allow so large a file)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::{FsErrorKind, Side};

    #[test]
    fn what_an_error_does_not_prove_is_said_with_a_perhaps() {
        let advice = |kind| advice(&FsError::found("rename", Side::Replica, kind));
        for kind in [
            FsErrorKind::CrossDevice,
            FsErrorKind::Io,
            FsErrorKind::SymlinkTooLong,
            FsErrorKind::NameTooLong,
            FsErrorKind::Stale,
            FsErrorKind::Busy,
            FsErrorKind::NotEmpty,
        ] {
            assert!(advice(kind).contains("perhaps"), "{kind:?}");
        }
        assert!(advice(FsErrorKind::SymlinkTooLong).contains("target"));
        for kind in [FsErrorKind::OpensOtherDevice, FsErrorKind::HoldsMount] {
            assert!(!advice(kind).contains("perhaps"), "{kind:?}");
        }
    }
}
