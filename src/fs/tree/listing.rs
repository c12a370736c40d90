//! The names in a directory, sorted, in one block of memory.

use rustix::fd::AsFd;
use rustix::fs::FileType;

use super::sys::RawDir;
use crate::model::entry::{Kind, Observed};
use crate::model::path::is_reserved;

/// The kind of an entry as the listing of its directory gives it. Some file systems give none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListedKind {
    File,
    Dir,
    Symlink,
    Special,
    Unknown,
}

/// The directory that mkfs creates in a file system of the ext family.
pub const LOST_FOUND: &[u8] = b"lost+found";

struct Item {
    start: u32,
    len: u16,
    hint: ListedKind,
}

/// The names in a directory, in the order of their bytes. Reserved names are kept separately (I7).
#[derive(Default)]
pub struct Listing {
    bytes: Vec<u8>,
    items: Vec<Item>,
    reserved: Vec<Box<[u8]>>,
}

impl ListedKind {
    /// Whether it is a directory. Calls `look` if the listing gave no kind.
    pub fn is_dir_or(self, look: impl FnOnce() -> bool) -> bool {
        match self {
            ListedKind::Dir => true,
            ListedKind::File | ListedKind::Symlink | ListedKind::Special => false,
            ListedKind::Unknown => look(),
        }
    }

    /// Returns the kind. If the listing gave none, observes the entry by `look`. Remains `Unknown`
    /// if there is no entry, or it cannot be read.
    pub fn resolve(self, look: impl FnOnce() -> Observed) -> Self {
        if self != ListedKind::Unknown {
            return self;
        }
        match look().entry().map(|entry| &entry.kind) {
            Some(Kind::File) => ListedKind::File,
            Some(Kind::Dir) => ListedKind::Dir,
            Some(Kind::Symlink(_)) => ListedKind::Symlink,
            Some(Kind::Special(_)) => ListedKind::Special,
            None => ListedKind::Unknown,
        }
    }
}

impl Listing {
    pub(super) fn read(fd: impl AsFd) -> rustix::io::Result<Self> {
        let mut buffer = Vec::<u8>::with_capacity(32 * 1024);
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        let mut listing = Self::default();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                listing.push(name, hint(entry.file_type()));
            }
        }
        let bytes = &listing.bytes;
        listing.items.sort_unstable_by(|a, b| name_in(bytes, a).cmp(name_in(bytes, b)));
        Ok(listing)
    }

    /// Returns a listing of `names`, for a directory that is not on a file system. They must be
    /// sorted.
    #[cfg(test)]
    pub fn of(names: impl Iterator<Item = (crate::model::path::Name, ListedKind)>) -> Self {
        let mut listing = Self::default();
        for (name, kind) in names {
            listing.push(name.as_bytes(), kind);
        }
        listing
    }

    /// Whether a directory holds any entry, reserved names included.
    pub(super) fn has_any(fd: impl AsFd) -> rustix::io::Result<bool> {
        let mut buffer = Vec::<u8>::with_capacity(1024);
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn push(&mut self, name: &[u8], hint: ListedKind) {
        if is_reserved(name) {
            self.reserved.push(name.into());
            return;
        }
        // No file system holds 4 GiB of names in one directory.
        let start = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(name);
        self.items.push(Item { start, len, hint });
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], ListedKind)> {
        self.items.iter().map(|item| (name_in(&self.bytes, item), item.hint))
    }

    /// Returns the name with index `at`; `None` past the end.
    pub fn get(&self, at: usize) -> Option<(&[u8], ListedKind)> {
        self.items.get(at).map(|item| (name_in(&self.bytes, item), item.hint))
    }

    /// Returns the listed kind of a name; `None` if the directory does not have it.
    pub fn find(&self, name: &[u8]) -> Option<ListedKind> {
        let at = self.items.binary_search_by(|item| name_in(&self.bytes, item).cmp(name)).ok()?;
        Some(self.items[at].hint)
    }

    pub fn reserved(&self) -> impl Iterator<Item = &[u8]> {
        self.reserved.iter().map(|name| &**name)
    }

    /// Whether the directory holds nothing but `lost+found`, which mkfs creates. Reserved names do
    /// not count.
    pub fn is_bare(&self) -> bool {
        self.iter().all(|(name, _)| name == LOST_FOUND)
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }
}

fn name_in<'a>(bytes: &'a [u8], item: &Item) -> &'a [u8] {
    &bytes[item.start as usize..][..item.len as usize]
}

fn hint(kind: FileType) -> ListedKind {
    match kind {
        FileType::RegularFile => ListedKind::File,
        FileType::Directory => ListedKind::Dir,
        FileType::Symlink => ListedKind::Symlink,
        FileType::Unknown => ListedKind::Unknown,
        _ => ListedKind::Special,
    }
}
