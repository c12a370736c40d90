//! A panic in any thread: it is known, and said, and nobody waits for long until it is said.

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

/// Whether all was said of the panic.
static SAID: AtomicBool = AtomicBool::new(false);

/// How long a stderr that nobody reads may hold up the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a pipe takes at once if it takes anything, in bytes. See pipe(7).
const AT_ONCE: usize = 4096;

/// Lets a panic in any thread be said and known. The thread goes on unwinding, which removes its
/// temporary files.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        let is_first = !PANICKED.swap(true, Ordering::Relaxed);
        let was_taken = say(&text_of(info));
        // Its lines may take longer to find out than the process waits, and nobody may read them.
        if is_first && was_taken {
            let backtrace = Backtrace::capture();
            if backtrace.status() == BacktraceStatus::Captured {
                say(&format!("{backtrace}\n"));
            }
        }
        SAID.store(true, Ordering::Relaxed);
    }));
}

/// The end of the process would cut off a thread that still says why.
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

/// Writes to stderr as long as that takes anything: whether it took all. Its lock is not asked for:
/// whoever has it may be waiting for a reader.
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

/// Waits until writing would not block, at most until `end`.
fn takes_more(stderr: BorrowedFd<'_>, end: Instant) -> bool {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(left).unwrap_or_default();
        let mut fds = [PollFd::from_borrowed_fd(stderr, PollFlags::OUT)];
        match poll(&mut fds, Some(&wait)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_) if left.is_zero() => return false,
            // Of a signal: it says nothing.
            Err(_) => {}
        }
    }
}
