//! Pairs of small files, read whole, so that their MD5s can be computed together.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::step::OpenedPair;
use crate::fs::digest::hash_all;
use crate::fs::tree::File;
use crate::fs::view::ReplicaFile;
use crate::model::entry::{DigestPair, Entry, Md5};
use crate::model::error::WorkError;
use crate::model::path::Name;

/// Bytes to gather before they are hashed: enough for some hundred small files, and a small part of
/// the processor's caches.
const FULL: usize = 1024 * 1024;

thread_local! {
    /// The buffer of the last batch, which the next one reuses.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The contents of some pairs of files.
pub(super) struct Batch {
    bytes: Vec<u8>,
    used: usize,
    pairs: Vec<Read>,
}

/// A pair that was read.
pub(super) struct Read {
    pub name: Name,
    pub source: Entry,
    pub replica: Entry,
    /// Whether metadata or attributes differ.
    pub differs: bool,
    ours: Range<usize>,
    theirs: Theirs,
}

/// The contents of the replica's file.
enum Theirs {
    /// The range of the batch's bytes.
    Read(Range<usize>),
    Told(Md5),
}

impl Default for Batch {
    fn default() -> Self {
        Self { bytes: SPARE.take(), used: 0, pairs: Vec::new() }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        SPARE.set(std::mem::take(&mut self.bytes));
    }
}

impl Batch {
    /// Reads a pair. `differs`: whether metadata or attributes differ. `drop_behind`: as for
    /// [`append`](Self::append).
    ///
    /// # Errors
    /// Read errors, and [`WorkError::Cancelled`] once `cancel` is set.
    pub fn read(
        &mut self,
        name: &Name,
        pair: OpenedPair,
        differs: bool,
        (drop_behind, cancel): (bool, &AtomicBool),
    ) -> Result<(), WorkError> {
        if cancel.load(Ordering::Relaxed) {
            return Err(WorkError::Cancelled);
        }
        let used = self.used;
        let read = self.append_pair(&pair, drop_behind);
        if read.is_err() {
            self.used = used;
        }
        let (ours, theirs) = read?;
        let (source, replica) = (pair.source.1, pair.replica.1);
        self.pairs.push(Read { name: name.clone(), source, replica, differs, ours, theirs });
        Ok(())
    }

    fn append_pair(
        &mut self,
        pair: &OpenedPair,
        drop_behind: bool,
    ) -> Result<(Range<usize>, Theirs), WorkError> {
        let OpenedPair { source: (file, source), replica: (other, replica) } = pair;
        let ours = self.append(file, source.size, drop_behind)?;
        let theirs = match other {
            ReplicaFile::Readable(other) => {
                Theirs::Read(self.append(other, replica.size, drop_behind)?)
            }
            ReplicaFile::Told { md5, .. } => Theirs::Told(*md5),
        };
        Ok((ours, theirs))
    }

    /// Reads a file of `size` bytes, and one byte more if it became longer. Returns the range of
    /// its bytes in the batch. With `drop_behind`, a file that was not in the page cache before is
    /// dropped from it again.
    fn append(
        &mut self,
        file: &File,
        size: u64,
        drop_behind: bool,
    ) -> Result<Range<usize>, WorkError> {
        let begin = self.used;
        let end = begin + 1 + usize::try_from(size).map_err(|_| WorkError::Changed)?;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        let drop_behind = drop_behind && !file.is_cached();
        let read = file.read_at(&mut self.bytes[begin..end], 0)?;
        if drop_behind {
            file.drop_cached(0, size);
        }
        self.used = begin + read;
        Ok(begin..self.used)
    }

    pub fn is_full(&self) -> bool {
        self.used >= FULL
    }

    /// Hashes all pairs and empties the batch. Returns the pairs with their digests.
    pub fn take(&mut self) -> impl Iterator<Item = (Read, DigestPair)> + use<> {
        let messages: Vec<&[u8]> = self
            .pairs
            .iter()
            .flat_map(|pair| {
                let theirs = match &pair.theirs {
                    Theirs::Read(theirs) => Some(theirs.clone()),
                    Theirs::Told(_) => None,
                };
                [Some(pair.ours.clone()), theirs]
            })
            .flatten()
            .map(|range| &self.bytes[range])
            .collect();
        let mut digests = hash_all(&messages).into_iter();
        self.used = 0;
        std::mem::take(&mut self.pairs).into_iter().filter_map(move |pair| {
            let source = digests.next()?;
            let replica = match pair.theirs {
                Theirs::Read(_) => digests.next()?,
                Theirs::Told(md5) => md5,
            };
            Some((pair, DigestPair { source, replica }))
        })
    }
}
