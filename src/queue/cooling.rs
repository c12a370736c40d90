//! Hot files: what is worked on again and again waits in between.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::path::RelPath;

/// A file waits for so many times as long as the work on it took: it gets a quarter of a thread, and
/// its twin is never further behind than five copies take.
const SHARE: u32 = 3;

/// And at least for so long: no more than twenty lines a second in the log.
const LEAST: Duration = Duration::from_millis(50);

/// Beyond so many, those whose time is over are forgotten.
const MANY: usize = 4_096;

/// Until when paths have to wait.
#[derive(Default)]
pub struct Cooling {
    until: HashMap<RelPath, Instant>,
    /// How many there may be before the next cleaning.
    limit: usize,
}

impl Cooling {
    pub fn push(&mut self, path: RelPath, took: Duration, now: Instant) {
        if self.until.len() >= self.limit {
            self.until.retain(|_, until| *until > now);
            self.limit = MANY.max(2 * self.until.len());
        }
        self.until.insert(path, now + LEAST.max(SHARE * took));
    }

    /// The time for which this path has to wait, if that is still to come.
    pub fn until(&self, path: &RelPath, now: Instant) -> Option<Instant> {
        if self.until.is_empty() {
            return None;
        }
        self.until.get(path).copied().filter(|until| *until > now)
    }
}
