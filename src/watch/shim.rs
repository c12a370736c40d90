//! Classifies the raw events of notify. Pure: no file system, no clock.
//!
//! The stock debouncer merges renames and removals, and loses paths by that. It also holds a path
//! back for ever if it never rests. So it only gets events that mean "this path is dirty". The kind
//! of these events changes with time. Events of one kind and one path replace each other; those of
//! another kind do not.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, DataChange, MetadataKind, ModifyKind, RenameMode};
use notify::{Event, EventKind};

use super::Change;
use crate::model::check::Depth;
use crate::model::path::RelPath;

/// The shortest time for which one kind is in use.
pub const SLOT: Duration = Duration::from_millis(100);

/// The info text of an event that renames a directory.
pub const DIRECTORY: &str = "directory";

/// How a raw event is handled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Classified {
    /// Debounce the path.
    Dirty(PathBuf, Depth),
    /// Report the change at once.
    Urgent(Change),
    /// Report the rename at once, and debounce its two ends.
    Moved(Change, [PathBuf; 2]),
    /// Ignore the event.
    Nothing,
}

pub fn shim(event: Event, root: &Path) -> Classified {
    if event.need_rescan() {
        return Classified::Urgent(Change::Everything(
            "the kernel's queue of events has overflowed",
        ));
    }
    let unmounted = event.info() == Some("unmount");
    let depth = match event.kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return moved(event, root),
        EventKind::Access(
            AccessKind::Read
            | AccessKind::Open(_)
            | AccessKind::Close(AccessMode::Read | AccessMode::Execute)
            | AccessKind::Any
            | AccessKind::Other,
        ) => return Classified::Nothing,
        EventKind::Modify(ModifyKind::Metadata(_)) => Depth::Metadata,
        // The kernel also reports this for a directory of which only the mtime was set.
        EventKind::Modify(ModifyKind::Data(_)) | EventKind::Access(AccessKind::Close(_)) => {
            Depth::Content
        }
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(ModifyKind::Any | ModifyKind::Name(_) | ModifyKind::Other)
        | EventKind::Remove(_)
        | EventKind::Other => Depth::Subtree,
    };
    let Some(path) = event.paths.into_iter().next() else {
        return Classified::Urgent(Change::Everything(
            "the kernel reported a change without its place",
        ));
    };
    match relative(&path, root) {
        Some(rel) if unmounted => Classified::Urgent(Change::Unmounted(rel)),
        Some(rel) if rel.is_root() && depth != Depth::Metadata => Classified::Urgent(Change::Root),
        Some(_) => Classified::Dirty(path, depth),
        None => Classified::Nothing,
    }
}

fn moved(event: Event, root: &Path) -> Classified {
    let is_dir = event.info() == Some(DIRECTORY);
    let Ok(ends) = <[PathBuf; 2]>::try_from(event.paths) else { return Classified::Nothing };
    match (relative(&ends[0], root), relative(&ends[1], root)) {
        (Some(from), Some(to)) => Classified::Moved(Change::Moved { from, to, is_dir }, ends),
        _ => Classified::Nothing,
    }
}

/// Returns the path relative to the root; `None` if it lies elsewhere.
pub fn relative(path: &Path, root: &Path) -> Option<RelPath> {
    // Compares bytes, since this runs for each event, and both paths are spelled by us.
    let rest = path.as_os_str().as_bytes().strip_prefix(root.as_os_str().as_bytes())?;
    match rest {
        [] => Some(RelPath::root()),
        [b'/', below @ ..] => RelPath::new(below),
        _ if root == Path::new("/") => RelPath::new(rest),
        _ => None,
    }
}

/// Returns the event that stands for "dirty". `time`: the time since a fixed moment. The kind of
/// event changes every `timeout`, and no faster than every [`SLOT`]. So a path that never rests
/// comes out when the kind has changed and the timeout has passed.
pub fn dirty(path: PathBuf, depth: Depth, time: Duration, timeout: Duration) -> Event {
    let slot = (time.as_millis() / SLOT.max(timeout).as_millis() % 4) as usize;
    let kind = match depth {
        Depth::Metadata => EventKind::Modify(ModifyKind::Metadata(
            [
                MetadataKind::Any,
                MetadataKind::Permissions,
                MetadataKind::Ownership,
                MetadataKind::Extended,
            ][slot],
        )),
        Depth::Content => EventKind::Modify(ModifyKind::Data(
            [DataChange::Any, DataChange::Size, DataChange::Content, DataChange::Other][slot],
        )),
        Depth::Subtree => EventKind::Access(
            [
                AccessKind::Any,
                AccessKind::Read,
                AccessKind::Open(AccessMode::Any),
                AccessKind::Other,
            ][slot],
        ),
    };
    Event::new(kind).add_path(path)
}

/// Returns the depth of the check for a dirty event that has come out.
pub fn depth_of(event: &Event) -> Depth {
    match event.kind {
        EventKind::Modify(ModifyKind::Metadata(_)) => Depth::Metadata,
        EventKind::Modify(ModifyKind::Data(_)) => Depth::Content,
        _ => Depth::Subtree,
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, Flag, RemoveKind};

    fn of(kind: EventKind) -> Classified {
        shim(Event::new(kind).add_path("/s/a/b".into()), Path::new("/s"))
    }

    #[test]
    fn each_change_is_a_dirty_path() {
        for kind in [
            EventKind::Create(CreateKind::File),
            EventKind::Create(CreateKind::Folder),
            EventKind::Remove(RemoveKind::File),
            EventKind::Modify(ModifyKind::Name(RenameMode::From)),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)),
            EventKind::Any,
        ] {
            assert_eq!(of(kind), Classified::Dirty("/s/a/b".into(), Depth::Subtree), "{kind:?}");
        }
        for kind in [
            EventKind::Modify(ModifyKind::Data(DataChange::Any)),
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
        ] {
            assert_eq!(of(kind), Classified::Dirty("/s/a/b".into(), Depth::Content), "{kind:?}");
        }
        let metadata = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
        assert_eq!(of(metadata), Classified::Dirty("/s/a/b".into(), Depth::Metadata));
    }

    #[test]
    fn what_we_do_ourselves_is_dropped() {
        assert_eq!(of(EventKind::Access(AccessKind::Open(AccessMode::Any))), Classified::Nothing);
        assert_eq!(of(EventKind::Access(AccessKind::Close(AccessMode::Read))), Classified::Nothing);
        let elsewhere = Event::new(EventKind::Create(CreateKind::File)).add_path("/t/a".into());
        assert_eq!(shim(elsewhere, Path::new("/s")), Classified::Nothing);
    }

    #[test]
    fn a_rename_is_a_hint_where_both_ends_are_known() {
        let both = |from: &str, to: &str| {
            let event = Event::new(EventKind::Modify(ModifyKind::Name(RenameMode::Both)));
            shim(event.add_path(from.into()).add_path(to.into()), Path::new("/s"))
        };
        let (from, to) = (RelPath::new(b"a").unwrap(), RelPath::new(b"b/c").unwrap());
        let moved = Change::Moved { from, to, is_dir: false };
        assert_eq!(
            both("/s/a", "/s/b/c"),
            Classified::Moved(moved, ["/s/a", "/s/b/c"].map(PathBuf::from))
        );
        assert_eq!(both("/t/a", "/s/a"), Classified::Nothing);
    }

    #[test]
    fn what_names_no_path_means_everything() {
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        let nowhere = Event::new(EventKind::Create(CreateKind::File));
        for event in [overflow, nowhere] {
            assert!(matches!(
                shim(event, Path::new("/s")),
                Classified::Urgent(Change::Everything(_))
            ));
        }
    }

    #[test]
    fn the_root_and_mounts_are_no_entries() {
        let at = |kind, path: &str| Event::new(kind).add_path(path.into());
        let gone = at(EventKind::Remove(RemoveKind::Folder), "/s");
        assert_eq!(shim(gone, Path::new("/s")), Classified::Urgent(Change::Root));
        let moved = at(EventKind::Modify(ModifyKind::Name(RenameMode::From)), "/s");
        assert_eq!(shim(moved, Path::new("/s")), Classified::Urgent(Change::Root));
        let unmounted = at(EventKind::Remove(RemoveKind::Other), "/s/m").set_info("unmount");
        let m = RelPath::new(b"m").unwrap();
        assert_eq!(shim(unmounted, Path::new("/s")), Classified::Urgent(Change::Unmounted(m)));
    }

    #[test]
    fn the_depth_comes_out_as_it_went_in() {
        for depth in [Depth::Metadata, Depth::Content, Depth::Subtree] {
            for slot in 0..5 {
                let event = dirty("/s/a".into(), depth, slot * SLOT, Duration::from_millis(10));
                assert_eq!(depth_of(&event), depth);
            }
        }
    }

    #[test]
    fn the_kind_changes_with_time_and_only_with_time() {
        let kind = |millis, timeout| {
            let (time, timeout) = (Duration::from_millis(millis), Duration::from_millis(timeout));
            dirty("/s/a".into(), Depth::Subtree, time, timeout).kind
        };
        assert_eq!(kind(0, 10), kind(99, 10));
        assert_ne!(kind(99, 10), kind(100, 10));
        assert_eq!(kind(0, 1000), kind(999, 1000));
        assert_ne!(kind(999, 1000), kind(1000, 1000));
    }
}
