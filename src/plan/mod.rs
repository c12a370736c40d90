//! What is decided, by rules that can be tried without a disk: no I/O, and times come in as
//! arguments.

pub mod decide; // two entries in, one action out
pub mod deletions; // whether what the source lacks may go
pub mod failures; // what failed, and when it is tried again
pub mod guard; // whether deletions are believed
pub mod hard_links; // names that are one file
pub mod metadata; // which facts are mirrored and differ, and whom that lets in
pub mod pending_widen; // directories that stay closed, and when they are looked into again
pub mod queue; // where to look, merged
pub mod removal; // whether an entry may be deleted, replaced or renamed
pub mod verified_dirs; // directories that are one in two trees
pub mod widen; // when a directory may let in more people
