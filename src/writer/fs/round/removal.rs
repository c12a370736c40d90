//! Removes entries from the replica: they are deleted, or moved to the backup.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::Round;
use super::emptying::{A_TURN, EmptiedInPlace, cannot_be_renamed};
use crate::fs::tree::{Dir, ListedKind, ReplicaDir, Settings};
use crate::fs::view::{ReplicaView, descend};
use crate::model::check::Check;
use crate::model::entry::Entry;
use crate::model::error::{WorkError, ignore_absence};
use crate::model::path::{Name, RelPath};
use crate::model::reason::Reason;
use crate::plan::removal::RemovalPermit;
use crate::report::{Done, Entries, Operation};
use crate::writer::fs::backup::{BackupOutcome, Kept};

/// How long the entries of a directory that is removed are counted, for the log.
pub const COUNTING: Duration = Duration::from_millis(20);

impl Round<'_> {
    /// Removes a directory from the replica by one rename (I6). Returns the action, with the number
    /// of its entries, and the reserved name under which the trash thread finds it.
    ///
    /// There is no name if the directory was moved to the backup, or if it cannot be renamed and
    /// was emptied in place. The result is `None` if the next round has to continue emptying it.
    pub(super) fn take_dir(
        &self,
        dir: &ReplicaDir,
        path: &RelPath,
        name: &Name,
        old: &Entry,
        (check, permit): (&Check, &RemovalPermit),
    ) -> Result<Option<(Done, Option<Name>)>, WorkError> {
        if !self.shared.emptied.has(path) {
            let done = taken(dir, path, name, old, check);
            self.cancel_temps_within(path);
            if !self.still_stands(dir, path, name, permit)? {
                return Ok(Some((done, None)));
            }
            match self.rename_to_trash(dir, name, permit) {
                Err(WorkError::FsError(error)) if cannot_be_renamed(&error) => {}
                trash => return Ok(Some((done, Some(trash?)))),
            }
        }
        self.shared.cancel_within(path);
        // With a backup, all of it was copied for this. A second turn would copy it again.
        let turn = self.shared.backup.is_none().then_some(A_TURN);
        match self.empty_in_place(dir, name, path, turn, permit)? {
            EmptiedInPlace::Wholly(number) => {
                let mut done =
                    Done::new(Operation::Removed, path.clone(), old, Reason::Removed, check);
                done.entries = Some(Entries { number, at_least: false });
                Ok(Some((done, None)))
            }
            EmptiedInPlace::InPart => Ok(None),
        }
    }

    /// Renames a directory to a reserved name, under which the trash thread finds it, and closes it
    /// to others.
    pub(super) fn rename_to_trash(
        &self,
        dir: &ReplicaDir,
        name: &Name,
        permit: &RemovalPermit,
    ) -> Result<Name, WorkError> {
        let reserved = self.shared.names.next();
        dir.rename(name, &reserved, permit)?;
        self.shut(dir, &reserved);
        Ok(reserved)
    }

    /// Closes a directory that is being deleted to all others. If this fails, it stays as open as
    /// it was.
    pub(super) fn shut(&self, dir: &ReplicaDir, name: &Name) {
        let capabilities = &self.shared.capabilities;
        let open = RelPath::new(name.as_bytes()).map(|rel| dir.open(&rel));
        if let Some(Ok(trash)) = open.filter(|_| capabilities.modes) {
            let uid = capabilities.owner.then_some(capabilities.user);
            let _ = trash.set(&Settings { uid, mode: Some(0o700), ..Settings::default() });
        }
    }

    /// Cancels the big files in flight below a directory, and removes their temporary files, so
    /// that these do not get into the backup. Does nothing without a backup.
    pub(super) fn cancel_temps_within(&self, path: &RelPath) {
        if self.shared.backup.is_none() {
            return;
        }
        for (path, temp) in self.shared.in_flight.temps_within(path) {
            if let Some((dir, _)) = path.split() {
                // If this fails, it gets into the backup, and is pruned with its folder.
                let _ = self.replica.open(&dir).and_then(|dir| dir.remove_reserved(&temp));
            }
        }
        self.shared.cancel_within(path);
    }

    /// Removes an entry that is not a directory, after it is kept in the backup, if there is one.
    /// It is no error if it does not exist any more.
    pub(super) fn remove_file_at(
        &self,
        dir: &ReplicaDir,
        path: &RelPath,
        name: &Name,
        permit: &RemovalPermit,
    ) -> Result<(), WorkError> {
        if self.still_stands(dir, path, name, permit)? {
            dir.remove_file(name.as_bytes(), permit).or_else(ignore_absence)?;
        }
        Ok(())
    }

    /// Keeps an entry that is to be removed in the backup, if there is one. Returns whether it
    /// still has its name.
    fn still_stands(
        &self,
        dir: &ReplicaDir,
        path: &RelPath,
        name: &Name,
        permit: &RemovalPermit,
    ) -> Result<bool, WorkError> {
        let Some(backup) = &self.shared.backup else { return Ok(true) };
        Ok(backup.take(dir, name, path, permit, &self.shared.stop)? == BackupOutcome::Copied)
    }

    /// Keeps a file or symlink that is to be overwritten in the backup, if there is one.
    pub(super) fn back_up(
        &self,
        dir: &ReplicaDir,
        name: &Name,
        path: &RelPath,
    ) -> Result<Kept, WorkError> {
        match &self.shared.backup {
            Some(backup) => backup.keep(dir, name, path, &self.shared.stop),
            None => Ok(Kept::default()),
        }
    }
}

/// Makes the record of a directory that is to be removed, and counts its entries.
pub(super) fn taken(dir: &Dir, path: &RelPath, name: &Name, old: &Entry, check: &Check) -> Done {
    let mut number = 1;
    let at_least = !count_below(dir, name, &mut number, Instant::now() + COUNTING);
    let mut done = Done::new(Operation::Removed, path.clone(), old, Reason::Removed, check);
    done.entries = Some(Entries { number, at_least });
    done
}

/// How many directories are counted regardless of the time: a small tree is counted to its end on a
/// busy machine too.
const COUNTED: usize = 16;

/// Adds the number of entries below a directory to `number`. Returns `false` if not all were
/// counted by `until`, or if a directory could not be listed.
pub fn count_below(dir: &impl ReplicaView, name: &Name, number: &mut u64, until: Instant) -> bool {
    let Some(rel) = RelPath::new(name.as_bytes()) else { return false };
    let mut dirs_counted = 0;
    let all = descend(dir, rel, |at, opened, more| {
        let Ok((_, listing)) = opened else { return ControlFlow::Break(()) };
        if dirs_counted >= COUNTED && Instant::now() > until {
            return ControlFlow::Break(());
        }
        dirs_counted += 1;
        *number += listing.len() as u64;
        let dirs = listing.iter().filter(|(_, hint)| *hint == ListedKind::Dir);
        more.extend(dirs.filter_map(|(name, _)| Name::new(name)).map(|name| at.join(&name)));
        ControlFlow::Continue(())
    });
    all.is_continue()
}
