//! Whether what the source lacks may go from the replica.

/// Whether what the source lacks may go from the replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deletions {
    Followed,
    /// The guard has not (yet) found the source to be trusted: nothing goes. So many new entries may come: more would
    /// hide how much of the replica is to go.
    Held {
        create_budget: u64,
    },
}

impl Deletions {
    pub fn are_held(self) -> bool {
        self != Self::Followed
    }

    /// How many new entries may come.
    pub fn create_budget(self) -> u64 {
        match self {
            Self::Followed => u64::MAX,
            Self::Held { create_budget } => create_budget,
        }
    }
}
