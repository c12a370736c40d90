//! Bursts of actions: the first ones have a line each, and one line sums up the rest.

use std::time::{Duration, Instant};

use super::format::time_of_day;
use crate::model::human::{human_bytes, with_separators};

/// Number of actions in a burst that have their own line.
const SINGLE: usize = 8;

/// The time without an action that ends a burst.
const SILENCE: Duration = Duration::from_millis(500);

/// The first interval between two sums of a burst that continues, doubled each time, and the
/// longest one.
const FIRST: Duration = Duration::from_secs(2);
const LAST: Duration = Duration::from_secs(60);

/// An action's line, and the facts that a sum of several actions needs.
pub(super) struct Action {
    pub op: String,
    pub path: String,
    pub entries: u64,
    pub bytes: u64,
}

/// Actions of one kind that have no line of their own yet.
struct Sum {
    op: String,
    number: u64,
    bytes: u64,
    /// The path of the first one.
    first: String,
    /// The directory that holds all of them.
    dir: String,
}

#[derive(Default)]
pub(super) struct Burst {
    sums: Vec<Sum>,
    /// Actions of this burst.
    count: usize,
    last: Option<Instant>,
    /// When it was last summed up, and the wait before the next sum.
    summed: Option<Instant>,
    wait: Duration,
}

impl Burst {
    /// Adds an action. Returns its line if the action has its own.
    pub fn add(&mut self, action: Action, now: Instant) -> bool {
        if self.sums.is_empty() && self.last.is_none_or(|last| now.duration_since(last) >= SILENCE)
        {
            *self = Self { summed: Some(now), wait: FIRST, ..Self::default() };
        }
        self.last = Some(now);
        self.count += 1;
        if self.count <= SINGLE {
            return true;
        }
        let dir = action.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        match self.sums.iter_mut().find(|sum| sum.op == action.op) {
            Some(sum) => {
                sum.number += action.entries;
                sum.bytes += action.bytes;
                keep_common(&mut sum.dir, dir);
            }
            None => self.sums.push(Sum {
                op: action.op,
                number: action.entries,
                bytes: action.bytes,
                dir: dir.to_owned(),
                first: action.path,
            }),
        }
        false
    }

    /// Returns when to sum up, if no other action comes before. `None` if all actions have a line.
    pub fn due(&self) -> Option<Instant> {
        if self.sums.is_empty() {
            return None;
        }
        let rest = self.last.map(|last| last + SILENCE);
        let long = self.summed.map(|summed| summed + self.wait);
        rest.into_iter().chain(long).min()
    }

    /// Returns the lines that sum up the actions without their own, if that is due.
    pub fn sum_up_if_due(&mut self, now: Instant) -> Vec<String> {
        if self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.summed = Some(now);
        self.wait = (2 * self.wait).min(LAST);
        self.sum_up()
    }

    /// Returns the lines that sum up the actions without their own.
    pub fn sum_up(&mut self) -> Vec<String> {
        let time = time_of_day(0.0);
        let line = |sum: Sum| {
            let place =
                if sum.dir.is_empty() { String::new() } else { format!(" in {}/", sum.dir) };
            let bytes = if sum.bytes > 0 {
                format!(" ({})", human_bytes(sum.bytes))
            } else {
                String::new()
            };
            if sum.number == 1 {
                return format!("{time} {:<8} {}{bytes}\n", sum.op, sum.first);
            }
            let number = with_separators(sum.number);
            format!("{time} {:<8} {number} more entries{place}{bytes}\n", sum.op)
        };
        self.sums.drain(..).map(line).collect()
    }
}

/// Shortens `dir` to the last directory that also holds `other`.
fn keep_common(dir: &mut String, other: &str) {
    while !dir.is_empty() {
        let is_within = other
            .strip_prefix(dir.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_within {
            return;
        }
        let shorter = dir.rfind('/').unwrap_or(0);
        dir.truncate(shorter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(path: &str) -> Action {
        Action { op: "created".into(), path: path.into(), entries: 1, bytes: 10 }
    }

    #[test]
    fn a_save_is_its_own_line_and_a_burst_is_summed_up() {
        let (mut burst, now) = (Burst::default(), Instant::now());
        assert!(burst.add(action("a/b"), now));
        assert_eq!(burst.due(), None);
        let own = (0..2_000)
            .map(|n| burst.add(action(&format!("a/{n}/x")), now))
            .filter(|is_own| *is_own)
            .count();
        assert_eq!(own, SINGLE - 1);
        assert!(burst.sum_up_if_due(now).is_empty(), "it may go on");
        let lines = burst.sum_up_if_due(now + SILENCE);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("created  1,993 more entries in a/ (19.9 kB)"), "{lines:?}");
        assert!(burst.add(action("b"), now + 2 * SILENCE), "the next one is another");
    }

    #[test]
    fn a_burst_that_goes_on_takes_few_lines() {
        let (mut burst, begun) = (Burst::default(), Instant::now());
        let mut lines = 0;
        for tenth in 0..6_000 {
            let now = begun + tenth * Duration::from_millis(100);
            lines += usize::from(burst.add(action(&format!("d/{tenth}")), now));
            lines += burst.sum_up_if_due(now).len();
        }
        assert!(lines <= 30, "{lines} lines in ten minutes");
    }

    #[test]
    fn what_is_in_common_is_whole_names() {
        let common = |one: &str, other| {
            let mut dir = one.to_owned();
            keep_common(&mut dir, other);
            dir
        };
        assert_eq!(common("a/b/c", "a/b/d/e"), "a/b");
        assert_eq!(common("a/bc", "a/b"), "a");
        assert_eq!(common("ab", "a"), "");
        assert_eq!(common("a", "a"), "a");
    }
}
