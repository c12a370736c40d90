//! Extended attributes and POSIX ACLs of the entries of a tree.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

pub const ACCESS: &str = "system.posix_acl_access";
pub const DEFAULT: &str = "system.posix_acl_default";

/// The attributes of one entry, by name.
pub type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

pub fn set_xattr(at: &Path, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> io::Result<()> {
    xattr::set(at, OsStr::from_bytes(name.as_ref()), value.as_ref())
}

#[track_caller]
pub fn remove_xattr(at: &Path, name: impl AsRef<[u8]>) {
    xattr::remove(at, OsStr::from_bytes(name.as_ref())).unwrap();
}

/// Those that are mirrored: `user.*` and ACLs.
#[track_caller]
pub fn xattrs(at: &Path) -> Attributes {
    try_xattrs(at).unwrap()
}

fn try_xattrs(at: &Path) -> io::Result<Attributes> {
    let names = match xattr::list(at) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(BTreeMap::new()),
        other => other?,
    };
    let mirrored = |name: &OsString| {
        name.as_bytes().starts_with(b"user.") || name == ACCESS || name == DEFAULT
    };
    let mut found = BTreeMap::new();
    for name in names.filter(mirrored) {
        // One that has gone meanwhile is not there.
        if let Some(value) = xattr::get(at, &name)? {
            found.insert(name.into_vec(), value);
        }
    }
    Ok(found)
}

/// Those of every entry below a root that has any, and of the root as the empty path.
#[track_caller]
pub fn all_xattrs(root: &Path) -> BTreeMap<Vec<u8>, Attributes> {
    try_all_xattrs(root).unwrap()
}

/// An error where an entry was listed and is gone.
fn try_all_xattrs(root: &Path) -> io::Result<BTreeMap<Vec<u8>, Attributes>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(at) = waiting.pop() {
        let have = try_xattrs(&at)?;
        if !have.is_empty() {
            found.insert(at.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), have);
        }
        if fs::symlink_metadata(&at)?.is_dir() {
            for entry in fs::read_dir(&at)? {
                waiting.push(entry?.path());
            }
        }
    }
    Ok(found)
}

/// Whether both trees have the same attributes now. Either may change while this looks: then they
/// have not.
pub fn have_same_xattrs(source: &Path, replica: &Path) -> bool {
    let [source, replica] = [source, replica].map(try_all_xattrs);
    matches!((source, replica), (Ok(source), Ok(replica)) if source == replica)
}

/// Fails unless both trees have the same attributes everywhere.
#[track_caller]
pub fn assert_same_xattrs(source: &Path, replica: &Path) {
    let [source, replica] = [all_xattrs(source), all_xattrs(replica)];
    let names: std::collections::BTreeSet<_> = source.keys().chain(replica.keys()).collect();
    for name in names {
        let [ours, theirs] = [&source, &replica].map(|side| side.get(name).map(shown));
        assert_eq!(ours, theirs, "attributes of \"{}\": source, replica", name.escape_ascii());
    }
}

fn shown(attributes: &Attributes) -> Vec<String> {
    let line = |(name, value): (&Vec<u8>, &Vec<u8>)| {
        let start = &value[..value.len().min(60)];
        format!("{} = {} bytes {}", name.escape_ascii(), value.len(), start.escape_ascii())
    };
    attributes.iter().map(line).collect()
}

/// An ACL as the kernel takes it (`linux/posix_acl_xattr.h`): the rights of the owner, of the user
/// 4321, of the owning group, of the mask and of others.
pub fn acl([owner, named, group, mask, others]: [u16; 5]) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let entries = [
        (0x01_u16, owner, NOBODY),
        (0x02, named, 4321),
        (0x04, group, NOBODY),
        (0x10, mask, NOBODY),
        (0x20, others, NOBODY),
    ];
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Whether the file system of this directory keeps attributes of this kind.
pub fn keeps(dir: &Path, name: &str) -> bool {
    let value = if name.starts_with("user.") { b"x".to_vec() } else { acl([7, 5, 5, 5, 5]) };
    let probe = dir.join("probe of attributes");
    fs::create_dir(&probe).unwrap();
    let result = set_xattr(&probe, name, value);
    fs::remove_dir(&probe).unwrap();
    result.is_ok()
}
