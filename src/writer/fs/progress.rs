//! How far work in the background is.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// How far a thread is with its work. The thread writes it; whoever asks reads it.
#[derive(Default)]
pub struct Progress {
    begun: OnceLock<Instant>,
    done: AtomicU64,
}

impl Progress {
    /// The work begins.
    pub fn begin(&self) {
        let _ = self.begun.set(Instant::now());
    }

    /// Adds bytes, or entries, that are done.
    pub fn add(&self, number: u64) {
        self.done.fetch_add(number, Ordering::Relaxed);
    }

    /// Returns when the work began and how much is done; `None` if it has not begun.
    pub fn so_far(&self) -> Option<(Instant, u64)> {
        self.begun.get().map(|begun| (*begun, self.done.load(Ordering::Relaxed)))
    }
}
