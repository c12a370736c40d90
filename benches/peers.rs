//! How long whole trees take: the first copy, the full comparison, the quick one; twindir beside
//! others that do the same, and beside bare loops that nobody can beat in this way.
//!
//! ```sh
//! cargo bench --bench peers
//! ```
//!
//! It installs nothing: rsync, cp, python3 and ripsync are taken from PATH, and one that is missing
//! is named and left out. It makes its own trees (see `sets`), in memory and on a disk, needs 5 GB
//! on each, takes half an hour, and prints Markdown.
//!
//! **First copy**: into a folder that does not exist. **Full sweep**: both trees equal, every pair
//! of files read (by twindir and the script with MD5, by rsync with its own choice and with MD5).
//! **Quick sweep**: both trees equal, sizes and times compared. Everything lies in the page cache
//! before; nobody waits for the disk (`sync` runs between, and is not timed). The programs run in
//! turn, so that a slow minute of the machine hits all of them. A figure is the median; a ratio is
//! twindir's median to the other's.
//!
//! | environment variable    | meaning                                       | default                            |
//! | ----------------------- | --------------------------------------------- | ---------------------------------- |
//! | `TWINDIR_BENCH_RUNS`    | how often each program runs                   | 5                                  |
//! | `TWINDIR_BENCH_ONLY`    | only trees whose name has this in it          | all                                |
//! | `TWINDIR_BENCH_DIR`     | where the trees in memory go                  | `/dev/shm`, if roomy               |
//! | `TWINDIR_BENCH_DISK`    | where the trees on a disk go; empty for none  | the folder for temporary files     |

#[path = "peers/floor.rs"]
mod floor;
#[path = "peers/sets.rs"]
mod sets;
#[path = "support/median.rs"]
mod median;
mod support;
#[path = "support/trees.rs"]
mod trees;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use median::median;
use sets::{SETS, Set};
use support::{load, setting, version};
use tempfile::TempDir;

const TWINDIR: &str = env!("CARGO_BIN_EXE_twindir");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/script.py");

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Job {
    Copy,
    Sweep,
    Quick,
}

/// Who does it: a program with its arguments, before source and replica, or a bare loop.
enum Runner {
    Program(&'static str, &'static [&'static str]),
    Loop(fn(&Path, &Path)),
}

struct Peer {
    name: &'static str,
    runner: Runner,
}

const fn program(
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
) -> Peer {
    Peer { name, runner: Runner::Program(program, arguments) }
}

const fn bare(name: &'static str, work: fn(&Path, &Path)) -> Peer {
    Peer { name, runner: Runner::Loop(work) }
}

/// All who do a job, twindir first.
const COPY: [Peer; 6] = [
    program("twindir --once", TWINDIR, &["--once", "-q"]),
    program("rsync -a", "rsync", &["-a", "--delete"]),
    program("cp -a", "cp", &["-a"]),
    program("ripsync", "ripsync", &["-q"]),
    program("script", "python3", &[SCRIPT]),
    bare("bare copy", floor::copy),
];
const SWEEP: [Peer; 6] = [
    program("twindir --once", TWINDIR, &["--once", "-q"]),
    program("rsync -ac", "rsync", &["-ac", "--delete"]),
    program("rsync -ac, MD5", "rsync", &["-ac", "--delete", "--checksum-choice=md5"]),
    program("ripsync -c", "ripsync", &["-q", "-c"]),
    program("script", "python3", &[SCRIPT]),
    bare("bare reading", floor::read),
];
const QUICK: [Peer; 4] = [
    program("twindir --once --quick", TWINDIR, &["--once", "-q", "--quick"]),
    program("rsync -an", "rsync", &["-an", "--delete"]),
    program("ripsync", "ripsync", &["-q"]),
    bare("bare walk and stat", floor::walk),
];

fn main() {
    let Some((memory, before)) = support::begin() else { return };
    for name in ["rsync", "cp", "python3", "ripsync"] {
        println!(
            "- {name} {}",
            version(name).as_deref().unwrap_or("is not installed, and left out")
        );
    }
    let disk = env::var_os("TWINDIR_BENCH_DISK").map_or_else(env::temp_dir, PathBuf::from);
    let only = setting("TWINDIR_BENCH_ONLY", String::new());
    let places = [("memory", memory), ("disk", disk)];
    for set in SETS.iter().filter(|set| set.name.contains(&only)) {
        println!("\n## {}: {}\n", set.name, set.what);
        for (place, parent) in places.iter().filter(|(_, parent)| !parent.as_os_str().is_empty()) {
            measure(set, place, parent);
        }
    }
    println!("\nLoad average over one minute: {before} before, {} after.", load());
}

/// All jobs with one tree in one place.
fn measure(set: &Set, place: &str, parent: &Path) {
    let folder = TempDir::new_in(parent).expect("a folder can be made");
    let source = folder.path().join("source");
    set.make(&source);
    for (job, what, peers) in [
        (Job::Copy, "first copy", &COPY[..]),
        (Job::Sweep, "full sweep", &SWEEP),
        (Job::Quick, "quick sweep", &QUICK),
    ] {
        if set.for_quick && job != Job::Quick {
            continue;
        }
        println!("### {what}, {place}\n\n| | median, s | twindir to it |\n| --- | ---: | ---: |");
        let times = take_turns(job, peers, &source, folder.path());
        let own = median(&times[0]);
        for (peer, times) in peers.iter().zip(&times).filter(|(_, times)| !times.is_empty()) {
            let time = median(times);
            println!(
                "| {} | {:.3} | {:.2} |",
                peer.name,
                time.as_secs_f64(),
                own.as_secs_f64() / time.as_secs_f64()
            );
        }
        println!();
    }
}

/// How long each took, each time; nothing for one that is not installed.
fn take_turns(job: Job, peers: &[Peer], source: &Path, folder: &Path) -> Vec<Vec<Duration>> {
    let mut times: Vec<Vec<Duration>> = peers.iter().map(|_| Vec::new()).collect();
    let replica = folder.join("replica");
    if job != Job::Copy {
        trees::twin(source, &replica);
    }
    if job == Job::Quick {
        // The first turn finds all equal, and marks it so.
        support::rest(support::YOUNG);
    }
    // The first turn fills the page cache.
    for turn in 0..=setting("TWINDIR_BENCH_RUNS", 5) {
        for (peer, times) in peers.iter().zip(&mut times) {
            support::rest(Duration::ZERO);
            rustix::fs::sync();
            let time = peer.runner.time(source, &replica);
            times.extend(time.filter(|_| turn > 0));
            if job == Job::Copy {
                fs::remove_dir_all(&replica).unwrap_or_default();
            }
        }
    }
    fs::remove_dir_all(&replica).unwrap_or_default();
    times
}

impl Runner {
    fn time(&self, source: &Path, replica: &Path) -> Option<Duration> {
        let begun = Instant::now();
        match self {
            Self::Loop(work) => work(source, replica),
            Self::Program(program, arguments) => {
                let mut command = Command::new(program);
                // To rsync and cp a slash or a dot says that the folder's contents are meant.
                let contents =
                    if *program == "rsync" { source.join("") } else { source.to_owned() };
                command.args(*arguments).args([&contents, replica]);
                let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
                assert!(status.success(), "{command:?}: {status}");
            }
        }
        Some(begun.elapsed())
    }
}
