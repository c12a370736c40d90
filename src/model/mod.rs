//! The vocabulary: names, facts, errors, settings. No I/O and no clock.

pub mod check; // what is to be looked at, how closely, and for whom
pub mod config; // the settings
pub mod entry; // what is known of one name on one side
pub mod error; // what can go wrong with it
pub mod human; // numbers, sizes and times as one says them
pub mod limit; // how much may be deleted unasked
pub mod log_name; // the names of a rotated log
pub mod path; // names and paths of any bytes
pub mod reason; // why an entry is acted upon
pub mod status;
pub mod task; // what a walk is for
