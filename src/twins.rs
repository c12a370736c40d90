//! Which directories of the replica are known to be the twins of which of the source: one was made for the other and was
//! empty then, or a walk has found that all it holds is in the other too. Pure: no file system, no clock.
//!
//! They are known by number, not by path: whoever puts another directory in the place of a twin has not put a twin there.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::entry::Entry;

/// So many are remembered; beyond that, they are found out anew.
const MOST: usize = 1 << 20;

/// All of them. What the source's are is kept as a number of 64 bits that nobody can choose.
#[derive(Default)]
pub struct Twins {
    known: Mutex<HashMap<u64, u64>>,
    secret: RandomState,
}

impl Twins {
    /// Notes that the second is the twin of the first.
    pub fn note(&self, source: &Entry, replica: &Entry) {
        let mut known = self.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(replica.ino, self.number(source));
    }

    pub fn are(&self, source: &Entry, replica: &Entry) -> bool {
        self.lock().get(&replica.ino) == Some(&self.number(source))
    }

    /// Another directory is the replica now.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn number(&self, source: &Entry) -> u64 {
        self.secret.hash_one((source.dev, source.ino))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
