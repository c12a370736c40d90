//! The live tree, how a seed chooses in it, and the story of what was done to it.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(
    clippy::unnecessary_debug_formatting,
    reason = "the names hold newlines and bytes that are no UTF-8"
)]
#![allow(
    clippy::unnecessary_wraps,
    reason = "all operations have one type, whether or not they need an entry"
)]

mod files;
mod moves;
mod operations;
mod trees;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fastrand::Rng;

use operations::OPERATIONS;

use crate::support::{Scratch, path, set_mode, set_mtime};

/// Bytes of a path below which names may still be made. A tree that is moved may bring some more,
/// and all has to stay below what the kernel takes as a path (4,096): the tests name entries by it,
/// and so does a watch.
const LONGEST_PARENT: usize = 2_500;
const LONGEST: usize = 3_600;

pub struct World {
    pub source: PathBuf,
    replica: PathBuf,
    /// Beside the source, on the same file system.
    pub outside: PathBuf,
    pub rng: Rng,
    /// A file that somebody has had open for writing since some operations ago.
    pub held: Option<File>,
    held_since: Option<SystemTime>,
    story: Vec<String>,
}

impl World {
    pub fn new(scratch: &Scratch, seed: u64) -> Self {
        let outside = scratch.path("outside");
        fs::create_dir_all(&outside).unwrap();
        Self {
            source: scratch.source(),
            replica: scratch.replica(),
            outside,
            rng: Rng::with_seed(seed),
            held: None,
            held_since: None,
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

    /// Does so many operations. Where the tree has nothing to do one to, another takes its place.
    pub fn operate(&mut self, count: usize) {
        let end = self.story.len() + count;
        while self.story.len() < end {
            let (what, operation) = OPERATIONS[self.rng.usize(..OPERATIONS.len())];
            if let Some(done) = operation(self) {
                self.tell(&format!("{what}: {done}"));
            }
        }
    }

    /// Removes trees where there is too much of them.
    pub fn prune(&mut self, most_entries: usize, most_bytes: u64) {
        let (mut entries, mut bytes) = weight(&self.source);
        while entries > most_entries || bytes > most_bytes {
            if let Some(at) = self.pick(|_| true) {
                remove_any(&at);
                self.tell(&format!("prune: {at:?}"));
            }
            (entries, bytes) = weight(&self.source);
        }
    }

    /// Somebody meddles with the replica.
    pub fn tamper(&mut self, count: usize) {
        for _ in 0..count {
            if let Some(done) = self.tamper_once() {
                self.tell(&format!("in the replica: {done}"));
            }
        }
    }

    // --- the story

    fn tell(&mut self, done: &str) {
        self.story.push(format!("{:5} {done}", self.story.len()));
    }

    /// The last operations, one on a line.
    pub fn story(&self, count: usize) -> String {
        let from = self.story.len().saturating_sub(count);
        self.story[from..].join("\n")
    }

    /// The last operations that speak of this entry or of a directory that it is in, under their
    /// present names.
    pub fn story_of(&self, at: &Path, count: usize) -> String {
        let above = at.ancestors().take_while(|above| *above != self.source);
        let names: Vec<String> = above.map(|above| format!("{above:?}")).collect();
        let speaks = |line: &&String| names.iter().any(|name| line.contains(name));
        let found: Vec<&str> = self.story.iter().filter(speaks).map(String::as_str).collect();
        found[found.len().saturating_sub(count)..].join("\n")
    }

    // --- choices

    /// Some entry, found by going down from the root. A list of the whole tree for each operation
    /// would take longer than the daemon takes to follow it.
    fn wander(&mut self) -> Option<PathBuf> {
        let mut at = self.source.clone();
        loop {
            let Some((name, is_dir)) = self.rng.choice(children(&at)) else {
                return (at != self.source).then_some(at);
            };
            at.push(name);
            if !is_dir || self.rng.u8(..3) == 0 {
                return Some(at);
            }
        }
    }

    pub fn pick(&mut self, filter: impl Fn(&fs::Metadata) -> bool) -> Option<PathBuf> {
        for _ in 0..40 {
            let at = self.wander()?;
            if filter(&fs::symlink_metadata(&at).unwrap()) {
                return Some(at);
            }
        }
        None
    }

    pub fn pick_file(&mut self) -> Option<PathBuf> {
        self.pick(fs::Metadata::is_file)
    }

    pub fn pick_dir(&mut self) -> Option<PathBuf> {
        self.pick(fs::Metadata::is_dir)
    }

    /// An entry that may go with all that is below it. Seldom a large tree: soon there would be
    /// nothing left to do anything to.
    pub fn pick_light(&mut self, filter: impl Fn(&fs::Metadata) -> bool) -> Option<PathBuf> {
        let at = self.pick(filter)?;
        let is_light = entries(&at).len() < 30 || self.rng.u8(..50) == 0;
        is_light.then_some(at)
    }

    /// A directory, the root too.
    pub fn pick_parent(&mut self) -> PathBuf {
        let found = if self.rng.u8(..6) == 0 { None } else { self.pick_dir() };
        let mut found = found.unwrap_or_else(|| self.source.clone());
        while length(&found) > LONGEST_PARENT {
            found.pop();
        }
        found
    }

    /// A name that does not stand yet.
    pub fn free_name(&mut self) -> PathBuf {
        let parent = self.pick_parent();
        self.free_name_in(&parent)
    }

    pub fn free_name_in(&mut self, parent: &Path) -> PathBuf {
        loop {
            let at = path(parent, self.name());
            if !stands(&at) {
                return at;
            }
        }
    }

    /// Mostly one of a few names, so that they come again with another kind.
    pub fn name(&mut self) -> Vec<u8> {
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
    pub fn bytes(&mut self) -> Vec<u8> {
        let size = match self.rng.u8(..80) {
            0..10 => 0,
            10..60 => self.rng.usize(1..200),
            60..75 => self.rng.usize(200..70_000),
            75..79 => self.rng.usize(250_000..1_100_000),
            _ => self.rng.usize(8_000_000..8_500_000),
        };
        let mut bytes = vec![0; size];
        self.rng.fill(&mut bytes);
        bytes
    }

    pub fn few_bytes(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.rng.usize(..200)];
        self.rng.fill(&mut bytes);
        bytes
    }

    // --- the replica

    fn tamper_once(&mut self) -> Option<String> {
        let found = entries(&self.replica);
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

/// The names in a directory and whether they are directories; sorted, so that a seed says the same
/// each time.
pub fn children(dir: &Path) -> Vec<(OsString, bool)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        entries.map(|entry| (entry.file_name(), entry.file_type().unwrap().is_dir())).collect();
    found.sort();
    found
}

/// All entries below a directory, sorted.
pub fn entries(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for (name, is_dir) in children(&dir) {
            let at = dir.join(name);
            if is_dir {
                waiting.push(at.clone());
            }
            found.push(at);
        }
    }
    found.sort();
    found
}

/// The number of entries below a directory, and their bytes.
pub fn weight(dir: &Path) -> (usize, u64) {
    let found = entries(dir);
    let bytes = found.iter().map(|at| fs::symlink_metadata(at).unwrap().len()).sum();
    (found.len(), bytes)
}

/// Whether a tree may stand at `to`: not where its paths would become too long.
pub fn fits(from: &Path, to: &Path) -> bool {
    let below = entries(from).iter().map(|at| length(at) - length(from)).max();
    length(to) + below.unwrap_or(0) <= LONGEST
}

fn length(at: &Path) -> usize {
    at.as_os_str().as_bytes().len()
}

pub fn stands(at: &Path) -> bool {
    fs::symlink_metadata(at).is_ok()
}

pub fn is_dir(at: &Path) -> bool {
    fs::symlink_metadata(at).is_ok_and(|metadata| metadata.is_dir())
}

pub fn remove_any(at: &Path) {
    if is_dir(at) {
        fs::remove_dir_all(at).unwrap();
    } else {
        fs::remove_file(at).unwrap();
    }
}
