//! Console lines for people: a short, coloured line for each event. On a terminal, bursts of
//! actions are summed up.

use std::fmt::Write;
use std::io::{self, IsTerminal};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Console;
use super::burst::Action;
use super::format::{Fields, details, push_time_of_day};

/// Width of the first word of a console line, in columns.
const WORD: usize = 8;

/// The layer that hands each event to the console's thread, which formats it.
pub(super) struct ConsoleLayer(pub Console);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ConsoleLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.report(*event.metadata().level(), Fields::of(event));
    }
}

/// How the lines of a console look.
pub(super) struct LineFormat {
    prefix: Prefix,
    /// Whether bursts of actions are summed up.
    sums_bursts: bool,
    colour_out: bool,
    colour_err: bool,
    has_live_line: bool,
}

/// The beginning of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefix {
    Time,
    /// The journal adds times itself, and reads the priority from the line. See sd-daemon(3).
    Priority,
}

impl LineFormat {
    /// Returns the format for stdout and stderr as they are. `is_terse`: bursts may be summed up, if
    /// there is a live line.
    pub fn of_process(is_terse: bool) -> Self {
        let colour = |choice| choice != anstream::ColorChoice::Never;
        let has_live_line = io::stdout().is_terminal()
            && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        Self {
            prefix: if is_journal() { Prefix::Priority } else { Prefix::Time },
            sums_bursts: is_terse && has_live_line,
            colour_out: io::stdout().is_terminal()
                && colour(anstream::AutoStream::choice(&io::stdout())),
            colour_err: io::stderr().is_terminal()
                && colour(anstream::AutoStream::choice(&io::stderr())),
            has_live_line,
        }
    }

    /// Returns whether the terminal can have a live line.
    pub fn has_live_line(&self) -> bool {
        self.has_live_line
    }

    /// Returns whether its lines stay in view: on a terminal with a live line, or in the journal.
    pub fn is_kept(&self) -> bool {
        self.has_live_line || self.prefix == Prefix::Priority
    }

    /// Returns the action that an event reports, if it is one that may be summed up with others.
    pub fn action(&self, fields: &Fields) -> Option<Action> {
        let is_action = matches!(fields.op(), "created" | "updated" | "removed" | "renamed")
            && fields.get("dry_run").is_none();
        let number = |key| fields.get(key).and_then(|text| text.parse().ok());
        (self.sums_bursts && is_action).then(|| Action {
            op: fields.op().to_owned(),
            path: fields.get("path").unwrap_or_default().to_owned(),
            entries: number("entries").unwrap_or(1),
            bytes: number("bytes").unwrap_or(0),
        })
    }

    fn style(&self, level: Level, op: &str) -> Style {
        let coloured = if level <= Level::WARN { self.colour_err } else { self.colour_out };
        let style = Style::new();
        if !coloured {
            return style;
        }
        let colour = match (level, op) {
            (Level::ERROR, _) => AnsiColor::Red,
            (Level::WARN, _) | (_, "removed") => AnsiColor::Yellow,
            (_, "created" | "synced") => AnsiColor::Green,
            (_, "updated" | "renamed") => AnsiColor::Cyan,
            _ => return style.dimmed(),
        };
        style.fg_color(Some(colour.into()))
    }

    /// Formats a line: `14:03:10 created  docs/guide.md (new, 12.3 kB)`.
    pub fn line(&self, level: Level, at: Timestamp, fields: &Fields) -> String {
        let style = self.style(level, fields.op());
        let mut line = String::new();
        match self.prefix {
            Prefix::Time => push_time_of_day(&mut line, at),
            Prefix::Priority => _ = write!(line, "<{}>", priority(level)),
        }
        let mark = if fields.get("dry_run").is_some() { "(dry run) " } else { "" };
        let _ = write!(line, "{mark}{style}{:<WORD$}{style:#}", fields.op().replace('_', " "));
        if let Some(path) = fields.get("path") {
            let slash = if fields.get("kind") == Some("dir") { "/" } else { "" };
            let _ = write!(line, " {path}{slash}");
        }
        if let Some(details) = details(fields) {
            let _ = write!(line, " ({details})");
        }
        if !fields.message().is_empty() {
            let colon = if fields.get("path").is_some() { ":" } else { "" };
            let _ = write!(line, "{colon} {}", fields.message());
        }
        line.push('\n');
        line
    }
}

/// Returns whether stdout or stderr is the journal. See systemd.exec(5), under `JOURNAL_STREAM`.
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let stat = |stream: std::io::Result<rustix::fs::Stat>| {
        stream.ok().map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino))
    };
    let both = [
        stat(rustix::fs::fstat(std::io::stdout()).map_err(Into::into)),
        stat(rustix::fs::fstat(std::io::stderr()).map_err(Into::into)),
    ];
    both.contains(&Some(named))
}

/// Returns the priority of a level, as in syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}
