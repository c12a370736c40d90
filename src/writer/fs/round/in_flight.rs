//! Big files on their way: what workers for big files have, and under which name it will be
//! published.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::model::check::{Check, Detector};
use crate::model::entry::Entry;
use crate::model::path::{Name, RelPath};
use crate::writer::fs::big_files::{Job, JobKind};

/// A big file that a worker has.
struct FlightEntry {
    source: Entry,
    cancel: Arc<AtomicBool>,
    /// Its temporary file, if it is being filled.
    temp: Option<Name>,
    /// The wish for it, and those that have come since.
    check: Check,
    /// Since when it was due.
    since: Instant,
}

impl FlightEntry {
    fn of(job: &Job) -> Self {
        let temp = match &job.load {
            JobKind::Fill { name, .. } => Some(name.clone()),
            JobKind::Compare { .. } => None,
        };
        let (source, cancel) = (job.entry.clone(), Arc::clone(&job.cancel));
        Self { source, cancel, temp, check: job.check.clone(), since: job.check.first }
    }

    fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub(super) struct InFlight(Mutex<HashMap<RelPath, FlightEntry>>);

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, HashMap<RelPath, FlightEntry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, job: &Job) {
        self.lock().insert(job.path.clone(), FlightEntry::of(job));
    }

    /// Ends the flight of a job, and tells the job where it is by now, and all that is wished for
    /// there. Whether it is still wanted.
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

    /// Whether the file at `path` is on its way: then the wish for it is kept until it arrives. One
    /// whose source has changed since is cancelled: it comes back, and is looked at anew. One that
    /// has only grown arrives as it was.
    pub fn has(&self, path: &RelPath, now: &Entry, check: &Check) -> bool {
        let mut in_flight = self.lock();
        let Some(flight) = in_flight.get_mut(path) else { return false };
        flight.check.merge(check.clone());
        if flight.source.identity() != now.identity() && !now.has_grown_from(&flight.source) {
            flight.cancel();
        }
        true
    }

    /// Since when the one is due that has been so for longest.
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

    /// The temporary files that are being filled at and below a directory, and for which paths.
    pub fn temps_within(&self, dir: &RelPath) -> Vec<(RelPath, Name)> {
        let in_flight = self.lock();
        let within = in_flight.iter().filter(|(path, _)| path.is_within(dir));
        within.filter_map(|(path, flight)| Some((path.clone(), flight.temp.clone()?))).collect()
    }

    /// Whether a worker has the file at `path`.
    pub fn holds(&self, path: &RelPath) -> bool {
        self.lock().contains_key(path)
    }

    /// What is on its way below a directory, and was due at a time.
    pub fn due_within(&self, dir: &RelPath, at: Instant) -> Vec<RelPath> {
        let in_flight = self.lock();
        let due =
            in_flight.iter().filter(|(path, flight)| path.is_within(dir) && flight.since <= at);
        due.map(|(path, _)| path.clone()).collect()
    }

    /// A directory was renamed: what is on its way below goes to the new place, as its temporary
    /// files have.
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

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub fn any_for(&self, detector: Detector) -> bool {
        self.lock().values().any(|flight| flight.check.detector == detector)
    }

    /// Whether a temporary name is that of a file on its way.
    pub fn fills(&self, name: &Name) -> bool {
        self.lock().values().any(|flight| flight.temp.as_ref() == Some(name))
    }

    /// Gives up all: their paths and temporary files.
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
