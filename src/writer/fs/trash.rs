//! The trash thread: empties the trees that rounds have put aside, outside of rounds. It deletes
//! only inside reserved names (I1, I6) and never crosses a mount.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Sender, unbounded};

use crate::fs::tree::{ListedKind, ReplicaDir, Result, Root};
use crate::model::error::FsError;
use crate::model::error::FsErrorKind;
use crate::model::path::{Name, RelPath};
use crate::plan::removal::RemovalPermit;

/// A tree under a reserved name in the directory `dir`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trash {
    pub dir: RelPath,
    pub name: Name,
    permit: RemovalPermit,
}

impl Trash {
    /// `None` where the name is not a reserved one.
    pub fn new(dir: RelPath, name: Name) -> Option<Self> {
        let permit = RemovalPermit::for_reserved(&name)?;
        Some(Self { dir, name, permit })
    }

    pub fn path(&self) -> RelPath {
        self.dir.join(&self.name)
    }
}

/// A tree that was emptied, as far as that went.
pub struct Emptied {
    pub aside: Trash,
    pub result: Result<()>,
}

/// The trash thread; it ends when this is dropped.
pub struct TrashThread {
    jobs: Sender<Trash>,
}

impl TrashThread {
    /// What it has ended is told to `done`, which says whether anybody still listens.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(
        replica: Root,
        stop: Arc<AtomicBool>,
        done: impl Fn(Emptied) -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = unbounded::<Trash>();
        std::thread::Builder::new().name("twindir-trash".into()).spawn(move || {
            for aside in inbox {
                let result = empty_aside(&replica, &aside, &stop);
                if !done(Emptied { aside, result }) {
                    break;
                }
            }
        })?;
        Ok(Self { jobs })
    }

    pub fn hand_over(&self, aside: Trash) {
        // The thread lives as long as this sender; a panic in it ends the process.
        let _ = self.jobs.send(aside);
    }
}

fn empty_aside(replica: &Root, aside: &Trash, stop: &AtomicBool) -> Result<()> {
    let (root, _) = replica.open_replica()?;
    let parent = root.open(&aside.dir)?;
    match parent.open_unlocked(aside.name.as_bytes()) {
        // RACE: something else had taken the directory's place when it was put aside.
        Err(error) if error.kind == FsErrorKind::NotADirectory => {
            parent.remove_file(aside.name.as_bytes(), &aside.permit)
        }
        top => delete_contents(&top?, stop, &aside.permit),
    }
}

/// Deletes all that a directory holds. Goes on past what cannot be deleted; the first error is
/// told. A stop leaves the rest to the next run's sweep.
///
/// It keeps one descriptor a level, so that a tree may be deeper than the limit on open files:
/// levels beyond [`DEPTH`] are moved up, to the top, and emptied there.
pub fn delete_contents(top: &ReplicaDir, stop: &AtomicBool, permit: &RemovalPermit) -> Result<()> {
    let mut failed = None;
    loop {
        // A descriptor lists once.
        let fresh = top.open(&RelPath::root())?;
        let deep = empty_level((&fresh, top), 0, stop, permit, &mut failed);
        if deep == 0 || failed.is_some() || stop.load(Ordering::Relaxed) {
            return failed.map_or(Ok(()), Err);
        }
    }
}

/// Levels that are open at once.
const DEPTH: usize = 48;

/// Empties `dir`; the number of subtrees that were too deep and now lie in `top`.
fn empty_level(
    (dir, top): (&ReplicaDir, &ReplicaDir),
    depth: usize,
    stop: &AtomicBool,
    permit: &RemovalPermit,
    failed: &mut Option<FsError>,
) -> usize {
    let mut deep = 0;
    let listing = match dir.list() {
        Ok(listing) => listing,
        Err(error) => {
            failed.get_or_insert(error);
            return 0;
        }
    };
    let reserved = listing.reserved().map(|name| (name, ListedKind::Unknown));
    for (name, hint) in listing.iter().chain(reserved) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let result = match hint {
            ListedKind::File | ListedKind::Symlink | ListedKind::Special => {
                dir.remove_file(name, permit)
            }
            ListedKind::Unknown if !dir.look(name).is_dir() => dir.remove_file(name, permit),
            ListedKind::Dir | ListedKind::Unknown if depth == DEPTH => {
                deep += 1;
                lift(dir, name, top, permit)
            }
            ListedKind::Dir | ListedKind::Unknown => dir.open_unlocked(name).and_then(|child| {
                deep += empty_level((&child, top), depth + 1, stop, permit, failed);
                dir.remove_dir(name, permit)
            }),
        };
        match result {
            Err(error) if error.is_absence() => {}
            // Left standing by an error below that is already known.
            Err(error) if error.kind == FsErrorKind::NotEmpty && failed.is_some() => {}
            Err(error) => _ = failed.get_or_insert(error),
            Ok(()) => {}
        }
    }
    deep
}

/// Moves a subtree up to the top, under a reserved name that its inode number makes unique.
fn lift(dir: &ReplicaDir, name: &[u8], top: &ReplicaDir, permit: &RemovalPermit) -> Result<()> {
    let number = dir.look(name).entry().map_or(0, |entry| entry.inode.ino);
    dir.move_to(name, top, &Name::reserved(number), permit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tree::InjectedErrors;
    use crate::model::error::Side;
    use std::fs;

    fn reap(top: &std::path::Path) -> Result<()> {
        let root = Root::new(top, Side::Replica);
        let aside = Trash::new(RelPath::root(), Name::reserved(7)).unwrap();
        empty_aside(&root, &aside, &AtomicBool::new(false))
    }

    #[test]
    fn symlinks_in_a_tree_put_aside_are_deleted_and_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let aside = top.path().join(Name::reserved(7).to_string());
        fs::create_dir_all(aside.join("a/b")).unwrap();
        fs::create_dir(top.path().join("kept")).unwrap();
        fs::write(top.path().join("kept/file"), "x").unwrap();
        std::os::unix::fs::symlink("../kept", aside.join("link")).unwrap();
        reap(top.path()).unwrap();
        assert_eq!(fs::read_dir(&aside).unwrap().count(), 0);
        assert!(top.path().join("kept/file").exists());
    }

    /// What lies beside it stays, and nothing is left once a call fails no more.
    #[test]
    fn whatever_fails_only_the_tree_put_aside_is_emptied() {
        for seed in InjectedErrors::seeds(50) {
            let top = tempfile::tempdir().unwrap();
            let aside = top.path().join(Name::reserved(7).to_string());
            let deep: std::path::PathBuf = std::iter::repeat_n("d", DEPTH + 3).collect();
            fs::create_dir_all(aside.join(deep)).unwrap();
            fs::create_dir(top.path().join("kept")).unwrap();
            for file in ["kept/file", &format!("{}/file", aside.file_name().unwrap().display())] {
                fs::write(top.path().join(file), "x").unwrap();
            }
            std::os::unix::fs::symlink("../kept", aside.join("link")).unwrap();
            let faults = InjectedErrors::begin(seed, 10);
            for _ in 0..10 {
                // It says what has failed, or it has emptied the tree; unless it was told that a
                // part of it had gone.
                let is_done = reap(top.path()).is_ok();
                let was_misled =
                    faults.tale().iter().any(|error| error == "openat2: entity not found");
                assert!(
                    !is_done || was_misled || fs::read_dir(&aside).unwrap().next().is_none(),
                    "seed {seed}"
                );
            }
            drop(faults);
            reap(top.path()).unwrap();
            assert_eq!(fs::read_dir(&aside).unwrap().count(), 0, "seed {seed}");
            assert!(top.path().join("kept/file").exists(), "seed {seed}");
        }
    }

    #[test]
    fn a_file_that_was_put_aside_for_a_directory_is_removed() {
        let top = tempfile::tempdir().unwrap();
        let aside = top.path().join(Name::reserved(7).to_string());
        fs::write(&aside, "x").unwrap();
        reap(top.path()).unwrap();
        assert!(!aside.exists());
    }

    #[test]
    fn a_tree_deeper_than_the_open_levels_is_emptied() {
        let top = tempfile::tempdir().unwrap();
        let aside = top.path().join(Name::reserved(7).to_string());
        let deep: std::path::PathBuf = std::iter::repeat_n("d", 5 * DEPTH).collect();
        fs::create_dir_all(aside.join(deep)).unwrap();
        reap(top.path()).unwrap();
        assert_eq!(fs::read_dir(&aside).unwrap().count(), 0);
    }

    #[test]
    fn locked_directories_are_emptied_too() {
        use std::os::unix::fs::PermissionsExt;
        let top = tempfile::tempdir().unwrap();
        let locked = top.path().join(Name::reserved(7).to_string()).join("locked");
        fs::create_dir_all(locked.join("inner")).unwrap();
        fs::write(locked.join("inner/file"), "x").unwrap();
        for (dir, mode) in [("inner", 0o000), (".", 0o555)] {
            fs::set_permissions(locked.join(dir), fs::Permissions::from_mode(mode)).unwrap();
        }
        reap(top.path()).unwrap();
        assert!(!locked.exists());
    }
}
