//! Copies entries to a backup on another file system, to which they cannot be renamed.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::fs::tree::{Dir, ReplicaDir};
use crate::model::entry::{Entry, Kind, Observed};
use crate::model::error::WorkError;
use crate::model::path::{Name, RelPath};
use crate::plan::metadata::{Capabilities, MetadataDiff};
use crate::writer::fs::copy::{fill, seal, settings};

/// What the backup's file system can store, and the flag that cancels the copy.
type CopyOptions<'a> = (&'a Capabilities, &'a AtomicBool);

/// Copies one entry, and a directory with all that it holds. FIFOs, sockets and devices hold
/// nothing: they are left out.
pub(super) fn copy_entry(
    from: &Dir,
    name: &Name,
    to: &ReplicaDir,
    new: &Name,
    options: CopyOptions<'_>,
) -> Result<(), WorkError> {
    match from.observe(name.as_bytes()) {
        Observed::Absent | Observed::Unobserved => Err(WorkError::Changed),
        Observed::Unknown(error) => Err(error.into()),
        Observed::Present(entry) if entry.is_dir() => copy_tree(from, name, to, new, options),
        Observed::Present(entry) => copy_leaf(from, (name, &entry), to, new, options),
    }
}

fn copy_leaf(
    from: &Dir,
    (name, entry): (&Name, &Entry),
    to: &ReplicaDir,
    new: &Name,
    (capabilities, cancel): CopyOptions<'_>,
) -> Result<(), WorkError> {
    match &entry.kind {
        Kind::File => {
            let (file, entry) = from.open_file(name.as_bytes())?;
            let copy = to.create_file(new)?;
            if fill(&file, &entry, &copy, cancel, &|_| {})? != entry.size {
                return Err(WorkError::Changed);
            }
            seal(&file, &entry, &copy, capabilities)
        }
        Kind::Symlink(target) => {
            to.make_symlink(new, target)?;
            Ok(to.set_symlink(
                new,
                &settings(entry, MetadataDiff::of_new(entry, capabilities), None, capabilities),
            )?)
        }
        Kind::Dir | Kind::Special(_) => Ok(()),
    }
}

/// Copies the entries top down, and then sets the metadata of the directories bottom up. One
/// directory is open at a time on each side, so that a tree may have any depth.
fn copy_tree(
    from: &Dir,
    name: &Name,
    to: &ReplicaDir,
    new: &Name,
    options: CopyOptions<'_>,
) -> Result<(), WorkError> {
    let (tops, root) = ((RelPath::root().join(name), RelPath::root().join(new)), RelPath::root());
    to.make_dir(new)?;
    let mut dirs = vec![root];
    let mut next = 0;
    while next < dirs.len() {
        let at = dirs[next].clone();
        next += 1;
        let (ours, copy) = (from.open(&tops.0.below(&at))?, to.open(&tops.1.below(&at))?);
        for (name, _) in ours.list()?.iter() {
            if options.1.load(Ordering::Relaxed) {
                return Err(WorkError::Cancelled);
            }
            let Some(name) = Name::new(name) else { continue };
            match ours.observe(name.as_bytes()) {
                Observed::Absent | Observed::Unobserved => {}
                Observed::Unknown(error) => return Err(error.into()),
                Observed::Present(entry) if entry.is_dir() => {
                    copy.make_dir(&name)?;
                    dirs.push(at.join(&name));
                }
                Observed::Present(entry) => {
                    copy_leaf(&ours, (&name, &entry), &copy, &name, options)?;
                }
            }
        }
    }
    for at in dirs.iter().rev() {
        let (ours, copy) = (from.open(&tops.0.below(at))?, to.open(&tops.1.below(at))?);
        let (entry, capabilities) = (ours.entry()?, options.0);
        let xattrs = (copy.xattrs(capabilities.xattrs)?, ours.xattrs(capabilities.xattrs)?);
        let all = MetadataDiff {
            xattrs: xattrs.0 != xattrs.1,
            ..MetadataDiff::of_new(&entry, capabilities)
        };
        copy.set(&settings(&entry, all, Some((&xattrs.0, &xattrs.1)), capabilities))?;
    }
    Ok(())
}
