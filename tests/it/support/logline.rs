//! A line of the log, taken apart.

use std::collections::BTreeMap;

/// `<RFC 3339 with offset> <LEVEL> <operation> key=value ...`
#[derive(Debug, Clone)]
pub struct LogLine {
    pub level: String,
    pub operation: String,
    /// Values without their quotes, escapes left as they stand.
    pub fields: BTreeMap<String, String>,
}

impl LogLine {
    /// Fails where the line has another form.
    #[track_caller]
    pub fn parse(line: &str) -> Self {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("too short: {line}"));
        assert_time(word(), line);
        let level = word().to_owned();
        let known = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
        assert!(known.contains(&level.as_str()), "no level: {line}");
        let operation = word().to_owned();
        let fields = fields(words.next().unwrap_or(""));
        Self { level, operation, fields }
    }

    #[track_caller]
    pub fn parse_all(log: &str) -> Vec<Self> {
        log.lines().map(Self::parse).collect()
    }

    pub fn get(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    pub fn is_action(&self) -> bool {
        matches!(self.operation.as_str(), "created" | "updated" | "removed" | "renamed")
    }
}

/// `2026-11-20T14:03:10.123+01:00`, or with `Z`.
#[track_caller]
fn assert_time(time: &str, line: &str) {
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let rest =
        shape.strip_prefix("0000-00-00T00:00:00.").unwrap_or_else(|| panic!("no time: {line}"));
    let zone = rest.trim_start_matches('0');
    assert!(matches!(zone, "Z" | "+00:00" | "-00:00"), "no offset: {line}");
}

/// Words of the form `key=value` or `key="quoted value"`; others are passed over.
fn fields(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let key = &rest[..end];
        let Some(value) = rest[end..].strip_prefix('=') else {
            rest = rest.get(end + 1..).unwrap_or("");
            continue;
        };
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => {
                let end = closing_quote(quoted);
                (&quoted[..end], quoted.get(end + 1..).unwrap_or(""))
            }
            None => value.split_once(' ').unwrap_or((value, "")),
        };
        found.insert(key.to_owned(), value.to_owned());
        rest = after.trim_start();
    }
    found
}

fn closing_quote(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at,
            _ => {}
        }
    }
    panic!("a quote without its end: {text}");
}
