//! The thread between the watcher and the daemon: raw events come in, go through the debouncer, and
//! come out as changes.
//!
//! The thread of the debouncer wakes at every tick, so a debouncer only lives while events flow. It
//! is made at the first event. After a second of silence, a sentinel is fed to it. If nothing else
//! was fed until the sentinel comes out, the debouncer is empty, and is dropped.

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

/// Silence after which the debouncer is dropped, once it is empty.
const SILENCE: Duration = Duration::from_secs(1);

/// A message to the [`DebounceThread`].
pub enum Raw {
    /// An event of the watcher, and when it came.
    Event(Instant, notify::Result<notify::Event>),
    /// The sentinel has come out of the debouncer.
    Rest,
    /// The event that stands for a fence has come out of the debouncer.
    Fence(u64),
    /// The watch was dropped.
    End,
}

/// A watcher that watches nothing. It leaves the debouncer's own handler in `HANDLER`.
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

/// A running debouncer and its inlet. When it is dropped, the debouncer stops at its next tick.
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
    /// When the event that stands for it was last fed.
    fed: Instant,
    /// Whether something was fed since it began.
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

    /// Whether nothing that was fed before the fence can still wait. `longest`: the longest time
    /// that a path may wait.
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
    /// The watched root, in the spelling of the events.
    pub root: PathBuf,
    /// How long a path must rest before it is reported. If zero, there is no debouncer.
    pub debounce: Duration,
    pub raw: Receiver<Raw>,
    /// The way back for the sentinel and for fences.
    pub back: Sender<Raw>,
    pub changes: Sender<Change>,
    pub begun: Instant,
}

impl DebounceThread {
    /// Runs until [`Raw::End`] comes, or nobody can send any more.
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
        // A read has failed, so the contents of the kernel's queue are not known.
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

    /// Sends a fence through the debouncer, behind everything that waits there.
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

    /// Handles a fence that has come out of the debouncer. If something was fed since it began, a
    /// path from before may still wait, until its kind changes. The fence then waits once more.
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

    /// Returns a path that nothing below the root has.
    fn sentinel(&self) -> PathBuf {
        self.root.join("..")
    }

    /// Makes a debouncer. Returns `None` if its thread cannot be started: events then pass without
    /// being debounced.
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
            // After everything that has come out with them.
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
        // Fails if the watch was dropped and nobody listens any more.
        let _ = self.changes.send(change);
    }
}
