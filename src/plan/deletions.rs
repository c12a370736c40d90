//! What a round may delete.

/// The permission to delete what the source lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deletions {
    Followed,
    /// The guard does not trust the source (yet): nothing is deleted. `create_budget` is the number
    /// of new entries that may be created, `None` for no limit. More of them would hide how large a
    /// share of the replica is to be deleted.
    Held {
        create_budget: Option<u64>,
    },
}

impl Deletions {
    pub fn are_held(self) -> bool {
        self != Self::Followed
    }

    /// Returns how many new entries may be created; `None` for no limit.
    pub fn create_budget(self) -> Option<u64> {
        match self {
            Self::Followed => None,
            Self::Held { create_budget } => create_budget,
        }
    }
}
