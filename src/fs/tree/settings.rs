//! Sets owner, mode, times and attributes through a descriptor, in the only order in which they do
//! not undo each other: a change of owner clears setuid and setgid, and an ACL changes the mode.

use rustix::fd::AsFd;
use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};

use super::sys::{fchmod, fchown, futimens};
use super::xattr::{self, XattrPart};
use super::{During, Result};
use crate::model::entry::{Time, Xattrs};
use crate::model::error::FsError;
use crate::model::error::FsErrorKind;
use crate::model::error::Side;

/// Metadata to set. Fields that are `None` are left alone.
#[derive(Clone, Default, Debug)]
pub struct Settings<'a> {
    /// The attributes that the entry has, and those that it is to have.
    pub xattrs: Option<(&'a Xattrs, &'a Xattrs)>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// `mode & 0o7777`.
    pub mode: Option<u32>,
    pub mtime: Option<Time>,
}

impl Settings<'_> {
    pub(super) fn apply(&self, fd: impl AsFd, side: Side) -> Result<()> {
        if let Some((have, want)) = self.xattrs {
            xattr::write(fd.as_fd(), have, want, XattrPart::User)
                .during(side, "set the extended attributes")
                .map_err(for_xattrs)?;
        }
        if self.uid.is_some() || self.gid.is_some() {
            fchown(fd.as_fd(), self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw))
                .during(side, "set the owner")?;
        }
        if let Some((have, want)) = self.xattrs {
            xattr::write(fd.as_fd(), have, want, XattrPart::Acl)
                .during(side, "set the ACL")
                .map_err(for_xattrs)?;
        }
        if let Some(mode) = self.mode {
            fchmod(fd.as_fd(), Mode::from_raw_mode(mode)).during(side, "set the mode")?;
        }
        if let Some(mtime) = self.mtime {
            futimens(fd.as_fd(), &times(mtime)).during(side, "set the times")?;
        }
        Ok(())
    }
}

/// Returns the times to set: `mtime`, and now for the atime, which is not mirrored. Leaving the
/// atime alone would be kinder. But file systems on libfuse 2 (exFAT, ...) silently ignore such a
/// call.
pub(super) fn times(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        last_modification: Timespec { tv_sec: mtime.sec, tv_nsec: mtime.nsec.into() },
    }
}

/// Changes the kind of an error that means "no space": only the space for attributes may have run
/// out, and not that for contents.
fn for_xattrs(error: FsError) -> FsError {
    let means = FsErrorKind::NoSpaceForXattrs;
    error.remap_kind(FsErrorKind::NoSpace, means).remap_kind(FsErrorKind::OverQuota, means)
}
