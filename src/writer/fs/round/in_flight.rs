//! Big files in flight: those that workers have, and the paths under which they will be published.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::model::check::{Check, Detector};
use crate::model::entry::Entry;
use crate::model::path::{Name, RelPath};
use crate::model::status::JobTask;
use crate::writer::LongJob;
use crate::writer::fs::big_files::{Job, JobKind};
use crate::writer::fs::progress::Progress;

/// A big file that a worker has.
struct InFlightFile {
    source: Entry,
    cancel: Arc<AtomicBool>,
    progress: Arc<Progress>,
    /// Its temporary file, if it is being filled.
    temp: Option<Name>,
    /// Its check, merged with those that have come since.
    check: Check,
    /// When it was due.
    since: Instant,
}

impl InFlightFile {
    fn of(job: &Job) -> Self {
        let temp = match &job.kind {
            JobKind::Fill { name, .. } => Some(name.clone()),
            JobKind::Compare { .. } => None,
        };
        let (source, cancel) = (job.entry.clone(), Arc::clone(&job.cancel));
        let progress = Arc::clone(&job.progress);
        Self { source, cancel, progress, temp, check: job.check.clone(), since: job.check.first }
    }

    fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub(super) struct InFlight(Mutex<HashMap<RelPath, InFlightFile>>);

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, HashMap<RelPath, InFlightFile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, job: &Job) {
        self.lock().insert(job.path.clone(), InFlightFile::of(job));
    }

    /// Ends the flight of a job, and gives the job its present path and its merged check. Returns
    /// whether it is still wanted.
    pub fn end(&self, job: &mut Job) -> bool {
        let mut in_flight = self.lock();
        let path = in_flight.iter().find(|(_, flight)| Arc::ptr_eq(&flight.cancel, &job.cancel));
        let Some(path) = path.map(|(path, _)| path.clone()) else { return false };
        if let Some(flight) = in_flight.remove(&path) {
            job.check = flight.check;
        }
        job.path = path;
        true
    }

    /// Returns whether the file at `path` is in flight. If so, `check` is merged into its check. If
    /// its source has changed since, it is cancelled: it comes back, and is checked again. A source
    /// that has only grown does not cancel it.
    pub fn has(&self, path: &RelPath, now: &Entry, check: &Check) -> bool {
        let mut in_flight = self.lock();
        let Some(flight) = in_flight.get_mut(path) else { return false };
        flight.check.merge(check.clone());
        if flight.source.identity() != now.identity() && !now.has_grown_from(&flight.source) {
            flight.cancel();
        }
        true
    }

    /// Returns the earliest time at which one of them was due.
    pub fn oldest(&self) -> Option<Instant> {
        self.lock().values().map(|flight| flight.since).min()
    }

    pub fn cancel_within(&self, dir: &RelPath) {
        let in_flight = self.lock();
        in_flight
            .iter()
            .filter(|(path, _)| path.is_within(dir))
            .for_each(|(_, flight)| flight.cancel());
    }

    /// Returns the temporary files that are being filled for paths at and below a directory.
    pub fn temps_within(&self, dir: &RelPath) -> Vec<(RelPath, Name)> {
        let in_flight = self.lock();
        let within = in_flight.iter().filter(|(path, _)| path.is_within(dir));
        within.filter_map(|(path, flight)| Some((path.clone(), flight.temp.clone()?))).collect()
    }

    /// Returns whether a worker has the file at `path`.
    pub fn holds(&self, path: &RelPath) -> bool {
        self.lock().contains_key(path)
    }

    /// Returns the files in flight below a directory that were due by a time.
    pub fn due_within(&self, dir: &RelPath, at: Instant) -> Vec<RelPath> {
        let in_flight = self.lock();
        let due =
            in_flight.iter().filter(|(path, flight)| path.is_within(dir) && flight.since <= at);
        due.map(|(path, _)| path.clone()).collect()
    }

    /// Updates the paths of files in flight below a renamed directory. Their temporary files have
    /// moved with it.
    pub fn rename(&self, from: &RelPath, to: &RelPath) {
        let mut in_flight = self.lock();
        let moved: Vec<_> = in_flight
            .keys()
            .filter(|path| *path != from)
            .filter_map(|path| Some((path.clone(), path.rebased(from, to)?)))
            .collect();
        for (old, new) in moved {
            if let Some(flight) = in_flight.remove(&old)
                && let Some(replaced) = in_flight.insert(new, flight)
            {
                replaced.cancel();
            }
        }
    }

    /// Returns the job whose worker has been at it for longest.
    pub fn longest(&self) -> Option<LongJob> {
        let in_flight = self.lock();
        let begun = in_flight.iter().filter_map(|(path, file)| {
            let (begun, done) = file.progress.so_far()?;
            let (task, total) = match file.temp {
                Some(_) => (JobTask::Copy, file.source.size),
                // Both sides are read.
                None => (JobTask::Compare, 2 * file.source.size),
            };
            Some(LongJob { task, path: Some(path.clone()), done, total: Some(total), begun })
        });
        begun.min_by_key(|job| job.begun)
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub fn any_for(&self, detector: Detector) -> bool {
        self.lock().values().any(|flight| flight.check.detector == detector)
    }

    /// Returns whether a name is the temporary name of a file in flight.
    pub fn fills(&self, name: &Name) -> bool {
        self.lock().values().any(|flight| flight.temp.as_ref() == Some(name))
    }

    /// Cancels all of them. Returns their paths and temporary files.
    pub fn abandon(&self) -> Vec<(RelPath, Option<Name>)> {
        let in_flight = std::mem::take(&mut *self.lock());
        in_flight
            .into_iter()
            .map(|(path, flight)| {
                flight.cancel();
                (path, flight.temp)
            })
            .collect()
    }
}
