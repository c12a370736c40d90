//! The way from the command line to the exit code.

mod ask; // --status, --wait: questions to a running twindir
pub mod cli; // arguments to settings
mod config_file; // settings from a file
mod generate; // man page, completions
pub mod habits; // answers to command lines of other tools
mod limits; // what the system lets the process use
mod panics; // a panic in any thread is reported
pub mod program; // main: arguments to exit code
