//! Detector two: walks both trees and says where they differ. It never writes: what differs
//! goes into the same queue as any other change.

mod batch;
mod big;
mod chunk;
mod compare;
mod count;
mod counts;
mod join;
mod rate;
mod step;
mod subtree;
mod walk;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use big::Bigs;
use counts::Counts;
use rate::RateLimiter;

use crate::fs::clock;
use crate::fs::filter::Filter;
use crate::fs::roots::Lost;
use crate::fs::tree::{Dir, DirId};
use crate::fs::view::Trees;
use crate::model::check::{Check, Detector};
use crate::model::entry::{Entry, Time};
use crate::model::path::{Name, RelPath};
use crate::model::task::Task;
use crate::plan::guard::Count;
use crate::plan::hard_links::Linked;
use crate::plan::metadata::Capabilities;
use crate::plan::verified_dirs::VerifiedDirs;
use crate::report::Problem;
use crate::watch::{Registry, Unwatched};

/// Messages that may wait for the daemon; a batch is at most [`compare::CHUNK`] names.
const WAITING: usize = 64;

/// The nice value of a sweep beside a watch. See sched(7).
const NICE: i32 = 10;

/// What a sweep is to do.
#[derive(Clone)]
pub struct Plan<T> {
    pub trees: T,
    pub capabilities: Capabilities,
    pub filter: Filter,
    pub threads: usize,
    /// The directories below which it looks; the root for all.
    pub scopes: Vec<RelPath>,
    pub extent: Extent,
    pub task: Task,
    /// Bytes that it may read in a second; as many as it can where there is none.
    pub rate: Option<u64>,
    /// Whether what is read for it alone leaves the memory again from the beginning.
    pub drop_behind: bool,
    /// On whose behalf it looks.
    pub detector: Detector,
    /// Where each directory is registered before it is listed, while there is a watch.
    pub registry: Option<Arc<Registry>>,
    /// Where directories are noted that hold the same on both sides, if they are.
    pub verified_dirs: Option<Arc<VerifiedDirs>>,
    /// Where file systems were mounted in the source.
    pub submounts: Vec<RelPath>,
}

impl<T> Plan<T> {
    /// Lowers the priority of a sweep by the clock that runs beside a watch: a save comes first.
    /// Threads inherit it from the one that starts them.
    fn yield_to_others(&self) {
        if self.registry.is_some() && self.task == Task::Full && self.detector == Detector::Sweep {
            // On Linux this is the calling thread's. Where it is refused, the sweep is as before.
            let _ = rustix::process::setpriority_process(None, NICE);
        }
    }
}

/// Whether so many bytes are more than half of the machine's memory.
pub fn is_much_to_read(bytes: u64) -> bool {
    static HALF: OnceLock<u64> = OnceLock::new();
    bytes
        > *HALF.get_or_init(|| {
            let info = rustix::system::sysinfo();
            (info.totalram as u64).saturating_mul(info.mem_unit.into()) / 2
        })
}

/// At what of its directories a walk looks, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// All in them and below.
    Below,
    /// The same: they were renamed in the replica, as in the source.
    Renamed,
    /// The names in them alone.
    Names,
}

/// What a sweep tells.
pub enum Message {
    /// Names of one directory that differ; none for the directory's own metadata. A directory's
    /// batch comes before those of what lies below it; its own name comes after all of them where
    /// it lets somebody in.
    Differ(RelPath, Vec<(Name, Check)>),
    /// A directory of both sides which is about to be told of by its own name: all that it holds
    /// was compared.
    Walked(Box<[Entry; 2]>),
    /// A directory of the source where another file system is mounted.
    SourceSubmount(RelPath, DirId),
    /// A directory that could not be looked into. What lies below it is not known.
    Problem(Problem),
    /// Names of files that have several, while there is a watch.
    Linked(Vec<Linked>),
    /// A directory that could not be registered with the watch.
    Unwatched(RelPath, Unwatched),
    Counted(Count),
    Swept(Summary),
    Lost(Lost),
}

/// What a sweep has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Entries of the source that were compared.
    pub entries: u64,
    /// Pairs of files whose MD5s were compared, and their bytes, of both sides.
    pub hashed: u64,
    pub bytes: u64,
    /// Names that were reported to differ.
    pub differ: u64,
    /// Files with more than one name that were looked at on both sides.
    pub linked: u64,
    /// Directories that were registered with the watch.
    pub watched: u64,
    /// When it began, by the clock of the system.
    pub begun: Time,
    pub took: Duration,
}

/// A sweep that runs. Dropped, it stops.
pub struct Sweep {
    messages: Receiver<Message>,
    cancel: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl Sweep {
    /// # Errors
    /// Where no thread can be started.
    pub fn start(plan: Plan<impl Trees>) -> std::io::Result<Self> {
        let (out, messages) = bounded(WAITING);
        let cancel = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&cancel);
        let counts = Arc::<Counts>::default();
        let counter = Arc::clone(&counts);
        std::thread::Builder::new().name("twindir-sweep".into()).spawn(move || {
            plan.yield_to_others();
            walk_through(plan, &out, &stop, counter);
        })?;
        Ok(Self { messages, cancel, counts })
    }

    /// Entries of the source that were compared so far, and bytes that were read.
    pub fn progress(&self) -> (u64, u64) {
        (self.counts.entries(), self.counts.read_so_far())
    }

    pub fn messages(&self) -> &Receiver<Message> {
        &self.messages
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

/// Walks, and tells what it finds; last, how it ended.
fn walk_through(
    plan: Plan<impl Trees>,
    out: &Sender<Message>,
    cancel: &Arc<AtomicBool>,
    counts: Arc<Counts>,
) {
    let last = match Walker::open(plan, out, cancel, counts) {
        Ok(walker) => walker.run(),
        Err(lost) => Message::Lost(lost),
    };
    // Nobody listens any more where the sweep was dropped.
    let _ = out.send(last);
}

/// All that a walk tells which is done here and now, on the caller's thread.
#[cfg(any(test, feature = "parts"))]
pub fn walked(plan: Plan<impl Trees>) -> impl Iterator<Item = Message> {
    let (out, messages) = crossbeam_channel::unbounded();
    walk_through(plan, &out, &Arc::default(), Arc::default());
    messages.into_iter()
}

/// One walk over both trees. It holds the roots open until it ends.
struct Walker<'a, T: Trees> {
    plan: Plan<T>,
    source: Dir,
    /// `None` where there is no replica yet (a dry run).
    replica: Option<T::Replica>,
    out: &'a Sender<Message>,
    cancel: &'a Arc<AtomicBool>,
    counts: Arc<Counts>,
    bigs: Bigs,
    rate: RateLimiter,
}

impl<'a, T: Trees> Walker<'a, T> {
    fn open(
        plan: Plan<T>,
        out: &'a Sender<Message>,
        cancel: &'a Arc<AtomicBool>,
        counts: Arc<Counts>,
    ) -> Result<Self, Lost> {
        let (source, replica) = plan.trees.open()?;
        let bigs = Bigs::default();
        let rate = RateLimiter::new(plan.rate);
        Ok(Self { plan, source, replica, out, cancel, counts, bigs, rate })
    }

    fn run(&self) -> Message {
        let (begun, at) = (clock::now(), Instant::now());
        match self.plan.task {
            Task::Count => Message::Counted(self.count()),
            Task::Quick | Task::Full => {
                self.compare();
                Message::Swept(self.counts.summary(begun, at.elapsed()))
            }
        }
    }

    /// Registers an open directory of the source with the watch, before it is listed.
    fn register(&self, path: &RelPath, dir: &Dir) {
        let Some(registry) = &self.plan.registry else { return };
        match registry.watch(path, dir, &self.source) {
            Ok(()) => self.counts.watched(),
            Err(why) => self.send(Message::Unwatched(path.clone(), why)),
        }
    }

    /// Sends, and waits for a place. Where nobody listens any more, the walk ends.
    fn send(&self, message: Message) {
        if self.out.send(message).is_err() {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// Whether what is read for this walk alone is to leave the memory again: once it is so much
    /// that it would drive out what others have there.
    fn drops_behind(&self) -> bool {
        self.plan.drop_behind || is_much_to_read(self.counts.bytes())
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Whether a directory of the source is the replica, mounted there. Other mounts are told.
    fn is_replica(&self, rel: &RelPath, source: &Dir) -> bool {
        let Ok(entry) = source.entry() else { return false };
        if entry.inode.mount_root
            && !rel.is_root()
            && let Ok(pin) = source.pin()
        {
            self.send(Message::SourceSubmount(rel.clone(), pin));
        }
        self.plan.trees.is_replica(&entry)
    }
}
