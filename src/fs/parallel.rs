//! Runs the tasks of one phase on all cores and waits for them.

use std::sync::Mutex;
use std::time::Instant;

/// Runs `tasks` on up to `threads` threads, including the caller's. Returns the results, and the
/// tasks that were not begun before `until`. At least one task is always begun, so that even the
/// slowest machine makes progress. A single task starts no thread. If a thread cannot be started,
/// the others do its work.
///
/// # Panics
/// If a task panics.
pub fn run<T: Send, R: Send>(
    threads: usize,
    tasks: Vec<T>,
    until: Option<Instant>,
    work: impl Fn(T) -> R + Sync,
) -> (Vec<R>, Vec<T>) {
    let helpers = threads.min(tasks.len()).saturating_sub(1);
    let waiting = Mutex::new(tasks.into_iter());
    let drain = || {
        let mut results = Vec::new();
        while let Some(task) = next(&waiting) {
            results.push(work(task));
            if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
        }
        results
    };
    let results = std::thread::scope(|scope| {
        let spawn = |_| {
            std::thread::Builder::new().name("twindir-round".into()).spawn_scoped(scope, drain).ok()
        };
        let helpers: Vec<_> = (0..helpers).filter_map(spawn).collect();
        let mut results = drain();
        for helper in helpers {
            results.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    });
    let left = waiting.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    (results, left.collect())
}

fn next<T>(waiting: &Mutex<std::vec::IntoIter<T>>) -> Option<T> {
    waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_runs_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 7] {
            let (mut results, left) = run(threads, (0..100).collect(), None, |n| n * 2);
            results.sort_unstable();
            assert_eq!(results, (0..100).map(|n| n * 2).collect::<Vec<_>>());
            assert!(left.is_empty());
        }
    }

    #[test]
    fn after_the_time_is_up_no_second_task_begins_and_none_is_lost() {
        let (results, left) = run(1, vec![1, 2, 3], Some(Instant::now()), |n| n);
        assert_eq!((results, left), (vec![1], vec![2, 3]));
    }
}
