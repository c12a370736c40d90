//! The watch while the program runs: when it is started, and when it is replaced because it may
//! have lost events.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Command, Core};
use crate::model::check::{Check, Depth, Detector};
use crate::model::human::human_duration;
use crate::model::path::RelPath;
use crate::model::task::Task;
use crate::plan::guard::Trust;
use crate::plan::hard_links::Linked;
use crate::plan::queue::{CoarseCheck, Rename};
use crate::watch::{Change, Unwatched, kernel_limit};

/// The least wait between two quick sweeps for directories that are not watched. They take no more
/// than a tenth of the time.
const POLL: Duration = Duration::from_secs(5);

/// The least wait after a quick sweep before the watch is replaced. It is no shorter than the sweep
/// was. So a storm of events does not stop the watch from reporting.
const BREATH: Duration = Duration::from_secs(1);

/// The least time that a file rests which a walk has found. Somebody may be writing to it at this
/// moment.
const REST: Duration = Duration::from_millis(5);

/// How long a difference that a full sweep has found waits for the watch to report it.
const GRACE: Duration = Duration::from_secs(1);

/// The state of the watch, and the walks that are due because of it.
#[derive(Default)]
pub(super) struct Watching {
    wanted: bool,
    debounce: Duration,
    /// Whether there is a watch.
    stands: bool,
    /// Whether a quick sweep is due, because changes may have been missed.
    quick_sweep_due: bool,
    /// When a quick sweep is due for directories or names that are not watched.
    poll_due: Option<Instant>,
    /// Why the watch is to be replaced, once the current quick sweep has ended.
    mistrusted: Option<&'static str>,
    /// The watch is not started or replaced before this time.
    not_before: Option<Instant>,
    /// No quick sweep for unknown names of files begins before this time, so that they take no more
    /// than a tenth of the time.
    not_often: Option<Instant>,
    /// Number of directories that the last quick sweep could not register.
    unwatched: u64,
    /// The same number of the quick sweep before, while one runs.
    were_unwatched: u64,
    /// Directories where file systems were mounted in the source, and are no longer.
    unmounted: BTreeSet<RelPath>,
    logged_unwatched: bool,
    logged_failed: bool,
}

impl Watching {
    pub fn new(wanted: bool, debounce: Duration) -> Self {
        Self { wanted, debounce, ..Self::default() }
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Makes a quick sweep due, unless the watch is to be replaced, which leads to one.
    pub fn want_quick_sweep(&mut self) {
        self.quick_sweep_due |= self.mistrusted.is_none();
    }

    /// Returns the number of directories that could not be registered.
    pub fn unwatched(&self) -> u64 {
        self.unwatched.max(self.were_unwatched)
    }

    pub fn stands(&self) -> bool {
        self.stands
    }

    /// Notes that a watch was started. A quick sweep finds earlier changes.
    pub fn starts(&mut self) {
        self.stands = true;
        self.quick_sweep_due = true;
    }

    /// Notes that no watch can be started, and logs it once. Quick sweeps find changes instead.
    pub fn fails(&mut self, error: &std::io::Error, now: Instant) {
        if !std::mem::replace(&mut self.logged_failed, true) {
            let (name, most, at) = kernel_limit("instances");
            tracing::error!(
                op = "watch",
                "cannot watch the source: {error}; a quick sweep every {} and the full sweeps find changes \
                 (perhaps {name} is reached, now {most}. To raise it, as root{at}: sysctl {name}=1024)",
                human_duration(POLL),
            );
        }
        self.not_before = Some(now + POLL);
        self.poll_due.get_or_insert(now);
    }

    /// Returns whether a quick sweep is due, before any other walk.
    pub fn wants_quick_sweep(&self) -> bool {
        self.quick_sweep_due
    }

    /// Returns whether events were lost: a quick sweep is due, now or once a new watch may be
    /// started.
    pub fn wants_walk(&self) -> bool {
        self.quick_sweep_due || self.mistrusted.is_some()
    }

    /// Returns whether a quick sweep for directories or names that are not watched is due.
    pub fn wants_poll(&self, now: Instant) -> bool {
        !self.quick_sweep_due && self.poll_due.is_some_and(|due| due <= now)
    }

    /// Returns when a quick sweep or a new watch is due. `sweeps`, `is_walking`: whether a walk of that
    /// kind runs.
    pub fn next_due(&self, sweeps: bool, is_walking: bool) -> Option<Instant> {
        let replaced = self.mistrusted.and(self.not_before).filter(|_| !sweeps);
        let poll = self.poll_due.filter(|_| !is_walking && !self.quick_sweep_due);
        poll.into_iter().chain(replaced).min()
    }

    fn stop(&mut self) {
        self.stands = false;
        self.mistrusted = None;
        self.quick_sweep_due = false;
        self.poll_due = None;
    }

    /// Notes that a quick sweep could not be started: it is still due.
    pub fn want_quick_sweep_now(&mut self) {
        self.quick_sweep_due = true;
    }

    pub fn note_quick_sweep_begun(&mut self) {
        self.quick_sweep_due = false;
        self.poll_due = None;
        self.were_unwatched = self.unwatched;
        self.unwatched = 0;
    }

    /// Returns how long a file rests that a walk has found.
    pub fn rest(&self) -> Duration {
        (2 * self.debounce).max(REST)
    }

    /// Returns how long the watch has to report a difference that a full sweep has found.
    pub fn grace(&self) -> Duration {
        GRACE + self.debounce
    }
}

impl Core<'_> {
    /// Starts a watch if there is none, and replaces one that is not trusted. Returns whether walks
    /// need not wait for it.
    pub(super) fn ensure_watch(&mut self, now: Instant) -> bool {
        let busy = self.backlog.sweep.as_ref().is_some_and(|sweep| sweep.task == Task::Quick);
        let waits = self.watching.not_before.is_some_and(|time| now < time);
        if !self.watching.wanted || self.is_lost || waits {
            return true;
        }
        if let Some(why) = self.watching.mistrusted.filter(|_| !busy) {
            tracing::warn!(
                op = "watch",
                "{why}: a new watch begins, and a quick sweep checks everything"
            );
            self.stop_watch();
        }
        if !self.watching.stands {
            self.commands.push(Command::StartWatch);
        }
        self.watching.stands
    }

    /// Stops the watch.
    pub(super) fn stop_watch(&mut self) {
        self.watching.stop();
        // Fences that have not come out by now never will.
        self.waits.fences_are_lost();
        self.commands.push(Command::StopWatch);
    }

    /// Queues a check of a path, as if the watch had reported it.
    pub(super) fn look_at(&mut self, path: &RelPath, check: Check, now: Instant) {
        match self.backlog.queue.push_watched(path, check, now) {
            Some(CoarseCheck::Names(dir)) => self.backlog.crowds.push(dir),
            Some(CoarseCheck::Below(dir)) => self.want_walks([dir]),
            None => {}
        }
    }

    /// Handles a report of the watch.
    pub(super) fn handle_change(&mut self, change: Change, now: Instant) {
        self.stats.reported();
        if self.trust != Trust::Trusted && matches!(change, Change::Check { .. }) {
            // Perhaps the source is being restored. If it is complete again, no round has anything
            // to hold.
            self.recount_soon(now);
        }
        match change {
            Change::Check { path, depth, since } => {
                // A directory that could not be read may be readable now, with everything below it.
                let wider =
                    if self.backlog.failures.is_met(&path) { Depth::Subtree } else { depth };
                for other in self.backlog.links.told(&path) {
                    self.look_at(
                        &other,
                        Check::new(depth.min(Depth::Content), Detector::Watch, since),
                        now,
                    );
                }
                if depth < Depth::Subtree {
                    self.backlog.stray_writes.told(&path, now);
                }
                let check = Check { told: true, ..Check::new(wider, Detector::Watch, since) };
                self.look_at(&path, check, now);
            }
            Change::Moved { from, to, is_dir } => {
                self.backlog.queue.push_rename(Rename::new(from, to, is_dir, now));
            }
            Change::Unmounted(path) => {
                self.watching.unmounted.insert(path.clone());
                let check = Check::new(Depth::Subtree, Detector::Watch, now);
                self.look_at(&path, check, now);
            }
            Change::Root => {
                // The watch may report wrong paths from now on.
                self.mistrust_watch("the source's directory was moved or replaced");
                self.commands.push(Command::InspectRoots);
            }
            Change::Fence(number) => self.pass_fence(number, now),
            Change::Everything(why) => self.mistrust_watch(why),
        }
    }

    /// Notes names of files. The watch reports a change only for the name through which it was
    /// made. So checks of the other names are queued here.
    pub(super) fn note_links(&mut self, linked: &[Linked], now: Instant) {
        if !self.watching.wanted {
            return;
        }
        let due = self.backlog.links.note_all(linked);
        for other in due {
            self.look_at(&other, Check::new(Depth::Content, Detector::Watch, now), now);
        }
        for other in self.backlog.links.looked() {
            self.look_at(&other, Check::new(Depth::Metadata, Detector::Watch, now), now);
        }
        if self.backlog.links.has_unknown_names() && self.watching.poll_due.is_none() {
            self.watching.poll_due =
                Some(self.watching.not_often.map_or(now, |time| time.max(now)));
        }
    }

    /// Notes that a walk has met a mounted file system in the source. If it was mounted after its
    /// directory was registered, it is not watched: the watch still refers to the directory
    /// beneath. Then the watch is replaced.
    pub(super) fn note_mount(&mut self, path: &RelPath, is_new: bool) {
        let is_back = self.watching.unmounted.remove(path);
        if (is_new || is_back) && self.runs_full_sweep() && self.watching.stands {
            self.mistrust_watch("a file system was mounted in the source");
        }
    }

    pub(super) fn mistrust_watch(&mut self, why: &'static str) {
        self.watching.mistrusted = Some(why);
    }

    /// Notes a directory that could not be registered, and logs the first one. Quick sweeps find
    /// changes in it.
    pub(super) fn note_unwatched(&mut self, path: &RelPath, why: &Unwatched, now: Instant) {
        self.watching.unwatched += 1;
        self.watching.poll_due.get_or_insert(now + POLL);
        if std::mem::replace(&mut self.watching.logged_unwatched, true) {
            return;
        }
        let rhythm = human_duration(POLL);
        match why {
            Unwatched::Limit => {
                let (name, most, at) = kernel_limit("watches");
                tracing::warn!(
                    op = "watch",
                    "the limit on watches is reached ({name} = {most}): a quick sweep checks what is not watched \
                     every {rhythm}. To raise it, as root{at}: sysctl {name}=1048576"
                );
            }
            Unwatched::Failed(what) => tracing::warn!(
                op = "watch",
                path = %path,
                "this directory cannot be watched ({what}): a quick sweep checks it every {rhythm}"
            ),
        }
    }

    /// Notes that a quick sweep of everything has ended.
    pub(super) fn note_all_walked(&mut self, took: Duration, watched: u64, now: Instant) {
        self.backlog.links.swept();
        if self.watching.stands {
            self.watching.not_before = Some(now + took.max(BREATH));
        }
        self.watching.not_often = Some(now + 10 * took);
        self.watching.were_unwatched = 0;
        let unwatched = self.watching.unwatched;
        tracing::debug!(
            op = "watch",
            watched,
            unwatched,
            "{watched} directories watched, {unwatched} not"
        );
        if unwatched > 0 || !self.watching.stands {
            self.watching.poll_due = Some(now + POLL.max(10 * took));
        } else if std::mem::take(&mut self.watching.logged_unwatched) {
            tracing::info!(op = "watch", "all directories are watched again");
        }
    }
}
