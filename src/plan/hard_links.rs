//! Names of the source that are one file (hard links). The watch reports a change only for the name
//! through which it was made. The other names have to be checked too. Pure: no file system, no
//! clock.
//!
//! A write through a descriptor is reported under the name by which the file was opened. That name
//! may be deleted by now, or belong to another file. So the former names of files are remembered.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::model::entry::{Entry, Time};
use crate::model::path::{RelPath, within};

/// The most names that are remembered. The others are left to the sweeps.
const MOST: usize = 100_000;

/// The most names of files with a single name that are remembered: those noted last.
const LATELY: usize = 20_000;

/// The most names that are remembered as former names of files, and the most files for each.
const FORMER: usize = 10_000;
const FILES: usize = 8;

/// Device and inode number.
type Id = (u64, u64);

/// A name of a file that has several, or may have had another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Linked {
    pub path: RelPath,
    id: Id,
    ctime: Time,
    /// How many names the file has, in the source and elsewhere.
    links: u32,
    /// Whether the replica was changed for it, so that its other names have to be checked too.
    pub acted: bool,
}

impl Linked {
    /// Makes one for a file or symlink with several names. `None` for any other entry.
    pub fn of(path: &RelPath, entry: &Entry, acted: bool) -> Option<Self> {
        entry.has_links().then(|| Self::any(path, entry, acted))
    }

    /// Makes one for a file with any number of names.
    pub fn any(path: &RelPath, entry: &Entry, acted: bool) -> Self {
        let (id, ctime, links) = (entry.inode.id(), entry.inode.ctime, entry.inode.links);
        Self { path: path.clone(), id, ctime, links, acted }
    }
}

#[derive(Default)]
struct FileNames {
    paths: Vec<RelPath>,
    /// The ctime of the file when its other names were last due.
    told: Option<Time>,
    /// Number of names when the file was last seen, and when its unknown names were last searched.
    links: u32,
    searched: u32,
}

impl FileNames {
    /// Returns whether some names are neither known nor searched. Marks them as searched.
    fn has_unknown_names(&mut self) -> bool {
        let lacking = self.paths.len() < self.links as usize && self.searched != self.links;
        if lacking {
            self.searched = self.links;
        }
        lacking
    }
}

/// The last observation of a name: its file, the number of the sweep, and the number of its note.
#[derive(Clone, Copy)]
struct SeenFile {
    id: Id,
    sweep: u64,
    noted: u64,
}

/// The known names of files with several names, and the names of other files noted last.
#[derive(Default)]
pub struct Links {
    by_id: HashMap<Id, FileNames>,
    /// Names of files that had a single name when they were noted, in that order, with the numbers
    /// of their notes.
    lately: VecDeque<(RelPath, u64)>,
    noted: u64,
    /// The files to which a name led before, the latest last.
    former: BTreeMap<RelPath, Vec<Id>>,
    /// Devices of files that were noted.
    devices: BTreeSet<u64>,
    by_path: BTreeMap<RelPath, SeenFile>,
    sweep: u64,
    /// Whether unknown names have to be searched.
    lacking: bool,
    /// Names that are being checked, and the files to which they led.
    watched: Vec<(RelPath, Id)>,
}

impl Links {
    pub fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// Notes all these names. Then returns the other names that are due because the replica was
    /// changed for one.
    pub fn note_all(&mut self, linked: &[Linked]) -> Vec<RelPath> {
        for linked in linked {
            self.see(linked);
        }
        linked.iter().filter(|linked| linked.acted).flat_map(|linked| self.due(linked)).collect()
    }

    fn see(&mut self, linked: &Linked) {
        let Linked { path, id, links, .. } = linked;
        let (id, links) = (*id, *links);
        if let Some(before) =
            self.by_path.get(path).map(|seen| seen.id).filter(|known| *known != id)
        {
            self.forget(path);
            self.remember(path, before);
        }
        let room = self.by_path.contains_key(path) || self.by_path.len() < MOST;
        let seen = SeenFile { id, sweep: self.sweep, noted: self.noted + 1 };
        if room && self.by_path.insert(path.clone(), seen).is_none() {
            self.by_id.entry(id).or_default().paths.push(path.clone());
            self.devices.insert(id.0);
        }
        if room && links == 1 {
            self.note_lately(path.clone());
        }
        if let Some(names) = self.by_id.get_mut(&id) {
            names.links = links;
        }
    }

    /// Returns the other names of a file for which the replica was changed, once for each ctime of
    /// the file.
    fn due(&mut self, Linked { path, id, ctime, .. }: &Linked) -> Vec<RelPath> {
        let Some(names) = self.by_id.get_mut(id) else { return Vec::new() };
        self.lacking |= names.has_unknown_names();
        if names.told == Some(*ctime) {
            return Vec::new();
        }
        names.told = Some(*ctime);
        names.paths.iter().filter(|other| *other != path).cloned().collect()
    }

    /// Forgets these names, which are about to be checked. The round's names are noted again by
    /// [`Links::note_all`]. After that, [`Links::looked`] must be called.
    pub fn look_at<'a>(&mut self, paths: impl Iterator<Item = &'a RelPath>) {
        for path in paths {
            if let Some(id) = self.forget(path) {
                self.watched.push((path.clone(), id));
            }
        }
    }

    /// Updates the names at `from` and below, which were renamed to `to`.
    pub fn renamed(&mut self, from: &RelPath, to: &RelPath) {
        let moves = |path: &RelPath| Some((path.clone(), path.rebased(from, to)?));
        let names: Vec<_> =
            within(&self.by_path, from).filter_map(|(path, _)| moves(path)).collect();
        for (old, new) in names {
            self.forget(&new);
            let Some(seen) = self.by_path.remove(&old) else { continue };
            let Some(names) = self.by_id.get_mut(&seen.id) else { continue };
            names.paths.retain(|path| *path != old);
            names.paths.push(new.clone());
            let is_single = names.links == 1;
            self.by_path.insert(new.clone(), SeenFile { noted: self.noted + 1, ..seen });
            if is_single {
                self.note_lately(new);
            }
        }
        // The former files of `from` itself stay: writes to such a file are still reported under
        // that name.
        let below = within(&self.former, from).filter(|(path, _)| *path != from);
        let former: Vec<_> = below.filter_map(|(path, _)| moves(path)).collect();
        for (old, new) in former {
            if let Some(files) = self.former.remove(&old) {
                self.former.insert(new, files);
            }
        }
    }

    /// Forgets the names in a deleted directory, as [`Links::look_at`] does.
    pub fn gone(&mut self, dir: &RelPath) {
        let within: Vec<_> = within(&self.by_path, dir).map(|(path, _)| path.clone()).collect();
        self.look_at(within.iter());
    }

    /// Ends the checks that [`Links::look_at`] began. If a name was deleted or leads to another
    /// file, returns the remaining names of its file: it may have been changed through the lost
    /// name before.
    pub fn looked(&mut self) -> Vec<RelPath> {
        let mut due = Vec::new();
        for (path, id) in std::mem::take(&mut self.watched) {
            if self.by_path.get(&path).is_some_and(|now| now.id == id) {
                continue;
            }
            if let Some(names) = self.by_id.get_mut(&id) {
                self.lacking |= names.has_unknown_names();
                due.extend(names.paths.iter().cloned());
            }
            self.remember(&path, id);
        }
        due
    }

    /// Returns the other names of the files to which `path` led before: what was reported for
    /// `path` may have happened to them. A name `#` with an inode number stands for the file of
    /// that number.
    pub fn told(&self, path: &RelPath) -> Vec<RelPath> {
        let former = self.former.get(path).into_iter().flatten().copied();
        let unnamed = path.split().and_then(|(_, name)| number_of_unnamed(name.as_bytes()));
        let unnamed = unnamed
            .into_iter()
            .flat_map(|ino| self.devices.iter().map(move |device| (*device, ino)));
        let names = former.chain(unnamed).filter_map(|id| self.by_id.get(&id));
        names.flat_map(|names| &names.paths).filter(|other| *other != path).cloned().collect()
    }

    /// Notes that what is reported for `path` seems to concern the file that is now named `other`.
    pub fn note_former_name(&mut self, path: &RelPath, other: &RelPath) {
        if let Some(id) = self.by_path.get(other).map(|seen| seen.id).filter(|_| path != other) {
            self.remember(path, id);
        }
    }

    /// Returns whether files are known to which `path` led before.
    pub fn knows_former(&self, path: &RelPath) -> bool {
        self.former.contains_key(path)
    }

    /// Returns up to `number` names of files with a single name, the last noted first.
    pub fn lately(&self, number: usize) -> impl Iterator<Item = &RelPath> {
        self.lately
            .iter()
            .rev()
            .filter(|noted| self.is_last_of(noted))
            .take(number)
            .map(|(path, _)| path)
    }

    fn is_last_of(&self, (path, number): &(RelPath, u64)) -> bool {
        self.by_path.get(path).is_some_and(|seen| seen.noted == *number)
    }

    fn note_lately(&mut self, path: RelPath) {
        self.noted += 1;
        self.lately.push_back((path, self.noted));
        if self.lately.len() > LATELY
            && let Some(first) = self.lately.pop_front()
            && self.is_last_of(&first)
        {
            self.forget(&first.0);
        }
    }

    /// Notes that `path` no longer leads to the file `id`.
    fn remember(&mut self, path: &RelPath, id: Id) {
        if self.former.len() == FORMER && !self.former.contains_key(path) {
            let by_id = &self.by_id;
            self.former.retain(|_, files| files.iter().any(|id| by_id.contains_key(id)));
            if self.former.len() > FORMER / 2 {
                self.former.clear();
            }
        }
        let files = self.former.entry(path.clone()).or_default();
        files.retain(|known| *known != id);
        if files.len() == FILES {
            files.remove(0);
        }
        files.push(id);
    }

    /// Returns whether a changed file has names that are not known. It may have had a single name
    /// when it was last seen. A quick sweep of everything is due, which finds them.
    pub fn has_unknown_names(&self) -> bool {
        self.lacking
    }

    /// Notes that a sweep of everything begins.
    pub fn sweep_begins(&mut self) {
        self.lacking = false;
        self.sweep += 1;
    }

    /// Notes that this sweep has ended. Forgets the names that it has not seen, since they do not
    /// exist any more. Names of files with a single name stay: sweeps do not report these.
    pub fn swept(&mut self) {
        let has_several = |id: &Id| self.by_id.get(id).is_some_and(|names| names.links > 1);
        let gone = self
            .by_path
            .iter()
            .filter(|(_, seen)| seen.sweep < self.sweep && has_several(&seen.id));
        for path in gone.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            self.forget(&path);
        }
    }

    fn forget(&mut self, path: &RelPath) -> Option<Id> {
        let SeenFile { id, .. } = self.by_path.remove(path)?;
        if let Some(names) = self.by_id.get_mut(&id) {
            names.paths.retain(|other| other != path);
            if names.paths.is_empty() {
                self.by_id.remove(&id);
            }
        }
        Some(id)
    }
}

/// Parses the inode number from the name under which the kernel reports a file that was opened
/// without a name (`O_TMPFILE`), such as `#123`.
fn number_of_unnamed(name: &[u8]) -> Option<u64> {
    std::str::from_utf8(name.strip_prefix(b"#")?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linked(path: &str, ino: u64, ctime: i64, acted: bool) -> Linked {
        let path = RelPath::new(path.as_bytes()).unwrap();
        Linked { path, id: (1, ino), ctime: Time { sec: ctime, nsec: 0 }, links: 3, acted }
    }

    fn see(links: &mut Links, path: &str, ino: u64, ctime: i64, acted: bool) -> Vec<String> {
        links.note_all(&[linked(path, ino, ctime, acted)]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_change_through_one_name_is_told_once_for_the_others() {
        let mut links = Links::default();
        for name in ["a", "b", "c"] {
            assert!(see(&mut links, name, 7, 1, false).is_empty());
        }
        assert!(see(&mut links, "other", 8, 1, false).is_empty());
        assert_eq!(see(&mut links, "b", 7, 2, true), ["a", "c"]);
        assert!(see(&mut links, "a", 7, 2, true).is_empty());
        assert_eq!(see(&mut links, "a", 7, 3, true), ["b", "c"]);
    }

    #[test]
    fn names_that_are_not_known_are_searched_once() {
        let mut links = Links::default();
        see(&mut links, "a", 7, 1, false);
        assert!(!links.has_unknown_names());
        see(&mut links, "b", 7, 2, true);
        assert!(links.has_unknown_names());
        links.sweep_begins();
        for name in ["a", "b"] {
            see(&mut links, name, 7, 2, false);
        }
        links.swept();
        see(&mut links, "b", 7, 3, true);
        assert!(!links.has_unknown_names());
    }

    #[test]
    fn a_name_that_was_looked_at_and_not_seen_again_is_searched() {
        let mut links = Links::default();
        for name in ["a", "b", "c"] {
            see(&mut links, name, 7, 1, false);
        }
        let b = RelPath::new(b"b").unwrap();
        links.look_at([&b].into_iter());
        see(&mut links, "b", 7, 1, false);
        assert!(links.looked().is_empty());
        assert!(!links.has_unknown_names());
        links.look_at([&b].into_iter());
        assert_eq!(links.looked().len(), 2);
        assert!(links.has_unknown_names());
        assert_eq!(see(&mut links, "a", 7, 2, true), ["c"]);
    }

    #[test]
    fn a_directory_takes_its_names_along() {
        let mut links = Links::default();
        for name in ["d/in/a", "d-b", "c"] {
            see(&mut links, name, 7, 1, false);
        }
        links.gone(&RelPath::new(b"d").unwrap());
        let left: Vec<_> = links.looked().iter().map(ToString::to_string).collect();
        assert_eq!(left, ["d-b", "c"]);
    }

    #[test]
    fn a_directory_that_is_renamed_takes_its_names_along() {
        let mut links = Links::default();
        for (path, ino) in [("d/log", 7), ("d/in/other", 8), ("d-b", 9)] {
            note_only(&mut links, path, ino);
        }
        let [log, d, e] = ["d/log", "d", "e/f"].map(|path| RelPath::new(path.as_bytes()).unwrap());
        links.look_at([&log].into_iter());
        note_only(&mut links, "d/log.1", 7);
        links.looked();
        links.renamed(&d, &e);
        assert_eq!(told(&links, "e/f/log"), ["e/f/log.1"]);
        assert_eq!(told(&links, "d/#8"), ["e/f/in/other"]);
        assert_eq!(told(&links, "d/#9"), ["d-b"]);
        assert!(told(&links, "d/log").is_empty());
        assert_eq!(links.by_path.len(), 3);
    }

    #[test]
    fn a_name_that_is_another_file_now_is_no_longer_told() {
        let mut links = Links::default();
        see(&mut links, "a", 7, 1, false);
        see(&mut links, "b", 7, 1, false);
        see(&mut links, "a", 9, 1, false);
        assert!(see(&mut links, "b", 7, 2, true).is_empty());
    }

    fn told(links: &Links, path: &str) -> Vec<String> {
        let path = RelPath::new(path.as_bytes()).unwrap();
        links.told(&path).iter().map(ToString::to_string).collect()
    }

    fn note_only(links: &mut Links, path: &str, ino: u64) {
        links.see(&Linked { links: 1, ..linked(path, ino, 1, false) });
    }

    #[test]
    fn what_is_told_of_a_name_that_has_gone_may_concern_the_files_other_names() {
        let mut links = Links::default();
        note_only(&mut links, "log", 7);
        assert!(told(&links, "log").is_empty());
        let log = RelPath::new(b"log").unwrap();
        links.look_at([&log].into_iter());
        note_only(&mut links, "log.1", 7);
        assert_eq!(links.looked().len(), 1);
        // Another file takes the name, and another one after it.
        for ino in [8, 9] {
            note_only(&mut links, "log", ino);
            assert_eq!(told(&links, "log"), ["log.1"]);
        }
        note_only(&mut links, "log.2", 8);
        assert_eq!(told(&links, "log"), ["log.1", "log.2"]);
        assert!(told(&links, "log.1").is_empty());
        links.sweep_begins();
        links.swept();
        assert_eq!(told(&links, "log"), ["log.1", "log.2"], "a sweep does not tell of them");
        // A file without a name was given one.
        assert_eq!(told(&links, "tmp/#7"), ["log.1"]);
        assert!(told(&links, "tmp/#77").is_empty());
        let [log, named] = ["log.2", "x"].map(|name| RelPath::new(name.as_bytes()).unwrap());
        links.note_former_name(&named, &log);
        assert_eq!(told(&links, "x"), ["log.2"]);
        assert_eq!(links.lately(2).map(ToString::to_string).collect::<Vec<_>>(), ["log.2", "log"]);
    }

    #[test]
    fn no_more_is_remembered_than_so_much() {
        let mut links = Links::default();
        for number in 0..LATELY as u64 + 10 {
            note_only(&mut links, &format!("f{number}"), number);
        }
        assert_eq!(
            (links.by_path.len(), links.by_id.len(), links.lately.len()),
            (LATELY, LATELY, LATELY)
        );
        for number in 0..2 * LATELY as u64 {
            note_only(&mut links, &format!("f{number}"), number + 1);
        }
        assert!(links.former.len() <= FORMER);
        for number in 0..100 {
            note_only(&mut links, "f", number);
        }
        assert!(links.former.values().all(|files| files.len() <= FILES));
        assert!(links.by_path.len() <= LATELY && links.lately.len() == LATELY);
    }

    #[test]
    fn what_a_sweep_has_not_seen_is_forgotten() {
        let mut links = Links::default();
        see(&mut links, "a", 7, 1, false);
        see(&mut links, "b", 7, 1, false);
        links.sweep_begins();
        see(&mut links, "b", 7, 1, false);
        links.swept();
        assert!(see(&mut links, "b", 7, 2, true).is_empty());
        assert_eq!((links.by_path.len(), links.by_id.len()), (1, 1));
    }
}
