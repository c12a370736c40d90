//! The same calls, each with the errors that it may meet. `ENOENT` is not injected if it would
//! prove an absence (I5): when an entry is observed, or a directory of the source is opened.

use std::mem::MaybeUninit;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, RawDirEntry, RenameFlags, ResolveFlags, SeekFrom, Statx,
    StatxFlags, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};
use rustix::path::Arg;

use super::plan::{attempt, shortened};

const LOOKING: [Errno; 5] = [Errno::ACCESS, Errno::IO, Errno::STALE, Errno::INTR, Errno::NOMEM];
const READING: [Errno; 3] = [Errno::IO, Errno::STALE, Errno::INTR];
const WRITING: [Errno; 4] = [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::INTR];
const MAKING: [Errno; 5] = [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ACCESS, Errno::STALE];
const SETTING: [Errno; 4] = [Errno::PERM, Errno::ACCESS, Errno::IO, Errno::ROFS];
const REMOVING: [Errno; 4] = [Errno::ACCESS, Errno::BUSY, Errno::IO, Errno::STALE];

/// Errors of calls that were done all the same.
const MADE: [Errno; 2] = [Errno::EXIST, Errno::IO];
const GONE: [Errno; 2] = [Errno::NOENT, Errno::IO];
const SET: [Errno; 1] = [Errno::IO];

pub fn openat<P: Arg, Fd: AsFd>(dir: Fd, path: P, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let gone = [&LOOKING[..], &[Errno::NOENT]].concat();
    let (before, after) = match () {
        () if flags.contains(OFlags::CREATE) => (&MAKING[..], &MADE[..]),
        // A file that was deleted between the check and this call.
        () if !flags.intersects(OFlags::DIRECTORY | OFlags::TMPFILE) => (&gone[..], &[][..]),
        () => (&LOOKING[..], &[][..]),
    };
    attempt("openat", before, after, || rustix::fs::openat(dir, path, flags, mode))
}

pub fn openat2<P: Arg, Fd: AsFd>(
    dir: Fd,
    path: P,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let mut before = [&LOOKING[..], &[Errno::AGAIN]].concat();
    let is_of_replica = resolve.contains(ResolveFlags::NO_XDEV);
    before.extend(is_of_replica.then_some(Errno::NOENT));
    attempt("openat2", &before, &[], || rustix::fs::openat2(dir, path, flags, mode, resolve))
}

pub fn statx<P: Arg, Fd: AsFd>(
    dir: Fd,
    path: P,
    flags: AtFlags,
    mask: StatxFlags,
) -> Result<Statx> {
    attempt("statx", &LOOKING, &[], || rustix::fs::statx(dir, path, flags, mask))
}

pub fn readlinkat<P: Arg, Fd: AsFd>(dir: Fd, path: P, reuse: Vec<u8>) -> Result<std::ffi::CString> {
    let before = [&LOOKING[..], &[Errno::INVAL]].concat();
    attempt("readlinkat", &before, &[], || rustix::fs::readlinkat(dir, path, reuse))
}

pub fn mkdirat<P: Arg, Fd: AsFd>(dir: Fd, path: P, mode: Mode) -> Result<()> {
    attempt("mkdirat", &MAKING, &MADE, || rustix::fs::mkdirat(dir, path, mode))
}

pub fn symlinkat<P: Arg, Q: Arg, Fd: AsFd>(target: P, dir: Fd, path: Q) -> Result<()> {
    attempt("symlinkat", &MAKING, &MADE, || rustix::fs::symlinkat(target, dir, path))
}

pub fn renameat<P: Arg, Q: Arg>(from: impl AsFd, name: P, to: impl AsFd, new: Q) -> Result<()> {
    let before = [&MAKING[..], &[Errno::XDEV]].concat();
    attempt("renameat", &before, &GONE, || rustix::fs::renameat(from, name, to, new))
}

pub fn linkat<P: Arg, Q: Arg>(
    from: impl AsFd,
    name: P,
    to: impl AsFd,
    new: Q,
    flags: AtFlags,
) -> Result<()> {
    attempt("linkat", &MAKING, &[], || rustix::fs::linkat(from, name, to, new, flags))
}

pub fn renameat_with<P: Arg, Q: Arg>(
    from: impl AsFd,
    name: P,
    to: impl AsFd,
    new: Q,
    flags: RenameFlags,
) -> Result<()> {
    // EINVAL: the file system does not support the flags.
    let before = [&MAKING[..], &[Errno::INVAL, Errno::XDEV]].concat();
    attempt("renameat2", &before, &GONE, || rustix::fs::renameat_with(from, name, to, new, flags))
}

pub fn unlinkat<P: Arg, Fd: AsFd>(dir: Fd, path: P, flags: AtFlags) -> Result<()> {
    attempt("unlinkat", &REMOVING, &GONE, || rustix::fs::unlinkat(dir, path, flags))
}

pub fn chmod<P: Arg>(path: P, mode: Mode) -> Result<()> {
    attempt("chmod", &SETTING, &SET, || rustix::fs::chmod(path, mode))
}

pub fn fchmod<Fd: AsFd>(fd: Fd, mode: Mode) -> Result<()> {
    attempt("fchmod", &SETTING, &SET, || rustix::fs::fchmod(fd, mode))
}

pub fn fchown<Fd: AsFd>(fd: Fd, owner: Option<Uid>, group: Option<Gid>) -> Result<()> {
    attempt("fchown", &SETTING, &SET, || rustix::fs::fchown(fd, owner, group))
}

pub fn chownat<P: Arg, Fd: AsFd>(
    dir: Fd,
    path: P,
    owner: Option<Uid>,
    group: Option<Gid>,
    flags: AtFlags,
) -> Result<()> {
    attempt("fchownat", &SETTING, &SET, || rustix::fs::chownat(dir, path, owner, group, flags))
}

pub fn fdatasync<Fd: AsFd>(fd: Fd) -> Result<()> {
    attempt("fdatasync", &WRITING, &[], || rustix::fs::fdatasync(fd))
}

pub fn futimens<Fd: AsFd>(fd: Fd, times: &Timestamps) -> Result<()> {
    attempt("futimens", &SETTING, &SET, || rustix::fs::futimens(fd, times))
}

pub fn utimensat<P: Arg, Fd: AsFd>(
    dir: Fd,
    path: P,
    times: &Timestamps,
    flags: AtFlags,
) -> Result<()> {
    attempt("utimensat", &SETTING, &SET, || rustix::fs::utimensat(dir, path, times, flags))
}

pub fn flistxattr<Fd: AsFd>(fd: Fd, list: &mut [u8]) -> Result<usize> {
    attempt("flistxattr", &READING, &[], || rustix::fs::flistxattr(fd, list))
}

pub fn fgetxattr<Fd: AsFd, P: Arg>(fd: Fd, name: P, value: &mut [u8]) -> Result<usize> {
    let before = [&READING[..], &[Errno::NODATA]].concat();
    attempt("fgetxattr", &before, &[], || rustix::fs::fgetxattr(fd, name, value))
}

pub fn lgetxattr<P: Arg, N: Arg>(path: P, name: N, value: &mut [u8]) -> Result<usize> {
    let before = [&READING[..], &[Errno::NODATA]].concat();
    attempt("lgetxattr", &before, &[], || rustix::fs::lgetxattr(path, name, value))
}

pub fn fsetxattr<Fd: AsFd, P: Arg>(fd: Fd, name: P, value: &[u8], flags: XattrFlags) -> Result<()> {
    let before = [&SETTING[..], &[Errno::NOSPC, Errno::DQUOT]].concat();
    attempt("fsetxattr", &before, &SET, || rustix::fs::fsetxattr(fd, name, value, flags))
}

pub fn fremovexattr<Fd: AsFd, P: Arg>(fd: Fd, name: P) -> Result<()> {
    attempt("fremovexattr", &SETTING, &SET, || rustix::fs::fremovexattr(fd, name))
}

pub fn ftruncate<Fd: AsFd>(fd: Fd, len: u64) -> Result<()> {
    attempt("ftruncate", &WRITING, &SET, || rustix::fs::ftruncate(fd, len))
}

pub fn seek<Fd: AsFd>(fd: Fd, to: SeekFrom) -> Result<u64> {
    let before = [&READING[..], &[Errno::INVAL]].concat();
    attempt("lseek", &before, &[], || rustix::fs::seek(fd, to))
}

pub fn ioctl_ficlone<Fd: AsFd, Source: AsFd>(fd: Fd, source: Source) -> Result<()> {
    attempt("FICLONE", &[Errno::OPNOTSUPP, Errno::NOSPC], &[], || {
        rustix::fs::ioctl_ficlone(fd, source)
    })
}

pub fn copy_file_range<In: AsFd, Out: AsFd>(
    source: In,
    from: Option<&mut u64>,
    fd: Out,
    to: Option<&mut u64>,
    len: usize,
) -> Result<usize> {
    let before = [&WRITING[..], &[Errno::XDEV, Errno::STALE]].concat();
    let len = shortened("copy_file_range", len);
    attempt("copy_file_range", &before, &[], || {
        rustix::fs::copy_file_range(source, from, fd, to, len)
    })
}

pub fn pread<Fd: AsFd>(fd: Fd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let len = shortened("pread", buffer.len());
    attempt("pread", &READING, &[], || rustix::io::pread(fd, &mut buffer[..len], offset))
}

pub fn pwrite<Fd: AsFd>(fd: Fd, bytes: &[u8], offset: u64) -> Result<usize> {
    let len = shortened("pwrite", bytes.len());
    attempt("pwrite", &WRITING, &[], || rustix::io::pwrite(fd, &bytes[..len], offset))
}

/// A reader of a directory that may fail at any name.
pub struct RawDir<'a, Fd: AsFd>(rustix::fs::RawDir<'a, Fd>);

impl<'a, Fd: AsFd> RawDir<'a, Fd> {
    pub fn new(fd: Fd, buffer: &'a mut [MaybeUninit<u8>]) -> Self {
        Self(rustix::fs::RawDir::new(fd, buffer))
    }

    pub fn next(&mut self) -> Option<Result<RawDirEntry<'_>>> {
        match attempt("getdents", &READING, &[], || Ok(())) {
            Ok(()) => self.0.next(),
            Err(errno) => Some(Err(errno)),
        }
    }
}
