//! Entries that must not be deleted, whatever fails: those that both sides hold alike, as long as
//! the source has them. And nothing is torn: the replica shows only what the source had at some
//! time.

use std::collections::{BTreeSet, HashSet};

use super::trees::Tree;
use crate::model::path::testing::path;
use crate::model::path::{Name, RelPath};
use crate::plan::deletions::Deletions;
use crate::plan::queue::Rename;

/// The entries that both sides hold alike, and all that the source ever held.
#[derive(Default)]
pub struct KeptEntries {
    verified_dirs: Tree,
    /// The paths that the replica showed last.
    shown: BTreeSet<String>,
    known: HashSet<String>,
}

impl KeptEntries {
    /// Notes that the source was changed.
    pub fn source_is(&mut self, source: &Tree) {
        self.verified_dirs.retain(|path, what| source.get(path) == Some(what));
        self.known.extend(source.values().cloned());
    }

    /// Checks the replica after a round that was to follow `moves`. While deletions are held, no
    /// name may disappear.
    ///
    /// # Errors
    /// The violation, in words.
    pub fn replica_is(
        &mut self,
        replica: &Tree,
        source: &Tree,
        moves: &[Rename],
        deletions: Deletions,
    ) -> Result<(), String> {
        let shown = replica.keys().filter(|path| !is_hidden(path)).cloned().collect();
        let before = std::mem::replace(&mut self.shown, shown);
        if deletions.are_held()
            && let Some(path) = before.difference(&self.shown).next()
        {
            return Err(format!("{path:?} has gone while deletions were held"));
        }
        self.verified_dirs.retain(|path, what| !may_move(path, what, moves));
        for (path, what) in &self.verified_dirs {
            let now = replica.get(path);
            if now != Some(what) {
                return Err(format!("{path:?}: both had {what}, the replica has {now:?}"));
            }
        }
        let shown = replica.iter().filter(|(path, _)| !is_hidden(path));
        if let Some((path, what)) = shown.into_iter().find(|(_, what)| !self.known.contains(*what))
        {
            return Err(format!("{path:?}: the source never had {what}"));
        }
        let verified_dirs = source.iter().filter(|(path, what)| replica.get(*path) == Some(what));
        self.verified_dirs =
            verified_dirs.map(|(path, what)| (path.clone(), what.clone())).collect();
        Ok(())
    }
}

/// Returns whether a rename may take an entry away for a while: an entry below one of its ends, or
/// at its new name. Also a directory at its old name, since it leaves an empty one there. A new
/// file at the old name stays.
fn may_move(name: &str, what: &str, moves: &[Rename]) -> bool {
    let name = path(name);
    let leaves = |from: &RelPath| name.is_within(from) && (name != *from || what == "directory");
    moves.iter().any(|rename| name.is_within(&rename.to) || leaves(&rename.from))
}

/// Returns whether a path has a temporary name in it.
fn is_hidden(name: &str) -> bool {
    name.split('/').filter_map(|part| Name::new(part.as_bytes())).any(|part| part.is_reserved())
}
