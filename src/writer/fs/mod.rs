//! A replica on a file system.

pub mod backup; // keeps entries that are deleted or overwritten
pub mod big_files; // compares and copies big files, outside rounds
pub mod copy; // one file or symlink, atomically
pub mod probe; // finds out what the replica's file system can store
pub mod progress; // how far work in the background is
pub mod pruning; // removes old backups
pub mod round; // what one round does
pub mod trash; // empties trash, outside rounds
