//! Limits how fast a walk reads: `--sweep-rate`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a waiting walk checks whether it was cancelled.
const POLL: Duration = Duration::from_millis(50);

/// How far reading may be ahead of the limit. Otherwise there would be a pause for each small file.
const AHEAD: Duration = Duration::from_millis(20);

pub(super) struct RateLimiter {
    /// Bytes per second; `None` for no limit.
    limit: Option<u64>,
    begun: Instant,
    read: AtomicU64,
}

impl RateLimiter {
    pub fn new(limit: Option<u64>) -> Self {
        Self { limit, begun: Instant::now(), read: AtomicU64::new(0) }
    }

    /// Notes that `bytes` were read. Waits until more may be read, or `cancel` is set.
    pub fn wait_after(&self, bytes: u64, cancel: &AtomicBool) {
        let Some(limit) = self.limit else { return };
        let read = self.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let due = self.begun + Duration::from_secs_f64(read as f64 / limit as f64);
        while !cancel.load(Ordering::Relaxed) {
            let wait = due.saturating_duration_since(Instant::now());
            if wait <= AHEAD {
                return;
            }
            std::thread::sleep(wait.min(POLL));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_whatever_the_number_of_threads() {
        let (rate, cancel) = (RateLimiter::new(Some(1_000_000)), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| rate.wait_after(1_000, &cancel)));
            }
        });
        assert!(rate.begun.elapsed() >= Duration::from_millis(180));
    }

    #[test]
    fn without_a_limit_and_once_cancelled_nobody_waits() {
        let begun = Instant::now();
        RateLimiter::new(None).wait_after(u64::MAX / 2, &AtomicBool::new(false));
        RateLimiter::new(Some(1)).wait_after(1_000_000, &AtomicBool::new(true));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
