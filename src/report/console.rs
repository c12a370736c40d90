//! The console: a thread that writes, behind a channel whose senders never wait for long. A
//! terminal that is stopped by Ctrl-S, or a pipe that nobody reads, must not stop the mirroring.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded};
use jiff::Timestamp;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::burst::Burst;
use super::console_format::LineFormat;
use super::format::Fields;

/// Number of lines that may wait for the console.
const WAITING_LINES: usize = 8_192;

/// How long a line waits for a place in the channel before the console counts as stuck. And the
/// interval between two checks of `patient_until`, while lines are not dropped.
const PATIENCE: Duration = Duration::from_millis(800);
const POLL: Duration = Duration::from_millis(50);

/// The shortest time between two writes.
const PAUSE: Duration = Duration::from_millis(5);

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
    /// Something that happened, to be formatted.
    Event(Level, Timestamp, Fields),
    Line(Stream, Vec<u8>),
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
    /// Whether the terminal can have a live line.
    pub(super) has_live_line: bool,
}

impl Console {
    /// Starts the thread that writes. `format`: how it formats events.
    pub(super) fn start(patient_until: Option<Arc<AtomicBool>>, format: LineFormat) -> Self {
        let (lines, inbox) = bounded(WAITING_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        let has_live_line = format.has_live_line();
        // If the thread cannot be started (a limit on processes), only the log file gets the lines.
        let _ = std::thread::Builder::new()
            .name("twindir-console".into())
            .spawn(move || write(&inbox, &counter, &format));
        Self { lines, dropped, patient_until, has_live_line }
    }

    pub(super) fn send(&self, stream: Stream, line: Vec<u8>) {
        self.put(ConsoleEvent::Line(stream, line));
    }

    pub(super) fn report(&self, level: Level, fields: Fields) {
        self.put(ConsoleEvent::Event(level, Timestamp::now(), fields));
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

    /// Writes a line, after what stands for actions without their own.
    fn put(&mut self, stream: Stream, line: &[u8]) {
        self.sum_up();
        if stream == Stream::Out {
            _ = self.out.write_all(line);
        } else {
            // In the original order, if both are one terminal.
            _ = self.out.flush();
            _ = io::stderr().write_all(line);
        }
    }

    fn draw(&mut self) {
        let Some(text) = &self.live else { return };
        let line = fit(text, columns() - 1);
        _ = self.out.write_all(line.as_bytes());
        self.drawn = Some(line.chars().count());
    }
}

/// Runs the thread. Write errors are ignored: a closed console is no reason to stop.
fn write(inbox: &Receiver<ConsoleEvent>, dropped: &AtomicU64, format: &LineFormat) {
    let out = io::BufWriter::new(io::stdout());
    let mut screen = Screen { out, burst: Burst::default(), live: None, drawn: None };
    let mut written = Instant::now();
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
        // In a burst one write takes many lines, and the senders need not wake this thread for each.
        std::thread::sleep(PAUSE.saturating_sub(written.elapsed()));
        screen.erase();
        for message in first.into_iter().chain(inbox.try_iter()) {
            match message {
                ConsoleEvent::Event(level, at, fields) => match format.action(&fields) {
                    Some(action) => {
                        // An earlier burst may be due. It has to end before another one begins.
                        screen.sum_up_if_due();
                        if screen.burst.add(action, Instant::now()) {
                            let line = format.line(level, at, &fields);
                            _ = screen.out.write_all(line.as_bytes());
                        }
                    }
                    None => {
                        screen.put(Stream::of(level), format.line(level, at, &fields).as_bytes());
                    }
                },
                ConsoleEvent::Line(stream, line) => screen.put(stream, &line),
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
        written = Instant::now();
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
