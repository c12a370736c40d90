//! The file system: the only system calls on entries. What they are for is not known here.

pub mod clock; // the clock of the system
pub mod digest; // MD5 of files
pub mod errno; // what the numbers of errors mean
pub mod filter; // what is left alone
pub mod mounts; // what the kernel says of mounts
pub mod parallel; // one phase on all cores
pub mod renamers; // who could have put a directory in its place
pub mod roots; // where the two trees lie, and whether they still do
pub mod tree; // the only user of file system calls on entries
pub mod view; // how both trees are read, wherever the replica is kept
pub mod writeback; // when the kernel writes back what was changed in memory
