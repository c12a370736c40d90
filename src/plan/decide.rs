//! The action for one name, decided from what is observed on both sides. Pure: no file system, no
//! clock, no memory (I2).

use crate::model::entry::{DigestPair, Entry, Identity, Kind, Observed, Special, Time};
use crate::model::reason::Reason;
use crate::plan::metadata::{Capabilities, MetadataDiff};

/// The result of comparing the contents of two files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    Unread,
    Same,
    Differ,
}

impl From<DigestPair> for Contents {
    fn from(digests: DigestPair) -> Self {
        if digests.same() { Contents::Same } else { Contents::Differ }
    }
}

/// The action for one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Nothing,
    /// Two files of one size whose contents are not known: read both, then decide again.
    Compare,
    /// Set the metadata that differs, in place.
    SetMetadata(MetadataDiff),
    /// Copy the source's file to a temporary entry, then rename that over the replica's entry.
    CopyFile(Reason),
    /// The same with a symlink.
    MakeSymlink(Reason),
    /// Make the directory, in exchange for the replica's entry if there is one.
    MakeDir(Reason),
    Remove,
    /// The source has an entry that is not mirrored: a FIFO, socket or device, or a symlink that
    /// the replica cannot store. A `stale` entry of the replica is deleted.
    NotMirrored {
        special: Special,
        stale: bool,
    },
    /// No action, since one side could not be examined: a problem.
    Unsure,
}

/// Decides the action for one name (I2).
pub fn decide(
    source: &Observed,
    replica: &Observed,
    contents: Contents,
    capabilities: &Capabilities,
) -> Action {
    let source = match (source, replica) {
        // A name that a listing lacks need not be absent.
        (Observed::Unknown(_) | Observed::Unobserved, _)
        | (Observed::Absent, Observed::Unknown(_) | Observed::Unobserved) => {
            return Action::Unsure;
        }
        (Observed::Absent, Observed::Absent) => return Action::Nothing,
        (Observed::Absent, Observed::Present(_)) => return Action::Remove,
        (Observed::Present(source), _) => source,
    };
    match (&source.kind, replica) {
        (Kind::Special(special), Observed::Absent | Observed::Unknown(_)) => {
            Action::NotMirrored { special: *special, stale: false }
        }
        (Kind::Special(special), Observed::Present(_)) => {
            Action::NotMirrored { special: *special, stale: true }
        }

        // The same symlink in the replica shows that its file system can store it.
        (Kind::Symlink(target), replica)
            if !capabilities.symlinks.take(target)
                && !replica.entry().is_some_and(|replica| replica.kind == source.kind) =>
        {
            Action::NotMirrored { special: Special::Symlink, stale: replica.entry().is_some() }
        }

        (Kind::File, Observed::Absent) => Action::CopyFile(Reason::New),
        (Kind::Symlink(_), Observed::Absent) => Action::MakeSymlink(Reason::New),
        (Kind::Dir, Observed::Absent) => Action::MakeDir(Reason::New),

        // A rename can replace an entry that cannot be examined, unless it is a directory.
        (Kind::File, Observed::Unknown(_)) => Action::CopyFile(Reason::Kind),
        (Kind::Symlink(_), Observed::Unknown(_)) => Action::MakeSymlink(Reason::Kind),
        (Kind::Dir, Observed::Unknown(_)) | (_, Observed::Unobserved) => Action::Unsure,

        (kind, Observed::Present(replica)) => match (kind, &replica.kind) {
            (Kind::File, Kind::File) => decide_file(source, replica, contents, capabilities),
            (Kind::File, Kind::Dir | Kind::Symlink(_) | Kind::Special(_)) => {
                Action::CopyFile(Reason::Kind)
            }

            (Kind::Symlink(from), Kind::Symlink(to)) if from != to => {
                Action::MakeSymlink(Reason::Target)
            }
            (Kind::Symlink(_), Kind::Symlink(_)) => {
                match decide_metadata(MetadataDiff::between(source, replica, capabilities)) {
                    Action::SetMetadata(_) if replica.inode.links > 1 => {
                        Action::MakeSymlink(Reason::Metadata)
                    }
                    other => other,
                }
            }
            (Kind::Dir, Kind::Dir) => {
                decide_metadata(MetadataDiff::between(source, replica, capabilities))
            }
            (Kind::Symlink(_), Kind::File | Kind::Dir | Kind::Special(_)) => {
                Action::MakeSymlink(Reason::Kind)
            }
            (Kind::Dir, Kind::File | Kind::Symlink(_) | Kind::Special(_)) => {
                Action::MakeDir(Reason::Kind)
            }

            (Kind::Special(_), _) => unreachable!("special sources are decided above"),
        },
    }
}

fn decide_file(
    source: &Entry,
    replica: &Entry,
    contents: Contents,
    capabilities: &Capabilities,
) -> Action {
    let differs = MetadataDiff::between(source, replica, capabilities);
    let is_as_long = source.size == replica.size;
    match contents {
        Contents::Unread if is_as_long => Action::Compare,
        Contents::Unread => Action::CopyFile(Reason::Size),
        Contents::Differ => Action::CopyFile(if is_as_long { Reason::Md5 } else { Reason::Size }),
        // Both were read to their ends, so that their sizes do not matter here.
        // Another name of this inode (a snapshot made of hard links) must not change with it.
        Contents::Same if differs.any() && replica.inode.links > 1 => {
            Action::CopyFile(Reason::Metadata)
        }
        Contents::Same => decide_metadata(differs),
    }
}

/// Returns whether the source's entry may have changed after it was copied. Compares ctimes, which
/// no user can set. If a clock was set back, a quick sweep misses a change; a full sweep finds it.
pub fn may_be_newer(source: &Entry, replica: &Entry, capabilities: &Capabilities) -> bool {
    !capabilities.ctimes || source.inode.ctime >= replica.inode.ctime
}

/// Returns whether the contents of the source's file may have changed after it was copied. Writes
/// through a mapping may come up to [`Capabilities::unseen`] seconds after its times.
pub fn may_hold_other(source: &Entry, replica: &Entry, capabilities: &Capabilities) -> bool {
    may_be_newer(source, replica, capabilities)
        || was_copied_soon(&source.identity(), &replica.identity(), capabilities.unseen)
}

/// Returns whether a file was copied at most `seconds` after the ctime or mtime of its source.
pub fn was_copied_soon(source: &Identity, replica: &Identity, seconds: i64) -> bool {
    let is_soon = |time: Time| time <= replica.ctime && time.plus_seconds(seconds) >= replica.ctime;
    is_soon(source.ctime) || is_soon(source.mtime)
}

fn decide_metadata(differs: MetadataDiff) -> Action {
    if differs.any() { Action::SetMetadata(differs) } else { Action::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::testing::{entry, inode};
    use crate::model::error::FsError;
    use crate::plan::metadata::{Symlinks, TimestampRange};
    use std::sync::LazyLock;

    static KEEPS: LazyLock<Capabilities> =
        LazyLock::new(|| Capabilities { owner: true, ..Capabilities::all() });

    fn present(kind: Kind) -> Observed {
        Observed::Present(entry(kind))
    }

    fn changed(kind: Kind, change: impl FnOnce(&mut Entry)) -> Observed {
        let mut entry = entry(kind);
        change(&mut entry);
        Observed::Present(entry)
    }

    fn unknown() -> Observed {
        Observed::Unknown(FsError::for_test())
    }

    fn link(target: &str) -> Kind {
        Kind::Symlink(target.as_bytes().into())
    }

    fn fifo() -> Kind {
        Kind::Special(Special::Fifo)
    }

    fn action(source: &Observed, replica: &Observed) -> Action {
        decide(source, replica, Contents::Unread, &KEEPS)
    }

    /// Each row: the source, then the action if the replica has nothing, an entry that cannot be
    /// examined, a file, a directory, a symlink, a FIFO.
    #[test]
    fn each_kind_against_each_kind() {
        use Action::*;
        let no_special = |stale| NotMirrored { special: Special::Fifo, stale };
        let table = [
            (Observed::Absent, [Nothing, Unsure, Remove, Remove, Remove, Remove]),
            (unknown(), [Unsure; 6]),
            (
                present(Kind::File),
                [
                    CopyFile(Reason::New),
                    CopyFile(Reason::Kind),
                    Compare,
                    CopyFile(Reason::Kind),
                    CopyFile(Reason::Kind),
                    CopyFile(Reason::Kind),
                ],
            ),
            (
                present(Kind::Dir),
                [
                    MakeDir(Reason::New),
                    Unsure,
                    MakeDir(Reason::Kind),
                    Nothing,
                    MakeDir(Reason::Kind),
                    MakeDir(Reason::Kind),
                ],
            ),
            (
                present(link("a")),
                [
                    MakeSymlink(Reason::New),
                    MakeSymlink(Reason::Kind),
                    MakeSymlink(Reason::Kind),
                    MakeSymlink(Reason::Kind),
                    Nothing,
                    MakeSymlink(Reason::Kind),
                ],
            ),
            (
                present(fifo()),
                [
                    no_special(false),
                    no_special(false),
                    no_special(true),
                    no_special(true),
                    no_special(true),
                    no_special(true),
                ],
            ),
        ];
        let replicas = [
            Observed::Absent,
            unknown(),
            present(Kind::File),
            present(Kind::Dir),
            present(link("a")),
            present(fifo()),
        ];
        for (source, row) in &table {
            for (replica, wanted) in replicas.iter().zip(row) {
                assert_eq!(action(source, replica), *wanted, "{source:?} against {replica:?}");
            }
        }
    }

    #[test]
    fn files_of_different_size_are_not_read() {
        let replica = changed(Kind::File, |e| e.size = 4);
        assert_eq!(action(&present(Kind::File), &replica), Action::CopyFile(Reason::Size));
    }

    #[test]
    fn a_file_that_was_copied_soon_after_it_changed_may_hold_something_else_by_now() {
        let at = |sec, nsec| Time { sec, nsec };
        let replica = Entry { inode: inode(at(100, 5), 1), ..entry(Kind::File) };
        let capabilities = Capabilities { unseen: 35, ..KEEPS.clone() };
        let source = |ctime, mtime| Entry { mtime, inode: inode(ctime, 1), ..entry(Kind::File) };
        let (old, future) = (at(7, 0), at(1_000, 0));
        for (ctime, mtime, may) in [
            (at(100, 6), old, true),
            (at(99, 0), old, true),
            (at(65, 5), old, true),
            (at(65, 4), old, false),
            (at(65, 4), at(65, 5), true),
            (at(65, 4), future, false),
            (old, old, false),
        ] {
            assert_eq!(
                may_hold_other(&source(ctime, mtime), &replica, &capabilities),
                may,
                "{ctime} {mtime}"
            );
        }
        let old_file = source(at(100, 4), old);
        assert!(
            !may_hold_other(&old_file, &replica, &KEEPS)
                && !may_be_newer(&old_file, &replica, &capabilities)
        );
        assert!(may_hold_other(
            &source(old, old),
            &replica,
            &Capabilities { ctimes: false, ..capabilities }
        ));
    }

    #[test]
    fn of_files_that_were_read_to_their_ends_the_sizes_say_nothing() {
        let replica = changed(Kind::File, |e| e.size = 4);
        let action = |contents| decide(&present(Kind::File), &replica, contents, &KEEPS);
        assert_eq!(action(Contents::Same), Action::Nothing);
        assert_eq!(action(Contents::Differ), Action::CopyFile(Reason::Size));
    }

    #[test]
    fn files_of_one_size_are_told_apart_by_contents_alone() {
        let older = changed(Kind::File, |e| e.mtime.sec -= 1);
        for replica in [present(Kind::File), older.clone()] {
            let digests = |contents| decide(&present(Kind::File), &replica, contents, &KEEPS);
            assert_eq!(digests(Contents::Unread), Action::Compare);
            assert_eq!(digests(Contents::Differ), Action::CopyFile(Reason::Md5));
        }
        assert_eq!(
            decide(&present(Kind::File), &older, Contents::Same, &KEEPS),
            Action::SetMetadata(MetadataDiff { mtime: true, ..MetadataDiff::default() })
        );
    }

    #[test]
    fn equal_entries_give_no_action() {
        for kind in [Kind::File, Kind::Dir, link("x")] {
            let side = present(kind);
            assert_eq!(decide(&side, &side, Contents::Same, &KEEPS), Action::Nothing);
        }
    }

    #[test]
    fn a_file_with_a_second_link_is_never_changed_in_place() {
        let replica = changed(Kind::File, |e| (e.inode.links, e.mode) = (2, 0o600));
        assert_eq!(
            decide(&present(Kind::File), &replica, Contents::Same, &KEEPS),
            Action::CopyFile(Reason::Metadata)
        );
        let symlink = changed(link("a"), |e| (e.inode.links, e.mtime.sec) = (2, 0));
        assert_eq!(action(&present(link("a")), &symlink), Action::MakeSymlink(Reason::Metadata));
        let linked_but_equal = changed(Kind::File, |e| e.inode.links = 2);
        assert_eq!(
            decide(&present(Kind::File), &linked_but_equal, Contents::Same, &KEEPS),
            Action::Nothing
        );
    }

    #[test]
    fn the_owner_counts_only_where_it_can_be_set() {
        let replica = changed(Kind::Dir, |e| e.uid = 0);
        let source = present(Kind::Dir);
        let owner = MetadataDiff { uid: true, ..MetadataDiff::default() };
        assert_eq!(action(&source, &replica), Action::SetMetadata(owner));
        assert_eq!(
            decide(
                &source,
                &replica,
                Contents::Unread,
                &Capabilities { owner: false, ..KEEPS.clone() }
            ),
            Action::Nothing
        );
    }

    #[test]
    fn a_file_that_cannot_be_given_to_its_owner_or_group_does_not_run_as_another() {
        let mode = |kind, capabilities: &Capabilities| {
            capabilities.mode_of(&Entry { mode: 0o6755, ..entry(kind) }, None)
        };
        let (me, other) = (
            Capabilities { user: 1, ..Capabilities::all() },
            Capabilities { user: 2, ..Capabilities::all() },
        );
        assert_eq!(mode(Kind::File, &KEEPS), 0o6755);
        assert_eq!(mode(Kind::File, &me), 0o4755);
        assert_eq!(mode(Kind::File, &Capabilities { groups: vec![1], ..me }), 0o6755);
        assert_eq!(mode(Kind::File, &other), 0o755);
        assert_eq!(mode(Kind::File, &Capabilities { groups: vec![1], ..other.clone() }), 0o2755);
        assert_eq!(mode(Kind::Dir, &other), 0o6755, "there it says what group new entries get");
        let source = changed(Kind::File, |e| e.mode = 0o4755);
        let others = changed(Kind::File, |e| (e.mode, e.uid) = (0o755, 2));
        assert_eq!(decide(&source, &others, Contents::Same, &other), Action::Nothing);
        assert_eq!(
            decide(&source, &source, Contents::Same, &other),
            Action::Nothing,
            "it has its owner"
        );
    }

    #[test]
    fn the_mode_of_a_symlink_means_nothing() {
        let replica = changed(link("a"), |e| e.mode = 0o777);
        assert_eq!(action(&present(link("a")), &replica), Action::Nothing);
    }

    #[test]
    fn what_the_file_system_does_not_keep_is_compared_as_kept() {
        let times = Some(TimestampRange { step: 2_000_000_000, ..TimestampRange::ALL });
        let poor =
            Capabilities { modes: false, times, symlinks: Symlinks::None, ..Capabilities::all() };
        let replica = changed(Kind::Dir, |e| (e.mode, e.mtime.sec, e.mtime.nsec) = (0o755, 6, 0));
        assert_eq!(decide(&present(Kind::Dir), &replica, Contents::Unread, &poor), Action::Nothing);
        let absolute = Capabilities { symlinks: Symlinks::Contained, ..poor.clone() };
        for (target, is_taken) in [
            ("a", true),
            ("a/b", true),
            ("a..", true),
            ("/a", false),
            ("..", false),
            ("a/../b", false),
        ] {
            let action =
                decide(&present(link(target)), &Observed::Absent, Contents::Unread, &absolute);
            assert_eq!(matches!(action, Action::MakeSymlink(_)), is_taken, "{target}");
        }
        let link = present(link("a"));
        let not_mirrored = |stale| Action::NotMirrored { special: Special::Symlink, stale };
        assert_eq!(decide(&link, &Observed::Absent, Contents::Unread, &poor), not_mirrored(false));
        assert_eq!(
            decide(&link, &present(Kind::File), Contents::Unread, &poor),
            not_mirrored(true)
        );
        assert_eq!(
            decide(&link, &link, Contents::Unread, &poor),
            Action::Nothing,
            "it is there all the same"
        );
    }

    #[test]
    fn a_time_that_the_file_system_cannot_store_is_compared_with_the_nearest() {
        let at = |sec| Time { sec, nsec: 0 };
        let times = Some(TimestampRange { step: 1, earliest: at(0), latest: at(1_000) });
        let capabilities = Capabilities { times, ..KEEPS.clone() };
        for (source, stored, is_same) in [
            (-5, 0, true),
            (5_000, 1_000, true),
            (7, 7, true),
            (-5, 1, false),
            (1_001, 999, false),
            (7, 8, false),
        ] {
            let side = |sec| changed(Kind::File, |e| e.mtime = at(sec));
            let action = decide(&side(source), &side(stored), Contents::Same, &capabilities);
            assert_eq!(action == Action::Nothing, is_same, "{source} stored as {stored}");
        }
        let none = Capabilities { times: None, ..KEEPS.clone() };
        let other = changed(Kind::File, |e| e.mtime = at(99));
        assert_eq!(decide(&present(Kind::File), &other, Contents::Same, &none), Action::Nothing);
        assert!(!MetadataDiff::of_new(&entry(Kind::File), &none).mtime);
    }

    #[test]
    fn where_a_symlink_has_no_metadata_of_its_own_it_gets_none() {
        let capabilities = Capabilities { symlink_metadata: false, ..KEEPS.clone() };
        let other = changed(link("a"), |e| (e.uid, e.gid, e.mtime.sec) = (7, 7, 0));
        assert_eq!(
            decide(&present(link("a")), &other, Contents::Unread, &capabilities),
            Action::Nothing
        );
        let new = MetadataDiff::of_new(&entry(link("a")), &capabilities);
        assert!(!new.mtime && !new.uid && !new.gid);
        assert!(MetadataDiff::of_new(&entry(Kind::File), &capabilities).uid);
    }
}
