//! Metadata: what is mirrored, what differs between the sides, and whether a difference grants more
//! access. Pure.

use std::fmt;

use crate::model::entry::{Entry, Kind, Time, XattrKinds, Xattrs};

/// The symlinks that a file system can store.
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

/// The mtimes that a file system can store. A time out of range becomes the nearest one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimestampRange {
    /// The difference between two neighbouring times, in nanoseconds.
    pub step: u64,
    pub earliest: Time,
    pub latest: Time,
}

impl TimestampRange {
    pub const ALL: Self = Self { step: 1, earliest: Time::FIRST, latest: Time::LAST };
}

/// The metadata that is mirrored and compared: what this process can set and the replica can store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Whether the process can set any owner and group.
    pub owner: bool,
    /// The user that owns new entries if their owner cannot be set.
    pub user: u32,
    /// The groups of the process. It can always set these.
    pub groups: Vec<u32>,
    pub xattrs: XattrKinds,
    pub modes: bool,
    pub symlinks: Symlinks,
    /// Whether a symlink has an owner and mtime of its own. Some file systems set those of its
    /// target.
    pub symlink_metadata: bool,
    /// The mtimes that it stores; `None` if it stores none.
    pub times: Option<TimestampRange>,
    /// Whether `A` and `a` are one name.
    pub folds_case: bool,
    /// Whether both sides keep ctimes, by the same clock.
    pub ctimes: bool,
    /// Seconds after its ctime in which a file of the source may still change unnoticed, through a
    /// mapping. 0 if comparisons ignore that.
    pub unseen: i64,
    /// Whether it reports a failed write only when all is flushed, as network file systems do.
    pub reports_late: bool,
}

impl Capabilities {
    /// Makes the capabilities of a file system that stores everything, for a process that cannot
    /// set foreign owners.
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
            reports_late: false,
        }
    }

    /// Returns whether two mtimes are the same for the replica's file system.
    pub fn is_same_mtime(&self, source: &Entry, replica: &Entry) -> bool {
        // If none is stored, any two are the same.
        self.times.is_none_or(|times| self.mtime_of(source).is_within(replica.mtime, times.step))
    }

    /// Returns the mtime to mirror: the one nearest to the source's that the replica's file system
    /// can store.
    pub fn mtime_of(&self, source: &Entry) -> Time {
        self.times.map_or(source.mtime, |times| source.mtime.clamp(times.earliest, times.latest))
    }

    /// Returns whether the source's mtime is out of the replica's range, so that another one is
    /// stored.
    pub fn clamps_mtime(&self, source: &Entry) -> bool {
        self.has_metadata(&source.kind)
            && self.times.is_some()
            && self.mtime_of(source) != source.mtime
    }

    /// Returns whether owner and mtime can be set for this kind of entry.
    fn has_metadata(&self, kind: &Kind) -> bool {
        self.symlink_metadata || !matches!(kind, Kind::Symlink(_))
    }

    /// Returns whether the process can set this group.
    pub fn may_give_group(&self, gid: u32) -> bool {
        self.owner || self.groups.contains(&gid)
    }

    /// Returns the mode to mirror. `standing` is the replica's entry; `None` for a new one.
    ///
    /// A file loses setuid if its owner cannot be mirrored, and setgid if its group cannot.
    /// Otherwise the program would run as another user or group.
    pub fn mode_of(&self, source: &Entry, standing: Option<&Entry>) -> u32 {
        // The bit stays if the replica's entry has it already, with the right owner or group.
        // Otherwise the kernel does not let us set it.
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

/// The metadata that differs between two entries of the same kind.
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
            // Attributes that were not read on both sides do not count.
            xattrs: matches!((&source.xattrs, &replica.xattrs), (Some(ours), Some(theirs)) if ours != theirs),
        }
    }

    /// Counts only those attributes that grant access, instead of all. The argument holds the
    /// attributes of both sides.
    pub fn of_rights(self, (ours, theirs): (&Xattrs, &Xattrs)) -> Self {
        Self { xattrs: ours.lets_in_others_than(theirs), ..self }
    }

    /// Returns what a new entry needs: everything that can be set.
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

    /// Returns whether any mirrored metadata differs.
    pub fn any(self) -> bool {
        self.mtime || self.any_but_mtime()
    }

    /// Returns whether more than the mtime differs.
    pub fn any_but_mtime(self) -> bool {
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

/// Returns whether a directory with the rights of `one` may grant access that `other` does not
/// grant. A different owner, group or ACL counts as such. `differs` comes from
/// [`MetadataDiff::of_rights`].
pub fn grants_more(
    one: &Entry,
    other: &Entry,
    differs: MetadataDiff,
    capabilities: &Capabilities,
) -> bool {
    let is_others = differs.uid || differs.gid || differs.xattrs;
    capabilities.modes && (is_others || one.mode & !other.mode & 0o777 != 0)
}

/// Returns whether a directory of the replica may grant access that the source's does not grant.
/// One that is open only to twindir's own user does not.
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
        // Version 2, then tag, rights and id.
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
