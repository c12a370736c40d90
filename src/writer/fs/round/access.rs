//! The permissions of directories that stand on both sides.
//!
//! Revoked permissions are removed first, from the root down, before anything is written into the
//! directory. New permissions are given when the directory itself is checked. A walk asks for that
//! after all other checks in it. There are two conditions:
//!
//! - Nothing in the directory waits or has failed.
//! - The directory is verified: it was made for its source, or a walk has found all its entries in
//!   the source. Otherwise a walk has compared the two, and nobody else could have moved it there.

use super::contents::changed_if_no_dir;
use super::in_place::{common_rights, lies_here_alone};
use super::moves::{Moving, ReplicaName};
use super::open_dirs::step_to;
use super::{RestrictedDirs, Round};
use crate::fs::renamers::Renamers;
use crate::fs::tree::{Dir, ReplicaDir, Settings};
use crate::model::entry::{Entry, GROUP_OTHER, Kind, XattrKinds};
use crate::model::error::FsErrorKind;
use crate::model::error::{FsError, WorkError};
use crate::model::path::RelPath;
use crate::plan::metadata::MetadataDiff;

/// The bits of a mode by which everybody can look into a directory.
const OTHERS_LOOK: u32 = 0o005;

impl Round<'_> {
    /// Restricts a directory of the replica and each one above it. Both sides are opened name by
    /// name, so that each is compared with the directory that holds the next.
    ///
    /// # Errors
    /// If one of them stays too open. [`WorkError::Changed`] if `source` and `replica` are not the
    /// directories at its path.
    pub(super) fn restrict_down_to(
        &mut self,
        path: &RelPath,
        source: &Dir,
        replica: &ReplicaDir,
    ) -> Result<(), WorkError> {
        let here = RelPath::root();
        let mut above = path.ancestors_and_self().rev().skip(1);
        let known = above.find_map(|above| Some((self.restricted_pair(&above)?, above)));
        let ((mut ours, mut theirs), from) = match known {
            Some(known) => known,
            None => ((self.source.open(&here)?, self.replica.open(&here)?), here),
        };
        let pair = (ours.entry()?, theirs.entry()?);
        self.restrict(&from, &pair.0, Some(&ours), &theirs)?;
        let below: Vec<RelPath> =
            path.ancestors_and_self().rev().take_while(|next| !from.is_within(next)).collect();
        self.restricted.known.insert(from, pair);
        for next in below.into_iter().rev() {
            let Some((_, step)) = step_to(&next) else { continue };
            (ours, theirs) = (
                ours.open(&step).map_err(changed_if_no_dir)?,
                theirs.open(&step).map_err(changed_if_no_dir)?,
            );
            let pair = (ours.entry()?, theirs.entry()?);
            self.restrict(&next, &pair.0, Some(&ours), &theirs)?;
            self.restricted.known.insert(next, pair);
        }
        let are_they = ours.entry()?.is_inode_of(&source.entry()?)
            && theirs.entry()?.is_inode_of(&replica.entry()?);
        if are_they { Ok(()) } else { Err(WorkError::Changed) }
    }

    /// Forgets the restricted directories: others may have their paths now.
    pub(super) fn forget_restricted(&mut self) {
        self.restricted = RestrictedDirs::default();
    }

    /// Opens both sides of a directory that this round has restricted, with all above it.
    /// Directories below it need not be opened from the root then. `None` if others stand there by
    /// now.
    pub(super) fn restricted_pair(&mut self, path: &RelPath) -> Option<(Dir, ReplicaDir)> {
        if !self.dir_pairs.contains_key(path)
            && self.restricted.near.as_ref().is_none_or(|(near, _)| near != path)
        {
            let (ours, theirs) = self.restricted.known.get(path)?;
            let pair = (self.source.open(path).ok()?, self.replica.open(path).ok()?);
            let are_they =
                pair.0.entry().ok()?.is_inode_of(ours) && pair.1.entry().ok()?.is_inode_of(theirs);
            self.restricted.near = are_they.then(|| (path.clone(), pair));
        }
        let (source, replica) = match (self.dir_pairs.get(path), &self.restricted.near) {
            (Some(dir_pair), _) => dir_pair.both()?,
            (None, Some((_, (source, replica)))) => (source, replica),
            (None, None) => return None,
        };
        let here = RelPath::root();
        Some((source.open(&here).ok()?, replica.open(&here).ok()?))
    }

    /// Removes the permissions of a directory of the replica that its source does not give any
    /// more. If owner, group or ACL differ, group and others get none until `finish_dirs`. Neither
    /// does the former owner.
    ///
    /// `wanted`: the facts of the source's directory. `source`: that directory, if it can be
    /// opened.
    ///
    /// # Errors
    /// If the directory stays too open, or belongs to another user. The replica's root is exempt,
    /// since the user has chosen it: `finish_dirs` reports it.
    pub(super) fn restrict(
        &mut self,
        path: &RelPath,
        wanted: &Entry,
        source: Option<&Dir>,
        replica: &ReplicaDir,
    ) -> Result<(), FsError> {
        let (capabilities, verified_dirs) = (&self.shared.capabilities, &self.shared.verified_dirs);
        if !capabilities.modes {
            return Ok(());
        }
        let now = replica.entry()?;
        if source.is_some() {
            verified_dirs.invalidate(wanted, &now);
            self.note_if_empty(wanted, &now, replica);
        }
        let differs = MetadataDiff::between(wanted, &now, capabilities);
        let is_given = differs.uid
            || differs.gid
            || (!now.is_closed() && source.is_some_and(|source| self.acls_differ(source, replica)));
        let allowed = 0o7700 | if is_given { 0 } else { wanted.mode };
        let uid =
            (is_given && differs.uid && now.uid != capabilities.user).then_some(capabilities.user);
        // The owner can let in anybody, whatever the mode is now.
        let is_strangers =
            !capabilities.owner && ![capabilities.user, wanted.uid, 0].contains(&now.uid);
        let is_too_open =
            now.is_wider_than(wanted) || (is_strangers && wanted.mode & OTHERS_LOOK != OTHERS_LOOK);
        if now.mode & !allowed == 0 && uid.is_none() && !is_too_open {
            return Ok(());
        }
        match self.close_to_others(path, &now, (uid, now.mode & allowed), replica) {
            Err(error) if is_too_open && !path.is_root() => Err(error),
            _ => Ok(()),
        }
    }

    /// Sets an owner, and a mode with fewer permissions, until `finish_dirs`.
    fn close_to_others(
        &mut self,
        path: &RelPath,
        now: &Entry,
        (uid, mode): (Option<u32>, u32),
        replica: &ReplicaDir,
    ) -> Result<(), FsError> {
        replica.set(&Settings { uid, mode: Some(mode), ..Settings::default() })?;
        self.note_former_renamers(now, uid.unwrap_or(now.uid), mode);
        self.saved_modes.entry(path.clone()).or_insert(now.mode);
        self.touch(path.clone(), None);
        Ok(())
    }

    /// Notes that others could rename entries in a directory before it got this owner and mode, if
    /// they cannot any more.
    pub(super) fn note_former_renamers(&self, before: &Entry, uid: u32, mode: u32) {
        let (verified_dirs, user) = (&self.shared.verified_dirs, self.shared.capabilities.user);
        let renamers = |dir: &Entry| Renamers::within(dir, verified_dirs, user);
        if renamers(before) != Renamers::Nobody
            && renamers(before) != renamers(&Entry { mode, uid, ..before.clone() })
        {
            verified_dirs.mark_had_other_renamers(before);
        }
    }

    fn acls_differ(&self, source: &Dir, replica: &Dir) -> bool {
        let kinds = XattrKinds { user: false, ..self.shared.capabilities.xattrs };
        let acls = [source, replica].map(|dir| dir.xattrs(kinds).unwrap_or_default());
        acls[0].lets_in_others_than(&acls[1])
    }

    /// Notes an empty directory as verified: it holds nothing of another source.
    pub(super) fn note_if_empty(&self, source: &Entry, now: &Entry, replica: &Dir) {
        let verified_dirs = &self.shared.verified_dirs;
        if !verified_dirs.are_verified(source, now) && replica.is_empty().unwrap_or(false) {
            verified_dirs.note(source, now);
        }
    }

    /// Restricts an entry, before it is renamed, to what its source at `end` permits. A directory
    /// that fewer people could see at its old place is closed until a walk has compared it. `None`
    /// if this fails.
    pub(super) fn restrict_moving(
        &mut self,
        from: &ReplicaName,
        to: &ReplicaName,
        moving: &Moving,
        end: &RelPath,
    ) -> Option<()> {
        match moving.replica.kind {
            _ if !self.shared.capabilities.modes => Some(()),
            Kind::File => self.restrict_moving_file(from, moving),
            Kind::Dir => self.restrict_moving_dir(from, to, &moving.source, end),
            Kind::Symlink(_) | Kind::Special(_) => Some(()),
        }
    }

    fn restrict_moving_file(
        &self,
        from: &ReplicaName,
        Moving { replica, source, .. }: &Moving,
    ) -> Option<()> {
        let capabilities = &self.shared.capabilities;
        let differs = MetadataDiff::between(source, replica, capabilities);
        let mode = if differs.uid || differs.gid {
            common_rights(source, replica)
        } else {
            replica.mode & capabilities.mode_of(source, Some(replica))
        };
        if mode == replica.mode {
            return Some(());
        }
        let (file, standing) = from.dir.open_existing(&from.name).ok()?;
        let is_it = standing.identity() == replica.identity() && lies_here_alone(&standing);
        is_it.then(|| file.set(&Settings { mode: Some(mode), ..Settings::default() }).ok())?
    }

    fn restrict_moving_dir(
        &mut self,
        from: &ReplicaName,
        to: &ReplicaName,
        source: &Entry,
        end: &RelPath,
    ) -> Option<()> {
        let dir = match from.dir.open(&RelPath::new(from.name.as_bytes())?) {
            // Its mode locks out even its owner.
            Err(error) if error.kind == FsErrorKind::Denied => return Some(()),
            other => other.ok()?,
        };
        let ours = self.source.open(end).ok();
        self.restrict(&to.path, source, ours.as_ref(), &dir).ok()?;
        if to.dir.entry().ok()?.is_wider_than(&from.dir.entry().ok()?) {
            let now = dir.entry().ok()?;
            self.close_to_others(&to.path, &now, (None, now.mode & !GROUP_OTHER), &dir).ok()?;
            self.shared.verified_dirs.moved(&now);
        }
        Some(())
    }
}
