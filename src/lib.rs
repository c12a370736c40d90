//! twindir keeps a replica directory an exact twin of a source directory, one way.
//!
//! Two detectors, one writer: a sweep (and, in time, a watch) says _where to look_; the
//! [`queue`] merges that; the [`reconcile`]r alone changes the replica, in rounds. The modules
//! import each other only downwards in this list.

#[cfg(not(target_os = "linux"))]
compile_error!("twindir needs Linux: openat2, renameat2 and statx are what keeps a replica safe");

mod carrier;
mod cli;
mod config;
mod copy;
mod daemon;
mod decide;
mod digest;
mod entry;
mod filter;
mod guard;
mod mounts;
mod parallel;
mod path;
mod program;
mod queue;
mod reaper;
mod reconcile;
mod report;
mod roots;
mod sweep;
mod tree;
mod troubles;

pub use program::main;
