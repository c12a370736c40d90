//! What twindir costs, and how far it is behind, while much happens at once.
//!
//! ```sh
//! cargo bench --bench storms
//! ```
//!
//! It needs no network and installs nothing, takes some three minutes, and prints Markdown.
//!
//! **Rename.** A directory of 10,000 files is renamed again and again. The clock starts before the
//! rename and stops when a look at the replica finds the last file under the new name and nothing
//! under the old one; looks come in a loop with 20 µs of sleep.
//!
//! **Hot log.** A log is appended to a thousand times a second. Behind: for how long the source had
//! had more than a look at the replica found, at the worst of the looks, which come every 5 ms.
//!
//! **Unpack and remove.** tar unpacks 100,000 files where nobody watches, then into the source;
//! then all is removed. Three times each, the median of what each took by itself. Equal after: from
//! the end of the command to the begin of the look that found as many entries in the replica as in
//! the source.
//!
//! **Rename storm.** One file is renamed to ever new names, or two exchange their names, as fast as
//! that goes, while another file is saved again and again; looks for that come every millisecond.
//! Equal after: from the end of the storm to the begin of the look that found the names of the
//! source in the replica. In the third row 10,000 files are renamed once each.
//!
//! **Deep.** 1,600 directories are made in each other, a file in each: from the end of that to the
//! begin of the look that found the last file.
//!
//! | environment variable    | meaning                                       | default              |
//! | ----------------------- | --------------------------------------------- | -------------------- |
//! | `TWINDIR_BENCH_REPS`    | how often the directory is renamed            | 20                   |
//! | `TWINDIR_BENCH_SECONDS` | how long the log is hot, and a storm lasts    | 10                   |
//! | `TWINDIR_BENCH_FILES`   | files to unpack; a tenth of them is renamed   | 100,000              |
//! | `TWINDIR_BENCH_DIR`     | where scratch folders go                      | `/dev/shm`, if roomy |

#[path = "support/running.rs"]
mod running;
#[path = "support/median.rs"]
mod median;
mod support;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use median::median;
use running::Program;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use support::{load, rest, setting, version};
use tempfile::TempDir;

const TWINDIR: &str = env!("CARGO_BIN_EXE_twindir");

/// After so much time the replica is given up.
const DEADLINE: Duration = Duration::from_secs(120);

/// Between two looks at the replica for a rename.
const POLL: Duration = Duration::from_micros(20);

const CHANGE: &str = "the source can be changed";

fn main() {
    let Some((parent, before)) = support::begin() else { return };
    println!("- twindir {}", version(TWINDIR).expect("it says its version"));
    let files = setting("TWINDIR_BENCH_FILES", 100_000);
    print_renames(&parent, files / 10);
    print_rename_storms(&parent);
    print_hot_log(&parent);
    print_deep(&parent);
    print_unpacking(&parent, files);
    println!("\nLoad average over one minute: {before} before, {} after.", load());
}

/// A folder with a source, a replica and a program that keeps it; all goes at the end.
struct Place {
    program: Program,
    dir: TempDir,
}

impl Place {
    /// With a source that `fill` has filled, once the replica is equal and the program quiet.
    fn start(parent: &Path, fill: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::Builder::new().prefix("twindir-bench-").tempdir_in(parent);
        let dir = dir.expect("a scratch folder can be made");
        let [source, replica] = ["source", "replica"].map(|name| dir.path().join(name));
        fs::create_dir(&source).expect("a directory can be made");
        fill(&source);
        let mut command = Command::new(TWINDIR);
        command.args([&source, &replica]).arg("1h");
        let mut program = Program::start(command, dir.path().join("log"));
        let settled = program
            .settle(Duration::from_secs(2), DEADLINE, || entries(&source) == entries(&replica));
        settled.expect("it mirrors the source");
        Self { program, dir }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn replica(&self) -> PathBuf {
        self.dir.path().join("replica")
    }

    /// How long it takes until `is_done` finds the replica as it is to be; when the look began that
    /// did.
    fn wait(&mut self, poll: Duration, is_done: impl Fn(&Path) -> bool) -> Duration {
        let (begun, replica) = (Instant::now(), self.replica());
        loop {
            let looked = begun.elapsed();
            if is_done(&replica) {
                return looked;
            }
            assert!(looked < DEADLINE, "the replica is not as it is to be after {DEADLINE:?}");
            rest(poll);
            self.program.still_runs().expect("it runs");
        }
    }

    /// What it has used up to now.
    fn usage(&self) -> running::Usage {
        self.program.usage()
    }
}

/// How many entries lie below a directory that may change meanwhile.
fn entries(dir: &Path) -> usize {
    let below = |entry: fs::DirEntry| {
        1 + if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            entries(&entry.path())
        } else {
            0
        }
    };
    fs::read_dir(dir).into_iter().flatten().flatten().map(below).sum()
}

/// Small files, a hundred in each directory.
fn fill(dir: &Path, files: usize) {
    for number in 0..files {
        let within = dir.join(format!("{:04}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&within).expect("a directory can be made");
        }
        fs::write(within.join(format!("file-{number}")), format!("file {number}")).expect(CHANGE);
    }
}

fn print_renames(parent: &Path, files: usize) {
    println!("\n## A directory of {files} files, renamed: ms until the replica shows it\n");
    let mut place = Place::start(parent, |source| fill(&source.join("a"), files));
    let last = format!("{:04}/file-{}", (files - 1) / 100, files - 1);
    let mut times = Vec::new();
    for number in 0..setting("TWINDIR_BENCH_REPS", 20) {
        let (from, to) = if number % 2 == 0 { ("a", "b") } else { ("b", "a") };
        let begun = Instant::now();
        fs::rename(place.source().join(from), place.source().join(to)).expect(CHANGE);
        place.wait(POLL, |replica| {
            replica.join(to).join(&last).exists() && !replica.join(from).exists()
        });
        times.push(begun.elapsed());
        rest(Duration::from_millis(fastrand::u64(100..200)));
    }
    times.sort_unstable();
    println!("| times | median | most |\n| ---: | ---: | ---: |");
    println!(
        "| {} | {} | {} |",
        times.len(),
        millis(median(&times)),
        millis(times[times.len() - 1])
    );
}

/// Renames in a directory as fast as it can, until it is told to stop: how many.
type Storm = fn(&Path, &AtomicBool) -> u64;

fn to_new_names(dir: &Path, stop: &AtomicBool) -> u64 {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        fs::rename(dir.join(format!("n{number}")), dir.join(format!("n{}", number + 1)))
            .expect(CHANGE);
        number += 1;
    }
    number
}

fn exchange(dir: &Path, stop: &AtomicBool) -> u64 {
    let (one, other) = (dir.join("n0"), dir.join("other"));
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).expect(CHANGE);
        number += 1;
    }
    number
}

fn each_once(dir: &Path, stop: &AtomicBool) -> u64 {
    for number in 0..EACH {
        fs::rename(dir.join(format!("each{number}")), dir.join(format!("once{number}")))
            .expect(CHANGE);
    }
    while !stop.load(Ordering::Relaxed) {
        rest(Duration::from_millis(1));
    }
    EACH
}

/// Files that are renamed once each.
const EACH: u64 = 10_000;

fn print_rename_storms(parent: &Path) {
    println!("\n## Renames at full speed\n");
    println!(
        "| what | renames | a save elsewhere: median, ms | most, ms | CPU, % of one core | equal after, ms |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let storms: [(&str, Storm); 3] =
        [("to new names", to_new_names), ("exchange", exchange), ("each once", each_once)];
    for (what, storm) in storms {
        let mut place = Place::start(parent, |source| {
            let dir = source.join("storm");
            fs::create_dir(&dir).expect("a directory can be made");
            let each =
                (0..EACH).map(|number| format!("each{number}")).filter(|_| what == "each once");
            for name in each.chain(["n0".to_owned(), "other".to_owned()]) {
                fs::write(dir.join(&name), &name).expect(CHANGE);
            }
        });
        let (stop, begun, before) = (AtomicBool::new(false), Instant::now(), place.usage());
        let storm_dir = place.source().join("storm");
        let (renames, mut saves) = std::thread::scope(|scope| {
            let renaming = scope.spawn(|| storm(&storm_dir, &stop));
            let time = Duration::from_secs(setting("TWINDIR_BENCH_SECONDS", 10));
            let saves = save_for(&mut place, if what == "each once" { time / 10 } else { time });
            stop.store(true, Ordering::Relaxed);
            (renaming.join().expect("it only renames"), saves)
        });
        let cpu =
            100.0 * place.usage().since(&before).cpu.as_secs_f64() / begun.elapsed().as_secs_f64();
        let wanted = names(&storm_dir);
        let equal =
            place.wait(Duration::from_millis(5), |replica| names(&replica.join("storm")) == wanted);
        saves.sort_unstable();
        let [middle, most] = [median(&saves), saves[saves.len() - 1]].map(millis);
        println!("| {what} | {renames} | {middle} | {most} | {cpu:.0} | {} |", millis(equal));
    }
}

/// Saves a file again and again for a time: how long each save took to be seen in the replica.
fn save_for(place: &mut Place, time: Duration) -> Vec<Duration> {
    let (begun, saved) = (Instant::now(), place.source().join("saved"));
    let mut took = Vec::new();
    while begun.elapsed() < time {
        let text = format!("save {}", took.len());
        let save = Instant::now();
        fs::write(&saved, &text).expect(CHANGE);
        let is_there = |replica: &Path| {
            fs::read(replica.join("saved")).is_ok_and(|found| found == text.as_bytes())
        };
        place.wait(Duration::from_millis(1), is_there);
        took.push(save.elapsed());
        rest(Duration::from_millis(100));
    }
    took
}

fn names(dir: &Path) -> BTreeSet<OsString> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
}

fn print_deep(parent: &Path) {
    println!("\n## 1,600 directories in each other\n");
    let mut place = Place::start(parent, |_| {});
    let mut last = PathBuf::new();
    for _ in 0..1_600 {
        last.push("d");
        fs::create_dir(place.source().join(&last)).expect("a directory can be made");
        fs::write(place.source().join(&last).join("f"), "text").expect(CHANGE);
    }
    let equal =
        place.wait(Duration::from_millis(1), |replica| replica.join(&last).join("f").exists());
    println!("Equal after {} ms.", millis(equal));
}

fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

fn print_hot_log(parent: &Path) {
    println!("\n## A log, appended to a thousand times a second\n");
    println!(
        "| size before | opened | CPU, % of one core | behind, ms |\n| ---: | --- | ---: | ---: |"
    );
    for size in [0, 1_000_000, 200_000_000] {
        for reopened in [false, true] {
            let place = Place::start(parent, |source| {
                fs::write(source.join("log"), vec![b'l'; size]).expect(CHANGE);
            });
            let (cpu, behind) = hot_log(&place, reopened);
            let opened = if reopened { "each time" } else { "once" };
            println!("| {size} | {opened} | {cpu} | {} |", millis(behind));
        }
    }
}

/// Per cent of one core, at least so much where threads have ended meanwhile, and how far it was
/// behind at most.
fn hot_log(place: &Place, reopened: bool) -> (String, Duration) {
    let time = Duration::from_secs(setting("TWINDIR_BENCH_SECONDS", 10));
    let (stop, copy) = (AtomicBool::new(false), place.replica().join("log"));
    let (begun, before) = (Instant::now(), place.usage());
    let (sizes, looks) = std::thread::scope(|scope| {
        let looking = scope.spawn(|| look_at(&copy, &stop));
        let sizes = append(&place.source().join("log"), reopened, time);
        stop.store(true, Ordering::Relaxed);
        (sizes, looking.join().expect("it only looks"))
    });
    let spent = place.usage().since(&before);
    let least = if spent.is_partial { "≥ " } else { "" };
    let cpu =
        format!("{least}{:.1}", 100.0 * spent.cpu.as_secs_f64() / begun.elapsed().as_secs_f64());
    let behind = looks.iter().map(|(at, size)| {
        let next = sizes.partition_point(|(_, had)| had <= size);
        sizes.get(next).map_or(Duration::ZERO, |(since, _)| at.saturating_duration_since(*since))
    });
    (cpu, behind.max().unwrap_or_default())
}

type Sizes = Vec<(Instant, u64)>;

/// Appends for `time`; when the log had which size.
fn append(path: &Path, reopened: bool, time: Duration) -> Sizes {
    let open = || File::options().append(true).open(path).expect(CHANGE);
    let mut file = open();
    let mut size = file.metadata().expect("it is there").len();
    let (begun, mut sizes) = (Instant::now(), Vec::new());
    while begun.elapsed() < time {
        if reopened {
            file = open();
        }
        let line = b"one more line in a log that many things are written to\n";
        file.write_all(line).expect(CHANGE);
        size += line.len() as u64;
        sizes.push((Instant::now(), size));
        // By the clock, so that a slow moment is made up for.
        let due = Duration::from_millis(sizes.len() as u64);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    sizes
}

/// What the replica had at which time.
fn look_at(copy: &Path, stop: &AtomicBool) -> Sizes {
    let mut looks = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(found) = fs::metadata(copy) {
            looks.push((Instant::now(), found.len()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    looks
}

/// What a shell script takes in a directory.
fn timed(script: &str, dir: &Path) -> Duration {
    let begun = Instant::now();
    let status = Command::new("sh").args(["-ec", script]).current_dir(dir).status();
    assert!(status.is_ok_and(|status| status.success()), "{script}");
    begun.elapsed()
}

fn print_unpacking(parent: &Path, files: usize) {
    println!("\n## {files} files, unpacked and removed: seconds\n");
    let mut place = Place::start(parent, |_| {});
    let alone = place.dir.path().join("alone");
    fill(&place.dir.path().join("outside/pack"), files);
    fs::create_dir(&alone).expect("a directory can be made");
    timed("tar cf pack.tar -C outside pack", place.dir.path());
    println!("| | alone | watched | ratio | equal after |\n| --- | ---: | ---: | ---: | ---: |");
    let scripts = [("unpack", "tar xf ../pack.tar"), ("remove", "rm -rf pack")];
    let mut unwatched = [const { Vec::new() }; 2];
    let mut watched = [const { Vec::new() }; 2];
    let mut equal = [const { Vec::new() }; 2];
    for _ in 0..3 {
        for (number, (_, script)) in scripts.iter().enumerate() {
            unwatched[number].push(timed(script, &alone));
        }
        for (number, (_, script)) in scripts.iter().enumerate() {
            watched[number].push(timed(script, &place.source()));
            let wanted = entries(&place.source());
            equal[number]
                .push(place.wait(Duration::from_millis(5), |replica| entries(replica) == wanted));
        }
    }
    for (number, (name, _)) in scripts.iter().enumerate() {
        let [alone, watched, equal] = [&unwatched[number], &watched[number], &equal[number]]
            .map(|times: &Vec<Duration>| median(times).as_secs_f64());
        println!("| {name} | {alone:.2} | {watched:.2} | {:.2} | {equal:.2} |", watched / alone);
    }
}
