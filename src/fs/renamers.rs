//! Which other users could have moved a directory of the replica to its place: those who may rename
//! entries in a directory above it. If there are any, the directory may not be the one that its
//! name suggests. Its contents may then not be meant for the users for whom it is to be widened.

use crate::fs::view::ReplicaView;
use crate::model::entry::Entry;
use crate::model::path::RelPath;
use crate::plan::verified_dirs::VerifiedDirs;

/// The mode bits that let group and others rename entries in a directory. The group bits also cover
/// the rights in an ACL.
const WRITABLE: u32 = 0o022;

/// The other users who can rename entries in a directory, apart from the user that twindir runs as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renamers {
    Nobody,
    /// One user, by uid.
    One(u32),
    /// Several users, or unknown ones.
    Many,
}

impl Renamers {
    /// Returns who can rename entries in `dir`, a directory of the replica, or could do so before.
    /// `user`: the uid that twindir runs as.
    pub fn within(dir: &Entry, verified_dirs: &VerifiedDirs, user: u32) -> Self {
        if dir.mode & WRITABLE != 0 || verified_dirs.had_other_renamers(dir) {
            Self::Many
        } else if dir.uid == user {
            Self::Nobody
        } else {
            Self::One(dir.uid)
        }
    }

    /// Returns those who are among `self` or `other`.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, one) | (one, Self::Nobody) => one,
            (Self::One(one), Self::One(other)) if one == other => self,
            _ => Self::Many,
        }
    }

    /// Returns who could have moved the directory `dir`, which was found at `path` below the
    /// replica's `root`. Returns [`Renamers::Many`] if a directory above it cannot be read, or if
    /// another directory than `dir` is at `path`.
    pub fn of(
        root: &impl ReplicaView,
        path: &RelPath,
        dir: &Entry,
        verified_dirs: &VerifiedDirs,
        user: u32,
    ) -> Self {
        let follow = || {
            let mut above = root.open(&RelPath::root()).ok()?;
            let mut renamers = Self::Nobody;
            for name in path.as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty())
            {
                renamers = renamers.and(Self::within(&above.entry().ok()?, verified_dirs, user));
                above = above.open(&RelPath::new(name)?).ok()?;
            }
            above.entry().is_ok_and(|found| found.is_inode_of(dir)).then_some(renamers)
        };
        follow().unwrap_or(Self::Many)
    }

    /// Whether the directory can be trusted to be the one that its name suggests. This holds if
    /// nobody else could have moved it. It also holds if only its owner could have, and the same
    /// user owns the source's directory: that user may show its contents to anybody.
    pub fn are_harmless(self, source: &Entry, replica: &Entry) -> bool {
        match self {
            Self::Nobody => true,
            Self::One(uid) => uid == replica.uid && uid == source.uid,
            Self::Many => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::Kind;
    use crate::model::entry::testing::entry;

    fn dir() -> Entry {
        entry(Kind::Dir)
    }

    #[test]
    fn whoever_may_write_in_a_directory_may_move_what_lies_in_it() {
        let verified_dirs = VerifiedDirs::default();
        let within = |uid, mode| Renamers::within(&Entry { mode, uid, ..dir() }, &verified_dirs, 7);
        assert_eq!(within(7, 0o755), Renamers::Nobody);
        assert_eq!(within(8, 0o700), Renamers::One(8));
        for mode in [0o775, 0o757, 0o1777] {
            assert_eq!(within(7, mode), Renamers::Many);
        }
        let ours = Entry { uid: 7, mode: 0o700, ..dir() };
        verified_dirs.mark_had_other_renamers(&ours);
        assert_eq!(Renamers::within(&ours, &verified_dirs, 7), Renamers::Many);
        verified_dirs.note(&dir(), &ours);
        assert_eq!(Renamers::within(&ours, &verified_dirs, 7), Renamers::Nobody);
    }

    #[test]
    fn an_owner_may_show_what_is_his_on_both_sides() {
        let of = |uid| Entry { uid, ..dir() };
        for (renamers, source, replica, harmless) in [
            (Renamers::Nobody, 1, 2, true),
            (Renamers::One(1), 1, 1, true),
            (Renamers::One(1), 1, 2, false),
            (Renamers::One(1), 2, 1, false),
            (Renamers::One(1).and(Renamers::One(1)), 1, 1, true),
            (Renamers::One(1).and(Renamers::One(2)), 1, 1, false),
            (Renamers::Nobody.and(Renamers::One(1)).and(Renamers::Nobody), 1, 1, true),
            (Renamers::Many, 1, 1, false),
        ] {
            assert_eq!(renamers.are_harmless(&of(source), &of(replica)), harmless, "{renamers:?}");
        }
    }
}
