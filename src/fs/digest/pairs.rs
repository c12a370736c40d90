//! Compares pairs of big files. Several pairs are read side by side, piece by piece, so that their
//! MD5s fill the lanes. When one pair ends, the next one takes its place.

use std::sync::atomic::{AtomicBool, Ordering};

use super::lanes::Streams;
use crate::fs::tree::File;
use crate::model::entry::{DigestPair, Entry};
use crate::model::error::WorkError;

/// Number of pairs that are read side by side: they fill the 16 lanes of AVX-512. Twice as many
/// would use the registers a little better, but would spread the pairs over fewer threads.
pub const SIDE_BY_SIDE: usize = 8;

/// Bytes per read of one file.
const PIECE: usize = 64 * 1024;

/// A pair of files of equal size. `what`: the caller's name for it.
pub struct Pair<T> {
    pub what: T,
    pub source: (File, Entry),
    pub replica: (File, Entry),
}

/// A pair that is being read. `offset`: how many bytes of each file have been read.
struct RunningPair<T> {
    pair: Pair<T>,
    /// For source and replica: whether to drop what was read from the page cache again.
    drops: [bool; 2],
    offset: u64,
}

/// Compares all pairs that `next` gives, and passes each result to `tell` as soon as it is known.
/// Calls `on_read` after each round of reads with the number of bytes read. With `drop_behind`, files
/// that were not in the page cache before are dropped from it again. As with
/// [`compare`](super::compare), a result holds for the states in which the files were opened.
///
/// Once `cancel` is set it returns, without a result for the pairs that are left.
pub fn compare_all<T>(
    mut next: impl FnMut() -> Option<Pair<T>>,
    drop_behind: bool,
    on_read: impl Fn(u64),
    cancel: &AtomicBool,
    mut tell: impl FnMut(Pair<T>, Result<DigestPair, WorkError>),
) {
    let mut buffer = vec![0; SIDE_BY_SIDE * 2 * PIECE];
    let mut streams = Streams::default();
    let mut running: Vec<RunningPair<T>> = Vec::new();
    loop {
        while running.len() < SIDE_BY_SIDE
            && let Some(pair) = next()
        {
            let drops =
                [&pair.source.0, &pair.replica.0].map(|file| drop_behind && !file.is_cached());
            running.push(RunningPair { pair, drops, offset: 0 });
            streams.push();
            streams.push();
        }
        if running.is_empty() || cancel.load(Ordering::Relaxed) {
            return;
        }
        let lengths: Vec<_> = running
            .iter()
            .zip(buffer.chunks_mut(2 * PIECE))
            .map(|(one, piece)| one.read(piece))
            .collect();
        let pieces: Vec<&[u8]> = lengths
            .iter()
            .zip(buffer.chunks(2 * PIECE))
            .flat_map(|(lengths, piece)| {
                let (ours, theirs) = piece.split_at(PIECE);
                let (source, replica) = *lengths.as_ref().unwrap_or(&(0, 0));
                [&ours[..source], &theirs[..replica]]
            })
            .collect();
        streams.update(&pieces);
        on_read(pieces.iter().map(|piece| piece.len() as u64).sum());
        for (at, lengths) in lengths.into_iter().enumerate().rev() {
            running[at].offset += PIECE as u64;
            let is_over = running[at].offset > running[at].pair.source.1.size;
            match lengths {
                // A file that became shorter has another digest.
                Ok((source, replica)) if !is_over && source.max(replica) == PIECE => {}
                lengths => {
                    // The last pair takes the place of this one. The same holds for its two
                    // streams.
                    let replica = streams.end(2 * at + 1);
                    let source = streams.end(2 * at);
                    let RunningPair { pair, .. } = running.swap_remove(at);
                    tell(pair, lengths.map(|_| DigestPair { source, replica }));
                }
            }
        }
    }
}

impl<T> RunningPair<T> {
    /// Reads the next piece of both files. Returns the number of bytes read of each.
    fn read(&self, piece: &mut [u8]) -> Result<(usize, usize), WorkError> {
        let (ours, theirs) = piece.split_at_mut(PIECE);
        // One byte more than expected, to notice a file that became longer.
        let want = |entry: &Entry| {
            usize::try_from((entry.size + 1).saturating_sub(self.offset))
                .unwrap_or(PIECE)
                .min(PIECE)
        };
        let Pair { source, replica, .. } = &self.pair;
        let lengths = (
            source.0.read_at(&mut ours[..want(&source.1)], self.offset)?,
            replica.0.read_at(&mut theirs[..want(&replica.1)], self.offset)?,
        );
        for (file, _) in
            [&source.0, &replica.0].into_iter().zip(self.drops).filter(|(_, drops)| *drops)
        {
            file.drop_cached(self.offset, PIECE as u64);
        }
        Ok(lengths)
    }
}
