//! The part of a comparison that one thread does: some names of one directory.

use std::ops::Range;
use std::sync::Arc;

use super::batch::Batch;
use super::join::{Joined, ListedPair};
use super::step::{OpenedPair, ReplicaDirHint, Step};
use super::subtree::DirVerdict;
use super::{Extent, Message, Task, Walker};
use crate::fs::filter::DirFilter;
use crate::fs::tree::{Dir, ListedKind};
use crate::fs::view::{ReplicaView, Trees};
use crate::model::check::{CachedDigests, Check};
use crate::model::entry::{Entry, Kind, Observed};
use crate::model::error::WorkError;
use crate::model::path::{Name, RelPath};
use crate::plan::decide::{Action, Contents, decide, may_hold_other};
use crate::plan::hard_links::Linked;
use crate::plan::metadata::MetadataDiff;

/// Files of at least this size, in bytes, are compared in steps of their own.
const BIG: u64 = 1024 * 1024;

/// The part of a directory that one thread compares, and what it has found.
pub(super) struct Chunk<'a, T: Trees> {
    walker: &'a Walker<'a, T>,
    dir: &'a RelPath,
    subtree: &'a Arc<DirVerdict>,
    known: ReplicaDirHint,
    source: &'a Dir,
    replica: Option<&'a T::Replica>,
    filter: DirFilter<'a>,
    batch: Batch,
    found: Vec<(Name, Check)>,
    linked: Vec<Linked>,
}

impl<T: Trees> Walker<'_, T> {
    pub(super) fn chunk<'a>(
        &'a self,
        (dir, subtree): (&'a RelPath, &'a Arc<DirVerdict>),
        known: ReplicaDirHint,
        source: &'a Dir,
        replica: Option<&'a T::Replica>,
    ) -> Chunk<'a, T> {
        let filter = self.plan.filter.at(dir);
        let (batch, found, linked) = (Batch::default(), Vec::new(), Vec::new());
        Chunk { walker: self, dir, subtree, known, source, replica, filter, batch, found, linked }
    }
}

impl<T: Trees> Chunk<'_, T> {
    pub(super) fn compare_names(
        &mut self,
        joined: &Joined,
        range: Range<usize>,
        more: &mut Vec<Step>,
    ) {
        for pair in joined.pairs(range) {
            let Some(name) = Name::new(pair.name) else { continue };
            if !self.is_excluded(&pair) {
                self.compare_name(name, pair.source, pair.replica, more);
                continue;
            }
            if pair.replica.is_some() {
                self.note_excluded(&name);
            }
            if let Some(registry) = &self.walker.plan.registry {
                // It may have been watched before it was excluded.
                registry.forget(&self.dir.join(&name));
            }
        }
    }

    fn look_at_replica(&self, name: &[u8]) -> Observed {
        self.replica.map_or(Observed::Absent, |replica| replica.observe(name))
    }

    /// Marks the directory as different if others could see an excluded entry in it. Excluded
    /// entries stay in the replica, and anybody may have written the rules.
    fn note_excluded(&self, name: &Name) {
        let theirs = self.look_at_replica(name.as_bytes());
        if theirs.entry().is_some_and(Entry::shows_something) {
            self.subtree.mark_different();
        }
    }

    /// Reports a reserved name. Marks the directory as different if others could see the entry: a
    /// temporary file is readable by its owner only, but a directory in the trash is as open as it
    /// was.
    pub(super) fn note_reserved(&mut self, name: &[u8]) {
        let theirs = self.look_at_replica(name);
        let is_closed = |entry: &Entry| match entry.kind {
            Kind::File => entry.is_closed(),
            Kind::Symlink(_) => true,
            Kind::Dir | Kind::Special(_) => false,
        };
        if !theirs.entry().is_none_or(is_closed) {
            self.subtree.mark_different();
        }
        self.found.extend(Name::new(name).map(|name| (name, self.walker.observe())));
    }

    /// Whether a name is excluded on either side. Without rules, no entry is observed for that.
    fn is_excluded(&self, pair: &ListedPair<'_>) -> bool {
        let name = pair.name;
        let source = |hint: ListedKind| hint.is_dir_or(|| self.source.observe(name).is_dir());
        let other = |hint: ListedKind| {
            hint.is_dir_or(|| self.replica.is_some_and(|dir| dir.observe(name).is_dir()))
        };
        !self.walker.plan.filter.is_empty()
            && self.filter.excludes_either(name, [pair.source.map(source), pair.replica.map(other)])
    }

    fn compare_name(
        &mut self,
        name: Name,
        source: Option<ListedKind>,
        replica: Option<ListedKind>,
        more: &mut Vec<Step>,
    ) {
        self.walker.counts.compared(u64::from(source.is_some()));
        match (source, replica) {
            (Some(ListedKind::Dir), Some(ListedKind::Dir)) => {
                self.step_into(&name, self.known, more);
            }
            // A round reports it, once. It does not count as a difference.
            (Some(ListedKind::Special), None) => self.found.push((name, self.walker.observe())),
            (Some(ListedKind::Dir), None) => {
                self.step_into(&name, ReplicaDirHint::NotListed, more);
                self.walker.counts.differs();
                self.found.push((name, self.walker.observe()));
            }
            (Some(ListedKind::File), None) => self.lacks_file(name),
            (Some(ListedKind::Symlink), None) => self.differs(name, None),
            (None, _) => self.report_different(name),
            (Some(ListedKind::File), Some(ListedKind::File))
                if self.walker.plan.task == Task::Full =>
            {
                self.compare_listed_files(name, more);
            }
            (Some(_), _) => self.compare_entries(name, more),
        }
    }

    /// Compares a pair that both listings call files. Opening a file gives its facts, so it need
    /// not be observed by its name before.
    fn compare_listed_files(&mut self, name: Name, more: &mut Vec<Step>) {
        let Ok(pair) = self.open_pair(&name) else {
            return self.compare_entries(name, more);
        };
        self.note_links(&name, &pair.source.1);
        if !pair.are_of_one_size() {
            self.report_different(name);
        } else if pair.source.1.size >= BIG {
            self.walker.put_off((self.dir, self.subtree), name, more);
        } else {
            self.read_pair(name, pair);
        }
    }

    fn compare_entries(&mut self, name: Name, more: &mut Vec<Step>) {
        let source = self.source.observe(name.as_bytes());
        let replica = self.look_at_replica(name.as_bytes());
        if let Some(entry) = source.entry() {
            self.note_links(&name, entry);
        }
        if source.is_dir() {
            self.step_into(
                &name,
                if replica.is_dir() { self.known } else { ReplicaDirHint::NotListed },
                more,
            );
        }
        match decide(&source, &replica, Contents::Unread, &self.walker.plan.capabilities) {
            Action::Nothing => {}
            // The metadata of a directory is compared when the directory itself is.
            Action::SetMetadata(_) if source.is_dir() => {}
            Action::NotMirrored { stale: false, .. } => {
                replica.error().inspect(|_| self.subtree.mark_different());
                self.found.push((name, self.walker.observe()));
            }
            Action::Compare if self.is_settled(&source, &replica) => {}
            Action::Compare if source.entry().is_some_and(|entry| entry.size >= BIG) => {
                self.walker.put_off((self.dir, self.subtree), name, more);
            }
            Action::Compare => self.compare_files(name),
            _ if replica == Observed::Absent => self.differs(name, None),
            Action::SetMetadata(_)
            | Action::CopyFile(_)
            | Action::MakeSymlink(_)
            | Action::MakeDir(_)
            | Action::Remove
            | Action::NotMirrored { stale: true, .. }
            | Action::Unsure => self.report_different(name),
        }
    }

    fn step_into(&mut self, name: &Name, known: ReplicaDirHint, more: &mut Vec<Step>) {
        if self.walker.plan.extent == Extent::Names {
            return self.examine_dir(name);
        }
        more.push(Step::Dir(self.dir.join(name), known, Some(Arc::clone(self.subtree))));
    }

    /// Handles a directory that the walk does not enter. Reports it if its metadata differs, or if
    /// another directory may stand there by now: its check is then followed by a sweep of it.
    fn examine_dir(&mut self, name: &Name) {
        self.subtree.mark_different();
        let theirs = self.look_at_replica(name.as_bytes());
        let (Observed::Present(ours), Observed::Present(theirs)) =
            (self.source.observe(name.as_bytes()), theirs)
        else {
            return;
        };
        if MetadataDiff::between(&ours, &theirs, &self.walker.plan.capabilities).any()
            || self.walker.may_be_moved(&ours, &theirs)
        {
            self.differs(name.clone(), None);
        }
    }

    /// Whether a quick sweep regards two files of equal size as the same without reading them.
    fn is_settled(&self, source: &Observed, replica: &Observed) -> bool {
        let capabilities = &self.walker.plan.capabilities;
        let (Some(source), Some(replica)) = (source.entry(), replica.entry()) else { return false };
        self.walker.plan.task == Task::Quick
            && self.known != ReplicaDirHint::MaybeMoved
            && !may_hold_other(source, replica, capabilities)
            && !MetadataDiff::between(source, replica, capabilities).any()
    }

    /// Reads a pair of files of equal size.
    fn compare_files(&mut self, name: Name) {
        match self.open_pair(&name) {
            Ok(pair) if pair.are_of_one_size() => self.read_pair(name, pair),
            // A round checks the name and reports the error.
            _ => self.report_different(name),
        }
    }

    fn open_pair(&self, name: &Name) -> Result<OpenedPair, WorkError> {
        let source = self.source.open_file(name.as_bytes())?;
        let replica = self.replica.ok_or(WorkError::Changed)?.open_file(name.as_bytes())?;
        Ok(OpenedPair { source, replica })
    }

    /// Reads a pair into the batch, to be hashed together with others of the directory.
    fn read_pair(&mut self, name: Name, pair: OpenedPair) {
        let (walker, size) = (self.walker, pair.source.1.size + pair.replica.1.size);
        // RACE: a file may be written to while it is read. A round that uses the digests notices
        // that. Worst case: a pair wrongly seems equal until its next check.
        let result = walker.metadata_differs(&pair).and_then(|differs| {
            let options = (walker.drops_behind(), &**walker.cancel);
            self.batch.read(&name, pair, differs, options)
        });
        match result {
            Ok(()) => {
                walker.counts.read(size);
                walker.rate.wait_after(size, walker.cancel);
                if self.batch.is_full() {
                    self.finish();
                }
            }
            Err(WorkError::Cancelled) => {}
            Err(WorkError::Changed | WorkError::FsError(_)) => self.report_different(name),
        }
    }

    /// Hashes the pairs in the batch and reports those that differ.
    fn finish(&mut self) {
        for (read, digests) in self.batch.take() {
            if read.differs || !digests.same() {
                self.subtree.mark_different();
            }
            if let Some(cached) =
                self.walker.judge(&read.source, &read.replica, digests, read.differs)
            {
                self.differs(read.name, Some(cached));
            }
        }
    }

    fn differs(&mut self, name: Name, cached: Option<CachedDigests>) {
        self.walker.counts.differs();
        self.found.push((name, self.walker.found(cached)));
    }

    /// Reports a name that differs, and marks the directory as different: the replica holds
    /// something else there, or may do so.
    fn report_different(&mut self, name: Name) {
        self.subtree.mark_different();
        self.differs(name, None);
    }

    fn lacks_file(&mut self, name: Name) {
        self.walker.counts.differs();
        // If upper and lower case are the same, the replica may have the file under another name.
        let new = !self.walker.plan.capabilities.folds_case;
        self.found.push((name, Check { unseen_in_replica: new, ..self.walker.found(None) }));
    }

    fn note_links(&mut self, name: &Name, entry: &Entry) {
        if entry.has_links() {
            self.walker.counts.linked();
            let watched = self.walker.plan.registry.is_some();
            self.linked.extend(Linked::of(&self.dir.join(name), entry, false).filter(|_| watched));
        }
    }

    pub(super) fn report(mut self) {
        self.finish();
        if !self.linked.is_empty() {
            self.walker.send(Message::Linked(self.linked));
        }
        if !self.found.is_empty() {
            self.walker.send(Message::Differ(self.dir.clone(), self.found));
        }
    }
}
