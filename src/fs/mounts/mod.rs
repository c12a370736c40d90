//! Reads `/proc/self/mountinfo`, which shows where on its file system a directory lies, whatever
//! bind mounts lead to it. See `proc_pid_mountinfo(5)`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::fs::tree::DirId;

/// One mounted file system, or a part of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Unique among current mounts. The kernel reuses it after an unmount.
    id: u64,
    /// `major:minor` of the file system's device.
    device: String,
    /// The directory of that file system that is mounted.
    root: PathBuf,
    pub point: PathBuf,
}

impl Mount {
    /// Parses a line; `None` if it has another form.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let device = String::from_utf8(fields.nth(1)?.to_vec()).ok()?;
        let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
        Some(Self { id, device, root, point })
    }

    /// Returns all mounts that this process sees; none if mountinfo cannot be read.
    fn all() -> Vec<Self> {
        let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
        text.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect()
    }

    /// Returns the mount that `path` lies on; `None` if that cannot be determined.
    pub fn of(path: &Path) -> Option<Self> {
        let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
        Self::all().into_iter().find(|mount| mount.id == stat.stx_mnt_id)
    }

    /// Whether this mount, whose root directory is `id`, is now mounted somewhere else below
    /// `dir`. That happens if a directory above it was renamed.
    pub fn has_moved_below(&self, dir: &Path, id: &DirId) -> bool {
        let Ok(dir) = fs::canonicalize(dir) else { return false };
        Self::all().into_iter().any(|mount| {
            let is_it = Self { point: self.point.clone(), ..mount.clone() } == *self;
            let is_elsewhere = mount.point != self.point && mount.point != dir;
            // A later mount may have reused the id and the device number. The unique id in `id`
            // differs then.
            is_it && is_elsewhere && mount.point.starts_with(&dir) && id.is_mounted_at(&mount.point)
        })
    }

    /// Whether it is still mounted at its place. This does not notice if a later mount there reuses
    /// its id and device number.
    pub fn stands(&self) -> bool {
        Self::all().contains(self)
    }
}

/// Decodes `\040` and the like: the kernel writes space, tab, newline and backslash in octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = if *first == b'\\' { tail.get(..3) } else { None };
        if let Some(byte) =
            octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok())
        {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes).into()
}

/// Whether the directory `inner` can also be reached below `dir`, through a mount there.
pub fn is_seen_below(inner: &Path, dir: &Path) -> bool {
    let (Some(place), Ok(dir)) = (MountPlace::of(inner), fs::canonicalize(dir)) else {
        return false;
    };
    let leads_there =
        |mount: &Mount| mount.device == place.device && place.path.starts_with(&mount.root);
    Mount::all()
        .iter()
        .any(|mount| mount.point != dir && mount.point.starts_with(&dir) && leads_there(mount))
}

/// Returns all mount points that this process sees; none if mountinfo cannot be read.
pub fn points() -> Vec<PathBuf> {
    Mount::all().into_iter().map(|mount| mount.point).collect()
}

/// The position of a directory on its file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountPlace {
    device: String,
    path: PathBuf,
}

impl MountPlace {
    /// Returns where the directory `path` lies; `None` if that cannot be determined.
    pub fn of(path: &Path) -> Option<Self> {
        let mount = Mount::of(path)?;
        let real = fs::canonicalize(path).ok()?;
        let below = real.strip_prefix(&mount.point).ok()?;
        Some(Self { device: mount.device, path: mount.root.join(below) })
    }

    /// Whether this place is `other` or lies below it.
    pub fn is_within(&self, other: &MountPlace) -> bool {
        self.device == other.device && self.path.starts_with(&other.path)
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let line =
            br"36 35 98:0 /mnt1/a\040b /mnt\0122 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.id, &*mount.device), (36, "98:0"));
        assert_eq!((mount.root, mount.point), ("/mnt1/a b".into(), "/mnt\n2".into()));
        assert_eq!(Mount::parse(b"36 35"), None);
    }

    #[test]
    fn a_directory_lies_within_those_above_it() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("sub")).unwrap();
        let (Some(above), Some(below)) =
            (MountPlace::of(top.path()), MountPlace::of(&top.path().join("sub")))
        else {
            return println!("skipped: the kernel gives no mount ids here");
        };
        assert!(below.is_within(&above) && above.is_within(&above) && !above.is_within(&below));
    }
}
