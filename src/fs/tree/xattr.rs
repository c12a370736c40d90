//! Extended attributes that are mirrored: `user.*` and POSIX ACLs. See xattr(7), acl(5).

use std::ffi::CString;

use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

use super::Quirks;
use super::sys::{fgetxattr, flistxattr, fremovexattr, fsetxattr, lgetxattr};
use crate::model::entry::{XattrKinds, Xattrs};

/// The kernel's limit, in bytes, on a list of names and on a value.
const LIMIT: usize = 64 * 1024;

/// The access ACL. Directories may also have a default ACL, for new entries.
const ACL: &[u8] = b"system.posix_acl_access";

/// Size of the buffer for a first try, in bytes. Most entries have no attribute at all.
const USUAL: usize = 512;

/// Returns the access ACL of an open entry. Returns `None` if it has none or cannot have one, and
/// an empty ACL if the ACL cannot be read.
pub(super) fn acl(fd: impl AsFd) -> Option<Vec<u8>> {
    known(sized(|buffer| fgetxattr(fd.as_fd(), ACL, buffer)))
}

/// Does the same as [`acl`] for a name in an open directory. A symlink there is not followed.
pub(super) fn acl_at(dir: impl AsFd, name: &[u8]) -> Option<Vec<u8>> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    known(sized(|buffer| lgetxattr(&*path, ACL, buffer)))
}

fn known(acl: Result<Vec<u8>>) -> Option<Vec<u8>> {
    match acl {
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => None,
        other => Some(other.unwrap_or_default()),
    }
}

/// Whether the file system rejects calls for attributes, judged by one call for an open entry.
pub(super) fn is_refused(fd: impl AsFd) -> bool {
    let listed = sized(|buffer| flistxattr(fd.as_fd(), buffer));
    matches!(listed, Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::IO | Errno::PERM | Errno::INVAL))
}

/// Reads those attributes of an open entry that `kinds` selects. Returns none if the file system
/// does not support attributes.
pub(super) fn read(fd: impl AsFd, kinds: XattrKinds, quirks: Quirks) -> Result<Xattrs> {
    let mut xattrs = Xattrs::default();
    if kinds == XattrKinds::NONE {
        return Ok(xattrs);
    }
    let names = match sized(|buffer| flistxattr(fd.as_fd(), buffer)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(xattrs),
        Err(Errno::IO | Errno::PERM | Errno::INVAL) if quirks.refuses_xattrs => return Ok(xattrs),
        other => other?,
    };
    for name in names.split(|byte| *byte == 0).filter(|name| kinds.mirrors(name)) {
        match sized(|buffer| fgetxattr(fd.as_fd(), name, buffer)) {
            Ok(value) => _ = xattrs.0.insert(name.into(), value.into()),
            // RACE: listed, then removed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(xattrs)
}

/// Makes `call` with a buffer of [`USUAL`] bytes, and again with [`LIMIT`] bytes if that was too
/// small.
fn sized(call: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; USUAL];
    let len = match call(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(LIMIT, 0);
            call(&mut buffer)?
        }
        other => other?,
    };
    buffer.truncate(len);
    Ok(buffer)
}

/// Which attributes to set: `user.*` before the owner is set, ACLs after it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum XattrPart {
    User,
    Acl,
}

/// Changes the attributes of one part from `have` to `want`.
pub(super) fn write(fd: impl AsFd, have: &Xattrs, want: &Xattrs, part: XattrPart) -> Result<()> {
    let concerns = |name: &[u8]| name.starts_with(b"user.") == (part == XattrPart::User);
    for name in have.0.keys().filter(|name| concerns(name) && !want.0.contains_key(*name)) {
        match fremovexattr(fd.as_fd(), &**name) {
            Err(Errno::NODATA) => {}
            other => other?,
        }
    }
    for (name, value) in want.0.iter().filter(|(name, _)| concerns(name)) {
        if have.0.get(name) != Some(value) {
            let name = CString::new(&**name).map_err(|_| Errno::INVAL)?;
            fsetxattr(fd.as_fd(), name, value, XattrFlags::empty())?;
        }
    }
    Ok(())
}
