//! What is known of one name on one side: absent, unknown, or present with its facts.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::model::error::FsError;

/// A point in time as the file system keeps it: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

impl Time {
    pub fn plus_seconds(self, sec: i64) -> Self {
        Self { sec: self.sec.saturating_add(sec), ..self }
    }

    /// The time that lies so much before this one.
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

    /// Whether two times are the same to a file system that counts in steps of so many
    /// nanoseconds, whichever way it rounds.
    pub fn is_within(self, other: Time, step: u64) -> bool {
        let nanos = |time: Time| i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec);
        (nanos(self) - nanos(other)).abs() < i128::from(step)
    }
}

impl Time {
    /// The day in UTC, as `2038-01-19`; seconds since 1970 where no calendar reaches.
    pub fn date(self) -> String {
        jiff::Timestamp::from_second(self.sec).map_or_else(
            |_| format!("{} s since 1970", self.sec),
            |time| time.strftime("%Y-%m-%d").to_string(),
        )
    }
}

impl fmt::Display for Time {
    /// RFC 3339 in UTC, with nanoseconds; seconds since 1970 where no calendar reaches.
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
    /// A symlink, where the replica's file system takes none.
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

/// The facts of an entry that is there, from one `statx` (and one `readlink`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub kind: Kind,
    /// Length in bytes; means something for files only.
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

/// What identifies an inode, and what its own file system says of it. None of this is mirrored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    pub dev: u64,
    pub ino: u64,
    /// When it was made; `None` where its file system does not say.
    pub birth: Option<Time>,
    pub ctime: Time,
    /// Number of hard links.
    pub links: u32,
    /// Whether another file system is mounted here.
    pub mount_root: bool,
    /// Whether the kernel lets it only grow (`chattr +a`): what is put into such a directory stays
    /// there.
    pub append_only: bool,
    /// Whether it cannot be changed at all (`chattr +i`).
    pub immutable: bool,
}

impl Inode {
    /// Device and number: while it stands, no other inode has both.
    pub fn id(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

/// Extended attributes, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Xattrs(pub BTreeMap<Box<[u8]>, Box<[u8]>>);

/// The name of the ACL that says who is let in.
const ACL: &[u8] = b"system.posix_acl_access";

impl Xattrs {
    /// Whether the ACL lets in others than another one, besides those of whom the mode tells. See
    /// acl(5) for its entries.
    pub fn lets_in_others_than(&self, other: &Self) -> bool {
        // Its version, then of each entry the tag, the rights, and whose they are.
        let entries = |xattrs: &Self| -> Vec<Vec<u8>> {
            let acl = xattrs.0.get(ACL).map_or(&[][..], |acl| acl.get(4..).unwrap_or_default());
            let tells_mode = |entry: &&[u8]| matches!(entry, [0x01 | 0x10 | 0x20, 0, ..]);
            acl.chunks(8).filter(|entry| !tells_mode(entry)).map(<[u8]>::to_vec).collect()
        };
        entries(self) != entries(other)
    }
}

/// Which extended attributes are mirrored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XattrKinds {
    /// `user.*`
    pub user: bool,
    /// POSIX ACLs, the default ones of directories too.
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

/// The rights of group and others.
pub const GROUP_OTHER: u32 = 0o077;

/// Which inode in which state: two looks that agree in this saw the same contents.
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

    /// Whether this is what `other` was seen to be, in whatever state by now.
    pub fn is_inode_of(&self, other: &Entry) -> bool {
        self.inode.id() == other.inode.id()
    }

    /// Whether it can be neither removed, renamed nor given other metadata.
    pub fn is_locked(&self) -> bool {
        self.inode.append_only || self.inode.immutable
    }

    /// Whether its mode lets in nobody but its owner.
    pub fn is_closed(&self) -> bool {
        self.mode & GROUP_OTHER == 0
    }

    /// Whether group and others may do more with it than with another one, by their modes.
    pub fn is_wider_than(&self, other: &Entry) -> bool {
        self.mode & !other.mode & GROUP_OTHER != 0
    }

    /// Whether it would show something to others, were they let into the directory that holds it.
    pub fn shows_something(&self) -> bool {
        !self.is_closed() && !matches!(self.kind, Kind::Symlink(_))
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Whether this is the same file, of which nothing is known but that it has become longer.
    pub fn has_grown_from(&self, before: &Entry) -> bool {
        let facts = |entry: &Entry| (entry.inode.id(), entry.mode, entry.uid, entry.gid);
        facts(self) == facts(before) && self.size > before.size
    }

    /// Whether it is a file or symlink with more than one name.
    pub fn has_links(&self) -> bool {
        !self.is_dir() && !self.is_special() && self.inode.links > 1
    }

    /// Whether it is a FIFO, socket or device.
    pub fn is_special(&self) -> bool {
        matches!(self.kind, Kind::Special(_))
    }

    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }
}

/// One name on one side. "Not there" is said by `ENOENT` alone (I5); any other error is
/// [`Observed::Unknown`], which is never taken for a deletion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Observed {
    Absent,
    /// Nobody has looked: all that is known is what a listing has said, which may be old by now.
    Unlooked,
    Unknown(FsError),
    Present(Entry),
}

impl Observed {
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Observed::Present(entry) => Some(entry),
            Observed::Absent | Observed::Unlooked | Observed::Unknown(_) => None,
        }
    }

    /// Whether nothing is known to stand there.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Observed::Absent | Observed::Unlooked)
    }

    /// Why it could not be looked at.
    pub fn error(&self) -> Option<FsError> {
        match self {
            Observed::Unknown(error) => Some(*error),
            Observed::Absent | Observed::Unlooked | Observed::Present(_) => None,
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

/// The digests of the two files of a pair.
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
