//! Hot files: what is worked on again and again waits in between.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::path::RelPath;

/// A file that has used up its credit gets a quarter of a thread: it waits three times as long as
/// the work on it takes, so that its twin is never further behind than five copies take.
const SHARE: u32 = 4;

/// Each piece of work costs at least so much: in the long run no more than twenty lines a second in
/// the log.
const LEAST: Duration = Duration::from_millis(50);

/// What a file that was at rest may use up at once: a few saves in a row are followed without a
/// wait.
const CREDIT: Duration = Duration::from_millis(200);

/// Beyond so many, those that are at rest again are forgotten.
const MANY: usize = 4_096;

/// When what was used up by paths is made good.
#[derive(Default)]
pub struct Throttle {
    rested: HashMap<RelPath, Instant>,
    /// How many there may be before the next cleaning.
    limit: usize,
}

impl Throttle {
    pub fn push(&mut self, path: RelPath, took: Duration, now: Instant) {
        if self.rested.len() >= self.limit {
            self.rested.retain(|_, rested| *rested > now);
            self.limit = MANY.max(2 * self.rested.len());
        }
        // Not all work waits for its turn here: what is owed from before is no more than the
        // credit.
        let begun = now.checked_sub(took).unwrap_or(now);
        let rested = self.rested.entry(path).or_insert(begun);
        *rested = (*rested).clamp(begun, begun + CREDIT) + LEAST.max(SHARE * took);
    }

    /// The time for which this path has to wait, if that is still to come.
    pub fn until(&self, path: &RelPath, now: Instant) -> Option<Instant> {
        if self.rested.is_empty() {
            return None;
        }
        let until = self.rested.get(path)?.checked_sub(CREDIT)?;
        Some(until).filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::testing::path;

    #[test]
    fn a_few_saves_in_a_row_wait_for_nothing_and_many_get_their_share() {
        let (mut cooling, begun) = (Throttle::default(), Instant::now());
        let (mut now, file) = (begun, path("log"));
        let mut works = Vec::new();
        while now < begun + Duration::from_secs(10) {
            now = cooling.until(&file, now).unwrap_or(now);
            works.push(now);
            now += Duration::from_millis(1);
            cooling.push(file.clone(), Duration::from_millis(1), now);
        }
        assert!(works[3] < begun + Duration::from_millis(10), "the first ones at once");
        assert!((200..=206).contains(&works.len()), "twenty a second after that: {}", works.len());
    }

    #[test]
    fn long_work_leaves_three_quarters_of_the_time_to_others() {
        for millis in [20, 100, 1_000] {
            let took = Duration::from_millis(millis);
            let (mut cooling, begun) = (Throttle::default(), Instant::now());
            let (mut now, mut worked) = (begun, 0);
            while now < begun + 400 * took {
                now = cooling.until(&path("big"), now).unwrap_or(now) + took;
                worked += 1;
                cooling.push(path("big"), took, now);
            }
            assert!((99..=105).contains(&worked), "{worked} of {took:?}");
        }
    }

    #[test]
    fn work_that_did_not_wait_makes_nobody_wait_for_long() {
        let (mut cooling, mut now, took) =
            (Throttle::default(), Instant::now(), Duration::from_secs(10));
        for _ in 0..100 {
            now += took;
            cooling.push(path("big"), took, now);
        }
        assert_eq!(cooling.until(&path("big"), now), Some(now + 3 * took));
    }
}
