//! Whether what the source lacks may go from the replica.

/// Whether what the source lacks may go from the replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deletions {
    Followed,
    /// The guard has not (yet) found the source to be trusted: nothing goes. Of new entries so many
    /// may be created, where that is limited: more would hide how much of the replica is to be
    /// deleted.
    Held {
        create_budget: Option<u64>,
    },
}

impl Deletions {
    pub fn are_held(self) -> bool {
        self != Self::Followed
    }

    /// How many new entries may be created; `None` where that is not limited.
    pub fn create_budget(self) -> Option<u64> {
        match self {
            Self::Followed => None,
            Self::Held { create_budget } => create_budget,
        }
    }
}
