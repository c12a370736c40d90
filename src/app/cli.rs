//! The command line.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgGroup, CommandFactory, FromArgMatches, Parser};

use crate::app::config_file::FileArgs;
use crate::app::generate::Generated;
use crate::fs::tree::absolute;
use crate::model::config::Format;
use crate::model::config::{
    Config, DEFAULT_INTERVAL, Hooks, Mode, Rerun, parse_debounce, parse_interval, parse_keep,
    parse_rate, parse_threads, parse_timeout,
};
use crate::model::limit::Limit;
use crate::model::task::Task;

/// Headings of the help.
const RUN: &str = "When it runs";
const WHAT: &str = "What is mirrored";
const SAFETY: &str = "Safety";
const SPEED: &str = "Speed";
const ASK: &str = "Asking a twindir that runs";
const TELL: &str = "What it says";

const USAGE: &str = "\
twindir [OPTIONS] <SOURCE> <REPLICA> [INTERVAL] [LOG_FILE]
       twindir --config <FILE>
       twindir --status <REPLICA>
       twindir --wait <REPLICA> [--timeout <TIME>] [--full]";

const EXAMPLES: &str = "\
Examples:
  twindir ./source ./replica 60 ./logs/twindir.log
          keep ./replica in sync with ./source: now, and 60 s after the end of each sync
  twindir --once ~/work /mnt/disk/work
          sync once; exit code 1 if something could not be done
  twindir --check ~/work /mnt/disk/work
          say what differs, by MD5; exit code 0 if nothing does
  twindir ~/photos /mnt/disk/photos -i 1h -l photos.log -q
          say only warnings on the console; the log file has everything
  twindir --backup-dir /mnt/disk/old --backup-keep 30d ~/work /mnt/disk/work
          keep what is deleted or overwritten for 30 days
  twindir --status /mnt/disk/photos
          from another shell: what it does, and whether it is in sync

Exit codes: 0 done; 1 --once or --dry-run ended with problems or held deletions, --check found a
difference; 2 wrong use; 130 interrupted before the end; 70 a bug in twindir.";

/// Keeps REPLICA an exact twin of SOURCE, one way: what changes in SOURCE is copied, what goes
/// from SOURCE goes from REPLICA.
#[derive(Parser, Debug)]
#[command(version, about, override_usage = USAGE, after_long_help = EXAMPLES)]
#[command(after_help = "See --help for more, and examples.")]
#[command(max_term_width = 100, args_override_self = true)]
#[command(group = ArgGroup::new("single").multiple(true))]
pub struct Args {
    /// The directory to mirror
    ///
    /// It is never written to.
    #[arg(required_unless_present_any = ["status", "wait", "config", "generate"])]
    pub source: Option<PathBuf>,

    /// The directory to keep in sync
    ///
    /// It is created when missing.
    #[arg(required_unless_present_any = ["status", "wait", "config", "generate"])]
    pub replica: Option<PathBuf>,

    /// Time between full sweeps: 60 (seconds), 90s, 5m, 1h
    ///
    /// From the end of one sync to the next full sweep, which compares both trees by MD5.
    #[arg(value_name = "INTERVAL", value_parser = parse_interval, allow_negative_numbers = true)]
    interval: Option<Duration>,

    /// A file to append the log to
    ///
    /// It is kept below 10 MB; the older ones are `LOG_FILE.1` to `.10`.
    #[arg(value_parser = OsStringValueParser::new().try_map(parse_log_file))]
    log_file: Option<PathBuf>,

    /// Sync once, then exit
    #[arg(long, group = "single", help_heading = RUN)]
    once: bool,

    /// Say what --once would do, and change nothing
    #[arg(short = 'n', long, group = "single", conflicts_with = "check", help_heading = RUN)]
    dry_run: bool,

    /// Compare by MD5 and say what differs, and change nothing
    #[arg(long, group = "single", conflicts_with = "once", help_heading = RUN)]
    check: bool,

    /// With --once, -n, --check: trust times and sizes
    ///
    /// Read only files that may have changed since they were copied, and trust sizes and times for
    /// the others.
    #[arg(long, requires = "single", help_heading = RUN)]
    quick: bool,

    /// The same as INTERVAL [default: 10m]
    #[arg(short, long = "interval", value_name = "TIME", value_parser = parse_interval,
        allow_negative_numbers = true, conflicts_with = "interval", help_heading = RUN)]
    interval_option: Option<Duration>,

    /// Do not watch SOURCE: find changes by sweeps alone
    #[arg(long, alias = "no-watch", help_heading = RUN)]
    interval_only: bool,

    /// How long a path must be quiet first [default: 10ms]
    ///
    /// Before a change of it is mirrored: 10ms, 0.5 (seconds); 0 for at once, 60s at most.
    #[arg(long, value_name = "TIME", value_parser = parse_debounce, default_value = "10ms",
        hide_default_value = true, allow_negative_numbers = true, help_heading = RUN)]
    debounce: Duration,

    /// Read settings from a TOML file
    ///
    /// Its keys are the long options, and source and replica. What the command line says wins.
    #[arg(long, value_name = "FILE", help_heading = RUN)]
    pub config: Option<PathBuf>,

    /// Leave alone what matches, as in a .gitignore file
    ///
    /// On both sides; `!` takes back. The option can be given several times.
    #[arg(long, value_name = "GLOB", help_heading = WHAT)]
    exclude: Vec<String>,

    /// Read such patterns from a file, one a line
    ///
    /// --exclude comes after it.
    #[arg(long, value_name = "FILE", help_heading = WHAT)]
    exclude_from: Vec<PathBuf>,

    /// Leave alone what SOURCE's .gitignore files name
    ///
    /// And its .ignore and .git/info/exclude files.
    #[arg(long, help_heading = WHAT)]
    gitignore: bool,

    /// At a start, hold deletions above this [default: 50%]
    ///
    /// Hold all deletions if the count at the start finds more than this: a number of entries, or a
    /// share of REPLICA. 100% turns the guard off.
    #[arg(long, value_name = "N|P%", default_value = "50%", hide_default_value = true,
        help_heading = SAFETY)]
    max_delete: Limit,

    /// Keep what is deleted or overwritten
    ///
    /// It goes to DIR/twindir-<time>/<path> first.
    #[arg(long, value_name = "DIR", help_heading = SAFETY)]
    backup_dir: Option<PathBuf>,

    /// Remove from --backup-dir what is older: 30d, 12h
    ///
    /// By when it was put there [default: never].
    #[arg(long, value_name = "TIME", value_parser = parse_keep, requires = "backup_dir",
        allow_negative_numbers = true, help_heading = SAFETY)]
    backup_keep: Option<Duration>,

    /// What is logged survives a power cut
    ///
    /// Write to the disk before an entry gets its name, and again before the log says so.
    #[arg(long, help_heading = SAFETY)]
    durable: bool,

    /// Refuse to run if REPLICA does not exist
    #[arg(long, help_heading = SAFETY)]
    no_create: bool,

    /// Let sweeps read no more in a second: 200MB, 64KiB
    #[arg(long, value_name = "BYTES", value_parser = parse_rate, help_heading = SPEED)]
    sweep_rate: Option<u64>,

    /// Threads to walk, hash, copy [default: one per core]
    #[arg(long, value_name = "N", value_parser = parse_threads, allow_negative_numbers = true,
        help_heading = SPEED)]
    threads: Option<NonZeroUsize>,

    /// Say what the twindir that keeps REPLICA does
    ///
    /// And whether it is in sync. Exit code 0 if it is, 1 if not, 2 if no twindir keeps it.
    #[arg(long, value_name = "REPLICA", conflicts_with_all = ["source", "wait"],
        help_heading = ASK)]
    status: Option<PathBuf>,

    /// Wait until every change made before is in REPLICA
    ///
    /// Exit code 0 if it is, 1 if not, 2 if no twindir keeps it.
    #[arg(long, value_name = "REPLICA", conflicts_with = "source", help_heading = ASK)]
    wait: Option<PathBuf>,

    /// How long --wait waits at most [default: for ever]
    ///
    /// Seconds, or 90s, 5m, 1h.
    #[arg(long, value_name = "TIME", value_parser = parse_timeout, requires = "wait",
        conflicts_with = "source", allow_negative_numbers = true, help_heading = ASK)]
    timeout: Option<Duration>,

    /// With --wait: also for the end of a full sweep
    #[arg(long, requires = "wait", conflicts_with = "source", help_heading = ASK)]
    full: bool,

    /// Run a command after changes, once in sync
    ///
    /// With their paths, each ended by NUL, on stdin; at most once a second.
    #[arg(long, value_name = "CMD", help_heading = TELL)]
    on_sync: Option<OsString>,

    /// Run a command when a problem begins or ends
    ///
    /// A problem, held deletions, a full disk or a lost root.
    #[arg(long, value_name = "CMD", help_heading = TELL)]
    on_problem: Option<OsString>,

    /// The same as `LOG_FILE`
    #[arg(short, long = "log-file", value_name = "FILE", conflicts_with = "log_file",
        help_heading = TELL)]
    log_file_option: Option<PathBuf>,

    /// How lines look: text or json
    ///
    /// On the console and in the log file.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, hide_default_value = true,
        hide_possible_values = true, help_heading = TELL)]
    log_format: Format,

    /// Say more on the console
    #[arg(short, long, conflicts_with = "quiet", help_heading = TELL)]
    verbose: bool,

    /// Say only warnings and errors on the console
    #[arg(short, long, help_heading = TELL)]
    quiet: bool,

    /// Print a man page, or what completes the command line in a shell
    #[arg(long, value_name = "KIND", value_enum, hide = true)]
    pub generate: Option<Generated>,
}

/// A question to a running twindir.
#[derive(Clone, PartialEq, Debug)]
pub enum Inquiry {
    Status { replica: PathBuf },
    Wait { replica: PathBuf, full: bool, timeout: Option<Duration> },
}

impl Args {
    /// Adds the settings of a file. The words of the command line (`words`) take precedence.
    ///
    /// # Errors
    /// If the two together are not valid, or a root is missing in both.
    pub fn with_file(self, file: FileArgs, words: &[OsString]) -> Result<Self, clap::Error> {
        let is_given = |word: &OsString| {
            let is = |name: &str| word.as_encoded_bytes().starts_with(name.as_bytes());
            (is("--interval=") && self.interval.is_some())
                || (is("--log-file=") && self.log_file.is_some())
                || (is("--verbose") && self.quiet)
                || (is("--quiet") && self.verbose)
        };
        let program = words.first().cloned().unwrap_or_else(|| "twindir".into());
        let from_file = file.options.into_iter().filter(|word| !is_given(word));
        let own = words.iter().skip(1).cloned();
        let mut both = Self::try_parse_from(std::iter::once(program).chain(from_file).chain(own))?;
        both.source = both.source.or(file.source);
        both.replica = both.replica.or(file.replica);
        if both.source.is_none() || both.replica.is_none() {
            return Err(Self::command().error(
                clap::error::ErrorKind::MissingRequiredArgument,
                "SOURCE and REPLICA are named neither in the file of settings nor on the command line",
            ));
        }
        Ok(both)
    }

    /// Reads a command line.
    ///
    /// # Errors
    /// If it is not valid. With `--config`, errors are left to [`Args::with_file`].
    pub fn read(words: &[OsString]) -> Result<Self, clap::Error> {
        let strictly = Self::try_parse_from(words);
        if strictly.as_ref().is_err_and(clap::Error::use_stderr) {
            // Missing arguments may be in the file.
            let matches = Self::command().ignore_errors(true).try_get_matches_from(words)?;
            if let Ok(args) = Self::from_arg_matches(&matches)
                && args.config.is_some()
            {
                return Ok(args);
            }
        }
        strictly
    }

    /// Returns the question to a running twindir, and the output format. `None` if this is not
    /// `--status` or `--wait`.
    pub fn inquiry(&self) -> Option<(Inquiry, Format)> {
        let (full, timeout) = (self.full, self.timeout);
        let inquiry = match (self.status.clone(), self.wait.clone()) {
            (Some(replica), _) => Inquiry::Status { replica },
            (None, Some(replica)) => Inquiry::Wait { replica, full, timeout },
            (None, None) => return None,
        };
        Some((inquiry, self.log_format))
    }

    /// Turns the arguments into settings.
    pub fn into_config(self) -> Config {
        let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let single = self.check || self.dry_run || self.once;
        let rerun = self.rerun();
        Config {
            rerun,
            watch: !single && !self.interval_only,
            debounce: self.debounce,
            source: self.source.unwrap_or_default(),
            replica: self.replica.unwrap_or_default(),
            interval: self.interval.or(self.interval_option).unwrap_or(DEFAULT_INTERVAL),
            log_file: self.log_file.or(self.log_file_option),
            mode: match (self.check, self.dry_run, self.once) {
                (true, _, _) => Mode::Check,
                (_, true, _) => Mode::DryRun,
                (_, _, true) => Mode::Once,
                (false, false, false) => Mode::Keep,
            },
            task: if self.quick { Task::Quick } else { Task::Full },
            log_format: self.log_format,
            exclude: self.exclude,
            exclude_from: self.exclude_from,
            gitignore: self.gitignore,
            create: !self.no_create,
            max_delete: self.max_delete,
            durable: self.durable,
            backup_dir: self.backup_dir,
            backup_keep: self.backup_keep,
            sweep_rate: self.sweep_rate,
            threads: self.threads.unwrap_or_else(cores).get(),
            verbosity: i8::from(self.verbose) - i8::from(self.quiet),
            hooks: Hooks { on_sync: self.on_sync, on_problem: self.on_problem },
        }
    }
}

impl Args {
    /// Returns the command for another run by hand.
    fn rerun(&self) -> Rerun {
        let named = std::env::args_os().next().unwrap_or_else(|| "twindir".into());
        // A bare name is found through PATH again. A relative path may be wrong in another
        // directory.
        let is_path = Path::new(&named).components().count() > 1;
        let program =
            std::env::current_exe().ok().filter(|_| is_path).map_or(named, OsString::from);
        let mut options = Options::default();
        options.flag("--quick", self.quick);
        self.exclude.iter().for_each(|pattern| options.value("--exclude", pattern));
        self.exclude_from.iter().for_each(|file| options.value("--exclude-from", absolute(file)));
        options.flag("--gitignore", self.gitignore);
        options.flag("--no-create", self.no_create);
        options.flag("--durable", self.durable);
        if let Some(dir) = &self.backup_dir {
            options.value("--backup-dir", absolute(dir));
        }
        if let Some(keep) = self.backup_keep {
            options.value("--backup-keep", format!("{}s", keep.as_secs_f64()));
        }
        if let Some(rate) = self.sweep_rate {
            options.value("--sweep-rate", rate.to_string());
        }
        if let Some(threads) = self.threads {
            options.value("--threads", threads.to_string());
        }
        if self.log_format == Format::Json {
            options.value("--log-format", "json");
        }
        if let Some(log) = self.log_file.as_ref().or(self.log_file_option.as_ref()) {
            options.value("--log-file", absolute(log));
        }
        if let Some(command) = &self.on_sync {
            options.value("--on-sync", command);
        }
        if let Some(command) = &self.on_problem {
            options.value("--on-problem", command);
        }
        options.flag("--verbose", self.verbose);
        options.flag("--quiet", self.quiet);
        let is_lasting = !(self.check || self.dry_run || self.once);
        let roots = [&self.source, &self.replica]
            .map(|root| root.as_deref().map_or_else(PathBuf::new, absolute));
        Rerun { program, options: options.0, roots, is_lasting }
    }
}

/// Reads the name of the log file. A lone unit belongs to the interval before it.
fn parse_log_file(name: OsString) -> Result<PathBuf, String> {
    let units = ["ms", "s", "sec", "m", "min", "h", "d", "w"];
    if units.iter().any(|unit| name == *unit) {
        let unit = name.display();
        return Err(format!(
            "it looks like the unit of the interval: write that without a space (1{unit}). A log file of that name is \
             ./{unit}"
        ));
    }
    Ok(name.into())
}

/// Words of a command line.
#[derive(Default)]
struct Options(Vec<OsString>);

impl Options {
    fn flag(&mut self, name: &str, is_given: bool) {
        self.0.extend(is_given.then(|| name.into()));
    }

    fn value(&mut self, name: &str, value: impl Into<OsString>) {
        let value = value.into();
        if value.as_encoded_bytes().first() == Some(&b'-') {
            // As a word of its own, it would be parsed as an option.
            let mut word = OsString::from(name);
            word.push("=");
            word.push(value);
            self.0.push(word);
        } else {
            self.0.extend([name.into(), value]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    fn config(args: &[&str]) -> Config {
        Args::try_parse_from([&["twindir"], args].concat()).unwrap().into_config()
    }

    #[test]
    fn positions_and_names_say_the_same() {
        let by_position = config(&["a", "b", "60", "c.log"]);
        let by_name = config(&["a", "b", "-i", "1m", "-l", "c.log"]);
        for config in [by_position, by_name] {
            assert_eq!(config.interval, Duration::from_secs(60));
            assert_eq!(config.log_file, Some("c.log".into()));
        }
    }

    /// Options for a permanent run only.
    const OF_A_LASTING_RUN: [&str; 3] = ["interval", "interval-only", "debounce"];

    /// Options that start no run, and `--config`.
    const OF_AN_INQUIRY: [&str; 6] = ["status", "wait", "timeout", "full", "config", "generate"];

    /// Uses every option that clap knows, except those of the lists above and of `others`.
    #[test]
    fn the_command_of_a_second_run_says_the_same_as_the_first() {
        let given = [
            "--exclude=*.o",
            "--exclude=!keep.o",
            "--exclude-from=/etc/patterns",
            "--gitignore",
            "--no-create",
            "--max-delete=7",
            "--durable",
            "--backup-dir=/mnt/old",
            "--backup-keep=30d",
            "--sweep-rate=200MB",
            "--threads=3",
            "--log-format=json",
            "--log-file=/var/log/a b.log",
            "--on-sync=touch /run/synced",
            "--on-problem=mail root",
            "--quiet",
            "--once",
            "--quick",
        ];
        let others = ["check", "dry-run", "verbose", "help", "version"];
        for option in Args::command().get_arguments().filter_map(clap::Arg::get_long) {
            let is_given = given.iter().any(|word| word[2..].split('=').next() == Some(option));
            assert!(
                is_given
                    || OF_A_LASTING_RUN.contains(&option)
                    || OF_AN_INQUIRY.contains(&option)
                    || others.contains(&option),
                "--{option}"
            );
        }
        let first = config(&[&given[..], &["/a b", "/c"]].concat());
        let Rerun { options, roots, .. } = &first.rerun;
        let words: Vec<&str> = options.iter().map(|word| word.to_str().unwrap()).collect();
        let roots = roots.each_ref().map(|root| root.to_str().unwrap());
        let again = config(&[&["--once", "--max-delete=7"], &words[..], &["--"], &roots].concat());
        assert_eq!(first, again);
    }
}
