//! Directories of the replica that the source lacks, and that hold excluded entries. Those stay,
//! and so do the directories in which they lie, and the pattern files there. All other entries are
//! deleted.

use std::ops::ControlFlow;

use super::{Requeue, Round};
use crate::fs::filter::Filter;
use crate::fs::tree::Dir;
use crate::fs::view::descend;
use crate::model::check::Check;
use crate::model::error::WorkError;
use crate::model::path::{Name, RelPath};
use crate::model::reason::Reason;
use crate::plan::removal::{Removable, RemovalPermit};
use crate::report::{Done, Operation};

/// Finds out which part of a directory of the replica may be deleted if the source lacks it. Its
/// own pattern files still count, although only the replica has them.
pub fn removable_part(replica: &Dir, dir: &RelPath, filter: &Filter) -> Removable {
    if filter.is_empty() { Removable::Whole } else { look_into(replica, dir, &filter.detached()) }
}

/// Walks without recursion: a tree may be deeper than the stack allows.
fn look_into(replica: &Dir, dir: &RelPath, filter: &Filter) -> Removable {
    let mut above = Vec::new();
    let mut level = Level::open(replica, dir.clone(), filter);
    loop {
        if let Some(next) = level.dirs.pop() {
            above.push(level);
            level = Level::open(replica, next, filter);
            continue;
        }
        let Some(mut parent) = above.pop() else { return level.leave(filter) };
        let dir = level.dir.clone();
        parent.add(dir, level.leave(filter));
        level = parent;
    }
}

/// A directory that is being walked.
struct Level {
    dir: RelPath,
    /// Its directories that were not walked yet.
    dirs: Vec<RelPath>,
    /// The entries that may be deleted, and whether another one stays.
    parts: Vec<RelPath>,
    stays: bool,
}

impl Level {
    fn open(replica: &Dir, dir: RelPath, filter: &Filter) -> Self {
        let mut level = Self { dir, dirs: Vec::new(), parts: Vec::new(), stays: false };
        let listed =
            replica.open(&level.dir).and_then(|open| open.list().map(|listing| (open, listing)));
        let Ok((open, listing)) = listed else {
            // A directory that cannot be listed may hold anything.
            level.stays = true;
            return level;
        };
        filter.refresh(&level.dir, &open, |name| listing.find(name).is_some());
        let rules = filter.at(&level.dir);
        for (name, hint) in listing.iter() {
            let Some(path) = Name::new(name).map(|name| level.dir.join(&name)) else { continue };
            let is_dir = hint.is_dir_or(|| open.observe(name).is_dir());
            if rules.excludes(name, is_dir) {
                level.stays = true;
            } else if is_dir {
                level.dirs.push(path);
            } else {
                level.parts.push(path);
            }
        }
        level
    }

    fn add(&mut self, dir: RelPath, leave: Removable) {
        match leave {
            Removable::Whole => self.parts.push(dir),
            Removable::Parts(below) => {
                self.stays = true;
                self.parts.extend(below);
            }
        }
    }

    fn leave(mut self, filter: &Filter) -> Removable {
        if !self.stays {
            return Removable::Whole;
        }
        // Pattern files stay with the entries that they exclude: the next check needs them.
        let holds_rules = |path: &RelPath| {
            path.split().is_some_and(|(above, name)| {
                above == self.dir && filter.governed_by(&above, &name).is_some()
            })
        };
        self.parts.retain(|path| !holds_rules(path));
        Removable::Parts(self.parts)
    }
}

impl Round<'_> {
    /// Returns whether an entry in the replica's directory `from` would be excluded at `to`, where
    /// the source has the directory now. A directory that cannot be listed may hold anything.
    pub(super) fn changes_exclusion(&self, from: &RelPath, to: &RelPath) -> bool {
        let filter = &self.shared.filter;
        if filter.is_empty() {
            return false;
        }
        let replica: &Dir = &self.replica;
        let seen = descend(replica, from.clone(), |at, opened, more| {
            let here = at.rebased(from, to).unwrap_or_else(|| to.clone());
            if let Ok(source) = self.source.open(&here) {
                filter.refresh(&here, &source, |_| true);
            }
            let Ok((open, listing)) = opened else { return ControlFlow::Break(()) };
            let rules = filter.at(&here);
            for (name, hint) in listing.iter() {
                let is_dir = hint.is_dir_or(|| open.observe(name).is_dir());
                if rules.excludes(name, is_dir) {
                    return ControlFlow::Break(());
                }
                more.extend(Name::new(name).filter(|_| is_dir).map(|name| at.join(&name)));
            }
            ControlFlow::Continue(())
        });
        seen.is_break()
    }

    /// Removes some entries below a directory that the source lacks. The caller has checked the
    /// guard, the mounts, and the absence in the source.
    pub(super) fn remove_subpaths(
        &mut self,
        parts: Vec<RelPath>,
        permit: &RemovalPermit,
        check: &Check,
    ) {
        for path in parts {
            let Some((dir, name)) = path.split() else { continue };
            match self.remove_part(&dir, &path, &name, (check, permit)) {
                Ok(PartRemoval::Gone(done, trash)) => self.gone(dir, trash, done),
                Ok(PartRemoval::Absent) => {}
                Ok(PartRemoval::Left) => self.out.again.push((path, check.clone(), Requeue::Now)),
                Err(work_error) => self.out.record_failure(path, check.clone(), work_error),
            }
        }
    }

    fn remove_part(
        &mut self,
        dir: &RelPath,
        path: &RelPath,
        name: &Name,
        (check, permit): (&Check, &RemovalPermit),
    ) -> Result<PartRemoval, WorkError> {
        let dir = self.open_replica(dir)?;
        let Some(entry) = dir.observe(name.as_bytes()).entry().cloned() else {
            return Ok(PartRemoval::Absent);
        };
        if entry.is_dir() {
            let taken = self.take_dir(&dir, path, name, &entry, (check, permit))?;
            return Ok(
                taken.map_or(PartRemoval::Left, |(done, trash)| PartRemoval::Gone(done, trash))
            );
        }
        self.remove_file_at(&dir, path, name, permit)?;
        let done = Done::new(Operation::Removed, path.clone(), &entry, Reason::Removed, check);
        Ok(PartRemoval::Gone(done, None))
    }
}

/// The result of removing an entry of a directory that stays in part.
enum PartRemoval {
    /// The action, and the reserved name that a directory has now.
    Gone(Done, Option<Name>),
    Absent,
    /// There was no time to remove all of it.
    Left,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tree::Root;
    use crate::model::error::Side;

    #[test]
    fn a_tree_that_is_deeper_than_a_stack_is_looked_into() {
        let top = tempfile::tempdir().unwrap();
        let deep: std::path::PathBuf = std::iter::repeat_n("d", 800).collect();
        std::fs::create_dir_all(top.path().join(deep)).unwrap();
        let root = Root::new(top.path(), Side::Replica);
        let filter = Filter::new(crate::fs::filter::Patterns::default(), true);
        let check = move || {
            removable_part(&root.open_replica().unwrap().0, &RelPath::new(b"d").unwrap(), &filter)
        };
        let small = std::thread::Builder::new().stack_size(128 * 1024);
        assert_eq!(small.spawn(check).unwrap().join().unwrap(), Removable::Whole);
    }
}
