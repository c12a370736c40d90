//! The rules of removal: whether an entry of the replica may be deleted, replaced or renamed.
//! Rounds ask them for files, directories and renames alike, and previews ask them too.
//!
//! Nothing in the replica can be deleted or overwritten without a [`RemovalPermit`], and only this
//! module gives one (I5).

use crate::model::entry::Entry;
use crate::model::error::{APPEND_ONLY_DIR, FsError, FsErrorKind, LOCKED, Side};
use crate::model::path::{Name, RelPath};
use crate::plan::deletions::Deletions;

/// The error for a directory that cannot be replaced or renamed, since it holds excluded entries.
const EXCLUDED: FsError = FsError::found(
    "replace a directory with excluded entries in it",
    Side::Replica,
    FsErrorKind::HoldsExcluded,
);

/// The error for an entry that is a mount point: it stays.
const IS_MOUNT: FsError =
    FsError::found("remove or replace a mount", Side::Replica, FsErrorKind::IsMount);

/// The right to delete or overwrite an entry of the replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemovalPermit(());

impl RemovalPermit {
    /// Permits the removal of an entry under a reserved name: it is twindir's own (I7). `None` for
    /// any other name.
    pub fn for_reserved(name: &Name) -> Option<Self> {
        name.is_reserved().then_some(Self(()))
    }

    /// Permits removals in a backup folder, which holds only copies. Only `writer::fs::backup` may
    /// call this.
    pub fn in_backup() -> Self {
        Self(())
    }

    /// Permits the replacement of an entry that cannot be examined. A rename can replace anything
    /// but a directory, and an empty directory by another directory. Only the rules on replacements
    /// may call this.
    pub fn for_unknown() -> Self {
        Self(())
    }
}

/// The way in which an entry of the replica is to lose its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemovalKind {
    /// The source lacks it.
    Removed,
    /// Another entry takes its name.
    Replaced,
    /// It gets another name.
    Moved,
}

/// The decision of the rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ruling {
    Allowed(RemovalPermit),
    /// These entries below it may be deleted, with everything in them. The rest stays, since it
    /// holds excluded entries.
    AllowedInParts(Vec<RelPath>, RemovalPermit),
    Refused(Stay),
}

/// The reason why an entry stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stay {
    /// The guard holds deletions.
    Held,
    /// The file system that was mounted at this path of the source is not mounted any more. Its
    /// copy in the replica is kept.
    Unmounted(RelPath),
    /// It cannot be removed: a problem.
    FsError(FsError),
}

/// The part of a directory that may be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Removable {
    Whole,
    /// These entries, with everything in them; the rest stays.
    Parts(Vec<RelPath>),
}

/// The facts about an entry of the replica that the rules need. The expensive ones are asked for
/// last, and only for directories.
pub trait RemovalFacts {
    fn entry(&self) -> &Entry;

    /// Returns whether the directory that holds it is append-only.
    fn is_in_append_only(&self) -> bool;

    /// Returns a mount point of the source that is no longer mounted, if the entry is at that path,
    /// above it or below it.
    fn lost_mount(&self) -> Option<RelPath>;

    /// Returns why a directory can be neither renamed nor deleted, if so: it holds a mount or the
    /// source.
    fn obstacle(&self) -> Option<FsError>;

    /// Returns which part of a directory may be deleted. Excluded entries stay.
    fn removable_part(&self) -> Removable;
}

/// Decides whether an entry may be removed, replaced or renamed. The caller has to prove that the
/// source lacks it (I5).
pub fn rule(
    standing: &impl RemovalFacts,
    removal_kind: RemovalKind,
    deletions: Deletions,
) -> Ruling {
    let entry = standing.entry();
    let is_dir = entry.is_dir();
    // The replacement of anything but a directory is no deletion.
    let is_deletion = is_dir || removal_kind != RemovalKind::Replaced;
    if deletions.are_held() && is_deletion {
        return Ruling::Refused(Stay::Held);
    }
    if let Some(mount) = is_deletion.then(|| standing.lost_mount()).flatten() {
        return Ruling::Refused(Stay::Unmounted(mount));
    }
    let obstacle = [
        (entry.inode.mount_root, IS_MOUNT),
        (standing.is_in_append_only(), APPEND_ONLY_DIR),
        (entry.is_locked(), LOCKED),
    ];
    if let Some((_, error)) = obstacle.into_iter().find(|(is_met, _)| *is_met) {
        return Ruling::Refused(Stay::FsError(error));
    }
    if !is_dir {
        return Ruling::Allowed(RemovalPermit(()));
    }
    if let Some(error) = standing.obstacle() {
        return Ruling::Refused(Stay::FsError(error));
    }
    match (standing.removable_part(), removal_kind) {
        (Removable::Whole, _) => Ruling::Allowed(RemovalPermit(())),
        (Removable::Parts(parts), RemovalKind::Removed) => {
            Ruling::AllowedInParts(parts, RemovalPermit(()))
        }
        (Removable::Parts(_), RemovalKind::Replaced | RemovalKind::Moved) => {
            Ruling::Refused(Stay::FsError(EXCLUDED))
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
        obstacle: Option<FsError>,
        part: Removable,
    }

    impl Fake {
        fn new(kind: Kind) -> Self {
            let (lost_mount, obstacle, part) = (None, None, Removable::Whole);
            Self { entry: entry(kind), is_in_append_only: false, lost_mount, obstacle, part }
        }
    }

    impl RemovalFacts for Fake {
        fn entry(&self) -> &Entry {
            &self.entry
        }
        fn is_in_append_only(&self) -> bool {
            self.is_in_append_only
        }
        fn lost_mount(&self) -> Option<RelPath> {
            self.lost_mount.clone()
        }
        fn obstacle(&self) -> Option<FsError> {
            self.obstacle
        }
        fn removable_part(&self) -> Removable {
            self.part.clone()
        }
    }

    fn kinds() -> [Fake; 3] {
        [Kind::File, Kind::Symlink(b"to".as_slice().into()), Kind::Dir].map(Fake::new)
    }

    /// Applies the rules to each kind of entry and each kind of removal, after `change`.
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
            assert_eq!(ruling, Ruling::Allowed(RemovalPermit(())), "{removal_kind:?}");
        }
    }

    #[test]
    fn held_deletions_keep_all_but_a_file_that_another_entry_replaces() {
        for (is_dir, removal_kind, ruling) in each(|_| {}, HELD) {
            let is_kept = is_dir || removal_kind != RemovalKind::Replaced;
            assert_eq!(ruling == Ruling::Refused(Stay::Held), is_kept, "{is_dir} {removal_kind:?}");
        }
    }

    #[test]
    fn what_a_lost_mount_had_stays_unless_a_file_is_replaced() {
        let lost = |fake: &mut Fake| fake.lost_mount = Some(path("mnt"));
        for (is_dir, removal_kind, ruling) in each(lost, Deletions::Followed) {
            let is_kept = is_dir || removal_kind != RemovalKind::Replaced;
            assert_eq!(
                ruling == Ruling::Refused(Stay::Unmounted(path("mnt"))),
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
            (|fake| fake.is_in_append_only = true, APPEND_ONLY_DIR),
            (|fake| fake.entry.inode.append_only = true, LOCKED),
            (|fake| fake.entry.inode.immutable = true, LOCKED),
        ];
        for (change, error) in changes {
            for (_, removal_kind, ruling) in each(change, Deletions::Followed) {
                assert_eq!(ruling, Ruling::Refused(Stay::FsError(error)), "{removal_kind:?}");
            }
        }
    }

    #[test]
    fn a_directory_stays_for_what_is_mounted_in_it_and_a_file_is_not_asked() {
        let holds = |fake: &mut Fake| fake.obstacle = Some(MUST_STAY);
        for (is_dir, removal_kind, ruling) in each(holds, Deletions::Followed) {
            assert_eq!(
                ruling == Ruling::Refused(Stay::FsError(MUST_STAY)),
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
                (false, _) => Ruling::Allowed(RemovalPermit(())),
                (true, RemovalKind::Removed) => {
                    Ruling::AllowedInParts(parts.clone(), RemovalPermit(()))
                }
                (true, RemovalKind::Replaced | RemovalKind::Moved) => {
                    Ruling::Refused(Stay::FsError(EXCLUDED))
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
