//! Trash that the trash thread has not given back yet, and the directory in which each lies now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::path::{Name, RelPath};
use crate::model::status::JobTask;
use crate::writer::LongJob;
use crate::writer::fs::progress::Progress;
use crate::writer::fs::trash::Trash;

/// Trash that the thread has.
struct PendingTree {
    /// The directory in which it lies now.
    dir: RelPath,
    progress: Arc<Progress>,
}

#[derive(Default)]
pub(super) struct PendingTrash(Mutex<HashMap<Name, PendingTree>>);

impl PendingTrash {
    fn lock(&self) -> MutexGuard<'_, HashMap<Name, PendingTree>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds trash. Returns what the thread counts its deleted entries in.
    pub fn begin(&self, trash: &Trash) -> Arc<Progress> {
        let progress = Arc::<Progress>::default();
        let tree = PendingTree { dir: trash.dir.clone(), progress: Arc::clone(&progress) };
        self.lock().insert(trash.name.clone(), tree);
        progress
    }

    /// Removes trash that the thread has given back. Returns the directory in which it lies now.
    pub fn end(&self, trash: &Trash) -> RelPath {
        self.lock().remove(&trash.name).map_or_else(|| trash.dir.clone(), |tree| tree.dir)
    }

    /// Updates the paths below a renamed directory.
    pub fn rename(&self, from: &RelPath, to: &RelPath) {
        for tree in self.lock().values_mut() {
            if let Some(moved) = tree.dir.rebased(from, to) {
                tree.dir = moved;
            }
        }
    }

    pub fn has(&self, name: &Name) -> bool {
        self.lock().contains_key(name)
    }

    /// Returns the tree that the thread empties now, if it does.
    pub fn current(&self) -> Option<LongJob> {
        let trash = self.lock();
        let begun = trash.values().filter_map(|tree| tree.progress.so_far());
        begun.min().map(|(begun, done)| LongJob {
            task: JobTask::Delete,
            path: None,
            done,
            total: None,
            begun,
        })
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}
