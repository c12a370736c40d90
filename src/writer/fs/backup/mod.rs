//! `--backup-dir`: an entry that is to be deleted or overwritten in the replica is first kept as
//! `DIR/twindir-<time>/<path>`. If it cannot be kept, the change is not made.
//!
//! A folder holds each path once. A new one is begun after an hour, or when a path comes a second
//! time, and is named after that moment. Its entries left the replica between its own time and the
//! next folder's.

mod folder;
mod tree_copy;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::tree::{DirId, ReplicaDir, Root, Settings, lies_within};
use crate::model::entry::{Entry, Observed};
use crate::model::error::FsErrorKind;
use crate::model::error::{FsError, Side, WorkError};
use crate::model::path::{Name, RelPath};
use crate::plan::metadata::Capabilities;
use crate::plan::removal::RemovalPermit;
use crate::writer::fs::copy::TempNames;
use crate::writer::fs::probe::{of_process, probe};
use crate::writer::fs::progress::Progress;
use crate::writer::fs::trash::delete_contents;
use tree_copy::copy_entry;

/// How long a folder takes entries. Pruning knows the age of an entry no more precisely.
const HOUR: Duration = Duration::from_secs(3600);

/// The age at which a folder is complete: a copy that began within its hour may end later.
const COMPLETE_AFTER: Duration = Duration::from_secs(2 * 3600);

/// How many folders are tried for one entry, at most. A new one is empty but for the entries of
/// other threads.
const TRIES: usize = 4;

/// The folder in which entries of the replica are kept.
pub struct Backup {
    root: Root,
    /// Identifies the folder, or the disk on which it lies.
    id: DirId,
    /// The source and the replica. Its path must not come to lead into either.
    apart_from: [Root; 2],
    capabilities: Capabilities,
    durable: bool,
    names: TempNames,
    current: Mutex<Option<Current>>,
}

/// The folder that takes entries now.
struct Current {
    name: Name,
    begun: Instant,
}

/// How an entry was kept that is to be deleted or replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackupOutcome {
    /// Its name is free: it was moved to the backup, or had been deleted already.
    Moved,
    /// It was exchanged for the new entry, which has its name now.
    Exchanged,
    /// It was copied to the backup, and still has its name.
    Copied,
}

/// The link or copy in the backup of an entry that is to be overwritten; or none.
#[derive(Default)]
pub struct Kept(Option<(ReplicaDir, Name)>);

impl Kept {
    /// Removes the link or copy after an error: the entry was not overwritten. It stays if the
    /// entry at `name` in `dir` is not `before` any more, since an error may be reported although
    /// it was overwritten.
    pub fn undo(self, dir: &ReplicaDir, name: &Name, before: &Observed) {
        let identity = |observed: &Observed| observed.entry().map(Entry::identity);
        let stands = identity(before).is_some()
            && identity(&dir.observe(name.as_bytes())) == identity(before);
        if let Some((dir, name)) = self.0.filter(|_| stands) {
            // If this fails, the backup holds one entry too many.
            let _ = dir.remove_file(name.as_bytes(), &RemovalPermit::in_backup());
        }
    }
}

impl Backup {
    /// Opens the folder, which must exist. `apart_from`: the source and the replica.
    ///
    /// # Errors
    /// If it cannot be opened or written to.
    pub fn open(path: PathBuf, apart_from: [Root; 2], durable: bool) -> Result<Self, FsError> {
        let root = Root::new(path, Side::Backup);
        let (dir, id) = root.open_replica()?;
        let wanted = of_process(root.foreign_file_system().is_none());
        let capabilities = probe(&dir, Capabilities { reports_late: root.is_remote(), ..wanted })?;
        let (names, current) = (TempNames::default(), Mutex::default());
        Ok(Self { root, id, apart_from, capabilities, durable, names, current })
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Keeps a file or symlink that is about to be overwritten, and leaves it in its place. On one
    /// file system it makes a link, else a copy.
    pub fn keep(
        &self,
        from: &ReplicaDir,
        name: &Name,
        path: &RelPath,
        cancel: &AtomicBool,
    ) -> Result<Kept, WorkError> {
        self.put(path, |to, leaf| {
            match from.link_to(name, &to, leaf) {
                Err(error) if is_gone(&error, from, name) => return Ok(Kept(None)),
                Err(error) if cannot_link(error.kind) => {
                    self.copy(from, name, &to, leaf, cancel)?;
                }
                other => other.map_err(|error| with_side(error, &to))?,
            }
            Ok(Kept(Some((to, leaf.clone()))))
        })
    }

    /// Moves an entry from the replica to the backup. If they lie on two file systems, it is
    /// copied, and stays in the replica.
    pub fn take(
        &self,
        from: &ReplicaDir,
        name: &Name,
        path: &RelPath,
        permit: &RemovalPermit,
        cancel: &AtomicBool,
    ) -> Result<BackupOutcome, WorkError> {
        self.put(path, |to, leaf| {
            let _open = Unlocked::open(from, name);
            match from.move_to_free(name.as_bytes(), &to, leaf, permit) {
                Ok(()) => Ok(BackupOutcome::Moved),
                Err(error) if is_gone(&error, from, name) => Ok(BackupOutcome::Moved),
                Err(error) if error.kind == FsErrorKind::CrossDevice => {
                    self.copy(from, name, &to, leaf, cancel).map(|()| BackupOutcome::Copied)
                }
                Err(error) => Err(with_side(error, &to).into()),
            }
        })
    }

    /// Exchanges the entry `new` for the directory `at` in one step. For that, `new` is moved to
    /// the backup first. If an exchange is impossible, the directory is kept as by
    /// [`Backup::take`].
    pub fn replace(
        &self,
        new: (&ReplicaDir, &Name),
        at: (&ReplicaDir, &Name),
        path: &RelPath,
        permit: &RemovalPermit,
        cancel: &AtomicBool,
    ) -> Result<BackupOutcome, WorkError> {
        let exchanged = self.put(path, |to, leaf| {
            let _both = [Unlocked::open(new.0, new.1), Unlocked::open(at.0, at.1)];
            if let Err(error) = new.0.move_to_free(new.1.as_bytes(), &to, leaf, permit) {
                return if error.kind == FsErrorKind::CrossDevice {
                    Ok(false)
                } else {
                    Err(with_side(error, &to).into())
                };
            }
            let exchanged = at.0.exchange_with(at.1, &to, leaf, permit);
            if exchanged.is_err() {
                to.move_to(leaf.as_bytes(), new.0, new.1, permit)?;
            }
            match exchanged {
                Ok(()) => Ok(true),
                Err(error) if error.is_unknown_flag() || error.kind == FsErrorKind::CrossDevice => {
                    Ok(false)
                }
                Err(error) => Err(with_side(error, &to).into()),
            }
        })?;
        if exchanged {
            Ok(BackupOutcome::Exchanged)
        } else {
            self.take(at.0, at.1, path, permit, cancel)
        }
    }

    /// Finds the place of a path, and calls `put` for it. If the place is taken, begins a new
    /// folder.
    fn put<T>(
        &self,
        path: &RelPath,
        put: impl Fn(ReplicaDir, &Name) -> Result<T, WorkError>,
    ) -> Result<T, WorkError> {
        let Some((dir, name)) = path.split() else { return Err(WorkError::Changed) };
        let mut tries = 0;
        loop {
            tries += 1;
            let root = self.open_root()?;
            let folder = self.folder(&root)?;
            match make_dirs(&root, &RelPath::root().join(&folder).below(&dir))
                .map_err(WorkError::from)
                .and_then(|to| put(to, &name))
            {
                Err(WorkError::FsError(error)) if is_taken(&error) && tries < TRIES => {
                    self.leave(&folder);
                }
                result => return result,
            }
        }
    }

    fn open_root(&self) -> Result<ReplicaDir, FsError> {
        let (dir, id) = self.root.open_replica()?;
        // It may have been made or mounted again.
        let is_it = id == self.id
            || id.is_same_on_disk(&self.id)
            || (id.same_mount(&self.id) && self.lies_apart());
        if is_it {
            return Ok(dir);
        }
        // Its disk is unmounted, and this is the directory beneath, or another disk. Or its path
        // leads into a root.
        Err(FsError::found("keep what goes", Side::Backup, FsErrorKind::Stale))
    }

    fn lies_apart(&self) -> bool {
        self.apart_from.iter().all(|root| {
            let lies = |id| lies_within(&self.root.path, &root.path, &id, Side::Backup);
            root.id().and_then(lies) == Ok(false)
        })
    }

    /// Returns the folder that takes entries now. Begins a new one if there is none, or if its hour
    /// is over.
    fn folder(&self, root: &ReplicaDir) -> Result<Name, FsError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Current { name, begun }) = &*current
            && begun.elapsed() < HOUR
        {
            return Ok(name.clone());
        }
        let name = folder::begin(root)?;
        let place = self.root.path.join(name.to_string());
        tracing::info!(
            op = "backup",
            "what is removed or overwritten goes to {}",
            crate::model::path::shown(&place)
        );
        *current = Some(Current { name: name.clone(), begun: Instant::now() });
        Ok(name)
    }

    /// Returns whether `folder` takes entries now. Its age does not show this, since clocks may
    /// jump.
    fn is_current(&self, folder: &Name) -> bool {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().is_some_and(|current| current.name == *folder)
    }

    /// Ends a folder in which a path is taken.
    fn leave(&self, folder: &Name) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.name == *folder) {
            *current = None;
        }
    }

    /// Returns whether one of `dirs` is the folder or lies in it, by whatever path. `true` if this
    /// cannot be found out.
    fn is_in_use(&self, folder: &Name, dirs: &[PathBuf]) -> bool {
        let path = self.root.path.join(OsStr::from_bytes(folder.as_bytes()));
        let Ok(id) = Root::new(path.clone(), Side::Backup).id() else { return true };
        dirs.iter().any(|dir| lies_within(dir, &path, &id, Side::Backup) != Ok(false))
    }

    /// Copies an entry with all that it holds. The copy appears only when it is complete.
    fn copy(
        &self,
        from: &ReplicaDir,
        name: &Name,
        to: &ReplicaDir,
        leaf: &Name,
        cancel: &AtomicBool,
    ) -> Result<(), WorkError> {
        // A FIFO, socket or device holds nothing.
        if from.observe(name.as_bytes()).entry().is_some_and(Entry::is_special) {
            return Ok(());
        }
        // Fail before all of it is copied.
        if to.observe(leaf.as_bytes()) != Observed::Absent {
            return Err(FsError::found("copy it", Side::Backup, FsErrorKind::Exists).into());
        }
        let temp = self.names.next();
        let copied = copy_entry(from, name, to, &temp, (&self.capabilities, cancel))
            .and_then(|()| Ok(to.publish(&temp, leaf)?));
        if copied.is_err() {
            remove(to, &temp, cancel);
        } else if self.durable {
            to.sync()?;
        }
        copied
    }

    /// Removes the folders whose entries were all put there longer than `keep` ago. Other entries
    /// of the backup stay. So does a folder in which a directory of `in_use` lies: somebody may
    /// mirror from it, or to it.
    pub fn prune(&self, keep: Duration, in_use: &[PathBuf], stop: &AtomicBool) {
        let Ok(root) = self.open_root() else { return };
        let Ok(listing) = root.open(&RelPath::root()).and_then(|root| root.list()) else { return };
        for name in listing.iter().filter_map(|(name, _)| Name::new(name)) {
            let is_old =
                folder::age(&name).is_some_and(|age| age > keep.saturating_add(COMPLETE_AFTER));
            if !is_old || self.is_current(&name) || !root.observe(name.as_bytes()).is_dir() {
                continue;
            }
            if self.is_in_use(&name, in_use) {
                tracing::warn!(op = "warning", path = %name, "it is not pruned: it holds a directory that is in use");
                continue;
            }
            match root
                .open_and_grant(name.as_bytes())
                .and_then(|dir| {
                    delete_contents(&dir, stop, &RemovalPermit::in_backup(), &Progress::default())
                })
                .and_then(|()| root.remove_dir(name.as_bytes(), &RemovalPermit::in_backup()))
            {
                Ok(()) => {
                    tracing::info!(op = "pruned", path = %name, "older than --backup-keep says");
                }
                Err(_) if stop.load(std::sync::atomic::Ordering::Relaxed) => return,
                Err(error) => {
                    tracing::warn!(op = "warning", path = %name, "cannot prune it: {error}");
                }
            }
        }
    }
}

/// Opens the directory at `path`, and makes what is missing. No other user may look into it.
fn make_dirs(root: &ReplicaDir, path: &RelPath) -> Result<ReplicaDir, FsError> {
    match root.open(path) {
        Err(error) if error.is_absence() => {}
        other => return other,
    }
    for above in path.ancestors_and_self() {
        let Some((dir, name)) = above.split() else { continue };
        match root.open(&dir)?.make_dir(&name) {
            Err(error) if error.kind != FsErrorKind::Exists => return Err(error),
            _ => {}
        }
    }
    root.open(path)
}

/// Removes the remains of a failed copy.
fn remove(dir: &ReplicaDir, name: &Name, cancel: &AtomicBool) {
    if dir.observe(name.as_bytes()).is_dir() {
        let _ = dir.open_and_grant(name.as_bytes()).and_then(|top| {
            delete_contents(&top, cancel, &RemovalPermit::in_backup(), &Progress::default())
        });
        let _ = dir.remove_dir(name.as_bytes(), &RemovalPermit::in_backup());
    } else {
        let _ = dir.remove_file(name.as_bytes(), &RemovalPermit::in_backup());
    }
}

/// A directory whose mode locks out its owner, and that mode. It can be moved to another directory
/// only while it is writable. When this is dropped, it gets its mode back, wherever it is.
struct Unlocked(ReplicaDir, u32);

impl Unlocked {
    /// Makes a locked directory writable; `None` if it is not locked, or if that is not permitted.
    fn open(dir: &ReplicaDir, name: &Name) -> Option<Self> {
        let side = dir.observe(name.as_bytes());
        let is_locked =
            side.entry().is_some_and(|entry| entry.is_dir() && entry.mode & 0o300 != 0o300);
        // If it is not permitted, the move fails and reports it.
        let (opened, mode) = is_locked.then(|| dir.open_denied(name.as_bytes()))?.ok()?;
        Some(Self(opened, mode))
    }
}

impl Drop for Unlocked {
    fn drop(&mut self) {
        let _ = self.0.set(&Settings { mode: Some(self.1), ..Settings::default() });
    }
}

/// Returns whether the entry that is to be kept does not exist (any more).
fn is_gone(error: &FsError, dir: &ReplicaDir, name: &Name) -> bool {
    error.is_absence() && dir.observe(name.as_bytes()) == Observed::Absent
}

/// Sets the side on which a permission is missing. That is the backup, unless its directory `to`
/// can be written to: then the entry may not leave the replica.
fn with_side(error: FsError, to: &ReplicaDir) -> FsError {
    let is_open = || to.entry().is_ok_and(|entry| entry.mode & 0o300 == 0o300);
    let is_of_entry = error.is_forbidden() && is_open();
    if is_of_entry { FsError { side: Side::Replica, ..error } } else { error }
}

/// Returns whether another entry is at the place, or above it: for example a directory that was
/// kept, with a mode that lets nothing in.
fn is_taken(error: &FsError) -> bool {
    let taken = [
        FsErrorKind::Exists,
        FsErrorKind::NotEmpty,
        FsErrorKind::NotADirectory,
        FsErrorKind::IsADirectory,
        FsErrorKind::SymlinkLoop,
        FsErrorKind::Denied,
        FsErrorKind::NotPermitted,
    ];
    error.side == Side::Backup && taken.contains(&error.kind)
}

/// Returns whether the entry has to be copied, since it cannot be linked there: another file
/// system, links that are forbidden or unsupported, too many links.
fn cannot_link(kind: FsErrorKind) -> bool {
    let unlinkable = [
        FsErrorKind::CrossDevice,
        FsErrorKind::NotPermitted,
        FsErrorKind::Denied,
        FsErrorKind::Unsupported,
        FsErrorKind::TooManyLinks,
        FsErrorKind::Invalid,
    ];
    unlinkable.contains(&kind)
}
