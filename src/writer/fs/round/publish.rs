//! The end of the `contents` phase: finished entries under temporary names get their own (I4).

use super::emptying::cannot_be_renamed;
use super::open_dirs::DirPair;
use super::{Requeue, Round, RoundOutput};
use crate::fs::tree::ReplicaDir;
use crate::model::check::{Check, Detector};
use crate::model::entry::{Entry, Observed};
use crate::model::error::WorkError;
use crate::model::path::{Name, RelPath};
use crate::model::reason::Reason;
use crate::plan::hard_links::Linked;
use crate::plan::removal::RemovalPermit;
use crate::report::{Done, Operation, log_if_silent};
use crate::writer::fs::backup::{BackupOutcome, Kept};
use crate::writer::fs::copy::{Temp, swap};
use crate::writer::fs::trash::Trash;

/// The name under which an entry is published.
pub(super) enum Place {
    /// No entry is known to have it.
    Free,
    /// The entry that has it is replaced.
    Over(RemovalPermit),
}

impl Place {
    fn permit(&self) -> Option<&RemovalPermit> {
        match self {
            Place::Free => None,
            Place::Over(permit) => Some(permit),
        }
    }
}

/// A finished temporary entry, and what it is to become.
pub(super) struct Publishable<'a> {
    pub dir_pair: &'a DirPair<'a>,
    pub replica: &'a ReplicaDir,
    pub temp: Temp<'a>,
    pub path: RelPath,
    pub check: Check,
    /// The source's entry that was copied.
    pub entry: Entry,
    /// How many bytes were copied.
    pub length: u64,
    /// The entry that has the name now.
    pub standing: Observed,
    pub place: Place,
    pub reason: Reason,
}

impl Round<'_> {
    /// Publishes entries after they are safe on the disk: a power cut then leaves either the old
    /// entry or the new one.
    pub(super) fn publish_durably(&self, ready: Vec<Publishable<'_>>, out: &mut RoundOutput) {
        if ready.is_empty() {
            return;
        }
        match self.replica.sync() {
            Ok(()) => {
                for ready in ready {
                    let (path, check) = (ready.path.clone(), ready.check.clone());
                    if let Err(work_error) = self.publish(ready, out) {
                        out.record_failure(path, check, work_error);
                    }
                }
            }
            Err(error) => {
                for ready in ready {
                    out.record_failure(ready.path, ready.check, error.into());
                }
            }
        }
    }

    /// Gives an entry its name, and records the action.
    pub(super) fn publish(
        &self,
        ready: Publishable<'_>,
        out: &mut RoundOutput,
    ) -> Result<(), WorkError> {
        let Publishable {
            dir_pair,
            replica,
            temp,
            path,
            check,
            entry,
            length,
            standing,
            place,
            reason,
        } = ready;
        let Some((dir, name)) = path.split() else { return Ok(()) };
        if self.shared.capabilities.modes && dir_pair.is_too_open_by_now() {
            return Err(WorkError::Changed);
        }
        let placed = self.put_in_place((replica, &path, &name), temp, &standing, place.permit());
        // Also after an error: the entry may be published all the same, and no older copy may
        // replace it.
        self.shared.cancel_within(&path);
        let trash = placed?;
        if let Some(name) = &trash {
            self.shut(replica, name);
        }
        out.trash.extend(trash.and_then(|name| Trash::new(dir, name)));
        let operation = if standing.is_absent_or_unobserved() {
            Operation::Created
        } else {
            Operation::Updated
        };
        let mut done = Done::new(operation, path.clone(), &entry, reason, &check);
        out.linked += u64::from(operation == Operation::Created && entry.has_links());
        if entry.is_file() {
            done.bytes = Some(length);
        }
        // An entry that a walk has listed as new was not observed, so its name was not noted.
        let is_new =
            entry.is_file() && check.unseen_in_replica && self.terms.detector == Detector::Watch;
        let is_noted = entry.has_links() || is_new;
        out.names.extend(is_noted.then(|| Linked::any(&path, &entry, true)));
        out.note_time(&path, &entry, &self.shared.capabilities);
        if entry.is_file() && length != entry.size {
            out.note_size(&path);
        }
        out.act(done);
        if let (Reason::Md5, Some(cached)) = (reason, &check.cached) {
            log_if_silent(
                &path,
                cached,
                check.detector,
                self.terms.swept,
                self.shared.capabilities.unseen,
            );
        }
        // A change between the last check and the rename needs one more check.
        let now = dir_pair.source.observe(name.as_bytes());
        if now.entry().map(Entry::identity) != Some(entry.identity()) {
            out.again.push((path, check, Requeue::ChangedSinceCopy));
        }
        Ok(())
    }

    /// Gives a temporary entry its name, after the entry that has it is kept in the backup, if
    /// there is one. Returns the reserved name of a replaced directory, for the trash thread.
    fn put_in_place(
        &self,
        (dir, path, name): (&ReplicaDir, &RelPath, &Name),
        temp: Temp<'_>,
        standing: &Observed,
        permit: Option<&RemovalPermit>,
    ) -> Result<Option<Name>, WorkError> {
        match (&self.shared.backup, permit) {
            (Some(backup), Some(permit)) if standing.is_dir() => {
                let (new, old) = ((dir, temp.name()), (dir, name));
                match backup.replace(new, old, path, permit, &self.shared.stop)? {
                    BackupOutcome::Exchanged => temp.leave(),
                    BackupOutcome::Moved => return temp.publish(name, None).map(|()| None),
                    BackupOutcome::Copied => {
                        return self.put_in_place_of_dir((dir, path, name), temp, permit);
                    }
                }
                Ok(None)
            }
            (None, Some(permit)) if standing.is_dir() => {
                self.put_in_place_of_dir((dir, path, name), temp, permit)
            }
            _ => {
                let kept = match permit {
                    Some(_) => self.back_up(dir, name, path)?,
                    None => Kept::default(),
                };
                let published = temp.publish(name, permit);
                published.inspect_err(|_| kept.undo(dir, name, standing)).map(|()| None)
            }
        }
    }

    /// Puts a temporary entry in the place of a directory, in one step. A directory that cannot be
    /// renamed is emptied and removed first.
    fn put_in_place_of_dir(
        &self,
        (dir, path, name): (&ReplicaDir, &RelPath, &Name),
        temp: Temp<'_>,
        permit: &RemovalPermit,
    ) -> Result<Option<Name>, WorkError> {
        match swap(dir, temp.name(), name, &self.shared.names, permit) {
            Err(WorkError::FsError(error)) if cannot_be_renamed(&error) => {
                self.empty_in_place(dir, name, path, None, permit)?;
                temp.publish(name, None).map(|()| None)
            }
            other => {
                let trash = other?;
                temp.leave();
                Ok(Some(trash))
            }
        }
    }
}
