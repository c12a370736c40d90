//! What nobody can do faster in this way: bare loops over the same files, with as many threads.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The directories and the files below a folder.
fn names(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut dirs, mut files, mut next) = (vec![root.to_owned()], Vec::new(), 0);
    while next < dirs.len() {
        for entry in fs::read_dir(&dirs[next]).expect("a folder can be listed").flatten() {
            let kind = entry.file_type().expect("it has a kind");
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
        next += 1;
    }
    (dirs, files)
}

/// Does something with each path, on all cores.
fn each<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}

/// Opens, reads and closes all files of both trees.
pub fn read(source: &Path, replica: &Path) {
    let files = [names(source).1, names(replica).1].concat();
    each(&files, |path| {
        let mut file = File::open(path).expect("a file can be opened");
        let mut buffer = vec![0; 256 * 1024];
        while file.read(&mut buffer).expect("a file can be read") > 0 {}
    });
}

/// Copies all files, and nothing else of them.
pub fn copy(source: &Path, replica: &Path) {
    let (dirs, files) = names(source);
    let there = |path: &Path| replica.join(path.strip_prefix(source).expect("it lies below"));
    for dir in dirs {
        fs::create_dir_all(there(&dir)).expect("a folder can be made");
    }
    each(&files, |path| {
        let mut bytes = Vec::new();
        let mut file = File::open(path).expect("a file can be opened");
        if file.metadata().is_ok_and(|data| data.size() > 1 << 20) {
            let mut copy = File::create(there(path)).expect("a file can be made");
            std::io::copy(&mut file, &mut copy).expect("a file can be copied");
        } else {
            file.read_to_end(&mut bytes).expect("a file can be read");
            fs::write(there(path), bytes).expect("a file can be written");
        }
    });
}

/// Lists all directories of both trees and looks at each entry.
pub fn walk(source: &Path, replica: &Path) {
    let dirs = [names(source).0, names(replica).0].concat();
    each(&dirs, |dir| {
        for entry in fs::read_dir(dir).expect("a folder can be listed").flatten() {
            let _ = entry.metadata();
        }
    });
}
