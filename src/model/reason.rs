//! The reasons of actions.

/// The reason of an action, as the log names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    New,
    Size,
    Md5,
    Metadata,
    Target,
    Kind,
    Removed,
    /// Renamed in the source.
    Moved,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::New => "new",
            Reason::Size => "size",
            Reason::Md5 => "md5",
            Reason::Metadata => "metadata",
            Reason::Target => "target",
            Reason::Kind => "kind",
            Reason::Removed => "removed",
            Reason::Moved => "moved",
        }
    }
}
