//! The main function: from arguments to the exit code.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::CommandFactory;
use clap::error::ContextKind;
use crossbeam_channel::{Receiver, unbounded};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGWINCH, SIGXFSZ};

use crate::app::ask::{Asked, inquire, refuse_ring};
use crate::app::cli::Args;
use crate::app::config_file;
use crate::app::habits::{answer_to_habits, suggest_order};
use crate::app::limits;
use crate::app::panics::{self, PANICKED};
use crate::daemon::core::End;
use crate::daemon::preview::{PreviewResult, Subject, preview};
use crate::daemon::startup::{Checked, Prepared, check};
use crate::daemon::{Failed, run};
use crate::fs::digest;
use crate::fs::filter::Filter;
use crate::fs::roots::Roots;
use crate::fs::writeback::unseen_seconds_of;
use crate::model::config::{Config, Mode};
use crate::model::human::human_duration;
use crate::model::path::shown;
use crate::plan::metadata::Capabilities;
use crate::report::{self, LogSettings};
use crate::writer::fs::probe::{of_process, probe_unseen};
use crate::writer::fs::round::MountPoints;

/// All exit codes of the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Exit {
    Done = 0,
    /// `--once` or `--dry-run` ended with problems or held deletions, `--check` found a difference,
    /// or `--status` or `--wait` answered no.
    Incomplete = 1,
    /// Wrong use or configuration, or no twindir answers `--status` or `--wait`.
    Refused = 2,
    /// A bug in twindir: a panic.
    Bug = 70,
    /// A run with an end was interrupted before it. Also a second signal while stopping.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

pub fn main() -> ExitCode {
    if let Err(refusal) = limits::check_stack() {
        complain(&refusal);
        return Exit::Refused.into();
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    let args = match Args::read(&words) {
        Ok(args) => args,
        Err(mut error) => return refuse_arguments(&mut error, &words),
    };
    if let Some(kind) = args.generate {
        return match kind.write(Args::command()) {
            Ok(()) => Exit::Done.into(),
            Err(error) => {
                complain(&error.to_string());
                Exit::Incomplete.into()
            }
        };
    }
    let args = match args.config.clone().map(|path| config_file::read(&path)) {
        None => args,
        Some(Err(error)) => {
            complain(&error.to_string());
            return Exit::Refused.into();
        }
        Some(Ok(file)) => match args.with_file(file, &words) {
            Ok(args) => args,
            Err(mut error) => return refuse_arguments(&mut error, &words),
        },
    };
    if let Some((inquiry, format)) = args.inquiry() {
        return match inquire(&inquiry, format) {
            Asked::Yes => Exit::Done,
            Asked::No => Exit::Incomplete,
            Asked::Nobody => Exit::Refused,
        }
        .into();
    }
    let config = args.into_config();
    panics::install_hook();
    if let Err(refusal) = limits::check(config.threads) {
        complain(&refusal);
        return Exit::Refused.into();
    }
    // A panic in any thread ends the run. Unwinding removes temporary files.
    let exit = match catch_unwind(AssertUnwindSafe(|| start(&config))) {
        Ok(Ok(exit)) => exit,
        Ok(Err(error)) => {
            complain(&error.to_string());
            Exit::Refused
        }
        Err(_) => Exit::Bug,
    };
    if exit == Exit::Bug {
        panics::await_last_words();
    }
    exit.into()
}

/// Reports what is wrong with the arguments, or prints what they ask for (`--help`).
fn refuse_arguments(error: &mut clap::Error, words: &[OsString]) -> ExitCode {
    let given: Vec<String> =
        words.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if !error.use_stderr() {
        let _ = error.print();
        return Exit::Done.into();
    }
    if let Some(order) = suggest_order(&given) {
        complain(&format!("the log file comes last here; you mean:\n\n    {order}"));
    } else if let Some(answer) = answer_to_habits(&given) {
        complain(&answer);
    } else {
        // Its tips lead astray: of `-z`, that it may be meant as a file.
        error.remove(ContextKind::Suggested);
        let _ = error.print();
    }
    Exit::Refused.into()
}

fn start(config: &Config) -> Result<Exit, Box<dyn std::error::Error>> {
    let checked = check(config)?;
    let stopping = Arc::new(AtomicBool::new(false));
    let signals = listen_for_signals(&stopping)?;
    match config.mode {
        Mode::Keep | Mode::Once => {
            refuse_ring(config)?;
            let prepared = checked.prepare()?;
            // All paths are absolute by now. The current directory may be on a disk that somebody
            // wants to unmount.
            let _ = std::env::set_current_dir("/");
            Ok(report_and_run(config, prepared, &signals))
        }
        Mode::DryRun | Mode::Check => report_and_preview(config, checked, &signals, stopping),
    }
}

fn report_and_preview(
    config: &Config,
    checked: Checked,
    signals: &Receiver<i32>,
    stopping: Arc<AtomicBool>,
) -> Result<Exit, Box<dyn std::error::Error>> {
    let (mut roots, filter) = checked.into_read_only();
    let settings = LogSettings {
        format: config.log_format,
        verbosity: config.verbosity,
        patient_until: Some(stopping),
    };
    let _reporting = report::start(settings, None);
    log_start(config, &roots, &filter);
    test_digests();
    let wanted =
        Capabilities { unseen: unseen_seconds_of(config.task), ..of_process(roots.are_local()) };
    let capabilities = match roots.replica.open_replica() {
        Ok((replica, _)) => probe_unseen(&replica, wanted),
        Err(_) => wanted,
    };
    roots.find_quirks(&capabilities);
    let seen = preview(
        config,
        Subject { trees: roots, rules: MountPoints::default(), filter, capabilities },
        signals,
    )?;
    Ok(match (config.mode, seen) {
        _ if PANICKED.load(Ordering::Relaxed) => Exit::Bug,
        (_, PreviewResult::Interrupted) => Exit::Interrupted,
        (_, PreviewResult::Incomplete) | (Mode::Check, PreviewResult::Differs) => Exit::Incomplete,
        (_, PreviewResult::Equal | PreviewResult::Differs) => Exit::Done,
    })
}

fn report_and_run(config: &Config, mut prepared: Prepared, signals: &Receiver<i32>) -> Exit {
    let settings =
        LogSettings { format: config.log_format, verbosity: config.verbosity, patient_until: None };
    let reporting = report::start(settings, prepared.log.take());
    log_start(config, &prepared.roots, &prepared.filter);
    test_digests();
    for root in [&prepared.roots.source, &prepared.roots.replica] {
        if let Some(kind) = root.foreign_file_system() {
            let side = root.side.as_str();
            tracing::info!(
                op = side,
                "it lies on {kind}: the kernel reports no changes that others make there, only sweeps find them"
            );
        }
    }
    match run(config, prepared, signals, &PANICKED, reporting.live_line()) {
        Ok(End::Done) => Exit::Done,
        Ok(End::Incomplete) => Exit::Incomplete,
        Ok(End::Interrupted) => Exit::Interrupted,
        Err(error @ Failed::Thread(_)) => {
            tracing::error!(op = "error", "{error}");
            Exit::Refused
        }
        Err(Failed::Panicked) => Exit::Bug,
    }
}

/// Checks that the processor computes correct MD5s in lanes, before they are used. Warns if not.
fn test_digests() {
    if !digest::test_lanes() {
        tracing::warn!(
            op = "warning",
            "MD5 in the lanes of this processor gives wrong digests: it is computed one by one (please report this)"
        );
    }
}

fn log_start(config: &Config, roots: &Roots, filter: &Filter) {
    let version = env!("CARGO_PKG_VERSION");
    let (source, replica) = (shown(&roots.source.path), shown(&roots.replica.path));
    let rhythm = match config.mode {
        Mode::Keep if config.watch => {
            format!("watched, and swept every {}", human_duration(config.interval))
        }
        Mode::Keep => format!("swept every {}", human_duration(config.interval)),
        Mode::Once => "once".to_owned(),
        Mode::DryRun => "dry run: nothing is changed".to_owned(),
        Mode::Check => "check: nothing is changed".to_owned(),
    };
    tracing::info!(
        op = "start",
        version,
        pid = std::process::id(),
        "{source} -> {replica}, {rhythm}"
    );
    if let Some((dir, name)) = &filter.log {
        tracing::warn!(
            op = "warning",
            path = %dir.join(name),
            "the log file lies inside the source: neither it nor its rotated copies (.1 to .10) are mirrored"
        );
    }
}

/// Reports an error before the console thread exists. A closed stderr is no reason to panic.
fn complain(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "error: {text}");
}

/// Returns a channel that receives signals.
/// - The first SIGINT, SIGTERM or SIGHUP sets `stopping`; the second one ends the process at once.
/// - SIGUSR1 asks for the status. SIGCONT and SIGWINCH ask for the live line to be drawn again.
/// - SIGHUP stays ignored if the process has begun so, as with nohup.
fn listen_for_signals(
    stopping: &Arc<AtomicBool>,
) -> Result<Receiver<i32>, Box<dyn std::error::Error>> {
    let hangup = Some(SIGHUP).filter(|signal| !is_ignored(*signal));
    let all: Vec<i32> = [SIGINT, SIGTERM].into_iter().chain(hangup).collect();
    for signal in &all {
        let exit = Exit::Interrupted as i32;
        signal_hook::flag::register_conditional_shutdown(*signal, exit, Arc::clone(stopping))?;
        signal_hook::flag::register(*signal, Arc::clone(stopping))?;
    }
    // With a handler, a write beyond the limit on file sizes (ulimit -f) fails with EFBIG. Without
    // one, it kills the process.
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    let mut signals =
        signal_hook::iterator::Signals::new(all.into_iter().chain([SIGUSR1, SIGCONT, SIGWINCH]))?;
    let (sender, receiver) = unbounded();
    std::thread::Builder::new().name("twindir-signals".into()).spawn(move || {
        for signal in signals.forever() {
            if sender.send(signal).is_err() {
                break;
            }
        }
    })?;
    Ok(receiver)
}

/// Returns whether this process ignores a signal since its start. See `proc_pid_status(5)`.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
