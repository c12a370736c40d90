//! Runs tasks on several threads. A task may add further tasks. The newest run first, so that the
//! number of waiting tasks grows with the depth and width of the tree, not with its size.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

struct SharedSteps<T> {
    waiting: Vec<T>,
    /// The number of running tasks, which may still add others.
    running: usize,
}

struct Shared<T> {
    state: Mutex<SharedSteps<T>>,
    changed: Condvar,
}

/// Runs the `first` tasks and all tasks that these add, on up to `threads` threads, including the
/// caller's. `work` adds further tasks to its second argument, in the order in which they are to
/// run.
pub(super) fn walk<T: Send>(threads: usize, first: Vec<T>, work: impl Fn(T, &mut Vec<T>) + Sync) {
    let shared = Shared {
        state: Mutex::new(SharedSteps { waiting: first, running: 0 }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // If a thread cannot be started (a limit on processes), the others do its work.
            let builder = std::thread::Builder::new().name("twindir-walk".into());
            let _ = builder.spawn_scoped(scope, || shared.work(&work));
        }
        shared.work(&work);
    });
}

impl<T> Shared<T> {
    fn work(&self, work: &impl Fn(T, &mut Vec<T>)) {
        let mut new_tasks = Vec::new();
        while let Some(task) = self.next() {
            let ended = Ended(self);
            work(task, &mut new_tasks);
            self.lock().waiting.extend(new_tasks.drain(..).rev());
            drop(ended);
        }
    }

    /// Waits for a task. Returns `None` once no more can come.
    fn next(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.waiting.pop() {
                state.running += 1;
                return Some(task);
            }
            if state.running == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, SharedSteps<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard that notes the end of a task, even if it panics. Otherwise the others would wait for
/// ever.
struct Ended<'a, T>(&'a Shared<T>);

impl<T> Drop for Ended<'_, T> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn all_that_a_task_begets_is_done_whatever_the_number_of_threads() {
        for threads in [1, 2, 5] {
            let leaves = AtomicU64::new(0);
            walk(threads, vec![12_u32], |depth, more| {
                if depth == 0 {
                    leaves.fetch_add(1, Ordering::Relaxed);
                } else {
                    more.extend([depth - 1, depth - 1]);
                }
            });
            assert_eq!(leaves.into_inner(), 1 << 12);
        }
    }

    #[test]
    fn one_thread_works_in_order() {
        let order = Mutex::new(Vec::new());
        walk(1, vec![vec![]], |path: Vec<u8>, more| {
            if path.len() < 2 {
                more.extend([0, 1].map(|n| [path.clone(), vec![n]].concat()));
            }
            order.lock().unwrap().push(path);
        });
        let order: Vec<_> = order.into_inner().unwrap();
        assert_eq!(
            order,
            [vec![], vec![0], vec![0, 0], vec![0, 1], vec![1], vec![1, 0], vec![1, 1]]
        );
    }
}
