//! One file or symlink, built under a reserved name and put in place by a rename (I4).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fs::digest::{MAX_READ_PAST_SIZE, with_buffer};
use crate::fs::tree::{File, NewFile, Ranged, ReplicaDir, Settings};
use crate::model::entry::{Entry, Observed, Xattrs};
use crate::model::error::FsErrorKind;
use crate::model::error::{ENDLESS, FsError, GIVES_NOTHING_BACK, WorkError};
use crate::model::path::Name;
use crate::plan::metadata::{Capabilities, MetadataDiff};
use crate::plan::removal::RemovalPermit;

/// Files up to this size, in bytes, are copied by one read and one write.
const SMALL: u64 = 64 * 1024;

/// Bytes that the kernel is asked to copy at once: a shutdown waits for no more than that.
const STEP: u64 = 8 * 1024 * 1024;

/// Gives out reserved names, and knows of temporary entries that could not be removed. The names
/// start at a random number, so that those of a run that was killed are not met again.
pub struct TempNames {
    next: AtomicU64,
    /// What was left behind, by the inode of its directory.
    left: Mutex<HashMap<(u64, u64), Vec<Name>>>,
    /// Whether there is any.
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

    /// Whether a temporary entry may be made in a directory: not while one lies there that cannot
    /// be removed. That is tried once more.
    ///
    /// # Errors
    /// [`GIVES_NOTHING_BACK`].
    pub fn may_make_in(&self, dir: &ReplicaDir) -> Result<(), FsError> {
        if !self.has_left.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(key) = key_of(dir) else { return Ok(()) };
        let mut left = self.lock();
        let Some(names) = left.get_mut(&key) else { return Ok(()) };
        names.retain(|name| dir.remove_reserved(name).is_err_and(|error| !error.is_absence()));
        if !names.is_empty() {
            return Err(GIVES_NOTHING_BACK);
        }
        left.remove(&key);
        self.has_left.store(!left.is_empty(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether a reserved name is that of something which could not be removed.
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

/// A temporary file or symlink in a directory of the replica. Unless it is published, it is
/// removed when this goes.
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

    /// Notes that the entry has left its reserved name.
    pub fn leave(mut self) {
        self.is_gone = true;
    }

    /// Puts the entry under `name`. `permit`: to replace what stands there, which is no directory;
    /// `None` where nothing does.
    ///
    /// # Errors
    /// [`WorkError::Changed`] where something else stands there by now.
    pub fn publish(mut self, name: &Name, permit: Option<&RemovalPermit>) -> Result<(), WorkError> {
        let renamed = match permit {
            Some(permit) => self.dir.rename(&self.name, name, permit),
            None => self.dir.publish(&self.name, name),
        };
        renamed.map_err(|error| match error.kind {
            // RACE: something appeared after the look, or a directory. Worst case one more check.
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
        // What cannot be removed now is removed by a later sweep (I7).
        match self.dir.remove_reserved(&self.name) {
            Err(error) if error.is_forbidden() => {
                self.names.leave(self.dir, self.name.clone());
            }
            _ => {}
        }
    }
}

/// Puts `new` in the place of `old` in one step; the reserved name under which `old` is now.
///
/// Where the file system knows no exchange, or cannot exchange what lies on two of its layers,
/// `old` is put aside first: for an instant nothing stands under the name.
///
/// # Errors
/// [`WorkError::Changed`] where `old` has gone; `CrossDevice` where it is a directory that cannot be
/// renamed at all.
pub fn swap(
    dir: &ReplicaDir,
    new: &Name,
    old: &Name,
    names: &TempNames,
    permit: &RemovalPermit,
) -> Result<Name, WorkError> {
    // In this order: fuse-overlayfs sees of the first one only that it cannot be renamed, and loses
    // what is below the other.
    match dir.exchange(old, new, permit) {
        Ok(()) => Ok(new.clone()),
        Err(error) if error.kind == FsErrorKind::NotFound => Err(WorkError::Changed),
        Err(error) if error.is_unknown_flag() || error.kind == FsErrorKind::CrossDevice => {
            let aside = names.next();
            rename_away(dir, old, &aside, permit)?;
            match dir.rename(new, old, permit) {
                Ok(()) => Ok(aside),
                Err(error) => {
                    dir.rename(&aside, old, permit)?;
                    Err(error.into())
                }
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Renames an entry to a reserved name. A network file system may do that and report an error all
/// the same: then it is taken for done.
fn rename_away(
    dir: &ReplicaDir,
    old: &Name,
    aside: &Name,
    permit: &RemovalPermit,
) -> Result<(), WorkError> {
    let renamed = dir.rename(old, aside, permit);
    let stands = |name: &Name| dir.look(name.as_bytes());
    match renamed {
        Err(_) if stands(old) == Observed::Absent && stands(aside).entry().is_some() => Ok(()),
        other => Ok(other?),
    }
}

/// Copies the contents, holes kept as holes: how many bytes. That is `entry.size`, the size first
/// seen, also where the file has grown since. Where the contents end elsewhere although nothing has
/// changed, they are read once more, to their end; if that is no race, the file system makes sizes
/// up, and what was read is the copy.
///
/// # Errors
/// Read and write errors, [`WorkError::Cancelled`], [`WorkError::Changed`] where the source has
/// become shorter, and [`ENDLESS`] where no end is found.
pub fn fill(
    source: &File,
    entry: &Entry,
    temp: &NewFile,
    cancel: &AtomicBool,
) -> Result<u64, WorkError> {
    let size = entry.size;
    let length = match size {
        0 => 0,
        _ if size <= SMALL => copy_by_hand(source, temp, 0, size, cancel)?,
        _ if temp.reflink(source) => return Ok(size),
        _ => fill_ranges(source, size, temp, cancel)?,
    };
    if length == size && source.ends_at(size)? {
        return Ok(size);
    }
    if source.entry()?.identity() != entry.identity() {
        // Whether it has only grown is for the caller to see.
        return if length == size { Ok(size) } else { Err(WorkError::Changed) };
    }
    let limit = size.saturating_add(MAX_READ_PAST_SIZE);
    let length = copy_by_hand(source, temp, 0, limit, cancel)?;
    if length == limit {
        return Err(WorkError::FsError(ENDLESS));
    }
    temp.set_len(length)?;
    Ok(length)
}

/// As [`copy_by_hand`], of a whole file.
fn fill_ranges(
    source: &File,
    size: u64,
    temp: &NewFile,
    cancel: &AtomicBool,
) -> Result<u64, WorkError> {
    let mut offset = 0;
    while let Some((begin, end)) = source.next_data(offset)? {
        let end = end.map_or(size, |end| end.min(size));
        if begin >= end {
            break;
        }
        offset = copy_range(source, temp, begin, end, cancel)?;
        if offset < end {
            return Ok(offset);
        }
    }
    temp.set_len(size)?;
    Ok(size)
}

/// As [`copy_by_hand`], by the kernel.
fn copy_range(
    source: &File,
    temp: &NewFile,
    begin: u64,
    end: u64,
    cancel: &AtomicBool,
) -> Result<u64, WorkError> {
    let mut offset = begin;
    while offset < end {
        if cancel.load(Ordering::Relaxed) {
            return Err(WorkError::Cancelled);
        }
        let step = usize::try_from((end - offset).min(STEP)).unwrap_or(usize::MAX);
        match temp.copy_range(source, offset, step)? {
            // Some file systems report an end where there is none (procfs, old FUSE): by hand.
            Ranged::Copied(0) | Ranged::Unsupported => {
                return copy_by_hand(source, temp, offset, end, cancel);
            }
            Ranged::Copied(copied) => offset += copied as u64,
        }
    }
    Ok(offset)
}

/// Copies the bytes from `begin` to `end`, or to where the source ends before: where that is.
fn copy_by_hand(
    source: &File,
    temp: &NewFile,
    begin: u64,
    end: u64,
    cancel: &AtomicBool,
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
            offset += read as u64;
        }
        Ok(offset)
    })
}

/// Sees that what was copied is what the source held at one time: nothing has changed since, or it
/// has only grown, and what was copied is still the same when it is read again. A change between
/// the two readings shows in one of them.
///
/// # Errors
/// [`WorkError::Changed`] where it is not.
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

/// Whether two files agree in their first `size` bytes.
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

/// Gives a filled temporary file the source's attributes, owner, mode and times.
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
    if capabilities.tells_late {
        temp.flush()?;
    }
    Ok(())
}

/// What to set where `differs` differs. A change of owner or ACL changes the mode, which is set
/// again after it. `xattrs`: what the replica's entry has, and what the source's has.
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
        mode: (capabilities.modes && differs.visible()).then(|| capabilities.mode_of(source, None)),
        mtime: differs.mtime.then(|| capabilities.mtime_of(source)),
    }
}
