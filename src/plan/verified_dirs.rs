//! Which directories of the replica are known to be the twins of which of the source: one was made
//! for the other and was empty then, or a walk has found that all it holds is in the other too.
//! Which of them a walk has compared, at least. And in which of them somebody else could move
//! entries before. Pure: no file system, no clock.
//!
//! They are known by number and birth time, not by path: whoever puts another directory in the
//! place of a twin has not put a twin there.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::entry::Entry;

/// So many are remembered; beyond that, twins are found out anew.
const MOST: usize = 1 << 19;

/// What a directory of the replica is to the source's directory to which it belongs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Verification {
    #[default]
    None,
    /// They were twins, and it was moved since: a walk is to look through it.
    Moved,
    /// A walk has compared all that the two hold, and told where that differs.
    Walked,
    Twin,
}

/// What is known of a directory of the replica.
#[derive(Default)]
struct VerifiedDir {
    /// The source's directory.
    source: u64,
    tie: Verification,
    /// Whether somebody else could move what it holds, while nobody but us can by now.
    had_other_renamers: bool,
}

/// All of them. Each directory is kept as a number of 64 bits that nobody can choose.
#[derive(Default)]
pub struct VerifiedDirs {
    known: Mutex<HashMap<u64, VerifiedDir>>,
    secret: RandomState,
}

impl VerifiedDirs {
    /// Notes that the second is the twin of the first.
    pub fn note(&self, source: &Entry, replica: &Entry) {
        let source = self.number(source);
        self.change(replica, |known| {
            *known = VerifiedDir { source, tie: Verification::Twin, had_other_renamers: false }
        });
    }

    pub fn are_verified(&self, source: &Entry, replica: &Entry) -> bool {
        self.tie(source, replica) == Verification::Twin
    }

    /// Notes that a walk has compared all that the two hold, and told where that differs.
    pub fn walked(&self, source: &Entry, replica: &Entry) {
        let tie = match self.tie(source, replica) {
            Verification::None | Verification::Walked => Verification::Walked,
            Verification::Moved | Verification::Twin => Verification::Twin,
        };
        let source = self.number(source);
        self.change(replica, |known| (known.source, known.tie) = (source, tie));
    }

    /// Whether one has, or they are twins.
    pub fn are_walked(&self, source: &Entry, replica: &Entry) -> bool {
        self.tie(source, replica) >= Verification::Walked
    }

    /// The first's entries are put into the second: whatever that was to another, it is so no more.
    pub fn invalidate(&self, source: &Entry, replica: &Entry) {
        if let Some(known) = self.lock().get_mut(&self.number(replica))
            && known.source != self.number(source)
        {
            known.tie = Verification::None;
        }
    }

    /// It was moved to where more people can see it.
    pub fn moved(&self, replica: &Entry) {
        if let Some(known) = self.lock().get_mut(&self.number(replica)) {
            known.tie = if known.tie == Verification::Twin {
                Verification::Moved
            } else {
                Verification::None
            };
        }
    }

    /// Nobody but us can move its entries from now on; somebody else could.
    pub fn mark_had_other_renamers(&self, replica: &Entry) {
        self.change(replica, |known| known.had_other_renamers = true);
    }

    pub fn had_other_renamers(&self, replica: &Entry) -> bool {
        self.lock().get(&self.number(replica)).is_some_and(|known| known.had_other_renamers)
    }

    /// Another directory is the replica now.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn tie(&self, source: &Entry, replica: &Entry) -> Verification {
        let known = self.lock();
        let known =
            known.get(&self.number(replica)).filter(|known| known.source == self.number(source));
        known.map_or(Verification::None, |known| known.tie)
    }

    fn change(&self, replica: &Entry, change: impl FnOnce(&mut VerifiedDir)) {
        let mut known = self.lock();
        if known.len() >= MOST {
            known.retain(|_, known| known.had_other_renamers);
        }
        change(known.entry(self.number(replica)).or_default());
    }

    fn number(&self, dir: &Entry) -> u64 {
        self.secret.hash_one((
            dir.inode.dev,
            dir.inode.ino,
            dir.inode.birth.map(|time| (time.sec, time.nsec)),
        ))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, VerifiedDir>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
