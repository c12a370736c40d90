//! The one writer: all that becomes visible in the replica is done here (I1).
//!
//! [`Writer`] is all that the daemon knows of it. Nothing above it knows descriptors, inodes or
//! error numbers of the replica, so that a replica may be kept elsewhere than on a file system.

pub mod fs; // a replica on a file system
#[cfg(test)]
pub mod memory; // one in memory, for tests of the loop
mod work; // what goes into a round, and what comes of it

pub use work::{Outcome, Requeue, Waiting, Work};

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;

use crate::fs::filter::Filter;
use crate::fs::roots::Lost;
use crate::fs::tree::{DirId, FreeSpace};
use crate::fs::view::Trees;
use crate::model::entry::Entry;
use crate::model::path::RelPath;
use crate::plan::deletions::Deletions;
use crate::plan::metadata::Capabilities;
use crate::plan::removal::{RemovalKind, Ruling};
use crate::plan::verified_dirs::VerifiedDirs;

/// What keeps the replica. It does rounds, one at a time, and goes on with what takes long in the
/// background; what has ended there is published by a later round.
pub trait Writer {
    /// Something that has ended in the background.
    type Ended;
    /// How what it writes is read.
    type Trees: Trees;

    /// Does one round, and takes up all that was [given back](Self::give_back).
    ///
    /// # Errors
    /// Where a root is not what it was. What the round was to look at is lost then, and so is what
    /// is on its way: a sweep is due as soon as the roots stand again.
    fn round(&mut self, work: Work, waiting: &dyn Waiting) -> Result<Outcome, Lost>;

    /// Where comes out what has ended in the background.
    fn ended(&self) -> &Receiver<Self::Ended>;

    /// Gives back something that has come out there, for the next round to take up.
    fn give_back(&mut self, ended: Self::Ended);

    /// The paths of what was given back since the last round.
    fn paths_given_back(&self) -> Vec<RelPath>;

    /// Forgets what was given back: a root is lost, and nothing can be done with it.
    fn forget_given_back(&mut self);

    /// What goes on in the background.
    fn background(&self) -> BackgroundStatus;

    /// Gives up all that goes on in the background, and what it has left half done. For the end, or
    /// after a root was lost.
    fn abandon(&mut self);

    /// What can still be written to each place that is written to; none where that cannot be told.
    fn free_space(&self) -> Vec<FreeSpace>;

    /// What the replica can keep.
    fn capabilities(&self) -> &Capabilities;

    /// Both trees, for walks.
    fn trees(&self) -> Self::Trees;

    /// What is left alone on both sides.
    fn filter(&self) -> &Filter;

    /// Where directories are noted that are known to match their source, if they are.
    fn verified_dirs(&self) -> Option<&Arc<VerifiedDirs>>;

    /// Notes that a file system is mounted in the source at `path`. Should it go away, what the
    /// replica has of it is kept. Whether it was not known.
    fn remember_submount(&mut self, path: RelPath, id: DirId) -> bool;

    /// Where file systems were mounted in the source.
    fn submounts(&self) -> Vec<RelPath>;

    /// Does what is due now and then, beside all else.
    fn tend(&mut self, now: Instant);

    /// Waits for what [`tend`](Self::tend) has begun, so that a single run does all of its work.
    fn finish(&mut self);
}

/// What a preview asks in the writer's place.
pub trait PreviewRules {
    type Trees: Trees;

    /// Whether the entry that stands at a path of the replica may be removed or replaced.
    ///
    /// `is_in_append_only`: whether the directory that holds it is append-only.
    fn ruling(
        &self,
        both: (&Self::Trees, &<Self::Trees as Trees>::Replica),
        filter: &Filter,
        deletions: Deletions,
        standing: (&RelPath, &Entry),
        how: (RemovalKind, bool),
    ) -> Ruling;
}

/// What the writer does beside rounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackgroundStatus {
    /// Big files that could be taken on, once those are published that have ended.
    pub free_workers: usize,
    /// Whether nothing is on its way.
    pub is_idle: bool,
    /// Whether nothing is that a sweep has asked for.
    pub is_idle_for_sweep: bool,
    /// Since when the big file is due that has been so for longest.
    pub oldest: Option<Instant>,
}
