//! What nobody can do faster in this way: bare loops over the same files, with as many threads,
//! whose paths begin at an open directory.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::{read as read_some, write as write_some};

/// Bytes read at once.
const BUFFER: usize = 256 * 1024;

/// Files of one directory that are taken at once.
const PART: usize = 64;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A directory, and the names of the files in it.
struct Listed {
    path: PathBuf,
    files: Vec<CString>,
}

fn open(path: &Path) -> OwnedFd {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        .expect("a folder can be opened")
}

/// All directories of a tree; `see` is told of each entry.
fn listed(root: &Path, see: impl Fn(&OwnedFd, &CStr)) -> Vec<Listed> {
    let mut next = vec![root.to_owned()];
    let mut all = Vec::new();
    while let Some(path) = next.pop() {
        let (dir, mut files) = (open(&path), Vec::new());
        for entry in Dir::read_from(&dir).expect("a folder can be listed").flatten() {
            let name = entry.file_name();
            if [c".", c".."].contains(&name) {
                continue;
            }
            see(&dir, name);
            match entry.file_type() {
                FileType::Directory => {
                    next.push(path.join(name.to_str().expect("names here are ASCII")));
                }
                FileType::RegularFile => files.push(name.to_owned()),
                _ => {}
            }
        }
        all.push(Listed { path, files });
    }
    all
}

/// Does something with each item, on all cores; each thread with a buffer of its own.
fn each<T: Sync>(items: &[T], work: impl Fn(&T, &mut [u8]) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                let mut buffer = vec![0; BUFFER];
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item, &mut buffer);
                }
            });
        }
    });
}

/// Some files of one directory: what a thread takes at once.
fn parts(dirs: &[Listed]) -> Vec<(&Path, &[CString])> {
    dirs.iter().flat_map(|dir| dir.files.chunks(PART).map(|files| (&*dir.path, files))).collect()
}

/// Opens, reads and closes all files of both trees.
pub fn read(source: &Path, replica: &Path) {
    let trees: Vec<Listed> =
        [source, replica].into_iter().flat_map(|root| listed(root, |_, _| ())).collect();
    each(&parts(&trees), |(path, files), buffer| {
        let dir = open(path);
        for name in *files {
            let file =
                openat(&dir, name, OFlags::RDONLY, Mode::empty()).expect("a file can be opened");
            while read_some(&file, &mut *buffer).expect("a file can be read") > 0 {}
        }
    });
}

/// Copies all files, and nothing else of them.
pub fn copy(source: &Path, replica: &Path) {
    let trees = listed(source, |_, _| ());
    let there = |path: &Path| replica.join(path.strip_prefix(source).expect("it lies below"));
    for dir in &trees {
        fs::create_dir_all(there(&dir.path)).expect("a folder can be made");
    }
    each(&parts(&trees), |(path, files), buffer| {
        let (from, to) = (open(path), open(&there(path)));
        for name in *files {
            let file =
                openat(&from, name, OFlags::RDONLY, Mode::empty()).expect("a file can be opened");
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let copy =
                openat(&to, name, flags, Mode::from_raw_mode(0o644)).expect("a file can be made");
            loop {
                let size = read_some(&file, &mut *buffer).expect("a file can be read");
                let mut left = &buffer[..size];
                while !left.is_empty() {
                    left = &left[write_some(&copy, left).expect("a file can be written")..];
                }
                if size == 0 {
                    break;
                }
            }
        }
    });
}

/// Lists all directories of both trees and looks at each entry.
pub fn walk(source: &Path, replica: &Path) {
    let look = |dir: &OwnedFd, name: &CStr| _ = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    std::thread::scope(|scope| {
        scope.spawn(|| listed(replica, look));
        listed(source, look);
    });
}
