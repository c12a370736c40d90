//! Comparison of big files. Pairs of several directories are read side by side.

use std::sync::{Arc, Mutex, PoisonError};

use super::step::{BigPair, OpenedPair, ReplicaDirHint, Step};
use super::subtree::DirVerdict;
use super::{Message, Walker};
use crate::fs::digest::{Pair, SIDE_BY_SIDE, compare_all};
use crate::fs::view::{ReplicaFile, ReplicaView, Trees};
use crate::model::check::CachedDigests;
use crate::model::entry::DigestPair;
use crate::model::error::WorkError;
use crate::model::path::{Name, RelPath};

/// Fewest pairs for which another thread is worthwhile. With fewer, lanes are idle.
const SHARE: usize = SIDE_BY_SIDE / 2;

/// Pairs that wait until there are enough to be read together.
#[derive(Default)]
pub(super) struct BigPairs(Mutex<Vec<BigPair>>);

impl BigPairs {
    /// Adds a pair. Returns all pairs that wait once there are [`SIDE_BY_SIDE`] of them.
    fn put_off(&self, big: BigPair) -> Option<Vec<BigPair>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(big);
        (waiting.len() >= SIDE_BY_SIDE).then(|| std::mem::take(&mut *waiting))
    }

    /// Returns the pairs that still wait, in equal shares for up to `threads` threads. Only the
    /// last share may have fewer than [`SHARE`] pairs.
    pub fn rest(&self, threads: usize) -> Vec<Vec<BigPair>> {
        let mut waiting =
            std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let share = waiting.len().div_ceil(threads.max(1)).max(SHARE);
        let mut shares = Vec::new();
        while !waiting.is_empty() {
            let rest = waiting.split_off(share.min(waiting.len()));
            shares.push(std::mem::replace(&mut waiting, rest));
        }
        shares
    }
}

impl<T: Trees> Walker<'_, T> {
    pub(super) fn put_off(
        &self,
        (dir, subtree): (&RelPath, &Arc<DirVerdict>),
        name: Name,
        more: &mut Vec<Step>,
    ) {
        let big = BigPair { dir: dir.clone(), subtree: Arc::clone(subtree), name };
        more.extend(self.bigs.put_off(big).map(Step::BigPairs));
    }

    pub(super) fn compare_bigs(&self, bigs: Vec<BigPair>) {
        // With a rate limit, a second thread would gain nothing.
        let alone = bigs.len() == 1 && self.plan.rate.is_none();
        // A pair whose MD5 the replica's keeper has reported is compared alone: it would fill one
        // lane.
        let mut bigs = bigs.into_iter();
        let mut next = || {
            bigs.find_map(|big| {
                let (big, pair) = self.open_big(big)?;
                match pair {
                    OpenedPair { source, replica: (ReplicaFile::Readable(file), entry) }
                        if !alone =>
                    {
                        Some(Pair { what: big, source, replica: (file, entry) })
                    }
                    // For a single pair, a thread for each side is faster than two lanes.
                    pair => {
                        self.compare_alone(big, &pair);
                        None
                    }
                }
            })
        };
        let read = |bytes| {
            self.counts.read(bytes);
            self.rate.wait_after(bytes, self.cancel);
        };
        compare_all(&mut next, self.drops_behind(), read, self.cancel, |pair, digests| {
            let Pair { what: big, source, replica: (file, entry) } = pair;
            let replica = (ReplicaFile::Readable(file), entry);
            self.report_big(big, &OpenedPair { source, replica }, digests);
        });
    }

    fn compare_alone(&self, big: BigPair, pair: &OpenedPair) {
        let OpenedPair { source: (file, source), replica: (other, replica) } = pair;
        let digests = other.compare_large(replica, (file, source), self.cancel, &|bytes| {
            self.counts.read(bytes);
        });
        self.rate.wait_after(source.size, self.cancel);
        self.report_big(big, pair, digests);
    }

    /// Opens a pair. If it cannot be compared, reports it for a check by a round, and returns
    /// `None`.
    fn open_big(&self, big: BigPair) -> Option<(BigPair, OpenedPair)> {
        let BigPair { dir, name, subtree } = &big;
        let Some((source, replica)) = self.open_both(dir, ReplicaDirHint::Exists) else {
            subtree.mark_different();
            return None;
        };
        subtree.verify_identity(&source, replica.as_ref());
        let open = || -> Result<OpenedPair, WorkError> {
            let ours = source.open_file(name.as_bytes())?;
            let theirs = replica.as_ref().ok_or(WorkError::Changed)?.open_file(name.as_bytes())?;
            Ok(OpenedPair { source: ours, replica: theirs })
        };
        match open() {
            Ok(pair) if pair.are_of_one_size() => Some((big, pair)),
            _ => {
                subtree.mark_different();
                self.report_pair(big, None);
                None
            }
        }
    }

    fn report_big(&self, big: BigPair, pair: &OpenedPair, digests: Result<DigestPair, WorkError>) {
        let judged = digests.and_then(|digests| {
            let differs = self.metadata_differs(pair)?;
            if differs || !digests.same() {
                big.subtree.mark_different();
            }
            Ok(self.judge(&pair.source.1, &pair.replica.1, digests, differs))
        });
        match judged {
            Ok(None) | Err(WorkError::Cancelled) => {}
            Ok(Some(cached)) => self.report_pair(big, Some(cached)),
            Err(WorkError::Changed | WorkError::FsError(_)) => {
                big.subtree.mark_different();
                self.report_pair(big, None);
            }
        }
    }

    fn report_pair(&self, big: BigPair, cached: Option<CachedDigests>) {
        self.counts.differs();
        self.send(Message::Differ(big.dir, vec![(big.name, self.found(cached))]));
    }
}
