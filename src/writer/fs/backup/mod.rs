//! What leaves the replica, or is overwritten there, is kept where that is asked for: it goes to
//! `DIR/twindir-<time>/<path>` first. Where it cannot, the change is not made.
//!
//! A folder takes each path once. When a path comes a second time, and after an hour, a new folder
//! is begun with the time of that moment: its entries left the replica after that, and before the
//! next folder's time.

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
use crate::writer::fs::trash::delete_contents;
use tree_copy::copy_entry;

/// So long a folder takes entries: as finely as that does pruning know their age.
const HOUR: Duration = Duration::from_secs(3600);

/// After so long nothing is put into a folder any more: what is being put there when its hour is
/// over may take its time.
const PUTTING: Duration = Duration::from_secs(2 * 3600);

/// New folders that are begun for one entry, at most. The second is empty but for what other
/// threads do.
const TRIES: usize = 4;

/// Where entries of the replica are kept.
pub struct Backup {
    root: Root,
    /// By which it, or its disk, is known again.
    pin: DirId,
    /// In neither of them may its path come to lead.
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

/// What became of an entry that is to give way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackupOutcome {
    /// It is gone from where it stood.
    Moved,
    /// The new entry stands in its place.
    Exchanged,
    /// It still stands there as well.
    Copied,
}

/// An entry that is kept, and still stands where it stood; or none.
#[derive(Default)]
pub struct Kept(Option<(ReplicaDir, Name)>);

impl Kept {
    /// It was not overwritten after all, as an error says: then it still stands at `name` in `dir`, as
    /// `before`. What may have been overwritten in spite of the error stays kept.
    pub fn undo(self, dir: &ReplicaDir, name: &Name, before: &Observed) {
        let identity = |observed: &Observed| observed.entry().map(Entry::identity);
        let stands =
            identity(before).is_some() && identity(&dir.look(name.as_bytes())) == identity(before);
        if let Some((dir, name)) = self.0.filter(|_| stands) {
            // What stays is one entry too many in the backup.
            let _ = dir.remove_file(name.as_bytes(), &RemovalPermit::in_backup());
        }
    }
}

impl Backup {
    /// Opens the folder, which must exist. `apart_from`: the source and the replica.
    ///
    /// # Errors
    /// Where it cannot be written to.
    pub fn open(path: PathBuf, apart_from: [Root; 2], durable: bool) -> Result<Self, FsError> {
        let root = Root::new(path, Side::Backup);
        let (dir, pin) = root.open_replica()?;
        let wanted = of_process(root.foreign_file_system().is_none());
        let capabilities = probe(&dir, Capabilities { tells_late: root.is_remote(), ..wanted })?;
        let (names, current) = (TempNames::default(), Mutex::default());
        Ok(Self { root, pin, apart_from, capabilities, durable, names, current })
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Keeps a file or symlink that is about to be overwritten, and leaves it where it is: by a
    /// link on one file system, else by a copy.
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
                other => other.map_err(|error| blamed(error, &to))?,
            }
            Ok(Kept(Some((to, leaf.clone()))))
        })
    }

    /// Takes an entry out of the replica: by a rename on one file system; else it is copied, and
    /// stays.
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
                Err(error) => Err(blamed(error, &to).into()),
            }
        })
    }

    /// Puts an entry in the place of the directory `at`, in one step: it waits in the backup for
    /// the exchange. Where that cannot be, the directory is taken as by [`Backup::take`].
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
                    Err(blamed(error, &to).into())
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
                Err(error) => Err(blamed(error, &to).into()),
            }
        })?;
        if exchanged {
            Ok(BackupOutcome::Exchanged)
        } else {
            self.take(at.0, at.1, path, permit, cancel)
        }
    }

    /// Finds the place of a path, and puts an entry there. Where the place is taken, a new folder
    /// is begun.
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
        let (dir, pin) = self.root.open_replica()?;
        // It may have been made anew.
        let is_it = pin == self.pin
            || pin.is_same_on_disk(&self.pin)
            || (pin.same_mount(&self.pin) && self.lies_apart());
        if is_it {
            return Ok(dir);
        }
        // Its disk is gone, and this is the directory beneath, or another disk; or its path leads
        // into a root.
        Err(FsError::found("keep what goes", Side::Backup, FsErrorKind::Stale))
    }

    fn lies_apart(&self) -> bool {
        self.apart_from.iter().all(|root| {
            let lies = |pin| lies_within(&self.root.path, &root.path, &pin, Side::Backup);
            root.pin().and_then(lies) == Ok(false)
        })
    }

    /// The folder that takes entries now; a new one where there is none, or where it is old.
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

    /// Whether a folder takes entries now; clocks may jump.
    fn is_current(&self, folder: &Name) -> bool {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().is_some_and(|current| current.name == *folder)
    }

    /// A folder in which a path is taken takes no more.
    fn leave(&self, folder: &Name) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.name == *folder) {
            *current = None;
        }
    }

    /// Whether one of these directories is a folder or lies in it, by whatever names. What cannot
    /// be found out may be so.
    fn is_in_use(&self, folder: &Name, dirs: &[PathBuf]) -> bool {
        let path = self.root.path.join(OsStr::from_bytes(folder.as_bytes()));
        let Ok(pin) = Root::new(path.clone(), Side::Backup).pin() else { return true };
        dirs.iter().any(|dir| lies_within(dir, &path, &pin, Side::Backup) != Ok(false))
    }

    /// Copies an entry with all that it holds. The copy is there as a whole or not at all.
    fn copy(
        &self,
        from: &ReplicaDir,
        name: &Name,
        to: &ReplicaDir,
        leaf: &Name,
        cancel: &AtomicBool,
    ) -> Result<(), WorkError> {
        // A FIFO, socket or device holds nothing.
        if from.look(name.as_bytes()).entry().is_some_and(Entry::is_special) {
            return Ok(());
        }
        // Better known before all of it is copied.
        if to.look(leaf.as_bytes()) != Observed::Absent {
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

    /// Removes the folders whose entries were put there longer than `keep` ago. Whatever else lies
    /// beside them stays, and so does a folder in which one of the directories in use lies:
    /// somebody may mirror from it, or to it.
    pub fn prune(&self, keep: Duration, in_use: &[PathBuf], stop: &AtomicBool) {
        let Ok(root) = self.open_root() else { return };
        let Ok(listing) = root.open(&RelPath::root()).and_then(|root| root.list()) else { return };
        for name in listing.iter().filter_map(|(name, _)| Name::new(name)) {
            let is_old = folder::age(&name).is_some_and(|age| age > keep.saturating_add(PUTTING));
            if !is_old || self.is_current(&name) || !root.look(name.as_bytes()).is_dir() {
                continue;
            }
            if self.is_in_use(&name, in_use) {
                tracing::warn!(op = "warning", path = %name, "it is not pruned: it holds a directory that is in use");
                continue;
            }
            match root
                .open_unlocked(name.as_bytes())
                .and_then(|dir| delete_contents(&dir, stop, &RemovalPermit::in_backup()))
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

/// Opens the directory at `path`, and makes what is missing. Nobody else may look into it.
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

/// Removes what there is of a copy that has failed.
fn remove(dir: &ReplicaDir, name: &Name, cancel: &AtomicBool) {
    if dir.look(name.as_bytes()).is_dir() {
        let _ = dir
            .open_unlocked(name.as_bytes())
            .and_then(|top| delete_contents(&top, cancel, &RemovalPermit::in_backup()));
        let _ = dir.remove_dir(name.as_bytes(), &RemovalPermit::in_backup());
    } else {
        let _ = dir.remove_file(name.as_bytes(), &RemovalPermit::in_backup());
    }
}

/// A directory that its mode locks to its owner. To go elsewhere, it must be writable; it gets its
/// mode back, wherever it is.
struct Unlocked(ReplicaDir, u32);

impl Unlocked {
    /// `None` where nothing has to be done for that.
    fn open(dir: &ReplicaDir, name: &Name) -> Option<Self> {
        let side = dir.look(name.as_bytes());
        let is_locked =
            side.entry().is_some_and(|entry| entry.is_dir() && entry.mode & 0o300 != 0o300);
        // Where that is not permitted, what is done with it will say so.
        let (opened, mode) = is_locked.then(|| dir.open_up(name.as_bytes()))?.ok()?;
        Some(Self(opened, mode))
    }
}

impl Drop for Unlocked {
    fn drop(&mut self) {
        let _ = self.0.set(&Settings { mode: Some(self.1), ..Settings::default() });
    }
}

/// Whether there is nothing (any more) to be kept.
fn is_gone(error: &FsError, dir: &ReplicaDir, name: &Name) -> bool {
    error.is_absence() && dir.look(name.as_bytes()) == Observed::Absent
}

/// A missing right is said of the folder to which an entry was to go. If that can be written to,
/// the entry may not leave its place.
fn blamed(error: FsError, to: &ReplicaDir) -> FsError {
    let is_open = || to.entry().is_ok_and(|entry| entry.mode & 0o300 == 0o300);
    let is_of_entry = error.is_forbidden() && is_open();
    if is_of_entry { FsError { side: Side::Replica, ..error } } else { error }
}

/// Whether something else stands at the place, or above it: a directory that was kept, perhaps,
/// with a mode that lets nothing in.
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

/// Whether the file system, or this user, cannot link it there: other file systems, links forbidden
/// or unknown, too many.
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
