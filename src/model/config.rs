//! The settings of a run, as validated from the command line.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use shell_quote::Bash;

use crate::model::limit::Limit;
use crate::model::path::Shown;
use crate::model::task::Task;

/// The shortest and the longest interval.
pub const SHORTEST: Duration = Duration::from_millis(100);
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(365 * 24 * 3600);

/// The longest debounce.
pub const LONGEST_DEBOUNCE: Duration = Duration::from_secs(60);

pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(600);

/// The purpose of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Keeps the replica in sync until a signal comes.
    Keep,
    /// Brings the replica in sync once.
    Once,
    /// Reports what [`Mode::Once`] would do, and changes nothing.
    DryRun,
    /// Reports the differences, and changes nothing.
    Check,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub source: PathBuf,
    pub replica: PathBuf,
    /// Whether the source is watched.
    pub watch: bool,
    /// How long a path must stay unchanged before it is checked.
    pub debounce: Duration,
    /// Time from the end of one sweep to the start of the next.
    pub interval: Duration,
    pub log_file: Option<PathBuf>,
    pub mode: Mode,
    /// How sweeps of both trees compare: in full, or quickly.
    pub task: Task,
    pub log_format: Format,
    /// Patterns of excluded entries, and files with such patterns.
    pub exclude: Vec<String>,
    pub exclude_from: Vec<PathBuf>,
    /// Whether the source's own `.gitignore` files are obeyed.
    pub gitignore: bool,
    /// Whether a missing replica is created.
    pub create: bool,
    pub max_delete: Limit,
    /// Whether an action is on the disk before it is reported.
    pub durable: bool,
    /// The folder that keeps entries which were deleted or overwritten in the replica, and for how
    /// long.
    pub backup_dir: Option<PathBuf>,
    pub backup_keep: Option<Duration>,
    /// Bytes per second that a sweep may read.
    pub sweep_rate: Option<u64>,
    /// Number of threads for each of walking, hashing and copying.
    pub threads: usize,
    /// -1 for warnings and errors only, 0 for actions, 1 for details.
    pub verbosity: i8,
    pub hooks: Hooks,
    pub rerun: Rerun,
}

/// Shell commands of the user.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hooks {
    /// Runs when the replica is in sync after changes.
    pub on_sync: Option<OsString>,
    /// Runs when a problem begins, and when it ends.
    pub on_problem: Option<OsString>,
}

/// The format of the lines in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// The parts of a command line that runs twindir again on the same roots, with the same options.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rerun {
    pub program: OsString,
    /// The options that apply to a single run. Paths are absolute.
    pub options: Vec<OsString>,
    pub roots: [PathBuf; 2],
    /// Whether this run continues until it is stopped.
    pub is_lasting: bool,
}

impl Rerun {
    /// Returns the command of a single run with this `--max-delete`, quoted for a shell, on one
    /// line. It works in any folder.
    pub fn once(&self, max_delete: &str) -> String {
        let fixed = ["--once", "--max-delete", max_delete].map(OsStr::new);
        let options = fixed.into_iter().chain(self.options.iter().map(OsString::as_os_str));
        let roots = self.roots.iter().map(PathBuf::as_path).map(Path::as_os_str);
        // After `--`, a word that begins with a dash is not an option.
        let words =
            std::iter::once(&*self.program).chain(options).chain([OsStr::new("--")]).chain(roots);
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }
}

/// Quotes a word for a shell. Uses the form of bash and zsh if the word is not UTF-8 or cannot be
/// shown on one line, else the form of POSIX.
fn quoted(word: &OsStr) -> String {
    let bytes = word.as_bytes();
    let without_backslashes: Vec<u8> =
        bytes.iter().copied().filter(|byte| *byte != b'\\').collect();
    let is_shown_as_it_is =
        Shown(&without_backslashes).to_string().as_bytes() == without_backslashes;
    match word.to_str().and_then(|text| shlex::try_quote(text).ok()) {
        Some(quoted) if is_shown_as_it_is => quoted.into_owned(),
        _ => String::from_utf8_lossy(&Bash::quote_vec(bytes)).into_owned(),
    }
}

/// Parses an interval: seconds (`60`, `0.5`), or with a unit (`90s`, `5m`, `1h`, `1h 30m`).
///
/// # Errors
/// A sentence for the user, if the text is no time from 0.1 s to 365 days.
pub fn parse_interval(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "{text:?} is no interval: give seconds (60, 0.5) or a time with its unit (90s, 5m, 1h), and a log file \
             after that or by -l"
        )
    };
    let interval = parse_time(text).map_err(|wrongness| match wrongness {
        Wrong::Negative => "an interval cannot be negative".to_owned(),
        Wrong::NoTime => wrong(),
    })?;
    match interval {
        _ if interval.is_zero() => {
            Err("an interval of 0 would never rest: the shortest is 0.1 seconds".to_owned())
        }
        _ if interval < SHORTEST => Err("the shortest interval is 0.1 seconds".to_owned()),
        _ if interval > LONGEST_INTERVAL => Err("the longest interval is 365 days".to_owned()),
        _ => Ok(interval),
    }
}

/// Parses a debounce time, from 0 to 60 s, in the forms of [`parse_interval`].
///
/// # Errors
/// A sentence for the user, if the text is no such time.
pub fn parse_debounce(text: &str) -> Result<Duration, String> {
    match parse_time(text) {
        Ok(time) if time <= LONGEST_DEBOUNCE => Ok(time),
        Ok(_) => Err("the longest debounce is 60 seconds".to_owned()),
        Err(Wrong::Negative) => Err("a debounce cannot be negative".to_owned()),
        Err(Wrong::NoTime) => Err(format!(
            "{text:?} is no time: give it with its unit (10ms, 1s), or seconds (0, 0.5)"
        )),
    }
}

/// Parses a rate in bytes per second: `200MB`, `1.5GiB`, `500000`.
///
/// # Errors
/// A sentence for the user, if the text is no number of bytes, or less than 1 KiB.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no rate: give bytes a second (200MB, 64KiB)");
    match text.trim().trim_end_matches("/s").parse::<ByteSize>().map_err(|_| wrong())?.as_u64() {
        0..1024 => Err("the lowest rate is 1 KiB a second".to_owned()),
        rate => Ok(rate),
    }
}

/// Parses a number of threads.
///
/// # Errors
/// A sentence for the user, if the text is no number from 1 on.
pub fn parse_threads(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| format!("{text:?} is no number of threads: give 1 or more"))
}

/// Parses the longest time to wait, in the forms of [`parse_interval`]; `0` is allowed too.
///
/// # Errors
/// Those of [`parse_interval`].
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { parse_interval(text) }
}

/// Parses how long backups are kept, in the forms of [`parse_interval`]. Any length is allowed.
///
/// # Errors
/// A sentence for the user, if the text is no time, or negative.
pub fn parse_keep(text: &str) -> Result<Duration, String> {
    match parse_time(text) {
        Ok(time) => Ok(time),
        Err(Wrong::Negative) => Err("a time cannot be negative".to_owned()),
        Err(Wrong::NoTime) => {
            Err(format!("{text:?} is no time: give it with its unit (30d, 12h), or seconds"))
        }
    }
}

enum Wrong {
    Negative,
    NoTime,
}

fn parse_time(text: &str) -> Result<Duration, Wrong> {
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(seconds) if seconds < 0.0 => Err(Wrong::Negative),
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| Wrong::NoTime),
        Err(_) => {
            let span: jiff::Span = text.parse().map_err(|_| Wrong::NoTime)?;
            let days = jiff::SpanRelativeTo::days_are_24_hours();
            let time = span.to_duration(days).map_err(|_| Wrong::NoTime)?;
            Duration::try_from(time).map_err(|_| Wrong::Negative)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_seconds_or_have_a_unit() {
        for (text, millis) in [
            ("60", 60_000),
            ("0.5", 500),
            ("0.1", 100),
            ("90s", 90_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1h 30m", 5_400_000),
            ("1d", 24 * 3_600_000),
            ("365d", 365 * 24 * 3_600_000),
            ("8760h", 365 * 24 * 3_600_000),
        ] {
            let parsed = parse_interval(text);
            assert_eq!(parsed, Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_command_is_quoted_for_a_shell() {
        let quoted = |text: &str| quoted(OsStr::new(text));
        assert_eq!(quoted("/srv/data-1_2.x"), "/srv/data-1_2.x");
        for (word, script) in
            [("a b'c$d", "sh"), ("", "sh"), ("*\\?", "sh"), ("line\nbreak\u{202e}", "bash")]
        {
            let line = quoted(word);
            assert!(!line.contains('\n'), "{line}");
            let Ok(read) = std::process::Command::new(script)
                .args(["-c", &format!("printf %s {line}")])
                .output()
            else {
                return println!("skipped: there is no {script}");
            };
            assert_eq!(String::from_utf8_lossy(&read.stdout), word, "{line}");
        }
    }

    #[test]
    fn debounces_are_times_up_to_a_minute() {
        for (text, millis) in
            [("0", 0), ("10ms", 10), ("0.05", 50), ("60s", 60_000), ("1m", 60_000)]
        {
            assert_eq!(parse_debounce(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["-1", "61", "61s", "soon", "", "NaN"] {
            assert!(parse_debounce(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_bytes_with_or_without_a_unit() {
        for (text, rate) in
            [("200MB", 200_000_000), ("1KiB", 1024), ("1.5GiB", 3 << 29), ("50 MB/s", 50_000_000)]
        {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for text in ["0", "1000", "-5MB", "fast", "", "5XB"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn absurd_intervals_are_refused() {
        for text in [
            "0", "-5", "-5s", "abc", "", "NaN", "inf", "1e300", "0.01", "10ms", "366d", "1mo",
            "0x10",
        ] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
    }
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// Settings of a run that continues, with an interval so long that no sweep becomes due.
    pub fn config() -> Config {
        Config {
            source: PathBuf::new(),
            replica: PathBuf::new(),
            watch: true,
            debounce: Duration::from_millis(10),
            interval: LONGEST_INTERVAL,
            log_file: None,
            mode: Mode::Keep,
            task: Task::Full,
            log_format: Format::Text,
            exclude: Vec::new(),
            exclude_from: Vec::new(),
            gitignore: false,
            create: true,
            max_delete: Limit::Percent(50.0),
            durable: false,
            backup_dir: None,
            backup_keep: None,
            sweep_rate: None,
            threads: 1,
            verbosity: 0,
            hooks: Hooks::default(),
            rerun: Rerun::default(),
        }
    }
}
