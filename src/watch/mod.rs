//! Detector one: notify's events, debounced. The only user of notify.
//!
//! It says where to look, as the sweep does. What is watched is decided by whoever scans: each
//! directory is registered before it is listed, so that nothing can change in it unseen. Whatever
//! the kernel may have lost becomes [`Change::Everything`].

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

/// What the watch tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Something happened to this path. `since`: when it was told first or, of several times
    /// within a debounce, last.
    Check { path: RelPath, depth: Depth, since: Instant },
    /// An entry was renamed, and both ends are watched. Both are looked at, too.
    Moved { from: RelPath, to: RelPath, is_dir: bool },
    /// The file system that was mounted here is no longer.
    Unmounted(RelPath),
    /// Something happened to the root itself.
    Root,
    /// Anything may have happened anywhere, for this reason: a new watch and a scan of all.
    Everything(&'static str),
    /// All that the kernel had told before this fence was made has been told.
    Fence(u64),
}

/// Why a directory is not watched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unwatched {
    /// The kernel's limit on watches is reached.
    Limit,
    /// Another error.
    Failed(String),
}

/// A watch on some directories of the source. Dropped, it ends.
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
    /// Starts with only the root watched. `root`: the source; symlinks in its path are resolved
    /// once.
    ///
    /// # Errors
    /// Where the kernel has no further inotify instance for this user, or no thread can be started.
    pub fn start(root: &Path, debounce: Duration) -> std::io::Result<Self> {
        let root = root.canonicalize()?;
        let (events, raw) = unbounded();
        let (out, changes) = unbounded();
        let (back, feeder) = (events.clone(), events.clone());
        // I9: it only sends, on a channel without a bound.
        let handler = move |event| {
            let _ = events.send(Raw::Event(Instant::now(), event));
        };
        let mut watcher = INotify::new(handler, Config::default()).map_err(into_io)?;
        // Where this fails, so it does when the scan tries it, and says why.
        let _ = watcher.watch(&root, RecursiveMode::NonRecursive);
        let begun = Instant::now();
        let thread = DebounceThread { root, debounce, raw, back, changes: out, begun };
        std::thread::Builder::new().name("twindir-watch".into()).spawn(move || thread.run())?;
        Ok(Self { changes, watcher, feeder })
    }

    pub fn changes(&self) -> &Receiver<Change> {
        &self.changes
    }

    /// Puts a fence behind what the kernel has told by now: [`Change::Fence`] with this number comes
    /// after all of it.
    ///
    /// # Errors
    /// Where the kernel takes no further watch.
    pub fn fence(&self, number: u64) -> std::io::Result<()> {
        self.watcher.registry().fence(number)
    }

    /// Lets scans say what is to be watched.
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

/// The limit that the kernel sets on a user's `watches` or `instances`: its name for sysctl, its
/// value now, and where it is set, as one says it. In a user namespace (a container) that is the
/// smaller one of the namespace's and the machine's. See inotify(7), namespaces(7).
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
