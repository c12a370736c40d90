//! The table of decisions, against entries of every kind.

use proptest::prelude::*;

use super::holds;
use crate::model::entry::testing::inode;
use crate::model::entry::{Entry, Kind, Observed, Special, Time, XattrKinds, Xattrs};
use crate::model::error::FsError;
use crate::plan::decide::{Action, Contents, decide};
use crate::plan::metadata::{Capabilities, MetadataDiff, Symlinks, TimestampRange};

/// Makes one of few values, so that two are often the same.
fn small() -> impl Strategy<Value = u32> {
    0..3_u32
}

fn kind() -> impl Strategy<Value = Kind> {
    let special = [Special::Fifo, Special::Socket, Special::Device, Special::Other];
    prop_oneof![
        3 => Just(Kind::File),
        2 => Just(Kind::Dir),
        2 => (0..2_u8).prop_map(|target| Kind::Symlink([target].into())),
        1 => proptest::sample::select(special.to_vec()).prop_map(Kind::Special),
    ]
}

fn xattrs() -> impl Strategy<Value = Option<Xattrs>> {
    (0..3_u8).prop_map(|value| match value {
        0 => None,
        1 => Some(Xattrs::default()),
        _ => Some(Xattrs([(b"user.a"[..].into(), [value].into())].into())),
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    let time =
        || (0..3_i64, 0..2_u32).prop_map(|(sec, half)| Time { sec, nsec: half * 500_000_000 });
    let mode = (small(), small()).prop_map(|(special, rights)| special << 10 | rights);
    ((kind(), small(), time(), time()), (mode, small(), small(), 1..3_u32), xattrs()).prop_map(
        |((kind, size, mtime, ctime), (mode, uid, gid, links), xattrs)| Entry {
            kind,
            size: size.into(),
            mtime,
            mode,
            uid,
            gid,
            xattrs,
            inode: inode(ctime, links),
        },
    )
}

fn side() -> impl Strategy<Value = Observed> {
    prop_oneof![
        1 => Just(Observed::Absent),
        1 => Just(Observed::Unobserved),
        1 => Just(Observed::Unknown(FsError::for_test())),
        4 => entry().prop_map(Observed::Present),
    ]
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    let steps = proptest::sample::select(vec![1, 100, 1_000_000_000, 2_000_000_000]);
    let ranges =
        proptest::sample::select(vec![(i64::MIN, i64::MAX), (4, i64::MAX), (0, 4), (2, 2)]);
    let times = (steps, ranges).prop_map(|(step, (earliest, latest))| {
        let at = |sec| Time { sec, nsec: 0 };
        TimestampRange { step, earliest: at(earliest), latest: at(latest) }
    });
    let times = proptest::option::weighted(0.9, times);
    (any::<[bool; 5]>(), proptest::collection::vec(small(), 0..2), times).prop_map(
        |([owner, modes, symlinks, symlink_metadata, ctimes], groups, times)| Capabilities {
            owner,
            user: 0,
            groups,
            xattrs: XattrKinds::ALL,
            modes,
            symlinks: if symlinks { Symlinks::All } else { Symlinks::None },
            symlink_metadata,
            times,
            folds_case: false,
            ctimes,
            unseen: 0,
            reports_late: false,
        },
    )
}

#[test]
fn an_entry_and_its_equal_give_no_action() {
    holds(&(entry(), capabilities()), |(entry, capabilities)| {
        let source = Observed::Present(entry.clone());
        let replica =
            Observed::Present(Entry { mtime: capabilities.mtime_of(&entry), ..entry.clone() });
        let action = decide(&source, &replica, Contents::Same, &capabilities);
        let is_mirrored = match entry.kind {
            Kind::File | Kind::Dir | Kind::Symlink(_) => true,
            Kind::Special(_) => false,
        };
        assert_eq!(action == Action::Nothing, is_mirrored, "{action:?}");
        assert!(is_mirrored || matches!(action, Action::NotMirrored { stale: true, .. }));
    });
}

#[test]
fn only_what_is_known_to_be_absent_or_not_mirrored_goes() {
    holds(
        &(side(), side(), contents(), capabilities()),
        |(source, replica, contents, capabilities)| {
            let action = decide(&source, &replica, contents, &capabilities);
            match &source {
                Observed::Unknown(_) | Observed::Unobserved => assert_eq!(action, Action::Unsure),
                Observed::Absent => {
                    assert!(matches!(action, Action::Remove | Action::Nothing | Action::Unsure));
                }
                Observed::Present(_) => assert_ne!(action, Action::Remove),
            }
            let goes = matches!(action, Action::Remove | Action::NotMirrored { stale: true, .. });
            assert!(!goes || replica.entry().is_some());
        },
    );
}

fn contents() -> impl Strategy<Value = Contents> {
    proptest::sample::select(vec![Contents::Unread, Contents::Same, Contents::Differ])
}

#[test]
fn once_an_action_is_done_nothing_is_left_to_do() {
    holds(
        &(side(), side(), any::<bool>(), capabilities()),
        |(source, replica, differs, capabilities)| {
            let mut action = decide(&source, &replica, Contents::Unread, &capabilities);
            if action == Action::Compare {
                let contents = if differs { Contents::Differ } else { Contents::Same };
                action = decide(&source, &replica, contents, &capabilities);
                assert_ne!(action, Action::Compare);
            }
            let after = done(action, &source, replica, &capabilities);
            let next = decide(&source, &after, Contents::Same, &capabilities);
            let is_absent_or_unobserved =
                matches!(next, Action::Nothing | Action::NotMirrored { stale: false, .. });
            assert!(
                is_absent_or_unobserved || action == Action::Unsure,
                "{action:?}, then {next:?}"
            );
        },
    );
}

/// Returns what is in the replica once the action is done.
fn done(
    action: Action,
    source: &Observed,
    replica: Observed,
    capabilities: &Capabilities,
) -> Observed {
    let anew = |source: &Entry| {
        let fresh = Entry {
            uid: capabilities.user,
            gid: 9,
            mode: 9,
            mtime: Time { sec: 9, nsec: 0 },
            inode: inode(source.inode.ctime, 1),
            ..source.clone()
        };
        Observed::Present(set(
            fresh,
            source,
            MetadataDiff::of_new(source, capabilities),
            capabilities,
        ))
    };
    match (action, source.entry(), replica) {
        (Action::Remove | Action::NotMirrored { stale: true, .. }, ..) => Observed::Absent,
        (Action::SetMetadata(differs), Some(source), Observed::Present(replica)) => {
            Observed::Present(set(replica, source, differs, capabilities))
        }
        (Action::CopyFile(_) | Action::MakeSymlink(_) | Action::MakeDir(_), Some(source), _) => {
            anew(source)
        }
        (_, _, replica) => replica,
    }
}

/// Sets the metadata that differs. Stores times as the file system would.
fn set(
    mut entry: Entry,
    source: &Entry,
    differs: MetadataDiff,
    capabilities: &Capabilities,
) -> Entry {
    if differs.uid {
        entry.uid = source.uid;
    }
    if differs.gid {
        entry.gid = source.gid;
    }
    if differs.mode {
        entry.mode = capabilities.mode_of(source, Some(&entry));
    }
    if differs.xattrs {
        entry.xattrs.clone_from(&source.xattrs);
    }
    if differs.mtime {
        let mtime = capabilities.mtime_of(source);
        let nanos = mtime.sec.cast_unsigned() * 1_000_000_000 + u64::from(mtime.nsec);
        let step = capabilities.times.map_or(1, |times| times.step);
        let kept = nanos - nanos % step;
        let nsec = u32::try_from(kept % 1_000_000_000).unwrap();
        entry.mtime = Time { sec: (kept / 1_000_000_000).cast_signed(), nsec };
    }
    entry
}
