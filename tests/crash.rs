//! A daemon that is killed at any moment leaves no torn file, and nothing that the next run does not clear away.

mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;
use support::{Daemon, EXIT_LIMIT, Scratch, Tree, is_temporary_name};

/// The length of a whole file that is filled with this byte: 1 byte to 3 MB.
fn length_of(byte: u8) -> usize {
    let number = usize::from(byte);
    match byte % 8 {
        0 => 3_000_000 - number * 1000,
        1 | 2 => 200_000 + number * 997,
        _ => 1 + number * 31,
    }
}

/// What a name promises: `e` is empty, `w` whole at each moment, `l` written in place, so anything.
const CLASSES: [&str; 5] = ["w", "w", "w", "e", "l"];

/// Changes the source until told to stop. Files of class `w` come and change by renames alone, so that the source shows
/// none of them torn.
struct Churn {
    source: PathBuf,
    /// Where whole files and trees are made before they are put into the source.
    workshop: PathBuf,
    rng: Rng,
    made: usize,
}

impl Churn {
    fn start(scratch: &Scratch, seed: u64) -> (Arc<AtomicBool>, JoinHandle<()>) {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let workshop = scratch.path("workshop");
        fs::create_dir(&workshop).unwrap();
        let mut churn = Self { source: scratch.source(), workshop, rng: Rng::with_seed(seed), made: 0 };
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                churn.step();
            }
        });
        (stop, thread)
    }

    fn step(&mut self) {
        // A step may meet what an earlier one took away: then it does nothing.
        let _ = match self.rng.u8(..10) {
            0..4 => self.put_file(),
            4 => self.write_in_place(),
            5 => self.rename_file(),
            6 => fs::remove_file(self.name()),
            7 => self.put_tree(),
            8 => fs::remove_dir_all(self.dir()),
            _ => fs::rename(self.dir(), self.dir()),
        };
    }

    /// One of a few places for directories.
    fn dir(&mut self) -> PathBuf {
        let outer = self.rng.u8(..4);
        match self.rng.u8(..3) {
            0 => self.source.join(format!("d{outer}")),
            _ => self.source.join(format!("d{outer}/s{}", self.rng.u8(..3))),
        }
    }

    /// One of a few places for files of a class.
    fn name_of(&mut self, class: &str) -> PathBuf {
        let dir = if self.rng.u8(..3) == 0 { self.source.clone() } else { self.dir() };
        dir.join(format!("{class}{}", self.rng.u8(..4)))
    }

    fn name(&mut self) -> PathBuf {
        let class = self.rng.choice(CLASSES).expect("some to choose from");
        self.name_of(class)
    }

    fn contents(&mut self, class: &str) -> Vec<u8> {
        let byte = self.rng.u8(..);
        if class == "e" { Vec::new() } else { vec![byte; length_of(byte)] }
    }

    fn unused(&mut self) -> PathBuf {
        self.made += 1;
        self.workshop.join(self.made.to_string())
    }

    fn put_file(&mut self) -> std::io::Result<()> {
        let class = self.rng.choice(["w", "w", "e"]).expect("some to choose from");
        let (whole, at) = (self.unused(), self.name_of(class));
        fs::write(&whole, self.contents(class))?;
        fs::rename(&whole, at).or_else(|_| fs::remove_file(&whole))
    }

    fn write_in_place(&mut self) -> std::io::Result<()> {
        let at = self.name_of("l");
        fs::write(at, self.contents("l"))
    }

    fn rename_file(&mut self) -> std::io::Result<()> {
        let class = self.rng.choice(CLASSES).expect("some to choose from");
        fs::rename(self.name_of(class), self.name_of(class))
    }

    fn put_tree(&mut self) -> std::io::Result<()> {
        let tree = self.unused();
        fs::create_dir_all(tree.join("s0"))?;
        for name in ["w0", "w1", "e0", "s0/w0", "s0/l0"] {
            let class = Path::new(name).file_name().unwrap().to_str().unwrap();
            fs::write(tree.join(name), self.contents(&class[..1]))?;
        }
        fs::rename(&tree, self.dir()).or_else(|_| fs::remove_dir_all(&tree))
    }
}

/// Fails where a file under a real name is not what its name promises.
#[track_caller]
fn assert_none_torn(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
        let (at, name) = (entry.path(), entry.file_name());
        if is_temporary_name(&name) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            assert_none_torn(&at);
            continue;
        }
        let bytes = fs::read(&at).unwrap();
        let whole = match name.as_bytes()[0] {
            b'e' => bytes.is_empty(),
            b'w' => bytes.first().is_some_and(|first| {
                bytes.len() == length_of(*first) && bytes.iter().all(|byte| byte == first)
            }),
            _ => true,
        };
        let first = bytes.first().copied();
        assert!(whole, "torn: {} of {} bytes, the first {first:?}", at.display(), bytes.len());
    }
}

/// So many times: a daemon is started, killed after a random time, and the replica looked at.
fn survive(rounds: u64, seed: u64) {
    println!("seed {seed}");
    let scratch = Scratch::new().with_source(&Tree::new().file("w9", vec![0; 3_000_000]));
    let mut rng = Rng::with_seed(seed);
    let (stop, churn) = Churn::start(&scratch, seed);
    let (mut acted, mut left) = (0, 0);
    for round in 0..rounds {
        let arguments = ["--max-delete", "100%", "--interval-only", "source", "replica", "0.1"];
        let mut daemon = Daemon::spawn(scratch.command(arguments));
        // From before its first look at the disk to some sweeps later.
        let moment = Instant::now() + Duration::from_millis(rng.u64(1..400));
        while Instant::now() < moment {
            assert!(daemon.is_running(), "round {round}: it has ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        daemon.signal(Signal::KILL);
        let run = daemon.wait(EXIT_LIMIT);
        assert_eq!(run.code, None, "killed\n{run}");
        assert!(!run.stderr.contains("panicked"), "{run}");
        acted += run.actions().len();
        left += scratch.temporaries().len();
        assert_none_torn(&scratch.replica());
    }
    stop.store(true, Ordering::Relaxed);
    churn.join().unwrap();
    assert!(acted > 0, "no round had anything to do");
    println!("{acted} actions in {rounds} rounds; {left} times a temporary entry was left");

    scratch.once(&["--max-delete", "100%"]).expect(0);
    scratch.assert_twins();
    assert_eq!(scratch.temporaries(), Vec::<PathBuf>::new());
    let run = scratch.once(&[]).expect(0);
    assert!(run.actions().is_empty(), "it had not settled\n{run}");
}

#[test]
fn kills_under_churn_leave_no_torn_file_and_nothing_behind() {
    survive(8, 1);
}

#[test]
#[ignore = "takes a minute; TWINDIR_KILLS says how many rounds"]
fn many_kills_under_churn_leave_no_torn_file_and_nothing_behind() {
    let rounds = support::how_many("TWINDIR_KILLS", 100);
    survive(rounds, 2);
}

#[test]
fn what_a_killed_run_leaves_is_cleared_away_at_any_depth() {
    let names = [
        ".twindir.00112233445566aa.tmp",
        "d/.twindir.0011223344556677.tmp",
        "d/s/.twindir.ffffffffffffffff.tmp",
    ];
    let tree = Tree::new().file("d/s/file", "text").file("other", "text");
    let left = tree
        .clone()
        .file(names[0], "half a file")
        .symlink(names[1], "target")
        .file(format!("{}/deep/file", names[2]), "a tree put aside")
        .dir(format!("{}/locked", names[2]))
        .mode(0o500);
    let scratch = Scratch::ordinary().with_source(&tree).with_replica(&left);
    scratch.sync();
    assert_eq!(scratch.temporaries(), Vec::<PathBuf>::new());
}
