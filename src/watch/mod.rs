//! Detector one: notify's events, debounced. The only user of notify.
//!
//! It says where to look, as the sweep does. What is watched is decided by whoever scans: each
//! directory is registered before it is listed, so that nothing can change in it unseen. Whatever
//! the kernel or notify may have lost becomes [`Change::Everything`].

mod feeder;
mod shim;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use notify::{
    Config, ErrorKind, EventKindMask, INotifyWatcher, PathOp, RecursiveMode, WatchPathConfig, Watcher,
};

use crate::path::RelPath;
use crate::queue::Depth;
use feeder::{Feeder, Raw};

/// Directories that are registered in one call. notify's thread reads no events meanwhile.
const BATCH: usize = 256;

/// What the watch tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Something happened to this path. `since`: when it was told first or, of several times
    /// within a debounce, last.
    Look { path: RelPath, depth: Depth, since: Instant },
    /// The file system that was mounted here is no longer.
    Unmounted(RelPath),
    /// Something happened to the root itself.
    Root,
    /// Anything may have happened anywhere, for this reason: a new watch and a scan of all.
    Everything(&'static str),
}

/// Why a directory is not watched. One that has gone or been replaced is not told: its parent's
/// watch tells of that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unwatched {
    /// The kernel's limit on watches is reached.
    Limit,
    /// Another error.
    Failed(String),
    /// The watcher works no more.
    Dead,
}

/// A watch on some directories of the source. Dropped, it ends.
pub struct Watch {
    changes: Receiver<Change>,
    registrar: Registrar,
    feeder: Sender<Raw>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.feeder.send(Raw::End);
    }
}

impl Watch {
    /// Starts with no directory watched. `root`: the source; symlinks in its path are resolved once.
    ///
    /// # Errors
    /// Where the kernel has no further inotify instance for this user, or no thread can be started.
    pub fn start(root: &Path, debounce: Duration) -> std::io::Result<Self> {
        let root = root.canonicalize()?;
        let (events, raw) = unbounded();
        let (out, changes) = unbounded();
        let (back, feeder) = (events.clone(), events.clone());
        // Opening, reading and closing, which we do ourselves, is masked in the kernel. A close
        // after writing is the only sign of what was stored through a mapping.
        let config = Config::default()
            .with_follow_symlinks(false)
            .with_event_kinds(EventKindMask::CORE | EventKindMask::ACCESS_CLOSE);
        // I9: it only sends, on a channel without a bound.
        let handler = move |event| {
            let _ = events.send(Raw::Event(Instant::now(), event));
        };
        let watcher = INotifyWatcher::new(handler, config).map_err(into_io)?;
        let begun = Instant::now();
        let thread = Feeder { root: root.clone(), debounce, raw, back, changes: out, begun };
        std::thread::Builder::new().name("twindir-watch".into()).spawn(move || thread.run())?;
        let registrar = Registrar { watcher: Arc::new(Mutex::new(watcher)), root };
        Ok(Self { changes, registrar, feeder })
    }

    pub fn changes(&self) -> &Receiver<Change> {
        &self.changes
    }

    pub fn registrar(&self) -> Registrar {
        self.registrar.clone()
    }
}

/// Lets scans say what is to be watched.
#[derive(Clone)]
pub struct Registrar {
    watcher: Arc<Mutex<INotifyWatcher>>,
    root: PathBuf,
}

impl Registrar {
    /// Watches these directories, each without what lies below it. Those that are watched already
    /// stay so. Gives back which are not watched, and why.
    ///
    /// RACE: a directory may be exchanged for another before this returns. Its parent's watch,
    /// which stood before, tells of it, and then the path is registered anew.
    pub fn register(&self, dirs: &[RelPath]) -> Vec<(RelPath, Unwatched)> {
        let mut failed = Vec::new();
        for batch in dirs.chunks(BATCH) {
            let mut ops: Vec<PathOp> = batch.iter().map(|dir| self.op(dir)).collect();
            while !ops.is_empty() {
                let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
                let Err(error) = watcher.update_paths(ops) else { break };
                drop(watcher);
                let Some(origin) = error.origin else {
                    failed.extend(batch.first().map(|dir| (dir.clone(), Unwatched::Dead)));
                    return failed;
                };
                let dir = shim::relative(origin.as_path(), &self.root);
                failed.extend(dir.and_then(|dir| Some((dir, why(error.source.kind)?))));
                ops = error.remaining;
            }
        }
        failed
    }

    fn op(&self, dir: &RelPath) -> PathOp {
        let config = WatchPathConfig::new(RecursiveMode::NonRecursive).with_dereference_symlinks(false);
        let path =
            if dir.is_root() { self.root.clone() } else { self.root.join(OsStr::from_bytes(dir.as_bytes())) };
        PathOp::Watch(path, config)
    }
}

/// Why a directory could not be watched; `None` where somebody else tells of it.
fn why(kind: ErrorKind) -> Option<Unwatched> {
    use std::io::ErrorKind as Io;
    match kind {
        ErrorKind::MaxFilesWatch => Some(Unwatched::Limit),
        ErrorKind::PathNotFound => None,
        // The scan cannot open it either, and says so.
        ErrorKind::Io(error) if matches!(error.kind(), Io::PermissionDenied | Io::NotADirectory) => None,
        ErrorKind::Io(error) => Some(Unwatched::Failed(error.to_string())),
        ErrorKind::Generic(what) => Some(Unwatched::Failed(what)),
        ErrorKind::WatchNotFound | ErrorKind::InvalidConfig(_) => {
            Some(Unwatched::Failed("notify refused it".to_owned()))
        }
    }
}

fn into_io(error: notify::Error) -> std::io::Error {
    match error.kind {
        ErrorKind::Io(error) => error,
        _ => std::io::Error::other(error),
    }
}
