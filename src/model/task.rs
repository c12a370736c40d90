//! The purpose of a walk.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Compares names only, to count deletions.
    Count,
    /// Compares metadata, and the MD5 of each pair whose source may have changed since it was
    /// copied.
    Quick,
    /// Compares metadata, and the MD5 of each pair of equal size.
    Full,
}
