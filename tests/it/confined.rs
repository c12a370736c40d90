//! Nothing is read outside the source or written outside the replica (I3).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::{Kind, Scratch, Snapshot, Tree, assert_same, skip};
use rustix::fs::{CWD, RenameFlags};

const SECRET: &[u8] = b"SECRET";

/// A directory beside the roots that must never be touched, nor read. It has the names that the
/// source has.
fn outside(scratch: &Scratch) -> PathBuf {
    let outside = scratch.path("outside");
    Tree::new()
        .file("file", SECRET)
        .mode(0o600)
        .file("deep/file", SECRET)
        .file("only outside", SECRET)
        .files("many", 20)
        .dir("empty")
        .make(&outside);
    outside
}

fn inside() -> Tree {
    Tree::new()
        .file("sub/file", "public")
        .file("sub/deep/file", "public")
        .files("sub/many", 30)
        .file("single", "public")
}

#[test]
fn a_symlink_in_the_replica_gives_way_to_a_real_directory() {
    for target in ["../outside", "outside", "absolute", ".", ".."] {
        let scratch = Scratch::new().with_source(&inside()).with_replica(&Tree::new());
        let outside = outside(&scratch);
        let target = if target == "absolute" { outside.clone() } else { PathBuf::from(target) };
        symlink(&target, scratch.replica().join("sub")).unwrap();
        let before = Snapshot::with_inodes(&outside);
        scratch.sync();
        assert_same("the outside", &before, &Snapshot::with_inodes(&outside));
    }
}

#[test]
fn a_symlink_deep_in_the_replica_gives_way_too() {
    let scratch = Scratch::new().with_source(&inside()).with_replica(&inside());
    let outside = outside(&scratch);
    for name in ["sub/deep", "sub/many"] {
        fs::remove_dir_all(scratch.replica().join(name)).unwrap();
        symlink(&outside, scratch.replica().join(name)).unwrap();
    }
    let before = Snapshot::with_inodes(&outside);
    scratch.sync();
    assert_same("the outside", &before, &Snapshot::with_inodes(&outside));
}

#[test]
fn a_symlink_in_the_replica_over_a_file_is_replaced_not_written_through() {
    let scratch = Scratch::new().with_source(&inside()).with_replica(&inside());
    let outside = outside(&scratch);
    for name in ["single", "sub/file"] {
        fs::remove_file(scratch.replica().join(name)).unwrap();
        symlink(outside.join("file"), scratch.replica().join(name)).unwrap();
    }
    let before = Snapshot::with_inodes(&outside);
    scratch.sync();
    assert_same("the outside", &before, &Snapshot::with_inodes(&outside));
}

#[test]
fn removing_a_tree_does_not_follow_the_symlinks_in_it() {
    let scratch = Scratch::new()
        .with_source(&inside())
        .with_replica(&Tree::new().file("stale/tree/file", "x").dir("stale/empty"));
    let outside = outside(&scratch);
    for name in ["stale/link", "stale/tree/link", "link"] {
        symlink(&outside, scratch.replica().join(name)).unwrap();
    }
    let before = Snapshot::with_inodes(&outside);
    scratch.once(&["--max-delete", "7"]).expect(0);
    scratch.assert_twins();
    assert_same("the outside", &before, &Snapshot::with_inodes(&outside));
}

#[test]
fn symlinks_in_the_source_are_not_followed() {
    let scratch = Scratch::new().with_source(&inside());
    let outside = outside(&scratch);
    symlink(&outside, scratch.source().join("link")).unwrap();
    symlink(outside.join("file"), scratch.source().join("sub/link")).unwrap();
    scratch.sync();
    assert_no_secret(&scratch.replica());
}

#[test]
fn a_file_of_the_replica_that_is_linked_elsewhere_is_replaced_not_written_to() {
    let scratch = Scratch::new().with_source(&inside()).with_replica(&Tree::new());
    let outside = outside(&scratch);
    fs::hard_link(outside.join("file"), scratch.replica().join("single")).unwrap();
    let before = Snapshot::with_inodes(&outside);
    scratch.sync();
    assert_same("the outside", &before, &Snapshot::with_inodes(&outside));
}

/// Exchanges two names as fast as it can.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Swapper {
    fn start(a: PathBuf, b: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut swaps = 0;
            while !stopped.load(Ordering::Relaxed) {
                // A name may be missing for the moment.
                swaps += usize::from(exchange(&a, &b));
            }
            // As it was: a source that ends as the symlink has lost most of what the replica holds,
            // and deletions are held.
            if swaps % 2 == 1 {
                swaps += usize::from(exchange(&a, &b));
            }
            swaps
        });
        Self { stop, thread: Some(thread) }
    }

    /// How often they were swapped.
    fn finish(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().unwrap())
    }
}

/// A test that fails leaves no thread that swaps on while its folder is being removed.
impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn exchange(a: &Path, b: &Path) -> bool {
    rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
}

#[track_caller]
fn assert_no_secret(replica: &Path) {
    for (name, entry) in Snapshot::of(replica).entries {
        let shown = name.escape_ascii();
        assert!(!name.ends_with(b"only outside"), "\"{shown}\" came in");
        if let Kind::File(bytes) = entry.kind {
            assert_ne!(bytes, SECRET, "\"{shown}\" was read outside");
        }
    }
}

/// It may end with Problems here, but never with a refusal, a bug or a signal.
#[track_caller]
fn run_in_the_storm(scratch: &Scratch) {
    let run = scratch.once(&["--max-delete", "100%"]);
    assert!(matches!(run.code, Some(0 | 1)), "{run}");
}

const STORM: Duration = Duration::from_secs(4);

#[test]
fn a_source_directory_that_is_swapped_for_a_symlink_leaks_nothing() {
    let scratch = Scratch::new().with_source(&inside());
    let outside = outside(&scratch);
    let trap = scratch.path("trap");
    symlink(&outside, &trap).unwrap();
    let sub = scratch.source().join("sub");
    if !exchange(&sub, &trap) || !exchange(&sub, &trap) {
        return skip("this file system exchanges no names");
    }
    let before = Snapshot::with_inodes(&outside);
    let swapper = Swapper::start(sub, trap);
    let start = Instant::now();
    while start.elapsed() < STORM {
        run_in_the_storm(&scratch);
        assert_no_secret(&scratch.replica());
    }
    assert!(swapper.finish() > 0);
    assert_same("the outside", &before, &Snapshot::with_inodes(&outside));
    scratch.sync();
}

#[test]
fn a_source_file_that_is_swapped_for_a_symlink_leaks_nothing() {
    let scratch = Scratch::new().with_source(&inside());
    let outside = outside(&scratch);
    let trap = scratch.path("trap");
    symlink(outside.join("file"), &trap).unwrap();
    let single = scratch.source().join("single");
    if !exchange(&single, &trap) || !exchange(&single, &trap) {
        return skip("this file system exchanges no names");
    }
    let swapper = Swapper::start(single, trap);
    let start = Instant::now();
    while start.elapsed() < STORM / 2 {
        run_in_the_storm(&scratch);
        assert_no_secret(&scratch.replica());
    }
    assert!(swapper.finish() > 0);
    scratch.sync();
}

#[test]
fn a_replica_directory_that_is_swapped_for_a_symlink_lets_nothing_out() {
    let scratch = Scratch::new().with_source(&inside()).with_replica(&inside());
    let outside = outside(&scratch);
    let trap = scratch.path("trap");
    symlink(&outside, &trap).unwrap();
    let sub = scratch.replica().join("sub");
    if !exchange(&sub, &trap) || !exchange(&sub, &trap) {
        return skip("this file system exchanges no names");
    }
    let before = Snapshot::with_inodes(&outside);
    let swapper = Swapper::start(sub, trap.clone());
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < STORM {
        round += 1;
        // Work below the directory that is swapped: a change, and a removal.
        fs::write(scratch.source().join("sub/file"), format!("round {round}")).unwrap();
        let extra = scratch.source().join(format!("sub/extra {}", round % 3));
        if fs::remove_file(&extra).is_err() {
            fs::write(&extra, "extra").unwrap();
        }
        run_in_the_storm(&scratch);
        assert_same("the outside", &before, &Snapshot::with_inodes(&outside));
        if !trap.is_symlink() {
            // Twindir removed the symlink, or put it aside: lay another.
            let _ = fs::remove_dir_all(scratch.path("spent"));
            let _ = fs::rename(&trap, scratch.path("spent"));
            let _ = symlink(&outside, &trap);
        }
    }
    assert!(swapper.finish() > 0);
    run_in_the_storm(&scratch);
    scratch.sync();
    assert_same("the outside", &before, &Snapshot::with_inodes(&outside));
}
