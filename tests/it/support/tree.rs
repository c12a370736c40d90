//! A whole tree, said as data.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps};

/// Entries by path (bytes, `/` between names). Missing parents are made as plain directories.
///
/// `mode` and `mtime` speak of the entry named last. Entries that say no mtime get one of their
/// own, long past and with odd nanoseconds, so that a program that forgets to set a time is found
/// out.
#[derive(Clone, Default)]
pub struct Tree {
    nodes: BTreeMap<Vec<u8>, Node>,
    last: Vec<u8>,
}

#[derive(Clone)]
struct Node {
    what: What,
    mode: u32,
    mtime: (i64, i64),
}

#[derive(Clone)]
enum What {
    File(Vec<u8>),
    Dir,
    Symlink(Vec<u8>),
    Fifo,
}

impl Tree {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn file(self, name: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Self {
        self.add(name.as_ref(), What::File(bytes.as_ref().to_vec()), 0o644)
    }

    pub fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.add(name.as_ref(), What::Dir, 0o755)
    }

    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let what = What::Symlink(target.as_ref().to_vec());
        self.add(name.as_ref(), what, 0o777)
    }

    pub fn fifo(self, name: impl AsRef<[u8]>) -> Self {
        self.add(name.as_ref(), What::Fifo, 0o644)
    }

    /// `count` small files `f0`, `f1`, ... in `dir`; the top where `dir` is empty.
    pub fn files(mut self, dir: &str, count: usize) -> Self {
        for number in 0..count {
            let name =
                if dir.is_empty() { format!("f{number}") } else { format!("{dir}/f{number}") };
            self = self.file(name, format!("file {number}"));
        }
        self
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.last_node().mode = mode;
        self
    }

    pub fn mtime(mut self, seconds: i64, nanoseconds: i64) -> Self {
        self.last_node().mtime = (seconds, nanoseconds);
        self
    }

    /// Makes the tree in `root`, which is made too if missing. What stands there already stays,
    /// unless it is a file of the same name, which is overwritten.
    #[track_caller]
    pub fn make(&self, root: &Path) {
        fs::create_dir_all(root).unwrap();
        for (name, node) in &self.nodes {
            let at = path(root, name);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            match &node.what {
                What::File(bytes) => fs::write(&at, bytes).unwrap(),
                What::Dir => fs::create_dir_all(&at).unwrap(),
                What::Symlink(target) => symlink(OsStr::from_bytes(target), &at).unwrap(),
                What::Fifo => {
                    rustix::fs::mkfifoat(CWD, &at, Mode::from_raw_mode(0o644)).unwrap();
                }
            }
        }
        // Children first: making them would change the parent's time, and a mode may lock the
        // parent.
        for (name, node) in self.nodes.iter().rev() {
            let at = path(root, name);
            if !matches!(node.what, What::Symlink(_)) {
                set_mode(&at, node.mode);
            }
            set_mtime(&at, node.mtime.0, node.mtime.1);
        }
    }

    fn add(mut self, name: &[u8], what: What, mode: u32) -> Self {
        let number = i64::try_from(self.nodes.len()).unwrap();
        let mtime = (1_600_000_000 + number, 123_456_789 + number);
        let node = Node { what, mode, mtime };
        let before = self.nodes.insert(name.to_vec(), node);
        assert!(before.is_none(), "a tree names an entry twice");
        self.last = name.to_vec();
        self
    }

    fn last_node(&mut self) -> &mut Node {
        self.nodes.get_mut(&self.last).expect("an entry to speak of")
    }
}

/// The path of a name given as bytes.
pub fn path(root: &Path, name: impl AsRef<[u8]>) -> PathBuf {
    root.join(OsStr::from_bytes(name.as_ref()))
}

#[track_caller]
pub fn set_mode(at: &Path, mode: u32) {
    fs::set_permissions(at, fs::Permissions::from_mode(mode)).unwrap();
}

/// Sets the mtime of the entry itself, also of a symlink.
#[track_caller]
pub fn set_mtime(at: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, at, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Bytes without a pattern, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Whether a name is one of those that twindir keeps for itself: `.twindir.<16 hex>.tmp`.
pub fn is_temporary_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.strip_prefix(b".twindir.")
        .and_then(|rest| rest.strip_suffix(b".tmp"))
        .is_some_and(|middle| middle.len() == 16 && middle.iter().all(u8::is_ascii_hexdigit))
}
