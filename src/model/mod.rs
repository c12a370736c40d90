//! The vocabulary: names, metadata, errors, settings. No I/O and no clock.

pub mod check; // which names to check, how closely, and for which detector
pub mod config; // the settings
pub mod entry; // one name on one side: absent, unknown, or present
pub mod error; // errors of one entry
pub mod human; // numbers, sizes and times for people
pub mod limit; // `--max-delete`
pub mod log_name; // the names of a rotated log
pub mod path; // names and paths of any bytes
pub mod reason; // the reasons of actions
pub mod status;
pub mod task; // the purpose of a walk
