//! From the command line to the exit code.

mod ask; // --status, --wait: what a twindir that runs is asked
pub mod cli; // arguments to settings
mod config_file; // settings from a file
mod limits; // what the system lets the process use
mod panics; // a bug, said and survived by nobody
pub mod program; // arguments to exit code
