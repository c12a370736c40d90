//! The format of lines of the log file, with all their fields.

use std::fmt::{self, Write};

use jiff::{SignedDuration, Zoned};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::model::human::human_bytes;

/// The fields of an event, as text, in their original order.
#[derive(Default)]
pub(super) struct Fields {
    pub op: String,
    pub message: String,
    rest: Vec<(&'static str, String)>,
}

impl Fields {
    pub fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    pub fn get(&self, key: &str) -> Option<&str> {
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

/// A timer for log lines: RFC 3339 with milliseconds and the offset from UTC.
pub(super) struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        write!(out, "{}", Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.3f%:z"))
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
