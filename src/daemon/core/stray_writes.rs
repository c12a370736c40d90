//! Stray writes: the watch reports a write for a name that no longer leads to the written file. If
//! the file's other names are not known, they are searched: in the directory, and among the names
//! that were noted last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::{Backlog, Core};
use crate::model::check::{Check, Depth, Detector};
use crate::model::path::RelPath;
use crate::plan::hard_links::Linked;
use crate::report::{Done, Operation};
use crate::sweep::Summary;

/// The wait after a walk of a directory that found nothing, doubled each time, and the longest one.
/// Somebody may write for hours to a file that has no name any more.
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(10);

/// The divisor of the time that these walks may take.
const PART: u32 = 10;

/// The most names that are checked wherever they are: those noted last.
const LATELY: usize = 1_000;

/// How long after a name was replaced a report for it may concern the former file.
const DOUBT: Duration = Duration::from_secs(1);

/// The most names whose files are searched at a time.
const SOUGHT: usize = 4;

/// The most directories that are remembered, and the most names.
const MOST: usize = 1_000;

/// When to walk a directory, and the wait after that if nothing is found.
struct StrayWait {
    due: Option<Instant>,
    not_before: Instant,
    next: Duration,
}

/// The directories in which written files are searched. Pure: times are arguments.
#[derive(Default)]
pub(super) struct StrayWrites {
    waits: BTreeMap<RelPath, StrayWait>,
    /// Names that lead to another file by now, and since when.
    doubted: HashMap<RelPath, Instant>,
    /// The names for which a write was reported, and whose files are searched now.
    sought: Vec<RelPath>,
    /// When that search began.
    sought_since: Option<Instant>,
    /// No walk starts before this time.
    not_before: Option<Instant>,
}

impl StrayWrites {
    /// Notes that a name leads to another file now, and that its former file is not known.
    pub fn doubt(&mut self, path: RelPath, now: Instant) {
        if self.doubted.len() == MOST {
            self.doubted.clear();
        }
        self.doubted.insert(path, now);
    }

    /// Notes a report for a name, other than that it was created or deleted. Soon after the name
    /// was replaced, the report may concern the former file, even if the ctime does not show that.
    pub fn told(&mut self, path: &RelPath, now: Instant) {
        let since = self.doubted.get(path);
        if since.is_some_and(|since| now.duration_since(*since) < DOUBT) {
            self.note(path, now);
        }
    }

    /// Notes that a report for a name concerns another name, perhaps in the same directory.
    pub fn note(&mut self, path: &RelPath, now: Instant) {
        let Some((dir, _)) = path.split() else { return };
        if self.waits.len() == MOST && !self.waits.contains_key(&dir) {
            self.waits.retain(|_, wait| wait.due.is_some());
            if self.waits.len() == MOST {
                return;
            }
        }
        let wait =
            self.waits.entry(dir).or_insert(StrayWait { due: None, not_before: now, next: FIRST });
        wait.due.get_or_insert(wait.not_before.max(now));
        if self.sought.len() < SOUGHT {
            self.sought.push(path.clone());
        }
    }

    /// Returns the names that an updated file may have had before. Empty if no search is under way.
    pub fn former_name_candidates(&mut self, now: Instant) -> &[RelPath] {
        if self.sought_since.is_some_and(|since| now.duration_since(since) >= DOUBT) {
            self.sought_since = None;
            self.sought.clear();
        }
        if self.sought_since.is_some() { &self.sought } else { &[] }
    }

    /// Notes that a searched file was found, wherever that is. The next walks are due at once, with
    /// short waits.
    pub fn found(&mut self, now: Instant) {
        for (dir, _) in self.sought.iter().filter_map(RelPath::split) {
            if let Some(wait) = self.waits.get_mut(&dir) {
                (wait.next, wait.not_before) = (FIRST, now);
                wait.due = wait.due.map(|due| due.min(now));
            }
        }
    }

    pub fn next_due(&self) -> Option<Instant> {
        let due = self.waits.values().filter_map(|wait| wait.due).min()?;
        Some(self.not_before.map_or(due, |time| time.max(due)))
    }

    /// Removes and returns up to `most` directories that are due.
    pub fn take(&mut self, now: Instant, most: usize) -> Vec<RelPath> {
        if self.next_due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.sought_since = Some(now);
        let due = self.waits.iter_mut().filter(|(_, wait)| wait.due.is_some_and(|due| due <= now));
        due.take(most)
            .map(|(path, wait)| {
                wait.due = None;
                path.clone()
            })
            .collect()
    }

    /// Notes that a directory was walked. `found`: whether a difference was found.
    pub fn note_walked(&mut self, dir: &RelPath, found: bool, now: Instant) {
        let Some(wait) = self.waits.get_mut(dir) else { return };
        if found {
            wait.next = FIRST;
            return;
        }
        wait.not_before = now + wait.next;
        wait.due = wait.due.map(|due| due.max(wait.not_before));
        wait.next = LAST.min(2 * wait.next);
    }

    /// Notes how long a walk of some directories took. The next one waits [`PART`] times as long.
    pub fn note_duration(&mut self, took: Duration, now: Instant) {
        self.not_before = Some(now + PART * took);
    }
}

impl Core<'_> {
    /// Notes reports of writes that concern files under other names. If these names are known, the
    /// report itself makes them due: nothing is searched.
    ///
    /// `stray_writes`, `replaced`: from the outcome of a round, which has seen that `names` exist.
    pub(super) fn note_stray_writes(
        &mut self,
        stray_writes: &[RelPath],
        replaced: Vec<RelPath>,
        names: &[Linked],
        now: Instant,
    ) {
        let Backlog { links, stray_writes: waiting, .. } = &mut self.backlog;
        let stands: HashSet<&RelPath> = match stray_writes {
            [] => HashSet::new(),
            _ => names.iter().map(|linked| &linked.path).collect(),
        };
        let is_known =
            |path: &&RelPath| links.told(path).iter().any(|other| stands.contains(other));
        for path in stray_writes.iter().filter(|path| !is_known(path)) {
            waiting.note(path, now);
        }
        for path in replaced.into_iter().filter(|path| !links.knows_former(path)) {
            waiting.note(&path, now);
            waiting.doubt(path, now);
        }
    }

    /// Notes that updated files may be those that are searched. From now on, a report for the old
    /// name makes them due at once.
    pub(super) fn note_updated(&mut self, done: &[Done], now: Instant) {
        let Backlog { links, stray_writes, .. } = &mut self.backlog;
        let mut is_found = false;
        for former in stray_writes.former_name_candidates(now) {
            for done in done.iter().filter(|done| done.operation == Operation::Updated) {
                links.note_former_name(former, &done.path);
                is_found = true;
            }
        }
        if is_found {
            stray_writes.found(now);
        }
    }

    pub(super) fn check_latest_names(&mut self, now: Instant) {
        let lately: Vec<RelPath> = self.backlog.links.lately(LATELY).cloned().collect();
        for path in lately {
            self.look_at(&path, Check::new(Depth::Metadata, Detector::Watch, now), now);
        }
    }

    pub(super) fn end_names_walk(&mut self, dirs: &[RelPath], summary: &Summary, now: Instant) {
        self.backlog.crowds.note_duration(summary.took, now);
        self.backlog.stray_writes.note_duration(summary.took, now);
        for dir in dirs {
            self.backlog.stray_writes.note_walked(dir, summary.differ > 0, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::testing::path;

    #[test]
    fn a_directory_is_looked_into_at_once_and_seldom_where_nothing_is_found() {
        let (mut stray_writes, begun) = (StrayWrites::default(), Instant::now());
        let mut now = begun;
        for round in 0..20 {
            stray_writes.note(&path("d/f"), now);
            now = stray_writes.next_due().unwrap();
            assert_eq!(stray_writes.take(now, 10), [path("d")]);
            assert_eq!(stray_writes.next_due(), None);
            stray_writes.note_walked(&path("d"), false, now);
            stray_writes.note(&path("d/f"), now);
            let wait = stray_writes.next_due().unwrap() - now;
            assert_eq!(wait, LAST.min(FIRST * 2_u32.pow(round)));
        }
        stray_writes.note(&path("other/f"), now);
        assert_eq!(stray_writes.take(now, 10), [path("other")], "others do not wait for that");
        stray_writes.note_walked(&path("d"), true, now);
        stray_writes.note_walked(&path("d"), false, now);
        now = stray_writes.next_due().unwrap();
        stray_writes.take(now, 10);
        stray_writes.note_walked(&path("d"), false, now);
        stray_writes.note(&path("d/f"), now);
        assert!(
            stray_writes.next_due().unwrap() - now <= 2 * FIRST,
            "what was found ends the long waits"
        );
        stray_writes.found(now);
        assert_eq!(stray_writes.next_due(), Some(now), "also what was found elsewhere");
        assert_eq!(stray_writes.take(now, 10), [path("d")]);
        stray_writes.note_walked(&path("d"), false, now);
        stray_writes.note(&path("d/f"), now);
        assert_eq!(stray_writes.next_due(), Some(now + FIRST));
    }

    #[test]
    fn what_is_told_soon_after_a_name_was_replaced_is_looked_for() {
        let (mut stray_writes, now) = (StrayWrites::default(), Instant::now());
        stray_writes.doubt(path("d/f"), now);
        stray_writes.told(&path("d/g"), now);
        stray_writes.told(&path("d/f"), now + DOUBT);
        assert_eq!(stray_writes.next_due(), None);
        stray_writes.told(&path("d/f"), now + DOUBT / 2);
        assert_eq!(stray_writes.take(now + DOUBT, 1), [path("d")]);
    }

    #[test]
    fn looking_takes_no_more_than_its_part_of_the_time() {
        let (mut stray_writes, now) = (StrayWrites::default(), Instant::now());
        stray_writes.note_duration(Duration::from_secs(1), now);
        for number in 0..2 * MOST {
            stray_writes.note(&path(&format!("d{number}/f")), now);
        }
        let due = now + Duration::from_secs(10);
        assert_eq!(stray_writes.next_due(), Some(due));
        assert!(stray_writes.take(now, 10).is_empty());
        assert_eq!(
            (stray_writes.take(due, 10).len(), stray_writes.take(due, 2 * MOST).len()),
            (10, MOST - 10)
        );
    }
}
