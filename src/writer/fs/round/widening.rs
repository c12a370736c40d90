//! The facts of a directory that is to be widened (I12), for the table in
//! [`widen`](crate::plan::widen).

use std::time::Instant;

use super::{Requeue, Round};
use crate::fs::renamers::Renamers;
use crate::model::check::Check;
use crate::model::entry::Entry;
use crate::model::path::RelPath;
use crate::plan::widen::{WidenBlocker, WidenFacts};

/// A directory of the replica that is to be widened.
pub(super) struct Widening<'a> {
    pub round: &'a Round<'a>,
    pub path: &'a RelPath,
    pub source: &'a Entry,
    pub now: &'a Entry,
    /// When the check that asks for it was due.
    pub since: Instant,
    pub is_examined: bool,
}

impl Widening<'_> {
    /// Returns the time by which all checks below must be done. The root has none: it is examined
    /// in every round that checks one of its names.
    fn by(&self) -> Option<Instant> {
        (!self.path.is_root()).then_some(self.since)
    }
}

impl WidenFacts for Widening<'_> {
    fn is_examined(&self) -> bool {
        self.is_examined
    }

    fn deletions_are_held(&self) -> bool {
        self.round.terms.deletions.are_held()
    }

    fn is_verified(&self) -> bool {
        self.round.shared.verified_dirs.are_verified(self.source, self.now)
    }

    fn is_walked(&self) -> bool {
        self.round.shared.verified_dirs.are_walked(self.source, self.now)
    }

    fn could_have_been_moved(&self) -> bool {
        let shared = self.round.shared;
        let (verified_dirs, user) = (&shared.verified_dirs, shared.capabilities.user);
        let renamers = Renamers::of(&*self.round.replica, self.path, self.now, verified_dirs, user);
        !renamers.are_harmless(self.source, self.now)
    }

    fn is_made_now(&self) -> bool {
        self.round.made.contains(self.path)
    }

    fn has_checks_waiting(&self) -> bool {
        self.round.waiting.comes_first_within(self.path, self.by())
    }

    fn has_failed(&self) -> bool {
        self.round.has_failed_within(self.path, self.by())
    }

    fn has_copy_in_flight(&self) -> bool {
        let due = self.round.shared.in_flight.due_within(self.path, self.since);
        due.iter().any(|path| self.round.shows(path))
    }
}

impl Round<'_> {
    /// Returns whether an entry below a directory that others could see has failed, or has a check
    /// that was due by a time.
    fn has_failed_within(&self, dir: &RelPath, by: Option<Instant>) -> bool {
        let is_shown = |path: &RelPath| path != dir && path.is_within(dir) && self.shows(path);
        let is_due = |check: &Check, why: &Requeue| {
            let passes = match why {
                Requeue::ChangedSinceCopy => true,
                Requeue::Widen(blocker) => blocker.passes_soon(),
                _ => false,
            };
            !passes && check.comes_before(by)
        };
        self.out.problems.iter().any(|(problem, _)| is_shown(&problem.path))
            || self.out.again.iter().any(|(path, check, why)| is_due(check, why) && is_shown(path))
            || self.out.put_off.iter().any(|(path, _)| is_shown(path))
            || self.waiting.has_failed_within(dir, by, &is_shown)
    }

    /// Returns whether others could see the replica's entry at a path, if they were let into all
    /// directories above it.
    fn shows(&self, path: &RelPath) -> bool {
        let Some((dir, name)) = path.split() else { return false };
        match self.replica.open(&dir) {
            Ok(dir) => dir.observe(name.as_bytes()).entry().is_some_and(Entry::shows_something),
            Err(_) => false,
        }
    }

    /// Keeps a directory closed for now, and notes it for another check.
    pub(super) fn defer_widen(&mut self, path: &RelPath, check: &Check, why: WidenBlocker) {
        if self.terms.deletions.are_held() {
            // The walk after the next count checks it again.
            self.out.open.push(path.clone());
        } else {
            self.out.again.push((path.clone(), check.clone(), Requeue::Widen(why)));
        }
    }
}
