//! The console: a thread that writes, and a way in that never waits for long. A terminal that
//! is stopped by Ctrl-S, or a pipe that nobody reads, must not stop the mirroring.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for the console.
const WAITING_LINES: usize = 8_192;

/// How long a line waits for a place before the console counts as stuck; and less, where there is
/// no end to that.
const PATIENCE: Duration = Duration::from_millis(800);
const LOOK: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

enum ConsoleEvent {
    Line(Stream, Vec<u8>),
    /// Everything before this is written out, and the sender told.
    Finish(Sender<()>),
}

/// The way to the console; clones share it.
#[derive(Clone)]
pub struct Console {
    lines: Sender<ConsoleEvent>,
    /// Lines dropped since the console got stuck; 0 while it is not.
    dropped: Arc<AtomicU64>,
    /// Where it is set, the console is waited for until it says so.
    patient_until: Option<Arc<AtomicBool>>,
    pub(super) colour_out: bool,
    pub(super) colour_err: bool,
}

impl Console {
    pub(super) fn start(patient_until: Option<Arc<AtomicBool>>) -> Self {
        let (lines, inbox) = bounded(WAITING_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        // Without a thread (a limit on processes) the console stays silent; the log file speaks.
        let _ = std::thread::Builder::new()
            .name("twindir-console".into())
            .spawn(move || write(&inbox, &counter));
        let colour = |choice| choice != anstream::ColorChoice::Never;
        Self {
            lines,
            dropped,
            patient_until,
            colour_out: io::stdout().is_terminal()
                && colour(anstream::AutoStream::choice(&io::stdout())),
            colour_err: io::stderr().is_terminal()
                && colour(anstream::AutoStream::choice(&io::stderr())),
        }
    }

    fn send(&self, stream: Stream, line: Vec<u8>) {
        let stuck = self.dropped.load(Ordering::Relaxed) > 0;
        let mut message = ConsoleEvent::Line(stream, line);
        loop {
            let patience = if stuck { Duration::ZERO } else { self.patience() };
            match self.lines.send_timeout(message, patience) {
                Err(SendTimeoutError::Timeout(back)) if self.is_patient() => message = back,
                Err(_) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Ok(()) => return,
            }
        }
    }

    fn is_patient(&self) -> bool {
        self.patient_until.as_ref().is_some_and(|over| !over.load(Ordering::Relaxed))
    }

    /// How long to wait before asking that again.
    fn patience(&self) -> Duration {
        if self.is_patient() { LOOK } else { PATIENCE }
    }

    /// A line to stderr, past `tracing`: for what concerns the reporting itself.
    pub(super) fn complain(&self, line: &str) {
        self.send(Stream::Err, format!("twindir: {line}\n").into_bytes());
    }

    /// Waits until what was said has been written, or the console is stuck.
    pub(super) fn finish(&self) {
        let (told, finished) = bounded(1);
        let mut message = ConsoleEvent::Finish(told);
        while let Err(SendTimeoutError::Timeout(back)) =
            self.lines.send_timeout(message, self.patience())
        {
            if !self.is_patient() {
                return;
            }
            message = back;
        }
        while let Err(RecvTimeoutError::Timeout) = finished.recv_timeout(self.patience()) {
            if !self.is_patient() {
                return;
            }
        }
    }
}

/// The thread's work. Write errors are passed over: a closed console is no reason to stop.
fn write(inbox: &Receiver<ConsoleEvent>, dropped: &AtomicU64) {
    let mut out = io::BufWriter::new(io::stdout());
    while let Ok(first) = inbox.recv() {
        for message in std::iter::once(first).chain(inbox.try_iter()) {
            match message {
                ConsoleEvent::Line(Stream::Out, line) => _ = out.write_all(&line),
                ConsoleEvent::Line(Stream::Err, line) => {
                    // In the order in which things were said, should both be one terminal.
                    _ = out.flush();
                    _ = io::stderr().write_all(&line);
                }
                ConsoleEvent::Finish(told) => {
                    _ = out.flush();
                    _ = told.send(());
                }
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            _ = writeln!(
                out,
                "         ({lost} lines are missing here: the console did not take them)"
            );
        }
        _ = out.flush();
    }
}

/// Takes the lines of one event.
pub struct ConsoleWriter<'a> {
    console: &'a Console,
    stream: Stream,
}

impl Write for ConsoleWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.console.send(self.stream, line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = ConsoleWriter<'a>;

    fn make_writer(&'a self) -> ConsoleWriter<'a> {
        ConsoleWriter { console: self, stream: Stream::Out }
    }

    /// Warnings and errors go to stderr, all else to stdout.
    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> ConsoleWriter<'a> {
        let stream = if *meta.level() <= Level::WARN { Stream::Err } else { Stream::Out };
        ConsoleWriter { console: self, stream }
    }
}
