//! Which names of the source are one file (hard links). A change through one of them is told for
//! that name alone; the others have to be looked at too. Pure: no file system, no clock.

use std::collections::{BTreeMap, HashMap};

use crate::entry::{Entry, Time};
use crate::path::{RelPath, within};

/// So many names are remembered. The others are left to the sweeps.
const MOST: usize = 100_000;

/// Device and inode number.
type Id = (u64, u64);

/// A name of a file that has several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Linked {
    pub path: RelPath,
    id: Id,
    ctime: Time,
    /// How many names the file has, in the source and elsewhere.
    links: u32,
    /// Whether the replica was changed for it, so that its other names are due too.
    pub acted: bool,
}

impl Linked {
    /// `None` for a file with one name, and for what is no file.
    pub fn of(path: &RelPath, entry: &Entry, acted: bool) -> Option<Self> {
        let (id, ctime, links) = ((entry.dev, entry.ino), entry.ctime, entry.links);
        entry.has_links().then(|| Self { path: path.clone(), id, ctime, links, acted })
    }
}

#[derive(Default)]
struct Names {
    paths: Vec<RelPath>,
    /// The state of the file for which the other names were last told.
    told: Option<Time>,
    /// How many names the file had when it was seen last, and when those that are not known were
    /// last searched.
    links: u32,
    searched: u32,
}

impl Names {
    /// Whether there are names that are not known and were not searched.
    fn is_lacking(&mut self) -> bool {
        let lacking = self.paths.len() < self.links as usize && self.searched != self.links;
        if lacking {
            self.searched = self.links;
        }
        lacking
    }
}

/// All names that are known to be one of several.
#[derive(Default)]
pub struct Links {
    by_id: HashMap<Id, Names>,
    /// The file of each name, and the sweep in which it was last seen.
    by_path: BTreeMap<RelPath, (Id, u64)>,
    sweep: u64,
    /// Whether names are to be searched.
    lacking: bool,
    /// Names that are being looked at, and the files that they were.
    watched: Vec<(RelPath, Id)>,
}

impl Links {
    pub fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// Notes names, all of them before it is asked what is due for what was done to one.
    pub fn see_all(&mut self, linked: Vec<Linked>) -> Vec<RelPath> {
        for linked in &linked {
            self.see(Linked { acted: false, ..linked.clone() });
        }
        linked.into_iter().flat_map(|linked| self.see(linked)).collect()
    }

    /// Notes a name; the other names of the file, where they are due.
    pub fn see(&mut self, linked: Linked) -> Vec<RelPath> {
        let Linked { path, id, ctime, links, acted } = linked;
        if self.by_path.get(&path).is_some_and(|(known, _)| *known != id) {
            self.forget(&path);
        }
        let room = self.by_path.contains_key(&path) || self.by_path.len() < MOST;
        if room && self.by_path.insert(path.clone(), (id, self.sweep)).is_none() {
            self.by_id.entry(id).or_default().paths.push(path.clone());
        }
        let Some(names) = self.by_id.get_mut(&id) else { return Vec::new() };
        names.links = links;
        self.lacking |= acted && names.is_lacking();
        if !acted || names.told == Some(ctime) {
            return Vec::new();
        }
        names.told = Some(ctime);
        names.paths.iter().filter(|other| **other != path).cloned().collect()
    }

    /// These names are about to be looked at: who is one of several still will be seen again, and
    /// then [`Links::looked`] is to be called.
    pub fn look_at<'a>(&mut self, paths: impl Iterator<Item = &'a RelPath>) {
        for path in paths {
            if let Some(id) = self.forget(path) {
                self.watched.push((path.clone(), id));
            }
        }
    }

    /// A directory is gone, with all names in it.
    pub fn gone(&mut self, dir: &RelPath) {
        let within: Vec<_> = within(&self.by_path, dir).map(|(path, _)| path.clone()).collect();
        self.look_at(within.iter());
    }

    /// What was looked at has been seen. Where a name is gone, or is another file, the names that
    /// are left: through that one they may have been changed before it went.
    pub fn looked(&mut self) -> Vec<RelPath> {
        let mut due = Vec::new();
        for (path, id) in std::mem::take(&mut self.watched) {
            let stays = self.by_path.get(&path).is_some_and(|(now, _)| *now == id);
            if let Some(names) = self.by_id.get_mut(&id).filter(|_| !stays) {
                self.lacking |= names.is_lacking();
                due.extend(names.paths.iter().cloned());
            }
        }
        due
    }

    /// Whether a file was changed that has names which are not known: one that had a single name
    /// when it was seen last, and was not told of since. A scan of all is due; it finds them.
    pub fn is_lacking(&self) -> bool {
        self.lacking
    }

    /// A sweep of all begins.
    pub fn sweep_begins(&mut self) {
        self.lacking = false;
        self.sweep += 1;
    }

    /// It has ended: what it has not seen is no longer there.
    pub fn swept(&mut self) {
        let gone = self.by_path.iter().filter(|(_, (_, seen))| *seen < self.sweep);
        for path in gone.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            self.forget(&path);
        }
    }

    fn forget(&mut self, path: &RelPath) -> Option<Id> {
        let (id, _) = self.by_path.remove(path)?;
        if let Some(names) = self.by_id.get_mut(&id) {
            names.paths.retain(|other| other != path);
            if names.paths.is_empty() {
                self.by_id.remove(&id);
            }
        }
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linked(path: &str, ino: u64, ctime: i64, acted: bool) -> Linked {
        let path = RelPath::new(path.as_bytes()).unwrap();
        Linked { path, id: (1, ino), ctime: Time { sec: ctime, nsec: 0 }, links: 3, acted }
    }

    fn see(links: &mut Links, path: &str, ino: u64, ctime: i64, acted: bool) -> Vec<String> {
        links.see(linked(path, ino, ctime, acted)).iter().map(ToString::to_string).collect()
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
        assert!(!links.is_lacking());
        see(&mut links, "b", 7, 2, true);
        assert!(links.is_lacking());
        links.sweep_begins();
        for name in ["a", "b"] {
            see(&mut links, name, 7, 2, false);
        }
        links.swept();
        see(&mut links, "b", 7, 3, true);
        assert!(!links.is_lacking());
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
        assert!(!links.is_lacking());
        links.look_at([&b].into_iter());
        assert_eq!(links.looked().len(), 2);
        assert!(links.is_lacking());
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
    fn a_name_that_is_another_file_now_is_no_longer_told() {
        let mut links = Links::default();
        see(&mut links, "a", 7, 1, false);
        see(&mut links, "b", 7, 1, false);
        see(&mut links, "a", 9, 1, false);
        assert!(see(&mut links, "b", 7, 2, true).is_empty());
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
