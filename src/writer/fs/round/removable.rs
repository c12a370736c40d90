//! Answers the questions of the rules of removal, for a replica on a file system.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::excluded::removable_part;
use super::submounts::SourceSubmounts;
use crate::fs::filter::Filter;
use crate::fs::mounts;
use crate::fs::roots::Roots;
use crate::fs::tree::Dir;
use crate::model::entry::{Entry, Observed};
use crate::model::error::{FsError, FsErrorKind, Side};
use crate::model::path::RelPath;
use crate::plan::deletions::Deletions;
use crate::plan::removal::{Removable, RemovalFacts, RemovalKind, RemovalPermit, Ruling, rule};
use crate::writer::PreviewRules;

/// Why a directory stays in which another file system is mounted.
const MOUNTED: FsError =
    FsError::found("move a directory with a mount in it", Side::Replica, FsErrorKind::HoldsMount);

/// Why a directory stays in which somebody has put the source.
const HOLDS_SOURCE: FsError = FsError::found(
    "move a directory with the source in it",
    Side::Replica,
    FsErrorKind::HoldsSource,
);

/// The mount points. Read once, and only when a directory is to be deleted, replaced or moved.
#[derive(Default)]
pub struct MountPoints(OnceLock<Vec<PathBuf>>);

/// The facts for the rules of removal.
pub struct RemovalRules<'a> {
    pub roots: &'a Roots,
    /// The replica's root, open.
    pub replica: &'a Dir,
    pub filter: &'a Filter,
    pub deletions: Deletions,
    /// The source's open root, and the file systems that were mounted in it. `None` for previews,
    /// which remember none.
    pub submounts: Option<(&'a Dir, &'a SourceSubmounts)>,
    pub mounts: &'a MountPoints,
}

impl PreviewRules for MountPoints {
    type Trees = Roots;

    fn ruling(
        &self,
        (roots, replica): (&Roots, &Dir),
        filter: &Filter,
        deletions: Deletions,
        (path, entry): (&RelPath, &Entry),
        (removal_kind, is_in_append_only): (RemovalKind, bool),
    ) -> Ruling {
        let rules =
            RemovalRules { roots, replica, filter, deletions, submounts: None, mounts: self };
        rules.on(path, entry, removal_kind, is_in_append_only)
    }
}

/// An entry that stands at a path of the replica.
struct StandingEntry<'a> {
    rules: &'a RemovalRules<'a>,
    path: &'a RelPath,
    entry: &'a Entry,
    is_in_append_only: bool,
}

impl RemovalFacts for StandingEntry<'_> {
    fn entry(&self) -> &Entry {
        self.entry
    }

    fn is_in_append_only(&self) -> bool {
        self.is_in_append_only
    }

    fn lost_mount(&self) -> Option<RelPath> {
        self.rules.lost_mount(self.path).cloned()
    }

    fn obstacle(&self) -> Option<FsError> {
        let roots = self.rules.roots;
        let Ok(root) = roots.replica.path.canonicalize() else { return Some(MOUNTED) };
        let dir = root.join(OsStr::from_bytes(self.path.as_bytes()));
        if self
            .rules
            .mounts
            .0
            .get_or_init(mounts::points)
            .iter()
            .any(|point| point.starts_with(&dir))
        {
            return Some(MOUNTED);
        }
        let source = roots.source.path.canonicalize();
        source.map_or(true, |source| source.starts_with(&dir)).then_some(HOLDS_SOURCE)
    }

    fn removable_part(&self) -> Removable {
        removable_part(self.rules.replica, self.path, self.rules.filter)
    }
}

impl RemovalRules<'_> {
    /// Decides whether the entry at a path of the replica may be removed, replaced or renamed. The
    /// caller has to prove that the source lacks it (I5).
    ///
    /// `is_in_append_only`: whether the directory that holds it is append-only.
    pub fn on(
        &self,
        path: &RelPath,
        entry: &Entry,
        removal_kind: RemovalKind,
        is_in_append_only: bool,
    ) -> Ruling {
        rule(
            &StandingEntry { rules: self, path, entry, is_in_append_only },
            removal_kind,
            self.deletions,
        )
    }

    /// Decides whether the entry at a path may be replaced; `None` if the path is free.
    pub fn on_replacing(
        &self,
        path: &RelPath,
        standing: &Observed,
        is_in_append_only: bool,
    ) -> Option<Ruling> {
        match standing {
            // A new entry replaces nothing there.
            Observed::Absent | Observed::Unobserved => None,
            Observed::Unknown(_) => Some(Ruling::Allowed(RemovalPermit::for_unknown())),
            Observed::Present(entry) => {
                Some(self.on(path, entry, RemovalKind::Replaced, is_in_append_only))
            }
        }
    }

    /// Returns a mount at, above or below `path` that the source has lost.
    pub fn lost_mount(&self, path: &RelPath) -> Option<&RelPath> {
        let (source, submounts) = self.submounts?;
        submounts.lost(path, source, &self.roots.source.path)
    }
}
