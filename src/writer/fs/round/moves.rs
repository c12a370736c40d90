//! The moves phase: what the watch says was renamed is renamed in the replica too, before anything
//! is looked at, so that it need not be copied.
//!
//! Renames are followed in their order, so that the replica shows no state that the source never
//! had. Each goes to the entry's last place where that is free. What cannot be followed is left to
//! the looks at both ends: it is removed here and copied there.

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

/// How often a directory that has gone on is waited for.
const TRIES: u8 = 10;

/// A name in an open directory of the replica.
pub(super) struct ReplicaName {
    pub path: RelPath,
    pub dir: ReplicaDir,
    pub name: Name,
}

/// What is to be moved, and what it is the like of.
pub(super) struct Moving {
    pub replica: Entry,
    pub source: Entry,
    /// To take it away from where it is.
    pub permit: RemovalPermit,
}

impl Round<'_> {
    pub(super) fn moves(&mut self, renames: &RenameBatch, checks: &mut Checks) {
        // While nothing may go from where it is, nothing is moved either.
        if self.terms.deletions.are_held() {
            return;
        }
        for (index, hint) in renames.hints().iter().enumerate() {
            if hint.is_undone {
                self.exchange(renames, index);
            } else if self.has_gone_on(renames, index) {
                self.wait_for_more(hint, checks);
            } else {
                self.follow(renames, index);
            }
        }
        // Renaming has made the replica's files look newer than the source's. Only their contents
        // tell whether they are the ones.
        for (end, since) in std::mem::take(&mut self.renamed_files) {
            let check = Check::new(Depth::Content, self.terms.detector, since);
            if renames.has_deferred_at(&end) {
                self.out.again.push((end, check, Requeue::Now));
            } else {
                add(checks, &end, check);
            }
        }
    }

    /// Whether the source has the entry elsewhere by now, and nobody has told where.
    fn has_gone_on(&mut self, renames: &RenameBatch, index: usize) -> bool {
        let hint = &renames.hints()[index];
        hint.is_dir
            && hint.tries < TRIES
            && renames
                .last_place(&hint.to, index + 1)
                .is_some_and(|end| self.source_at(&end) == Observed::Absent)
            && self.source_at(&hint.from) == Observed::Absent
            && self.place_of(&hint.from).is_some_and(|at| at.dir.look(at.name.as_bytes()).is_dir())
    }

    /// Lets a rename wait, and the look at its beginning, which would find the entry gone.
    fn wait_for_more(&mut self, hint: &Rename, checks: &mut Checks) {
        self.out.renames.push(Rename { tries: hint.tries + 1, ..hint.clone() });
        if let Some((dir, name)) = hint.from.split()
            && let Some(check) = checks.get_mut(&dir).and_then(|names| names.remove(&name))
        {
            self.out.again.push((hint.from.clone(), check, Requeue::ParentGone));
        }
    }

    /// Follows one rename; `None` where it is not followed.
    fn follow(&mut self, renames: &RenameBatch, index: usize) -> Option<()> {
        let (hint, later) = (&renames.hints()[index], index + 1);
        let end = renames.last_place(&hint.to, later)?;
        let moving = self.movable(&hint.from, &end)?;
        let from = self.place_of(&hint.from)?;
        let is_again = self.stands_again(&hint.from, &moving.replica)?;
        let to = self.free_place(&hint.to, &end, (renames, later))?;
        self.restrict_moving(&from, &to, &moving, &end)?;
        let (moving, permit) = (moving.replica, moving.permit);
        let is_filled = renames.fill(&hint.from, later);
        let followed = if is_again {
            self.move_behind((&from, &to), is_filled, hint, &permit)
        } else {
            self.move_over((&from, &to), &moving, hint, &permit)
        };
        if followed.is_none() {
            // What was tried and taken back has left its time on both directories.
            for (dir, _) in [&from.path, &to.path].into_iter().filter_map(RelPath::split) {
                self.touch(dir, None);
            }
            return None;
        }
        self.goes(&from.path, &to.path);
        self.moved_to(&from, &to, &moving, hint, end);
        Some(())
    }

    /// Moves an entry to where nothing stands, or over what it has taken the place of in the
    /// source.
    fn move_over(
        &mut self,
        (from, to): (&ReplicaName, &ReplicaName),
        moving: &Entry,
        hint: &Rename,
        permit: &RemovalPermit,
    ) -> Option<()> {
        let standing = to.dir.look(to.name.as_bytes());
        let is_kept = standing.is_dir() && self.shared.backup.is_some();
        match (standing.is_dir(), moving.is_dir()) {
            (true, true) if is_kept => return self.displace(from, to, hint, permit),
            // It does not overwrite a directory; that goes by a look.
            (true, false) => return None,
            _ => {}
        }
        // What is not moved for that is kept by what is done instead.
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
            is_occupied.then(|| self.displace(from, to, hint, permit))??;
        }
        Some(())
    }

    /// Renames an entry to a place, over what stands there; `None` where that has to stay.
    fn move_into(
        &self,
        (dir, name): (&ReplicaDir, &Name),
        (to, standing): (&ReplicaName, &Observed),
        permit: &RemovalPermit,
    ) -> Option<crate::fs::tree::Result<()>> {
        match self.rules().on_replacing(&to.path, standing, to.dir.gives_nothing_back()) {
            None => Some(dir.move_to_free(name.as_bytes(), &to.dir, &to.name, permit)),
            Some(Ruling::Goes(replaces)) => {
                Some(dir.move_to(name.as_bytes(), &to.dir, &to.name, &replaces))
            }
            Some(Ruling::GoesInParts(..) | Ruling::Stays(_)) => None,
        }
    }

    /// Puts a directory in the place of another one that is out of date: the source could only put
    /// it there because that one had gone, or was empty. They exchange their names, so that readers
    /// miss neither, and the old one is put aside, or kept. `None` where it has to stay.
    fn displace(
        &mut self,
        from: &ReplicaName,
        to: &ReplicaName,
        hint: &Rename,
        permit: &RemovalPermit,
    ) -> Option<()> {
        let Observed::Present(old) = to.dir.look(to.name.as_bytes()) else { return None };
        let moving = from.dir.look(from.name.as_bytes());
        // RACE: what is no directory has come to stand there. That goes by a check.
        if !old.is_dir() || !moving.is_dir() {
            return None;
        }
        let ruling =
            self.rules().on(&to.path, &old, RemovalKind::Replaced, to.dir.gives_nothing_back());
        let Ruling::Goes(replaces) = ruling else { return None };
        let check = Check::new(Depth::Subtree, self.terms.detector, hint.since);
        let done = taken(&to.dir, &to.path, &to.name, &old, &check);
        self.leave_nothing_under_way(&to.path);
        let taken = match &self.shared.backup {
            Some(backup) => {
                let ends = ((&from.dir, &from.name), (&to.dir, &to.name));
                backup.replace(ends.0, ends.1, &to.path, &replaces, &self.shared.stop).ok()?
            }
            None => BackupOutcome::Copied,
        };
        let mut aside = None;
        match taken {
            BackupOutcome::Exchanged => {}
            BackupOutcome::Moved => {
                from.dir.move_to_free(from.name.as_bytes(), &to.dir, &to.name, permit).ok()?;
            }
            BackupOutcome::Copied => {
                from.dir.exchange_with(&from.name, &to.dir, &to.name, &replaces).ok()?;
                // What cannot be laid aside is found to be too much under the other's old name.
                aside = self.lay_aside(&from.dir, &from.name, &replaces).ok();
            }
        }
        let (dir, _) = from.path.split()?;
        self.gone(dir, aside, done);
        Some(())
    }

    /// Follows an exchange of names. Where it was a way there and back, there is nothing to follow.
    fn exchange(&mut self, renames: &RenameBatch, index: usize) -> Option<()> {
        let (hint, later) = (&renames.hints()[index], index + 1);
        let (one, other) = (self.place_of(&hint.from)?, self.place_of(&hint.to)?);
        let (end, other_end) =
            (renames.last_place(&hint.to, later)?, renames.last_place(&hint.from, later)?);
        let moving = self.movable(&hint.from, &end)?;
        let coming = self.movable(&hint.to, &other_end)?;
        self.restrict_moving(&one, &other, &moving, &end)?;
        self.restrict_moving(&other, &one, &coming, &other_end)?;
        let (moving, coming, permit) = (moving.replica, coming.replica, moving.permit);
        one.dir.exchange_with(&one.name, &other.dir, &other.name, &permit).ok()?;
        // Each way, with what is on its way below.
        let between = one.path.join(&self.shared.names.next());
        self.goes(&one.path, &between);
        self.goes(&other.path, &one.path);
        self.goes(&between, &other.path);
        self.moved_to(&other, &one, &coming, hint, other_end);
        self.moved_to(&one, &other, &moving, hint, end);
        Some(())
    }

    /// What workers for big files and the trash thread have below a directory goes with it.
    fn goes(&self, from: &RelPath, to: &RelPath) {
        self.shared.in_flight.rename(from, to);
        self.shared.pending_trash.rename(from, to);
    }

    /// The replica's entry at `from`, where it may be moved and the source has its like at `end`.
    fn movable(&mut self, from: &RelPath, end: &RelPath) -> Option<Moving> {
        let place = self.place_of(from)?;
        let Observed::Present(entry) = place.dir.look(place.name.as_bytes()) else { return None };
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
        let in_append_only = place.dir.gives_nothing_back();
        let ruling = self.rules().on(from, &entry, RemovalKind::Moved, in_append_only);
        let Ruling::Goes(permit) = ruling else { return None };
        let stays = self.rules().lost_mount(end).is_some();
        let can_go = if entry.is_dir() {
            !self.changes_exclusion(from, end)
        } else {
            // The temporary file of one that a worker has does not move.
            !self.shared.in_flight.holds(from)
        };
        (!stays && can_go).then_some(Moving { replica: entry, source, permit })
    }

    /// Whether a name is left alone on both sides.
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

    /// Opens a directory of the replica into which something is to be moved.
    fn open_restricted(&mut self, dir: &RelPath) -> Option<ReplicaDir> {
        let replica = self.open_replica(dir).ok()?;
        // Where the source's has gone, nothing is moved into it that is still there.
        if let Ok(source) = self.source.open(dir)
            && !self.restricted.known.contains_key(dir)
        {
            self.restrict_down_to(dir, &source, &replica).ok()?;
        }
        Some(replica)
    }

    /// What the source has at a path. Where its directory has gone, nothing.
    fn source_at(&self, path: &RelPath) -> Observed {
        let Some((dir, name)) = path.split() else { return Observed::Absent };
        match self.source.open(&dir) {
            Ok(dir) => dir.look(name.as_bytes()),
            Err(error) if error.is_dir_absence() => Observed::Absent,
            Err(error) => Observed::Unknown(error),
        }
    }

    /// Where it can go: to its last place, or, where another entry stands there that later renames
    /// may take away, to the next.
    fn free_place(
        &mut self,
        next: &RelPath,
        end: &RelPath,
        later: (&RenameBatch, usize),
    ) -> Option<ReplicaName> {
        let is_free =
            |place: &ReplicaName| place.dir.look(place.name.as_bytes()) == Observed::Absent;
        let last = self.make_way(end, later).and_then(|()| self.place_of(end));
        // At its last place it takes the place of a file as it did in the source.
        let last = last.filter(|last| next == end || is_free(last));
        last.or_else(|| self.place_of(next).filter(is_free))
    }

    /// Makes the directories above `path` that the replica lacks and the source has, save those
    /// that are yet to be moved there.
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

    /// Whether the source has made a new entry where one is moved away. `None` where the old one
    /// then stays until the new one takes its place, so that readers never miss it; and where it is
    /// not known.
    fn stands_again(&self, from: &RelPath, moving: &Entry) -> Option<bool> {
        match self.source_at(from) {
            Observed::Absent => Some(false),
            Observed::Present(entry) => (entry.is_dir() && moving.is_dir()).then_some(true),
            Observed::Unknown(_) | Observed::Unlooked => None,
        }
    }

    /// Moves a directory away and leaves an empty one in its place, in one step.
    fn move_behind(
        &mut self,
        (from, to): (&ReplicaName, &ReplicaName),
        is_filled: bool,
        hint: &Rename,
        permit: &RemovalPermit,
    ) -> Option<()> {
        let temp = self.shared.names.next();
        from.dir.make_dir(&temp).ok()?;
        let exchanged = from.dir.exchange(&from.name, &temp, permit).is_ok();
        let standing = to.dir.look(to.name.as_bytes());
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
        let (dir, _) = hint.from.split()?;
        if let (Observed::Present(entry), false) = (self.source_at(&hint.from), is_filled) {
            self.made_dir(dir, hint.from.clone(), &entry);
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
        self.out.scans.push(path.clone());
        self.touch(parent, None);
        self.touch(path.clone(), None);
        self.made.insert(path);
    }

    /// Notes and says that an entry has another name now.
    fn moved_to(
        &mut self,
        from: &ReplicaName,
        to: &ReplicaName,
        entry: &Entry,
        hint: &Rename,
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
            self.renamed_files.push((end, hint.since));
        }
        let check = Check::new(Depth::Subtree, self.terms.detector, hint.since);
        let mut done = Done::new(Operation::Renamed, to.path.clone(), entry, Reason::Moved, &check);
        done.from = Some(from.path.clone());
        self.out.act(done);
    }
}
