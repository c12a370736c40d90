//! The live tree, and what may happen to it.

#![allow(
    clippy::unnecessary_debug_formatting,
    reason = "the names hold newlines and bytes that are no UTF-8"
)]
#![allow(
    clippy::unnecessary_wraps,
    reason = "all operations have one type, whether or not they need an entry"
)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use rustix::fs::{CWD, Mode, RenameFlags};

use crate::support::{Scratch, path, set_mode, set_mtime};

type Operation = fn(&mut World) -> Option<String>;

/// Each returns what it did, or None where the tree has nothing to do it to.
const OPERATIONS: [(&str, Operation); 24] = [
    ("create a file", World::create),
    ("create a file", World::create),
    ("create a file", World::create),
    ("overwrite, same size", World::overwrite),
    ("overwrite, mtime put back", World::overwrite_in_silence),
    ("append", World::append),
    ("truncate", World::truncate),
    ("replace by rename", World::replace),
    ("chmod", World::chmod),
    ("set the mtime", World::touch),
    ("rename a file", World::rename_file),
    ("rename a directory", World::rename_dir),
    ("exchange", World::exchange),
    ("remove", World::remove),
    ("remove a tree", World::remove_tree),
    ("empty a directory", World::empty_dir),
    ("make directories", World::mkdir_deep),
    ("make directories", World::mkdir_deep),
    ("symlink", World::symlink),
    ("retarget", World::retarget),
    ("change the kind", World::change_kind),
    ("change the kind", World::change_kind),
    ("hard link", World::hard_link),
    ("fifo", World::fifo),
];

pub struct World {
    source: PathBuf,
    replica: PathBuf,
    rng: Rng,
    story: Vec<String>,
}

impl World {
    pub fn new(scratch: &Scratch, seed: u64) -> Self {
        Self {
            source: scratch.source(),
            replica: scratch.replica(),
            rng: Rng::with_seed(seed),
            story: Vec::new(),
        }
    }

    /// Makes a first tree.
    pub fn plant(&mut self, count: usize) {
        for _ in 0..count {
            let operation = self.rng.choice([Self::create, Self::mkdir_deep, Self::symlink]);
            let _ = operation.expect("three to choose from")(self);
        }
    }

    pub fn operate(&mut self, count: usize) {
        for _ in 0..count {
            let (what, operation) = OPERATIONS[self.rng.usize(..OPERATIONS.len())];
            if let Some(done) = operation(self) {
                self.story.push(format!("{what}: {done}"));
            }
        }
    }

    /// Somebody meddles with the replica.
    pub fn tamper(&mut self, count: usize) {
        for _ in 0..count {
            if let Some(done) = self.tamper_once() {
                self.story.push(format!("in the replica: {done}"));
            }
        }
    }

    /// The last operations, one on a line.
    pub fn story(&self, count: usize) -> String {
        let from = self.story.len().saturating_sub(count);
        self.story[from..].join("\n")
    }

    // --- choices

    /// All entries below the source for which `filter` says yes; sorted, so that a seed says the same each time.
    fn entries(root: &Path, filter: impl Fn(&fs::Metadata) -> bool) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut waiting = vec![root.to_owned()];
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let metadata = entry.metadata().unwrap();
                if metadata.is_dir() {
                    waiting.push(entry.path());
                }
                if filter(&metadata) {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }

    fn pick(&mut self, filter: impl Fn(&fs::Metadata) -> bool) -> Option<PathBuf> {
        let found = Self::entries(&self.source, filter);
        self.rng.choice(found)
    }

    fn pick_file(&mut self) -> Option<PathBuf> {
        self.pick(fs::Metadata::is_file)
    }

    fn pick_dir(&mut self) -> Option<PathBuf> {
        self.pick(fs::Metadata::is_dir)
    }

    /// A directory, the root too.
    fn pick_parent(&mut self) -> PathBuf {
        let mut found = Self::entries(&self.source, fs::Metadata::is_dir);
        found.push(self.source.clone());
        self.rng.choice(found).expect("at least the root")
    }

    /// A name that does not stand yet.
    fn free_name(&mut self) -> PathBuf {
        let parent = self.pick_parent();
        loop {
            let at = path(&parent, self.name());
            if fs::symlink_metadata(&at).is_err() {
                return at;
            }
        }
    }

    /// Mostly one of a few names, so that they come again with another kind.
    fn name(&mut self) -> Vec<u8> {
        let number = self.rng.u32(..1000);
        match self.rng.u8(..14) {
            0 => format!("line\nbreak {number}").into_bytes(),
            1 => [b"\xff\xfe ", number.to_string().as_bytes()].concat(),
            2 => format!("-{number}").into_bytes(),
            3 => format!("{number:0>255}").into_bytes(),
            4 => format!(".{number} ").into_bytes(),
            5..8 => number.to_string().into_bytes(),
            _ => vec![b'a' + self.rng.u8(..12)],
        }
    }

    /// Small for the most part; now and then past the sizes at which other ways of copying begin.
    fn bytes(&mut self) -> Vec<u8> {
        let size = match self.rng.u8(..40) {
            0..5 => 0,
            5..30 => self.rng.usize(1..200),
            30..37 => self.rng.usize(200..70_000),
            37..39 => self.rng.usize(250_000..1_100_000),
            _ => self.rng.usize(8_000_000..8_500_000),
        };
        let mut bytes = vec![0; size];
        self.rng.fill(&mut bytes);
        bytes
    }

    // --- operations

    fn create(&mut self) -> Option<String> {
        let (at, bytes) = (self.free_name(), self.bytes());
        fs::write(&at, &bytes).unwrap();
        Some(format!("{at:?} of {}", bytes.len()))
    }

    fn overwrite(&mut self) -> Option<String> {
        let at = self.pick_file()?;
        let mut bytes = fs::read(&at).unwrap();
        self.rng.fill(&mut bytes);
        fs::write(&at, bytes).unwrap();
        Some(format!("{at:?}"))
    }

    fn overwrite_in_silence(&mut self) -> Option<String> {
        let at = self.pick(|entry| entry.is_file() && entry.len() > 0)?;
        let metadata = fs::metadata(&at).unwrap();
        let mut bytes = fs::read(&at).unwrap();
        let place = self.rng.usize(..bytes.len());
        bytes[place] ^= 1 << self.rng.u8(..8);
        fs::write(&at, bytes).unwrap();
        set_mtime(&at, metadata.mtime(), metadata.mtime_nsec());
        Some(format!("{at:?} at {place}"))
    }

    fn append(&mut self) -> Option<String> {
        let (at, bytes) = (self.pick_file()?, self.bytes());
        let mut file = File::options().append(true).open(&at).unwrap();
        file.write_all(&bytes).unwrap();
        Some(format!("{at:?} by {}", bytes.len()))
    }

    fn truncate(&mut self) -> Option<String> {
        let at = self.pick_file()?;
        let file = File::options().write(true).open(&at).unwrap();
        let length = self.rng.u64(..=file.metadata().unwrap().len());
        file.set_len(length).unwrap();
        Some(format!("{at:?} to {length}"))
    }

    /// As editors save.
    fn replace(&mut self) -> Option<String> {
        let (at, bytes) = (self.pick_file()?, self.bytes());
        let next = at.with_file_name("being saved~");
        fs::write(&next, bytes).unwrap();
        fs::rename(&next, &at).unwrap();
        Some(format!("{at:?}"))
    }

    /// Modes with which an ordinary user can still do all the other operations.
    fn chmod(&mut self) -> Option<String> {
        let at = self.pick(|entry| entry.is_file() || entry.is_dir())?;
        let mode = if at.is_dir() {
            self.rng.choice([0o700, 0o755, 0o750, 0o1777, 0o2755])
        } else {
            self.rng.choice([0o600, 0o644, 0o755, 0o666, 0o4711, 0o1600])
        };
        let mode = mode.expect("some to choose from");
        set_mode(&at, mode);
        Some(format!("{at:?} to {mode:o}"))
    }

    fn touch(&mut self) -> Option<String> {
        let at = self.pick(|_| true)?;
        let (seconds, nanoseconds) = (self.rng.i64(0..2_000_000_000), self.rng.i64(0..1_000_000_000));
        set_mtime(&at, seconds, nanoseconds);
        Some(format!("{at:?} to {seconds}.{nanoseconds:09}"))
    }

    /// To a new name, or over another file.
    fn rename_file(&mut self) -> Option<String> {
        let from = self.pick(|entry| !entry.is_dir())?;
        let over = self.rng.bool().then(|| self.pick(|entry| !entry.is_dir()));
        let to = over.flatten().unwrap_or_else(|| self.free_name());
        fs::rename(&from, &to).unwrap();
        Some(format!("{from:?} to {to:?}"))
    }

    fn rename_dir(&mut self) -> Option<String> {
        let (from, to) = (self.pick_dir()?, self.free_name());
        // Not into itself.
        fs::rename(&from, &to).ok()?;
        Some(format!("{from:?} to {to:?}"))
    }

    fn exchange(&mut self) -> Option<String> {
        let (a, b) = (self.pick(|_| true)?, self.pick(|_| true)?);
        rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).ok()?;
        Some(format!("{a:?} and {b:?}"))
    }

    fn remove(&mut self) -> Option<String> {
        let at = self.pick(|entry| !entry.is_dir())?;
        fs::remove_file(&at).unwrap();
        Some(format!("{at:?}"))
    }

    fn remove_tree(&mut self) -> Option<String> {
        let at = self.pick_dir()?;
        fs::remove_dir_all(&at).unwrap();
        Some(format!("{at:?}"))
    }

    fn empty_dir(&mut self) -> Option<String> {
        let at = self.pick_dir()?;
        for entry in fs::read_dir(&at).unwrap() {
            remove_any(&entry.unwrap().path());
        }
        Some(format!("{at:?}"))
    }

    fn mkdir_deep(&mut self) -> Option<String> {
        let mut at = self.free_name();
        for _ in 0..self.rng.u8(..4) {
            at = path(&at, self.name());
        }
        fs::create_dir_all(&at).unwrap();
        Some(format!("{at:?}"))
    }

    fn symlink(&mut self) -> Option<String> {
        let (at, target) = (self.free_name(), self.target());
        symlink(&target, &at).unwrap();
        Some(format!("{at:?} to {target:?}"))
    }

    fn retarget(&mut self) -> Option<String> {
        let (at, target) = (self.pick(fs::Metadata::is_symlink)?, self.target());
        fs::remove_file(&at).unwrap();
        symlink(&target, &at).unwrap();
        Some(format!("{at:?} to {target:?}"))
    }

    fn target(&mut self) -> PathBuf {
        match self.rng.u8(..4) {
            0 => PathBuf::from("/etc"),
            1 => self.pick_parent(),
            2 => path(Path::new(".."), self.name()),
            _ => path(Path::new(""), self.name()),
        }
    }

    fn change_kind(&mut self) -> Option<String> {
        let at = self.pick(|_| true)?;
        remove_any(&at);
        let kind = self.rng.u8(..4);
        match kind {
            0 => fs::write(&at, self.bytes()).unwrap(),
            1 => fs::create_dir(&at).unwrap(),
            2 => symlink(self.target(), &at).unwrap(),
            _ => {
                fs::create_dir_all(at.join("x/y")).unwrap();
                fs::write(at.join("x/z"), self.bytes()).unwrap();
            }
        }
        Some(format!("{at:?} to {kind}"))
    }

    fn hard_link(&mut self) -> Option<String> {
        let (from, to) = (self.pick_file()?, self.free_name());
        fs::hard_link(&from, &to).unwrap();
        Some(format!("{from:?} as {to:?}"))
    }

    fn fifo(&mut self) -> Option<String> {
        let at = self.free_name();
        rustix::fs::mkfifoat(CWD, &at, Mode::RUSR).unwrap();
        Some(format!("{at:?}"))
    }

    fn tamper_once(&mut self) -> Option<String> {
        let found = Self::entries(&self.replica, |_| true);
        let at = self.rng.choice(found)?;
        let metadata = fs::symlink_metadata(&at).unwrap();
        let what = self.rng.u8(..8);
        match what {
            0 => remove_any(&at),
            1 => {
                remove_any(&at);
                symlink(&self.source, &at).unwrap();
            }
            2 => set_mtime(&at, 1, 1),
            3 if !metadata.is_symlink() => set_mode(&at, 0o700),
            4 if metadata.is_file() && metadata.len() > 0 => {
                let mut bytes = fs::read(&at).unwrap();
                bytes[0] ^= 1;
                set_mode(&at, 0o600);
                fs::write(&at, bytes).unwrap();
                set_mtime(&at, metadata.mtime(), metadata.mtime_nsec());
            }
            5 => {
                remove_any(&at);
                fs::create_dir_all(at.join("extra/tree")).unwrap();
            }
            6 => fs::write(at.with_file_name(".twindir.00112233445566aa.tmp"), "x").unwrap(),
            _ => {
                let extra = path(at.parent()?, [b"extra ".as_slice(), &self.name()].concat());
                // A name of 255 bytes becomes too long.
                fs::write(extra, "extra").ok()?;
            }
        }
        Some(format!("{what} at {at:?}"))
    }
}

fn remove_any(at: &Path) {
    if fs::symlink_metadata(at).unwrap().is_dir() {
        fs::remove_dir_all(at).unwrap();
    } else {
        fs::remove_file(at).unwrap();
    }
}
