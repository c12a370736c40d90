//! Directories that cannot be renamed: their file system has them on another layer or branch
//! (overlayfs, mergerfs). They are emptied where they stand, bottom up, so that they do not go in
//! one piece (I6). What may go is asked before, as ever.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Round;
use crate::fs::tree::ReplicaDir;
use crate::model::error::FsErrorKind;
use crate::model::error::{FsError, WorkError, gone_is_fine};
use crate::model::path::{Name, RelPath};
use crate::plan::removal::RemovalPermit;

/// How long a round removes entries of such a directory before others have their turn.
pub(super) const A_TURN: Duration = Duration::from_millis(20);

/// Of each such directory that is not empty yet, how many entries have gone.
#[derive(Default)]
pub(super) struct Emptying(Mutex<HashMap<RelPath, u64>>);

impl Emptying {
    pub fn has(&self, path: &RelPath) -> bool {
        self.lock().contains_key(path)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RelPath, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far a directory was emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EmptiedInPlace {
    /// It is gone, with so many entries since the first turn, itself included.
    Wholly(u64),
    /// There was no time for more.
    InPart,
}

/// Whether a directory cannot be renamed, nor exchanged, for where it lies.
pub(super) fn cannot_be_renamed(error: &FsError) -> bool {
    error.kind == FsErrorKind::CrossDevice
}

impl Round<'_> {
    /// Removes the directory `name` in `dir`, which lies at `path`, with all that it holds, as far
    /// as it gets in a `turn`.
    ///
    /// # Errors
    /// What cannot be removed, and [`WorkError::Cancelled`]. What was removed by then is gone.
    pub(super) fn empty_in_place(
        &self,
        dir: &ReplicaDir,
        name: &Name,
        path: &RelPath,
        turn: Option<Duration>,
        permit: &RemovalPermit,
    ) -> Result<EmptiedInPlace, WorkError> {
        // What is being removed is nobody's to see.
        self.shut(dir, name);
        let mut removed = self.shared.emptied.lock().remove(path).unwrap_or_default();
        let result = self.empty_from(dir, RelPath::root().join(name), (turn, permit), &mut removed);
        if result == Ok(true) {
            return Ok(EmptiedInPlace::Wholly(removed));
        }
        self.shared.emptied.lock().insert(path.clone(), removed);
        result.map(|_| EmptiedInPlace::InPart)
    }

    /// Whether all is gone. One directory is open at a time: a tree may be as deep as it likes.
    fn empty_from(
        &self,
        dir: &ReplicaDir,
        top: RelPath,
        (turn, permit): (Option<Duration>, &RemovalPermit),
        removed: &mut u64,
    ) -> Result<bool, WorkError> {
        let begun = Instant::now();
        let mut listing_took = Duration::ZERO;
        let mut waiting = vec![top];
        while let Some((above, name)) = waiting.last().and_then(RelPath::split) {
            let parent = dir.open(&above)?;
            let open = match parent.open_unlocked(name.as_bytes()) {
                Err(error) if error.is_absence() => {
                    waiting.pop();
                    continue;
                }
                other => other?,
            };
            let listed = Instant::now();
            let listing = open.list()?;
            listing_took += listed.elapsed();
            let here = above.join(&name);
            let before = waiting.len();
            let reserved = listing.reserved().map(|name| (name, open.look(name).is_dir()));
            let all = listing
                .iter()
                .map(|(name, hint)| (name, hint.is_dir_or(|| open.look(name).is_dir())));
            for (entry, is_dir) in all.chain(reserved) {
                if self.shared.stop.load(Ordering::Relaxed) {
                    return Err(WorkError::Cancelled);
                }
                if is_dir {
                    waiting.extend(Name::new(entry).map(|name| here.join(&name)));
                    continue;
                }
                open.remove_file(entry, permit).or_else(gone_is_fine)?;
                *removed += 1;
                // What was listed is listed again in the next turn: that should not be most of the
                // work.
                if turn.is_some_and(|turn| begun.elapsed() >= turn.max(3 * listing_took)) {
                    return Ok(false);
                }
            }
            if waiting.len() == before {
                parent.remove_dir(name.as_bytes(), permit).or_else(gone_is_fine)?;
                *removed += 1;
                waiting.pop();
            }
        }
        Ok(true)
    }
}
