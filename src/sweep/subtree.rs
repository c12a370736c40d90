//! The verdict of a walk on a directory as a whole. It is known once the last entry below was
//! compared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;

use super::Message;
use crate::fs::renamers::Renamers;
use crate::fs::tree::Dir;
use crate::fs::view::ReplicaView;
use crate::model::check::Check;
use crate::model::entry::Entry;
use crate::model::path::RelPath;
use crate::plan::verified_dirs::VerifiedDirs;

/// A directory that exists on both sides, with its facts when it was opened.
pub(super) struct ComparedDirs {
    pub source: Entry,
    pub replica: Entry,
    /// Who could have moved the replica's directory to its place.
    pub renamers: Renamers,
}

/// A directory that is being compared. Each step below it holds a reference; the verdict is
/// complete when the last one is dropped.
pub(super) struct DirVerdict {
    above: Option<Arc<DirVerdict>>,
    /// The facts of both sides, and where to note that they match; `None` if that is not noted.
    both: Option<(ComparedDirs, Arc<VerifiedDirs>)>,
    /// The uid that twindir runs as.
    user: u32,
    /// Set if it is to be widened: its path, the check, and where to report it.
    closed: Option<(RelPath, Check, Sender<Message>)>,
    /// Whether the replica's directory holds anything that others may not be allowed to see: an
    /// entry that differs from the source, that the source lacks, or that is wider than there. Also
    /// set if something could not be read.
    is_different: AtomicBool,
    cancel: Arc<AtomicBool>,
}

impl DirVerdict {
    /// Begins the verdict on a directory. `above`: the directory that holds it; `None` if that is
    /// not affected by the verdict.
    pub fn new(above: Option<Arc<DirVerdict>>, user: u32, cancel: &Arc<AtomicBool>) -> Self {
        let (is_different, cancel) = (AtomicBool::new(false), Arc::clone(cancel));
        Self { above, both: None, user, closed: None, is_different, cancel }
    }

    /// Adds the facts of both sides. Matching directories are noted in `verified_dirs`.
    pub fn of(mut self, both: ComparedDirs, verified_dirs: &Arc<VerifiedDirs>) -> Self {
        self.both = Some((both, Arc::clone(verified_dirs)));
        self
    }

    /// Has the directory itself reported for a check, after everything that was found in it.
    pub fn tell(mut self, dir: &RelPath, check: Check, out: &Sender<Message>) -> Self {
        self.closed = Some((dir.clone(), check, out.clone()));
        self
    }

    pub fn mark_different(&self) {
        self.is_different.store(true, Ordering::Relaxed);
    }

    /// Marks the directory above as different, since this one is wider than in the source: users
    /// who get access above could see its contents. Does nothing if this one belongs to the same
    /// other user on both sides: that user may show its contents to anybody.
    pub fn mark_parent_different(&self) {
        if let Some(above) = self.above.as_ref().filter(|_| !self.has_one_other_owner()) {
            above.mark_different();
        }
    }

    /// Returns who could have moved an entry of this directory to its place.
    pub fn renamers_within(&self) -> Renamers {
        self.both.as_ref().map_or(Renamers::Many, |(both, verified_dirs)| {
            both.renamers.and(Renamers::within(&both.replica, verified_dirs, self.user))
        })
    }

    /// Whether `source` and `replica`, which were opened by the path of this directory, are this
    /// directory.
    pub fn is(&self, source: &Dir, replica: &impl ReplicaView) -> bool {
        let Some((both, _)) = &self.both else { return false };
        source.entry().is_ok_and(|now| now.is_inode_of(&both.source))
            && replica.entry().is_ok_and(|now| now.is_inode_of(&both.replica))
    }

    /// Marks this directory as different if its path leads to another one now. That is only checked
    /// if other users can move it or its entries.
    pub fn verify_identity(&self, source: &Dir, replica: Option<&impl ReplicaView>) {
        if self.renamers_within() != Renamers::Nobody
            && !replica.is_some_and(|replica| self.is(source, replica))
        {
            self.mark_different();
        }
    }

    /// Whether it belongs to the same user on both sides, and that is not the user that twindir
    /// runs as.
    fn has_one_other_owner(&self) -> bool {
        self.both.as_ref().is_some_and(|(ComparedDirs { source, replica, .. }, _)| {
            source.uid == replica.uid && source.uid != self.user
        })
    }

    fn finish(&mut self) {
        // A comparison that was cut short proves nothing.
        let is_known = !self.cancel.load(Ordering::Relaxed) && !std::thread::panicking();
        let is_same = is_known && !*self.is_different.get_mut();
        let has_one_other_owner = self.has_one_other_owner();
        let (mut is_verified, mut walked) = (false, None);
        if let Some((ComparedDirs { source, replica, .. }, verified_dirs)) = self.both.take() {
            // A verified directory holds only entries of the source, except for differences that
            // are about to be resolved.
            is_verified = is_known && verified_dirs.are_verified(&source, &replica);
            if is_same {
                verified_dirs.note(&source, &replica);
            } else if is_known && self.closed.is_none() {
                verified_dirs.walked(&source, &replica);
            } else if is_known {
                walked = Some(Box::new([source, replica]));
            }
        }
        if !is_same && !(is_known && (is_verified || has_one_other_owner)) {
            self.above.iter().for_each(|above| above.mark_different());
        }
        if let Some((dir, check, out)) = self.closed.take() {
            // The check is due from now on: after everything that was found in the directory.
            let check = Check { since: Instant::now(), ..check };
            let told = match dir.split() {
                // By its name, so that the directory itself is checked, and not only something in
                // it.
                Some((above, name)) => Message::Differ(above, vec![(name, check)]),
                None => Message::Differ(dir, Vec::new()),
            };
            for message in walked.map(Message::Walked).into_iter().chain([told]) {
                // Fails if the walk was dropped and nobody listens any more.
                let _ = out.send(message);
            }
        }
    }
}

impl Drop for DirVerdict {
    fn drop(&mut self) {
        self.finish();
        // A loop, since a tree may be deeper than a stack.
        let mut above = self.above.take();
        while let Some(mut subtree) = above.and_then(Arc::into_inner) {
            subtree.finish();
            above = subtree.above.take();
        }
    }
}
