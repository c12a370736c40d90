//! What a walk has found out of a directory as a whole: known once its last entry was compared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Sender;

use super::Message;
use crate::entry::Entry;
use crate::path::RelPath;
use crate::twins::Twins;

/// A directory that is being compared. Each step that has to do with it holds it.
pub(super) struct Subtree {
    above: Option<Arc<Subtree>>,
    /// What it is on both sides, and where twins are noted.
    pair: Option<(Arc<Twins>, Entry, Entry)>,
    /// Whether it is the same user's on both sides, and not of the one who mirrors it.
    is_somebodys: bool,
    /// Where its rights differ: who is to be told.
    closed: Option<(RelPath, Sender<Message>)>,
    /// Whether the replica has something in it that the source has not, or not so open, or that nobody knows.
    uneven: AtomicBool,
    cancel: Arc<AtomicBool>,
}

impl Subtree {
    /// `above`: `None` where nothing is to be concluded for what holds it.
    pub fn new(above: Option<Arc<Subtree>>, cancel: &Arc<AtomicBool>) -> Self {
        let (uneven, cancel) = (AtomicBool::new(false), Arc::clone(cancel));
        Self { above, pair: None, is_somebodys: false, closed: None, uneven, cancel }
    }

    /// It stands on both sides. `user`: who mirrors it.
    pub fn of(mut self, twins: &Arc<Twins>, source: Entry, replica: Entry, user: u32) -> Self {
        self.is_somebodys = source.uid == replica.uid && source.uid != user;
        self.pair = Some((Arc::clone(twins), source, replica));
        self
    }

    /// Has it told whether the directory may be opened.
    pub fn tell(mut self, dir: &RelPath, out: &Sender<Message>) -> Self {
        self.closed = Some((dir.clone(), out.clone()));
        self
    }

    pub fn spoil(&self) {
        self.uneven.store(true, Ordering::Relaxed);
    }

    fn conclude(&mut self) {
        // What was not compared to its end is not known.
        let is_known = !self.cancel.load(Ordering::Relaxed) && !std::thread::panicking();
        let is_even = is_known && !*self.uneven.get_mut();
        match (is_even, self.pair.take()) {
            (true, Some((twins, source, replica))) => twins.note(&source, &replica),
            // What a twin holds is the source's, up to what is about to be done.
            (false, Some((twins, source, replica))) if is_known && twins.are(&source, &replica) => {}
            // Whoever has it on both sides may show what is in it to whom he likes.
            (false, _) if is_known && self.is_somebodys => {}
            (false, _) => self.above.iter().for_each(|above| above.spoil()),
            (true, None) => {}
        }
        if let Some((dir, out)) = self.closed.take() {
            let told = if is_even { Message::Differ(dir, Vec::new()) } else { Message::Uneven(dir) };
            // Nobody listens any more where the walk was dropped.
            let _ = out.send(told);
        }
    }
}

impl Drop for Subtree {
    fn drop(&mut self) {
        self.conclude();
        // One after the other: a tree may be deeper than a stack.
        let mut above = self.above.take();
        while let Some(mut subtree) = above.and_then(Arc::into_inner) {
            subtree.conclude();
            above = subtree.above.take();
        }
    }
}
