//! Resource limits of the process. A run that could not finish within them is refused at its start.

use std::io;
use std::thread::Builder;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of threads that the program cannot do without: signals, console, log and trash, three for
/// the watch, and two that walk. The workers for big files are additional. Other threads only help,
/// and are started if the system allows it.
const THREADS: usize = 9;

/// Number of helping threads for each of `--threads`: one in a round, and one in each of two walks.
const HELPERS: usize = 3;

/// Address space of a thread, in bytes: a stack of 2 MiB, and 64 MiB for the allocator. The
/// allocator uses a small part of that. For a moment it maps twice as much, to align it.
const SPACE: u64 = 72 << 20;

/// Writable memory of a thread, in bytes: its stack and some more.
const STACK: u64 = 9 << 18;

/// Memory for buffers and for what the program remembers, in bytes.
const BUFFERS: u64 = 16 << 20;

/// The smallest stack of the first thread, in bytes.
const LEAST_STACK: u64 = 512 << 10;

/// Raises the limit on open files to the hard limit, then checks the limits on open files, address
/// space, data and threads. `threads`: the value of `--threads`.
///
/// # Errors
/// If a limit is too low: a sentence for the user that says what to do.
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

/// Raises the limit on open files. A round holds a few hundred directories open, so the usual soft
/// limit of 1024 is close. Fails if the hard limit is too low.
fn raise_open_files(threads: usize) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    // The directories of a round on both sides, and for each thread its big files and its walk.
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

/// Checks the limits on address space and data. Beyond them an allocation fails, or a stack cannot
/// grow: either ends the process.
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

/// Checks that the stack of the first thread is large enough. Must be called before anything else.
///
/// # Errors
/// If it is too small: a sentence for the user that says what to do.
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

/// Starts `number` threads at once, for a moment. Fails if one cannot be started.
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
