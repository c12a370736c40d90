//! Decisions, as rules that can be tested without a disk: no I/O, and times are arguments.

pub mod decide; // two entries in, one action out
pub mod deletions; // what a round may delete
pub mod failures; // failed paths, and when they are retried
pub mod guard; // whether the source is trusted with deletions
pub mod hard_links; // names that are one file
pub mod metadata; // which metadata is mirrored, what differs, and what grants more access
pub mod pending_widen; // directories that cannot be widened yet, and when they are checked again
pub mod queue; // checks, merged and in order
pub mod removal; // whether an entry may be deleted, replaced or renamed
pub mod verified_dirs; // directories of the replica that are known to match their source
pub mod widen; // when a directory may be widened
