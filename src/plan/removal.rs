//! The rules of removal: whether an entry of the replica may be deleted, replaced or renamed.
//! Rounds ask them for files, directories and renames alike, and previews ask them too.
//!
//! Nothing in the replica can be deleted or overwritten without a [`RemovalPermit`], and only this
//! module gives one (I5).

use crate::model::entry::Entry;
use crate::model::error::{FsError, FsErrorKind, GIVES_NOTHING_BACK, LOCKED, Side};
use crate::model::path::{Name, RelPath};
use crate::plan::deletions::Deletions;

/// Why a directory that holds excluded entries does not give way to an entry of another kind.
const EXCLUDED: FsError = FsError::found(
    "replace a directory with excluded entries in it",
    Side::Replica,
    FsErrorKind::HoldsExcluded,
);

/// Why an entry stays that is mounted there.
const IS_MOUNT: FsError =
    FsError::found("remove or replace a mount", Side::Replica, FsErrorKind::IsMount);

/// The right to delete or overwrite an entry of the replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemovalPermit(());

impl RemovalPermit {
    /// For an entry under a reserved name: it is twindir's own (I7). `None` for any other name.
    pub fn for_reserved(name: &Name) -> Option<Self> {
        name.is_reserved().then_some(Self(()))
    }

    /// For an entry of a backup folder, which holds nothing but copies. For `writer::fs::backup` alone.
    pub fn in_backup() -> Self {
        Self(())
    }

    /// For an entry that cannot be looked at. A rename replaces a file, and no directory but an empty one
    /// by another directory. For the rules on what is replaced alone.
    pub fn for_unknown() -> Self {
        Self(())
    }
}

/// What is to become of an entry that stands in the replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemovalKind {
    /// The source lacks it.
    Removed,
    /// Another one takes its name.
    Replaced,
    /// It gets another name.
    Moved,
}

/// What the rules say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ruling {
    Goes(RemovalPermit),
    /// These entries below it may be deleted, with all that they hold. The rest stays, since it
    /// holds excluded entries.
    GoesInParts(Vec<RelPath>, RemovalPermit),
    Stays(Stay),
}

/// Why an entry stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stay {
    /// The guard holds deletions.
    Held,
    /// A file system was mounted at this path of the source, and is no longer: what the replica has
    /// of it is kept.
    Unmounted(RelPath),
    /// It cannot be done: a problem.
    FsError(FsError),
}

/// Which part of a directory may be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Removable {
    Whole,
    /// These entries, with all that they hold; the rest stays.
    Parts(Vec<RelPath>),
}

/// What stands in the replica, as far as the rules ask for it. The questions that cost something
/// come last, and only for directories.
pub trait Standing {
    fn entry(&self) -> &Entry;

    /// Whether the directory that holds it is append-only.
    fn is_in_append_only(&self) -> bool;

    /// Where a file system was mounted in the source that is not mounted any more, if the entry is
    /// at that path, above or below it.
    fn lost_mount(&self) -> Option<RelPath>;

    /// Why a directory can be neither renamed nor deleted, if there is a reason: what is mounted in
    /// it, or lies in it.
    fn must_stay(&self) -> Option<FsError>;

    /// Which part of a directory may be deleted, for the sake of what is excluded.
    fn removable_part(&self) -> Removable;
}

/// Whether an entry may be removed, replaced or renamed so. Whether its absence in the source is proved (I5) is for
/// whoever asks.
pub fn rule(standing: &impl Standing, removal_kind: RemovalKind, deletions: Deletions) -> Ruling {
    let entry = standing.entry();
    let is_dir = entry.is_dir();
    // A file that is replaced is no deletion.
    let is_deletion = is_dir || removal_kind != RemovalKind::Replaced;
    if deletions.are_held() && is_deletion {
        return Ruling::Stays(Stay::Held);
    }
    if let Some(mount) = is_deletion.then(|| standing.lost_mount()).flatten() {
        return Ruling::Stays(Stay::Unmounted(mount));
    }
    let obstacle = [
        (entry.inode.mount_root, IS_MOUNT),
        (standing.is_in_append_only(), GIVES_NOTHING_BACK),
        (entry.is_locked(), LOCKED),
    ];
    if let Some((_, error)) = obstacle.into_iter().find(|(is_met, _)| *is_met) {
        return Ruling::Stays(Stay::FsError(error));
    }
    if !is_dir {
        return Ruling::Goes(RemovalPermit(()));
    }
    if let Some(error) = standing.must_stay() {
        return Ruling::Stays(Stay::FsError(error));
    }
    match (standing.removable_part(), removal_kind) {
        (Removable::Whole, _) => Ruling::Goes(RemovalPermit(())),
        (Removable::Parts(parts), RemovalKind::Removed) => {
            Ruling::GoesInParts(parts, RemovalPermit(()))
        }
        (Removable::Parts(_), RemovalKind::Replaced | RemovalKind::Moved) => {
            Ruling::Stays(Stay::FsError(EXCLUDED))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::Kind;
    use crate::model::entry::testing::entry;
    use crate::model::path::testing::path;

    const MUST_STAY: FsError = FsError::found(
        "move a directory with a mount in it",
        Side::Replica,
        FsErrorKind::HoldsMount,
    );
    const FATES: [RemovalKind; 3] =
        [RemovalKind::Removed, RemovalKind::Replaced, RemovalKind::Moved];
    const HELD: Deletions = Deletions::Held { create_budget: Some(0) };

    #[derive(Clone)]
    struct Fake {
        entry: Entry,
        is_in_append_only: bool,
        lost_mount: Option<RelPath>,
        must_stay: Option<FsError>,
        part: Removable,
    }

    impl Fake {
        fn new(kind: Kind) -> Self {
            let (lost_mount, must_stay, part) = (None, None, Removable::Whole);
            Self { entry: entry(kind), is_in_append_only: false, lost_mount, must_stay, part }
        }
    }

    impl Standing for Fake {
        fn entry(&self) -> &Entry {
            &self.entry
        }
        fn is_in_append_only(&self) -> bool {
            self.is_in_append_only
        }
        fn lost_mount(&self) -> Option<RelPath> {
            self.lost_mount.clone()
        }
        fn must_stay(&self) -> Option<FsError> {
            self.must_stay
        }
        fn removable_part(&self) -> Removable {
            self.part.clone()
        }
    }

    fn kinds() -> [Fake; 3] {
        [Kind::File, Kind::Symlink(b"to".as_slice().into()), Kind::Dir].map(Fake::new)
    }

    /// What becomes of each kind of entry by each kind of removal, where something is in the way.
    fn each(change: impl Fn(&mut Fake), deletions: Deletions) -> Vec<(bool, RemovalKind, Ruling)> {
        let all = kinds()
            .into_iter()
            .flat_map(|fake| FATES.map(|removal_kind| (fake.clone(), removal_kind)));
        all.map(|(mut fake, removal_kind)| {
            change(&mut fake);
            (fake.entry.is_dir(), removal_kind, rule(&fake, removal_kind, deletions))
        })
        .collect()
    }

    #[test]
    fn what_has_nothing_in_its_way_goes() {
        for (_, removal_kind, ruling) in each(|_| {}, Deletions::Followed) {
            assert_eq!(ruling, Ruling::Goes(RemovalPermit(())), "{removal_kind:?}");
        }
    }

    #[test]
    fn held_deletions_keep_all_but_a_file_that_another_entry_replaces() {
        for (is_dir, removal_kind, ruling) in each(|_| {}, HELD) {
            let is_kept = is_dir || removal_kind != RemovalKind::Replaced;
            assert_eq!(ruling == Ruling::Stays(Stay::Held), is_kept, "{is_dir} {removal_kind:?}");
        }
    }

    #[test]
    fn what_a_lost_mount_had_stays_unless_a_file_is_replaced() {
        let lost = |fake: &mut Fake| fake.lost_mount = Some(path("mnt"));
        for (is_dir, removal_kind, ruling) in each(lost, Deletions::Followed) {
            let is_kept = is_dir || removal_kind != RemovalKind::Replaced;
            assert_eq!(
                ruling == Ruling::Stays(Stay::Unmounted(path("mnt"))),
                is_kept,
                "{removal_kind:?}"
            );
        }
    }

    #[test]
    fn mounts_and_locked_entries_stay_by_every_fate() {
        type Change = fn(&mut Fake);
        let changes: [(Change, FsError); 4] = [
            (|fake| fake.entry.inode.mount_root = true, IS_MOUNT),
            (|fake| fake.is_in_append_only = true, GIVES_NOTHING_BACK),
            (|fake| fake.entry.inode.append_only = true, LOCKED),
            (|fake| fake.entry.inode.immutable = true, LOCKED),
        ];
        for (change, error) in changes {
            for (_, removal_kind, ruling) in each(change, Deletions::Followed) {
                assert_eq!(ruling, Ruling::Stays(Stay::FsError(error)), "{removal_kind:?}");
            }
        }
    }

    #[test]
    fn a_directory_stays_for_what_is_mounted_in_it_and_a_file_is_not_asked() {
        let holds = |fake: &mut Fake| fake.must_stay = Some(MUST_STAY);
        for (is_dir, removal_kind, ruling) in each(holds, Deletions::Followed) {
            assert_eq!(
                ruling == Ruling::Stays(Stay::FsError(MUST_STAY)),
                is_dir,
                "{removal_kind:?}"
            );
        }
    }

    #[test]
    fn a_directory_with_excluded_entries_is_deleted_in_parts_and_neither_replaced_nor_moved() {
        let parts = vec![path("d/part")];
        let holds = |fake: &mut Fake| fake.part = Removable::Parts(vec![path("d/part")]);
        for (is_dir, removal_kind, ruling) in each(holds, Deletions::Followed) {
            let expected = match (is_dir, removal_kind) {
                (false, _) => Ruling::Goes(RemovalPermit(())),
                (true, RemovalKind::Removed) => {
                    Ruling::GoesInParts(parts.clone(), RemovalPermit(()))
                }
                (true, RemovalKind::Replaced | RemovalKind::Moved) => {
                    Ruling::Stays(Stay::FsError(EXCLUDED))
                }
            };
            assert_eq!(ruling, expected, "{is_dir} {removal_kind:?}");
        }
    }

    #[test]
    fn reserved_names_alone_have_a_permit_of_their_own() {
        assert!(RemovalPermit::for_reserved(&Name::reserved(7)).is_some());
        assert_eq!(RemovalPermit::for_reserved(&Name::new(b"f").unwrap()), None);
    }
}
