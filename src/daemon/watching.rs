//! The watch while the program runs: started, believed, and replaced where it may have lost
//! something.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Daemon;
use crate::fs::tree::DirId;
use crate::model::check::{Check, Depth, Detector};
use crate::model::human::human_duration;
use crate::model::path::RelPath;
use crate::model::task::Task;
use crate::plan::hard_links::Linked;
use crate::plan::queue::{Instead, Rename};
use crate::watch::{Change, Registry, Unwatched, Watch};

/// How often what is not watched is scanned, at most; and no more than a tenth of the time.
const POLL: Duration = Duration::from_secs(5);

/// After a scan of all the watch is not replaced for so long, and no less than the scan took: under
/// a storm it goes on telling what it hears.
const BREATH: Duration = Duration::from_secs(1);

/// How long changes are taken in before the next round, and how many between two looks at the
/// clock: about as long as a round of renames takes, so that they do not pile up.
const INTAKE: Duration = Duration::from_millis(10);
const AT_ONCE: usize = 256;

/// A file that an event scan has found may be written to this very moment. It rests for at least
/// so long, or until the watch tells of it.
const REST: Duration = Duration::from_millis(5);

/// How long a difference that a sweep has found may wait for the watch to tell of it.
const GRACE: Duration = Duration::from_secs(1);

/// The watch, and what is due because of it.
#[derive(Default)]
pub(super) struct Watching {
    wanted: bool,
    debounce: Duration,
    watch: Option<Watch>,
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

    pub fn watch(&self) -> Option<&Watch> {
        self.watch.as_ref()
    }

    pub fn registry(&self) -> Option<Arc<Registry>> {
        self.watch.as_ref().map(Watch::registry)
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

    /// A root was lost: the watch is of no use any more.
    pub fn stop(&mut self) {
        self.watch = None;
        self.mistrusted = None;
        self.rescan = false;
        self.poll_due = None;
    }

    pub fn scan_begins(&mut self) {
        self.rescan = false;
        self.poll_due = None;
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

impl Daemon<'_> {
    /// Starts the watch where there is none, and replaces it where it is not believed.
    pub(super) fn ensure_watch(&mut self, now: Instant) {
        let busy = self.backlog.sweep.as_ref().is_some_and(|sweep| sweep.plan.task == Task::Quick);
        let waits = self.watching.not_before.is_some_and(|time| now < time);
        if !self.watching.wanted || self.roots.is_lost() || waits {
            return;
        }
        if let Some(why) = self.watching.mistrusted.filter(|_| !busy) {
            tracing::warn!(op = "watch", "{why}: all is watched and scanned anew");
            self.watching.stop();
        }
        if self.watching.watch.is_some() {
            return;
        }
        match Watch::start(&self.reconciler.roots.source.path, self.watching.debounce) {
            Ok(watch) => {
                self.watching.watch = Some(watch);
                self.watching.rescan = true;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.watching.said_failed, true) {
                    let (name, most, at) = limit("instances");
                    tracing::error!(
                        op = "watch",
                        "cannot watch the source: {error}; changes are found by a scan every {} and by the \
                         sweeps (perhaps {name} is reached, now {most}. To raise it, as root{at}: sysctl {name}=1024)",
                        human_duration(POLL),
                    );
                }
                self.watching.not_before = Some(now + POLL);
                self.watching.poll_due = Some(now);
            }
        }
    }

    /// Takes in a change, and those that wait behind it.
    pub(super) fn handle_changes(&mut self, first: Change) {
        self.handle_change(first);
        let Some(changes) = self.watching.watch().map(|watch| watch.changes().clone()) else {
            return;
        };
        let begun = Instant::now();
        while begun.elapsed() < INTAKE {
            for change in changes.try_iter().take(AT_ONCE) {
                self.handle_change(change);
            }
            if changes.is_empty() {
                return;
            }
        }
    }

    pub(super) fn look_at(&mut self, path: &RelPath, check: Check) {
        match self.backlog.queue.push_watched(path, check, Instant::now()) {
            Some(Instead::Names(dir)) => self.backlog.crowds.push(dir),
            Some(Instead::Below(dir)) => self.want_scans([dir]),
            None => {}
        }
    }

    fn handle_change(&mut self, change: Change) {
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
                    );
                }
                if depth < Depth::Subtree {
                    self.backlog.strays.told(&path, Instant::now());
                }
                let check = Check { told: true, ..Check::new(wider, Detector::Watch, since) };
                self.look_at(&path, check);
            }
            Change::Moved { from, to, is_dir } => {
                self.backlog.queue.push_rename(Rename::new(from, to, is_dir, Instant::now()));
            }
            Change::Unmounted(path) => {
                self.watching.unmounted.insert(path.clone());
                let check = Check::new(Depth::Subtree, Detector::Watch, Instant::now());
                self.look_at(&path, check);
            }
            Change::Root => {
                // The paths that the watch goes by may be wrong from now on.
                self.mistrust_watch("the source's directory was moved or replaced");
                self.inspect_roots(Instant::now());
            }
            Change::Everything(why) => self.mistrust_watch(why),
        }
    }

    /// Notes names that are one file. A change is told by the watch for the name through which it
    /// was made; the others are looked at here.
    pub(super) fn note_links(&mut self, linked: &[Linked]) {
        if !self.watching.wanted {
            return;
        }
        let now = Instant::now();
        let due = self.backlog.links.note_all(linked);
        for other in due {
            self.look_at(&other, Check::new(Depth::Content, Detector::Watch, now));
        }
        for other in self.backlog.links.looked() {
            self.look_at(&other, Check::new(Depth::Metadata, Detector::Watch, now));
        }
        if self.backlog.links.has_unknown_names() && self.watching.poll_due.is_none() {
            self.watching.poll_due =
                Some(self.watching.not_often.map_or(now, |time| time.max(now)));
        }
    }

    /// A sweep has met a file system that is mounted in the source. One that was not there when its
    /// directory was registered is not watched: the watch goes by the directory beneath it.
    pub(super) fn note_mount(&mut self, path: RelPath, pin: DirId) {
        let is_back = self.watching.unmounted.remove(&path);
        let is_new = self.reconciler.remember_submount(path, pin);
        let by_clock =
            self.backlog.sweep.as_ref().is_some_and(|sweep| sweep.plan.task == Task::Full);
        if (is_new || is_back) && by_clock && self.watching.watch.is_some() {
            self.mistrust_watch("a file system was mounted in the source");
        }
    }

    pub(super) fn mistrust_watch(&mut self, why: &'static str) {
        self.watching.mistrusted = Some(why);
    }

    /// A directory could not be registered: what lies in it is scanned now and then.
    pub(super) fn note_unwatched(&mut self, path: &RelPath, why: &Unwatched) {
        self.watching.unwatched += 1;
        self.watching.poll_due.get_or_insert_with(|| Instant::now() + POLL);
        if std::mem::replace(&mut self.watching.said_unwatched, true) {
            return;
        }
        let rhythm = human_duration(POLL);
        match why {
            Unwatched::Limit => {
                let (name, most, at) = limit("watches");
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
    pub(super) fn all_scanned(&mut self, took: Duration, watched: u64) {
        let now = Instant::now();
        self.backlog.links.swept();
        self.watching.not_before = Some(now + took.max(BREATH));
        self.watching.not_often = Some(now + 10 * took);
        let unwatched = self.watching.unwatched;
        tracing::debug!(
            op = "watch",
            watched,
            unwatched,
            "{watched} directories watched, {unwatched} not"
        );
        if unwatched > 0 || self.watching.watch.is_none() {
            self.watching.poll_due = Some(now + POLL.max(10 * took));
        } else if std::mem::take(&mut self.watching.said_unwatched) {
            tracing::info!(op = "watch", "all directories are watched again");
        }
    }
}

/// The limit that the kernel sets on a user's `watches` or `instances`: its name for sysctl, its
/// value now, and where it is set, as one says it. In a user namespace (a container) that is the
/// smaller one of the namespace's and the machine's. See inotify(7), namespaces(7).
fn limit(what: &str) -> (String, String, &'static str) {
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
