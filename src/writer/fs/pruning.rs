//! Removes old backups once an hour, in a thread of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::backup::Backup;

/// The time from the start of one pruning to the next.
const EVERY: Duration = Duration::from_secs(3600);

/// The schedule for removing old backups, and the thread that does it now.
pub struct Pruning {
    keep: Duration,
    /// Paths that are not removed, whatever their age.
    in_use: Vec<PathBuf>,
    due: Option<Instant>,
    running: Option<JoinHandle<()>>,
}

impl Pruning {
    pub fn new(keep: Duration, in_use: Vec<PathBuf>) -> Self {
        Self { keep, in_use, due: None, running: None }
    }

    pub(super) fn prune_if_due(
        &mut self,
        backup: &Arc<Backup>,
        stop: &Arc<AtomicBool>,
        now: Instant,
    ) {
        let is_idle = self.running.as_ref().is_none_or(JoinHandle::is_finished);
        if !is_idle || self.due.is_some_and(|due| now < due) {
            return;
        }
        let (backup, stop) = (Arc::clone(backup), Arc::clone(stop));
        let (keep, in_use) = (self.keep, self.in_use.clone());
        let builder = std::thread::Builder::new().name("twindir-prune".into());
        // If no thread can be started, the next try comes an hour later.
        self.running = builder.spawn(move || backup.prune(keep, &in_use, &stop)).ok();
        self.due = Some(now + EVERY);
    }

    /// Waits for the pruning that is running, if any.
    pub(super) fn finish(&mut self) {
        if let Some(running) = self.running.take() {
            // The panic hook has already noticed a panic in it.
            let _ = running.join();
        }
    }
}
