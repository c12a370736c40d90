//! The `contents` phase: copies, replaces and removes files and symlinks, in parallel.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::open_dirs::DirPair;
use super::publish::{Place, Publishable};
use super::{Observation, Requeue, Round, RoundOutput, TASK};
use crate::fs::digest;
use crate::fs::parallel;
use crate::fs::tree::{File, NewFile, ReplicaDir};
use crate::model::check::{CachedDigests, Check, Depth};
use crate::model::entry::{DigestPair, Entry, Kind, Observed};
use crate::model::error::FsErrorKind;
use crate::model::error::{APPEND_ONLY_DIR, FsError, Side, WorkError, ignore_absence};
use crate::model::path::{Name, RelPath};
use crate::model::reason::Reason;
use crate::plan::decide::{Action, Contents, decide, may_hold_other};
use crate::plan::metadata::MetadataDiff;
use crate::plan::removal::{RemovalKind, Ruling, Stay};
use crate::report::{Done, Operation, advice};
use crate::writer::fs::big_files::{Finished, Job, JobKind, JobResult};
use crate::writer::fs::copy::{Temp, ensure_whole, fill, seal, settings};

/// Names of one directory, for one thread.
struct ContentsTask<'a> {
    rel: RelPath,
    dir_pair: &'a DirPair<'a>,
    replica: &'a ReplicaDir,
    observations: Vec<Observation>,
    finished: Vec<Finished>,
}

impl Round<'_> {
    pub(super) fn contents(&mut self, budget: Option<Duration>) {
        let mut dir_pairs = std::mem::take(&mut self.dir_pairs);
        let mut tasks = tasks(&mut dir_pairs);
        // Publishing is quick and frees a worker, so it has no time limit.
        tasks.sort_by_key(|task| task.finished.is_empty());
        let publishing = tasks.partition_point(|task| !task.finished.is_empty());
        let rest = tasks.split_off(publishing);
        let until = budget.map(|budget| Instant::now() + budget);
        let this = &*self;
        let work = |task| {
            let mut out = RoundOutput::default();
            let waiting = this.work_on(task, &mut out);
            (out, waiting)
        };
        let (mut results, _) = parallel::run(self.shared.threads, tasks, None, work);
        let (more, left) = parallel::run(self.shared.threads, rest, until, work);
        results.extend(more);
        for task in left {
            let names = task.observations.into_iter();
            self.out.again.extend(names.map(|s| (task.rel.join(&s.name), s.check, Requeue::Now)));
        }
        let (outs, waiting): (Vec<_>, Vec<_>) = results.into_iter().unzip();
        for out in outs {
            self.out.absorb(out);
        }
        let mut out = RoundOutput::default();
        self.publish_durably(waiting.into_iter().flatten().collect(), &mut out);
        self.out.absorb(out);
        self.dir_pairs = dir_pairs;
    }

    /// Works on some names of one directory. Returns the finished entries that have to wait for the
    /// disk.
    fn work_on<'a>(&self, task: ContentsTask<'a>, out: &mut RoundOutput) -> Vec<Publishable<'a>> {
        let ContentsTask { rel, dir_pair, replica, observations, finished } = task;
        let mut waiting = Vec::new();
        let mut finish = |ready: Worked<'a>, out: &mut RoundOutput| -> Result<(), WorkError> {
            match ready? {
                Some(ready) if self.shared.durable => waiting.push(ready),
                Some(ready) => self.publish(ready, out)?,
                None => {}
            }
            Ok(())
        };
        for finished in finished {
            let (path, check) = (finished.job.path.clone(), finished.job.check.clone());
            let here = EntryContext {
                round: self,
                rel: &rel,
                dir_pair,
                replica,
                path: &path,
                check: &check,
            };
            let ready = here.publish_finished(&finished, out);
            if let Err(work_error) = finish(ready, out) {
                out.record_failure(path, check, work_error);
            }
        }
        for Observation { name, check, source, replica: standing } in observations {
            let path = rel.join(&name);
            let here = EntryContext {
                round: self,
                rel: &rel,
                dir_pair,
                replica,
                path: &path,
                check: &check,
            };
            let (before, begun) = (out.worked(), Instant::now());
            let is_big = source.entry().is_some_and(|entry| entry.size > self.terms.big);
            // Copying it may take long: the old file must not stay too open meanwhile.
            let restricted =
                if is_big { here.restrict_file(&name, &source, &standing) } else { None };
            let standing = restricted.unwrap_or(standing);
            let ready = if check.unseen_in_replica {
                here.copy_file(&name, &standing, Reason::New, out)
            } else {
                here.act(&name, &source, &standing, out)
            };
            let is_ready = matches!(ready, Ok(Some(_)));
            let is_file = check.unseen_in_replica || source.entry().is_some_and(Entry::is_file);
            if let Err(work_error) = finish(ready, out) {
                let _ = here.restrict_file(&name, &source, &standing);
                let work_error = here.error_to_report(work_error);
                out.record_failure(path.clone(), check, work_error);
            }
            if is_file && (is_ready || out.worked() != before) {
                out.busy.push((path, begun.elapsed()));
            }
        }
        waiting
    }
}

/// Splits the work into tasks.
fn tasks<'a>(dir_pairs: &'a mut BTreeMap<RelPath, DirPair<'_>>) -> Vec<ContentsTask<'a>> {
    let mut tasks = Vec::new();
    for (rel, dir_pair) in dir_pairs {
        let mut observations = std::mem::take(&mut dir_pair.observations);
        let mut finished = std::mem::take(&mut dir_pair.finished);
        let dir_pair = &*dir_pair;
        let Some(replica) = &dir_pair.replica else { continue };
        while !observations.is_empty() || !finished.is_empty() {
            let rest = observations.split_off(observations.len().min(TASK));
            let observations = std::mem::replace(&mut observations, rest);
            let finished = std::mem::take(&mut finished);
            tasks.push(ContentsTask {
                rel: rel.clone(),
                dir_pair,
                replica,
                observations,
                finished,
            });
        }
    }
    tasks
}

/// The context of the work on one name. A finished entry outlives it.
pub(super) struct EntryContext<'h, 'a> {
    pub round: &'h Round<'h>,
    pub rel: &'h RelPath,
    pub dir_pair: &'a DirPair<'a>,
    pub replica: &'a ReplicaDir,
    pub path: &'h RelPath,
    pub check: &'h Check,
}

/// An entry that is ready to be published, if any.
pub(super) type Worked<'a> = Result<Option<Publishable<'a>>, WorkError>;

impl<'a> EntryContext<'_, 'a> {
    fn act(
        &self,
        name: &Name,
        source: &Observed,
        standing: &Observed,
        out: &mut RoundOutput,
    ) -> Worked<'a> {
        let capabilities = &self.round.shared.capabilities;
        let action = match decide(source, standing, Contents::Unread, capabilities) {
            // The file system reports a wrong size: they may be equal.
            Action::CopyFile(Reason::Size) if !self.dir_pair.source.ends_at_reported_size(name) => {
                out.note_size(self.path);
                Action::Compare
            }
            action => action,
        };
        match action {
            Action::Compare => match self.read_pair(name, out)? {
                Compared::Read(both, digests) => {
                    let [source, replica] = *both;
                    let read = digests.map(|digests| {
                        Box::new(CachedDigests {
                            source: source.identity(),
                            replica: replica.identity(),
                            digests,
                        })
                    });
                    let contents = digests.map_or(Contents::Same, Contents::from);
                    let check = Check { cached: read, ..self.check.clone() };
                    let is_newer = may_hold_other(&source, &replica, capabilities);
                    let (source, standing) =
                        (Observed::Present(source), Observed::Present(replica));
                    let action = decide(&source, &standing, contents, capabilities);
                    if let (Action::Nothing, Some(_), true, Some(replica)) =
                        (action, digests, is_newer, standing.entry())
                    {
                        self.renew(name, replica);
                    }
                    EntryContext { check: &check, ..*self }
                        .apply_action(action, name, &source, &standing, out)
                }
                Compared::Finished => Ok(None),
                Compared::Unreadable(standing) => {
                    self.copy_file(name, &standing, Reason::Metadata, out)
                }
            },
            action => self.apply_action(action, name, source, standing, out),
        }
    }

    fn apply_action(
        &self,
        action: Action,
        name: &Name,
        source: &Observed,
        standing: &Observed,
        out: &mut RoundOutput,
    ) -> Worked<'a> {
        match action {
            Action::Nothing | Action::Compare | Action::MakeDir(_) => Ok(None),
            Action::SetMetadata(differs) => self.set_metadata(name, source, differs, standing, out),
            Action::CopyFile(reason) => self.copy_file(name, standing, reason, out),
            Action::MakeSymlink(reason) => self.make_symlink(source, standing, reason, out),
            Action::Remove => self.remove(name, standing, out).map(|()| None),
            Action::NotMirrored { special, stale } => {
                out.note_special(self.path, special);
                if stale { self.remove(name, standing, out).map(|()| None) } else { Ok(None) }
            }
            Action::Unsure => {
                source.error().or(standing.error()).map_or(Ok(None), |error| Err(error.into()))
            }
        }
    }

    /// Compares both files, and reads their attributes.
    fn read_pair(&self, name: &Name, out: &mut RoundOutput) -> Result<Compared, WorkError> {
        let bytes = name.as_bytes();
        let mut source = self.dir_pair.source.open_file(bytes).map_err(changed_if_gone)?;
        let mut replica = match self.replica.open_existing(name) {
            // A file that cannot be read can be replaced.
            Err(error) if error.kind == FsErrorKind::Denied => {
                return Ok(Compared::Unreadable(self.replica.observe(bytes)));
            }
            other => other.map_err(changed_if_gone)?,
        };
        let is_as_long = source.1.size == replica.1.size;
        if !is_as_long && source.0.ends_at(source.1.size)? {
            return Err(WorkError::Changed);
        }
        // The sweep or a worker may have read this pair already.
        let known =
            self.check.cached.as_deref().and_then(|known| known.digests_for(&source.1, &replica.1));
        let digests = match known {
            Some(digests) => Some(digests),
            None if self.check.depth == Depth::Metadata
                && is_as_long
                && self.round.shared.capabilities.is_same_mtime(&source.1, &replica.1)
                && !self.gives_rights_unseen(&source.1, &replica.1) =>
            {
                None
            }
            None if source.1.size <= self.round.terms.big => {
                let (ours, theirs) = ((&source.0, &source.1), (replica.0.as_file(), &replica.1));
                let digests = match digest::compare(ours, theirs, &self.round.shared.stop) {
                    // A failing disk may still store another copy.
                    Err(WorkError::FsError(error))
                        if error.side == Side::Replica && error.kind == FsErrorKind::Io =>
                    {
                        let advice = advice(&error);
                        tracing::warn!(op = "warning", path = %self.path, "{error}; it is copied anew{advice}");
                        return Ok(Compared::Unreadable(self.replica.observe(bytes)));
                    }
                    other => other?,
                };
                out.hashed += 1;
                digest::ensure_unchanged(ours).and_then(|()| digest::ensure_unchanged(theirs))?;
                Some(digests)
            }
            None => {
                let kind = JobKind::Compare { replica: replica.0, replica_entry: replica.1 };
                return self.hand_over(source, out, |_| Ok(kind)).map(|()| Compared::Finished);
            }
        };
        let kinds = self.round.shared.capabilities.xattrs;
        source.1.xattrs = Some(source.0.xattrs(kinds)?);
        replica.1.xattrs = Some(replica.0.as_file().xattrs(kinds)?);
        Ok(Compared::Read(Box::new([source.1, replica.1]), digests))
    }

    pub(super) fn copy_file(
        &self,
        name: &Name,
        standing: &Observed,
        reason: Reason,
        out: &mut RoundOutput,
    ) -> Worked<'a> {
        let Some(place) = self.may_publish(standing, out)? else { return Ok(None) };
        let shared = self.round.shared;
        let (source, entry) =
            self.dir_pair.source.open_file(name.as_bytes()).map_err(changed_if_gone)?;
        if entry.size > self.round.terms.big {
            if self.check.unseen_in_replica
                && self.replica.observe(name.as_bytes()) != Observed::Absent
            {
                return Err(WorkError::Changed);
            }
            let kind = |here: &Self| {
                let (temp, name) = here.try_big_file()?;
                let flush = shared.durable || shared.capabilities.reports_late;
                Ok(JobKind::Fill { temp, name, reason, flush })
            };
            return self.hand_over((source, entry), out, kind).map(|()| None);
        }
        self.may_make_temp()?;
        let temp_name = shared.names.next();
        let temp_file = self.replica.create_file(&temp_name)?;
        let temp = Temp::adopt(self.replica, temp_name, &shared.names);
        let length = fill(&source, &entry, &temp_file, &shared.stop, &|_| {})?;
        seal(&source, &entry, &temp_file, &shared.capabilities)?;
        ensure_whole(&source, &entry, temp_file.as_file(), &shared.stop)?;
        Ok(Some(self.ready(temp, (entry, length), (standing.clone(), place), reason)))
    }

    /// Chooses the error to report. If a temporary entry in this directory cannot be removed, that
    /// is the cause.
    fn error_to_report(&self, work_error: WorkError) -> WorkError {
        match work_error {
            WorkError::FsError(_) => {
                self.may_make_temp().map_or_else(WorkError::FsError, |()| work_error)
            }
            other => other,
        }
    }

    /// Ensures that a temporary entry can be made here, and given its name.
    fn may_make_temp(&self) -> Result<(), FsError> {
        if self.dir_pair.is_append_only_dir {
            return Err(APPEND_ONLY_DIR);
        }
        self.round.shared.names.may_make_in(self.replica)
    }

    /// Makes a temporary file for a big one. It is renamed while it is empty, to find out whether
    /// that works.
    fn try_big_file(&self) -> Result<(NewFile, Name), WorkError> {
        self.may_make_temp()?;
        let names = &self.round.shared.names;
        let (trial, name) = (names.next(), names.next());
        let file = self.replica.create_file(&trial)?;
        let temp = Temp::adopt(self.replica, trial, names);
        self.replica.publish(temp.name(), &name)?;
        temp.leave();
        Ok((file, name))
    }

    /// Describes a finished copy of `entry` that is to be published. It has `length` bytes.
    fn ready(
        &self,
        temp: Temp<'a>,
        (entry, length): (Entry, u64),
        (standing, place): (Observed, Place),
        reason: Reason,
    ) -> Publishable<'a> {
        let (dir_pair, replica, path, check) =
            (self.dir_pair, self.replica, self.path.clone(), self.check.clone());
        let reason = match reason {
            Reason::Md5 if length != entry.size => Reason::Size,
            reason => reason,
        };
        Publishable { dir_pair, replica, temp, path, check, entry, length, standing, place, reason }
    }

    /// Hands a big file to a worker. If none is free, its check waits for one.
    fn hand_over(
        &self,
        source: (File, Entry),
        out: &mut RoundOutput,
        kind: impl FnOnce(&Self) -> Result<JobKind, WorkError>,
    ) -> Result<(), WorkError> {
        out.open.push(self.path.clone());
        let shared = self.round.shared;
        if shared.in_flight.has(self.path, &source.1, self.check) {
            return Ok(());
        }
        match shared.workers.take_permit() {
            Some(permit) => {
                let job =
                    Job::new(self.path.clone(), self.check.clone(), source, kind(self)?, permit);
                shared.in_flight.begin(&job);
                out.jobs.push(job);
            }
            None => out.again.push((self.path.clone(), self.check.clone(), Requeue::Worker)),
        }
        Ok(())
    }

    /// Prepares the copy of a big file for publishing, if it is still a copy of the source's file.
    fn publish_finished(&self, finished: &Finished, out: &mut RoundOutput) -> Worked<'a> {
        let Some((_, name)) = self.path.split() else { return Ok(None) };
        let Job { source, entry, kind, .. } = &finished.job;
        let JobKind::Fill { temp: temp_file, name: temp_name, reason, .. } = kind else {
            return Ok(None);
        };
        let Ok(JobResult::Length(length)) = finished.result else { return Ok(None) };
        let temp = Temp::adopt(self.replica, temp_name.clone(), &self.round.shared.names);
        // The job was overtaken: for example, a round has published a newer copy.
        if finished.job.cancel.load(Ordering::Relaxed) {
            return Err(WorkError::Changed);
        }
        // The copy is whole. It also has to be a copy of the file that has the name now.
        let now = self.dir_pair.source.observe(name.as_bytes());
        if !now
            .entry()
            .is_some_and(|now| now.identity() == entry.identity() || now.has_grown_from(entry))
        {
            return Err(WorkError::Changed);
        }
        let standing = self.replica.observe(name.as_bytes());
        if self.check.unseen_in_replica && standing != Observed::Absent {
            return Err(WorkError::Changed);
        }
        let Some(place) = self.may_publish(&standing, out)? else { return Ok(None) };
        seal(source, entry, temp_file, &self.round.shared.capabilities)?;
        Ok(Some(self.ready(temp, (entry.clone(), length), (standing, place), *reason)))
    }

    pub(super) fn make_symlink(
        &self,
        source: &Observed,
        standing: &Observed,
        reason: Reason,
        out: &mut RoundOutput,
    ) -> Worked<'a> {
        let Some((entry, Kind::Symlink(target))) = source.entry().map(|entry| (entry, &entry.kind))
        else {
            return Ok(None);
        };
        let Some(place) = self.may_publish(standing, out)? else { return Ok(None) };
        self.may_make_temp()?;
        let temp_name = self.round.shared.names.next();
        self.replica.make_symlink(&temp_name, target)?;
        let temp = Temp::adopt(self.replica, temp_name.clone(), &self.round.shared.names);
        let capabilities = &self.round.shared.capabilities;
        let all = MetadataDiff::of_new(entry, capabilities);
        self.replica.set_symlink(&temp_name, &settings(entry, all, None, capabilities))?;
        Ok(Some(self.ready(temp, (entry.clone(), entry.size), (standing.clone(), place), reason)))
    }

    fn remove(
        &self,
        name: &Name,
        standing: &Observed,
        out: &mut RoundOutput,
    ) -> Result<(), WorkError> {
        let Some(entry) = standing.entry() else { return Ok(()) };
        if name.is_reserved() {
            return Ok(self.replica.remove_reserved(name).or_else(ignore_absence)?);
        }
        let ruling = self.round.rules().on(
            self.path,
            entry,
            RemovalKind::Removed,
            self.dir_pair.is_append_only_dir,
        );
        if ruling != Ruling::Refused(Stay::Held) && !self.dir_pair.is_standing(self.round, self.rel)
        {
            return Err(WorkError::Changed);
        }
        let permit = match ruling {
            Ruling::Allowed(permit) | Ruling::AllowedInParts(_, permit) => permit,
            Ruling::Refused(stay) => return out.stays(stay, self.path),
        };
        self.round.remove_file_at(self.replica, self.path, name, &permit)?;
        out.act(Done::new(
            Operation::Removed,
            self.path.clone(),
            entry,
            Reason::Removed,
            self.check,
        ));
        Ok(())
    }

    /// Decides where a new entry can be published. `None` if the entry that stands there has to
    /// stay, or if the guard allows no new entries.
    ///
    /// # Errors
    /// If the entry that stands there cannot be replaced.
    fn may_publish(
        &self,
        standing: &Observed,
        out: &mut RoundOutput,
    ) -> Result<Option<Place>, WorkError> {
        let ruling =
            self.round.rules().on_replacing(self.path, standing, self.dir_pair.is_append_only_dir);
        match ruling {
            None if !self.round.may_create() => out.wait(self.path),
            None => return Ok(Some(Place::Free)),
            Some(Ruling::Allowed(permit) | Ruling::AllowedInParts(_, permit)) => {
                return Ok(Some(Place::Over(permit)));
            }
            Some(Ruling::Refused(stay)) => out.stays(stay, self.path)?,
        }
        Ok(None)
    }
}

/// The result of comparing both files.
enum Compared {
    /// The facts of both files, and their MD5s; no MD5s if only metadata has changed.
    Read(Box<[Entry; 2]>, Option<DigestPair>),
    /// They are big: a worker compares them.
    Finished,
    /// The replica's file, which cannot be read.
    Unreadable(Observed),
}

/// Maps an error to [`WorkError::Changed`] if the entry is missing, or is of another kind.
///
/// RACE: it may be deleted or replaced between the check and the opening. At worst, one more check.
pub(super) fn changed_if_gone(error: FsError) -> WorkError {
    match error.kind {
        FsErrorKind::NotFound
        | FsErrorKind::SymlinkLoop
        | FsErrorKind::Invalid
        | FsErrorKind::NoDevice => WorkError::Changed,
        _ => WorkError::FsError(error),
    }
}

/// Maps an error to [`WorkError::Changed`] if a directory on the path is missing.
///
/// RACE: it may be deleted or replaced meanwhile. At worst, one more check.
pub(super) fn changed_if_no_dir(error: FsError) -> WorkError {
    if error.is_dir_absence() { WorkError::Changed } else { WorkError::FsError(error) }
}
