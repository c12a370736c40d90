//! Directories of the replica that are known to match a directory of the source. Either one was
//! made for the other and was empty then, or a walk has found everything in it in the other too.
//!
//! Also known are directories that a walk has at least compared, and those in which other users
//! could rename entries before. Pure: no file system, no clock.
//!
//! Directories are known by device, inode number and birth time, not by path. So another directory
//! in the place of a verified one is not verified.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::entry::Entry;

/// The most directories that are remembered. Beyond that, those that were verified or walked are
/// forgotten, unless others could rename their entries before.
const MOST: usize = 1 << 19;

/// The degree to which a directory of the replica is known to match its source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Verification {
    #[default]
    None,
    /// It was verified, and moved since: a walk has to compare it again.
    Moved,
    /// A walk has compared everything in both directories, and has reported the differences.
    Walked,
    Verified,
}

/// The knowledge of one directory of the replica.
#[derive(Default)]
struct VerifiedDir {
    /// The directory of the source, as a hash.
    source: u64,
    degree: Verification,
    /// Whether other users could rename its entries before its owner or mode was changed.
    had_other_renamers: bool,
}

/// All known directories. Each is stored as a 64-bit hash with a secret, so that nobody can choose
/// it.
#[derive(Default)]
pub struct VerifiedDirs {
    known: Mutex<HashMap<u64, VerifiedDir>>,
    secret: RandomState,
}

impl VerifiedDirs {
    /// Notes that `replica` is known to match `source`.
    pub fn note(&self, source: &Entry, replica: &Entry) {
        let source = self.number(source);
        self.change(replica, |known| {
            *known =
                VerifiedDir { source, degree: Verification::Verified, had_other_renamers: false }
        });
    }

    pub fn are_verified(&self, source: &Entry, replica: &Entry) -> bool {
        self.degree(source, replica) == Verification::Verified
    }

    /// Notes that a walk has compared everything in both directories, and has reported the
    /// differences. A directory that was moved after it was verified is now verified again.
    pub fn walked(&self, source: &Entry, replica: &Entry) {
        let degree = match self.degree(source, replica) {
            Verification::None | Verification::Walked => Verification::Walked,
            Verification::Moved | Verification::Verified => Verification::Verified,
        };
        let source = self.number(source);
        self.change(replica, |known| (known.source, known.degree) = (source, degree));
    }

    /// Returns whether a walk has compared both directories, or they are verified.
    pub fn are_walked(&self, source: &Entry, replica: &Entry) -> bool {
        self.degree(source, replica) >= Verification::Walked
    }

    /// Notes that entries of `source` are put into `replica`. A verification against another
    /// directory of the source ends.
    pub fn invalidate(&self, source: &Entry, replica: &Entry) {
        if let Some(known) = self.lock().get_mut(&self.number(replica))
            && known.source != self.number(source)
        {
            known.degree = Verification::None;
        }
    }

    /// Notes that a directory was moved to where more users can see it.
    pub fn moved(&self, replica: &Entry) {
        if let Some(known) = self.lock().get_mut(&self.number(replica)) {
            known.degree = if known.degree == Verification::Verified {
                Verification::Moved
            } else {
                Verification::None
            };
        }
    }

    /// Notes that other users could rename entries of this directory before its owner or mode was
    /// changed.
    pub fn mark_had_other_renamers(&self, replica: &Entry) {
        self.change(replica, |known| known.had_other_renamers = true);
    }

    pub fn had_other_renamers(&self, replica: &Entry) -> bool {
        self.lock().get(&self.number(replica)).is_some_and(|known| known.had_other_renamers)
    }

    /// Forgets everything: another directory is the replica now.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn degree(&self, source: &Entry, replica: &Entry) -> Verification {
        let known = self.lock();
        let known =
            known.get(&self.number(replica)).filter(|known| known.source == self.number(source));
        known.map_or(Verification::None, |known| known.degree)
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
