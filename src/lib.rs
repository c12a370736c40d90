//! twindir keeps a replica directory an exact twin of a source directory, one way.
//!
//! Two detectors, a watch and a sweep, report which entries to check. The [`queue`](plan::queue)
//! merges their reports. The [`writer`] alone changes the replica, in rounds. Each module imports
//! only modules below it in this list.

#[cfg(not(target_os = "linux"))]
compile_error!("twindir needs Linux: openat2, renameat2 and statx are what keeps a replica safe");

#[cfg(feature = "parts")]
#[doc(hidden)]
pub mod parts; // parts of the modules below, for benchmarks
mod app; // from the command line to the exit code
mod daemon; // the main loop, startup and previews

mod writer; // the one writer, in rounds
mod sweep; // detector two: walks both trees
mod watch; // detector one: the only user of notify
mod report; // lines for the log and the console

mod fs; // descriptors, listings, MD5s, mounts
mod plan; // decisions, without a disk and without a clock
mod model; // the vocabulary: paths, entries, errors, settings

#[cfg(test)]
mod properties; // tests with random cases

pub use app::program::main;
