//! Workers: threads that compare and copy big files, so that no round waits for one.
//!
//! A worker uses descriptors that a round gave it, and changes nothing that is visible (I1). A
//! later round publishes its result, or discards it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};

use crate::fs::digest::{compare_large, ensure_unchanged};
use crate::fs::tree::{File, NewFile};
use crate::model::check::Check;
use crate::model::entry::DigestPair;
use crate::model::entry::{Entry, Identity};
use crate::model::error::WorkError;
use crate::model::path::{Name, RelPath};
use crate::model::reason::Reason;
use crate::writer::fs::copy::{ensure_whole, fill};
use crate::writer::fs::progress::Progress;

/// The kind of work that a worker does.
pub enum JobKind {
    /// Read both files, and compare their MD5s.
    Compare { replica: NewFile, replica_entry: Entry },
    /// Fill the temporary file `name`, which a round publishes for `reason`. `flush`: also write it
    /// to the disk. A later `syncfs` may not report an error that occurred before the round began:
    /// see syncfs(2).
    Fill { temp: NewFile, name: Name, reason: Reason, flush: bool },
}

/// One big file in flight.
pub struct Job {
    pub path: RelPath,
    pub check: Check,
    pub source: File,
    pub entry: Entry,
    pub kind: JobKind,
    /// Set if a newer change has made the work useless.
    pub cancel: Arc<AtomicBool>,
    pub progress: Arc<Progress>,
    /// Returned when the job is dropped.
    _permit: Permit,
}

impl Job {
    pub fn new(
        path: RelPath,
        check: Check,
        (source, entry): (File, Entry),
        kind: JobKind,
        permit: Permit,
    ) -> Self {
        Self {
            path,
            check,
            source,
            entry,
            kind,
            cancel: Arc::default(),
            progress: Arc::default(),
            _permit: permit,
        }
    }

    pub fn identity(&self) -> Identity {
        self.entry.identity()
    }

    fn run(&self) -> Result<JobResult, WorkError> {
        self.progress.begin();
        let note = |bytes| self.progress.add(bytes);
        match &self.kind {
            JobKind::Compare { replica, replica_entry } => {
                let (source, replica) =
                    ((&self.source, &self.entry), (replica.as_file(), replica_entry));
                let digests = compare_large(source, replica, &self.cancel, &note)?;
                ensure_unchanged(source).and_then(|()| ensure_unchanged(replica))?;
                Ok(JobResult::Digests(digests))
            }
            JobKind::Fill { temp, flush, .. } => {
                let length = fill(&self.source, &self.entry, temp, &self.cancel, &note)?;
                if *flush {
                    temp.flush()?;
                }
                ensure_whole(&self.source, &self.entry, temp.as_file(), &self.cancel)?;
                Ok(JobResult::Length(length))
            }
        }
    }
}

/// The result of a job.
#[derive(Clone, Copy, Debug)]
pub enum JobResult {
    /// Of [`JobKind::Compare`]: both MD5s.
    Digests(DigestPair),
    /// Of [`JobKind::Fill`]: the number of bytes that were copied.
    Length(u64),
}

/// A finished job.
pub struct Finished {
    pub job: Job,
    pub result: Result<JobResult, WorkError>,
    /// How long it took.
    pub took: Duration,
}

/// The right to hand in one job. It is returned when the job is dropped.
pub struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many jobs may be in flight for each worker.
const JOBS: usize = 8;

/// The workers for big files. Their threads end when this is dropped.
pub struct BigFileWorkers {
    jobs: Sender<Job>,
    free: Arc<AtomicUsize>,
    #[cfg(test)]
    most: usize,
}

impl BigFileWorkers {
    /// Starts `threads` workers. They call `done` with each finished job, and end when that returns
    /// `false`. `JOBS` jobs may be in flight for each, so that no worker is idle while a round
    /// publishes, and a round publishes several.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        threads: usize,
        done: impl Fn(Finished) -> bool + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = unbounded::<Job>();
        for number in 0..threads {
            let (inbox, done) = (inbox.clone(), done.clone());
            let builder = std::thread::Builder::new().name(format!("twindir-copy-{number}"));
            builder.spawn(move || {
                for job in inbox {
                    let begun = Instant::now();
                    let result = job.run();
                    let took = begun.elapsed();
                    if !done(Finished { job, result, took }) {
                        break;
                    }
                }
            })?;
        }
        let most = JOBS * threads;
        Ok(Self {
            jobs,
            free: Arc::new(AtomicUsize::new(most)),
            #[cfg(test)]
            most,
        })
    }

    /// Takes the right to hand in a job; `None` while `JOBS` jobs are in flight for each worker.
    pub fn take_permit(&self) -> Option<Permit> {
        let taken = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1));
        taken.ok().map(|_| Permit(Arc::clone(&self.free)))
    }

    /// Returns how many permits are in use: jobs in flight, and finished jobs that were not dropped
    /// yet.
    #[cfg(test)]
    pub fn count_taken(&self) -> usize {
        self.most - self.free()
    }

    /// Returns how many jobs could be handed in now.
    pub fn free(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    pub fn hand_over(&self, job: Job) {
        // The workers live as long as this sender; a panic in one of them ends the process.
        let _ = self.jobs.send(job);
    }
}

#[cfg(test)]
mod tests;
