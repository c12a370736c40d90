//! Detector two: walks both trees and reports where they differ. It never writes. Differences are
//! put into the same queue as changes that the watch reports.

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

use big::BigPairs;
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

/// Most messages that wait for the daemon. One holds at most [`compare::CHUNK`] names, and reserved
/// names besides.
const WAITING: usize = 64;

/// The nice value of a full sweep beside a watch. See sched(7).
const NICE: i32 = 10;

/// The task of a walk, and its parameters.
#[derive(Clone)]
pub struct Plan<T> {
    pub trees: T,
    pub capabilities: Capabilities,
    pub filter: Filter,
    pub threads: usize,
    /// The directories to walk, with everything below; the root for the whole tree. See [`Extent`].
    pub scopes: Vec<RelPath>,
    pub extent: Extent,
    pub task: Task,
    /// Most bytes to read in a second; `None` for no limit.
    pub rate: Option<u64>,
    /// Whether to drop files that only this walk reads from the page cache again, from the
    /// beginning.
    pub drop_behind: bool,
    /// The detector for which it walks.
    pub detector: Detector,
    /// The registry of the watch, if there is one. Each directory is registered there before it is
    /// listed.
    pub registry: Option<Arc<Registry>>,
    /// Where to note the directories that match on both sides; `None` to note none.
    pub verified_dirs: Option<Arc<VerifiedDirs>>,
    /// The directories of the source where file systems were mounted.
    pub submounts: Vec<RelPath>,
}

impl<T> Plan<T> {
    /// Lowers the priority of the periodic full sweep while there is a watch: changes that the
    /// watch reports come first. Threads inherit the priority from the thread that starts them.
    fn yield_to_others(&self) {
        if self.registry.is_some() && self.task == Task::Full && self.detector == Detector::Sweep {
            // On Linux this sets the priority of the calling thread. If it fails, the sweep has the
            // usual one.
            let _ = rustix::process::setpriority_process(None, NICE);
        }
    }
}

/// Whether `bytes` are more than half of the machine's memory.
pub fn is_much_to_read(bytes: u64) -> bool {
    static HALF: OnceLock<u64> = OnceLock::new();
    bytes
        > *HALF.get_or_init(|| {
            let info = rustix::system::sysinfo();
            (info.totalram as u64).saturating_mul(info.mem_unit.into()) / 2
        })
}

/// Which part of its directories a walk compares, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Everything in them and below.
    Below,
    /// Everything in them and below. They were renamed in the replica, as in the source.
    Renamed,
    /// The names in them, and nothing below.
    Names,
}

/// A message of a walk.
pub enum Message {
    /// Names of one directory that differ. If there are none, the metadata of the directory itself
    /// differs. A batch comes before those of the subdirectories found in it. A directory that is
    /// to be widened is reported by its name after everything below it.
    Differ(RelPath, Vec<(Name, Check)>),
    /// A directory that exists on both sides and whose contents were all compared. The report of
    /// its own name follows.
    Walked(Box<[Entry; 2]>),
    /// A directory of the source where another file system is mounted.
    SourceSubmount(RelPath, DirId),
    /// A directory that could not be opened or listed. Its contents are not known.
    Problem(Problem),
    /// Names of files that have several. Sent only while there is a watch.
    Linked(Vec<Linked>),
    /// A directory that could not be registered with the watch.
    Unwatched(RelPath, Unwatched),
    Counted(Count),
    Swept(Summary),
    Lost(Lost),
}

/// The numbers of a finished sweep.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Entries of the source that were compared.
    pub entries: u64,
    /// Pairs of files whose MD5s were compared.
    pub hashed: u64,
    /// Bytes of these pairs, of both sides.
    pub bytes: u64,
    /// Names that were reported to differ.
    pub differ: u64,
    /// Files with more than one name that were compared.
    pub linked: u64,
    /// Directories that were registered with the watch.
    pub watched: u64,
    /// When it began, by the system clock.
    pub begun: Time,
    pub took: Duration,
}

/// A running sweep. It stops when it is dropped.
pub struct Sweep {
    messages: Receiver<Message>,
    cancel: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl Sweep {
    /// Starts a sweep in a thread of its own.
    ///
    /// # Errors
    /// If the thread cannot be started.
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

    /// Returns how many entries of the source were compared so far, and how many bytes were read.
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

/// Runs a walk and sends what it finds. The last message is its result.
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
    // Fails if the sweep was dropped and nobody listens any more.
    let _ = out.send(last);
}

/// Runs a walk on the caller's thread. Returns all of its messages.
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
    /// `None` if there is no replica yet (a dry run).
    replica: Option<T::Replica>,
    out: &'a Sender<Message>,
    cancel: &'a Arc<AtomicBool>,
    counts: Arc<Counts>,
    bigs: BigPairs,
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
        let bigs = BigPairs::default();
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

    /// Registers an open directory of the source with the watch, if there is one. Must come before
    /// the directory is listed.
    fn register(&self, path: &RelPath, dir: &Dir) {
        let Some(registry) = &self.plan.registry else { return };
        match registry.watch(path, dir, &self.source) {
            Ok(()) => self.counts.watched(),
            Err(why) => self.send(Message::Unwatched(path.clone(), why)),
        }
    }

    /// Sends a message. Waits if [`WAITING`] messages are queued. If nobody listens any more, the
    /// walk is cancelled.
    fn send(&self, message: Message) {
        if self.out.send(message).is_err() {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// Whether to drop files that only this walk reads from the page cache again. Once it has read
    /// much, they would displace the data of other programs.
    fn drops_behind(&self) -> bool {
        self.plan.drop_behind || is_much_to_read(self.counts.bytes())
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Whether the directory `rel` of the source is the replica, mounted there. Also reports every
    /// file system that is mounted in the source.
    fn is_replica(&self, rel: &RelPath, source: &Dir) -> bool {
        let Ok(entry) = source.entry() else { return false };
        if entry.inode.mount_root
            && !rel.is_root()
            && let Ok(id) = source.id()
        {
            self.send(Message::SourceSubmount(rel.clone(), id));
        }
        self.plan.trees.is_replica(&entry)
    }
}
