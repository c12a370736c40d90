//! The vocabulary: names, facts, errors, settings. No I/O and no clock.

pub mod config; // the settings
pub mod entry; // what is known of one name on one side
pub mod error; // what can go wrong with it
pub mod path; // names and paths of any bytes
