//! A watcher of the notify family that knows its directories by number, not by path.
//!
//! notify's own keeps one map of paths and goes through all of it for each directory that is
//! removed or renamed: in a large tree it is deaf for minutes meanwhile, and the kernel's queue
//! overflows. Here that costs one step. A directory is registered by an open descriptor, so that
//! the path cannot have become another's, or be too long.

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

/// Opening, reading and closing, which we do ourselves, is not asked for. A close after writing is
/// the only sign of what was stored through a mapping.
const MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ONLYDIR);

/// Bytes that one read takes: some 5,000 events.
const BUFFER: usize = 256 * 1024;

/// Watches that are removed between two reads: each leaves an event in the queue.
const SLICE: usize = 512;

/// Where so many events come within so long, the next read waits for so long. That is a hundredth
/// of what the kernel keeps, if nobody has changed that.
const CLOSE: u32 = 100;
const BREATH: Duration = Duration::from_millis(1);

/// What an event says that is a fence.
pub const FENCE: &str = "fence";

/// How long the second half of a rename is waited for. The kernel queues it right after the first.
const HALF: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// A running watcher. Dropped, it ends.
pub struct INotify {
    registry: Arc<Registry>,
}

/// The directories that are watched: what the reading thread and those who register have in common.
pub struct Registry {
    queue: OwnedFd,
    /// Written to at the end.
    end: OwnedFd,
    /// A file that nobody writes to, for fences.
    nothing: OwnedFd,
    /// How many directories were watched when that was last seen.
    count: AtomicUsize,
    known: Mutex<WatchState>,
}

#[derive(Default)]
struct WatchState {
    root: PathBuf,
    places: Places,
    /// Watches that are of no use any more.
    useless: BTreeSet<Wd>,
    /// Fences in the kernel's queue, by the watches that stood for them.
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

    /// Watches an open directory of the source, which was found at `path` below `root`.
    ///
    /// One that is watched under another path already has been renamed, and it is either the rename
    /// or this that is not up to date. Where the path still leads to it, it is the rename. After
    /// that, each further rename has its event, and leads to a look at the new path.
    pub fn watch(&self, path: &RelPath, dir: &Dir, root: &Dir) -> Result<(), Unwatched> {
        let mut known = self.known();
        let wd = inotify::add_watch(&self.queue, dir.magic_link(), MASK).map_err(why)?;
        let id = |dir: &Dir| dir.entry().map(|entry| entry.inode.id());
        known.put(wd, path, || root.open(path).and_then(|now| id(&now)) == id(dir));
        Ok(())
    }

    /// Puts a fence into the kernel's queue. A watch that ends is told there, in its turn: this one
    /// is of nothing that ever changes, and ends at once.
    ///
    /// # Errors
    /// Where the kernel takes no further watch.
    pub fn fence(&self, number: u64) -> std::io::Result<()> {
        let nothing = format!("/proc/self/fd/{}", self.nothing.as_raw_fd());
        let mut known = self.known();
        let wd = inotify::add_watch(&self.queue, nothing, WatchFlags::DELETE_SELF)?;
        known.fences.insert(wd, number);
        Ok(inotify::remove_watch(&self.queue, wd)?)
    }

    /// How many directories are watched, or were a moment ago. Nobody is waited for.
    pub fn count(&self) -> usize {
        if let Ok(known) = self.known.try_lock() {
            self.count.store(known.places.count(), Ordering::Relaxed);
        }
        self.count.load(Ordering::Relaxed)
    }

    /// Gives up the watches of a directory and of all below it.
    pub fn forget(&self, path: &RelPath) {
        let mut known = self.known();
        if let Some(wd) = known.places.find(path).filter(|wd| *wd >= 0) {
            let out = known.places.remove(wd);
            known.useless.extend(out);
        }
    }
}

/// Why the kernel refused a watch.
fn why(errno: Errno) -> Unwatched {
    match errno {
        Errno::NOSPC => Unwatched::Limit,
        Errno::NOENT => Unwatched::Failed("is /proc mounted?".to_owned()),
        other => Unwatched::Failed(other.to_string()),
    }
}

/// The reading end.
struct Thread<F> {
    registry: Arc<Registry>,
    handler: F,
    /// The first half of a rename, with its cookie: told when the second half has come or has not.
    half: Option<(u32, Event)>,
    pace: Pace,
}

/// How fast events come. Where they come so fast that each would be read by itself, and wake
/// everybody, some are let come together.
struct Pace {
    since: Instant,
    /// Events read since then.
    count: u32,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), count: 0 }
    }

    /// All that was there has been read.
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

    /// Waits for events; whether the watcher was dropped.
    fn is_over(&mut self) -> bool {
        loop {
            let Registry { queue, end, .. } = &*self.registry;
            let mut fds = [PollFd::new(queue, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
            match poll(&mut fds, self.half.is_some().then_some(&HALF)) {
                Ok(0) => self.report_half(),
                Ok(_) => return !fds[1].revents().is_empty(),
                // Of a signal: it says nothing.
                Err(_) => {}
            }
        }
    }

    fn remove_useless(&mut self) {
        let mut known = self.registry.known();
        for _ in 0..SLICE {
            let Some(wd) = known.useless.pop_first() else { break };
            // The kernel may have given it up itself.
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
                // What is no name is no entry.
                let Some(name) = Name::new(bytes) else { return };
                self.handle_entry(wd, flags, cookie, &name);
            }
            None => self.handle_directory(wd, flags),
        }
    }

    /// Something happened to an entry of a watched directory.
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

    /// A rename is told as one, and its ends only where it is not known as one. (Its first half may
    /// have been told already.)
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

    /// Something happened to a watched directory itself. Its parent's watch tells most of it too,
    /// but the root has no parent, and neither has the top of another file system.
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
    /// Notes a watch of a directory that was found at `path`.
    fn put(&mut self, wd: Wd, path: &RelPath, still_stands: impl FnOnce() -> bool) {
        // It is back before its watch was removed.
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
