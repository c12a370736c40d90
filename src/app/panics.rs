//! Panics in any thread: they are noted and reported, and the process does not wait long for that.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::stderr;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Whether a thread has panicked.
pub static PANICKED: AtomicBool = AtomicBool::new(false);

/// Whether the report of a panic is complete.
static SAID: AtomicBool = AtomicBool::new(false);

/// How long a stderr that nobody reads may delay the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Bytes that a pipe accepts without blocking if it accepts any. See pipe(7).
const AT_ONCE: usize = 4096;

/// Installs a hook that notes a panic in any thread, and reports it. The thread then unwinds, which
/// removes its temporary files.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        let is_first = !PANICKED.swap(true, Ordering::Relaxed);
        let was_taken = say(&text_of(info));
        // A backtrace may take longer than the process waits, and nobody may be reading it.
        if is_first && was_taken {
            let backtrace = Backtrace::capture();
            if backtrace.status() == BacktraceStatus::Captured {
                say(&format!("{backtrace}\n"));
            }
        }
        SAID.store(true, Ordering::Relaxed);
    }));
}

/// Waits up to `LAST_WORDS` until the panic is reported. Otherwise the end of the process would
/// cut the report off.
pub fn await_last_words() {
    let end = Instant::now() + LAST_WORDS;
    while !SAID.load(Ordering::Relaxed) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text_of(info: &PanicHookInfo<'_>) -> String {
    let (thread, version) = (std::thread::current(), env!("CARGO_PKG_VERSION"));
    let name = thread.name().unwrap_or("unnamed");
    format!(
        "\nthread '{name}' {info}\nerror: this is a bug in twindir {version}: please report these lines\n"
    )
}

/// Writes to stderr while it accepts bytes. Returns whether it accepted all. Does not take the lock
/// of stderr: whoever holds it may be blocked.
fn say(text: &str) -> bool {
    let (end, stderr) = (Instant::now() + LAST_WORDS, stderr());
    let mut rest = text.as_bytes();
    while !rest.is_empty() && takes_more(stderr.as_fd(), end) {
        match rustix::io::write(stderr.as_fd(), &rest[..rest.len().min(AT_ONCE)]) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    rest.is_empty()
}

/// Waits until writing would not block. Returns false if that is not so by `end`.
fn takes_more(stderr: BorrowedFd<'_>, end: Instant) -> bool {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(left).unwrap_or_default();
        let mut fds = [PollFd::from_borrowed_fd(stderr, PollFlags::OUT)];
        match poll(&mut fds, Some(&wait)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_) if left.is_zero() => return false,
            // A signal has interrupted the call: try again.
            Err(_) => {}
        }
    }
}
