//! The counters of a walk, shared by all of its threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Summary;
use crate::model::entry::Time;

#[derive(Default)]
pub(super) struct Counts {
    entries: AtomicU64,
    read: AtomicU64,
    hashed: AtomicU64,
    bytes: AtomicU64,
    differ: AtomicU64,
    linked: AtomicU64,
    watched: AtomicU64,
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

impl Counts {
    /// Notes that entries of the source were compared.
    pub fn compared(&self, entries: u64) {
        add(&self.entries, entries);
    }

    /// Notes that the MD5s of a pair of files were compared. `bytes`: the size of both together.
    pub fn hashed(&self, bytes: u64) {
        add(&self.hashed, 1);
        add(&self.bytes, bytes);
    }

    /// Notes that a name is reported to differ.
    pub fn differs(&self) {
        add(&self.differ, 1);
    }

    /// Notes that a file with more than one name was compared.
    pub fn linked(&self) {
        add(&self.linked, 1);
    }

    /// Notes that a directory was registered with the watch.
    pub fn watched(&self) {
        add(&self.watched, 1);
    }

    /// Notes that `bytes` were read.
    pub fn read(&self, bytes: u64) {
        add(&self.read, bytes);
    }

    /// Returns how many bytes were read so far, including those of pairs that are still being read.
    pub fn read_so_far(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Returns how many entries of the source were compared.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Returns how many bytes were read for MD5s.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns the numbers of the walk. `begun`: when it began. `took`: how long it took.
    pub fn summary(&self, begun: Time, took: Duration) -> Summary {
        let [entries, hashed, bytes, differ, linked, watched] =
            [&self.entries, &self.hashed, &self.bytes, &self.differ, &self.linked, &self.watched]
                .map(|counter| counter.load(Ordering::Relaxed));
        Summary { entries, hashed, bytes, differ, linked, watched, begun, took }
    }
}
