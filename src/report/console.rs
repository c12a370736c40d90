//! The console: a thread that writes, behind a channel whose senders never wait for long. A
//! terminal that is stopped by Ctrl-S, or a pipe that nobody reads, must not stop the mirroring.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::burst::{Action, Burst};

/// Number of lines that may wait for the console.
const WAITING_LINES: usize = 8_192;

/// How long a line waits for a place in the channel before the console counts as stuck. And the
/// interval between two checks of `patient_until`, while lines are not dropped.
const PATIENCE: Duration = Duration::from_millis(800);
const POLL: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

impl Stream {
    /// Returns stderr for warnings and errors, and stdout for all else.
    pub(super) fn of(level: Level) -> Self {
        if level <= Level::WARN { Self::Err } else { Self::Out }
    }
}

enum ConsoleEvent {
    Line(Stream, Vec<u8>),
    /// A line that may be summed up with others.
    Action(Action),
    /// Replaces the live line of a terminal.
    Live(String),
    /// Writes all earlier lines and removes the live line, then notifies the sender.
    Finish(Sender<()>),
}

/// The sending side of the console; clones share it.
#[derive(Clone)]
pub struct Console {
    lines: Sender<ConsoleEvent>,
    /// Lines dropped since the console got stuck; 0 while it is not.
    dropped: Arc<AtomicU64>,
    /// No line is dropped before this flag is set. `None`: a stuck console loses lines.
    patient_until: Option<Arc<AtomicBool>>,
    pub(super) colour_out: bool,
    pub(super) colour_err: bool,
    /// Whether the terminal can have a live line.
    pub(super) has_live_line: bool,
}

impl Console {
    pub(super) fn start(patient_until: Option<Arc<AtomicBool>>) -> Self {
        let (lines, inbox) = bounded(WAITING_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        // If the thread cannot be started (a limit on processes), only the log file gets the lines.
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
            has_live_line: io::stdout().is_terminal()
                && std::env::var_os("TERM").is_some_and(|term| term != "dumb"),
        }
    }

    pub(super) fn send(&self, stream: Stream, line: Vec<u8>) {
        self.put(ConsoleEvent::Line(stream, line));
    }

    pub(super) fn act(&self, action: Action) {
        self.put(ConsoleEvent::Action(action));
    }

    fn put(&self, mut message: ConsoleEvent) {
        let stuck = self.dropped.load(Ordering::Relaxed) > 0;
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

    /// Returns the timeout for one try to send or receive.
    fn patience(&self) -> Duration {
        if self.is_patient() { POLL } else { PATIENCE }
    }

    /// Shows a live line, or drops it if the channel is full.
    fn show(&self, line: String) {
        let _ = self.lines.try_send(ConsoleEvent::Live(line));
    }

    /// Writes a line to stderr without `tracing`: for problems of the reporting itself.
    pub(super) fn complain(&self, line: &str) {
        self.send(Stream::Err, format!("twindir: {line}\n").into_bytes());
    }

    /// Waits until all earlier lines are written. Gives up if the console is stuck.
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

/// The live line of a terminal. Without a console, nothing is shown.
#[derive(Clone)]
pub struct LiveLine {
    console: Option<Console>,
}

impl LiveLine {
    pub(super) fn new(console: Option<Console>) -> Self {
        Self { console }
    }

    /// Makes a live line that is never shown.
    #[cfg(test)]
    pub fn nowhere() -> Self {
        Self { console: None }
    }

    /// Returns whether there is a terminal that shows the line.
    pub fn is_shown(&self) -> bool {
        self.console.is_some()
    }

    /// Shows a line below all others, until the next call.
    pub fn show(&self, line: String) {
        if let Some(console) = &self.console {
            console.show(line);
        }
    }
}

/// The state of the console's thread.
struct Screen {
    out: io::BufWriter<io::Stdout>,
    burst: Burst,
    live: Option<String>,
    /// Number of columns of the live line on the screen; `None` if there is none.
    drawn: Option<usize>,
}

/// Returns the columns of the terminal, 80 if they are unknown.
/// Shortens a live line to some columns: leaves out each part that does not fit whole. The first
/// part is cut if it has to be.
fn fit(text: &str, columns: usize) -> String {
    let width = |text: &str| text.chars().count();
    let mut parts = text.split(", ");
    let mut line: String = parts.next().unwrap_or_default().chars().take(columns).collect();
    for part in parts {
        if width(&line) + 2 + width(part) <= columns {
            line.push_str(", ");
            line.push_str(part);
        }
    }
    line
}

fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    size.map_or(80, |size| usize::from(size.ws_col)).max(2)
}

impl Screen {
    /// Removes the live line. It may take several rows by now, if the terminal has become narrower.
    fn erase(&mut self) {
        let Some(drawn) = self.drawn.take() else { return };
        let above = drawn.saturating_sub(1) / columns();
        _ = self.out.write_all(b"\r");
        if above > 0 {
            _ = write!(self.out, "\x1b[{above}A");
        }
        _ = self.out.write_all(b"\x1b[J");
    }

    /// Writes the sums of actions without their own line. They belong before the next line.
    fn sum_up(&mut self) {
        let lines = self.burst.sum_up();
        _ = self.out.write_all(lines.concat().as_bytes());
    }

    fn sum_up_if_due(&mut self) {
        let lines = self.burst.sum_up_if_due(Instant::now());
        _ = self.out.write_all(lines.concat().as_bytes());
    }

    fn draw(&mut self) {
        let Some(text) = &self.live else { return };
        let line = fit(text, columns() - 1);
        _ = self.out.write_all(line.as_bytes());
        self.drawn = Some(line.chars().count());
    }
}

/// Runs the thread. Write errors are ignored: a closed console is no reason to stop.
fn write(inbox: &Receiver<ConsoleEvent>, dropped: &AtomicU64) {
    let out = io::BufWriter::new(io::stdout());
    let mut screen = Screen { out, burst: Burst::default(), live: None, drawn: None };
    loop {
        let first = match screen.burst.due() {
            Some(due) => inbox.recv_deadline(due),
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let first = match first {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        screen.erase();
        for message in first.into_iter().chain(inbox.try_iter()) {
            match message {
                ConsoleEvent::Action(action) => {
                    // A sum that is due belongs to the previous burst.
                    screen.sum_up_if_due();
                    let line = screen.burst.add(action, Instant::now());
                    _ = screen.out.write_all(line.unwrap_or_default().as_bytes());
                }
                ConsoleEvent::Line(Stream::Out, line) => {
                    screen.sum_up();
                    _ = screen.out.write_all(&line);
                }
                ConsoleEvent::Line(Stream::Err, line) => {
                    screen.sum_up();
                    // If both streams are one terminal, this keeps the order of the lines.
                    _ = screen.out.flush();
                    _ = io::stderr().write_all(&line);
                }
                ConsoleEvent::Live(line) => screen.live = Some(line),
                ConsoleEvent::Finish(told) => {
                    screen.sum_up();
                    screen.live = None;
                    _ = screen.out.flush();
                    _ = told.send(());
                }
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            _ = writeln!(
                screen.out,
                "         ({lost} lines are missing here: the console did not take them)"
            );
        }
        screen.sum_up_if_due();
        screen.draw();
        _ = screen.out.flush();
    }
}

/// A writer that sends the lines of one event to the console.
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

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> ConsoleWriter<'a> {
        ConsoleWriter { console: self, stream: Stream::of(*meta.level()) }
    }
}

#[cfg(test)]
mod tests {
    use super::fit;

    #[test]
    fn a_narrow_terminal_shows_whole_parts() {
        let line = "in sync since 21:02:31, next full sweep 22:02:57, 3 problems";
        assert_eq!(fit(line, 80), line);
        assert_eq!(fit(line, 39), "in sync since 21:02:31, 3 problems");
        assert_eq!(fit(line, 30), "in sync since 21:02:31");
        assert_eq!(fit(line, 10), "in sync si");
    }
}
