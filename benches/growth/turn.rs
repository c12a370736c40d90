//! One turn with one tree: everything is measured once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Place;
use crate::running::{Program, field};
use crate::support::rest;

pub const TWINDIR: &str = env!("CARGO_BIN_EXE_twindir");

/// Between two looks at the memory of a run that ends by itself.
const SAMPLE: Duration = Duration::from_millis(2);

/// Between two looks at what a daemon has printed.
const POLL: Duration = Duration::from_millis(1);

/// After so much time a daemon is given up.
const DEADLINE: Duration = Duration::from_secs(1200);

/// So long a daemon must have been quiet before it counts as being at rest.
const QUIET: Duration = Duration::from_secs(1);

/// So long it is then watched.
const REST: Duration = Duration::from_secs(5);

/// A run that ends by itself.
pub struct Once {
    pub seconds: f64,
    pub peak: u64,
}

/// A daemon with the watch.
pub struct Watched {
    /// Until it said for the first time that both trees are equal.
    pub seconds: f64,
    /// Seconds on a core until then.
    pub cpu: f64,
    /// At rest, in per cent of one core.
    pub idle: f64,
    /// At rest, in bytes.
    pub memory: u64,
    pub peak: u64,
}

/// A daemon without the watch, after its second sweep.
pub struct Sweeping {
    pub memory: u64,
    pub peak: u64,
}

/// All that one turn has measured.
pub struct Turn {
    pub sweep: Once,
    pub quick: Once,
    pub watched: Watched,
    pub sweeping: Sweeping,
}

impl Turn {
    pub fn take(place: &Place) -> Self {
        // After a rest all is slower at first: caches are cold, cores asleep. So this one does not
        // count.
        once(place, &["--quick"]);
        Self {
            sweep: once(place, &[]),
            quick: once(place, &["--quick"]),
            watched: watched(place),
            sweeping: sweeping(place),
        }
    }
}

/// Makes both trees equal once, which they are.
pub fn once(place: &Place, options: &[&str]) -> Once {
    rest(Duration::ZERO);
    let mut command = Command::new(TWINDIR);
    command.args(["--once", "-q"]).args(options).args(place.roots());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let has_ended = AtomicBool::new(false);
    let (result, seconds, peak) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| highest(&status, &has_ended));
        let result = child.wait();
        let seconds = begun.elapsed().as_secs_f64();
        has_ended.store(true, Ordering::Relaxed);
        (result, seconds, sampler.join().expect("it only looks"))
    });
    assert!(result.is_ok_and(|status| status.success()), "{command:?} fails");
    Once { seconds, peak }
}

/// The most that was resident, in bytes, by the last look before the end.
fn highest(status: &Path, has_ended: &AtomicBool) -> u64 {
    let mut peak = 0;
    while !has_ended.load(Ordering::Relaxed) {
        peak = peak.max(field(status, "VmHWM:") * 1024);
        std::thread::sleep(SAMPLE);
    }
    peak
}

/// With the watch, until it is at rest.
fn watched(place: &Place) -> Watched {
    let begun = Instant::now();
    let mut program = start(place, &[], "3600");
    wait_for(place, &mut program, "in sync as of", 1);
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), program.usage().cpu.as_secs_f64());
    program.settle(QUIET, DEADLINE, || true).expect("it comes to rest");
    let log = said(place);
    let is_limited = log.lines().any(|line| line.split_whitespace().nth(1) == Some("watch"));
    assert!(!is_limited, "not all is watched: {log}");
    let (since, before) = (Instant::now(), program.usage());
    rest(REST);
    let now = program.usage();
    let spent = now.since(&before);
    let cpu_at_rest = if spent.is_partial { now.cpu.saturating_sub(before.cpu) } else { spent.cpu };
    let idle = 100.0 * cpu_at_rest.as_secs_f64() / since.elapsed().as_secs_f64();
    Watched { seconds, cpu, idle, memory: now.memory, peak: now.peak }
}

/// Without the watch, until after the second sweep.
fn sweeping(place: &Place) -> Sweeping {
    let mut program = start(place, &["--interval-only"], "1");
    wait_for(place, &mut program, " sweep ", 2);
    let now = program.usage();
    Sweeping { memory: now.memory, peak: now.peak }
}

fn start(place: &Place, options: &[&str], interval: &str) -> Program {
    let mut command = Command::new(TWINDIR);
    command.args(options).args(place.roots()).arg(interval);
    Program::start(command, place.log())
}

/// Waits until it has said so, so many times.
fn wait_for(place: &Place, program: &mut Program, text: &str, times: usize) {
    let begun = Instant::now();
    while said(place).matches(text).count() < times {
        rest(POLL);
        program.still_runs().expect("it runs");
        assert!(begun.elapsed() < DEADLINE, "{text:?} is not said within {DEADLINE:?}");
    }
}

fn said(place: &Place) -> String {
    fs::read_to_string(place.log()).unwrap_or_default()
}
