//! Access to the file system: the only place that makes system calls on entries. It does not know
//! what the calls are for.

pub mod clock; // the system clock
pub mod digest; // MD5 of files
pub mod errno; // errno values as `FsErrorKind`
pub mod filter; // which entries are excluded
pub mod mounts; // the kernel's mount table
pub mod parallel; // runs the tasks of one phase on all cores
pub mod renamers; // which other users could have moved a directory
pub mod roots; // both roots, and whether they are still the same directories
pub mod tree; // the only user of system calls on entries
pub mod view; // how sweeps and previews read both trees
pub mod writeback; // how long the kernel keeps changed pages in memory
