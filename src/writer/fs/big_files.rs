//! Carriers: threads that compare and fill big files, so that no round waits for one.
//!
//! A worker works on descriptors that a round gave it and changes nothing that is visible
//! (I1). What comes of it is published, or thrown away, by a later round.

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

/// What a worker is to do.
pub enum JobKind {
    /// Read both files and say whether they are equal.
    Compare { replica: NewFile, replica_entry: Entry },
    /// Fill the temporary file `name`, to be published for `reason`. `flush`: and write it to the
    /// disk. A round that waits for the disk may begin long after the first writing, and would not
    /// be told of what had failed by then: see syncfs(2).
    Fill { temp: NewFile, name: Name, reason: Reason, flush: bool },
}

/// One big file on its way.
pub struct Job {
    pub path: RelPath,
    pub check: Check,
    pub source: File,
    pub entry: Entry,
    pub load: JobKind,
    /// Set where the work is overtaken.
    pub cancel: Arc<AtomicBool>,
    /// Given back when the job is dropped.
    _permit: Permit,
}

impl Job {
    pub fn new(
        path: RelPath,
        check: Check,
        (source, entry): (File, Entry),
        load: JobKind,
        slot: Permit,
    ) -> Self {
        Self { path, check, source, entry, load, cancel: Arc::default(), _permit: slot }
    }

    pub fn identity(&self) -> Identity {
        self.entry.identity()
    }

    fn run(&self) -> Result<JobResult, WorkError> {
        match &self.load {
            JobKind::Compare { replica, replica_entry } => {
                let (source, replica) =
                    ((&self.source, &self.entry), (replica.as_file(), replica_entry));
                let verdict = compare_large(source, replica, &self.cancel, &|_| {})?;
                ensure_unchanged(source).and_then(|()| ensure_unchanged(replica))?;
                Ok(JobResult::Digests(verdict))
            }
            JobKind::Fill { temp, flush, .. } => {
                let length = fill(&self.source, &self.entry, temp, &self.cancel)?;
                if *flush {
                    temp.flush()?;
                }
                ensure_whole(&self.source, &self.entry, temp.as_file(), &self.cancel)?;
                Ok(JobResult::Length(length))
            }
        }
    }
}

/// What a job has come to.
#[derive(Clone, Copy, Debug)]
pub enum JobResult {
    /// Of [`JobKind::Compare`].
    Digests(DigestPair),
    /// Of [`JobKind::Fill`]: how many bytes were copied.
    Length(u64),
}

/// A job that has come to its end.
pub struct Finished {
    pub job: Job,
    pub result: Result<JobResult, WorkError>,
    /// How long it took.
    pub took: Duration,
}

/// The right to hand in one job; given back when the job is dropped.
pub struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Jobs that may be under way for each worker.
const JOBS: usize = 8;

/// The workers for big files. Their threads end when this is dropped.
pub struct BigFileWorkers {
    jobs: Sender<Job>,
    free: Arc<AtomicUsize>,
    #[cfg(test)]
    most: usize,
}

impl BigFileWorkers {
    /// Starts `threads` workers for big files. What they have ended is told to `done`, which says whether anybody still listens. Several times as many jobs may be under way, so that
    /// none is idle while a round publishes, and a round publishes several.
    ///
    /// # Errors
    /// Where no thread can be started.
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

    /// The right to hand in a job; `None` while all workers for big files have enough to do.
    pub fn slot(&self) -> Option<Permit> {
        let taken = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1));
        taken.ok().map(|_| Permit(Arc::clone(&self.free)))
    }

    /// How many jobs are under way, or were not dropped yet.
    #[cfg(test)]
    pub fn count_taken(&self) -> usize {
        self.most - self.free()
    }

    /// How many jobs could be handed in now.
    pub fn free(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    pub fn hand_over(&self, job: Job) {
        // The workers for big files live as long as this sender; a panic in one of them ends the
        // process.
        let _ = self.jobs.send(job);
    }
}

#[cfg(test)]
mod tests;
