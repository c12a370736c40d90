//! The only user of file system calls on entries, and the only holder of descriptors.
//!
//! Every call is relative to a directory descriptor and one name, and follows no symlink (I3). A
//! directory that may be changed has a type of its own: a [`ReplicaDir`] can do all that a [`Dir`]
//! can, and can change entries. Nothing that changes anything exists for the source.

mod dir;
mod file;
mod listing;
mod resolve;
mod root;
mod settings;
mod sys;
mod xattr;

pub use dir::{Dir, ReplicaDir};
pub use file::{File, NewFile, Ranged};
pub use listing::{LOST_FOUND, ListedKind, Listing};
pub use root::{DirId, FreeSpace, Root, absolute, enclosing, lies_within, nearest_existing};
pub use settings::Settings;
#[cfg(test)]
pub use sys::InjectedErrors;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp};

use crate::fs::errno::fs_error;
use crate::model::entry::{Entry, Inode, Kind, Special, Time};
use crate::model::error::{FsError, Side};

pub type Result<T> = std::result::Result<T, FsError>;

/// Adds the operation and the side to an errno.
trait During<T> {
    fn during(self, side: Side, operation: &'static str) -> Result<T>;
}

impl<T> During<T> for rustix::io::Result<T> {
    fn during(self, side: Side, operation: &'static str) -> Result<T> {
        self.map_err(|errno| fs_error(operation, side, errno))
    }
}

/// Peculiarities of a root's file system. Everything that is opened below the root gets a copy.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Quirks {
    /// The file system rejects calls for extended attributes by various errors. Its entries then
    /// count as having none.
    pub refuses_xattrs: bool,
    /// Modes are shown as they would be without an ACL, since the replica stores no ACLs. The group
    /// bits of an entry with an ACL are the ACL's mask, and not the rights of the group.
    pub modes_without_acl: bool,
}

impl Quirks {
    /// Returns `entry` as it appears with these quirks. `acl`: reads its ACL. If the ACL cannot be
    /// read, or has another form, the group gets no rights.
    fn seen(self, entry: Entry, acl: impl FnOnce() -> Option<Vec<u8>>) -> Entry {
        let is_asked = self.modes_without_acl
            && entry.mode & 0o070 != 0
            && matches!(entry.kind, Kind::File | Kind::Dir);
        match is_asked.then(acl).flatten() {
            Some(acl) => {
                Entry { mode: entry.mode & !0o070 | group_bits(&acl).unwrap_or_default(), ..entry }
            }
            None => entry,
        }
    }
}

/// Returns the rights that an ACL grants to the owning group, as bits of a mode; `None` if it has
/// another form. See acl(5) and `linux/posix_acl_xattr.h`: after the version, entries of tag,
/// permissions and id.
fn group_bits(acl: &[u8]) -> Option<u32> {
    let entries = acl.get(4..)?.chunks_exact(8);
    let of = |tag: u8| {
        entries.clone().find(|entry| entry[..2] == [tag, 0]).map(|entry| u32::from(entry[2]) & 0o7)
    };
    let (group, mask) = (of(0x04)?, of(0x10).unwrap_or(0o7));
    Some((group & mask) << 3)
}

/// Flags that read an entry itself, never the target of a symlink, and mount nothing.
const LOOK: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

fn time(stamp: StatxTimestamp) -> Time {
    Time { sec: stamp.tv_sec, nsec: stamp.tv_nsec }
}

fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// Returns the facts of an entry. `target`: the target of a symlink; empty for other kinds.
fn entry_of(stat: &Statx, target: Box<[u8]>) -> Entry {
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink(target),
        FileType::Fifo => Kind::Special(Special::Fifo),
        FileType::Socket => Kind::Special(Special::Socket),
        FileType::CharacterDevice | FileType::BlockDevice => Kind::Special(Special::Device),
        FileType::Unknown => Kind::Special(Special::Other),
    };
    Entry {
        kind,
        size: stat.stx_size,
        mtime: time(stat.stx_mtime),
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        xattrs: None,
        inode: Inode {
            dev: device(stat),
            ino: stat.stx_ino,
            birth: (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(stat.stx_btime)),
            ctime: time(stat.stx_ctime),
            links: stat.stx_nlink,
            mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            append_only: stat.stx_attributes.contains(StatxAttributes::APPEND),
            immutable: stat.stx_attributes.contains(StatxAttributes::IMMUTABLE),
        },
    }
}

/// The fields of `statx` that an [`Entry`] is made of.
const FACTS: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Calls `statx` on an open descriptor.
fn stat_fd(fd: impl rustix::fd::AsFd, flags: StatxFlags) -> rustix::io::Result<Statx> {
    sys::statx(fd, c"", AtFlags::EMPTY_PATH, flags)
}

/// Panics for tests, in debug builds only: in the thread that `TWINDIR_PANICS_IN` names, if `name`
/// is `panic here`.
fn provoke_panic(name: &[u8]) {
    if cfg!(debug_assertions) && name == b"panic here" {
        let wanted = std::env::var("TWINDIR_PANICS_IN").ok();
        assert!(
            wanted.is_none() || wanted.as_deref() != std::thread::current().name(),
            "as asked for"
        );
    }
}
