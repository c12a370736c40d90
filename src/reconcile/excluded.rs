//! Directories of the replica that the source lacks, and that hold what is excluded: that stays, and
//! with it the directories it lies in, and their files of patterns. Everything else in them goes.

use super::Round;
use crate::decide::Reason;
use crate::fault::Setback;
use crate::filter::Filter;
use crate::path::{Name, RelPath};
use crate::queue::Look;
use crate::report::{Done, Operation};
use crate::tree::Dir;

/// What may go of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Leave {
    Whole,
    /// These entries, with all that they hold; the rest stays.
    Parts(Vec<RelPath>),
}

/// Finds out what may go of a directory of the replica that the source lacks. Of its own files of
/// patterns the replica has the last copy: they still count.
pub fn may_go(replica: &Dir, dir: &RelPath, filter: &Filter) -> Leave {
    if filter.is_empty() { Leave::Whole } else { look_into(replica, dir, &filter.detached()) }
}

fn look_into(replica: &Dir, dir: &RelPath, filter: &Filter) -> Leave {
    // What cannot be looked into may hold anything.
    let Ok(open) = replica.open(dir) else { return Leave::Parts(Vec::new()) };
    let Ok(listing) = open.list() else { return Leave::Parts(Vec::new()) };
    filter.refresh(dir, &open, |name| listing.find(name).is_some());
    let rules = filter.at(dir);
    let (mut parts, mut stays) = (Vec::new(), false);
    for (name, hint) in listing.iter() {
        let Some(path) = Name::new(name).map(|name| dir.join(&name)) else { continue };
        let is_dir = hint.is_dir_or(|| open.look(name).is_dir());
        if rules.excludes(name, is_dir) {
            stays = true;
            continue;
        }
        match if is_dir { look_into(replica, &path, filter) } else { Leave::Whole } {
            Leave::Whole => parts.push(path),
            Leave::Parts(below) => {
                stays = true;
                parts.extend(below);
            }
        }
    }
    if !stays {
        return Leave::Whole;
    }
    // The patterns stay with what they exclude: else the next look would not know of it.
    let holds_rules = |path: &RelPath| {
        path.split().is_some_and(|(above, name)| above == *dir && filter.governed_by(dir, &name).is_some())
    };
    parts.retain(|path| !holds_rules(path));
    Leave::Parts(parts)
}

impl Round<'_> {
    /// Whether something in the replica's directory `from` would be left alone at `to`, where the
    /// source has it now. What cannot be looked into may hold anything.
    pub(super) fn crosses_a_border(&self, from: &RelPath, to: &RelPath) -> bool {
        let filter = &self.shared.filter;
        if filter.is_empty() {
            return false;
        }
        if let Ok(source) = self.source.open(to) {
            filter.refresh(to, &source, |_| true);
        }
        let Ok(open) = self.replica.open(from) else { return true };
        let Ok(listing) = open.list() else { return true };
        let rules = filter.at(to);
        listing.iter().any(|(name, hint)| {
            let is_dir = hint.is_dir_or(|| open.look(name).is_dir());
            let below = |name: Name| self.crosses_a_border(&from.join(&name), &to.join(&name));
            rules.excludes(name, is_dir) || (is_dir && Name::new(name).is_some_and(below))
        })
    }

    /// Removes some entries below a directory that the source lacks. The guard, the mounts and the
    /// absence were seen to by whoever asks.
    pub(super) fn remove_parts(&mut self, parts: Vec<RelPath>, look: &Look) {
        for path in parts {
            let Some((dir, name)) = path.split() else { continue };
            match self.remove_part(&dir, &path, &name, look) {
                Ok(Some((done, aside))) => self.gone(dir, aside, done),
                Ok(None) => {}
                Err(setback) => self.out.set_back(path, look.clone(), setback),
            }
        }
    }

    fn remove_part(
        &mut self,
        dir: &RelPath,
        path: &RelPath,
        name: &Name,
        look: &Look,
    ) -> Result<Option<(Done, Option<Name>)>, Setback> {
        let dir = self.open_replica(dir)?;
        let Some(entry) = dir.look(name.as_bytes()).entry().cloned() else { return Ok(None) };
        if entry.is_dir() {
            return self.take_dir(&dir, path, name, &entry, look).map(Some);
        }
        self.take_file(&dir, path, name)?;
        Ok(Some((Done::new(Operation::Removed, path.clone(), &entry, Reason::Removed, look), None)))
    }
}
