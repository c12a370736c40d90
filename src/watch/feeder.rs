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
use super::shim::{Classified, depth_of, dirty, relative, shim};
use crate::model::check::Depth;

/// After so much silence the debouncer is dropped.
const SILENCE: Duration = Duration::from_secs(1);

/// What comes to the feeder.
pub enum Raw {
    /// An event of notify, and when it came.
    Event(Instant, notify::Result<notify::Event>),
    /// The sentinel has come out of the debouncer.
    Rest,
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
        loop {
            let received = if stage.as_ref().is_some_and(|stage| !stage.ending) {
                self.raw.recv_timeout(SILENCE)
            } else {
                self.raw.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match received {
                Ok(Raw::Event(time, event)) => self.take(time, event, &mut stage),
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
            for debounced in result.into_iter().flatten() {
                let Some(path) = debounced.event.paths.first() else { continue };
                if *path == sentinel {
                    let _ = back.send(Raw::Rest);
                } else if let Some(path) = relative(path, &root) {
                    let depth = depth_of(&debounced.event);
                    let _ = changes.send(Change::Check { path, depth, since: debounced.time });
                }
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
