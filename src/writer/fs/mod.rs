//! A replica on a file system.

pub mod backup; // what leaves the replica is kept
pub mod big_files; // big files, outside rounds
pub mod copy; // one file or symlink, atomically
pub mod probe; // what the replica's file system keeps
pub mod pruning; // old backups are removed
pub mod round; // what one round does
pub mod trash; // trees put aside, outside rounds
