//! A daemon that is killed at any moment leaves no torn file, and nothing that the next run does
//! not clear away.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::{
    Background, DEADLINE, Daemon, EXIT_LIMIT, Run, Scratch, Tree, is_temporary_name, wait_until,
};
use fastrand::Rng;
use rustix::process::Signal;

/// The byte that the largest files are filled with.
const BIG: u8 = 192;

/// The length of a whole file that is filled with this byte: 1 byte to 3 MB, or so much that a
/// worker fills it.
fn length_of(byte: u8) -> usize {
    let number = usize::from(byte);
    match byte % 8 {
        _ if byte == BIG => 12_000_000,
        0 => 3_000_000 - number * 1000,
        1 | 2 => 200_000 + number * 997,
        _ => 1 + number * 31,
    }
}

/// What a name promises: `e` is empty, `w` whole at each moment, `l` written in place, so anything.
const CLASSES: [&str; 5] = ["w", "w", "w", "e", "l"];

/// Changes the source. Files of class `w` come and change by renames alone, so that the source
/// shows none of them torn.
struct Churn {
    source: PathBuf,
    /// Where whole files and trees are made before they are put into the source.
    workshop: PathBuf,
    rng: Rng,
    made: usize,
}

impl Churn {
    fn new(scratch: &Scratch, seed: u64) -> Self {
        let workshop = scratch.path("workshop");
        fs::create_dir(&workshop).unwrap();
        Self { source: scratch.source(), workshop, rng: Rng::with_seed(seed), made: 0 }
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
            _ => self.rename_dir(),
        };
    }

    fn rename_dir(&mut self) -> std::io::Result<()> {
        fs::rename(self.dir(), self.dir())
    }

    /// Some that are new, so that there is always one to rename.
    fn turn_dirs_over(&mut self) {
        let _ = if self.rng.u8(..4) == 0 { self.put_tree() } else { self.rename_dir() };
    }

    fn put_big_file(&mut self) {
        let _ = self.put("w", &vec![BIG; length_of(BIG)]);
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
        let contents = self.contents(class);
        self.put(class, &contents)
    }

    fn put(&mut self, class: &str, contents: &[u8]) -> std::io::Result<()> {
        let (whole, at) = (self.unused(), self.name_of(class));
        fs::write(&whole, contents)?;
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

/// Kills it, and sees that it was alive, has not panicked, and has torn no file.
#[track_caller]
fn kill(scratch: &Scratch, mut daemon: Daemon) -> Run {
    assert!(daemon.is_running(), "it has ended by itself");
    daemon.signal(Signal::KILL);
    let run = daemon.wait(EXIT_LIMIT);
    assert_eq!(run.code, None, "killed\n{run}");
    assert!(!run.stderr.contains("panicked"), "{run}");
    assert_none_torn(&scratch.replica());
    run
}

/// So many times: a daemon that sweeps is started, killed after a random time, and the replica
/// looked at.
fn survive_sweeping(rounds: u64, seed: u64) {
    println!("seed {seed}");
    let scratch = Scratch::new().with_source(&Tree::new().file("w9", vec![0; 3_000_000]));
    let mut rng = Rng::with_seed(seed);
    let churn = Background::start(Churn::new(&scratch, seed), Churn::step);
    let (mut acted, mut left) = (0, 0);
    for _ in 0..rounds {
        let arguments = ["--max-delete", "100%", "--interval-only", "source", "replica", "0.1"];
        let daemon = Daemon::spawn(scratch.command(arguments));
        // From before its first look at the disk to some sweeps later.
        std::thread::sleep(Duration::from_millis(rng.u64(1..400)));
        acted += kill(&scratch, daemon).actions().len();
        left += scratch.temporaries().len();
    }
    drop(churn.stop());
    assert!(acted > 0, "no round had anything to do");
    println!("{acted} actions in {rounds} rounds; {left} times a temporary entry was left");

    scratch.once(&["--max-delete", "100%"]).expect(0);
    scratch.assert_twins();
    assert_eq!(scratch.temporaries(), Vec::<PathBuf>::new());
    let run = scratch.once(&[]).expect(0);
    assert!(run.actions().is_empty(), "it had not settled\n{run}");
}

/// In the midst of what a daemon that watches is killed.
#[derive(Debug, Clone, Copy)]
enum Midst {
    /// All is copied for the first time while it changes.
    FirstCopy,
    Changes,
    /// A file that a worker fills.
    BigFile,
    RenamedDirs,
}

const MIDSTS: [Midst; 4] = [Midst::FirstCopy, Midst::Changes, Midst::BigFile, Midst::RenamedDirs];

impl Midst {
    fn step(self) -> fn(&mut Churn) {
        match self {
            Midst::FirstCopy | Midst::Changes => Churn::step,
            Midst::BigFile => Churn::put_big_file,
            Midst::RenamedDirs => Churn::turn_dirs_over,
        }
    }

    /// Waits for the moment of the kill.
    #[track_caller]
    fn wait(self, scratch: &Scratch, rng: &mut Rng) {
        if matches!(self, Midst::BigFile) {
            let is_filled =
                |at: &PathBuf| fs::metadata(at).is_ok_and(|found| found.len() >= 1_000_000);
            let under_way = || scratch.temporaries().iter().any(is_filled);
            // On a busy machine it may not be seen in time: then any moment will do.
            let end = Instant::now() + Duration::from_secs(5);
            while !under_way() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            return;
        }
        // At any moment, and so a time that is meant.
        std::thread::sleep(Duration::from_millis(rng.u64(1..250)));
    }
}

fn watching(scratch: &Scratch) -> Daemon {
    scratch.starting_watcher(&["--max-delete", "100%"])
}

/// So many times: a daemon that watches is killed in the midst of something, and the next one makes
/// all equal and clears away what was left.
fn survive_watching(rounds: usize, seed: u64) {
    println!("seed {seed}");
    let scratch = Scratch::new().with_source(&Tree::new().file("w9", vec![0; 3_000_000]));
    let mut rng = Rng::with_seed(seed);
    let mut churn = Churn::new(&scratch, seed);
    let mut daemon = scratch.watcher(&[]);
    let (mut left, mut worst) = (0, Duration::ZERO);
    for midst in MIDSTS.into_iter().cycle().take(rounds) {
        if matches!(midst, Midst::FirstCopy) {
            kill(&scratch, daemon);
            fs::remove_dir_all(scratch.replica()).unwrap();
            daemon = watching(&scratch);
        }
        let changes = Background::start(churn, midst.step());
        midst.wait(&scratch, &mut rng);
        kill(&scratch, daemon);
        churn = changes.stop();
        left += scratch.temporaries().len();

        let started = Instant::now();
        daemon = watching(&scratch);
        scratch.wait_twins();
        wait_until("nothing is left", DEADLINE, || scratch.temporaries().is_empty());
        worst = worst.max(started.elapsed());
    }
    println!(
        "{left} temporary entries left in {rounds} rounds; equal at most {worst:.1?} after a start"
    );
    assert!(left > 0, "no kill came in the midst of anything");
    kill(&scratch, daemon);
}

#[test]
fn kills_under_churn_leave_no_torn_file_and_nothing_behind() {
    survive_sweeping(8, 1);
}

#[test]
fn kills_while_it_watches_leave_no_torn_file_and_nothing_behind() {
    survive_watching(20, 3);
}

#[test]
#[ignore = "takes some minutes; TWINDIR_KILLS says how many rounds"]
fn many_kills_while_it_watches_leave_no_torn_file_and_nothing_behind() {
    let rounds = crate::support::how_many("TWINDIR_KILLS", 200);
    survive_watching(usize::try_from(rounds).unwrap(), 4);
}

#[test]
#[ignore = "takes a minute; TWINDIR_KILLS says how many rounds"]
fn many_kills_under_churn_leave_no_torn_file_and_nothing_behind() {
    let rounds = crate::support::how_many("TWINDIR_KILLS", 100);
    survive_sweeping(rounds, 2);
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
