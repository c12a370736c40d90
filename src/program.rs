//! From arguments to exit code.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use crossbeam_channel::{Receiver, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli::{Args, other_order};
use crate::config::Config;
use crate::daemon::{End, Failed, run};
use crate::report::{self, Settings};
use crate::roots::{Prepared, prepare};

/// All exit codes of the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Exit {
    Done = 0,
    /// `--once` ended with Problems or held deletions.
    Incomplete = 1,
    /// Wrong use or configuration.
    Refused = 2,
    /// A bug in twindir: a panic.
    Bug = 70,
    /// `--once` was interrupted; also a second signal while stopping.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

static PANICKED: AtomicBool = AtomicBool::new(false);

pub fn main() -> ExitCode {
    let args = Args::try_parse().unwrap_or_else(|error| {
        let given: Vec<String> =
            std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
        if error.use_stderr()
            && let Some(order) = other_order(&given)
        {
            eprintln!("error: the log file comes last here; you mean:\n\n    {order}");
            std::process::exit(Exit::Refused as i32);
        }
        error.exit()
    });
    let config = args.into_config();
    notice_panics();
    raise_file_limit();
    let started = listen_for_signals()
        .and_then(|signals| prepare(&config).map(|ready| (signals, ready)).map_err(Into::into));
    let (signals, prepared) = match started {
        Ok(started) => started,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Refused.into();
        }
    };
    // A panic in any thread ends the run; what unwinds removes its temporary files.
    let ended = catch_unwind(AssertUnwindSafe(|| report_and_run(&config, prepared, &signals)));
    ended.unwrap_or(Exit::Bug).into()
}

fn report_and_run(config: &Config, mut prepared: Prepared, signals: &Receiver<i32>) -> Exit {
    let _reporting = report::start(&Settings { verbosity: config.verbosity }, prepared.log.take());
    say_start(config, &prepared);
    match run(config, prepared, signals, &PANICKED) {
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

fn say_start(config: &Config, prepared: &Prepared) {
    let version = env!("CARGO_PKG_VERSION");
    let (source, replica) = (config.source.display(), config.replica.display());
    let rhythm = if config.once {
        "once".to_owned()
    } else {
        format!("every {}", report::human_duration(config.interval))
    };
    tracing::info!(op = "start", version, pid = std::process::id(), "{source} -> {replica}, {rhythm}");
    if let Some((dir, name)) = &prepared.filter.log {
        tracing::warn!(
            op = "warning",
            path = %dir.join(name),
            "the log file lies inside the source: it is not mirrored, nor are its numbered elders"
        );
    }
}

/// Lets a panic in any thread be said and known.
fn notice_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICKED.store(true, Ordering::Relaxed);
        usual(info);
        eprintln!(
            "error: this is a bug in twindir {}: please report the lines above",
            env!("CARGO_PKG_VERSION")
        );
    }));
}

/// Signals come out of a channel; the second one ends the process at once.
fn listen_for_signals() -> Result<Receiver<i32>, Box<dyn std::error::Error>> {
    let all = [SIGINT, SIGTERM, SIGHUP];
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in all {
        signal_hook::flag::register_conditional_shutdown(
            signal,
            Exit::Interrupted as i32,
            Arc::clone(&stopping),
        )?;
        signal_hook::flag::register(signal, Arc::clone(&stopping))?;
    }
    let mut signals = signal_hook::iterator::Signals::new(all)?;
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

/// A round holds a few hundred directories open; the usual soft limit of 1024 leaves little
/// room, and the hard one is there for being used.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
