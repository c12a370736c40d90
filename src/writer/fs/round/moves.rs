//! The `moves` phase: repeats in the replica the renames that the watch has reported. It runs
//! before all checks, so that renamed entries need not be copied.
//!
//! Renames are followed in their order, so that the replica shows no state that the source never
//! had. An entry is renamed to its last place at once if that is free. If a rename cannot be
//! followed, the checks of both ends delete the old name and copy the new one.

use super::removal::taken;
use super::{Requeue, Round};
use crate::fs::tree::ReplicaDir;
use crate::model::check::{Check, Checks, Depth, add};
use crate::model::entry::{Entry, Kind, Observed};
use crate::model::error::FsErrorKind;
use crate::model::path::{Name, RelPath};
use crate::model::reason::Reason;
use crate::plan::queue::{Rename, RenameBatch};
use crate::plan::removal::RemovalPermit;
use crate::plan::removal::{RemovalKind, Ruling};
use crate::report::{Done, Operation};
use crate::writer::fs::backup::{BackupOutcome, Kept};

/// How often a rename is put back because the source has renamed the directory again.
const TRIES: u8 = 10;

/// A name in an open directory of the replica.
pub(super) struct ReplicaName {
    pub path: RelPath,
    pub dir: ReplicaDir,
    pub name: Name,
}

/// An entry of the replica that is to be renamed, and its counterpart in the source.
pub(super) struct Moving {
    pub replica: Entry,
    pub source: Entry,
    /// The permit to take it away from its old name.
    pub permit: RemovalPermit,
}

impl Round<'_> {
    pub(super) fn moves(&mut self, renames: &RenameBatch, checks: &mut Checks) {
        // While deletions are held, nothing is renamed either.
        if self.terms.deletions.are_held() {
            return;
        }
        for (index, rename) in renames.renames().iter().enumerate() {
            if rename.is_undone {
                self.exchange(renames, index);
            } else if self.was_renamed_again(renames, index) {
                self.wait_for_more(rename, checks);
            } else {
                self.follow(renames, index);
            }
        }
        // A rename renews the ctime, so that the replica's files look newer than the source's. Only
        // their contents show whether they are equal.
        for (end, since) in std::mem::take(&mut self.renamed_files) {
            let check = Check::new(Depth::Content, self.terms.detector, since);
            if renames.has_deferred_at(&end) {
                self.out.again.push((end, check, Requeue::Now));
            } else {
                add(checks, &end, check);
            }
        }
    }

    /// Returns whether the source has renamed the directory again, and the watch has not reported
    /// its new name.
    fn was_renamed_again(&mut self, renames: &RenameBatch, index: usize) -> bool {
        let rename = &renames.renames()[index];
        rename.is_dir
            && rename.tries < TRIES
            && renames
                .last_place(&rename.to, index + 1)
                .is_some_and(|end| self.source_at(&end) == Observed::Absent)
            && self.source_at(&rename.from) == Observed::Absent
            && self
                .place_of(&rename.from)
                .is_some_and(|at| at.dir.observe(at.name.as_bytes()).is_dir())
    }

    /// Puts a rename back, with the check of its old name, which would delete the entry.
    fn wait_for_more(&mut self, rename: &Rename, checks: &mut Checks) {
        self.out.renames.push(Rename { tries: rename.tries + 1, ..rename.clone() });
        if let Some((dir, name)) = rename.from.split()
            && let Some(check) = checks.get_mut(&dir).and_then(|names| names.remove(&name))
        {
            self.out.again.push((rename.from.clone(), check, Requeue::ParentGone));
        }
    }

    /// Follows one rename; `None` if it is not followed.
    fn follow(&mut self, renames: &RenameBatch, index: usize) -> Option<()> {
        let (rename, later) = (&renames.renames()[index], index + 1);
        let end = renames.last_place(&rename.to, later)?;
        let moving = self.movable(&rename.from, &end)?;
        let from = self.place_of(&rename.from)?;
        let is_again = self.has_new_dir(&rename.from, &moving.replica)?;
        let to = self.free_place(&rename.to, &end, (renames, later))?;
        self.restrict_moving(&from, &to, &moving, &end)?;
        let (moving, permit) = (moving.replica, moving.permit);
        let is_filled = renames.fill(&rename.from, later);
        let followed = if is_again {
            self.move_and_leave_empty((&from, &to), is_filled, rename, &permit)
        } else {
            self.move_over((&from, &to), &moving, rename, &permit)
        };
        if followed.is_none() {
            // A rename that was tried and undone has changed the mtimes of both directories.
            for (dir, _) in [&from.path, &to.path].into_iter().filter_map(RelPath::split) {
                self.touch(dir, None);
            }
            return None;
        }
        self.goes(&from.path, &to.path);
        self.moved_to(&from, &to, &moving, rename, end);
        Some(())
    }

    /// Renames an entry to a free name, or over the entry that it has replaced in the source.
    fn move_over(
        &mut self,
        (from, to): (&ReplicaName, &ReplicaName),
        moving: &Entry,
        rename: &Rename,
        permit: &RemovalPermit,
    ) -> Option<()> {
        let standing = to.dir.observe(to.name.as_bytes());
        let is_kept = standing.is_dir() && self.shared.backup.is_some();
        match (standing.is_dir(), moving.is_dir()) {
            (true, true) if is_kept => return self.replace_outdated(from, to, rename, permit),
            // A file cannot be renamed over a directory. The check replaces that.
            (true, false) => return None,
            _ => {}
        }
        // If it cannot be backed up, the rename is not followed: the check tries it again.
        let kept = if moving.is_dir() {
            Kept::default()
        } else {
            self.back_up(&to.dir, &to.name, &to.path).ok()?
        };
        let Some(moved) = self.move_into((&from.dir, &from.name), (to, &standing), permit) else {
            kept.undo(&to.dir, &to.name, &standing);
            return None;
        };
        self.out
            .replaced
            .extend(standing.entry().filter(|old| old.is_file()).map(|_| to.path.clone()));
        if let Err(error) = moved {
            kept.undo(&to.dir, &to.name, &standing);
            let is_occupied = matches!(error.kind, FsErrorKind::NotEmpty | FsErrorKind::Exists);
            is_occupied.then(|| self.replace_outdated(from, to, rename, permit))??;
        }
        Some(())
    }

    /// Renames an entry over what stands at `to`; `None` if that has to stay.
    fn move_into(
        &self,
        (dir, name): (&ReplicaDir, &Name),
        (to, standing): (&ReplicaName, &Observed),
        permit: &RemovalPermit,
    ) -> Option<crate::fs::tree::Result<()>> {
        match self.rules().on_replacing(&to.path, standing, to.dir.is_append_only_dir()) {
            None => Some(dir.move_to_free(name.as_bytes(), &to.dir, &to.name, permit)),
            Some(Ruling::Allowed(replaces)) => {
                Some(dir.move_to(name.as_bytes(), &to.dir, &to.name, &replaces))
            }
            Some(Ruling::AllowedInParts(..) | Ruling::Refused(_)) => None,
        }
    }

    /// Renames a directory over an outdated one: in the source, that was deleted or empty before.
    /// The two exchange their names, so that readers miss neither. The old one becomes trash, or is
    /// moved to the backup. `None` if it has to stay.
    fn replace_outdated(
        &mut self,
        from: &ReplicaName,
        to: &ReplicaName,
        rename: &Rename,
        permit: &RemovalPermit,
    ) -> Option<()> {
        let Observed::Present(old) = to.dir.observe(to.name.as_bytes()) else { return None };
        let moving = from.dir.observe(from.name.as_bytes());
        // RACE: one of the two is not a directory any more. A check handles that.
        if !old.is_dir() || !moving.is_dir() {
            return None;
        }
        let ruling =
            self.rules().on(&to.path, &old, RemovalKind::Replaced, to.dir.is_append_only_dir());
        let Ruling::Allowed(replaces) = ruling else { return None };
        let check = Check::new(Depth::Subtree, self.terms.detector, rename.since);
        let done = taken(&to.dir, &to.path, &to.name, &old, &check);
        self.cancel_temps_within(&to.path);
        let taken = match &self.shared.backup {
            Some(backup) => {
                let ends = ((&from.dir, &from.name), (&to.dir, &to.name));
                backup.replace(ends.0, ends.1, &to.path, &replaces, &self.shared.stop).ok()?
            }
            None => BackupOutcome::Copied,
        };
        let mut trash = None;
        match taken {
            BackupOutcome::Exchanged => {}
            BackupOutcome::Moved => {
                from.dir.move_to_free(from.name.as_bytes(), &to.dir, &to.name, permit).ok()?;
            }
            BackupOutcome::Copied => {
                from.dir.exchange_with(&from.name, &to.dir, &to.name, &replaces).ok()?;
                // If it cannot be renamed away, the check of `from` deletes it.
                trash = self.rename_to_trash(&from.dir, &from.name, &replaces).ok();
            }
        }
        let (dir, _) = from.path.split()?;
        self.gone(dir, trash, done);
        Some(())
    }

    /// Follows an exchange of two names. If it was a rename there and back, nothing is to be done.
    fn exchange(&mut self, renames: &RenameBatch, index: usize) -> Option<()> {
        let (rename, later) = (&renames.renames()[index], index + 1);
        let (one, other) = (self.place_of(&rename.from)?, self.place_of(&rename.to)?);
        let (end, other_end) =
            (renames.last_place(&rename.to, later)?, renames.last_place(&rename.from, later)?);
        let moving = self.movable(&rename.from, &end)?;
        let coming = self.movable(&rename.to, &other_end)?;
        self.restrict_moving(&one, &other, &moving, &end)?;
        self.restrict_moving(&other, &one, &coming, &other_end)?;
        let (moving, coming, permit) = (moving.replica, coming.replica, moving.permit);
        one.dir.exchange_with(&one.name, &other.dir, &other.name, &permit).ok()?;
        // Big files in flight and trash below each of them move along.
        let between = one.path.join(&self.shared.names.next());
        self.goes(&one.path, &between);
        self.goes(&other.path, &one.path);
        self.goes(&between, &other.path);
        self.moved_to(&other, &one, &coming, rename, other_end);
        self.moved_to(&one, &other, &moving, rename, end);
        Some(())
    }

    /// Updates the paths of big files in flight and of trash below a renamed directory.
    fn goes(&self, from: &RelPath, to: &RelPath) {
        self.shared.in_flight.rename(from, to);
        self.shared.pending_trash.rename(from, to);
    }

    /// Returns the replica's entry at `from` if it may be renamed and the source has its
    /// counterpart at `end`.
    fn movable(&mut self, from: &RelPath, end: &RelPath) -> Option<Moving> {
        let place = self.place_of(from)?;
        let Observed::Present(entry) = place.dir.observe(place.name.as_bytes()) else {
            return None;
        };
        let Observed::Present(source) = self.source_at(end) else { return None };
        let capabilities = &self.shared.capabilities;
        let alike = match (&source.kind, &entry.kind) {
            (Kind::File, Kind::File) => {
                source.size == entry.size && capabilities.is_same_mtime(&source, &entry)
            }
            (Kind::Symlink(target), Kind::Symlink(other)) => target == other,
            (Kind::Dir, Kind::Dir) => true,
            _ => false,
        };
        if !alike || [from, end].iter().any(|path| self.is_kept(path, entry.is_dir())) {
            return None;
        }
        let in_append_only = place.dir.is_append_only_dir();
        let ruling = self.rules().on(from, &entry, RemovalKind::Moved, in_append_only);
        let Ruling::Allowed(permit) = ruling else { return None };
        let stays = self.rules().lost_mount(end).is_some();
        let can_go = if entry.is_dir() {
            !self.changes_exclusion(from, end)
        } else {
            // The temporary file of a big file in flight would stay behind.
            !self.shared.in_flight.holds(from)
        };
        (!stays && can_go).then_some(Moving { replica: entry, source, permit })
    }

    /// Returns whether a path is left alone on both sides: it is excluded, reserved, or the root.
    fn is_kept(&self, path: &RelPath, is_dir: bool) -> bool {
        let filter = &self.shared.filter;
        path.split().is_none_or(|(dir, name)| {
            name.is_reserved()
                || (!filter.is_empty()
                    && (filter.excludes_dir(&dir)
                        || filter.at(&dir).excludes(name.as_bytes(), is_dir)))
        })
    }

    fn place_of(&mut self, path: &RelPath) -> Option<ReplicaName> {
        let (dir, name) = path.split()?;
        Some(ReplicaName { path: path.clone(), dir: self.open_restricted(&dir)?, name })
    }

    /// Opens a directory of the replica to or from which something is renamed, and restricts it.
    fn open_restricted(&mut self, dir: &RelPath) -> Option<ReplicaDir> {
        let replica = self.open_replica(dir).ok()?;
        // If the source has no such directory any more, no entry of the source is moved into it.
        if let Ok(source) = self.source.open(dir)
            && !self.restricted.known.contains_key(dir)
        {
            self.restrict_down_to(dir, &source, &replica).ok()?;
        }
        Some(replica)
    }

    /// Observes a path of the source. It is absent if its directory is.
    fn source_at(&self, path: &RelPath) -> Observed {
        let Some((dir, name)) = path.split() else { return Observed::Absent };
        match self.source.open(&dir) {
            Ok(dir) => dir.observe(name.as_bytes()),
            Err(error) if error.is_dir_absence() => Observed::Absent,
            Err(error) => Observed::Unknown(error),
        }
    }

    /// Returns the place to which the entry can be renamed: its last one. If another entry stands
    /// there that a later rename may move away, the next place is used, if that is free.
    fn free_place(
        &mut self,
        next: &RelPath,
        end: &RelPath,
        later: (&RenameBatch, usize),
    ) -> Option<ReplicaName> {
        let is_free =
            |place: &ReplicaName| place.dir.observe(place.name.as_bytes()) == Observed::Absent;
        let last = self.make_way(end, later).and_then(|()| self.place_of(end));
        // If no rename follows, it replaces the entry there, as it did in the source.
        let last = last.filter(|last| next == end || is_free(last));
        last.or_else(|| self.place_of(next).filter(is_free))
    }

    /// Makes the directories above `path` that the replica lacks and the source has. `None` if one
    /// cannot be made, or if a later rename puts it there.
    fn make_way(&mut self, path: &RelPath, (renames, later): (&RenameBatch, usize)) -> Option<()> {
        let (dir, _) = path.split()?;
        for above in dir.ancestors_and_self() {
            if self.open_replica(&above).is_ok() {
                continue;
            }
            let (at, name) = above.split()?;
            let Observed::Present(entry) = self.source_at(&above) else { return None };
            let parent = self.open_restricted(&at)?;
            if !entry.is_dir() || renames.fill(&above, later) || parent.make_dir(&name).is_err() {
                return None;
            }
            self.made_dir(at, above, &entry);
        }
        Some(())
    }

    /// Returns whether the source has a new directory at the old name of a directory. `None` if the
    /// rename must not be followed. The source has another entry there, whose name would be missing
    /// until it is copied, or an unknown one.
    fn has_new_dir(&self, from: &RelPath, moving: &Entry) -> Option<bool> {
        match self.source_at(from) {
            Observed::Absent => Some(false),
            Observed::Present(entry) => (entry.is_dir() && moving.is_dir()).then_some(true),
            Observed::Unknown(_) | Observed::Unobserved => None,
        }
    }

    /// Renames a directory, and leaves an empty one at its old name in the same step.
    fn move_and_leave_empty(
        &mut self,
        (from, to): (&ReplicaName, &ReplicaName),
        is_filled: bool,
        rename: &Rename,
        permit: &RemovalPermit,
    ) -> Option<()> {
        let temp = self.shared.names.next();
        from.dir.make_dir(&temp).ok()?;
        let exchanged = from.dir.exchange(&from.name, &temp, permit).is_ok();
        let standing = to.dir.observe(to.name.as_bytes());
        let moved = exchanged
            .then(|| self.move_into((&from.dir, &temp), (to, &standing), permit))
            .flatten();
        if !matches!(moved, Some(Ok(()))) {
            if exchanged {
                let _ = from.dir.exchange(&from.name, &temp, permit);
            }
            let _ = from.dir.remove_reserved_dir(&temp);
            return None;
        }
        let (dir, _) = rename.from.split()?;
        if let (Observed::Present(entry), false) = (self.source_at(&rename.from), is_filled) {
            self.made_dir(dir, rename.from.clone(), &entry);
        }
        Some(())
    }

    fn made_dir(&mut self, parent: RelPath, path: RelPath, entry: &Entry) {
        if let Ok(made) = self.replica.open(&path)
            && let Ok(now) = made.entry()
        {
            self.note_if_empty(entry, &now, &made);
        }
        let check = Check::new(Depth::Subtree, self.terms.detector, self.terms.now);
        self.out.act(Done::new(Operation::Created, path.clone(), entry, Reason::New, &check));
        self.out.to_walk.push(path.clone());
        self.touch(parent, None);
        self.touch(path.clone(), None);
        self.made.insert(path);
    }

    /// Records that an entry was renamed.
    fn moved_to(
        &mut self,
        from: &ReplicaName,
        to: &ReplicaName,
        entry: &Entry,
        rename: &Rename,
        end: RelPath,
    ) {
        for place in [from, to] {
            if let Some((dir, _)) = place.path.split() {
                self.touch(dir, None);
            }
        }
        self.moved.insert(to.path.clone());
        if entry.is_dir() {
            // Other directories have these paths now.
            self.forget_restricted();
            self.out.moved.push(to.path.clone());
        } else {
            self.renamed_files.push((end, rename.since));
        }
        let check = Check::new(Depth::Subtree, self.terms.detector, rename.since);
        let mut done = Done::new(Operation::Renamed, to.path.clone(), entry, Reason::Moved, &check);
        done.from = Some(from.path.clone());
        self.out.act(done);
    }
}
