//! A name in the replica shows the whole old entry or the whole new one, at every instant (I4).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::{Scratch, Tree, skip};
use rustix::fs::{CWD, RenameFlags};

const SMALL: usize = 5_000;
const BIG: usize = 9_000_000;

/// A version is one byte, repeated; the length depends on the byte, so that a mixture of two cannot
/// pass for either.
fn version(number: usize, size: usize) -> Vec<u8> {
    let byte = u8::try_from(number % 251).unwrap();
    vec![byte; size + usize::from(byte)]
}

fn is_whole(bytes: &[u8], size: usize) -> bool {
    let byte = bytes.first().copied().unwrap_or(0);
    bytes.len() == size + usize::from(byte) && bytes.iter().all(|other| *other == byte)
}

/// A thread that looks at something again and again until it is stopped, and keeps what was wrong.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(usize, Option<String>)>>,
}

impl Watcher {
    fn start(mut look: impl FnMut() -> Result<(), String> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut looks = 0;
            while !stopped.load(Ordering::Relaxed) {
                if let Err(wrong) = look() {
                    return (looks, Some(wrong));
                }
                looks += 1;
            }
            (looks, None)
        });
        Self { stop, thread: Some(thread) }
    }

    /// Reads the file, which must always be there and whole.
    fn of_file(at: PathBuf, size: usize) -> Self {
        Self::start(move || match fs::read(&at) {
            Ok(bytes) if is_whole(&bytes, size) => Ok(()),
            Ok(bytes) => Err(format!("{}: torn, {} bytes", at.display(), bytes.len())),
            Err(error) => Err(format!("{}: {error}", at.display())),
        })
    }

    #[track_caller]
    fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("finished once");
        let (looks, wrong) = thread.join().unwrap();
        assert_eq!(wrong, None, "after {looks} looks");
        assert!(looks > 0, "it never looked");
    }
}

/// A test that fails elsewhere leaves no thread that spins on.
impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn replaced(times: usize, size: usize) {
    let scratch = Scratch::new().with_source(&Tree::new().file("sub/file", version(0, size)));
    scratch.sync();
    let at = scratch.source().join("sub/file");
    let readers: Vec<_> =
        (0..2).map(|_| Watcher::of_file(scratch.replica().join("sub/file"), size)).collect();
    for number in 1..=times {
        fs::write(&at, version(number, size)).unwrap();
        scratch.once(&[]).expect(0);
    }
    for reader in readers {
        reader.finish();
    }
    scratch.assert_twins();
}

#[test]
fn a_reader_sees_whole_versions_of_a_small_file_that_is_replaced() {
    replaced(60, SMALL);
}

#[test]
fn a_reader_sees_whole_versions_of_a_big_file_that_is_replaced() {
    replaced(12, BIG);
}

#[test]
#[ignore = "takes minutes"]
fn a_reader_sees_whole_versions_through_a_thousand_replacements() {
    replaced(1000, SMALL);
    replaced(1000, BIG);
}

/// A writer that replaces the source by renames, with no regard to sweeps.
fn replaced_while_it_is_copied(size: usize, time: Duration) {
    let scratch = Scratch::new().with_source(&Tree::new().file("sub/file", version(0, size)));
    scratch.sync();
    let daemon = scratch.daemon("0.1");
    let reader = Watcher::of_file(scratch.replica().join("sub/file"), size);
    let next = scratch.path("next");
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < time {
        number += 1;
        fs::write(&next, version(number, size)).unwrap();
        fs::rename(&next, scratch.source().join("sub/file")).unwrap();
    }
    // Two whole sweeps at rest.
    daemon.wait_sweeps(3);
    reader.finish();
    drop(daemon);
    scratch.sync();
}

#[test]
fn a_source_that_is_replaced_while_it_is_copied_gives_whole_versions() {
    replaced_while_it_is_copied(SMALL, Duration::from_secs(2));
    replaced_while_it_is_copied(BIG, Duration::from_secs(3));
}

#[test]
fn a_killed_run_leaves_the_old_version_or_the_new_one() {
    let scratch = Scratch::new().with_source(&Tree::new().file("file", version(0, BIG)));
    scratch.sync();
    let reader = Watcher::of_file(scratch.replica().join("file"), BIG);
    let mut rng = fastrand::Rng::with_seed(11);
    for number in 1..=15 {
        fs::write(scratch.source().join("file"), version(number, BIG)).unwrap();
        let daemon = scratch.daemon("3600");
        // Anywhere in its work; there is nothing to wait for.
        std::thread::sleep(Duration::from_millis(rng.u64(0..80)));
        drop(daemon);
        let bytes = fs::read(scratch.replica().join("file")).unwrap();
        assert!(is_whole(&bytes, BIG), "torn by the kill {number}");
    }
    reader.finish();
    scratch.sync();
}

/// Whether the file system below can exchange two names, a directory among them. Not all can.
fn can_exchange(scratch: &Scratch) -> bool {
    let [file, dir] = ["x-file", "x-dir"].map(|name| scratch.path(name));
    fs::write(&file, "").unwrap();
    fs::create_dir(&dir).unwrap();
    rustix::fs::renameat_with(CWD, &file, CWD, &dir, RenameFlags::EXCHANGE).is_ok()
}

fn make_kind(at: &Path, number: usize) {
    if at.is_dir() && !at.is_symlink() {
        fs::remove_dir_all(at).unwrap();
    } else {
        fs::remove_file(at).unwrap();
    }
    let tree = match number % 3 {
        0 => Tree::new().file("it", "a file"),
        1 => Tree::new().file("it/inside", "text").files("it/more", 5),
        _ => Tree::new().symlink("it", "elsewhere"),
    };
    tree.make(at.parent().unwrap());
}

#[test]
fn a_name_that_changes_its_kind_is_there_at_every_instant() {
    let scratch = Scratch::new().with_source(&Tree::new().file("it", "a file"));
    if !can_exchange(&scratch) {
        return skip("this file system exchanges no names");
    }
    scratch.sync();
    let at = scratch.replica().join("it");
    let watcher = Watcher::start(move || match fs::symlink_metadata(&at) {
        Ok(metadata) if metadata.is_file() && metadata.len() != 6 => Err("torn".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    for number in [1, 2, 0, 2, 1, 0, 1, 2, 0, 1, 0, 2, 1, 2, 0] {
        make_kind(&scratch.source().join("it"), number);
        scratch.once(&[]).expect(0);
    }
    watcher.finish();
    scratch.assert_twins();
}

#[test]
fn a_symlink_that_is_retargeted_is_there_at_every_instant() {
    let scratch = Scratch::new().with_source(&Tree::new().symlink("link", "target 0"));
    scratch.sync();
    let at = scratch.replica().join("link");
    let watcher = Watcher::start(move || match fs::read_link(&at) {
        Ok(target) if target.to_string_lossy().starts_with("target ") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for number in 1..30 {
        let link = scratch.source().join("link");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(format!("target {number}"), &link).unwrap();
        scratch.once(&[]).expect(0);
    }
    watcher.finish();
    scratch.assert_twins();
}
