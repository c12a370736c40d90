//! Sets metadata on files and symlinks of the replica in place, unless somebody would gain rights
//! by this that they must not have.

use super::RoundOutput;
use super::contents::{EntryContext, Worked, changed_if_gone};
use crate::fs::tree::Settings;
use crate::model::entry::{Entry, Kind, Observed};
use crate::model::error::FsErrorKind;
use crate::model::error::{FsError, Side};
use crate::model::path::Name;
use crate::model::reason::Reason;
use crate::plan::hard_links::Linked;
use crate::plan::metadata::MetadataDiff;
use crate::report::{Done, Operation};
use crate::writer::fs::copy::settings;

/// The error for metadata that must not be set in place: the file is copied anew.
const UNSETTABLE: FsError =
    FsError::found("set metadata", Side::Replica, FsErrorKind::NotPermitted);

impl<'a> EntryContext<'_, 'a> {
    /// Sets the facts that differ in place. If this is not permitted, the entry is made anew.
    pub(super) fn set_metadata(
        &self,
        name: &Name,
        source: &Observed,
        differs: MetadataDiff,
        standing: &Observed,
        out: &mut RoundOutput,
    ) -> Worked<'a> {
        let Some(entry) = source.entry() else { return Ok(None) };
        let capabilities = &self.round.shared.capabilities;
        let result = match entry.kind {
            Kind::Symlink(_) => {
                self.replica.set_symlink(name, &settings(entry, differs, None, capabilities))
            }
            _ => self.set_in_place(name, entry, differs, standing),
        };
        match result {
            Ok(()) => {
                let mut done = Done::new(
                    Operation::Updated,
                    self.path.clone(),
                    entry,
                    Reason::Metadata,
                    self.check,
                );
                done.differs = differs;
                out.names.extend(Linked::of(self.path, entry, true));
                out.note_time(self.path, entry, capabilities);
                out.act(done);
                Ok(None)
            }
            Err(error) if error.is_forbidden() => match entry.kind {
                Kind::Symlink(_) => self.make_symlink(source, standing, Reason::Metadata, out),
                _ => self.copy_file(name, standing, Reason::Metadata, out),
            },
            Err(error) => Err(changed_if_gone(error)),
        }
    }

    fn set_in_place(
        &self,
        name: &Name,
        entry: &Entry,
        differs: MetadataDiff,
        standing: &Observed,
    ) -> Result<(), FsError> {
        let capabilities = &self.round.shared.capabilities;
        let (file, now) = self.replica.open_existing(name)?;
        // It must be the file that was compared, and not another one in its place.
        let Some(standing) =
            standing.entry().filter(|standing| standing.identity() == now.identity())
        else {
            return Err(FsError { kind: FsErrorKind::Invalid, ..UNSETTABLE });
        };
        let mode = capabilities.mode_of(entry, Some(&now));
        // RACE: a link may be made right after this. It then has the new metadata too.
        if !lies_here_alone(&now) || gains_rights(differs, mode, &now) {
            return Err(UNSETTABLE);
        }
        let xattrs = standing.xattrs.as_ref().zip(entry.xattrs.as_ref());
        let is_acl_other = xattrs.is_some_and(|xattrs| differs.of_rights(xattrs).xattrs);
        if capabilities.modes && (differs.uid || differs.gid || is_acl_other) {
            file.set(&Settings { mode: Some(common_rights(entry, &now)), ..Settings::default() })?;
        }
        let settings = settings(entry, differs, xattrs, capabilities);
        let mode = (settings.mode.is_some() || is_acl_other).then_some(mode);
        file.set(&Settings { mode, ..settings })
    }

    /// Removes the permissions of a file that its source does not give any more, if it cannot be
    /// updated at once. Returns what stands there then; `None` if nothing was changed.
    pub(super) fn restrict_file(
        &self,
        name: &Name,
        source: &Observed,
        standing: &Observed,
    ) -> Option<Observed> {
        let capabilities = &self.round.shared.capabilities;
        let (source, standing) =
            (source.entry()?, standing.entry().filter(|standing| standing.is_file())?);
        // Its owner's permissions do no harm.
        let mode = standing.mode & (capabilities.mode_of(source, Some(standing)) | 0o700);
        if !capabilities.modes || !source.is_file() || mode == standing.mode {
            return None;
        }
        let (file, now) = self.replica.open_existing(name).ok()?;
        if now.identity() != standing.identity() || !lies_here_alone(&now) {
            return None;
        }
        file.set(&Settings { mode: Some(mode), ..Settings::default() }).ok()?;
        Some(self.replica.observe(name.as_bytes()))
    }

    /// Renews the ctime of a file, by setting the mtime that it has. The file was found equal, so
    /// quick sweeps need not read it again. If this fails, they do.
    pub(super) fn renew(&self, name: &Name, replica: &Entry) {
        let times = Settings { mtime: Some(replica.mtime), ..Settings::default() };
        let is_it = |now: &Entry| now.identity() == replica.identity() && lies_here_alone(now);
        if let Ok((file, now)) = self.replica.open_existing(name)
            && is_it(&now)
        {
            let _ = file.set(&times);
        }
    }

    /// Returns whether metadata would give somebody rights to a file whose contents were not
    /// compared: another one may have been put in its place.
    pub(super) fn gives_rights_unseen(&self, source: &Entry, replica: &Entry) -> bool {
        let capabilities = &self.round.shared.capabilities;
        let differs = MetadataDiff::between(source, replica, capabilities);
        let gained = capabilities.mode_of(source, Some(replica)) & !replica.mode;
        let gives = differs.uid || differs.gid || (differs.mode && gained != 0);
        gives && !self.dir_pair.is_ours_alone(self.round)
    }
}

/// Returns whether a change of an entry of the replica in place affects nothing else. It has no
/// second hard link, and no file from elsewhere is mounted there.
pub(super) fn lies_here_alone(replica: &Entry) -> bool {
    replica.inode.links <= 1 && !replica.inode.mount_root
}

/// Returns the permissions that both the old and the new mode give, for the moment in which the
/// owner or the ACL changes.
pub(super) fn common_rights(source: &Entry, standing: &Entry) -> u32 {
    source.mode & standing.mode & 0o777
}

/// Returns whether a file would become setuid or setgid, or would be so for another owner or group.
/// Somebody who can write to it now, or has it open for writing, could then choose the program.
/// Such a file is made anew.
fn gains_rights(differs: MetadataDiff, mode: u32, standing: &Entry) -> bool {
    let is_given = (differs.uid || differs.gid) && (mode | standing.mode) & 0o6000 != 0;
    is_given || mode & !standing.mode & 0o6000 != 0
}
