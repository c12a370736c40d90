//! Old backups are removed now and then, beside everything else.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Daemon;

/// How often.
const EVERY: Duration = Duration::from_secs(3600);

/// The pruning that runs, and when the next is due.
#[derive(Default)]
pub(super) struct Pruning {
    due: Option<Instant>,
    running: Option<JoinHandle<()>>,
}

impl Pruning {
    /// Waits for it, so that a single run does all of its work.
    pub fn finish(&mut self) {
        if let Some(running) = self.running.take() {
            // A panic in it has been noticed by the hook.
            let _ = running.join();
        }
    }
}

impl Daemon<'_> {
    pub(super) fn prune(&mut self, now: Instant) {
        let (Some(keep), Some(backup)) = (self.config.backup_keep, self.reconciler.backup()) else {
            return;
        };
        let is_idle = self.pruning.running.as_ref().is_none_or(JoinHandle::is_finished);
        if !is_idle || self.pruning.due.is_some_and(|due| now < due) {
            return;
        }
        let (backup, stop) = (Arc::clone(backup), Arc::clone(&self.stop));
        let roots = &self.reconciler.roots;
        let log = self.roots.beside.log.as_ref().and_then(|log| Some(log.parent()?.to_owned()));
        let in_use: Vec<_> = [roots.source.path.clone(), roots.replica.path.clone()]
            .into_iter()
            .chain(log)
            .collect();
        let builder = std::thread::Builder::new().name("twindir-prune".into());
        // Without a thread it waits for the next time.
        self.pruning.running = builder.spawn(move || backup.prune(keep, &in_use, &stop)).ok();
        self.pruning.due = Some(now + EVERY);
    }
}
