//! The two roots: their paths, and how to recognise that they are still the same directories.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, StatFs, StatVfs, Statx, StatxAttributes, StatxFlags};

use super::sys::{openat, statx};
use super::{Dir, During, Quirks, ReplicaDir, Result, device, stat_fd, time};
use crate::fs::mounts::MountPlace;
use crate::model::entry::Time;
use crate::model::error::FsErrorKind;
use crate::model::error::{FsError, Side};

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8): a mount id that is never reused.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

const FUSE: &str = "FUSE";

/// Magic numbers of ext2 to ext4, and of btrfs. The kernel makes the ids of these file systems from
/// their UUIDs. The id of another one may be its device number. See statfs(2).
const WITH_UUID: [i128; 2] = [0xef53, 0x9123_683e];

/// The identity of a directory. Inode numbers are reused after a re-creation or a new mount. Birth
/// times are not, nor are mount ids since Linux 6.8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirId {
    pub dev: u64,
    pub ino: u64,
    birth: Option<Time>,
    /// The id of its file system, made from a UUID. Set only if the birth time alone does not
    /// distinguish the disk from others.
    disk: Option<u64>,
    mount: Option<u64>,
    /// Whether `mount` is greater than the number of each earlier mount.
    is_ordered: bool,
    pub is_mount_root: bool,
}

impl DirId {
    fn of(stat: &Statx) -> Self {
        let has = |flag: StatxFlags| stat.stx_mask & flag.bits() != 0;
        Self {
            dev: device(stat),
            ino: stat.stx_ino,
            birth: has(StatxFlags::BTIME).then(|| time(stat.stx_btime)),
            disk: None,
            mount: (has(MNT_ID_UNIQUE) || has(StatxFlags::MNT_ID)).then_some(stat.stx_mnt_id),
            is_ordered: has(MNT_ID_UNIQUE),
            is_mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        }
    }

    /// Adds the id of its file system, if that is needed. `ask`: gets it from the system.
    fn with_disk(self, ask: impl FnOnce() -> rustix::io::Result<(StatFs, StatVfs)>) -> Self {
        // A file system with neither birth times nor a device of its own has no such id. To ask for
        // it may take a request to a server.
        let is_wanted =
            !self.has_exact_birth() && (self.birth.is_some() || rustix::fs::major(self.dev) != 0);
        let asked = is_wanted.then(ask).and_then(std::result::Result::ok);
        let known = asked
            .filter(|(kind, by)| WITH_UUID.contains(&i128::from(kind.f_type)) && by.f_fsid != 0);
        Self { disk: known.map(|(_, by)| by.f_fsid), ..self }
    }

    /// Whether no other directory has this birth time. The root of an ext4 or btrfs has the time of
    /// its mkfs, in whole seconds.
    fn has_exact_birth(&self) -> bool {
        self.birth.is_some_and(|birth| birth.nsec != 0)
    }

    /// Returns a label that is the same for each path and each mount that leads to the directory. A
    /// directory that reuses the inode number of a deleted one has another label. So has a
    /// directory on another disk, as far as its file system distinguishes them.
    pub fn label(&self) -> String {
        let birth = self.birth.unwrap_or_default();
        let disk = self.disk.map_or(String::new(), |id| format!("-{id:x}"));
        format!("{:x}-{:x}-{:x}.{:x}{disk}", self.dev, self.ino, birth.sec, birth.nsec)
    }

    /// Whether both lie on the same mount.
    pub fn same_mount(&self, other: &DirId) -> bool {
        self.dev == other.dev && self.mount == other.mount
    }

    /// Whether this lies on an earlier mount than `other`: it appears when that mount is unmounted.
    /// Returns `false` before Linux 6.8, where this is not known.
    pub fn was_mounted_before(&self, other: &DirId) -> bool {
        self.is_ordered && other.is_ordered && self.mount < other.mount
    }

    /// Whether birth time or file system id distinguish it from the same directory on another disk.
    pub fn is_distinct(&self) -> bool {
        self.has_exact_birth() || self.disk.is_some()
    }

    /// Whether its file system is mounted at `point`. Returns `false` before Linux 6.8, since mount
    /// ids that are reused prove nothing.
    pub fn is_mounted_at(&self, point: &Path) -> bool {
        let is_it = |now: DirId| {
            now.is_mount_root && now.is_ordered && self.is_ordered && now.mount == self.mount
        };
        id_of(point, Side::Source).is_ok_and(is_it)
    }

    pub fn same_inode(&self, other: &DirId) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }

    /// Whether both are certainly the same directory on the same disk. The disk may have been
    /// mounted again, with another device number. Returns `false` if the file system gives nothing
    /// to recognise it by.
    pub fn is_same_on_disk(&self, other: &DirId) -> bool {
        let is_alike = (self.ino, self.birth, self.disk) == (other.ino, other.birth, other.disk);
        is_alike && self.is_distinct()
    }
}

/// The free space of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FreeSpace {
    pub bytes: u64,
    /// Free inodes.
    pub entries: u64,
    pub read_only: bool,
}

impl FreeSpace {
    /// Whether a write that failed at the time of `before` may succeed now: there is more space, or
    /// the file system is no longer read-only.
    pub fn has_gained_over(&self, before: &FreeSpace) -> bool {
        let is_open = before.read_only && !self.read_only;
        is_open || self.bytes > before.bytes || self.entries > before.entries
    }
}

/// The place of a root: an absolute path. No descriptor is kept, so that its disk can be unmounted.
///
/// Symlinks in the path belong to the user. They are followed whenever the root is opened.
#[derive(Clone, Debug)]
pub struct Root {
    pub path: PathBuf,
    pub side: Side,
    pub quirks: Quirks,
}

impl Root {
    pub fn new(path: impl Into<PathBuf>, side: Side) -> Self {
        Self { path: path.into(), side, quirks: Quirks::default() }
    }

    fn open_dir(&self) -> Result<(Dir, DirId)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd =
            openat(CWD, &self.path, flags, Mode::empty()).during(self.side, "open the root")?;
        let dir = Dir { fd, side: self.side, quirks: self.quirks };
        let id = dir.id()?;
        Ok((dir, id))
    }

    pub fn open_source(&self) -> Result<(Dir, DirId)> {
        debug_assert_eq!(self.side, Side::Source);
        self.open_dir()
    }

    /// Opens the replica's root, or a backup folder.
    pub fn open_replica(&self) -> Result<(ReplicaDir, DirId)> {
        debug_assert_ne!(self.side, Side::Source);
        self.open_dir().map(|(dir, id)| (ReplicaDir(dir), id))
    }

    /// Returns the free space of the file system at the path.
    ///
    /// # Errors
    /// If `statvfs` fails, for example since nothing stands at the path.
    pub fn free_space(&self) -> Result<FreeSpace> {
        let stat = rustix::fs::statvfs(&self.path).during(self.side, "ask for the free space")?;
        Ok(FreeSpace {
            bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            entries: stat.f_favail,
            read_only: stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        })
    }

    /// Returns the kind of file system, if other hosts or a user's program may change it without
    /// this kernel's knowledge. Returns `None` for a local one, and if it is not known. Magic
    /// numbers: statfs(2).
    pub fn foreign_file_system(&self) -> Option<&'static str> {
        let kind = rustix::fs::statfs(&self.path).ok()?.f_type;
        let known = [
            (0x6969, "NFS"),
            (0xff53_4d42, "CIFS"),
            (0xfe53_4d42, "SMB"),
            (0x6573_5546, FUSE),
            (0x0102_1997, "9p"),
            (0x00c3_6400, "Ceph"),
            (0x5346_414f, "AFS"),
        ];
        known.into_iter().find(|(magic, _)| i128::from(kind) == *magic).map(|(_, name)| name)
    }

    /// Whether it lies on a network file system. FUSE does not count as one.
    pub fn is_remote(&self) -> bool {
        self.foreign_file_system().is_some_and(|kind| kind != FUSE)
    }

    /// Returns the identity of the directory at the path. Follows symlinks, as
    /// [`Root::open_source`] does.
    ///
    /// # Errors
    /// `NotADirectory` if it is no directory.
    pub fn id(&self) -> Result<DirId> {
        id_of(&self.path, self.side)
    }

    /// Returns the identity of the replica after something was created in it; it was `before` until
    /// then. overlayfs copies a directory of a lower layer at that moment, with a new birth time. A
    /// file without a name is enough, and leaves nothing. If that fails, or the path leads to
    /// another directory by now, `before` is returned.
    pub fn id_after_write(&self, before: DirId) -> DirId {
        let written = self.open_replica().and_then(|(dir, _)| dir.create_unnamed());
        let now = written.and_then(|_| self.id());
        now.ok().filter(|now| now.same_inode(&before) && now.same_mount(&before)).unwrap_or(before)
    }
}

fn id_flags() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID | MNT_ID_UNIQUE
}

fn id_of(path: &Path, side: Side) -> Result<DirId> {
    let operation = "open the root";
    let stat =
        statx(CWD, path, rustix::fs::AtFlags::empty(), id_flags()).during(side, operation)?;
    if rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()).is_dir() {
        let ask = || Ok((rustix::fs::statfs(path)?, rustix::fs::statvfs(path)?));
        Ok(DirId::of(&stat).with_disk(ask))
    } else {
        Err(FsError::found(operation, side, FsErrorKind::NotADirectory))
    }
}

impl Dir {
    /// Returns the identity of this directory.
    pub fn id(&self) -> Result<DirId> {
        let ask = || Ok((rustix::fs::fstatfs(&self.fd)?, rustix::fs::fstatvfs(&self.fd)?));
        Ok(DirId::of(&self.stat(id_flags())?).with_disk(ask))
    }
}

/// Returns an absolute path without asking any disk. If there is no current directory, the path
/// stays as it is.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

/// Returns the nearest existing directory at or above `path`, and its identity.
pub fn nearest_existing(path: &Path, side: Side) -> Result<(PathBuf, DirId)> {
    let mut at = path;
    loop {
        match (id_of(at, side), at.parent()) {
            (Err(error), Some(parent)) if error.is_absence() => at = parent,
            (result, _) => return result.map(|id| (at.to_path_buf(), id)),
        }
    }
}

/// Whether the directory `dir` is `root`, whose identity is `id`, or lies below it. This is
/// checked upwards by `..`, and by the positions on the file system, which bind mounts do not hide.
pub fn lies_within(dir: &Path, root: &Path, id: &DirId, side: Side) -> Result<bool> {
    let places = (MountPlace::of(root), MountPlace::of(dir));
    let is_below = matches!(places, (Some(root), Some(dir)) if dir.is_within(&root));
    Ok(is_below || enclosing(dir, id, side)?.is_some())
}

/// Searches for the directory `root` from `path` upwards to `/`, by `..`. Returns how many steps
/// above `path` it lies, 0 for `path` itself; `None` if it is not on the way. Bind mounts and
/// symlinks do not matter, since inodes are compared and not names.
pub fn enclosing(path: &Path, root: &DirId, side: Side) -> Result<Option<usize>> {
    let operation = "examine the directories above";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, path, flags, Mode::empty()).during(side, operation)?;
    let mut below: Option<DirId> = None;
    for steps in 0.. {
        let id = DirId::of(&stat_fd(&at, id_flags()).during(side, operation)?);
        if id.same_inode(root) {
            return Ok(Some(steps));
        }
        if below.is_some_and(|below| below == id) {
            break; // `/..` is `/`.
        }
        below = Some(id);
        at = openat(&at, c"..", flags, Mode::empty()).during(side, operation)?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(birth: Option<(i64, u32)>, disk: Option<u64>) -> DirId {
        let birth = birth.map(|(sec, nsec)| Time { sec, nsec });
        DirId { dev: 1, ino: 2, birth, disk, mount: None, is_ordered: false, is_mount_root: false }
    }

    #[test]
    fn a_directory_is_known_by_its_exact_birth_or_by_its_disk() {
        let same = |birth, one, other| id(birth, one).is_same_on_disk(&id(birth, other));
        for birth in [None, Some((1, 0))] {
            assert!(same(birth, Some(7), Some(7)));
            assert!(
                !same(birth, Some(7), Some(8))
                    && !same(birth, Some(7), None)
                    && !same(birth, None, None)
            );
        }
        assert!(same(Some((1, 5)), None, None));
        assert!(!id(Some((1, 5)), None).is_same_on_disk(&id(Some((1, 6)), None)));
        let other_device = DirId { dev: 9, ..id(Some((1, 5)), None) };
        assert!(other_device.is_same_on_disk(&id(Some((1, 5)), None)));
    }
}
