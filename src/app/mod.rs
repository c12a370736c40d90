//! From the command line to the exit code.

pub mod cli; // arguments to settings
mod limits; // what the system lets the process use
mod panics; // a bug, said and survived by nobody
pub mod program; // arguments to exit code
