//! A tree as it stands on the disk, and the comparison of two.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every entry below a root by its path, and the root itself as the empty path. Follows no symlink.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub entries: BTreeMap<Vec<u8>, Entry>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// The bits 07777; 0 for a symlink, which has none of its own.
    pub mode: u32,
    pub mtime: (i64, i64),
    /// Number of the inode; 0 where it is not to be compared.
    pub inode: u64,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Kind {
    File(Vec<u8>),
    Dir,
    Symlink(Vec<u8>),
    /// FIFO, socket or device.
    Special,
}

impl Snapshot {
    /// Kinds, contents, modes, mtimes.
    #[track_caller]
    pub fn of(root: &Path) -> Self {
        Self::with_inodes(root).without_inodes()
    }

    /// The same, and the inodes: for a tree that must not be touched at all.
    #[track_caller]
    pub fn with_inodes(root: &Path) -> Self {
        Self::try_with_inodes(root).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same of a tree that may change meanwhile: an error where an entry was listed and is
    /// gone.
    pub fn try_with_inodes(root: &Path) -> io::Result<Self> {
        let mut snapshot = Self::default();
        snapshot.add(root, Vec::new())?;
        Ok(snapshot)
    }

    pub fn without_inodes(mut self) -> Self {
        for entry in self.entries.values_mut() {
            entry.inode = 0;
        }
        self
    }

    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&Entry> {
        self.entries.get(name.as_ref())
    }

    /// Without the entries for which `drop` says yes.
    pub fn without(mut self, drop: impl Fn(&[u8], &Entry) -> bool) -> Self {
        self.entries.retain(|name, entry| !drop(name, entry));
        self
    }

    fn add(&mut self, at: &Path, name: Vec<u8>) -> io::Result<()> {
        let named = |error| io::Error::other(format!("{}: {error}", at.display()));
        let metadata = fs::symlink_metadata(at).map_err(named)?;
        let kind = if metadata.is_dir() {
            Kind::Dir
        } else if metadata.is_symlink() {
            Kind::Symlink(fs::read_link(at).map_err(named)?.into_os_string().into_vec())
        } else if metadata.is_file() {
            Kind::File(fs::read(at).map_err(named)?)
        } else {
            Kind::Special
        };
        if kind == Kind::Dir {
            for child in fs::read_dir(at).map_err(named)? {
                let child = child.map_err(named)?.file_name();
                let mut below = name.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(child.as_bytes());
                self.add(&at.join(&child), below)?;
            }
        }
        let mode = match kind {
            Kind::Symlink(_) => 0,
            _ => metadata.mode() & 0o7777,
        };
        let entry = Entry {
            kind,
            mode,
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            inode: metadata.ino(),
        };
        self.entries.insert(name, entry);
        Ok(())
    }
}

/// User and group of every entry, by path.
#[track_caller]
pub fn owners(root: &Path) -> BTreeMap<PathBuf, (u32, u32)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(at) = waiting.pop() {
        let metadata = fs::symlink_metadata(&at).unwrap();
        found.insert(at.strip_prefix(root).unwrap().to_owned(), (metadata.uid(), metadata.gid()));
        if metadata.is_dir() {
            waiting.extend(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::File(bytes) => {
                let start = &bytes[..bytes.len().min(24)];
                write!(f, "file of {} bytes \"{}\"", bytes.len(), start.escape_ascii())?;
            }
            Kind::Dir => write!(f, "directory")?,
            Kind::Symlink(target) => write!(f, "symlink to \"{}\"", target.escape_ascii())?,
            Kind::Special => write!(f, "special file")?,
        }
        let (seconds, nanoseconds) = self.mtime;
        write!(f, ", mode {:04o}", self.mode)?;
        write!(f, ", mtime {seconds}.{nanoseconds:09}")?;
        if self.inode != 0 {
            write!(f, ", inode {}", self.inode)?;
        }
        Ok(())
    }
}

/// One line or two for each entry that is not the same in both.
pub fn differences(left: &Snapshot, right: &Snapshot) -> Vec<String> {
    let mut found = Vec::new();
    for (name, entry) in &left.entries {
        let shown = name.escape_ascii();
        match right.get(name) {
            Some(other) if entry == other => {}
            Some(other) => {
                let mut line = format!("\"{shown}\":\n      left:  {entry}\n      right: {other}");
                if let (Kind::File(a), Kind::File(b)) = (&entry.kind, &other.kind)
                    && let Some(at) = a.iter().zip(b).position(|(a, b)| a != b)
                {
                    line = format!("{line}\n      bytes differ from {at} on");
                }
                found.push(line);
            }
            None => found.push(format!("\"{shown}\": only left: {entry}")),
        }
    }
    for (name, entry) in &right.entries {
        if left.get(name).is_none() {
            found.push(format!("\"{}\": only right: {entry}", name.escape_ascii()));
        }
    }
    found
}

/// Fails with the first differences.
#[track_caller]
pub fn assert_same(what: &str, left: &Snapshot, right: &Snapshot) {
    let found = differences(left, right);
    if found.is_empty() {
        return;
    }
    let first: Vec<&str> = found.iter().take(8).map(String::as_str).collect();
    panic!("{what}: {} differences, the first:\n  {}", found.len(), first.join("\n  "));
}

/// Fails unless the replica is what it should be: the source, without its special files.
#[track_caller]
pub fn assert_twins(source: &Path, replica: &Path) {
    let left = mirrored(Snapshot::of(source));
    let right = Snapshot::of(replica);
    assert_same("source (left) and replica (right)", &left, &right);
}

/// Whether they are equal now. Either may change, or be missing, while this looks: then they are
/// not.
pub fn are_twins(source: &Path, replica: &Path) -> bool {
    let [left, right] = [source, replica].map(Snapshot::try_with_inodes);
    match (left, right) {
        (Ok(left), Ok(right)) => mirrored(left).without_inodes() == right.without_inodes(),
        _ => false,
    }
}

fn mirrored(source: Snapshot) -> Snapshot {
    source.without(|_, entry| entry.kind == Kind::Special)
}
