//! The throttle: hot files wait between two copies.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::path::RelPath;

/// The debt for each second of work on a file, in seconds. A hot file waits three times as long as
/// its copies take, and so uses a quarter of a thread. Its twin is behind by five copies at most.
const SHARE: u32 = 4;

/// The least debt of one piece of work. It limits a hot file to about 20 log lines a second.
const LEAST: Duration = Duration::from_millis(50);

/// The debt up to which a file does not wait. So a few saves in a row are followed at once.
const CREDIT: Duration = Duration::from_millis(200);

/// The least number of paths at which those without a debt are forgotten.
const MANY: usize = 4_096;

/// The paths that were worked on lately, and when their debts are paid off.
#[derive(Default)]
pub struct Throttle {
    rested: HashMap<RelPath, Instant>,
    /// The number of paths at which those without a debt are forgotten next.
    limit: usize,
}

impl Throttle {
    pub fn push(&mut self, path: RelPath, took: Duration, now: Instant) {
        if self.rested.len() >= self.limit {
            self.rested.retain(|_, rested| *rested > now);
            self.limit = MANY.max(2 * self.rested.len());
        }
        // Some work has not waited for its turn here. So the debt from before counts up to `CREDIT`
        // only.
        let begun = now.checked_sub(took).unwrap_or(now);
        let rested = self.rested.entry(path).or_insert(begun);
        *rested = (*rested).clamp(begun, begun + CREDIT) + LEAST.max(SHARE * took);
    }

    /// Returns when the path has waited long enough, if that is after `now`.
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
