//! One file or symlink, built under a reserved name and put in place by a rename (I4).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fs::digest::{MAX_READ_PAST_SIZE, with_buffer};
use crate::fs::tree::{File, NewFile, Ranged, ReplicaDir, Settings};
use crate::model::entry::{Entry, Observed, Xattrs};
use crate::model::error::FsErrorKind;
use crate::model::error::{APPEND_ONLY_DIR, ENDLESS, FsError, WorkError};
use crate::model::path::Name;
use crate::plan::metadata::{Capabilities, MetadataDiff};
use crate::plan::removal::RemovalPermit;

/// Files up to this size, in bytes, are copied by one read and one write.
const SMALL: u64 = 64 * 1024;

/// How many bytes the kernel is asked to copy in one call. A shutdown waits for one call at most.
const STEP: u64 = 8 * 1024 * 1024;

/// A generator of reserved names. It also remembers temporary entries that could not be removed.
/// The names start at a random number, so that they do not collide with those of a run that was
/// killed.
pub struct TempNames {
    next: AtomicU64,
    /// Entries that were left behind, by the inode of their directory.
    left: Mutex<HashMap<(u64, u64), Vec<Name>>>,
    /// Whether `left` holds any.
    has_left: AtomicBool,
}

impl Default for TempNames {
    fn default() -> Self {
        use std::hash::{BuildHasher, RandomState};
        let next = AtomicU64::new(RandomState::new().hash_one(std::process::id()));
        Self { next, left: Mutex::default(), has_left: AtomicBool::new(false) }
    }
}

impl TempNames {
    pub fn next(&self) -> Name {
        Name::reserved(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Ensures that a temporary entry may be made in `dir`. First tries again to remove those that
    /// were left there.
    ///
    /// # Errors
    /// [`APPEND_ONLY_DIR`] if one of them still cannot be removed.
    pub fn may_make_in(&self, dir: &ReplicaDir) -> Result<(), FsError> {
        if !self.has_left.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(key) = key_of(dir) else { return Ok(()) };
        let mut left = self.lock();
        let Some(names) = left.get_mut(&key) else { return Ok(()) };
        names.retain(|name| dir.remove_reserved(name).is_err_and(|error| !error.is_absence()));
        if !names.is_empty() {
            return Err(APPEND_ONLY_DIR);
        }
        left.remove(&key);
        self.has_left.store(!left.is_empty(), Ordering::Relaxed);
        Ok(())
    }

    /// Returns whether `name` is that of a temporary entry that could not be removed.
    pub fn have_left(&self, name: &Name) -> bool {
        self.has_left.load(Ordering::Relaxed)
            && self.lock().values().any(|names| names.contains(name))
    }

    fn leave(&self, dir: &ReplicaDir, name: Name) {
        if let Some(key) = key_of(dir) {
            self.lock().entry(key).or_default().push(name);
            self.has_left.store(true, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), Vec<Name>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(dir: &ReplicaDir) -> Option<(u64, u64)> {
    dir.entry().ok().map(|entry| entry.inode.id())
}

/// A temporary file or symlink in a directory of the replica. It is removed when this is dropped,
/// unless it was published.
pub struct Temp<'a> {
    dir: &'a ReplicaDir,
    name: Name,
    names: Arc<TempNames>,
    is_gone: bool,
}

impl<'a> Temp<'a> {
    /// Takes charge of an entry that exists under a reserved name.
    pub fn adopt(dir: &'a ReplicaDir, name: Name, names: &Arc<TempNames>) -> Self {
        Self { dir, name, names: Arc::clone(names), is_gone: false }
    }

    /// The reserved name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Notes that the entry has left its reserved name, and need not be removed.
    pub fn leave(mut self) {
        self.is_gone = true;
    }

    /// Renames the entry to `name`. With a `permit` it replaces what is there, unless that is a
    /// directory. Without one, `name` must be free.
    ///
    /// # Errors
    /// [`WorkError::Changed`] if an entry is there by now that may not be replaced.
    pub fn publish(mut self, name: &Name, permit: Option<&RemovalPermit>) -> Result<(), WorkError> {
        let renamed = match permit {
            Some(permit) => self.dir.rename(&self.name, name, permit),
            None => self.dir.publish(&self.name, name),
        };
        renamed.map_err(|error| match error.kind {
            // RACE: an entry or a directory has appeared since the check. At worst, one more check.
            FsErrorKind::IsADirectory
            | FsErrorKind::NotADirectory
            | FsErrorKind::Exists
            | FsErrorKind::NotEmpty => WorkError::Changed,
            _ => WorkError::FsError(error),
        })?;
        self.is_gone = true;
        Ok(())
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if self.is_gone {
            return;
        }
        // A later sweep removes what cannot be removed now (I7).
        match self.dir.remove_reserved(&self.name) {
            Err(error) if error.is_forbidden() => {
                self.names.leave(self.dir, self.name.clone());
            }
            _ => {}
        }
    }
}

/// Exchanges `new` for `old` in one step. Returns the reserved name that `old` has now.
///
/// If the file system has no exchange, or cannot exchange entries of two layers, `old` is renamed
/// away first. Then the name is missing for an instant.
///
/// # Errors
/// [`WorkError::Changed`] if `old` is missing; `CrossDevice` if it is a directory that cannot be
/// renamed at all.
pub fn swap(
    dir: &ReplicaDir,
    new: &Name,
    old: &Name,
    names: &TempNames,
    permit: &RemovalPermit,
) -> Result<Name, WorkError> {
    // The order matters: fuse-overlayfs checks only whether the first one can be renamed, and loses
    // what is below the second.
    match dir.exchange(old, new, permit) {
        Ok(()) => Ok(new.clone()),
        Err(error) if error.kind == FsErrorKind::NotFound => Err(WorkError::Changed),
        Err(error) if error.is_unknown_flag() || error.kind == FsErrorKind::CrossDevice => {
            let trash = names.next();
            rename_away(dir, old, &trash, permit)?;
            match dir.rename(new, old, permit) {
                Ok(()) => Ok(trash),
                Err(error) => {
                    dir.rename(&trash, old, permit)?;
                    Err(error.into())
                }
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Renames an entry to a reserved name. A network file system may do so and still report an error.
/// If both names show that the rename was done, the error is ignored.
fn rename_away(
    dir: &ReplicaDir,
    old: &Name,
    trash: &Name,
    permit: &RemovalPermit,
) -> Result<(), WorkError> {
    let renamed = dir.rename(old, trash, permit);
    let stands = |name: &Name| dir.observe(name.as_bytes());
    match renamed {
        Err(_) if stands(old) == Observed::Absent && stands(trash).entry().is_some() => Ok(()),
        other => Ok(other?),
    }
}

/// Copies the contents of `source` to `temp`, and keeps holes. Calls `on_copied` with the bytes of
/// each step. Returns the number of bytes. That is
/// `entry.size`, even if the file has grown since.
///
/// If the contents do not end at that size although the file has not changed, its file system
/// reports wrong sizes. Then the file is read again to its real end.
///
/// # Errors
/// Read and write errors; [`WorkError::Cancelled`]; [`WorkError::Changed`] if the source has become
/// shorter; [`ENDLESS`] if no end is found within `MAX_READ_PAST_SIZE` bytes after its size.
pub fn fill(
    source: &File,
    entry: &Entry,
    temp: &NewFile,
    cancel: &AtomicBool,
    on_copied: &dyn Fn(u64),
) -> Result<u64, WorkError> {
    let copied = fill_as_sized(source, entry, temp, cancel, on_copied);
    copied.map_err(|error| match error {
        WorkError::FsError(error) => FsError { needed: Some(entry.size), ..error }.into(),
        other => other,
    })
}

/// Does the work of [`fill`].
fn fill_as_sized(
    source: &File,
    entry: &Entry,
    temp: &NewFile,
    cancel: &AtomicBool,
    on_copied: &dyn Fn(u64),
) -> Result<u64, WorkError> {
    let size = entry.size;
    let length = match size {
        0 => 0,
        _ if size <= SMALL => copy_by_hand(source, temp, (0, size), cancel, on_copied)?,
        _ if temp.reflink(source) => return Ok(size),
        _ => fill_ranges(source, size, temp, cancel, on_copied)?,
    };
    if length == size && source.ends_at(size)? {
        return Ok(size);
    }
    if source.entry()?.identity() != entry.identity() {
        // The caller checks whether it has only grown.
        return if length == size { Ok(size) } else { Err(WorkError::Changed) };
    }
    let limit = size.saturating_add(MAX_READ_PAST_SIZE);
    let length = copy_by_hand(source, temp, (0, limit), cancel, on_copied)?;
    if length == limit {
        return Err(WorkError::FsError(ENDLESS));
    }
    temp.set_len(length)?;
    Ok(length)
}

/// Copies a whole file, and leaves holes out. Returns where the copy ends.
fn fill_ranges(
    source: &File,
    size: u64,
    temp: &NewFile,
    cancel: &AtomicBool,
    on_copied: &dyn Fn(u64),
) -> Result<u64, WorkError> {
    let mut offset = 0;
    while let Some((begin, end)) = source.next_data(offset)? {
        let end = end.map_or(size, |end| end.min(size));
        if begin >= end {
            break;
        }
        offset = copy_range(source, temp, (begin, end), cancel, on_copied)?;
        if offset < end {
            return Ok(offset);
        }
    }
    temp.set_len(size)?;
    Ok(size)
}

/// Copies the bytes from `begin` to `end` in the kernel. Returns where the copy ends.
fn copy_range(
    source: &File,
    temp: &NewFile,
    (begin, end): (u64, u64),
    cancel: &AtomicBool,
    on_copied: &dyn Fn(u64),
) -> Result<u64, WorkError> {
    let mut offset = begin;
    while offset < end {
        if cancel.load(Ordering::Relaxed) {
            return Err(WorkError::Cancelled);
        }
        let step = usize::try_from((end - offset).min(STEP)).unwrap_or(usize::MAX);
        match temp.copy_range(source, offset, step)? {
            // Some file systems report a false end (procfs, old FUSE): copy by hand.
            Ranged::Copied(0) | Ranged::Unsupported => {
                return copy_by_hand(source, temp, (offset, end), cancel, on_copied);
            }
            Ranged::Copied(copied) => {
                on_copied(copied as u64);
                offset += copied as u64;
            }
        }
    }
    Ok(offset)
}

/// Copies the bytes from `begin` to `end`, or to the end of the source if that comes first. Returns
/// where the copy ends.
fn copy_by_hand(
    source: &File,
    temp: &NewFile,
    (begin, end): (u64, u64),
    cancel: &AtomicBool,
    on_copied: &dyn Fn(u64),
) -> Result<u64, WorkError> {
    with_buffer(|buffer| {
        let mut offset = begin;
        while offset < end {
            if cancel.load(Ordering::Relaxed) {
                return Err(WorkError::Cancelled);
            }
            let want = buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
            let read = source.read_at(&mut buffer[..want], offset)?;
            if read == 0 {
                break;
            }
            temp.write_all_at(&buffer[..read], offset)?;
            on_copied(read as u64);
            offset += read as u64;
        }
        Ok(offset)
    })
}

/// Ensures that the copy shows the source as it was at one time. Either the source has not changed
/// since. Or it has only grown, and the copied part is the same when it is read again. A change
/// between the two readings would show in one of them.
///
/// # Errors
/// [`WorkError::Changed`] if neither is the case; [`WorkError::Cancelled`]; read errors.
pub fn ensure_whole(
    source: &File,
    entry: &Entry,
    temp: &File,
    cancel: &AtomicBool,
) -> Result<(), WorkError> {
    let now = source.entry()?;
    let whole = now.identity() == entry.identity()
        || (now.has_grown_from(entry) && begin_alike(source, temp, entry.size, cancel)?);
    if whole { Ok(()) } else { Err(WorkError::Changed) }
}

/// Returns whether two files agree in their first `size` bytes.
fn begin_alike(
    one: &File,
    other: &File,
    size: u64,
    cancel: &AtomicBool,
) -> Result<bool, WorkError> {
    with_buffer(|buffer| {
        let (ours, theirs) = buffer.split_at_mut(buffer.len() / 2);
        let mut offset = 0;
        while offset < size {
            if cancel.load(Ordering::Relaxed) {
                return Err(WorkError::Cancelled);
            }
            let want = ours.len().min(usize::try_from(size - offset).unwrap_or(usize::MAX));
            let read = one.read_at(&mut ours[..want], offset)?;
            let also = other.read_at(&mut theirs[..want], offset)?;
            if read < want || ours[..read] != theirs[..also] {
                return Ok(false);
            }
            offset += read as u64;
        }
        Ok(true)
    })
}

/// Sets the source's attributes, owner, mode and mtime on a filled temporary file. Also flushes it
/// if the file system reports write errors late.
pub fn seal(
    source: &File,
    entry: &Entry,
    temp: &NewFile,
    capabilities: &Capabilities,
) -> Result<(), WorkError> {
    let want = source.xattrs(capabilities.xattrs)?;
    // A new file inherits the default ACL of its directory.
    let have = temp.as_file().xattrs(capabilities.xattrs)?;
    let all = MetadataDiff { xattrs: have != want, ..MetadataDiff::of_new(entry, capabilities) };
    temp.set(&settings(entry, all, Some((&have, &want)), capabilities))?;
    if capabilities.reports_late {
        temp.flush()?;
    }
    Ok(())
}

/// Builds the settings for the facts that differ. A change of owner or ACL also changes the mode,
/// so the mode is set again after it. `xattrs`: those of the replica's entry and of the source's.
pub fn settings<'a>(
    source: &Entry,
    differs: MetadataDiff,
    xattrs: Option<(&'a Xattrs, &'a Xattrs)>,
    capabilities: &Capabilities,
) -> Settings<'a> {
    Settings {
        xattrs: xattrs.filter(|_| differs.xattrs),
        uid: differs.uid.then_some(source.uid),
        gid: differs.gid.then_some(source.gid),
        mode: (capabilities.modes && differs.any_but_mtime())
            .then(|| capabilities.mode_of(source, None)),
        mtime: differs.mtime.then(|| capabilities.mtime_of(source)),
    }
}
