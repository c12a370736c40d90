//! Directories of the replica that the source lacks, and that hold what is excluded: that stays,
//! and with it the directories it lies in, and their files of patterns. Everything else in them
//! goes.

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

/// Finds out what may go of a directory of the replica that the source lacks. Of its own files of
/// patterns the replica has the last copy: they still count.
pub fn removable_part(replica: &Dir, dir: &RelPath, filter: &Filter) -> Removable {
    if filter.is_empty() { Removable::Whole } else { look_into(replica, dir, &filter.detached()) }
}

/// Goes down and up again without recursion: a tree may be deeper than a stack.
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

/// A directory that is being looked into.
struct Level {
    dir: RelPath,
    /// The directories in it that were not looked into yet.
    dirs: Vec<RelPath>,
    /// What may go, and whether something stays.
    parts: Vec<RelPath>,
    stays: bool,
}

impl Level {
    fn open(replica: &Dir, dir: RelPath, filter: &Filter) -> Self {
        let mut level = Self { dir, dirs: Vec::new(), parts: Vec::new(), stays: false };
        let listed =
            replica.open(&level.dir).and_then(|open| open.list().map(|listing| (open, listing)));
        let Ok((open, listing)) = listed else {
            // What cannot be looked into may hold anything.
            level.stays = true;
            return level;
        };
        filter.refresh(&level.dir, &open, |name| listing.find(name).is_some());
        let rules = filter.at(&level.dir);
        for (name, hint) in listing.iter() {
            let Some(path) = Name::new(name).map(|name| level.dir.join(&name)) else { continue };
            let is_dir = hint.is_dir_or(|| open.look(name).is_dir());
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
        // The patterns stay with what they exclude: else the next look would not know of it.
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
    /// Whether something in the replica's directory `from` would be left alone at `to`, where the
    /// source has it now. What cannot be looked into may hold anything.
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
                let is_dir = hint.is_dir_or(|| open.look(name).is_dir());
                if rules.excludes(name, is_dir) {
                    return ControlFlow::Break(());
                }
                more.extend(Name::new(name).filter(|_| is_dir).map(|name| at.join(&name)));
            }
            ControlFlow::Continue(())
        });
        seen.is_break()
    }

    /// Removes some entries below a directory that the source lacks. The guard, the mounts and the
    /// absence were seen to by whoever asks.
    pub(super) fn remove_subpaths(
        &mut self,
        parts: Vec<RelPath>,
        permit: &RemovalPermit,
        check: &Check,
    ) {
        for path in parts {
            let Some((dir, name)) = path.split() else { continue };
            match self.remove_part(&dir, &path, &name, (check, permit)) {
                Ok(PartRemoval::Gone(done, aside)) => self.gone(dir, aside, done),
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
        let Some(entry) = dir.look(name.as_bytes()).entry().cloned() else {
            return Ok(PartRemoval::Absent);
        };
        if entry.is_dir() {
            let taken = self.take_dir(&dir, path, name, &entry, (check, permit))?;
            return Ok(
                taken.map_or(PartRemoval::Left, |(done, aside)| PartRemoval::Gone(done, aside))
            );
        }
        self.remove_file_at(&dir, path, name, permit)?;
        let done = Done::new(Operation::Removed, path.clone(), &entry, Reason::Removed, check);
        Ok(PartRemoval::Gone(done, None))
    }
}

/// What became of an entry in a directory of which a part stays.
enum PartRemoval {
    /// What was done, and the reserved name under which it lies, if it is a directory.
    Gone(Done, Option<Name>),
    Absent,
    /// There was no time for all of it.
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
