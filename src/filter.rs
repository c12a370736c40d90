//! What is left alone on both sides.

use crate::path::{Name, RelPath};
use crate::report::is_log_name;

/// Entries that are neither mirrored from the source nor removed from the replica.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Where the log file lies, if that is inside the source: its directory and its name.
    pub log: Option<(RelPath, Name)>,
}

impl Filter {
    pub fn excludes(&self, dir: &RelPath, name: &[u8]) -> bool {
        match &self.log {
            Some((log_dir, log)) => log_dir == dir && is_log_name(name, log.as_bytes()),
            None => false,
        }
    }
}
