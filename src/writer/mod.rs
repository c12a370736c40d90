//! The one writer: it makes every change that becomes visible in the replica (I1).
//!
//! The daemon knows it only as a [`Writer`]. Nothing above that trait uses descriptors, inodes or
//! error numbers of the replica, so a replica need not be on a file system.

pub mod fs; // a replica on a file system
#[cfg(test)]
pub mod memory; // a replica in memory, for tests of the loop
mod work; // the input and the outcome of a round

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
use crate::model::status::JobTask;
use crate::plan::deletions::Deletions;
use crate::plan::metadata::Capabilities;
use crate::plan::removal::{RemovalKind, Ruling};
use crate::plan::verified_dirs::VerifiedDirs;

/// A writer of the replica. It does rounds, one at a time, and does long work in the background. A
/// later round publishes the results of that work.
pub trait Writer {
    /// The result of some work in the background.
    type Ended;
    /// Both trees, for those that read what it writes.
    type Trees: Trees;

    /// Does one round. It also handles all results that were [given back](Self::give_back).
    ///
    /// # Errors
    /// If a root cannot be opened or is another directory now. The checks of this round and the
    /// results that were given back are lost then. A sweep is due as soon as both roots are back.
    fn round(&mut self, work: Work, waiting: &dyn Waiting) -> Result<Outcome, Lost>;

    /// Returns the channel that delivers the results of work in the background.
    fn ended(&self) -> &Receiver<Self::Ended>;

    /// Gives back a result from that channel. The next round handles it.
    fn give_back(&mut self, ended: Self::Ended);

    /// Returns the paths of the results that were given back since the last round.
    fn paths_given_back(&self) -> Vec<RelPath>;

    /// Drops the results that were given back, because a root is lost.
    fn forget_given_back(&mut self);

    /// Returns the state of the work in the background.
    fn background(&self) -> BackgroundStatus;

    /// Returns the job in the background that has run for longest, if one runs.
    fn longest_job(&self) -> Option<LongJob>;

    /// Gives up all work in the background, and removes its temporary files. Called at the end, and
    /// after a root was lost.
    fn abandon(&mut self);

    /// Returns the free space of each place that it writes to. A place whose free space is unknown
    /// is left out.
    fn free_space(&self) -> Vec<FreeSpace>;

    /// Returns the facts that the replica can store.
    fn capabilities(&self) -> &Capabilities;

    /// Returns both trees, for walks.
    fn trees(&self) -> Self::Trees;

    /// Returns the filter of entries that are excluded on both sides.
    fn filter(&self) -> &Filter;

    /// Returns the directories that are known to match their source; `None` if it does not record
    /// them.
    fn verified_dirs(&self) -> Option<&Arc<VerifiedDirs>>;

    /// Notes that a file system is mounted in the source at `path`. If it is unmounted later, its
    /// entries in the replica are kept. Returns whether this mount is new.
    fn remember_submount(&mut self, path: RelPath, id: DirId) -> bool;

    /// Returns the paths at which file systems were mounted in the source.
    fn submounts(&self) -> Vec<RelPath>;

    /// Starts periodic work that is due, such as the removal of old backups.
    fn tend(&mut self, now: Instant);

    /// Waits for the work that [`tend`](Self::tend) has started, so that a single run completes it.
    fn finish(&mut self);
}

/// The rules of removal for previews, which have no writer.
pub trait PreviewRules {
    type Trees: Trees;

    /// Decides whether the entry at a path of the replica may be removed or replaced.
    ///
    /// `standing`: its path and facts. `how`: what is to become of it, and whether the directory
    /// that holds it is append-only.
    fn ruling(
        &self,
        both: (&Self::Trees, &<Self::Trees as Trees>::Replica),
        filter: &Filter,
        deletions: Deletions,
        standing: (&RelPath, &Entry),
        how: (RemovalKind, bool),
    ) -> Ruling;
}

/// A job in the background that runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LongJob {
    pub task: JobTask,
    /// The entry that it is for; `None` if that has no name any more.
    pub path: Option<RelPath>,
    /// Bytes that were copied or read, or entries that were deleted.
    pub done: u64,
    /// Of how many; `None` if nobody knows.
    pub total: Option<u64>,
    pub begun: Instant,
}

/// The state of the work outside rounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackgroundStatus {
    /// How many big files the workers can accept, once the finished ones are published.
    pub free_workers: usize,
    /// Whether no big file is in flight, and no trash waits to be emptied.
    pub is_idle: bool,
    /// Whether no big file is in flight for a sweep.
    pub is_idle_for_sweep: bool,
    /// The earliest time at which a big file in flight was due; `None` if none is in flight.
    pub oldest: Option<Instant>,
}
