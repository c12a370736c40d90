//! What must not go, whatever fails: what the replica holds as the source does, for as long as the
//! source has it. And nothing is torn: what the replica shows is what the source had at some time.

use std::collections::{BTreeSet, HashSet};

use super::trees::Tree;
use crate::model::path::testing::path;
use crate::model::path::{Name, RelPath};
use crate::plan::deletions::Deletions;
use crate::plan::queue::Rename;

/// What both sides hold, and all that the source ever held.
#[derive(Default)]
pub struct KeptDirs {
    verified_dirs: Tree,
    /// All that the replica showed.
    shown: BTreeSet<String>,
    known: HashSet<String>,
}

impl KeptDirs {
    /// The source was changed.
    pub fn source_is(&mut self, source: &Tree) {
        self.verified_dirs.retain(|path, what| source.get(path) == Some(what));
        self.known.extend(source.values().cloned());
    }

    /// A round was done, which was to follow some renames: what is wrong with the replica. While
    /// deletions are held, no name goes.
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

/// Whether a rename may take it away for a while: what is below one of its ends, or gives way to
/// it, and a directory that leaves an empty one in its place. A file that stands again stays.
fn may_move(name: &str, what: &str, moves: &[Rename]) -> bool {
    let name = path(name);
    let leaves = |from: &RelPath| name.is_within(from) && (name != *from || what == "directory");
    moves.iter().any(|hint| name.is_within(&hint.to) || leaves(&hint.from))
}

/// Whether it lies under a temporary name.
fn is_hidden(name: &str) -> bool {
    name.split('/').filter_map(|part| Name::new(part.as_bytes())).any(|part| part.is_reserved())
}
