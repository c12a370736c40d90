//! The `finish_dirs` phase: sets modes, owners and times of the directories in which a name was
//! checked. It runs bottom up, after all that changes them.

use super::Round;
use super::in_place::common_rights;
use super::open_dirs::DirPair;
use super::widening::Widening;
use crate::fs::tree::Settings;
use crate::model::check::{Check, Depth};
use crate::model::error::{APPEND_ONLY_METADATA, FsError};
use crate::model::path::RelPath;
use crate::model::reason::Reason;
use crate::plan::metadata::{MetadataDiff, grants_more};
use crate::plan::widen::widen_blocker;
use crate::report::{Done, Operation};
use crate::writer::fs::copy::settings;

impl Round<'_> {
    pub(super) fn finish_dirs(&mut self) {
        let needs_finish = std::mem::take(&mut self.needs_finish);
        for (rel, since) in needs_finish.iter().rev() {
            let is_asked = since.is_some() || rel.is_root() || self.made.contains(rel);
            let since = since.unwrap_or(self.terms.now);
            let check = Check::new(Depth::Content, self.terms.detector, since);
            if let Err(error) = self.finish_dir(rel, &check, is_asked) {
                // If it was deleted meanwhile, another check concerns it.
                if !error.is_dir_absence() {
                    self.out.record_failure(rel.clone(), check, error.into());
                }
                self.restore_lock(rel);
            }
        }
    }

    fn finish_dir(&mut self, rel: &RelPath, check: &Check, is_asked: bool) -> Result<(), FsError> {
        // A directory that is locked by its mode is opened up first.
        let replica_opened = match self.dir_pairs.get(rel) {
            Some(DirPair { replica: Some(_), .. }) => None,
            _ => Some(self.open_replica(rel)?),
        };
        let dir_pair = self.dir_pairs.get(rel);
        let opened;
        let source = if let Some(dir_pair) = dir_pair {
            &dir_pair.source
        } else {
            opened = self.source.open(rel)?;
            &opened
        };
        let Some(replica) =
            replica_opened.as_ref().or(dir_pair.and_then(|dir_pair| dir_pair.replica.as_ref()))
        else {
            return Ok(());
        };
        // RACE: the source's directory may change after this. A later check finds that.
        let capabilities = &self.shared.capabilities;
        let xattrs = (replica.xattrs(capabilities.xattrs)?, source.xattrs(capabilities.xattrs)?);
        let entry = source.entry()?;
        let now = replica.entry()?;
        let differs = MetadataDiff {
            xattrs: xattrs.0 != xattrs.1,
            ..MetadataDiff::between(&entry, &now, capabilities)
        };
        if differs.any() && now.inode.append_only {
            return Err(APPEND_ONLY_METADATA);
        }
        let widening = Widening {
            round: self,
            path: rel,
            source: &entry,
            now: &now,
            since: check.since,
            is_examined: is_asked,
        };
        if grants_more(&entry, &now, differs.of_rights((&xattrs.0, &xattrs.1)), capabilities)
            && let Some(why) = widen_blocker(&widening)
        {
            let mtime = differs.mtime.then(|| capabilities.mtime_of(&entry));
            replica.set(&Settings { mtime, ..Settings::default() })?;
            // A directory that was opened up stays open to its owner, so that a walk can read it.
            self.defer_widen(rel, check, why);
            return Ok(());
        }
        if capabilities.modes && (differs.uid || differs.gid) {
            let mode = Some(common_rights(&entry, &now));
            replica.set(&Settings { mode, ..Settings::default() })?;
        }
        if differs.any() {
            let uid = if differs.uid { entry.uid } else { now.uid };
            self.note_former_renamers(&now, uid, if differs.mode { entry.mode } else { now.mode });
            replica.set(&settings(&entry, differs, Some((&xattrs.0, &xattrs.1)), capabilities))?;
            self.out.note_time(rel, &entry, capabilities);
        }
        let mode_before = self.saved_modes.get(rel).copied().unwrap_or(now.mode);
        let visible = (capabilities.modes && mode_before != entry.mode)
            || MetadataDiff { mode: false, ..differs }.any_but_mtime();
        if visible && !self.made.contains(rel) {
            let mut done =
                Done::new(Operation::Updated, rel.clone(), &entry, Reason::Metadata, check);
            // Its mtime may differ only because of this round's own work in it.
            done.differs = MetadataDiff {
                mode: capabilities.modes && mode_before != entry.mode,
                mtime: false,
                ..differs
            };
            self.out.act(done);
        }
        Ok(())
    }

    /// Takes back the permissions of a directory that was opened up, if `finish_dirs` has failed. A
    /// directory that was restricted stays so.
    fn restore_lock(&self, rel: &RelPath) {
        if let (Some(mode), Ok(dir)) = (self.saved_modes.get(rel), self.replica.open(rel))
            && let Ok(now) = dir.entry()
        {
            let _ = dir.set(&Settings { mode: Some(mode & now.mode), ..Settings::default() });
        }
    }
}
