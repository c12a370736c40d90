//! What the system lets the process use. A run that could not be carried through is refused at its
//! start.

use std::io;
use std::thread::Builder;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Threads without which something would not be done: those for signals, console, log, trash thread
/// and the watch's three, and two that walk. The workers for big files come on top; others help
/// where they can be had.
const THREADS: usize = 9;

/// Threads that help, for each of `--threads`: in a round and in two walks.
const HELPERS: usize = 3;

/// Address space that a thread may take, in bytes: a stack of 2 MiB, and 64 MiB of which the
/// allocator uses a little (twice as much for a moment, to align it).
const SPACE: u64 = 72 << 20;

/// The stack of a thread and what else it may write to, in bytes.
const STACK: u64 = 9 << 18;

/// What is read, compared and remembered, in bytes.
const BUFFERS: u64 = 16 << 20;

/// The stack of the first thread, in bytes.
const LEAST_STACK: u64 = 512 << 10;

/// Raises the limit on open files as far as that goes, and sees that this and the others will do.
///
/// # Errors
/// A sentence that says what to do.
pub fn check(threads: usize) -> Result<(), String> {
    raise_open_files(threads)?;
    check_address_space(threads)?;
    try_threads(THREADS + threads).map_err(|error| {
        format!(
            "{} threads are needed, and not so many can be started ({error}): raise the limit on processes \
             (ulimit -u){}",
            THREADS + threads,
            or_fewer(threads)
        )
    })
}

/// A round holds a few hundred directories open; the usual soft limit of 1024 leaves little
/// room, and the hard one is there for being used.
fn raise_open_files(threads: usize) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    // Both sides of a round's directories, and for each thread its big files and its walk.
    let need = 64 + 2 * 64 + 24 * threads as u64;
    match getrlimit(Resource::Nofile).current {
        Some(have) if have < need => Err(format!(
            "only {have} files may be open at once, and {need} are needed with {threads} threads: raise the \
             limit (ulimit -n {need}){}",
            or_fewer(threads)
        )),
        _ => Ok(()),
    }
}

/// Past the limit on address space, or on data, an allocation fails, or a stack does not grow:
/// either ends the process.
fn check_address_space(threads: usize) -> Result<(), String> {
    let number = (THREADS + threads + HELPERS * threads) as u64;
    let limits = [
        (Resource::As, "address space", "-v", number * SPACE),
        (Resource::Data, "data", "-d", number * STACK + BUFFERS),
    ];
    for (resource, what, option, need) in limits {
        if let Some(have) = getrlimit(resource).current.filter(|have| *have < need) {
            return Err(format!(
                "only {} MiB of {what} may be used, and {} are needed with {threads} threads: raise the limit \
                 (ulimit {option} {}){}",
                have >> 20,
                need >> 20,
                need >> 10,
                or_fewer(threads)
            ));
        }
    }
    Ok(())
}

/// Sees that the first thread has a stack to speak of. To be called before anything else.
///
/// # Errors
/// A sentence that says what to do.
pub fn check_stack() -> Result<(), String> {
    match getrlimit(Resource::Stack).current {
        Some(have) if have < LEAST_STACK => Err(format!(
            "the stack may have no more than {} KiB, and {} are needed: raise the limit (ulimit -s 8192)",
            have >> 10,
            LEAST_STACK >> 10
        )),
        _ => Ok(()),
    }
}

fn or_fewer(threads: usize) -> &'static str {
    if threads > 1 { " or give fewer --threads" } else { "" }
}

/// Starts so many threads at once, for a moment.
fn try_threads(number: usize) -> io::Result<()> {
    let (hold, wait) = crossbeam_channel::bounded::<()>(0);
    let mut started = Vec::new();
    let result = (0..number).try_for_each(|_| {
        let wait = wait.clone();
        started
            .push(Builder::new().name("twindir-trial".into()).spawn(move || wait.recv().is_err())?);
        Ok(())
    });
    drop(hold);
    for thread in started {
        let _ = thread.join();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_can_be_started_here() {
        assert!(try_threads(THREADS + 2).is_ok());
    }
}
