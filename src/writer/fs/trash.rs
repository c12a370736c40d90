//! The trash thread: it empties, outside rounds, the directories that rounds have renamed away. It
//! deletes only inside reserved names (I1, I6) and never crosses a mount.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Sender, unbounded};

use crate::fs::tree::{ListedKind, ReplicaDir, Result, Root};
use crate::model::error::FsError;
use crate::model::error::FsErrorKind;
use crate::model::path::{Name, RelPath};
use crate::plan::removal::RemovalPermit;
use crate::writer::fs::progress::Progress;

/// A tree under a reserved name in the directory `dir`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trash {
    pub dir: RelPath,
    pub name: Name,
    permit: RemovalPermit,
}

impl Trash {
    /// Makes one; `None` if `name` is not reserved.
    pub fn new(dir: RelPath, name: Name) -> Option<Self> {
        let permit = RemovalPermit::for_reserved(&name)?;
        Some(Self { dir, name, permit })
    }

    pub fn path(&self) -> RelPath {
        self.dir.join(&self.name)
    }
}

/// Trash that was emptied, or the error that prevented it.
pub struct Emptied {
    pub trash: Trash,
    pub result: Result<()>,
}

/// The trash thread. It ends when this is dropped.
pub struct TrashThread {
    jobs: Sender<(Trash, Arc<Progress>)>,
}

impl TrashThread {
    /// Starts the thread. It calls `done` with each result, and ends when that returns `false`.
    /// `stop` interrupts its work.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        replica: Root,
        stop: Arc<AtomicBool>,
        done: impl Fn(Emptied) -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = unbounded::<(Trash, Arc<Progress>)>();
        std::thread::Builder::new().name("twindir-trash".into()).spawn(move || {
            for (trash, progress) in inbox {
                progress.begin();
                let result = empty_trash(&replica, &trash, &stop, &progress);
                if !done(Emptied { trash, result }) {
                    break;
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Hands over trash. `progress` counts its deleted entries.
    pub fn hand_over(&self, trash: Trash, progress: Arc<Progress>) {
        // The thread lives as long as this sender; a panic in it ends the process.
        let _ = self.jobs.send((trash, progress));
    }
}

fn empty_trash(
    replica: &Root,
    trash: &Trash,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<()> {
    let (root, _) = replica.open_replica()?;
    let parent = root.open(&trash.dir)?;
    match parent.open_and_grant(trash.name.as_bytes()) {
        // RACE: another entry had taken the directory's place when it was renamed away.
        Err(error) if error.kind == FsErrorKind::NotADirectory => {
            parent.remove_file(trash.name.as_bytes(), &trash.permit)
        }
        top => delete_contents(&top?, stop, &trash.permit, progress),
    }
}

/// Deletes all that `top` holds, but not `top` itself. An entry that cannot be deleted is skipped.
/// Once `stop` is set, the rest is left to the next run's sweep.
///
/// One descriptor is open for each level. A tree may be deeper than the limit on open files:
/// subtrees at level [`DEPTH`] are moved up into `top`, and emptied there.
///
/// # Errors
/// The first error that occurred.
pub fn delete_contents(
    top: &ReplicaDir,
    stop: &AtomicBool,
    permit: &RemovalPermit,
    progress: &Progress,
) -> Result<()> {
    let mut failed = None;
    loop {
        // A descriptor can be listed only once.
        let fresh = top.open(&RelPath::root())?;
        let deep = empty_level((&fresh, top), 0, (stop, progress), permit, &mut failed);
        if deep == 0 || failed.is_some() || stop.load(Ordering::Relaxed) {
            return failed.map_or(Ok(()), Err);
        }
    }
}

/// How many levels may be open at once.
const DEPTH: usize = 48;

/// Empties `dir`. Returns the number of subtrees that were too deep and now lie in `top`.
fn empty_level(
    (dir, top): (&ReplicaDir, &ReplicaDir),
    depth: usize,
    (stop, progress): (&AtomicBool, &Progress),
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
            ListedKind::Unknown if !dir.observe(name).is_dir() => dir.remove_file(name, permit),
            ListedKind::Dir | ListedKind::Unknown if depth == DEPTH => {
                deep += 1;
                lift(dir, name, top, permit)
            }
            ListedKind::Dir | ListedKind::Unknown => dir.open_and_grant(name).and_then(|child| {
                deep += empty_level((&child, top), depth + 1, (stop, progress), permit, failed);
                dir.remove_dir(name, permit)
            }),
        };
        match result {
            Err(error) if error.is_absence() => {}
            // It is not empty because of an error below, which is recorded already.
            Err(error) if error.kind == FsErrorKind::NotEmpty && failed.is_some() => {}
            Err(error) => _ = failed.get_or_insert(error),
            Ok(()) => progress.add(1),
        }
    }
    deep
}

/// Moves a subtree up into `top`, under a reserved name that its inode number makes unique.
fn lift(dir: &ReplicaDir, name: &[u8], top: &ReplicaDir, permit: &RemovalPermit) -> Result<()> {
    let number = dir.observe(name).entry().map_or(0, |entry| entry.inode.ino);
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
        let trash = Trash::new(RelPath::root(), Name::reserved(7)).unwrap();
        empty_trash(&root, &trash, &AtomicBool::new(false), &Progress::default())
    }

    #[test]
    fn symlinks_in_a_tree_put_aside_are_deleted_and_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let trash = top.path().join(Name::reserved(7).to_string());
        fs::create_dir_all(trash.join("a/b")).unwrap();
        fs::create_dir(top.path().join("kept")).unwrap();
        fs::write(top.path().join("kept/file"), "x").unwrap();
        std::os::unix::fs::symlink("../kept", trash.join("link")).unwrap();
        reap(top.path()).unwrap();
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
        assert!(top.path().join("kept/file").exists());
    }

    /// Entries beside it stay. Once calls no longer fail, nothing is left in it.
    #[test]
    fn whatever_fails_only_the_tree_put_aside_is_emptied() {
        for seed in InjectedErrors::seeds(50) {
            let top = tempfile::tempdir().unwrap();
            let trash = top.path().join(Name::reserved(7).to_string());
            let deep: std::path::PathBuf = std::iter::repeat_n("d", DEPTH + 3).collect();
            fs::create_dir_all(trash.join(deep)).unwrap();
            fs::create_dir(top.path().join("kept")).unwrap();
            for file in ["kept/file", &format!("{}/file", trash.file_name().unwrap().display())] {
                fs::write(top.path().join(file), "x").unwrap();
            }
            std::os::unix::fs::symlink("../kept", trash.join("link")).unwrap();
            let faults = InjectedErrors::begin(seed, 10);
            for _ in 0..10 {
                // It returns an error, or it has emptied the tree. Exception: an injected error has
                // made a part of the tree look deleted.
                let is_done = reap(top.path()).is_ok();
                let was_misled =
                    faults.tale().iter().any(|error| error == "openat2: entity not found");
                assert!(
                    !is_done || was_misled || fs::read_dir(&trash).unwrap().next().is_none(),
                    "seed {seed}"
                );
            }
            drop(faults);
            reap(top.path()).unwrap();
            assert_eq!(fs::read_dir(&trash).unwrap().count(), 0, "seed {seed}");
            assert!(top.path().join("kept/file").exists(), "seed {seed}");
        }
    }

    #[test]
    fn a_file_that_was_put_aside_for_a_directory_is_removed() {
        let top = tempfile::tempdir().unwrap();
        let trash = top.path().join(Name::reserved(7).to_string());
        fs::write(&trash, "x").unwrap();
        reap(top.path()).unwrap();
        assert!(!trash.exists());
    }

    #[test]
    fn a_tree_deeper_than_the_open_levels_is_emptied() {
        let top = tempfile::tempdir().unwrap();
        let trash = top.path().join(Name::reserved(7).to_string());
        let deep: std::path::PathBuf = std::iter::repeat_n("d", 5 * DEPTH).collect();
        fs::create_dir_all(trash.join(deep)).unwrap();
        reap(top.path()).unwrap();
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
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
