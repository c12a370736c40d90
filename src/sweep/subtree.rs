//! What a walk has found out of a directory as a whole: known once its last entry was compared.

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

/// A directory that stands on both sides, when it was opened.
pub(super) struct ComparedDirs {
    pub source: Entry,
    pub replica: Entry,
    /// Who could have moved the replica's to where it is.
    pub movers: Renamers,
}

/// A directory that is being compared. Each step that has to do with it holds it.
pub(super) struct DirVerdict {
    above: Option<Arc<DirVerdict>>,
    /// What it is on both sides, and where twins are noted, if they are.
    both: Option<(ComparedDirs, Arc<VerifiedDirs>)>,
    /// Who mirrors it.
    user: u32,
    /// Where it lets in fewer people than it is to: who is to be told.
    closed: Option<(RelPath, Check, Sender<Message>)>,
    /// Whether the replica has something in it that the source has not, or not so open, or that
    /// nobody knows.
    is_different: AtomicBool,
    cancel: Arc<AtomicBool>,
}

impl DirVerdict {
    /// `above`: `None` where nothing is to be concluded for what holds it.
    pub fn new(above: Option<Arc<DirVerdict>>, user: u32, cancel: &Arc<AtomicBool>) -> Self {
        let (is_different, cancel) = (AtomicBool::new(false), Arc::clone(cancel));
        Self { above, both: None, user, closed: None, is_different, cancel }
    }

    /// It stands on both sides.
    pub fn of(mut self, both: ComparedDirs, verified_dirs: &Arc<VerifiedDirs>) -> Self {
        self.both = Some((both, Arc::clone(verified_dirs)));
        self
    }

    /// Has it told, after all that was found in it, that the directory is to be looked at for its
    /// own sake.
    pub fn tell(mut self, dir: &RelPath, check: Check, out: &Sender<Message>) -> Self {
        self.closed = Some((dir.clone(), check, out.clone()));
        self
    }

    pub fn mark_different(&self) {
        self.is_different.store(true, Ordering::Relaxed);
    }

    /// Something is more open than in the source: whoever comes to be let in above it would see it.
    /// Whoever has this on both sides may show what is in it to whom he likes.
    pub fn spoil_above(&self) {
        if let Some(above) = self.above.as_ref().filter(|_| !self.is_somebodys()) {
            above.mark_different();
        }
    }

    /// Who can move what lies in it.
    pub fn movers_within(&self) -> Renamers {
        self.both.as_ref().map_or(Renamers::Many, |(both, verified_dirs)| {
            both.movers.and(Renamers::within(&both.replica, verified_dirs, self.user))
        })
    }

    /// Whether these directories, opened by its path, are it.
    pub fn is(&self, source: &Dir, replica: &impl ReplicaView) -> bool {
        let Some((both, _)) = &self.both else { return false };
        source.entry().is_ok_and(|now| now.is_inode_of(&both.source))
            && replica.entry().is_ok_and(|now| now.is_inode_of(&both.replica))
    }

    /// What was opened by its path need not be it, where others can move it.
    pub fn verify_identity(&self, source: &Dir, replica: Option<&impl ReplicaView>) {
        if self.movers_within() != Renamers::Nobody
            && !replica.is_some_and(|replica| self.is(source, replica))
        {
            self.mark_different();
        }
    }

    /// Whether it is the same user's on both sides, and not of the one who mirrors it.
    fn is_somebodys(&self) -> bool {
        self.both.as_ref().is_some_and(|(ComparedDirs { source, replica, .. }, _)| {
            source.uid == replica.uid && source.uid != self.user
        })
    }

    fn finish(&mut self) {
        // What was not compared to its end is not known.
        let is_known = !self.cancel.load(Ordering::Relaxed) && !std::thread::panicking();
        let is_even = is_known && !*self.is_different.get_mut();
        let is_somebodys = self.is_somebodys();
        let (mut is_twin, mut walked) = (false, None);
        if let Some((ComparedDirs { source, replica, .. }, verified_dirs)) = self.both.take() {
            // What a twin holds is the source's, up to what is about to be done.
            is_twin = is_known && verified_dirs.are_verified(&source, &replica);
            if is_even {
                verified_dirs.note(&source, &replica);
            } else if is_known && self.closed.is_none() {
                verified_dirs.walked(&source, &replica);
            } else if is_known {
                walked = Some(Box::new([source, replica]));
            }
        }
        if !is_even && !(is_known && (is_twin || is_somebodys)) {
            self.above.iter().for_each(|above| above.mark_different());
        }
        if let Some((dir, check, out)) = self.closed.take() {
            // It is due from now on: after all that was found in it.
            let check = Check { since: Instant::now(), ..check };
            let told = match dir.split() {
                // By its name, so that it is looked at for its own sake, and not for that of
                // something in it.
                Some((above, name)) => Message::Differ(above, vec![(name, check)]),
                None => Message::Differ(dir, Vec::new()),
            };
            for message in walked.map(Message::Walked).into_iter().chain([told]) {
                // Nobody listens any more where the walk was dropped.
                let _ = out.send(message);
            }
        }
    }
}

impl Drop for DirVerdict {
    fn drop(&mut self) {
        self.finish();
        // One after the other: a tree may be deeper than a stack.
        let mut above = self.above.take();
        while let Some(mut subtree) = above.and_then(Arc::into_inner) {
            subtree.finish();
            above = subtree.above.take();
        }
    }
}
