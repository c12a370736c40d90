//! Opens a path below a root, without following a symlink anywhere (I3).

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::{Errno, Result};

use super::stat_fd;
use super::sys::{openat, openat2};
use crate::model::error::Side;
use crate::model::path::RelPath;

pub(super) const DIR_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

/// Most bytes of a path that are given to the kernel in one piece. `PATH_MAX` is 4096 with the
/// final NUL.
const PIECE: usize = 4000;

/// Set once a call has shown that `openat2` is missing: in a kernel before 5.6, or in a sandbox.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Opens the directory at `rel` below `root`, which must be an open directory.
///
/// # Errors
/// `EXDEV` for a mount point on the way, except in the source. `ELOOP` or `ENOTDIR` for a symlink
/// on the way.
pub(super) fn open_beneath(root: impl AsFd, rel: &RelPath, side: Side) -> Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    for piece in pieces(rel.as_bytes()) {
        let base = at.as_ref().map_or_else(|| root.as_fd(), AsFd::as_fd);
        let next = open_piece(base, piece, side)?;
        at = Some(next);
    }
    match at {
        Some(fd) => Ok(fd),
        None => openat(root, c".", DIR_FLAGS, Mode::empty()),
    }
}

fn open_piece(base: impl AsFd, piece: &[u8], side: Side) -> Result<OwnedFd> {
    if NO_OPENAT2.load(Ordering::Relaxed) {
        return open_by_component(base, piece, side);
    }
    let mut resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if side != Side::Source {
        resolve |= ResolveFlags::NO_XDEV;
    }
    // EAGAIN: a rename somewhere in the system ran during the resolution (openat2(2)). EXDEV in the
    // source, where mounts may be entered: the directory was moved out of the tree just then.
    let mut tries = 0;
    loop {
        match openat2(base.as_fd(), piece, DIR_FLAGS, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < 64 => tries += 1,
            Err(Errno::XDEV) if side == Side::Source && tries < 64 => tries += 1,
            Err(Errno::AGAIN) => return open_by_component(base, piece, side),
            Err(Errno::NOSYS | Errno::PERM) if probe_missing(base.as_fd()) => {
                NO_OPENAT2.store(true, Ordering::Relaxed);
                return open_by_component(base, piece, side);
            }
            other => return other,
        }
    }
}

/// Whether `openat2` fails even for `.`. Seccomp filters answer EPERM instead of ENOSYS.
fn probe_missing(base: impl AsFd) -> bool {
    openat2(base, c".", DIR_FLAGS, Mode::empty(), ResolveFlags::BENEATH).is_err()
}

/// Opens `piece` below `base` without `openat2`: one `O_NOFOLLOW` open for each component. A
/// component is one name, so nothing can lead out of the root.
fn open_by_component(base: impl AsFd, piece: &[u8], side: Side) -> Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    for name in piece.split(|b| *b == b'/') {
        let base = at.as_ref().map_or_else(|| base.as_fd(), AsFd::as_fd);
        let next = openat(base, name, DIR_FLAGS, Mode::empty())?;
        if side != Side::Source && mount_of(base)? != mount_of(&next)? {
            return Err(Errno::XDEV);
        }
        at = Some(next);
    }
    at.ok_or(Errno::NOENT)
}

/// Returns the mount and device that a descriptor lies on.
fn mount_of(fd: impl AsFd) -> Result<(u64, u32, u32)> {
    let stat = stat_fd(fd, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    Ok((stat.stx_mnt_id, stat.stx_dev_major, stat.stx_dev_minor))
}

/// Cuts a path at slashes into pieces of at most [`PIECE`] bytes.
fn pieces(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = path;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if rest.len() <= PIECE {
            return Some(std::mem::take(&mut rest));
        }
        // A name has at most 255 bytes, so there is a slash.
        let cut = rest[..PIECE].iter().rposition(|b| *b == b'/').unwrap_or(PIECE);
        let piece = &rest[..cut];
        rest = &rest[(cut + 1).min(rest.len())..];
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn open_root(path: &std::path::Path) -> OwnedFd {
        openat(rustix::fs::CWD, path, DIR_FLAGS, Mode::empty()).unwrap()
    }

    #[test]
    fn both_ways_of_resolving_refuse_symlinks_and_agree() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("root/a/b")).unwrap();
        fs::create_dir_all(top.path().join("out/b")).unwrap();
        symlink("../out", top.path().join("root/link")).unwrap();
        symlink("a", top.path().join("root/inner")).unwrap();
        fs::write(top.path().join("root/file"), "x").unwrap();
        let root = open_root(&top.path().join("root"));
        for (path, wanted) in [
            ("a/b", None),
            ("a/none", Some(&[Errno::NOENT][..])),
            ("link", Some(&[Errno::LOOP, Errno::NOTDIR])),
            ("link/b", Some(&[Errno::LOOP, Errno::NOTDIR])),
            ("inner/b", Some(&[Errno::LOOP, Errno::NOTDIR])),
            ("file", Some(&[Errno::NOTDIR])),
            ("file/x", Some(&[Errno::NOTDIR])),
        ] {
            for side in [Side::Source, Side::Replica] {
                for result in [
                    open_piece(&root, path.as_bytes(), side),
                    open_by_component(&root, path.as_bytes(), side),
                ] {
                    match wanted {
                        None => assert!(result.is_ok(), "{path}: {result:?}"),
                        Some(errors) => assert!(errors.contains(&result.unwrap_err()), "{path}"),
                    }
                }
            }
        }
    }

    #[test]
    fn paths_longer_than_the_kernel_takes_are_opened_in_pieces() {
        let top = tempfile::tempdir().unwrap();
        let name = [b'n'; 250];
        let mut at = open_root(top.path());
        let mut path = Vec::new();
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, &name[..], Mode::RWXU).unwrap();
            at = openat(&at, &name[..], DIR_FLAGS, Mode::empty()).unwrap();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
        }
        assert!(path.len() > 10_000);
        let deep =
            open_beneath(open_root(top.path()), &RelPath::new(&path).unwrap(), Side::Replica)
                .unwrap();
        let ino = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!(ino(&deep), ino(&at));
    }
}
