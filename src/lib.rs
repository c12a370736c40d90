//! twindir keeps a replica directory an exact twin of a source directory, one way.
//!
//! Two detectors, one writer: a watch and a sweep say _where to look_; the [`queue`](plan::queue)
//! merges that; the [`writer`] alone changes the replica, in rounds. The modules import each other
//! only downwards in this list.

#[cfg(not(target_os = "linux"))]
compile_error!("twindir needs Linux: openat2, renameat2 and statx are what keeps a replica safe");

#[cfg(feature = "parts")]
#[doc(hidden)]
pub mod parts; // some of the below, to be run alone by benchmarks
mod app; // from the command line to the exit code
mod daemon; // the loop that knows all

mod writer; // rounds: the one writer
mod sweep; // detector two: walks both trees
mod watch; // detector one: the only user of notify
mod report; // what is said, and where

mod fs; // descriptors, listings, MD5s, mounts
mod plan; // decisions, without a disk and without a clock
mod model; // paths, entries, errors, settings: the vocabulary

#[cfg(test)]
mod properties; // what holds of whatever comes in

pub use app::program::main;
