//! Who could have moved a directory of the replica to where it is: whoever may rename in one of
//! those above it. A directory may then be another than its name says, and hold what is not for
//! those to whom it is to be opened.

use crate::fs::view::ReplicaView;
use crate::model::entry::Entry;
use crate::model::path::RelPath;
use crate::plan::verified_dirs::VerifiedDirs;

/// The mode's bits by which group and others may rename in a directory. Those of an ACL show in the
/// group's.
const WRITABLE: u32 = 0o022;

/// Who besides the one who mirrors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renamers {
    Nobody,
    One(u32),
    Many,
}

impl Renamers {
    /// Who can rename what lies in a directory of the replica, or could before. `user`: who mirrors
    /// it.
    pub fn within(dir: &Entry, verified_dirs: &VerifiedDirs, user: u32) -> Self {
        if dir.mode & WRITABLE != 0 || verified_dirs.had_other_renamers(dir) {
            Self::Many
        } else if dir.uid == user {
            Self::Nobody
        } else {
            Self::One(dir.uid)
        }
    }

    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, one) | (one, Self::Nobody) => one,
            (Self::One(one), Self::One(other)) if one == other => self,
            _ => Self::Many,
        }
    }

    /// Who could have moved the directory at `path` below the replica's `root` to where it is.
    /// Many, where one above it cannot be looked at, or where another than `dir` is found there.
    pub fn of(
        root: &impl ReplicaView,
        path: &RelPath,
        dir: &Entry,
        verified_dirs: &VerifiedDirs,
        user: u32,
    ) -> Self {
        let follow = || {
            let mut above = root.open(&RelPath::root()).ok()?;
            let mut movers = Self::Nobody;
            for name in path.as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty())
            {
                movers = movers.and(Self::within(&above.entry().ok()?, verified_dirs, user));
                above = above.open(&RelPath::new(name)?).ok()?;
            }
            above.entry().is_ok_and(|found| found.is_inode_of(dir)).then_some(movers)
        };
        follow().unwrap_or(Self::Many)
    }

    /// Whether a directory can be taken for what its name says: only its owner could have moved it,
    /// and it is his in the source, too. He may show what is in it to whom he likes.
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
        for (movers, source, replica, harmless) in [
            (Renamers::Nobody, 1, 2, true),
            (Renamers::One(1), 1, 1, true),
            (Renamers::One(1), 1, 2, false),
            (Renamers::One(1), 2, 1, false),
            (Renamers::One(1).and(Renamers::One(1)), 1, 1, true),
            (Renamers::One(1).and(Renamers::One(2)), 1, 1, false),
            (Renamers::Nobody.and(Renamers::One(1)).and(Renamers::Nobody), 1, 1, true),
            (Renamers::Many, 1, 1, false),
        ] {
            assert_eq!(movers.are_harmless(&of(source), &of(replica)), harmless, "{movers:?}");
        }
    }
}
