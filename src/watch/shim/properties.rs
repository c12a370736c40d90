//! Random tests: raw events of any kind, on any paths.

use notify::event::{CreateKind, Flag, RemoveKind};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::properties::holds;

fn kind() -> impl Strategy<Value = EventKind> {
    let reading =
        [AccessKind::Any, AccessKind::Read, AccessKind::Open(AccessMode::Any), AccessKind::Other];
    let closing = [
        AccessMode::Any,
        AccessMode::Read,
        AccessMode::Write,
        AccessMode::Execute,
        AccessMode::Other,
    ];
    let renaming =
        [RenameMode::Any, RenameMode::From, RenameMode::To, RenameMode::Both, RenameMode::Other];
    let changing = [
        ModifyKind::Any,
        ModifyKind::Data(DataChange::Any),
        ModifyKind::Data(DataChange::Size),
        ModifyKind::Metadata(MetadataKind::Any),
        ModifyKind::Metadata(MetadataKind::WriteTime),
        ModifyKind::Other,
    ];
    let removing = [RemoveKind::Any, RemoveKind::File, RemoveKind::Folder, RemoveKind::Other];
    let others = [EventKind::Any, EventKind::Other, EventKind::Create(CreateKind::Any)];
    prop_oneof![
        select(reading.to_vec()).prop_map(EventKind::Access),
        select(closing.to_vec()).prop_map(|mode| EventKind::Access(AccessKind::Close(mode))),
        select(renaming.to_vec()).prop_map(|mode| EventKind::Modify(ModifyKind::Name(mode))),
        select(changing.to_vec()).prop_map(EventKind::Modify),
        select(removing.to_vec()).prop_map(EventKind::Remove),
        select(others.to_vec()),
    ]
}

/// Whether an event of this kind changes nothing.
fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(mode)) => {
            matches!(mode, AccessMode::Read | AccessMode::Execute)
        }
        EventKind::Access(_) => true,
        _ => false,
    }
}

#[test]
fn each_change_in_the_source_is_looked_at_where_it_was() {
    let root = Path::new("/s");
    let paths = vec(
        select(["/s", "/s/a", "/s/a/b", "/t", "/sa", "/s/../t"].map(PathBuf::from).to_vec()),
        0..3,
    );
    holds(&(kind(), paths, proptest::bool::weighted(0.1)), |(kind, paths, is_lost)| {
        let mut event = Event::new(kind);
        event.paths.clone_from(&paths);
        let event = if is_lost { event.set_flag(Flag::Rescan) } else { event };
        let first = paths.first().map(|path| relative(path, root));
        let is_rename = kind == EventKind::Modify(ModifyKind::Name(RenameMode::Both));
        match shim(event, root) {
            Classified::Dirty(path, _) => {
                assert!(!is_reading(kind) && Some(&path) == paths.first());
            }
            Classified::Urgent(Change::Everything(_)) => assert!(is_lost || paths.is_empty()),
            Classified::Urgent(Change::Root) => assert_eq!(first, Some(Some(RelPath::root()))),
            Classified::Moved(Change::Moved { from, to, .. }, ends) => {
                assert!(
                    is_rename && first == Some(Some(from)) && relative(&paths[1], root) == Some(to)
                );
                assert_eq!(ends[..], paths[..]);
            }
            Classified::Urgent(change) | Classified::Moved(change, _) => panic!("{change:?}"),
            Classified::Nothing => {
                assert!(!is_lost && (is_rename || is_reading(kind) || first == Some(None)));
            }
        }
    });
}

#[test]
fn the_depth_comes_out_as_it_went_in_at_any_time() {
    let depths = select(vec![Depth::Metadata, Depth::Content, Depth::Subtree]);
    holds(&(depths, any::<u32>(), any::<u16>()), |(depth, time, timeout)| {
        let [time, timeout] = [u64::from(time), timeout.into()].map(Duration::from_millis);
        let event = dirty("/s/a".into(), depth, time, timeout);
        assert_eq!(depth_of(&event), depth);
        assert!(!is_known_otherwise(&event), "{event:?}");
    });
}

/// Whether the debouncer would handle it as more than "dirty": it merges creations, removals and
/// renames.
fn is_known_otherwise(event: &Event) -> bool {
    matches!(
        event.kind,
        EventKind::Create(_)
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Other
    )
}
