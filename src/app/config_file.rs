//! `--config FILE`: settings from a TOML file. Its keys are the long options, and `source` and
//! `replica`. The command line takes precedence.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::model::config::{parse_debounce, parse_interval, parse_keep, parse_rate, parse_threads};
use crate::model::limit::Limit;

/// The reason why a settings file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the settings in {}: {}", .0.display(), .1)]
    Unreadable(PathBuf, std::io::Error),
    #[error("the settings in {} are wrong: {}", .0.display(), .1)]
    Wrong(PathBuf, toml::de::Error),
}

/// A value as on the command line, checked by the option's own parser.
#[derive(Debug)]
struct Checked<T>(String, std::marker::PhantomData<T>);

/// The parser of an option's value.
trait Takes {
    fn check(text: &str) -> Result<(), String>;
}

macro_rules! takes {
    ($($name:ident, $parse:expr;)*) => {$(
        #[derive(Debug)]
        struct $name;

        impl Takes for $name {
            fn check(text: &str) -> Result<(), String> {
                $parse(text).map(|_| ())
            }
        }
    )*};
}

takes! {
    Interval, parse_interval;
    Debounce, parse_debounce;
    Keep, parse_keep;
    Rate, parse_rate;
    Threads, parse_threads;
    MaxDelete, |text: &str| text.parse::<Limit>();
}

impl<'de, T: Takes> Deserialize<'de> for Checked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            other => return Err(D::Error::custom(format!("{other} is no text and no number"))),
        };
        T::check(&text).map_err(D::Error::custom)?;
        Ok(Self(text, std::marker::PhantomData))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileSettings {
    source: Option<PathBuf>,
    replica: Option<PathBuf>,
    interval: Option<Checked<Interval>>,
    log_file: Option<PathBuf>,
    #[serde(default)]
    interval_only: bool,
    debounce: Option<Checked<Debounce>>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    exclude_from: Vec<PathBuf>,
    #[serde(default)]
    gitignore: bool,
    #[serde(default)]
    no_create: bool,
    max_delete: Option<Checked<MaxDelete>>,
    #[serde(default)]
    durable: bool,
    backup_dir: Option<PathBuf>,
    backup_keep: Option<Checked<Keep>>,
    sweep_rate: Option<Checked<Rate>>,
    threads: Option<Checked<Threads>>,
    log_format: Option<LogFormat>,
    on_sync: Option<String>,
    on_problem: Option<String>,
    #[serde(default)]
    verbose: bool,
    #[serde(default)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LogFormat {
    Text,
    Json,
}

/// The settings of a file, as words of a command line.
pub struct FileArgs {
    pub options: Vec<OsString>,
    pub source: Option<PathBuf>,
    pub replica: Option<PathBuf>,
}

/// Reads a settings file. Relative paths in it start from the current directory, as on the command
/// line.
///
/// # Errors
/// If the file cannot be read, or a key or value is invalid. The latter error gives line and
/// column.
pub fn read(path: &Path) -> Result<FileArgs, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable(path.into(), error))?;
    let file: FileSettings =
        toml::from_str(&text).map_err(|error| ConfigError::Wrong(path.into(), error))?;
    Ok(file.into_args())
}

impl FileSettings {
    fn into_args(self) -> FileArgs {
        let mut options = Vec::new();
        let mut value = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                let mut word = OsString::from(format!("--{name}="));
                word.push(value);
                options.push(word);
            }
        };
        value("interval", self.interval.map(|checked| checked.0.into()));
        value("log-file", self.log_file.map(Into::into));
        value("debounce", self.debounce.map(|checked| checked.0.into()));
        for pattern in self.exclude {
            value("exclude", Some(pattern.into()));
        }
        for file in self.exclude_from {
            value("exclude-from", Some(file.into()));
        }
        value("max-delete", self.max_delete.map(|checked| checked.0.into()));
        value("backup-dir", self.backup_dir.map(Into::into));
        value("backup-keep", self.backup_keep.map(|checked| checked.0.into()));
        value("sweep-rate", self.sweep_rate.map(|checked| checked.0.into()));
        value("threads", self.threads.map(|checked| checked.0.into()));
        let format = self.log_format.map(|format| match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        });
        value("log-format", format.map(Into::into));
        value("on-sync", self.on_sync.map(Into::into));
        value("on-problem", self.on_problem.map(Into::into));
        let flags = [
            ("--interval-only", self.interval_only),
            ("--gitignore", self.gitignore),
            ("--no-create", self.no_create),
            ("--durable", self.durable),
            ("--verbose", self.verbose),
            ("--quiet", self.quiet),
        ];
        options.extend(flags.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name.into()));
        FileArgs { options, source: self.source, replica: self.replica }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let error = toml::from_str::<FileSettings>(text).unwrap_err();
        error.to_string()
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_column() {
        let unknown = wrong("source = \"/a\"\nintervall = 60\n");
        assert!(unknown.contains("line 2, column 1") && unknown.contains("intervall"), "{unknown}");
        let value = wrong("source = \"/a\"\ninterval = \"soon\"\n");
        assert!(value.contains("line 2, column 12") && value.contains("soon"), "{value}");
        let kind = wrong("gitignore = \"yes\"\n");
        assert!(kind.contains("line 1"), "{kind}");
    }

    #[test]
    fn what_it_says_is_what_the_command_line_would() {
        let text = "source = \"/a b\"\nreplica = \"/c\"\ninterval = 60\nexclude = [\"*.o\", \"!keep.o\"]\n\
                    max-delete = \"10%\"\ngitignore = true\n";
        let args = toml::from_str::<FileSettings>(text).unwrap().into_args();
        let words = [
            "--interval=60",
            "--exclude=*.o",
            "--exclude=!keep.o",
            "--max-delete=10%",
            "--gitignore",
        ];
        assert_eq!(args.options, words);
        assert_eq!(args.source, Some("/a b".into()));
    }

    /// Options that are no settings of a permanent run.
    const NO_KEYS: [&str; 12] = [
        "once", "dry-run", "check", "quick", "config", "generate", "status", "wait", "timeout",
        "full", "help", "version",
    ];

    #[test]
    fn each_long_option_is_a_key() {
        use clap::CommandFactory;
        let known = wrong("no-such-key = 1\n");
        let command = crate::app::cli::Args::command();
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            let is_key = known.contains(&format!("`{option}`"));
            assert_ne!(is_key, NO_KEYS.contains(&option), "--{option}: {known}");
        }
    }

    #[test]
    fn the_example_is_well_formed() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/systemd/example.toml");
        let text = std::fs::read_to_string(&example).unwrap();
        assert!(read(&example).unwrap().source.is_some());
        // Every setting that is commented out must be valid too.
        let is_setting = |line: &&str| {
            line.strip_prefix('#').is_some_and(|rest| {
                rest.starts_with(|first: char| first.is_ascii_lowercase()) && rest.contains(" = ")
            })
        };
        for line in text.lines().filter(is_setting) {
            toml::from_str::<FileSettings>(&line[1..])
                .unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn nothing_is_set_that_was_not_said() {
        let args = toml::from_str::<FileSettings>("").unwrap().into_args();
        assert!(args.options.is_empty() && args.source.is_none());
    }
}
