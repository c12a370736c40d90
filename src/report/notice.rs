//! Notices: lines that are logged once for each path, and are no problems.

use crate::model::entry::Special;
use crate::model::path::RelPath;

/// The kind of a notice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Notice {
    /// The source has an entry there that is never mirrored.
    Special(Special),
    /// A name of the source has the form of twindir's own temporary names.
    Reserved,
    /// The replica keeps a directory that the source lacks, because it holds excluded entries.
    HoldsExcluded,
    /// The file system that was mounted there in the source is no longer mounted. The replica keeps
    /// its copy.
    Unmounted,
    /// Its mtime is earlier or later than the replica's file system can store.
    Time,
    /// The contents end before or after the size that the file shows.
    Size,
}

impl Notice {
    fn text(self) -> &'static str {
        match self {
            Notice::Special(special) => special.skip_reason(),
            Notice::Reserved => {
                "not mirrored: its name has the form of twindir's own temporary names"
            }
            Notice::HoldsExcluded => {
                "kept in the replica, with the entries in it that are excluded"
            }
            Notice::Unmounted => {
                "kept in the replica: the file system that held it in the source is no longer mounted (mount it again; \
                 or restart twindir, and it is deleted)"
            }
            Notice::Time => {
                "its mtime is earlier or later than the replica's file system can store: the nearest is stored, and compared \
                 as the same (others like it are not named)"
            }
            Notice::Size => {
                "its contents do not end where its size says: they are read to their end, and that is mirrored (others like \
                 it are not named)"
            }
        }
    }

    /// Returns whether one line is enough for all paths.
    pub fn is_general(self) -> bool {
        matches!(self, Notice::Time | Notice::Size)
    }

    /// Logs the notice: as a warning if it may be a surprise, else as a note.
    pub fn log(self, path: &RelPath) {
        let text = self.text();
        match self {
            Notice::Special(_) | Notice::HoldsExcluded | Notice::Time | Notice::Size => {
                tracing::info!(op = "note", path = %path, "{text}");
            }
            Notice::Reserved | Notice::Unmounted => {
                tracing::warn!(op = "warning", path = %path, "{text}");
            }
        }
    }
}
