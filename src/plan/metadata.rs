//! Which facts of an entry are mirrored, which of them differ from side to side, and whether
//! somebody is let in by that. Pure.

use std::fmt;

use crate::model::entry::{Entry, Kind, Time, XattrKinds, Xattrs};

/// Which symlinks a file system takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Symlinks {
    None,
    /// Those whose target is neither absolute nor has a `..` in it.
    Contained,
    All,
}

impl Symlinks {
    pub fn take(self, target: &[u8]) -> bool {
        let is_contained = || {
            target.first() != Some(&b'/')
                && target.split(|byte| *byte == b'/').all(|name| name != b"..")
        };
        match self {
            Symlinks::None => false,
            Symlinks::Contained => is_contained(),
            Symlinks::All => true,
        }
    }
}

/// Which mtimes a file system stores. What lies outside becomes the nearest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimestampRange {
    /// In nanoseconds.
    pub step: u64,
    pub earliest: Time,
    pub latest: Time,
}

impl TimestampRange {
    pub const ALL: Self = Self { step: 1, earliest: Time::FIRST, latest: Time::LAST };
}

/// Which facts are mirrored and compared: what this process may set on this replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Whether the process may give entries to any user and group.
    pub owner: bool,
    /// Whose new entries are otherwise.
    pub user: u32,
    /// The groups to which it may give entries all the same: its own.
    pub groups: Vec<u32>,
    pub xattrs: XattrKinds,
    pub modes: bool,
    pub symlinks: Symlinks,
    /// Whether owner and mtime of a symlink are its own: some file systems set those of what it
    /// leads to.
    pub symlink_metadata: bool,
    /// Which mtimes it stores; `None` where it stores none.
    pub times: Option<TimestampRange>,
    /// Whether `A` and `a` are one name.
    pub folds_case: bool,
    /// Whether ctimes of both sides are kept, and by one clock.
    pub ctimes: bool,
    /// For how many seconds after its ctime the contents of a file of the source may yet change
    /// without a sign, as far as a comparison is to heed that.
    pub unseen: i64,
    /// Whether it tells of a write that has failed only when all is to be written out: a network
    /// file system.
    pub tells_late: bool,
}

impl Capabilities {
    /// A file system that keeps everything but foreign owners.
    pub fn all() -> Self {
        Self {
            owner: false,
            user: 0,
            groups: Vec::new(),
            xattrs: XattrKinds::ALL,
            modes: true,
            symlinks: Symlinks::All,
            symlink_metadata: true,
            times: Some(TimestampRange::ALL),
            folds_case: false,
            ctimes: true,
            unseen: 0,
            tells_late: false,
        }
    }

    /// Whether two mtimes are the same to the replica's file system.
    pub fn is_same_mtime(&self, source: &Entry, replica: &Entry) -> bool {
        // Where none is stored, any two are the same.
        self.times.is_none_or(|times| self.mtime_of(source).is_within(replica.mtime, times.step))
    }

    /// The mtime that is mirrored: the nearest to the source's that the replica's file system can
    /// store.
    pub fn mtime_of(&self, source: &Entry) -> Time {
        self.times.map_or(source.mtime, |times| source.mtime.clamp(times.earliest, times.latest))
    }

    /// Whether another mtime is stored for an entry's.
    pub fn moves_mtime(&self, source: &Entry) -> bool {
        self.has_metadata(&source.kind)
            && self.times.is_some()
            && self.mtime_of(source) != source.mtime
    }

    /// Whether owner and mtime of an entry can be set.
    fn has_metadata(&self, kind: &Kind) -> bool {
        self.symlink_metadata || !matches!(kind, Kind::Symlink(_))
    }

    /// Whether the replica's entry could be given the group of the source's.
    pub fn may_give_group(&self, gid: u32) -> bool {
        self.owner || self.groups.contains(&gid)
    }

    /// The mode that is mirrored, in a new entry or in the one that stands there. A program that
    /// runs as its owner, or with its group, must not come to run as another one, since it could
    /// not be given to its own.
    pub fn mode_of(&self, source: &Entry, standing: Option<&Entry>) -> u32 {
        // What stands there may have the bit with the right owner, and group; else the kernel does
        // not let us set it.
        let is_kept = |bit: u32, is_right: fn(&Entry, &Entry) -> bool| {
            standing.is_some_and(|standing| standing.mode & bit != 0 && is_right(source, standing))
        };
        let has_owner = self.owner
            || source.uid == self.user
            || is_kept(0o4000, |source, standing| source.uid == standing.uid);
        let has_group = self.may_give_group(source.gid)
            || is_kept(0o2000, |source, standing| source.gid == standing.gid);
        let dropped = if has_owner { 0 } else { 0o4000 } | if has_group { 0 } else { 0o2000 };
        if source.is_file() { source.mode & !dropped } else { source.mode }
    }
}

/// Which facts of two entries of one kind differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MetadataDiff {
    pub mode: bool,
    pub mtime: bool,
    pub uid: bool,
    pub gid: bool,
    pub xattrs: bool,
}

impl MetadataDiff {
    pub fn between(source: &Entry, replica: &Entry, capabilities: &Capabilities) -> Self {
        // Linux gives a symlink no mode of its own.
        let has_mode = capabilities.modes && !matches!(source.kind, Kind::Symlink(_));
        let has_metadata = capabilities.has_metadata(&source.kind);
        Self {
            mode: has_mode && capabilities.mode_of(source, Some(replica)) != replica.mode,
            mtime: has_metadata && !capabilities.is_same_mtime(source, replica),
            uid: has_metadata && capabilities.owner && source.uid != replica.uid,
            gid: has_metadata
                && source.gid != replica.gid
                && capabilities.may_give_group(source.gid),
            // What was not read on both sides is not known to differ.
            xattrs: matches!((&source.xattrs, &replica.xattrs), (Some(ours), Some(theirs)) if ours != theirs),
        }
    }

    /// The same, where only those attributes count by which somebody is let in. `xattrs`: those of
    /// both sides.
    pub fn of_rights(self, (ours, theirs): (&Xattrs, &Xattrs)) -> Self {
        Self { xattrs: ours.lets_in_others_than(theirs), ..self }
    }

    /// What a new entry needs: all that can be set.
    pub fn of_new(source: &Entry, capabilities: &Capabilities) -> Self {
        let has_metadata = capabilities.has_metadata(&source.kind);
        Self {
            mode: capabilities.modes,
            mtime: has_metadata && capabilities.times.is_some(),
            uid: has_metadata && capabilities.owner,
            gid: has_metadata && capabilities.may_give_group(source.gid),
            xattrs: true,
        }
    }

    /// Whether anything that is mirrored differs.
    pub fn any(self) -> bool {
        self.mtime || self.visible()
    }

    /// Whether more than the mtime differs.
    pub fn visible(self) -> bool {
        self.mode || self.uid || self.gid || self.xattrs
    }
}

impl fmt::Display for MetadataDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.mode, "mode"),
            (self.mtime, "mtime"),
            (self.uid, "owner"),
            (self.gid, "group"),
            (self.xattrs, "attributes"),
        ];
        let words: Vec<&str> =
            all.iter().filter(|(differs, _)| *differs).map(|(_, word)| *word).collect();
        f.write_str(&words.join(" "))
    }
}

/// Whether a directory, given what the first gives, lets in somebody whom the second does not let
/// in. `differs`: [of rights](Differs::of_rights).
pub fn grants_more(
    one: &Entry,
    other: &Entry,
    differs: MetadataDiff,
    capabilities: &Capabilities,
) -> bool {
    let is_others = differs.uid || differs.gid || differs.xattrs;
    capabilities.modes && (is_others || one.mode & !other.mode & 0o777 != 0)
}

/// Whether a directory of the replica lets in more people than the source's does. One that is its
/// maker's alone does not.
pub fn is_wider(
    source: &Entry,
    replica: &Entry,
    differs: MetadataDiff,
    capabilities: &Capabilities,
) -> bool {
    let is_closed = replica.uid == capabilities.user && replica.is_closed();
    !is_closed && grants_more(replica, source, differs, capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_attributes_only_the_acl_lets_somebody_in() {
        let xattrs =
            |name: &str, value: &[u8]| Xattrs([(name.as_bytes().into(), value.into())].into());
        // Version 2, then tag, rights, and whose.
        let acl = |tag| xattrs("system.posix_acl_access", &[2, 0, 0, 0, tag, 0, 4, 0, 1, 0, 0, 0]);
        let (owner, named) = (acl(0x01), acl(0x02));
        let none = Xattrs::default();
        for (one, other, grants_more) in [
            (&none, &xattrs("user.note", b"text"), false),
            (&none, &owner, false),
            (&none, &named, true),
            (&named, &none, true),
            (&named, &named, false),
        ] {
            let differs =
                MetadataDiff { xattrs: one != other, mtime: true, ..MetadataDiff::default() };
            let rights = MetadataDiff { xattrs: grants_more, ..differs };
            assert_eq!(differs.of_rights((one, other)), rights, "{one:?} {other:?}");
        }
    }
}
