//! Console lines for people: a short, coloured line for each event. On a terminal, bursts of
//! actions are summed up.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use jiff::Zoned;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Console;
use super::burst::Action;
use super::console::Stream;
use super::format::{Fields, details};

/// Width of the first word of a console line, in columns.
const WORD: usize = 8;

/// The layer that writes each event to the console.
pub(super) struct ConsoleLayer {
    console: Console,
    /// Whether bursts of actions are summed up.
    sums_bursts: bool,
    prefix: Prefix,
}

/// The beginning of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefix {
    Time,
    /// The journal adds times itself, and reads the priority from the line. See sd-daemon(3).
    Priority,
}

impl ConsoleLayer {
    /// Creates the layer. `is_terse`: bursts may be summed up, if there is a live line.
    pub fn new(console: Console, is_terse: bool) -> Self {
        let sums_bursts = is_terse && console.has_live_line;
        let prefix = if is_journal() { Prefix::Priority } else { Prefix::Time };
        Self { console, sums_bursts, prefix }
    }

    /// Returns whether its lines stay in view: on a terminal with a live line, or in the journal.
    pub fn is_kept(&self) -> bool {
        self.console.has_live_line || self.prefix == Prefix::Priority
    }

    fn style(&self, level: Level, op: &str) -> Style {
        let coloured =
            if level <= Level::WARN { self.console.colour_err } else { self.console.colour_out };
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
    fn line(&self, level: Level, fields: &Fields) -> String {
        let style = self.style(level, &fields.op);
        let mut line = match self.prefix {
            Prefix::Time => Zoned::now().strftime("%H:%M:%S ").to_string(),
            Prefix::Priority => format!("<{}>", priority(level)),
        };
        let mark = if fields.get("dry_run").is_some() { "(dry run) " } else { "" };
        let _ = write!(line, "{mark}{style}{:<WORD$}{style:#}", fields.op.replace('_', " "));
        if let Some(path) = fields.get("path") {
            let slash = if fields.get("kind") == Some("dir") { "/" } else { "" };
            let _ = write!(line, " {path}{slash}");
        }
        if let Some(details) = details(fields) {
            let _ = write!(line, " ({details})");
        }
        if !fields.message.is_empty() {
            let colon = if fields.get("path").is_some() { ":" } else { "" };
            let _ = write!(line, "{colon} {}", fields.message);
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

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ConsoleLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        let fields = Fields::of(event);
        let line = self.line(level, &fields);
        let is_action = matches!(fields.op.as_str(), "created" | "updated" | "removed" | "renamed")
            && fields.get("dry_run").is_none();
        if self.sums_bursts && is_action {
            let number = |key| fields.get(key).and_then(|text| text.parse().ok());
            let path = fields.get("path").unwrap_or_default().to_owned();
            let (entries, bytes) = (number("entries").unwrap_or(1), number("bytes").unwrap_or(0));
            let op = fields.op.clone();
            return self.console.act(Action { op, path, entries, bytes, line });
        }
        self.console.send(Stream::of(level), line.into_bytes());
    }
}
