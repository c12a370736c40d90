//! The watch while the program runs: started, believed, and replaced where it may have lost
//! something.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Command, Core};
use crate::model::check::{Check, Depth, Detector};
use crate::model::human::human_duration;
use crate::model::path::RelPath;
use crate::model::task::Task;
use crate::plan::hard_links::Linked;
use crate::plan::queue::{Instead, Rename};
use crate::watch::{Change, Unwatched, kernel_limit};

/// How often what is not watched is scanned, at most; and no more than a tenth of the time.
const POLL: Duration = Duration::from_secs(5);

/// After a scan of all the watch is not replaced for so long, and no less than the scan took: under
/// a storm it goes on telling what it hears.
const BREATH: Duration = Duration::from_secs(1);

/// A file that an event scan has found may be written to this very moment. It rests for at least
/// so long, or until the watch tells of it.
const REST: Duration = Duration::from_millis(5);

/// How long a difference that a sweep has found may wait for the watch to tell of it.
const GRACE: Duration = Duration::from_secs(1);

/// What is known of the watch, and what is due because of it.
#[derive(Default)]
pub(super) struct Watching {
    wanted: bool,
    debounce: Duration,
    /// Whether there is one.
    stands: bool,
    /// Whether all is to be scanned, since something may have been missed.
    rescan: bool,
    /// When all is to be scanned again for the sake of a few.
    poll_due: Option<Instant>,
    /// Why the present watch is to be replaced, after the scan that runs.
    mistrusted: Option<&'static str>,
    /// Not before this is it replaced again.
    not_before: Option<Instant>,
    /// Not before this is all scanned again for the sake of a few: no more than a tenth of the
    /// time.
    not_often: Option<Instant>,
    /// Directories that the last quick scan could not register.
    unwatched: u64,
    /// The same of the quick scan before, while one runs.
    were_unwatched: u64,
    /// Where file systems were mounted in the source, and are no longer.
    unmounted: BTreeSet<RelPath>,
    said_unwatched: bool,
    said_failed: bool,
}

impl Watching {
    pub fn new(wanted: bool, debounce: Duration) -> Self {
        Self { wanted, debounce, ..Self::default() }
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Has all scanned once more, unless that is to be done anyway.
    pub fn want_rescan(&mut self) {
        self.rescan |= self.mistrusted.is_none();
    }

    /// Directories that could not be registered.
    pub fn unwatched(&self) -> u64 {
        self.unwatched.max(self.were_unwatched)
    }

    pub fn stands(&self) -> bool {
        self.stands
    }

    /// There is one now. What happened before is scanned for.
    pub fn starts(&mut self) {
        self.stands = true;
        self.rescan = true;
    }

    /// There can be none: the source is scanned now and then.
    pub fn fails(&mut self, error: &std::io::Error, now: Instant) {
        if !std::mem::replace(&mut self.said_failed, true) {
            let (name, most, at) = kernel_limit("instances");
            tracing::error!(
                op = "watch",
                "cannot watch the source: {error}; changes are found by a scan every {} and by the \
                 sweeps (perhaps {name} is reached, now {most}. To raise it, as root{at}: sysctl {name}=1024)",
                human_duration(POLL),
            );
        }
        self.not_before = Some(now + POLL);
        self.poll_due.get_or_insert(now);
    }

    /// Whether all is to be scanned before anything else is.
    pub fn wants_rescan(&self) -> bool {
        self.rescan
    }

    /// Whether all is to be scanned, now or once it is time for a new watch: events were lost.
    pub fn wants_scan(&self) -> bool {
        self.rescan || self.mistrusted.is_some()
    }

    /// Whether all is to be scanned beside whatever else goes on.
    pub fn wants_poll(&self, now: Instant) -> bool {
        !self.rescan && self.poll_due.is_some_and(|due| due <= now)
    }

    /// When something is due by itself, while a sweep runs and while a scan does.
    pub fn next_due(&self, sweeps: bool, scans: bool) -> Option<Instant> {
        let replaced = self.mistrusted.and(self.not_before).filter(|_| !sweeps);
        let poll = self.poll_due.filter(|_| !scans && !self.rescan);
        poll.into_iter().chain(replaced).min()
    }

    fn stop(&mut self) {
        self.stands = false;
        self.mistrusted = None;
        self.rescan = false;
        self.poll_due = None;
    }

    /// A scan of all was not to be had.
    pub fn scan_is_due(&mut self) {
        self.rescan = true;
    }

    pub fn scan_begins(&mut self) {
        self.rescan = false;
        self.poll_due = None;
        self.were_unwatched = self.unwatched;
        self.unwatched = 0;
    }

    /// How long what an event scan has found is left to rest.
    pub fn rest(&self) -> Duration {
        (2 * self.debounce).max(REST)
    }

    /// How long the watch is given to tell what a sweep has found.
    pub fn grace(&self) -> Duration {
        GRACE + self.debounce
    }
}

impl Core<'_> {
    /// Has the watch started where there is none, and replaced where it is not believed. Whether
    /// nothing is to be waited for because of it.
    pub(super) fn ensure_watch(&mut self, now: Instant) -> bool {
        let busy = self.backlog.sweep.as_ref().is_some_and(|sweep| sweep.task == Task::Quick);
        let waits = self.watching.not_before.is_some_and(|time| now < time);
        if !self.watching.wanted || self.is_lost || waits {
            return true;
        }
        if let Some(why) = self.watching.mistrusted.filter(|_| !busy) {
            tracing::warn!(op = "watch", "{why}: all is watched and scanned anew");
            self.stop_watch();
        }
        if !self.watching.stands {
            self.commands.push(Command::StartWatch);
        }
        self.watching.stands
    }

    /// The watch is of no use any more.
    pub(super) fn stop_watch(&mut self) {
        self.watching.stop();
        // What had not come out by now never does.
        self.waits.fences_are_lost();
        self.commands.push(Command::StopWatch);
    }

    /// Has a path looked at, as if the watch had told of it.
    pub(super) fn look_at(&mut self, path: &RelPath, check: Check, now: Instant) {
        match self.backlog.queue.push_watched(path, check, now) {
            Some(Instead::Names(dir)) => self.backlog.crowds.push(dir),
            Some(Instead::Below(dir)) => self.want_scans([dir]),
            None => {}
        }
    }

    /// Takes in a change.
    pub(super) fn handle_change(&mut self, change: Change, now: Instant) {
        self.stats.told();
        match change {
            Change::Check { path, depth, since } => {
                // What could not be read may be readable now, with all that lies below it.
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
                // The paths that the watch goes by may be wrong from now on.
                self.mistrust_watch("the source's directory was moved or replaced");
                self.commands.push(Command::InspectRoots);
            }
            Change::Fence(number) => self.pass_fence(number, now),
            Change::Everything(why) => self.mistrust_watch(why),
        }
    }

    /// Notes names that are one file. A change is told by the watch for the name through which it
    /// was made; the others are looked at here.
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

    /// A sweep has met a file system that is mounted in the source. One that was not there when its
    /// directory was registered is not watched: the watch goes by the directory beneath it.
    pub(super) fn note_mount(&mut self, path: &RelPath, is_new: bool) {
        let is_back = self.watching.unmounted.remove(path);
        if (is_new || is_back) && self.is_swept_by_clock() && self.watching.stands {
            self.mistrust_watch("a file system was mounted in the source");
        }
    }

    pub(super) fn mistrust_watch(&mut self, why: &'static str) {
        self.watching.mistrusted = Some(why);
    }

    /// A directory could not be registered: what lies in it is scanned now and then.
    pub(super) fn note_unwatched(&mut self, path: &RelPath, why: &Unwatched, now: Instant) {
        self.watching.unwatched += 1;
        self.watching.poll_due.get_or_insert(now + POLL);
        if std::mem::replace(&mut self.watching.said_unwatched, true) {
            return;
        }
        let rhythm = human_duration(POLL);
        match why {
            Unwatched::Limit => {
                let (name, most, at) = kernel_limit("watches");
                tracing::warn!(
                    op = "watch",
                    "the limit on watches is reached ({name} = {most}): what is not watched is scanned every {rhythm}. To \
                     raise it, as root{at}: sysctl {name}=1048576"
                );
            }
            Unwatched::Failed(what) => tracing::warn!(
                op = "watch",
                path = %path,
                "this directory cannot be watched ({what}): it is scanned every {rhythm}"
            ),
        }
    }

    /// A quick scan of all has ended.
    pub(super) fn all_scanned(&mut self, took: Duration, watched: u64, now: Instant) {
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
        } else if std::mem::take(&mut self.watching.said_unwatched) {
            tracing::info!(op = "watch", "all directories are watched again");
        }
    }
}
