//! Open directories: read on both sides, changed in the replica only.

use std::ops::Deref;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Statx, StatxFlags, Uid};
use rustix::io::Errno;

use super::resolve::{DIR_FLAGS, open_beneath};
use super::settings::times;
use super::sys::{self, openat};
use super::{
    During, FACTS, File, LOOK, ListedKind, Listing, NewFile, Quirks, Result, Settings, entry_of,
    stat_fd, xattr,
};
use crate::model::entry::{Entry, Observed, XattrKinds, Xattrs};
use crate::model::error::FsErrorKind;
use crate::model::error::{FsError, Side};
use crate::model::path::{Name, RelPath};
use crate::plan::removal::RemovalPermit;

/// Number of files by which [`Dir::refuses_xattrs`] judges a file system.
const TRIED: usize = 3;

/// Most tries to read an entry that keeps changing between a symlink and something else.
const LOOKS: usize = 10;

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    pub(super) fd: OwnedFd,
    pub(super) side: Side,
    pub(super) quirks: Quirks,
}

impl Dir {
    /// Opens the directory at `rel` below this one. Follows no symlink on the way.
    pub fn open(&self, rel: &RelPath) -> Result<Dir> {
        let fd = open_beneath(&self.fd, rel, self.side)
            .during(self.side, "open the directory")
            .map_err(|error| {
                error.remap_kind(FsErrorKind::CrossDevice, FsErrorKind::OpensOtherDevice)
            })?;
        Ok(Dir { fd, side: self.side, quirks: self.quirks })
    }

    /// Returns a path that leads to this very directory as long as it is open, even if it is
    /// renamed.
    pub fn magic_link(&self) -> String {
        magic_link(&self.fd)
    }

    /// Returns the facts of this directory, even if another entry has its name by now.
    pub fn entry(&self) -> Result<Entry> {
        let entry = entry_of(&self.stat(FACTS)?, Box::default());
        Ok(self.quirks.seen(entry, || xattr::acl(&self.fd)))
    }

    /// Whether the directory is append-only: nothing in it can be deleted or renamed. Returns
    /// `false` if that cannot be read.
    pub fn is_append_only_dir(&self) -> bool {
        self.entry().is_ok_and(|entry| entry.inode.append_only)
    }

    /// Returns those of its extended attributes that `kinds` selects.
    pub fn xattrs(&self, kinds: XattrKinds) -> Result<Xattrs> {
        xattr::read(&self.fd, kinds, self.quirks).during(self.side, "read the extended attributes")
    }

    pub(super) fn stat(&self, flags: StatxFlags) -> Result<Statx> {
        stat_fd(&self.fd, flags).during(self.side, "examine the directory")
    }

    /// Observes what stands at `name`.
    pub fn observe(&self, name: &[u8]) -> Observed {
        match self.try_observe(name) {
            Ok(entry) => Observed::Present(entry),
            Err(error) if error.is_absence() => Observed::Absent,
            Err(error) => Observed::Unknown(error),
        }
    }

    fn try_observe(&self, name: &[u8]) -> Result<Entry> {
        let mut looked = self.observe_once(name);
        // RACE: `statx` has seen a symlink, and `readlinkat` gives EINVAL since it is none any
        // more. The entry is then read again; worst case an error after `LOOKS` tries.
        for _ in 1..LOOKS {
            if !looked.as_ref().is_err_and(|error| error.kind == FsErrorKind::Invalid) {
                break;
            }
            looked = self.observe_once(name);
        }
        looked
    }

    fn observe_once(&self, name: &[u8]) -> Result<Entry> {
        let stat = sys::statx(&self.fd, name, LOOK, FACTS).during(self.side, "look at it")?;
        let is_link = rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()).is_symlink();
        let target = if is_link { self.read_link(name)? } else { Box::default() };
        Ok(self.quirks.seen(entry_of(&stat, target), || xattr::acl_at(&self.fd, name)))
    }

    fn read_link(&self, name: &[u8]) -> Result<Box<[u8]>> {
        match sys::readlinkat(&self.fd, name, Vec::new()) {
            Ok(target) => Ok(target.into_bytes().into()),
            // A symlink of the replica can be deleted and replaced even if it cannot be read. No
            // symlink of the source has an empty target, so the two differ.
            Err(Errno::PERM | Errno::ACCESS) if self.side == Side::Replica => Ok(Box::default()),
            Err(errno) => Err(errno).during(self.side, "read the symlink"),
        }
    }

    /// Creates a file without a name, which is deleted when it is closed. Nothing changes in the
    /// directory.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if the file system does not support such files.
    pub fn create_unnamed(&self) -> Result<NewFile> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let fd = openat(&self.fd, c".", flags, Mode::RUSR | Mode::WUSR)
            .during(self.side, "create a file")?;
        Ok(NewFile(File { fd, side: self.side, quirks: self.quirks }))
    }

    /// Whether its file system rejects calls for extended attributes, judged by this directory and
    /// up to [`TRIED`] files in it. Programs behind FUSE reject them by any error.
    pub fn refuses_xattrs(&self) -> bool {
        if xattr::is_refused(&self.fd) {
            return true;
        }
        let listing = self.open(&RelPath::root()).and_then(|dir| dir.list()).unwrap_or_default();
        let files =
            listing.iter().filter(|(_, hint)| *hint == ListedKind::File).map(|(name, _)| name);
        let mut tried = files.filter_map(|name| self.open_file(name).ok()).take(TRIED).peekable();
        tried.peek().is_some() && tried.all(|(file, _)| xattr::is_refused(&file.fd))
    }

    /// Whether it lies on FAT or exFAT, by the magic numbers of statfs(2). Behind FUSE this is not
    /// known, and `false` is returned.
    pub fn is_fat(&self) -> bool {
        rustix::fs::fstatfs(&self.fd)
            .is_ok_and(|stat| matches!(i128::from(stat.f_type), 0x4d44 | 0x2011_bab0))
    }

    /// Whether the directory is empty.
    pub fn is_empty(&self) -> Result<bool> {
        let operation = "list the directory";
        let fd = openat(&self.fd, c".", DIR_FLAGS, Mode::empty()).during(self.side, operation)?;
        Listing::has_any(&fd).map(|any| !any).during(self.side, operation)
    }

    /// Lists the names in this directory. May be called only once for a descriptor, since it moves
    /// the descriptor's position.
    pub fn list(&self) -> Result<Listing> {
        Listing::read(&self.fd).during(self.side, "list the directory")
    }

    /// Opens a regular file for reading. Also returns its facts. Never blocks, never follows a
    /// symlink.
    ///
    /// # Errors
    /// Also `Invalid` if the entry is no regular file by now.
    pub fn open_file(&self, name: &[u8]) -> Result<(File, Entry)> {
        super::provoke_panic(name);
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let operation = "open the file";
        let fd = openat(&self.fd, name, flags, Mode::empty()).during(self.side, operation)?;
        let file = File { fd, side: self.side, quirks: self.quirks };
        let entry = file.entry()?;
        if !entry.is_file() {
            return Err(FsError::found(operation, self.side, FsErrorKind::Invalid));
        }
        Ok((file, entry))
    }

    /// Whether the contents of a file end at its size. Returns `true` if that cannot be read.
    pub fn ends_at_reported_size(&self, name: &Name) -> bool {
        let Ok((file, entry)) = self.open_file(name.as_bytes()) else { return true };
        // If the size has changed meanwhile, the file is being written to, and this proves nothing.
        file.ends_at(entry.size).unwrap_or(true)
            || file.entry().is_ok_and(|now| now.size != entry.size)
    }
}

/// See `proc_pid_fd(5)`.
fn magic_link(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(fd))
}

/// An open directory of the replica, in which entries may be changed.
#[derive(Debug)]
pub struct ReplicaDir(pub(super) Dir);

impl Deref for ReplicaDir {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        &self.0
    }
}

impl ReplicaDir {
    /// Gives up the right to change anything.
    pub fn into_reader(self) -> Dir {
        self.0
    }

    pub fn open(&self, rel: &RelPath) -> Result<ReplicaDir> {
        self.0.open(rel).map(ReplicaDir)
    }

    /// Creates a file that only its owner can open. `name` must be free.
    pub fn create_file(&self, name: &Name) -> Result<NewFile> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name.as_bytes(), flags, Mode::RUSR | Mode::WUSR)
            .during(self.side, "create a file")?;
        Ok(NewFile(File { fd, side: self.side, quirks: self.quirks }))
    }

    /// Opens an existing file, to set its metadata in place.
    pub fn open_existing(&self, name: &Name) -> Result<(NewFile, Entry)> {
        self.open_file(name.as_bytes()).map(|(file, entry)| (NewFile(file), entry))
    }

    /// Makes a directory that only its owner can enter.
    pub fn make_dir(&self, name: &Name) -> Result<()> {
        sys::mkdirat(&self.fd, name.as_bytes(), Mode::RWXU).during(self.side, "make the directory")
    }

    pub fn make_symlink(&self, name: &Name, target: &[u8]) -> Result<()> {
        sys::symlinkat(target, &self.fd, name.as_bytes())
            .during(self.side, "make the symlink")
            .map_err(|error| {
                error.remap_kind(FsErrorKind::NameTooLong, FsErrorKind::SymlinkTooLong)
            })
    }

    /// Renames an entry within this directory, as rename(2) does: an entry at `to` is replaced.
    /// `_permit`: for the entry that loses its name.
    pub fn rename(&self, from: &Name, to: &Name, _permit: &RemovalPermit) -> Result<()> {
        sys::renameat(&self.fd, from.as_bytes(), &self.fd, to.as_bytes())
            .during(self.side, "rename")
    }

    /// Renames an entry into the directory `to`. An entry at `new_name` is replaced. `_permit`: for
    /// the entry that loses its name.
    pub fn move_to(
        &self,
        name: &[u8],
        to: &ReplicaDir,
        new_name: &Name,
        _permit: &RemovalPermit,
    ) -> Result<()> {
        sys::renameat(&self.fd, name, &to.fd, new_name.as_bytes()).during(self.side, "move it")
    }

    /// Renames an entry into the directory `to`, where `new_name` must be free. `permit`: for the
    /// old name.
    ///
    /// # Errors
    /// `Exists` if it is not free. If the file system does not support `RENAME_NOREPLACE`, that is
    /// checked right before the rename (I4).
    pub fn move_to_free(
        &self,
        name: &[u8],
        to: &ReplicaDir,
        new_name: &Name,
        permit: &RemovalPermit,
    ) -> Result<()> {
        let (operation, new) = ("move it", new_name.as_bytes());
        match sys::renameat_with(&self.fd, name, &to.fd, new, RenameFlags::NOREPLACE)
            .during(to.side, operation)
        {
            Err(error) if error.is_unknown_flag() => match to.observe(new) {
                Observed::Absent | Observed::Unobserved => self.move_to(name, to, new_name, permit),
                Observed::Unknown(error) => Err(error),
                Observed::Present(_) => {
                    Err(FsError::found(operation, to.side, FsErrorKind::Exists))
                }
            },
            other => other,
        }
    }

    /// Gives an entry a second name (a hard link) in the directory `to`, where it must be free. The
    /// entry must not be a directory.
    ///
    /// # Errors
    /// `Exists` if the name is not free; various errors if the file system does not support hard
    /// links.
    pub fn link_to(&self, name: &Name, to: &ReplicaDir, new_name: &Name) -> Result<()> {
        sys::linkat(&self.fd, name.as_bytes(), &to.fd, new_name.as_bytes(), AtFlags::empty())
            .during(to.side, "link it")
    }

    /// Swaps two entries of this directory in one step.
    ///
    /// # Errors
    /// `Invalid` if the file system does not support that.
    pub fn exchange(&self, one: &Name, other: &Name, permit: &RemovalPermit) -> Result<()> {
        self.exchange_with(one, self, other, permit)
    }

    /// Swaps the entry `name` of this directory for the entry `other` of the directory `dir`.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange).
    pub fn exchange_with(
        &self,
        name: &Name,
        dir: &ReplicaDir,
        other: &Name,
        _permit: &RemovalPermit,
    ) -> Result<()> {
        let (name, other) = (name.as_bytes(), other.as_bytes());
        sys::renameat_with(&self.fd, name, &dir.fd, other, RenameFlags::EXCHANGE)
            .during(self.side, "exchange two entries")
    }

    /// Waits until everything that was written to this file system is safe on its disk.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.fd).during(self.side, "write to the disk")
    }

    pub fn remove_file(&self, name: &[u8], _permit: &RemovalPermit) -> Result<()> {
        super::provoke_panic(name);
        sys::unlinkat(&self.fd, name, AtFlags::empty()).during(self.side, "remove it")
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: &[u8], _permit: &RemovalPermit) -> Result<()> {
        sys::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).during(self.side, "remove the directory")
    }

    /// Removes an entry with a reserved name that is no directory (I7).
    ///
    /// # Errors
    /// Also `Invalid` if the name is not reserved.
    pub fn remove_reserved(&self, name: &Name) -> Result<()> {
        self.remove_file(name.as_bytes(), &self.own(name)?)
    }

    /// Removes an empty directory with a reserved name (I7).
    ///
    /// # Errors
    /// Also `Invalid` if the name is not reserved.
    pub fn remove_reserved_dir(&self, name: &Name) -> Result<()> {
        self.remove_dir(name.as_bytes(), &self.own(name)?)
    }

    /// Renames an entry from a reserved name to `name`, which must be free.
    ///
    /// # Errors
    /// As [`move_to_free`](Self::move_to_free); also `Invalid` if `reserved` is not a reserved
    /// name.
    pub fn publish(&self, reserved: &Name, name: &Name) -> Result<()> {
        self.move_to_free(reserved.as_bytes(), self, name, &self.own(reserved)?)
    }

    fn own(&self, name: &Name) -> Result<RemovalPermit> {
        let error =
            FsError::found("remove what is not twindir's own", self.side, FsErrorKind::Invalid);
        RemovalPermit::for_reserved(name).ok_or(error)
    }

    /// Sets owner, group and mtime of a symlink, those that are given. It has no other metadata.
    ///
    /// # Errors
    /// Also `NotPermitted` if the entry is no symlink by now, or has several hard links. Another of
    /// its names may lie outside the replica.
    pub fn set_symlink(&self, name: &Name, settings: &Settings<'_>) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link = sys::openat(&self.fd, name.as_bytes(), flags, Mode::empty())
            .during(self.side, "open the symlink")?;
        let stat =
            stat_fd(&link, StatxFlags::BASIC_STATS).during(self.side, "examine the symlink")?;
        let is_link = FileType::from_raw_mode(stat.stx_mode.into()).is_symlink();
        if !is_link || stat.stx_nlink > 1 {
            return Err(FsError::found("set metadata", self.side, FsErrorKind::NotPermitted));
        }
        if settings.uid.is_some() || settings.gid.is_some() {
            let (uid, gid) = (settings.uid.map(Uid::from_raw), settings.gid.map(Gid::from_raw));
            sys::chownat(&link, c"", uid, gid, AtFlags::EMPTY_PATH)
                .during(self.side, "set the owner")?;
        }
        if let Some(mtime) = settings.mtime {
            match sys::utimensat(&link, c"", &times(mtime), AtFlags::EMPTY_PATH) {
                // Kernels before 5.8 accept a name only.
                Err(Errno::INVAL) => {
                    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
                    sys::utimensat(&self.fd, name.as_bytes(), &times(mtime), nofollow)
                }
                other => other,
            }
            .during(self.side, "set the times")?;
        }
        Ok(())
    }

    /// Sets the metadata that `settings` contains on this directory.
    pub fn set(&self, settings: &Settings<'_>) -> Result<()> {
        settings.apply(&self.fd, self.side)
    }

    /// Gives the owner all rights, if the mode denies some. Returns the former mode if it was
    /// changed. If it may not be changed, this is no error: the next operation in the directory
    /// reports it.
    pub fn grant_owner_access(&self) -> Result<Option<u32>> {
        let mode = self.entry()?.mode;
        let rights = Settings { mode: Some(mode | 0o700), ..Settings::default() };
        Ok((mode & 0o700 != 0o700 && self.set(&rights).is_ok()).then_some(mode))
    }

    /// Opens the directory `name` and gives its owner all rights.
    pub fn open_and_grant(&self, name: &[u8]) -> Result<ReplicaDir> {
        let Some(rel) = RelPath::new(name) else {
            return Err(FsError::found("open the directory", self.side, FsErrorKind::Invalid));
        };
        match self.open(&rel) {
            Err(error) if error.kind == FsErrorKind::Denied => {
                self.open_denied(name).map(|(dir, _)| dir)
            }
            other => {
                let dir = other?;
                dir.grant_owner_access()?;
                Ok(dir)
            }
        }
    }

    /// Opens the directory `name` after giving its owner all rights, which the mode denies (0555,
    /// 0000). Returns its former mode, too.
    pub fn open_denied(&self, name: &[u8]) -> Result<(ReplicaDir, u32)> {
        let operation = "widen the directory";
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = openat(&self.fd, name, flags, Mode::empty()).during(self.side, operation)?;
        let mode =
            u32::from(stat_fd(&handle, StatxFlags::MODE).during(self.side, operation)?.stx_mode)
                & 0o7777;
        // `fchmod` fails on an O_PATH descriptor. Its magic link in /proc leads to that very inode.
        sys::chmod(magic_link(&handle), Mode::from_raw_mode(mode | 0o700))
            .during(self.side, operation)?;
        let fd = openat(&handle, c".", DIR_FLAGS, Mode::empty()).during(self.side, operation)?;
        Ok((ReplicaDir(Dir { fd, side: self.side, quirks: self.quirks }), mode))
    }
}
