//! The format of lines of the log file, with all their fields.

use std::cell::RefCell;
use std::fmt::{self, Write};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::model::human::human_bytes;

/// The fields of an event, as text, in their original order. All of them are in one buffer, since
/// each action of a large copy makes them.
pub(super) struct Fields {
    text: String,
    /// The name of each field, and the end of its value. It begins where the one before ends.
    ends: Vec<(&'static str, usize)>,
}

impl Fields {
    pub fn of(event: &Event<'_>) -> Self {
        let mut fields = Self { text: String::with_capacity(256), ends: Vec::with_capacity(12) };
        event.record(&mut fields);
        fields
    }

    /// Returns the word for what happened.
    pub fn op(&self) -> &str {
        self.get("op").unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.get("message").unwrap_or_default()
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.all().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Returns all other fields.
    fn rest(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.all().filter(|(name, _)| !["op", "message"].contains(name))
    }

    fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let begins = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        self.ends.iter().zip(begins).map(|((name, end), begin)| (*name, &self.text[begin..*end]))
    }

    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let _ = self.text.write_fmt(value);
        self.ends.push((field.name(), self.text.len()));
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text.push_str(value);
        self.ends.push((field.name(), self.text.len()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, format_args!("{value:.3}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format_args!("{value:?}"));
    }
}

/// Returns the text in parentheses after the path of an action. `None` if the event has no reason.
pub(super) fn details(fields: &Fields) -> Option<String> {
    let mut text = fields.get("reason")?.to_owned();
    if let Some(from) = fields.get("from") {
        _ = write!(text, " from {from}");
    }
    if let Some(target) = fields.get("leads_to") {
        _ = write!(text, ", symlink to {target}");
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

/// Returns the time of day `ago` seconds ago, with the date if that was on another day.
pub fn time_of_day(ago: f64) -> String {
    let now = Zoned::now();
    let ago = SignedDuration::try_from_secs_f64(ago).unwrap_or(SignedDuration::ZERO);
    let Ok(then) = now.checked_sub(ago) else { return "long ago".to_owned() };
    let format = if then.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
    then.strftime(format).to_string()
}

/// A second of local time, as text. Most lines are of the same second as the one before.
#[derive(Default)]
struct LocalSecond {
    /// Seconds since 1970.
    unix: i64,
    /// `2026-11-20T14:03:10`
    date_time: String,
    /// `+01:00`
    offset: String,
}

/// Reads the second of a time.
fn with_second<R>(at: Timestamp, read: impl FnOnce(&LocalSecond) -> R) -> R {
    thread_local!(static LAST: RefCell<LocalSecond> = RefCell::default());
    LAST.with_borrow_mut(|last| {
        if last.unix != at.as_second() {
            let zoned = at.to_zoned(TimeZone::system());
            *last = LocalSecond {
                unix: at.as_second(),
                date_time: zoned.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
                offset: zoned.strftime("%:z").to_string(),
            };
        }
        read(last)
    })
}

/// Adds the local time of day to a line: `14:03:10 `.
pub(super) fn push_time_of_day(line: &mut String, at: Timestamp) {
    with_second(at, |second| {
        line.push_str(second.date_time.split('T').next_back().unwrap_or_default());
        line.push(' ');
    });
}

/// A timer for log lines: RFC 3339 with milliseconds and the offset from UTC.
pub(super) struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        let now = Timestamp::now();
        let millis = now.subsec_millisecond();
        with_second(now, |second| write!(out, "{}.{millis:03}{}", second.date_time, second.offset))
    }
}

/// The text format of the log file: `2026-11-20T14:03:10.123+01:00 INFO created
/// path="docs/guide.md" bytes=12300 reason=new ...`
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
        write!(line, " {} {}", event.metadata().level(), fields.op())?;
        for (key, value) in fields.rest() {
            let plain = !matches!(key, "path" | "from")
                && !value.contains([' ', '"', '='])
                && !value.is_empty();
            if plain {
                write!(line, " {key}={value}")?;
            } else {
                write!(line, " {key}=\"{}\"", value.replace('"', "\\\""))?;
            }
        }
        if !fields.message().is_empty() {
            write!(line, " msg=\"{}\"", fields.message().replace('"', "\\\""))?;
        }
        writeln!(line)
    }
}
