//! One name on one side: absent, unknown, or present with its metadata.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::model::error::FsError;

/// A point in time as file systems store it: seconds since 1970, and nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

impl Time {
    pub fn plus_seconds(self, sec: i64) -> Self {
        Self { sec: self.sec.saturating_add(sec), ..self }
    }

    /// Returns the time that lies `span` before this one.
    pub fn before(self, span: Duration) -> Self {
        let sec = self.sec.saturating_sub_unsigned(span.as_secs());
        match self.nsec.checked_sub(span.subsec_nanos()) {
            Some(nsec) => Self { sec, nsec },
            None => Self {
                sec: sec.saturating_sub(1),
                nsec: self.nsec + 1_000_000_000 - span.subsec_nanos(),
            },
        }
    }

    pub const FIRST: Self = Self { sec: i64::MIN, nsec: 0 };
    pub const LAST: Self = Self { sec: i64::MAX, nsec: 999_999_999 };

    /// Returns whether two times are the same for a file system that stores times in steps of
    /// `step` nanoseconds, whichever way it rounds.
    pub fn is_within(self, other: Time, step: u64) -> bool {
        let nanos = |time: Time| i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec);
        (nanos(self) - nanos(other)).abs() < i128::from(step)
    }
}

impl Time {
    /// Returns the day in UTC, as `2038-01-19`, or seconds since 1970 if it is beyond jiff's range.
    pub fn date(self) -> String {
        jiff::Timestamp::from_second(self.sec).map_or_else(
            |_| format!("{} s since 1970", self.sec),
            |time| time.strftime("%Y-%m-%d").to_string(),
        )
    }
}

impl fmt::Display for Time {
    /// Writes RFC 3339 in UTC with nanoseconds, or seconds since 1970 if it is beyond jiff's range.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::new(self.sec, i32::try_from(self.nsec).unwrap_or(0)) {
            Ok(time) => write!(f, "{time:.9}"),
            Err(_) => write!(f, "{}.{:09}", self.sec, self.nsec),
        }
    }
}

/// FIFOs, sockets and devices: never opened, never mirrored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Special {
    Fifo,
    Socket,
    Device,
    Other,
    /// A symlink that the replica's file system cannot store.
    Symlink,
}

impl Special {
    pub fn skip_reason(self) -> &'static str {
        match self {
            Special::Fifo => "not mirrored: a FIFO",
            Special::Socket => "not mirrored: a socket",
            Special::Device => "not mirrored: a device",
            Special::Symlink => {
                "not mirrored: a symlink that the replica's file system does not take"
            }
            Special::Other => "not mirrored: of an unknown kind",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    File,
    Dir,
    /// A symbolic link and the bytes it points to.
    Symlink(Box<[u8]>),
    Special(Special),
}

/// The metadata of an entry that exists, from one `statx` (and one `readlink` for a symlink).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub kind: Kind,
    /// Length in bytes. Only that of a file has a meaning.
    pub size: u64,
    pub mtime: Time,
    /// Permission bits with setuid, setgid and sticky: `mode & 0o7777`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Extended attributes; `None` where they were not read.
    pub xattrs: Option<Xattrs>,
    pub inode: Inode,
}

/// The identity of an inode, and further properties that are not mirrored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    pub dev: u64,
    pub ino: u64,
    /// Time of creation; `None` if the file system does not report it.
    pub birth: Option<Time>,
    pub ctime: Time,
    /// Number of hard links.
    pub links: u32,
    /// Whether another file system is mounted here.
    pub mount_root: bool,
    /// Whether it is append-only (`chattr +a`). Entries of such a directory can be neither deleted
    /// nor renamed.
    pub append_only: bool,
    /// Whether it is immutable (`chattr +i`).
    pub immutable: bool,
}

impl Inode {
    /// Returns device and inode number. While this inode exists, no other one has both.
    pub fn id(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

/// Extended attributes, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Xattrs(pub BTreeMap<Box<[u8]>, Box<[u8]>>);

/// The attribute that holds the access ACL.
const ACL: &[u8] = b"system.posix_acl_access";

impl Xattrs {
    /// Returns whether the two access ACLs give different rights to the owning group, or to named
    /// users and groups. The mode shows the other entries (owner, mask and others); see acl(5).
    pub fn lets_in_others_than(&self, other: &Self) -> bool {
        // Four bytes of version. Then for each entry the tag, the rights, and the id.
        let entries = |xattrs: &Self| -> Vec<Vec<u8>> {
            let acl = xattrs.0.get(ACL).map_or(&[][..], |acl| acl.get(4..).unwrap_or_default());
            let tells_mode = |entry: &&[u8]| matches!(entry, [0x01 | 0x10 | 0x20, 0, ..]);
            acl.chunks(8).filter(|entry| !tells_mode(entry)).map(<[u8]>::to_vec).collect()
        };
        entries(self) != entries(other)
    }
}

/// The kinds of extended attributes that are mirrored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XattrKinds {
    /// `user.*`
    pub user: bool,
    /// POSIX ACLs, including the default ACLs of directories.
    pub acl: bool,
}

impl XattrKinds {
    pub const NONE: Self = Self { user: false, acl: false };
    pub const ALL: Self = Self { user: true, acl: true };

    pub fn mirrors(self, name: &[u8]) -> bool {
        (self.user && name.starts_with(b"user."))
            || (self.acl
                && matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default"))
    }
}

/// The permission bits of group and others.
pub const GROUP_OTHER: u32 = 0o077;

/// An inode and its state. Two observations with the same identity saw the same contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    pub mtime: Time,
    pub ctime: Time,
}

impl Entry {
    pub fn identity(&self) -> Identity {
        Identity {
            dev: self.inode.dev,
            ino: self.inode.ino,
            size: self.size,
            mtime: self.mtime,
            ctime: self.inode.ctime,
        }
    }

    /// Returns whether both entries are the same inode, even if its state has changed.
    pub fn is_inode_of(&self, other: &Entry) -> bool {
        self.inode.id() == other.inode.id()
    }

    /// Returns whether it is append-only or immutable. Such an entry can be neither deleted nor
    /// renamed, and its metadata cannot be changed.
    pub fn is_locked(&self) -> bool {
        self.inode.append_only || self.inode.immutable
    }

    /// Returns whether the mode gives no rights to group and others.
    pub fn is_closed(&self) -> bool {
        self.mode & GROUP_OTHER == 0
    }

    /// Returns whether the mode gives group or others a right that `other`'s mode does not give.
    pub fn is_wider_than(&self, other: &Entry) -> bool {
        self.mode & !other.mode & GROUP_OTHER != 0
    }

    /// Returns whether group or others have any right to it, once they can enter its directory. A
    /// symlink shows nothing.
    pub fn shows_something(&self) -> bool {
        !self.is_closed() && !matches!(self.kind, Kind::Symlink(_))
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Returns whether this is the same file as `before`, with the same mode and owners, but
    /// longer.
    pub fn has_grown_from(&self, before: &Entry) -> bool {
        let facts = |entry: &Entry| (entry.inode.id(), entry.mode, entry.uid, entry.gid);
        facts(self) == facts(before) && self.size > before.size
    }

    /// Returns whether it is a file or symlink with more than one hard link.
    pub fn has_links(&self) -> bool {
        !self.is_dir() && !self.is_special() && self.inode.links > 1
    }

    /// Returns whether it is a FIFO, socket or device, or of an unknown kind.
    pub fn is_special(&self) -> bool {
        matches!(self.kind, Kind::Special(_))
    }

    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }
}

/// The state of one name on one side. Only `ENOENT` makes it [`Observed::Absent`] (I5). Any other
/// error makes it [`Observed::Unknown`], which never leads to a deletion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Observed {
    Absent,
    /// Not examined: only a listing is known, which may be out of date.
    Unobserved,
    Unknown(FsError),
    Present(Entry),
}

impl Observed {
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Observed::Present(entry) => Some(entry),
            Observed::Absent | Observed::Unobserved | Observed::Unknown(_) => None,
        }
    }

    /// Returns whether nothing is known to be there: it is absent, or was not examined.
    pub fn is_absent_or_unobserved(&self) -> bool {
        matches!(self, Observed::Absent | Observed::Unobserved)
    }

    /// Returns the error if the name could not be examined.
    pub fn error(&self) -> Option<FsError> {
        match self {
            Observed::Unknown(error) => Some(*error),
            Observed::Absent | Observed::Unobserved | Observed::Present(_) => None,
        }
    }

    pub fn is_dir(&self) -> bool {
        self.entry().is_some_and(Entry::is_dir)
    }
}

/// An MD5 digest; shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Md5(pub [u8; 16]);

impl fmt::Display for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The MD5s of a pair of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DigestPair {
    pub source: Md5,
    pub replica: Md5,
}

impl DigestPair {
    pub fn same(&self) -> bool {
        self.source == self.replica
    }
}

#[cfg(test)]
pub mod testing {
    use super::{Entry, Inode, Kind, Time};

    pub fn inode(ctime: Time, links: u32) -> Inode {
        Inode {
            dev: 1,
            ino: 1,
            birth: None,
            ctime,
            links,
            mount_root: false,
            append_only: false,
            immutable: false,
        }
    }

    pub fn entry(kind: Kind) -> Entry {
        Entry {
            kind,
            size: 3,
            mtime: Time { sec: 7, nsec: 9 },
            mode: 0o644,
            uid: 1,
            gid: 1,
            xattrs: None,
            inode: inode(Time { sec: 1, nsec: 1 }, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_back_over_whole_seconds() {
        let time = Time { sec: 10, nsec: 5 };
        let millis = |number| time.before(Duration::from_millis(number));
        assert_eq!(time.before(Duration::from_nanos(5)), Time { sec: 10, nsec: 0 });
        assert_eq!(time.before(Duration::from_nanos(6)), Time { sec: 9, nsec: 999_999_999 });
        assert_eq!(millis(2_500), Time { sec: 7, nsec: 500_000_005 });
        assert_eq!(millis(20_000), Time { sec: -10, nsec: 5 });
        assert_eq!(Time::FIRST.before(Duration::from_secs(1)).sec, i64::MIN);
    }
}
