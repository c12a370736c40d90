//! What the benchmarks share: settings, the machine, the end by Ctrl-C.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// A folder in memory is the default only where it has this many bytes left.
const ENOUGH: u64 = 3_000_000_000;

/// Between two looks at how busy a program is, or whether Ctrl-C was pressed.
pub const LOOK: Duration = Duration::from_millis(250);

/// Set by Ctrl-C and its like.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).expect("signals can be caught");
    }
    flag
});

/// So long after it was made a file counts as old: what was copied sooner is read once more by a
/// quick run, since a mapping may have changed it.
#[allow(dead_code, reason = "not every benchmark has quick runs")]
pub const YOUNG: Duration = Duration::from_secs(40);

/// Sleeps. An interrupted benchmark ends here, by unwinding: its processes and folders go with it.
pub fn rest(time: Duration) {
    let end = Instant::now() + time;
    loop {
        std::thread::sleep(end.saturating_duration_since(Instant::now()).min(LOOK));
        if INTERRUPTED.load(Ordering::Relaxed) {
            eprintln!("interrupted");
            std::panic::resume_unwind(Box::new(()));
        }
        if Instant::now() >= end {
            return;
        }
    }
}

/// Begins the report: where scratch folders go, and the load before. `None` where it is not
/// `cargo bench` that asks: `cargo test --benches` comes by without `--bench`.
pub fn begin() -> Option<(PathBuf, String)> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: to be run by cargo bench");
        return None;
    }
    let (parent, load) = (scratch_parent(), load());
    println!("## Machine\n");
    for fact in facts(&parent) {
        println!("- {fact}");
    }
    Some((parent, load))
}

/// The value of an environment variable, or the default where there is none.
pub fn setting<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")),
        Err(_) => default,
    }
}

/// Where scratch folders go: what `TWINDIR_BENCH_DIR` says, `/dev/shm` where there is room, or the
/// system's folder for temporary files.
fn scratch_parent() -> PathBuf {
    if let Some(dir) = std::env::var_os("TWINDIR_BENCH_DIR") {
        return fs::canonicalize(dir).expect("TWINDIR_BENCH_DIR names a folder");
    }
    let memory = Path::new("/dev/shm");
    let free =
        rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    if free >= ENOUGH { memory.to_owned() } else { std::env::temp_dir() }
}

/// The machine and the moment, one fact a line.
fn facts(scratch: &Path) -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    vec![
        format!("date: {}", jiff::Zoned::now().strftime("%F %R %Z")),
        format!("kernel: Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        format!("CPU: {cores} cores, {}", model.map_or("model unknown", |(_, name)| name)),
        format!(
            "file system: {}, in {}",
            file_system(&read("/proc/self/mountinfo"), scratch),
            scratch.display()
        ),
    ]
}

/// How many threads have wanted a core, on average over the last minute, as the kernel says it.
/// Well above 1 after the run, others have disturbed it.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

/// The type of the file system that holds `dir`: of the last mount on the longest mount point above
/// it.
fn file_system(mounts: &str, dir: &Path) -> String {
    let parsed = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        Some((mount.split(' ').nth(4)?, kind.split(' ').next()?))
    });
    let above = parsed.filter(|(point, _)| dir.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map_or("unknown", |(_, kind)| kind).to_owned()
}

/// The version that a program says it has; `None` where it is not installed.
pub fn version(program: impl AsRef<OsStr>) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next()?.split_whitespace().last()?.to_owned())
}
