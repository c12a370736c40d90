//! How a line looks: on the console, short and coloured; in the log file, with all its fields.

use std::fmt::{self, Write};

use anstyle::{AnsiColor, Style};
use jiff::Zoned;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::Console;
use crate::model::human::human_bytes;

/// Columns that the word at the head of a console line takes.
const WORD: usize = 8;

/// The fields of an event, as text, in the order in which they were given.
#[derive(Default)]
struct Fields {
    op: String,
    message: String,
    rest: Vec<(&'static str, String)>,
}

impl Fields {
    fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.rest.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str())
    }

    fn put(&mut self, field: &Field, value: String) {
        match field.name() {
            "op" => self.op = value,
            "message" => self.message = value,
            name => self.rest.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, format!("{value:.3}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

/// `14:03:10 created  docs/guide.md (new, 12.3 kB)`
pub(super) struct ConsoleFormat {
    colour_out: bool,
    colour_err: bool,
}

impl ConsoleFormat {
    pub(super) fn new(console: &Console) -> Self {
        Self { colour_out: console.colour_out, colour_err: console.colour_err }
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
            (_, "created" | "settled") => AnsiColor::Green,
            (_, "updated" | "renamed") => AnsiColor::Cyan,
            _ => return style.dimmed(),
        };
        style.fg_color(Some(colour.into()))
    }
}

impl<S, N> FormatEvent<S, N> for ConsoleFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let fields = Fields::of(event);
        let style = self.style(*event.metadata().level(), &fields.op);
        let time = Zoned::now().strftime("%H:%M:%S").to_string();
        let mark = if fields.get("dry_run").is_some() { "(dry run) " } else { "" };
        write!(line, "{time} {mark}{style}{:<WORD$}{style:#}", fields.op)?;
        if let Some(path) = fields.get("path") {
            let slash = if fields.get("kind") == Some("dir") { "/" } else { "" };
            write!(line, " {path}{slash}")?;
        }
        if let Some(details) = details(&fields) {
            write!(line, " ({details})")?;
        }
        if !fields.message.is_empty() {
            let colon = if fields.get("path").is_some() { ":" } else { "" };
            write!(line, "{colon} {}", fields.message)?;
        }
        writeln!(line)
    }
}

/// What stands in parentheses behind the path of an action.
fn details(fields: &Fields) -> Option<String> {
    let mut text = fields.get("reason")?.to_owned();
    if let Some(from) = fields.get("from") {
        _ = write!(text, " from {from}");
    }
    if let Some(differs) = fields.get("differs") {
        _ = write!(text, ": {differs}");
    }
    if let Some(bytes) = fields.get("bytes").and_then(|bytes| bytes.parse().ok()) {
        _ = write!(text, ", {}", human_bytes(bytes));
    }
    if let Some(entries) = fields.get("entries") {
        let least = if fields.get("at_least").is_some() { "at least " } else { "" };
        _ = write!(text, ", {least}{entries} {}", if entries == "1" { "entry" } else { "entries" });
    }
    Some(text)
}

/// RFC 3339 with milliseconds and the offset from UTC.
pub(super) struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        write!(out, "{}", Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.3f%:z"))
    }
}

/// `2026-11-20T14:03:10.123+01:00 INFO created path="docs/guide.md" bytes=12300 reason=new ...`
pub(super) struct LogFormat;

impl<S, N> FormatEvent<S, N> for LogFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let fields = Fields::of(event);
        LocalTime.format_time(&mut line)?;
        write!(line, " {} {}", event.metadata().level(), fields.op)?;
        for (key, value) in &fields.rest {
            let plain = !matches!(*key, "path" | "from")
                && !value.contains([' ', '"', '='])
                && !value.is_empty();
            if plain {
                write!(line, " {key}={value}")?;
            } else {
                write!(line, " {key}=\"{}\"", value.replace('"', "\\\""))?;
            }
        }
        if !fields.message.is_empty() {
            write!(line, " msg=\"{}\"", fields.message.replace('"', "\\\""))?;
        }
        writeln!(line)
    }
}
