//! The `directories` phase: makes, exchanges and removes directories, top down, on one thread.

use std::sync::atomic::Ordering;

use super::contents::changed_if_no_dir;
use super::open_dirs::DirPair;
use super::{Observation, Requeue, Round};
use crate::fs::tree::ReplicaDir;
use crate::model::check::{Check, Depth};
use crate::model::entry::{Entry, Observed};
use crate::model::error::FsErrorKind;
use crate::model::error::{Side, WorkError};
use crate::model::path::{Name, RelPath};
use crate::model::reason::Reason;
use crate::plan::decide::{Action, Contents, decide};
use crate::plan::removal::{RemovalKind, Ruling, Stay};
use crate::report::{Cause, Done, Notice, Operation, Problem};
use crate::writer::fs::copy::swap;
use crate::writer::fs::trash::{Emptied, Trash};

impl Round<'_> {
    pub(super) fn directories(&mut self) {
        let all: Vec<RelPath> = self.dir_pairs.keys().cloned().collect();
        for rel in all {
            // The pair is taken out, so that pairs below it can get their replica's directory.
            let Some(mut dir_pair) = self.dir_pairs.remove(&rel) else { continue };
            let observations = std::mem::take(&mut dir_pair.observations);
            dir_pair.observations = observations
                .into_iter()
                .filter_map(|s| self.handle_dir(&rel, &dir_pair, s))
                .collect();
            self.dir_pairs.insert(rel, dir_pair);
        }
    }

    /// Does the work on a name if that is for this phase. Otherwise returns the observation, for
    /// the `contents` phase.
    fn handle_dir(
        &mut self,
        rel: &RelPath,
        dir_pair: &DirPair<'_>,
        observation: Observation,
    ) -> Option<Observation> {
        // The directory could not be made, which is recorded. The retry checks all below it.
        let replica = dir_pair.replica.as_ref()?;
        if observation.check.unseen_in_replica {
            return Some(observation);
        }
        let path = rel.join(&observation.name);
        let Observation { name, check, source, replica: standing } = &observation;
        let wide = check.depth == Depth::Subtree;
        let action = decide(source, standing, Contents::Unread, &self.shared.capabilities);
        match (action, source.entry(), standing.entry()) {
            // This round has renamed it to here, and the source has renamed it again since. The
            // watch is about to report where it is now.
            (Action::Remove, ..) if self.moved.contains(&path) => {
                self.out.again.push((path, observation.check, Requeue::ParentGone));
                None
            }
            (Action::MakeDir(_), _, None) if !self.may_create() => {
                self.out.wait(&path);
                None
            }
            (Action::MakeDir(reason), Some(entry), old) => {
                match self.make_dir(replica, &path, name, (entry, old), reason) {
                    Ok(()) => {
                        let operation =
                            if old.is_some() { Operation::Updated } else { Operation::Created };
                        self.out.act(Done::new(operation, path.clone(), entry, reason, check));
                        if wide {
                            self.out.to_walk.push(path);
                        }
                    }
                    Err(work_error) => {
                        let wider = Check { depth: Depth::Subtree, ..check.clone() };
                        self.out.record_failure(path, wider, work_error);
                    }
                }
                None
            }
            (Action::Remove | Action::NotMirrored { stale: true, .. }, _, Some(old))
                if old.is_dir() =>
            {
                if let Action::NotMirrored { special, .. } = action {
                    self.out.note_special(&path, special);
                }
                let old = old.clone();
                self.trash_dir(rel, dir_pair, &path, &old, observation);
                None
            }
            (Action::Nothing | Action::SetMetadata(_), Some(entry), Some(_)) if entry.is_dir() => {
                // Metadata of directories is set in `finish_dirs`.
                if !self.dir_pairs.contains_key(&path)
                    && let Ok(theirs) = self.open_replica(&path)
                {
                    let ours = self.source.open(&path).ok();
                    if let Err(error) = self.restrict(&path, entry, ours.as_ref(), &theirs) {
                        self.out.record_failure(path, check.clone(), error.into());
                        return None;
                    }
                }
                self.touch(path.clone(), Some(check.since));
                if wide && !self.moved.contains(&path) {
                    self.out.to_walk.push(path);
                }
                None
            }
            (Action::Nothing, None, _) => None,
            _ => Some(observation),
        }
    }

    fn make_dir(
        &mut self,
        replica: &ReplicaDir,
        path: &RelPath,
        name: &Name,
        (source, old): (&Entry, Option<&Entry>),
        reason: Reason,
    ) -> Result<(), WorkError> {
        if reason == Reason::New {
            replica.make_dir(name).map_err(|error| match error.kind {
                // RACE: somebody else has made it. At worst, one more check.
                FsErrorKind::Exists => WorkError::Changed,
                _ => WorkError::FsError(error),
            })?;
        } else if let Some(old) = old {
            self.exchange_for_dir(replica, path, name, old)?;
        }
        self.shared.cancel_within(path);
        self.made.insert(path.clone());
        self.touch(path.clone(), None);
        // RACE: this round may have renamed its parent away, or somebody may have put another
        // directory in its place. That one is not empty, or it hides nothing. At worst, one more
        // check.
        let made = self.replica.open(path).map_err(changed_if_no_dir)?;
        self.note_if_empty(source, &made.entry()?, &made);
        if let Some(below) = self.dir_pairs.get_mut(path) {
            below.replica = Some(made);
        }
        Ok(())
    }

    /// Exchanges an entry that is not a directory for an empty directory.
    fn exchange_for_dir(
        &self,
        replica: &ReplicaDir,
        path: &RelPath,
        name: &Name,
        old: &Entry,
    ) -> Result<(), WorkError> {
        let permit =
            match self.rules().on(path, old, RemovalKind::Replaced, replica.is_append_only_dir()) {
                Ruling::Allowed(permit) | Ruling::AllowedInParts(_, permit) => permit,
                Ruling::Refused(Stay::FsError(error)) => return Err(error.into()),
                // Of an entry that is not a directory only deletions are held. This is none.
                Ruling::Refused(Stay::Held | Stay::Unmounted(_)) => return Err(WorkError::Changed),
            };
        self.shared.names.may_make_in(replica)?;
        let temp = self.shared.names.next();
        replica.make_dir(&temp)?;
        let swapped = self.back_up(replica, name, path).and_then(|kept| {
            swap(replica, &temp, name, &self.shared.names, &permit)
                .inspect_err(|_| kept.undo(replica, name, &Observed::Present(old.clone())))
        });
        match swapped {
            // RACE: the deleted entry may be newer than the observed one. Only the replica had it.
            Ok(trash) => Ok(replica.remove_reserved(&trash)?),
            Err(work_error) => {
                let _ = replica.remove_reserved_dir(&temp);
                Err(work_error)
            }
        }
    }

    /// Records a removal. `trash`: the reserved name that a directory has now, in `dir`.
    pub(super) fn gone(&mut self, dir: RelPath, trash: Option<Name>, done: Done) {
        self.shared.cancel_within(&done.path);
        self.out.trash.extend(trash.and_then(|name| Trash::new(dir, name)));
        self.out.act(done);
    }

    /// Removes trash that the trash thread has emptied.
    pub(super) fn remove_emptied(&mut self, emptied_trash: Vec<Emptied>) {
        for Emptied { trash, result } in emptied_trash {
            let dir = self.shared.pending_trash.end(&trash);
            if dir != trash.dir && result.is_err() {
                // Its directory was renamed before the trash thread opened it.
                self.out.trash.extend(Trash::new(dir, trash.name));
                continue;
            }
            let Some(trash) = Trash::new(dir, trash.name) else { continue };
            let parent = match self.open_replica(&trash.dir) {
                // Its directory became trash too, and holds it.
                Err(error) if error.is_dir_absence() => continue,
                other => other,
            };
            let removed = result.and_then(|()| parent?.remove_reserved_dir(&trash.name));
            self.touch(trash.dir.clone(), None);
            match removed {
                Err(error) if !error.is_absence() && !self.shared.stop.load(Ordering::Relaxed) => {
                    let check = Check::new(Depth::Content, self.terms.detector, self.terms.now);
                    let problem = Problem { path: trash.path(), cause: Cause::TrashRemains(error) };
                    self.out.problems.push((problem, check));
                }
                _ => {}
            }
        }
    }

    /// Removes a directory from the replica by one rename (I6), as far as the rules of removal
    /// allow, and hands it to the trash thread.
    fn trash_dir(
        &mut self,
        rel: &RelPath,
        dir_pair: &DirPair<'_>,
        path: &RelPath,
        old: &Entry,
        observation: Observation,
    ) {
        let Some(replica) = &dir_pair.replica else { return };
        let Observation { name, check, .. } = observation;
        if name.is_reserved() {
            // It is trash already: a run was killed, or it could not be emptied completely.
            self.shut(replica, &name);
            self.out.open.push(path.clone());
            self.out.trash.extend(Trash::new(rel.clone(), name));
            return;
        }
        let ruling = self.rules().on(path, old, RemovalKind::Removed, dir_pair.is_append_only_dir);
        if ruling != Ruling::Refused(Stay::Held) && !dir_pair.is_standing(self, rel) {
            return self.out.again.push((path.clone(), check, Requeue::Changing));
        }
        let permit = match ruling {
            Ruling::Allowed(permit) => permit,
            Ruling::AllowedInParts(parts, permit) => {
                self.out.notices.push((path.clone(), Notice::HoldsExcluded));
                return self.remove_subpaths(parts, &permit, &check);
            }
            Ruling::Refused(stay) => {
                if let Err(work_error) = self.out.stays(stay, path) {
                    self.out.record_failure(path.clone(), check, work_error);
                }
                return;
            }
        };
        match self.take_dir(replica, path, &name, old, (&check, &permit)) {
            Ok(Some((done, trash))) => self.gone(rel.clone(), trash, done),
            Ok(None) => self.out.again.push((path.clone(), check, Requeue::Now)),
            // The directory does not exist any more. A missing backup folder is an error.
            Err(WorkError::FsError(error)) if error.is_absence() && error.side == Side::Replica => {
            }
            Err(work_error) => self.out.record_failure(path.clone(), check, work_error),
        }
    }
}
