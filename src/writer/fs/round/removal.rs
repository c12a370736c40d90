//! How entries leave the replica: they are deleted, or go to the backup.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::Round;
use super::emptying::{A_TURN, EmptiedInPlace, cannot_be_renamed};
use crate::fs::tree::{Dir, ListedKind, ReplicaDir, Settings};
use crate::fs::view::{ReplicaView, descend};
use crate::model::check::Check;
use crate::model::entry::Entry;
use crate::model::error::{WorkError, gone_is_fine};
use crate::model::path::{Name, RelPath};
use crate::model::reason::Reason;
use crate::plan::removal::RemovalPermit;
use crate::report::{Done, Entries, Operation};
use crate::writer::fs::backup::{BackupOutcome, Kept};

/// How long the entries of a directory that is to go are counted, for the log's sake.
pub const COUNTING: Duration = Duration::from_millis(20);

impl Round<'_> {
    /// Takes a directory out of the replica by one rename (I6): what was done, with the number of
    /// entries that it held, and the reserved name under which the trash thread is to find it. No
    /// name where it went to the backup, or was emptied in its place since it cannot be renamed;
    /// nothing at all where that is to go on in the next round.
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
            self.leave_nothing_under_way(path);
            if !self.still_stands(dir, path, name, permit)? {
                return Ok(Some((done, None)));
            }
            match self.lay_aside(dir, name, permit) {
                Err(WorkError::FsError(error)) if cannot_be_renamed(&error) => {}
                aside => return Ok(Some((done, Some(aside?)))),
            }
        }
        self.shared.cancel_within(path);
        // With a backup, a copy of it all was made for this: it is not made twice.
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

    /// Renames a directory to a reserved name, under which the trash thread is to find it.
    pub(super) fn lay_aside(
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

    /// What is being removed is nobody's to see. Where it cannot be shut, it is as open as it was.
    pub(super) fn shut(&self, dir: &ReplicaDir, name: &Name) {
        let capabilities = &self.shared.capabilities;
        let open = RelPath::new(name.as_bytes()).map(|rel| dir.open(&rel));
        if let Some(Ok(aside)) = open.filter(|_| capabilities.modes) {
            let uid = capabilities.owner.then_some(capabilities.user);
            let _ = aside.set(&Settings { uid, mode: Some(0o700), ..Settings::default() });
        }
    }

    /// What workers for big files fill below a directory does not go to the backup with it.
    pub(super) fn leave_nothing_under_way(&self, path: &RelPath) {
        if self.shared.backup.is_none() {
            return;
        }
        for (path, temp) in self.shared.in_flight.temps_within(path) {
            if let Some((dir, _)) = path.split() {
                // What cannot be removed goes with its directory, and with the backup's folder.
                let _ = self.replica.open(&dir).and_then(|dir| dir.remove_reserved(&temp));
            }
        }
        self.shared.cancel_within(path);
    }

    /// Removes an entry that is no directory. That it has gone already is as good.
    pub(super) fn remove_file_at(
        &self,
        dir: &ReplicaDir,
        path: &RelPath,
        name: &Name,
        permit: &RemovalPermit,
    ) -> Result<(), WorkError> {
        if self.still_stands(dir, path, name, permit)? {
            dir.remove_file(name.as_bytes(), permit).or_else(gone_is_fine)?;
        }
        Ok(())
    }

    /// Puts an entry that is to go where it is to be kept, if anywhere. Whether it still stands.
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

    /// Keeps a file or symlink that is to be overwritten, where that is asked for.
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

/// The line of a directory that goes.
pub(super) fn taken(dir: &Dir, path: &RelPath, name: &Name, old: &Entry, check: &Check) -> Done {
    let mut number = 1;
    let at_least = !count_below(dir, name, &mut number, Instant::now() + COUNTING);
    let mut done = Done::new(Operation::Removed, path.clone(), old, Reason::Removed, check);
    done.entries = Some(Entries { number, at_least });
    done
}

/// So many directories are counted however long that takes: a small one is counted to its end also
/// on a busy machine.
const COUNTED: usize = 16;

/// Adds up the entries below a directory; `false` where not all could be counted in time.
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
