//! The two roots: where they lie, and how to tell that they are still the same directories.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, StatFs, StatVfs, Statx, StatxAttributes, StatxFlags};

use super::sys::{openat, statx};
use super::{Dir, During, Quirks, ReplicaDir, Result, device, stat_fd, time};
use crate::fs::mounts::MountPlace;
use crate::model::entry::Time;
use crate::model::error::FsErrorKind;
use crate::model::error::{FsError, Side};

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8): a mount id that is never given out again.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

const FUSE: &str = "FUSE";

/// Ext2 to ext4, and btrfs, whose ids the kernel makes of their UUIDs. That of others may be the
/// number of the device. See statfs(2).
const WITH_UUID: [i128; 2] = [0xef53, 0x9123_683e];

/// Which directory it is. Inode numbers come back after a re-creation or a new mount; birth
/// time and mount id do not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirId {
    pub dev: u64,
    pub ino: u64,
    birth: Option<Time>,
    /// The id of its file system, made of a UUID, where the birth time alone does not tell the disk
    /// from another.
    disk: Option<u64>,
    mount: Option<u64>,
    /// Whether that number is greater for each mount than for those before it.
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

    /// With the id of its disk, for which is asked only where it counts.
    fn with_disk(self, ask: impl FnOnce() -> rustix::io::Result<(StatFs, StatVfs)>) -> Self {
        // What has neither birth times nor a device of its own has no such id, and a server may
        // have to be asked.
        let is_wanted =
            !self.has_exact_birth() && (self.birth.is_some() || rustix::fs::major(self.dev) != 0);
        let asked = is_wanted.then(ask).and_then(std::result::Result::ok);
        let known = asked
            .filter(|(kind, by)| WITH_UUID.contains(&i128::from(kind.f_type)) && by.f_fsid != 0);
        Self { disk: known.map(|(_, by)| by.f_fsid), ..self }
    }

    /// Whether the birth time is that of no other directory. The root of an ext4 or btrfs has that
    /// of its mkfs, in whole seconds.
    fn has_exact_birth(&self) -> bool {
        self.birth.is_some_and(|birth| birth.nsec != 0)
    }

    /// The same for each path and each mount that leads to it; another for a directory that got the
    /// inode number of one that is gone, or of one on another disk, as far as the file system tells
    /// them apart.
    pub fn label(&self) -> String {
        let birth = self.birth.unwrap_or_default();
        let disk = self.disk.map_or(String::new(), |id| format!("-{id:x}"));
        format!("{:x}-{:x}-{:x}.{:x}{disk}", self.dev, self.ino, birth.sec, birth.nsec)
    }

    /// Whether both lie on one mounted file system.
    pub fn same_mount(&self, other: &DirId) -> bool {
        self.dev == other.dev && self.mount == other.mount
    }

    /// Whether this lies on a file system that was mounted before that of the other: what comes to
    /// light when that one goes. Not known before Linux 6.8.
    pub fn was_mounted_before(&self, other: &DirId) -> bool {
        self.is_ordered && other.is_ordered && self.mount < other.mount
    }

    /// Whether its file system tells it from the same directory of another disk.
    pub fn is_distinct(&self) -> bool {
        self.has_exact_birth() || self.disk.is_some()
    }

    /// Whether its file system is mounted at `point`. Numbers of mounts that are given out again
    /// prove nothing: `false` before Linux 6.8.
    pub fn is_mounted_at(&self, point: &Path) -> bool {
        let is_it = |now: DirId| {
            now.is_mount_root && now.is_ordered && self.is_ordered && now.mount == self.mount
        };
        pin_of(point, Side::Source).is_ok_and(is_it)
    }

    pub fn same_inode(&self, other: &DirId) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }

    /// Whether it is the same directory on the same disk for certain, mounted a second time
    /// perhaps, under another number of the device. `false` where the file system has no means to
    /// tell.
    pub fn is_same_on_disk(&self, other: &DirId) -> bool {
        let is_alike = (self.ino, self.birth, self.disk) == (other.ino, other.birth, other.disk);
        is_alike && self.is_distinct()
    }
}

/// What a file system can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FreeSpace {
    pub bytes: u64,
    pub entries: u64,
    pub read_only: bool,
}

impl FreeSpace {
    /// Whether what was refused then may be taken now.
    pub fn has_gained_over(&self, before: &FreeSpace) -> bool {
        let is_open = before.read_only && !self.read_only;
        is_open || self.bytes > before.bytes || self.entries > before.entries
    }
}

/// Where a root lies: an absolute path, and no descriptor, so that its disk can be unmounted.
///
/// Symlinks in the path are followed, once, when the root is opened: they are the user's.
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
        let pin = dir.pin()?;
        Ok((dir, pin))
    }

    pub fn open_source(&self) -> Result<(Dir, DirId)> {
        debug_assert_eq!(self.side, Side::Source);
        self.open_dir()
    }

    /// Also for a backup folder.
    pub fn open_replica(&self) -> Result<(ReplicaDir, DirId)> {
        debug_assert_ne!(self.side, Side::Source);
        self.open_dir().map(|(dir, pin)| (ReplicaDir(dir), pin))
    }

    /// What the file system at the path can take now.
    ///
    /// # Errors
    /// Where nothing stands at the path.
    pub fn room(&self) -> Result<FreeSpace> {
        let stat = rustix::fs::statvfs(&self.path).during(self.side, "ask for the free space")?;
        Ok(FreeSpace {
            bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            entries: stat.f_favail,
            read_only: stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        })
    }

    /// The kind of file system, where other hosts or a user's program may change what it holds
    /// without this kernel's knowledge. Magic numbers: statfs(2).
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

    /// Whether another host keeps it.
    pub fn is_remote(&self) -> bool {
        self.foreign_file_system().is_some_and(|kind| kind != FUSE)
    }

    /// What stands at the path now, following symlinks as [`Root::open_source`] does.
    ///
    /// # Errors
    /// `ENOTDIR` where it is no directory.
    pub fn pin(&self) -> Result<DirId> {
        pin_of(&self.path, self.side)
    }

    /// The pin of the replica, which was `before`, from when something was created in it: overlayfs
    /// copies a directory of a lower layer then, with a birth time of its own. A file without a
    /// name does it, and leaves nothing.
    pub fn pin_when_written_to(&self, before: DirId) -> DirId {
        let written = self.open_replica().and_then(|(dir, _)| dir.create_unnamed());
        let now = written.and_then(|_| self.pin());
        now.ok().filter(|now| now.same_inode(&before) && now.same_mount(&before)).unwrap_or(before)
    }
}

fn pin_flags() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID | MNT_ID_UNIQUE
}

fn pin_of(path: &Path, side: Side) -> Result<DirId> {
    let operation = "open the root";
    let stat =
        statx(CWD, path, rustix::fs::AtFlags::empty(), pin_flags()).during(side, operation)?;
    if rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()).is_dir() {
        let ask = || Ok((rustix::fs::statfs(path)?, rustix::fs::statvfs(path)?));
        Ok(DirId::of(&stat).with_disk(ask))
    } else {
        Err(FsError::found(operation, side, FsErrorKind::NotADirectory))
    }
}

impl Dir {
    /// Which directory it is.
    pub fn pin(&self) -> Result<DirId> {
        let ask = || Ok((rustix::fs::fstatfs(&self.fd)?, rustix::fs::fstatvfs(&self.fd)?));
        Ok(DirId::of(&self.stat(pin_flags())?).with_disk(ask))
    }
}

/// The nearest directory at or above `path` that exists, and its pin.
pub fn nearest_existing(path: &Path, side: Side) -> Result<(PathBuf, DirId)> {
    let mut at = path;
    loop {
        match (pin_of(at, side), at.parent()) {
            (Err(error), Some(parent)) if error.is_absence() => at = parent,
            (result, _) => return result.map(|pin| (at.to_path_buf(), pin)),
        }
    }
}

/// Whether the directory `dir` is `root`, whose pin is given, or lies below it: upwards by `..`,
/// and by the places on the file system, which bind mounts do not hide.
pub fn lies_within(dir: &Path, root: &Path, pin: &DirId, side: Side) -> Result<bool> {
    let places = (MountPlace::of(root), MountPlace::of(dir));
    let is_below = matches!(places, (Some(root), Some(dir)) if dir.is_within(&root));
    Ok(is_below || enclosing(dir, pin, side)?.is_some())
}

/// Goes from the directory `path` up to `/`, by `..`: how many steps up the directory `root`
/// stands, 0 for `path` itself; `None` where it is not on the way. Bind mounts and symlinks
/// are seen through, since inodes are compared and not names.
pub fn enclosing(path: &Path, root: &DirId, side: Side) -> Result<Option<usize>> {
    let operation = "look at the directories above";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, path, flags, Mode::empty()).during(side, operation)?;
    let mut below: Option<DirId> = None;
    for steps in 0.. {
        let pin = DirId::of(&stat_fd(&at, pin_flags()).during(side, operation)?);
        if pin.same_inode(root) {
            return Ok(Some(steps));
        }
        if below.is_some_and(|below| below == pin) {
            break; // `/..` is `/`.
        }
        below = Some(pin);
        at = openat(&at, c"..", flags, Mode::empty()).during(side, operation)?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(birth: Option<(i64, u32)>, disk: Option<u64>) -> DirId {
        let birth = birth.map(|(sec, nsec)| Time { sec, nsec });
        DirId { dev: 1, ino: 2, birth, disk, mount: None, is_ordered: false, is_mount_root: false }
    }

    #[test]
    fn a_directory_is_known_by_its_exact_birth_or_by_its_disk() {
        let same = |birth, one, other| pin(birth, one).is_same_on_disk(&pin(birth, other));
        for birth in [None, Some((1, 0))] {
            assert!(same(birth, Some(7), Some(7)));
            assert!(
                !same(birth, Some(7), Some(8))
                    && !same(birth, Some(7), None)
                    && !same(birth, None, None)
            );
        }
        assert!(same(Some((1, 5)), None, None));
        assert!(!pin(Some((1, 5)), None).is_same_on_disk(&pin(Some((1, 6)), None)));
        let other_device = DirId { dev: 9, ..pin(Some((1, 5)), None) };
        assert!(other_device.is_same_on_disk(&pin(Some((1, 5)), None)));
    }
}
