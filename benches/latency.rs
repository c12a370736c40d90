//! How soon a change shows in the replica, and what waiting for one costs: twindir beside other
//! programs that mirror one way.
//!
//! ```sh
//! cargo bench --bench latency
//! ```
//!
//! It needs no network and installs nothing. The others, lsyncd (with rsync) and ripsync, are taken
//! from PATH; one that is missing is named and left out. It takes about five minutes, and prints
//! Markdown.
//!
//! **Save to twin.** Each program by itself mirrors 1,000 files in 20 directories. One file at a
//! time is created, rewritten in place with another length, saved the way editors do (a new file
//! beside it, renamed over it), renamed and deleted, with a random pause after each. The clock
//! starts just before the last system call of an operation that changes something (the write, the
//! rename, the unlink): a program that it wakes may take the core and be done before that call
//! returns. It stops when a look at the replica finds the result: the new contents, and no other
//! name. Looks come in a loop with 20 µs of sleep, so that a figure may be high by what one round
//! takes; that is measured and printed. Times and modes are not looked at. p50 and p99 are nearest
//! ranks: for fewer than 100 repetitions, p99 is the greatest of them. What has not come after 30 s
//! is a failure and in no percentile; after three, that operation is made but no longer waited for.
//!
//! **While it sweeps.** The same with 20,000 small files and 16 of 64 MB, which twindir compares
//! over and over meanwhile: from the end of one full sweep to the next it waits for 0.1 s.
//!
//! **Idle.** All programs in their default settings, each with two trees of its own of 50,000 files
//! in 1,000 directories, at rest during the same 30 s: time on a core, voluntary context switches
//! (the times a thread was woken) and resident memory, with child processes.
//!
//! | environment variable    | meaning                                                     | default              |
//! | ----------------------- | ----------------------------------------------------------- | -------------------- |
//! | `TWINDIR_BENCH_REPS`    | how often each operation is timed; a 40th for slow settings | 200                  |
//! | `TWINDIR_BENCH_FILES`   | files for the idle part; 0 leaves it out                    | 50,000               |
//! | `TWINDIR_BENCH_SECONDS` | how long to watch the idle programs                         | 30                   |
//! | `TWINDIR_BENCH_ONLY`    | only settings whose name in the tables has this in it       | all                  |
//! | `TWINDIR_BENCH_DIR`     | where scratch folders go                                    | `/dev/shm`, if roomy |

#[path = "support/running.rs"]
mod running;
#[path = "support/median.rs"]
mod median;
mod support;

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use median::median;
use running::Program;
use support::{load, rest, setting, version};
use tempfile::TempDir;

const TWINDIR: &str = env!("CARGO_BIN_EXE_twindir");

/// After so much time an operation has failed.
const DEADLINE: Duration = Duration::from_secs(30);

/// So many failures of one operation, and it is no longer waited for.
const ENOUGH_FAILURES: usize = 3;

/// Between two looks at the replica.
const POLL: Duration = Duration::from_micros(20);

/// For a first copy, and quiet after it.
const FIRST_COPY: Duration = Duration::from_secs(120);

const CHANGE: &str = "the source can be changed";

/// The size of a file that rests, in bytes.
const SIZE: usize = 500;

/// And of a large one.
const LARGE: usize = 64 << 20;

fn main() {
    let Some((parent, load_before)) = support::begin() else { return };
    println!(
        "- one round of looking at the replica: {} ms (median of 1,000)",
        millis(poll_round(&parent))
    );
    let tools = installed_tools();
    println!("\n## Save to twin: p50 / p99 in ms\n");
    print_latencies(&parent, &tools);
    let files = setting("TWINDIR_BENCH_FILES", 50_000);
    if files > 0 {
        println!("\n## Idle, with {files} files\n");
        print_idle(&parent, &tools, files);
    }
    println!("\nLoad average over one minute: {load_before} before, {} after.", load());
}

/// A program in one of its settings.
struct Tool {
    name: &'static str,
    program: &'static str,
    /// How long it waits for more before it acts, in its own unit; `None` for its default.
    window: Option<&'static str>,
    /// Pauses between operations, in ms: for a slow setting, long enough that nothing of one is
    /// left at the next.
    pause: Range<u64>,
    /// Whether it compares all, over and over, meanwhile.
    sweeps: bool,
}

const SHORT: Range<u64> = 20..60;

const fn tool(
    name: &'static str,
    program: &'static str,
    window: Option<&'static str>,
    pause: Range<u64>,
) -> Tool {
    Tool { name, program, window, pause, sweeps: false }
}

const TOOLS: [Tool; 8] = [
    tool("twindir (default, 10 ms)", TWINDIR, None, SHORT),
    tool("twindir, debounce 0", TWINDIR, Some("0"), SHORT),
    Tool { sweeps: true, ..tool("twindir (default), while it sweeps", TWINDIR, None, SHORT) },
    Tool {
        sweeps: true,
        ..tool("twindir, debounce 0, while it sweeps", TWINDIR, Some("0"), SHORT)
    },
    tool("lsyncd direct (default, 1 s)", "lsyncd", None, 220..260),
    tool("lsyncd direct, delay 0", "lsyncd", Some("0"), SHORT),
    tool("ripsync (default, 300 ms)", "ripsync", None, 320..360),
    tool("ripsync, 1 ms", "ripsync", Some("1"), SHORT),
];

/// Says which programs are there, and in which version.
fn installed_tools() -> Vec<Tool> {
    let rsync = version("rsync");
    let mut missing = Vec::new();
    for (name, program) in [("twindir", TWINDIR), ("lsyncd", "lsyncd"), ("ripsync", "ripsync")] {
        match version(program) {
            Some(_) if name == "lsyncd" && rsync.is_none() => {
                println!("- lsyncd: left out, since rsync is not installed");
                missing.push(program);
            }
            Some(version) => println!("- {name} {version}"),
            None => {
                println!("- {name}: left out, since it is not installed");
                missing.push(program);
            }
        }
    }
    let only = setting("TWINDIR_BENCH_ONLY", String::new());
    let is_wanted = |tool: &Tool| !missing.contains(&tool.program) && tool.name.contains(&only);
    TOOLS.into_iter().filter(is_wanted).collect()
}

impl Tool {
    fn is_slow(&self) -> bool {
        self.pause != SHORT
    }

    fn start(&self, place: &Place) -> Program {
        let mut command = Command::new(self.program);
        match self.program {
            "lsyncd" => command.arg(self.lsyncd_config(place)),
            "ripsync" => {
                command.args(["--watch", "--delete", "--yes", "--no-tui"]);
                command.args(self.window.map(|window| format!("--debounce={window}")));
                command.args([place.source(), place.replica()])
            }
            _ => {
                command.args(self.window.map(|window| format!("--debounce={window}")));
                let interval = if self.sweeps { "100ms" } else { "1h" };
                command.args([place.source(), place.replica()]).arg(interval)
            }
        };
        Program::start(command, place.path("log"))
    }

    /// Waits until all is copied, and for its rest, should it ever come to rest.
    fn settle(&self, program: &mut Program, place: &Place, quiet: Duration) -> Result<(), String> {
        if self.sweeps {
            program.complete(FIRST_COPY, || place.is_copied())
        } else {
            program.settle(quiet, FIRST_COPY, || place.is_copied())
        }
    }

    /// Writes the file that it is told its settings by.
    fn lsyncd_config(&self, place: &Place) -> PathBuf {
        let delay = self.window.map_or(String::new(), |window| format!(", delay = {window}"));
        let (source, target) = (place.source(), place.replica());
        let text = format!(
            "settings {{ nodaemon = true }}\n\
             sync {{ default.direct, source = [[{}/]], target = [[{}/]]{delay} }}\n",
            source.display(),
            target.display(),
        );
        let file = place.path("lsyncd.lua");
        fs::write(&file, text).expect("a configuration can be written");
        file
    }
}

/// A folder with a source and a replica, which goes at the end.
struct Place {
    dir: TempDir,
    dirs: usize,
    files: usize,
    /// Files of 64 MB.
    large: usize,
}

impl Place {
    /// With a source of `files` small files in `dirs` directories, and an empty replica.
    fn new(parent: &Path, dirs: usize, files: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("twindir-bench-").tempdir_in(parent);
        let place = Self { dir: dir.expect("a scratch folder can be made"), dirs, files, large: 0 };
        fs::create_dir(place.replica()).expect("a directory can be made");
        for dir in 0..dirs {
            fs::create_dir_all(place.source().join(dir_name(dir)))
                .expect("a directory can be made");
        }
        for name in place.names() {
            fs::write(place.source().join(name), random_text(SIZE)).expect("a file can be written");
        }
        place
    }

    fn with_large(mut self, number: usize) -> Self {
        self.large = number;
        for name in self.large_names() {
            let mut bytes = vec![0; LARGE];
            fastrand::fill(&mut bytes);
            fs::write(self.source().join(name), bytes).expect("a file can be written");
        }
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn source(&self) -> PathBuf {
        self.path("source")
    }

    fn replica(&self) -> PathBuf {
        self.path("replica")
    }

    /// Of the files, relative to the source.
    fn names(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.files).map(|file| dir_name(file % self.dirs).join(format!("file-{file:05}.txt")))
    }

    fn large_names(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.large).map(|file| format!("large-{file}.bin").into())
    }

    /// Whether all files are in the replica, in their full size.
    fn is_copied(&self) -> bool {
        let replica = self.replica();
        let has = |name: PathBuf, size| {
            fs::metadata(replica.join(name)).is_ok_and(|file| file.len() == size)
        };
        self.names().all(|name| has(name, SIZE as u64))
            && self.large_names().all(|name| has(name, LARGE as u64))
    }
}

fn dir_name(number: usize) -> PathBuf {
    PathBuf::from(format!("dir-{number:04}"))
}

fn random_text(size: usize) -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(size).collect()
}

#[derive(Clone, Copy)]
enum Operation {
    Create,
    Rewrite,
    Save,
    Rename,
    Delete,
}

/// In the order in which each file goes through them.
const OPERATIONS: [(Operation, &str); 5] = [
    (Operation::Create, "create"),
    (Operation::Rewrite, "rewrite"),
    (Operation::Save, "atomic save"),
    (Operation::Rename, "rename"),
    (Operation::Delete, "delete"),
];

/// The one file that changes, and how it is to look in the replica.
struct Subject {
    /// Relative to both roots.
    name: PathBuf,
    old_name: PathBuf,
    /// `None` where it does not exist.
    text: Option<String>,
}

impl Subject {
    fn new(dir: usize, number: usize) -> Self {
        let file = |suffix| dir_name(dir).join(format!("subject-{number}{suffix}"));
        Self { name: file(".txt"), old_name: file(".txt.tmp"), text: None }
    }

    /// Does it in the source. Says when its last system call that changes something began.
    fn apply(&mut self, operation: Operation, source: &Path) -> io::Result<Instant> {
        let path = source.join(&self.name);
        match operation {
            Operation::Create | Operation::Rewrite => write(&path, self.next_text()),
            Operation::Save => {
                let other = source.join(&self.old_name);
                write(&other, self.next_text())?;
                let last = Instant::now();
                fs::rename(other, path).map(|()| last)
            }
            Operation::Rename => {
                self.old_name = self.name.with_extension("moved.txt");
                std::mem::swap(&mut self.name, &mut self.old_name);
                let new_path = source.join(&self.name);
                let last = Instant::now();
                fs::rename(path, new_path).map(|()| last)
            }
            Operation::Delete => {
                self.text = None;
                let last = Instant::now();
                fs::remove_file(path).map(|()| last)
            }
        }
    }

    /// Other contents of another length.
    fn next_text(&mut self) -> &str {
        let size = self.text.as_ref().map_or(SIZE, String::len);
        self.text.insert(random_text(size % 900 + fastrand::usize(1..100)))
    }

    /// Whether the replica has it under its name, or not at all, and not under its old name.
    fn is_shown(&self, replica: &Path) -> bool {
        let found = fs::read(replica.join(&self.name)).ok();
        found.as_deref() == self.text.as_ref().map(String::as_bytes)
            && !fs::exists(replica.join(&self.old_name)).unwrap_or(true)
    }
}

/// Creates or empties the file, then writes. Says when the write began.
fn write(path: &Path, text: &str) -> io::Result<Instant> {
    let mut file = File::create(path)?;
    let last = Instant::now();
    file.write_all(text.as_bytes()).map(|()| last)
}

/// What came of one operation with one tool.
#[derive(Default)]
struct Outcomes {
    times: Vec<Duration>,
    failures: usize,
}

/// A row as soon as it is known.
fn print_latencies(parent: &Path, tools: &[Tool]) {
    let names = OPERATIONS.map(|(_, name)| name);
    println!("| program | times each | {} | failed |", names.join(" | "));
    println!("| --- | ---: |{} --- |", " ---: |".repeat(names.len()));
    for tool in tools {
        let all = setting("TWINDIR_BENCH_REPS", 200);
        let repetitions = if tool.is_slow() { (all / 40).max(1) } else { all };
        match latencies(parent, tool, repetitions) {
            Ok(outcomes) => {
                let cells: Vec<String> = outcomes.iter().map(Outcomes::cell).collect();
                println!(
                    "| {} | {repetitions} | {} | {} |",
                    tool.name,
                    cells.join(" | "),
                    failures(&outcomes)
                );
            }
            Err(reason) => println!("| {} | not measured: {reason} |", tool.name),
        }
    }
}

/// Of one tool, by operation.
fn latencies(
    parent: &Path,
    tool: &Tool,
    repetitions: usize,
) -> Result<[Outcomes; OPERATIONS.len()], String> {
    let dirs = 20;
    let place = if tool.sweeps {
        Place::new(parent, dirs, 20_000).with_large(16)
    } else {
        Place::new(parent, dirs, 1000)
    };
    let (source, replica) = (place.source(), place.replica());
    let mut program = tool.start(&place);
    tool.settle(&mut program, &place, Duration::from_secs(1))?;
    let mut outcomes: [Outcomes; OPERATIONS.len()] = Default::default();
    // The first file is for warming up.
    for number in 0..=repetitions {
        let mut subject = Subject::new(fastrand::usize(..dirs), number);
        for ((operation, _), outcome) in OPERATIONS.iter().zip(&mut outcomes) {
            let start = subject.apply(*operation, &source).expect(CHANGE);
            if outcome.failures < ENOUGH_FAILURES {
                match time_until_shown(&subject, &replica, start) {
                    Some(time) if number > 0 => outcome.times.push(time),
                    Some(_) => {}
                    None => outcome.failures += 1,
                }
                program.still_runs()?;
            }
            rest(Duration::from_millis(fastrand::u64(tool.pause.clone())));
        }
    }
    Ok(outcomes)
}

/// From `start` on; `None` where the deadline comes first.
fn time_until_shown(subject: &Subject, replica: &Path, start: Instant) -> Option<Duration> {
    while !subject.is_shown(replica) {
        if start.elapsed() > DEADLINE {
            return None;
        }
        rest(POLL);
    }
    Some(start.elapsed())
}

/// The median time from one look at the replica to the next.
fn poll_round(parent: &Path) -> Duration {
    let place = Place::new(parent, 1, 1);
    let mut subject = Subject::new(0, 0);
    subject.apply(Operation::Create, &place.source()).expect(CHANGE);
    let round = || {
        let start = Instant::now();
        assert!(subject.is_shown(&place.source()), "what was created is there");
        rest(POLL);
        start.elapsed()
    };
    median(&std::iter::repeat_with(round).take(1000).collect::<Vec<_>>())
}

impl Outcomes {
    fn cell(&self) -> String {
        if self.times.is_empty() {
            return "–".to_owned();
        }
        format!("{} / {}", millis(percentile(&self.times, 50)), millis(percentile(&self.times, 99)))
    }
}

fn failures(outcomes: &[Outcomes]) -> String {
    let failed = OPERATIONS.iter().zip(outcomes).filter(|(_, outcome)| outcome.failures > 0);
    let list: Vec<String> =
        failed.map(|((_, name), outcome)| format!("{} {name}", outcome.failures)).collect();
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

/// The nearest rank: at least `percent` of all are no greater than it.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

fn millis(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1000.0)
}

/// All tools in their default settings, at rest at the same time.
fn print_idle(parent: &Path, tools: &[Tool], files: usize) {
    let time = Duration::from_secs(setting("TWINDIR_BENCH_SECONDS", 30));
    let mut running = Vec::new();
    for tool in tools.iter().filter(|tool| tool.window.is_none() && !tool.sweeps) {
        let place = Place::new(parent, files.div_ceil(50), files);
        let mut program = tool.start(&place);
        let settled = tool.settle(&mut program, &place, Duration::from_secs(3));
        running.push((tool, program, settled, place));
    }
    let begun: Vec<_> =
        running.iter().map(|(_, program, ..)| (Instant::now(), program.usage())).collect();
    rest(time);
    println!("| program | CPU, % of one core | wake-ups a second | resident, MB | remarks |");
    println!("| --- | ---: | ---: | ---: | --- |");
    for ((tool, program, settled, _), (start, before)) in running.iter().zip(begun) {
        let (seconds, now) = (start.elapsed().as_secs_f64(), program.usage());
        let spent = now.since(&before);
        println!(
            "| {} | {:.4} | {:.2} | {:.1} | {}{} |",
            tool.name,
            100.0 * spent.cpu.as_secs_f64() / seconds,
            spent.wakeups as f64 / seconds,
            now.memory as f64 / 1e6,
            settled.as_ref().err().map_or("", String::as_str),
            if spent.is_partial { " threads ended meanwhile" } else { "" },
        );
    }
}
