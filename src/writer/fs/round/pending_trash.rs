//! Trees that were put aside and that the trash thread has: in which directory each lies by now.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::path::{Name, RelPath};
use crate::writer::fs::trash::Trash;

#[derive(Default)]
pub(super) struct PendingTrash(Mutex<HashMap<Name, RelPath>>);

impl PendingTrash {
    fn lock(&self) -> MutexGuard<'_, HashMap<Name, RelPath>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, aside: &Trash) {
        self.lock().insert(aside.name.clone(), aside.dir.clone());
    }

    /// The trash thread has given it back: where it lies.
    pub fn end(&self, aside: &Trash) -> RelPath {
        self.lock().remove(&aside.name).unwrap_or_else(|| aside.dir.clone())
    }

    /// A directory was renamed.
    pub fn rename(&self, from: &RelPath, to: &RelPath) {
        for dir in self.lock().values_mut() {
            if let Some(moved) = dir.rebased(from, to) {
                *dir = moved;
            }
        }
    }

    pub fn has(&self, name: &Name) -> bool {
        self.lock().contains_key(name)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}
