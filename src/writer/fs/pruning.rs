//! Old backups are removed now and then, beside everything else.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::backup::Backup;

/// How often.
const EVERY: Duration = Duration::from_secs(3600);

/// For how long backups are kept, and the pruning that runs.
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
        // Without a thread it waits for the next time.
        self.running = builder.spawn(move || backup.prune(keep, &in_use, &stop)).ok();
        self.due = Some(now + EVERY);
    }

    /// Waits for what runs.
    pub(super) fn finish(&mut self) {
        if let Some(running) = self.running.take() {
            // A panic in it has been noticed by the hook.
            let _ = running.join();
        }
    }
}
