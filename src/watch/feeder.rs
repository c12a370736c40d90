//! The thread between notify and the daemon: raw events in, changes out, by way of the debouncer.
//!
//! The debouncer's thread wakes at every tick for as long as it lives, so it lives only while
//! events flow. It is made at the first one. After a second of silence a sentinel is fed to it;
//! once that has come out and nothing was fed since, nothing waits in it, and it is dropped.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use notify::{Config, EventHandler, RecursiveMode, Watcher, WatcherKind};
use notify_debouncer_full::{DebounceEventResult, Debouncer, NoCache, new_debouncer_opt};

use super::Change;
use super::inotify::FENCE;
use super::shim::{Classified, SLOT as LONGEST_WAIT, depth_of, dirty, relative, shim};
use crate::model::check::Depth;

/// After so much silence the debouncer is dropped.
const SILENCE: Duration = Duration::from_secs(1);

/// What comes to the feeder.
pub enum Raw {
    /// An event of notify, and when it came.
    Event(Instant, notify::Result<notify::Event>),
    /// The sentinel has come out of the debouncer.
    Rest,
    /// What stands for a fence has.
    Fence(u64),
    /// The watch is over.
    End,
}

/// A watcher that watches nothing: it hands the debouncer's own handler to whoever made it.
struct HandlerCapture;

thread_local! {
    static HANDLER: RefCell<Option<Box<dyn EventHandler>>> = const { RefCell::new(None) };
}

impl Watcher for HandlerCapture {
    fn new<F: EventHandler>(handler: F, _: Config) -> notify::Result<Self> {
        HANDLER.set(Some(Box::new(handler)));
        Ok(Self)
    }

    fn watch(&mut self, _: &Path, _: RecursiveMode) -> notify::Result<()> {
        Ok(())
    }

    fn unwatch(&mut self, _: &Path) -> notify::Result<()> {
        Ok(())
    }

    fn kind() -> WatcherKind {
        WatcherKind::NullWatcher
    }
}

/// A debouncer that runs, and its inlet. Dropped, it stops at its next tick.
struct Running {
    _debouncer: Debouncer<HandlerCapture, NoCache>,
    inlet: Box<dyn EventHandler>,
    /// Whether a sentinel was fed, and nothing since.
    ending: bool,
}

/// Fences that are in the debouncer.
#[derive(Default)]
struct Fences(Vec<PendingFence>);

struct PendingFence {
    number: u64,
    begun: Instant,
    /// When what stands for it was last fed.
    fed: Instant,
    /// Whether something was fed since.
    is_disturbed: bool,
}

impl Fences {
    fn begin(&mut self, number: u64) {
        let now = Instant::now();
        self.0.push(PendingFence { number, begun: now, fed: now, is_disturbed: false });
    }

    fn disturb(&mut self) {
        self.0.iter_mut().for_each(|fence| fence.is_disturbed = true);
    }

    /// Whether nothing can wait any more that was fed before. `longest`: how long that may take.
    fn is_passed(&self, number: u64, longest: Duration) -> bool {
        let fence = self.0.iter().find(|fence| fence.number == number);
        fence.is_none_or(|fence| {
            !fence.is_disturbed || fence.fed.duration_since(fence.begun) >= longest
        })
    }

    fn feed(&mut self, number: u64) {
        for fence in self.0.iter_mut().filter(|fence| fence.number == number) {
            fence.fed = Instant::now();
        }
    }

    fn end(&mut self, number: u64) {
        self.0.retain(|fence| fence.number != number);
    }
}

pub struct DebounceThread {
    /// The watched root, as notify spells it.
    pub root: PathBuf,
    /// Zero: no debouncer at all.
    pub debounce: Duration,
    pub raw: Receiver<Raw>,
    /// The way back for the sentinel.
    pub back: Sender<Raw>,
    pub changes: Sender<Change>,
    pub begun: Instant,
}

impl DebounceThread {
    /// Runs until it is told to end.
    pub fn run(self) {
        let mut stage: Option<Running> = None;
        let mut fences = Fences::default();
        loop {
            let received = if stage.as_ref().is_some_and(|stage| !stage.ending) {
                self.raw.recv_timeout(SILENCE)
            } else {
                self.raw.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match received {
                Ok(Raw::Event(_, Ok(event))) if event.info() == Some(FENCE) => {
                    let number = event.tracker().unwrap_or_default() as u64;
                    fences.begin(number);
                    self.feed_fence(number, &mut stage, &mut fences);
                }
                Ok(Raw::Fence(number)) => self.pass_fence(number, &mut stage, &mut fences),
                Ok(Raw::Event(time, event)) => {
                    fences.disturb();
                    self.take(time, event, &mut stage);
                }
                Ok(Raw::Rest) => stage = stage.filter(|stage| !stage.ending),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(stage) = &mut stage {
                        stage.ending = true;
                        let sentinel = self.sentinel();
                        self.feed(stage, sentinel, Depth::Subtree);
                    }
                }
                Ok(Raw::End) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(
        &self,
        time: Instant,
        event: notify::Result<notify::Event>,
        stage: &mut Option<Running>,
    ) {
        // Of a read that failed: what was in the queue is not known.
        let Ok(event) = event else {
            return self.say(Change::Everything("the kernel's events could not be read"));
        };
        match shim(event, &self.root) {
            Classified::Dirty(path, depth) => self.handle_dirty(time, path, depth, stage),
            Classified::Urgent(change) => self.say(change),
            Classified::Moved(change, ends) => {
                self.say(change);
                for end in ends {
                    self.handle_dirty(time, end, Depth::Subtree, stage);
                }
            }
            Classified::Nothing => {}
        }
    }

    fn handle_dirty(
        &self,
        time: Instant,
        path: PathBuf,
        depth: Depth,
        stage: &mut Option<Running>,
    ) {
        if stage.is_none() && !self.debounce.is_zero() {
            *stage = self.make_stage();
        }
        match stage {
            Some(stage) => {
                stage.ending = false;
                self.feed(stage, path, depth);
            }
            None => {
                if let Some(path) = relative(&path, &self.root) {
                    self.say(Change::Check { path, depth, since: time });
                }
            }
        }
    }

    /// Lets a fence come out behind what waits in the debouncer.
    fn feed_fence(&self, number: u64, stage: &mut Option<Running>, fences: &mut Fences) {
        if let Some(stage) = stage {
            stage.ending = false;
            fences.feed(number);
            self.feed(stage, self.sentinel().join(number.to_string()), Depth::Subtree);
        } else {
            fences.end(number);
            self.say(Change::Fence(number));
        }
    }

    /// What stands for a fence has come out. If something was fed since, a path may be among it
    /// that waited before: it may have to wait until its kind changes, and so has the fence.
    fn pass_fence(&self, number: u64, stage: &mut Option<Running>, fences: &mut Fences) {
        if fences.is_passed(number, LONGEST_WAIT.max(self.debounce) + 2 * self.debounce) {
            fences.end(number);
            self.say(Change::Fence(number));
        } else {
            self.feed_fence(number, stage, fences);
        }
    }

    fn feed(&self, stage: &mut Running, path: PathBuf, depth: Depth) {
        stage.inlet.handle_event(Ok(dirty(path, depth, self.begun.elapsed(), self.debounce)));
    }

    /// Nothing below the root has this path.
    fn sentinel(&self) -> PathBuf {
        self.root.join("..")
    }

    /// `None` where no thread can be started: events go through without being debounced.
    fn make_stage(&self) -> Option<Running> {
        let (root, sentinel) = (self.root.clone(), self.sentinel());
        let (changes, back) = (self.changes.clone(), self.back.clone());
        let sink = move |result: DebounceEventResult| {
            let mut fences = Vec::new();
            for debounced in result.into_iter().flatten() {
                let Some(path) = debounced.event.paths.first() else { continue };
                if *path == sentinel {
                    let _ = back.send(Raw::Rest);
                } else if path.parent() == Some(&sentinel) {
                    let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
                    fences.extend::<Option<u64>>(number);
                } else if let Some(path) = relative(path, &root) {
                    let depth = depth_of(&debounced.event);
                    let _ = changes.send(Change::Check { path, depth, since: debounced.time });
                }
            }
            // Behind all that has come out with them.
            for number in fences {
                let _ = back.send(Raw::Fence(number));
            }
        };
        let tick = self.debounce / 2;
        let debouncer = new_debouncer_opt::<_, HandlerCapture, NoCache>(
            self.debounce,
            Some(tick),
            sink,
            NoCache::new(),
            Config::default(),
        );
        let inlet = HANDLER.take();
        Some(Running { _debouncer: debouncer.ok()?, inlet: inlet?, ending: false })
    }

    fn say(&self, change: Change) {
        // Nobody listens any more where the watch was dropped.
        let _ = self.changes.send(change);
    }
}
