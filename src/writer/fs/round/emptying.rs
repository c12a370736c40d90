//! Directories that cannot be renamed, since their file system has them on another layer or branch
//! (overlayfs, mergerfs). They are emptied in place, bottom up, and so not removed in one piece
//! (I6). The rules of removal are applied before, as to all directories.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Round;
use crate::fs::tree::ReplicaDir;
use crate::model::error::FsErrorKind;
use crate::model::error::{FsError, WorkError, ignore_absence};
use crate::model::path::{Name, RelPath};
use crate::plan::removal::RemovalPermit;

/// How long a round empties such a directory before other work has its turn.
pub(super) const A_TURN: Duration = Duration::from_millis(20);

/// The directories that are not empty yet, with the number of their deleted entries.
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
    /// It was deleted. The number of entries since the first turn, itself included.
    Wholly(u64),
    /// There was no time to delete all of it.
    InPart,
}

/// Returns whether the error means that a directory can be neither renamed nor exchanged where it
/// lies.
pub(super) fn cannot_be_renamed(error: &FsError) -> bool {
    error.kind == FsErrorKind::CrossDevice
}

impl Round<'_> {
    /// Deletes the directory `name` in `dir`, which lies at `path`, with all that it holds. Stops
    /// after `turn`, if one is given.
    ///
    /// # Errors
    /// If an entry cannot be deleted; [`WorkError::Cancelled`]. Some entries may be deleted by
    /// then.
    pub(super) fn empty_in_place(
        &self,
        dir: &ReplicaDir,
        name: &Name,
        path: &RelPath,
        turn: Option<Duration>,
        permit: &RemovalPermit,
    ) -> Result<EmptiedInPlace, WorkError> {
        // Nobody else may look into it while it is being deleted.
        self.shut(dir, name);
        let mut removed = self.shared.emptied.lock().remove(path).unwrap_or_default();
        let result = self.empty_from(dir, RelPath::root().join(name), (turn, permit), &mut removed);
        if result == Ok(true) {
            return Ok(EmptiedInPlace::Wholly(removed));
        }
        self.shared.emptied.lock().insert(path.clone(), removed);
        result.map(|_| EmptiedInPlace::InPart)
    }

    /// Returns whether all is deleted. Only a directory and its parent are open at a time, so that
    /// a tree may have any depth.
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
            let open = match parent.open_and_grant(name.as_bytes()) {
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
            let reserved = listing.reserved().map(|name| (name, open.observe(name).is_dir()));
            let all = listing
                .iter()
                .map(|(name, hint)| (name, hint.is_dir_or(|| open.observe(name).is_dir())));
            for (entry, is_dir) in all.chain(reserved) {
                if self.shared.stop.load(Ordering::Relaxed) {
                    return Err(WorkError::Cancelled);
                }
                if is_dir {
                    waiting.extend(Name::new(entry).map(|name| here.join(&name)));
                    continue;
                }
                open.remove_file(entry, permit).or_else(ignore_absence)?;
                *removed += 1;
                // The next turn lists these directories again. A turn is at least three times as
                // long as the listing, so that listing is not most of the work.
                if turn.is_some_and(|turn| begun.elapsed() >= turn.max(3 * listing_took)) {
                    return Ok(false);
                }
            }
            if waiting.len() == before {
                parent.remove_dir(name.as_bytes(), permit).or_else(ignore_absence)?;
                *removed += 1;
                waiting.pop();
            }
        }
        Ok(true)
    }
}
