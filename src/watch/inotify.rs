//! A watcher with the interface of notify, which knows directories by the number of their watch,
//! not by path.
//!
//! The watcher of notify keeps one map of paths. It searches the whole map for each directory that
//! is deleted or renamed. In a large tree it reads no events for minutes meanwhile, and the
//! kernel's queue overflows. Here that costs one step. A directory is registered by an open
//! descriptor. So its path cannot be too long, and cannot lead to another directory by now.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, OsStr};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{
    AccessKind, AccessMode, CreateKind, DataChange, Flag, MetadataKind, ModifyKind, RemoveKind,
    RenameMode,
};
use notify::{Config, Error, Event, EventHandler, EventKind, RecursiveMode, Watcher, WatcherKind};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

use super::Unwatched;
use super::places::{KnownDir, Places, Wd};
use super::shim::{DIRECTORY, relative};
use crate::fs::tree::Dir;
use crate::model::path::{Name, RelPath};

/// The events to report. Opening, reading and closing are left out, since twindir does that itself.
/// A close after writing is included: it is the only sign of a write through a mapping.
const MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ONLYDIR);

/// Size of the buffer for a read, in bytes: some 5,000 events.
const BUFFER: usize = 256 * 1024;

/// Most watches that are removed between two reads. Each removal adds an event to the queue.
const SLICE: usize = 512;

/// If more than `CLOSE` events come in each `BREATH`, the next read waits for one `BREATH`. `CLOSE`
/// is less than a hundredth of the kernel's queue, which holds 16,384 events by default.
const CLOSE: u32 = 100;
const BREATH: Duration = Duration::from_millis(1);

/// The info text of an event that is a fence.
pub const FENCE: &str = "fence";

/// How long to wait for the second half of a rename. The kernel queues it right after the first.
const HALF: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// A running watcher. It ends when it is dropped.
pub struct INotify {
    registry: Arc<Registry>,
}

/// The watched directories. The reading thread and all who register directories share it.
pub struct Registry {
    queue: OwnedFd,
    /// Written to when the watcher is dropped.
    end: OwnedFd,
    /// A file that nobody writes to, for fences.
    nothing: OwnedFd,
    /// The number of watched directories, when it was last read.
    count: AtomicUsize,
    known: Mutex<WatchState>,
}

#[derive(Default)]
struct WatchState {
    root: PathBuf,
    places: Places,
    /// Watches that are not needed any more, and are to be removed.
    useless: BTreeSet<Wd>,
    /// Numbers of the fences in the kernel's queue, by their watches.
    fences: BTreeMap<Wd, u64>,
}

impl Watcher for INotify {
    fn new<F: EventHandler>(handler: F, _: Config) -> notify::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(std::io::Error::from)?;
        let end = eventfd(0, EventfdFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let nothing = memfd_create("twindir-fence", MemfdFlags::CLOEXEC);
        let nothing = nothing.map_err(std::io::Error::from)?;
        let (count, known) = (AtomicUsize::new(0), Mutex::default());
        let registry = Arc::new(Registry { queue, end, nothing, count, known });
        let thread =
            Thread { registry: Arc::clone(&registry), handler, half: None, pace: Pace::new() };
        std::thread::Builder::new().name("twindir-inotify".into()).spawn(move || thread.run())?;
        Ok(Self { registry })
    }

    /// Watches one directory. The first one is the root; the others lie below it.
    fn watch(&mut self, path: &Path, mode: RecursiveMode) -> notify::Result<()> {
        let mut known = self.registry.known();
        if known.places.is_empty() {
            path.clone_into(&mut known.root);
        }
        let below = relative(path, &known.root);
        let Some(rel) = below.filter(|_| mode == RecursiveMode::NonRecursive) else {
            return Err(Error::path_not_found().add_path(path.to_owned()));
        };
        let wd =
            inotify::add_watch(&self.registry.queue, path, MASK).map_err(std::io::Error::from)?;
        known.places.register(wd, &rel);
        Ok(())
    }

    fn unwatch(&mut self, path: &Path) -> notify::Result<()> {
        let known = self.registry.known();
        let rel = relative(path, &known.root);
        let rel = rel.ok_or_else(|| Error::watch_not_found().add_path(path.to_owned()))?;
        drop(known);
        self.registry.forget(&rel);
        Ok(())
    }

    fn kind() -> WatcherKind {
        WatcherKind::Inotify
    }
}

impl INotify {
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }
}

impl Drop for INotify {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.registry.end, &1_u64.to_ne_bytes());
    }
}

impl Registry {
    fn known(&self) -> MutexGuard<'_, WatchState> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches `dir`, an open directory of the source that was found at `path` below `root`.
    ///
    /// A directory that is already watched under another path was renamed, and one of the two paths
    /// is out of date. If `path` still leads to `dir`, the other path is dropped. Each later rename
    /// has its own event, which leads to a check of the new path.
    ///
    /// # Errors
    /// The reason, if the kernel refuses the watch.
    pub fn watch(&self, path: &RelPath, dir: &Dir, root: &Dir) -> Result<(), Unwatched> {
        let mut known = self.known();
        let wd = inotify::add_watch(&self.queue, dir.magic_link(), MASK).map_err(why)?;
        let id = |dir: &Dir| dir.entry().map(|entry| entry.inode.id());
        known.put(wd, path, || root.open(path).and_then(|now| id(&now)) == id(dir));
        Ok(())
    }

    /// Puts a fence into the kernel's queue: adds a watch on a file that never changes, and removes
    /// it at once. The kernel queues an event for the end of that watch, behind all earlier events.
    ///
    /// # Errors
    /// If the kernel accepts no further watch.
    pub fn fence(&self, number: u64) -> std::io::Result<()> {
        let nothing = format!("/proc/self/fd/{}", self.nothing.as_raw_fd());
        let mut known = self.known();
        let wd = inotify::add_watch(&self.queue, nothing, WatchFlags::DELETE_SELF)?;
        known.fences.insert(wd, number);
        Ok(inotify::remove_watch(&self.queue, wd)?)
    }

    /// Returns how many directories are watched, or were a moment ago: it does not wait for the
    /// lock.
    pub fn count(&self) -> usize {
        if let Ok(known) = self.known.try_lock() {
            self.count.store(known.places.count(), Ordering::Relaxed);
        }
        self.count.load(Ordering::Relaxed)
    }

    /// Stops watching a directory and everything below it. Does nothing if the directory itself is
    /// not watched.
    pub fn forget(&self, path: &RelPath) {
        let mut known = self.known();
        if let Some(wd) = known.places.find(path).filter(|wd| *wd >= 0) {
            let out = known.places.remove(wd);
            known.useless.extend(out);
        }
    }
}

/// Returns why the kernel refused a watch.
fn why(errno: Errno) -> Unwatched {
    match errno {
        Errno::NOSPC => Unwatched::Limit,
        Errno::NOENT => Unwatched::Failed("is /proc mounted?".to_owned()),
        other => Unwatched::Failed(other.to_string()),
    }
}

/// The thread that reads the kernel's events.
struct Thread<F> {
    registry: Arc<Registry>,
    handler: F,
    /// The first half of a rename, with its cookie. It is kept until the next event, or until
    /// [`HALF`] has passed.
    half: Option<(u32, Event)>,
    pace: Pace,
}

/// The rate at which events come. If they come fast, the thread waits before it reads. Otherwise
/// each event would be read by itself, and would wake all threads behind it.
struct Pace {
    since: Instant,
    /// Events read since `since`.
    count: u32,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), count: 0 }
    }

    /// Waits for one [`BREATH`] if events come fast. Called when all queued events have been read.
    fn breathe(&mut self) {
        if self.count < CLOSE {
            return;
        }
        if self.since.elapsed() < BREATH * self.count / CLOSE {
            std::thread::sleep(BREATH);
        }
        *self = Self::new();
    }
}

impl<F: EventHandler> Thread<F> {
    fn run(mut self) {
        let registry = Arc::clone(&self.registry);
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&registry.queue, &mut buffer);
        loop {
            if reader.is_buffer_empty() {
                self.remove_useless();
                self.pace.breathe();
                if self.is_over() {
                    return;
                }
            }
            match reader.next() {
                Ok(event) => {
                    self.pace.count += 1;
                    self.take(event.wd(), event.events(), event.cookie(), event.file_name());
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => {
                    self.handler.handle_event(Err(std::io::Error::from(errno).into()));
                    return;
                }
            }
        }
    }

    /// Waits for events. Returns whether the watcher was dropped. Reports a first half whose second
    /// half does not come in time.
    fn is_over(&mut self) -> bool {
        loop {
            let Registry { queue, end, .. } = &*self.registry;
            let mut fds = [PollFd::new(queue, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
            match poll(&mut fds, self.half.is_some().then_some(&HALF)) {
                Ok(0) => self.report_half(),
                Ok(_) => return !fds[1].revents().is_empty(),
                // Interrupted by a signal, which means nothing here.
                Err(_) => {}
            }
        }
    }

    fn remove_useless(&mut self) {
        let mut known = self.registry.known();
        for _ in 0..SLICE {
            let Some(wd) = known.useless.pop_first() else { break };
            // Fails if the kernel has removed the watch by itself.
            let _ = inotify::remove_watch(&self.registry.queue, wd);
        }
    }

    fn report_half(&mut self) {
        if let Some((_, event)) = self.half.take() {
            self.handler.handle_event(Ok(event));
        }
    }

    fn tell(&mut self, event: Event) {
        self.report_half();
        self.handler.handle_event(Ok(event));
    }

    fn take(&mut self, wd: Wd, flags: ReadFlags, cookie: u32, name: Option<&CStr>) {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return self.tell(Event::new(EventKind::Other).set_flag(Flag::Rescan));
        }
        if flags.contains(ReadFlags::IGNORED) {
            let fence = self.registry.known().fences.remove(&wd);
            if let Some(number) = fence.and_then(|number| usize::try_from(number).ok()) {
                let fence = Event::new(EventKind::Other).set_info(FENCE);
                return self.tell(fence.set_tracker(number));
            }
        }
        match name.map(CStr::to_bytes) {
            Some(bytes) => {
                // Bytes that are no name belong to no entry.
                let Some(name) = Name::new(bytes) else { return };
                self.handle_entry(wd, flags, cookie, &name);
            }
            None => self.handle_directory(wd, flags),
        }
    }

    /// Handles an event of an entry in a watched directory.
    fn handle_entry(&mut self, wd: Wd, flags: ReadFlags, cookie: u32, name: &Name) {
        let mut known = self.registry.known();
        let Some(path) = known.places.path(wd).map(|dir| dir.join(name)) else { return };
        let full = known.full(&path);
        let is_dir = flags.contains(ReadFlags::ISDIR);
        let kind = if flags.contains(ReadFlags::CREATE) {
            EventKind::Create(if is_dir { CreateKind::Folder } else { CreateKind::File })
        } else if flags.contains(ReadFlags::DELETE) {
            EventKind::Remove(if is_dir { RemoveKind::Folder } else { RemoveKind::File })
        } else if flags.contains(ReadFlags::MOVED_FROM) {
            known.places.renamed_from(cookie, wd, name.clone());
            drop(known);
            self.report_half();
            let event =
                Event::new(EventKind::Modify(ModifyKind::Name(RenameMode::From))).add_path(full);
            self.half = Some((cookie, event.set_tracker(cookie as usize)));
            return;
        } else if flags.contains(ReadFlags::MOVED_TO) {
            let from = known
                .places
                .renamed_to(cookie, wd, name.clone(), is_dir)
                .map(|from| known.full(&from));
            drop(known);
            return self.handle_second_half(cookie, from, full, is_dir);
        } else if flags.contains(ReadFlags::MODIFY) {
            EventKind::Modify(ModifyKind::Data(DataChange::Any))
        } else if flags.contains(ReadFlags::CLOSE_WRITE) {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
        } else {
            EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any))
        };
        drop(known);
        self.tell(Event::new(kind).add_path(full));
    }

    /// Handles the second half of a rename. Reports the rename as one event if its old path `from`
    /// is known, else each end by itself. The first half may have been reported already.
    fn handle_second_half(
        &mut self,
        cookie: u32,
        from: Option<PathBuf>,
        to: PathBuf,
        is_dir: bool,
    ) {
        let first = self.half.take_if(|(waiting, _)| *waiting == cookie);
        self.report_half();
        let renamed = |mode| {
            Event::new(EventKind::Modify(ModifyKind::Name(mode))).set_tracker(cookie as usize)
        };
        if let Some(from) = from {
            let both = renamed(RenameMode::Both).add_path(from).add_path(to);
            return self.handler.handle_event(Ok(if is_dir {
                both.set_info(DIRECTORY)
            } else {
                both
            }));
        }
        if let Some((_, first)) = first {
            self.handler.handle_event(Ok(first));
        }
        self.handler.handle_event(Ok(renamed(RenameMode::To).add_path(to)));
    }

    /// Handles an event of a watched directory itself. The watch of its parent reports most of
    /// these, too. But the root has no parent, and neither has the top of another file system.
    fn handle_directory(&mut self, wd: Wd, flags: ReadFlags) {
        let mut known = self.registry.known();
        let is_root = known.places.is_root(wd);
        let path = known.places.path(wd).map(|path| known.full(&path));
        let kind = if flags.contains(ReadFlags::IGNORED) {
            known.places.watch_ended(wd);
            is_root.then_some(EventKind::Remove(RemoveKind::Other))
        } else if flags.contains(ReadFlags::MOVE_SELF) {
            let useless = known.places.self_moved(wd);
            known.useless.extend(useless);
            is_root.then_some(EventKind::Modify(ModifyKind::Name(RenameMode::From)))
        } else if flags.contains(ReadFlags::DELETE_SELF) {
            is_root.then_some(EventKind::Remove(RemoveKind::Folder))
        } else if flags.contains(ReadFlags::UNMOUNT) {
            Some(EventKind::Remove(RemoveKind::Other))
        } else {
            Some(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)))
        };
        drop(known);
        let (Some(kind), Some(path)) = (kind, path) else { return };
        let event = Event::new(kind).add_path(path);
        self.tell(if flags.contains(ReadFlags::UNMOUNT) {
            event.set_info("unmount")
        } else {
            event
        });
    }
}

impl WatchState {
    /// Notes that `wd` watches the directory that was found at `path`. `still_stands`: whether it
    /// is still there; see [`Registry::watch`].
    fn put(&mut self, wd: Wd, path: &RelPath, still_stands: impl FnOnce() -> bool) {
        // The directory has come back before its watch was removed.
        self.useless.remove(&wd);
        if self.places.register(wd, path) == KnownDir::Elsewhere && still_stands() {
            self.places.reattach(wd, path);
        }
    }

    fn full(&self, path: &RelPath) -> PathBuf {
        if path.is_root() {
            self.root.clone()
        } else {
            self.root.join(OsStr::from_bytes(path.as_bytes()))
        }
    }
}

#[cfg(test)]
mod properties;
