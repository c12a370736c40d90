//! What a walk is for.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Names only: how many entries would be deleted.
    Count,
    /// All facts that one look tells, and the MD5 of each pair whose source may have changed since
    /// it was copied.
    Quick,
    /// All facts, and the MD5 of each pair of equal size.
    Full,
}
