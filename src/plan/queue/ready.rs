//! Checks of one detector that are ready, by directory.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{BatchLimit, CoarseCheck};
use crate::model::check::{Check, Checks, add_name};
use crate::model::path::{Name, RelPath};

/// The least number of waiting names for which one check of their directory replaces them.
const WIDE: usize = 64;

/// The most names that are taken from one directory before the next one has its turn.
const TURN: usize = 128;

/// Ready checks of one detector. The directories are in the order of their first report.
#[derive(Default)]
pub struct Ready {
    dirs: HashMap<RelPath, BTreeMap<Name, Check>>,
    pub order: VecDeque<RelPath>,
    pub names: usize,
}

impl Ready {
    pub fn push(&mut self, dir: RelPath, names: impl IntoIterator<Item = (Name, Check)>) {
        let waiting = self.dirs.entry(dir.clone()).or_insert_with(|| {
            self.order.push_back(dir);
            BTreeMap::new()
        });
        let before = waiting.len();
        for (name, check) in names {
            add_name(waiting, name, check);
        }
        self.names += waiting.len() - before;
    }

    pub fn count_names_in(&self, dir: &RelPath) -> usize {
        self.dirs.get(dir).map_or(0, BTreeMap::len)
    }

    pub fn give_up(&mut self, dir: &RelPath) {
        self.names -= self.dirs.remove(dir).map_or(0, |names| names.len());
    }

    /// Drops the checks of the directory with the most names, or all checks if it has fewer than
    /// `WIDE` names. Returns the check to make instead.
    pub fn coarsen(&mut self) -> CoarseCheck {
        let widest = self.dirs.iter().max_by_key(|(_, names)| names.len());
        match widest.map(|(dir, _)| dir.clone()) {
            Some(dir) if self.dirs[&dir].len() >= WIDE => {
                self.give_up(&dir);
                CoarseCheck::Names(dir)
            }
            _ => {
                *self = Self::default();
                CoarseCheck::Below(RelPath::root())
            }
        }
    }

    /// Returns whether a directory below `dir` is itself due, or a check at `dir` or below passes
    /// the test.
    pub fn has_within(&self, dir: &RelPath, is_such: impl Fn(&Check) -> bool) -> bool {
        let within = self.dirs.iter().filter(|(at, _)| at.is_within(dir));
        let mut found = within
            .map(|(at, names)| (at != dir && names.is_empty()) || names.values().any(&is_such));
        found.any(|found| found)
    }

    /// Returns whether a directory is itself due, or any check passes the test.
    pub fn has_any(&self, is_such: impl Fn(&Check) -> bool) -> bool {
        self.dirs.values().any(|names| names.is_empty() || names.values().any(&is_such))
    }

    /// Removes the check of one path.
    pub fn pull(&mut self, path: &RelPath) -> Option<Check> {
        let (dir, name) = path.split()?;
        let check = self.dirs.get_mut(&dir)?.remove(&name)?;
        self.names -= 1;
        Some(check)
    }

    /// Removes checks for one round. The directories take turns, with at most `TURN` names each.
    pub fn take(&mut self, portion: BatchLimit) -> Checks {
        let mut taken = Checks::new();
        let mut left = portion.names;
        while left > 0
            && let Some(dir) = self.order.front()
            && (taken.len() < portion.dirs || taken.contains_key(dir))
            && let Some(dir) = self.order.pop_front()
        {
            let Some(mut names) = self.dirs.remove(&dir) else { continue };
            let turn =
                std::iter::from_fn(|| names.pop_first()).take(left.min(TURN)).collect::<Vec<_>>();
            left -= turn.len();
            self.names -= turn.len();
            taken.entry(dir.clone()).or_default().extend(turn);
            if !names.is_empty() {
                self.dirs.insert(dir.clone(), names);
                self.order.push_back(dir);
            }
        }
        taken
    }
}
