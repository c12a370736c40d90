//! The count compares names only, to judge deletions before the first one.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Walker;
use super::walk::walk;
use crate::fs::tree::{LOST_FOUND, ListedKind, Listing};
use crate::fs::view::{ReplicaView, Trees, descend};
use crate::model::error::FsError;
use crate::model::path::{Name, RelPath, fold_case};
use crate::plan::guard::{Count, is_much};
use crate::plan::metadata::Symlinks;

/// Most deletions that are given as examples.
const EXAMPLES: usize = 5;

impl<T: Trees> Walker<'_, T> {
    /// Counts the entries that the source lacks. A directory that cannot be listed makes the count
    /// unknown, if its error may pass: see [`Count::unlisted`].
    pub(super) fn count(&self) -> Count {
        let total = Mutex::new(Count::default());
        walk(self.plan.threads, self.plan.scopes.clone(), |dir, more| {
            if self.is_cancelled() {
                return;
            }
            let part = self.count_dir(&dir, more);
            let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            total.entries += part.entries;
            total.deletions += part.deletions;
            total.names += part.names;
            total.source_is_empty |= part.source_is_empty;
            total.unknown = total.unknown.take().or(part.unknown);
            total.emptied.extend(part.emptied);
            total.turned.extend(part.turned);
            let room = EXAMPLES - total.examples.len().min(EXAMPLES);
            total.examples.extend(part.examples.into_iter().take(room));
        });
        let mut total = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if total.asks_for_new() {
            total.new = self.count_new();
        }
        total
    }

    /// Counts the entries that the replica lacks.
    fn count_new(&self) -> u64 {
        let total = AtomicU64::new(0);
        walk(self.plan.threads, self.plan.scopes.clone(), |dir, more| {
            let Some(replica_root) = &self.replica else { return };
            let opened =
                self.source.open(&dir).and_then(|source| Ok((source, replica_root.open(&dir)?)));
            // A directory that cannot be opened adds no new entry.
            let Ok((source, replica)) = opened else { return };
            if self.is_cancelled() || self.is_replica(&dir, &source) {
                return;
            }
            let (Ok(ours), Ok(theirs)) = (source.list(), replica.list()) else { return };
            let filter = self.plan.filter.at(&dir);
            for (name, hint) in ours.iter() {
                let Some(path) = Name::new(name).map(|name| dir.join(&name)) else { continue };
                let is_dir = hint.is_dir_or(|| source.observe(name).is_dir());
                if filter.excludes(name, is_dir) {
                    continue;
                }
                match (theirs.find(name), is_dir) {
                    (Some(_), true) => more.push(path),
                    (Some(_), false) => {}
                    // An entry that is not mirrored is never created.
                    (None, false) => {
                        let kind = hint.resolve(|| source.observe(name));
                        total.fetch_add(self.is_mirrored(kind).into(), Ordering::Relaxed);
                    }
                    (None, true) => {
                        let below = self.count_below(&self.source, &path, &mut None);
                        total.fetch_add(1 + below, Ordering::Relaxed);
                    }
                }
            }
        });
        total.into_inner()
    }

    fn count_dir(&self, dir: &RelPath, more: &mut Vec<RelPath>) -> Count {
        let mut count = Count::default();
        let Some(replica_root) = &self.replica else { return count };
        let open = match self.source.open(dir) {
            Ok(open) => open,
            Err(error) => return Count::unlisted(dir, error),
        };
        if self.is_replica(dir, &open) {
            return count;
        }
        let listings = open.list().and_then(|source| Ok((source, replica_root.open(dir)?.list()?)));
        let (source, replica) = match listings {
            Ok(listings) => listings,
            Err(error) => return Count::unlisted(dir, error),
        };
        self.plan.filter.refresh(dir, &open, |name| source.find(name).is_some());
        let filter = self.plan.filter.at(dir);
        let is_dir_there =
            |name: &[u8], hint: ListedKind| hint.is_dir_or(|| open.observe(name).is_dir());
        let means_nothing = |name: &[u8], hint| {
            name == LOST_FOUND || filter.excludes(name, is_dir_there(name, hint))
        };
        let is_empty = source.iter().all(|(name, hint)| means_nothing(name, hint));
        count.source_is_empty = dir.is_root() && is_empty;
        let folded = Folded::of(&source, self.plan.capabilities.folds_case);
        let mut below = 0;
        for (name, hint) in replica.iter() {
            let Some(path) = Name::new(name).map(|name| dir.join(&name)) else { continue };
            let held_dir = hint.is_dir_or(|| replica_root.open(&path).is_ok());
            let stands = source.find(name).map(|hint| hint.resolve(|| open.observe(name)));
            if filter
                .excludes_either(name, [stands.map(|hint| hint == ListedKind::Dir), Some(held_dir)])
            {
                continue;
            }
            let is_told = name != LOST_FOUND;
            count.entries += 1;
            count.names.all += u64::from(is_told);
            // A name of the replica that differs by case alone is the twin of the source's.
            if let Some(other) = folded.find(name).filter(|_| stands.is_none()) {
                count.names.shared += 1;
                more.extend(held_dir.then(|| dir.join(other)));
                continue;
            }
            count.names.shared += u64::from(is_told && stands.is_some());
            match (stands.filter(|hint| self.is_mirrored(*hint)), held_dir) {
                (Some(ListedKind::Dir), true) => more.push(path),
                (Some(_), false) => {}
                (None, _) | (Some(_), true) => {
                    let held = 1 + if held_dir {
                        self.count_below(replica_root, &path, &mut count.unknown)
                    } else {
                        0
                    };
                    count.entries += held - 1;
                    count.names.all += if is_told { held - 1 } else { 0 };
                    count.deletions += held;
                    below += held;
                    if stands.is_some() && is_much(held) {
                        count.turned.push(path.clone());
                    }
                    if count.examples.len() < EXAMPLES {
                        count.examples.push(path);
                    }
                }
            }
        }
        if is_empty && is_much(below) && !dir.is_root() {
            count.emptied.push(dir.clone());
        }
        count
    }

    /// Whether an entry of this kind is mirrored. Otherwise the replica has nothing at its name.
    fn is_mirrored(&self, hint: ListedKind) -> bool {
        match hint {
            ListedKind::Special => false,
            ListedKind::Symlink => self.plan.capabilities.symlinks != Symlinks::None,
            ListedKind::File | ListedKind::Dir | ListedKind::Unknown => true,
        }
    }

    /// Counts the entries below a directory, except those that are excluded. `unknown` gets the
    /// first directory that cannot be listed, if its error may pass.
    fn count_below(
        &self,
        root: &impl ReplicaView,
        dir: &RelPath,
        unknown: &mut Option<(RelPath, FsError)>,
    ) -> u64 {
        let filter = self.plan.filter.detached();
        let mut number = 0;
        let _ = descend(root, dir.clone(), |at, opened, more| {
            if self.is_cancelled() {
                return ControlFlow::Break(());
            }
            let (open, listing) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    *unknown = unknown.take().or(Count::unlisted(at, error).unknown);
                    return ControlFlow::Continue(());
                }
            };
            filter.refresh(at, open, |name| listing.find(name).is_some());
            let rules = filter.at(at);
            for (name, hint) in listing.iter() {
                let is_dir = || hint.is_dir_or(|| open.observe(name).is_dir());
                if !filter.is_empty() && rules.excludes(name, is_dir()) {
                    continue;
                }
                number += 1;
                if let (ListedKind::Dir | ListedKind::Unknown, Some(name)) = (hint, Name::new(name))
                {
                    more.push(at.join(&name));
                }
            }
            ControlFlow::Continue(())
        });
        number
    }
}

/// The names of a directory, for a replica where upper and lower case are the same.
struct Folded(BTreeMap<String, Name>);

impl Folded {
    /// `folds`: whether they are the same in the replica. If not, no name is found.
    fn of(listing: &Listing, folds: bool) -> Self {
        let names = listing.iter().filter(|_| folds).filter_map(|(name, _)| Name::new(name));
        Self(names.map(|name| (fold_case(name.as_bytes()), name)).collect())
    }

    fn find(&self, name: &[u8]) -> Option<&Name> {
        if self.0.is_empty() { None } else { self.0.get(&fold_case(name)) }
    }
}
