//! Detector one: the kernel's events, debounced. The only user of notify.
//!
//! Like the sweep, it only reports what to check. Sweeps decide what is watched: they register each
//! directory before they list it, so that no change in it is missed. If the kernel may have lost
//! events, the watch reports [`Change::Everything`].

mod feeder;
mod inotify;
mod places;
mod shim;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use notify::{Config, ErrorKind, RecursiveMode, Watcher};

use crate::model::check::Depth;
use crate::model::path::RelPath;
use feeder::{DebounceThread, Raw};
use inotify::INotify;
pub use inotify::Registry;

/// A report of the watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Something happened to this path. `since`: when the event came; of several events within a
    /// debounce, the last one.
    Check { path: RelPath, depth: Depth, since: Instant },
    /// An entry was renamed, and both ends are watched. Both ends are also reported as checks.
    Moved { from: RelPath, to: RelPath, is_dir: bool },
    /// The file system that was mounted here was unmounted.
    Unmounted(RelPath),
    /// Something happened to the root itself.
    Root,
    /// Events may have been lost, for this reason. A new watch and a sweep of everything are
    /// needed.
    Everything(&'static str),
    /// All events that the kernel had queued before this fence was made have been reported.
    Fence(u64),
}

/// The reason why a directory is not watched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unwatched {
    /// The kernel's limit on watches is reached.
    Limit,
    /// Another error.
    Failed(String),
}

/// A watch on directories of the source. It ends when it is dropped.
pub struct Watch {
    changes: Receiver<Change>,
    watcher: INotify,
    feeder: Sender<Raw>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.feeder.send(Raw::End);
    }
}

impl Watch {
    /// Starts a watch on the root only. `root`: the source; symlinks in its path are resolved once.
    /// `debounce`: how long a path must rest before it is reported; zero for no debouncing.
    ///
    /// # Errors
    /// If `root` cannot be resolved, if the kernel has no further inotify instance for this user,
    /// or if no thread can be started.
    pub fn start(root: &Path, debounce: Duration) -> std::io::Result<Self> {
        let root = root.canonicalize()?;
        let (events, raw) = unbounded();
        let (out, changes) = unbounded();
        let (back, feeder) = (events.clone(), events.clone());
        // I9: the handler only sends, on a channel without a bound.
        let handler = move |event| {
            let _ = events.send(Raw::Event(Instant::now(), event));
        };
        let mut watcher = INotify::new(handler, Config::default()).map_err(into_io)?;
        // If this fails, the first sweep fails to register the root too, and reports why.
        let _ = watcher.watch(&root, RecursiveMode::NonRecursive);
        let begun = Instant::now();
        let thread = DebounceThread { root, debounce, raw, back, changes: out, begun };
        std::thread::Builder::new().name("twindir-watch".into()).spawn(move || thread.run())?;
        Ok(Self { changes, watcher, feeder })
    }

    pub fn changes(&self) -> &Receiver<Change> {
        &self.changes
    }

    /// Puts a fence behind the events that the kernel has queued by now. [`Change::Fence`] with
    /// this number comes after their reports.
    ///
    /// # Errors
    /// If the kernel accepts no further watch.
    pub fn fence(&self, number: u64) -> std::io::Result<()> {
        self.watcher.registry().fence(number)
    }

    /// Returns the registry, where sweeps register the directories to watch.
    pub fn registry(&self) -> Arc<Registry> {
        self.watcher.registry()
    }
}

fn into_io(error: notify::Error) -> std::io::Error {
    match error.kind {
        ErrorKind::Io(error) => error,
        _ => std::io::Error::other(error),
    }
}

/// Returns the kernel's limit on a user's inotify `watches` or `instances`; `what` is one of these
/// words. Returns its name for sysctl, its present value, and " in this container" if it is the
/// limit of the user namespace. In a user namespace (a container), the smaller limit of the
/// namespace and the machine applies. See inotify(7), namespaces(7).
pub fn kernel_limit(what: &str) -> (String, String, &'static str) {
    let names = [format!("fs.inotify.max_user_{what}"), format!("user.max_inotify_{what}")];
    let value = |name: &String| {
        let text = std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let known =
        names.iter().filter_map(|name| Some((value(name)?, name))).min_by_key(|(value, _)| *value);
    let (value, name) =
        known.map_or(("unknown".to_owned(), &names[0]), |(value, name)| (value.to_string(), name));
    let at = if name.starts_with("user.") { " in this container" } else { "" };
    (name.clone(), value, at)
}
