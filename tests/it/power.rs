//! The power is cut under a daemon at work: what the disk then holds, against what the log had
//! said.
//!
//! The replica lies on a file system in an image, and the image on an XFS, in two ways:
//!
//! - A clone of the image is taken in one instant while all goes on. It is what a disk holds that
//!   has taken each write it was sent, and not one that was still in memory.
//! - The XFS is shut down. What the image then holds is what a disk keeps that has lost its cache:
//!   what it was told to flush, and by chance some of the rest.
//!
//! It is mounted as after a power cut, by which its journal is replayed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::{
    Background, Daemon, LogLine, Mounts, Scratch, Tree, assert_twins, how_many, temporaries,
};
use fastrand::Rng;
use rustix::process::Signal;

/// After so long the daemon has said what it has done.
const REST: Duration = Duration::from_secs(2);

/// What a file holds: one line again and again, whose number says how many lines there are.
fn contents(version: usize) -> Vec<u8> {
    // Now and then so much that a worker copies it.
    let lines =
        if version.is_multiple_of(300) { 550_000 + version } else { 1 + (version * 7_919) % 5_000 };
    format!("{version:015}\n").repeat(lines).into_bytes()
}

/// Whether a file holds one version, and all of it.
fn is_whole(bytes: &[u8]) -> bool {
    let version = bytes.get(..15).and_then(|line| std::str::from_utf8(line).ok()?.parse().ok());
    version.is_some_and(|version| bytes == contents(version))
}

/// Changes the source. Each version of a file is put there by a rename, so that none is half.
struct Churn {
    source: PathBuf,
    workshop: PathBuf,
    rng: Rng,
    version: usize,
    /// What it has done something to, and when.
    touched: Vec<(Instant, String)>,
}

impl Churn {
    fn start(scratch: &Scratch, seed: u64) -> Background<Self> {
        let workshop = scratch.path("workshop");
        fs::create_dir(&workshop).unwrap();
        let rng = Rng::with_seed(seed);
        let churn =
            Self { source: scratch.source(), workshop, rng, version: 0, touched: Vec::new() };
        Background::start(churn, Self::step)
    }

    fn step(&mut self) {
        // A step may meet what an earlier one took away: then it does nothing.
        let _ = match self.rng.u8(..16) {
            0..10 => self.put_file(),
            10..12 => fs::rename(self.file(), self.file()),
            12..14 => fs::remove_file(self.file()),
            14 => fs::rename(self.dir(), self.dir()),
            _ if self.rng.u8(..8) == 0 => fs::remove_dir_all(self.dir()),
            _ => fs::create_dir_all(self.dir()),
        };
        std::thread::sleep(Duration::from_millis(2));
    }

    fn dir(&mut self) -> PathBuf {
        let name = format!("d{}", self.rng.u8(..12));
        self.touch(name)
    }

    fn file(&mut self) -> PathBuf {
        let name = format!("d{}/f{}", self.rng.u8(..12), self.rng.u8(..40));
        self.touch(name)
    }

    fn touch(&mut self, name: String) -> PathBuf {
        let at = self.source.join(&name);
        self.touched.push((Instant::now(), name));
        at
    }

    fn put_file(&mut self) -> std::io::Result<()> {
        self.version += 1;
        let (whole, at) = (self.workshop.join("whole"), self.file());
        fs::write(&whole, contents(self.version))?;
        fs::rename(&whole, at)
    }
}

/// What the replica holds by the log: the lengths of its files, and the names that were files and
/// are gone.
#[derive(Default, Clone)]
struct Ledger {
    files: BTreeMap<String, u64>,
    gone: BTreeSet<String>,
}

impl Ledger {
    fn of(lines: &[LogLine]) -> Self {
        let mut ledger = Self::default();
        let mut lines = lines.iter().filter(|line| line.is_action()).peekable();
        while let Some(line) = lines.next() {
            let (path, from) = (line.get("path"), line.get("from"));
            match line.operation.as_str() {
                "removed" => _ = ledger.take(path),
                "renamed" => {
                    let moved = ledger.take(from);
                    let other = ledger.take(path);
                    ledger.put(path, moved);
                    // Two names that were exchanged are two lines.
                    if lines
                        .next_if(|next| (next.get("path"), next.get("from")) == (from, path))
                        .is_some()
                    {
                        ledger.put(from, other);
                    }
                }
                // Metadata alone has no bytes.
                _ if line.get("kind") == "file" && !line.get("bytes").is_empty() => {
                    ledger.put(path, vec![(String::new(), line.get("bytes").parse().unwrap())]);
                }
                _ => {}
            }
        }
        ledger
    }

    /// Takes away all at and below a path: what follows the path, and the length.
    fn take(&mut self, path: &str) -> Vec<(String, u64)> {
        let is_below = |name: &&String| is_at_or_below(name, path);
        let names: Vec<String> = self.files.keys().filter(is_below).cloned().collect();
        self.gone.extend(names.iter().cloned());
        let lengths = names.iter().map(|name| self.files.remove(name).expect("it was found"));
        names.iter().map(|name| name[path.len()..].to_owned()).zip(lengths).collect()
    }

    fn put(&mut self, path: &str, below: Vec<(String, u64)>) {
        for (rest, length) in below {
            let name = format!("{path}{rest}");
            self.gone.remove(&name);
            self.files.insert(name, length);
        }
    }
}

fn is_at_or_below(name: &str, path: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What was found after power cuts.
#[derive(Default, Debug)]
struct Found {
    cuts: u64,
    /// Entries of which the log had said something, and nothing since.
    said: usize,
    missing: usize,
    /// Whole, and of another version than the log had said.
    old: usize,
    /// Removed by the log, and there.
    back: usize,
    /// All files that were there, said or not.
    files: usize,
    empty: usize,
    torn: usize,
    temporary: usize,
}

impl Found {
    /// Looks at what a cut has left in `root`: whether it is what the log had said, save where that
    /// `is_old`.
    fn see(&mut self, root: &Path, ledger: &Ledger, is_old: impl Fn(&str) -> bool) {
        for (name, length) in ledger.files.iter().filter(|(name, _)| !is_old(name)) {
            self.said += 1;
            match fs::read(root.join(name)) {
                Err(_) => self.missing += 1,
                Ok(bytes) if is_whole(&bytes) && bytes.len() as u64 != *length => self.old += 1,
                Ok(_) => {}
            }
        }
        let is_back = |name: &&String| !is_old(name) && root.join(name).is_file();
        self.back += ledger.gone.iter().filter(is_back).count();
        self.see_contents(root);
        self.temporary += temporaries(root).len();
        self.cuts += 1;
    }

    fn see_contents(&mut self, dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if crate::support::is_temporary_name(&entry.file_name()) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                self.see_contents(&entry.path());
                continue;
            }
            let bytes = fs::read(entry.path()).unwrap();
            self.files += 1;
            self.empty += usize::from(bytes.is_empty());
            self.torn += usize::from(!bytes.is_empty() && !is_whole(&bytes));
        }
    }
}

/// A daemon that writes to a file system in an image, with something else that writes there too.
struct Machine {
    // In the order in which they are to end.
    _others: Background<Option<fs::File>>,
    daemon: Daemon,
    mounts: Mounts,
    scratch: Scratch,
}

impl Machine {
    /// `None` where that cannot be had here.
    #[track_caller]
    fn start(mkfs: &str, options: &[&str]) -> Option<Self> {
        let scratch = Scratch::roomy().with_source(&Tree::new().file("d0/f0", contents(1)));
        let mounts = Mounts::of(&scratch)?;
        mounts.try_sh(&format!(
            "mkdir disk back cut
            truncate -s 1500M back.image; mkfs.xfs -q -m reflink=1 back.image; mount -o loop back.image back
            truncate -s 400M back/image; {mkfs} back/image; mount -o loop back/image disk
            cp --reflink=always back/image back/probe; rm back/probe"
        ))?;
        let mut command = mounts.command(scratch.program());
        command.args(options).args([
            "--max-delete",
            "100%",
            "source",
            "disk/replica",
            "3600",
            "log",
        ]);
        let daemon = Daemon::spawn(command);
        daemon.wait_settled(1);
        // Other programs save their files safely, and bring the journal to the disk with them.
        let file = fs::File::create(mounts.inside(&scratch.path("disk/other"))).unwrap();
        let others = Background::start(Some(file), |file| {
            let save =
                |mut file: &fs::File| file.write_all(b"a line").and_then(|()| file.sync_all());
            // Once the disk has gone, it is let go.
            *file = file.take().filter(|file| save(file).is_ok());
            std::thread::sleep(Duration::from_millis(300));
        });
        Some(Self { _others: others, daemon, mounts, scratch })
    }

    /// The next run makes good what was lost.
    #[track_caller]
    fn start_again(&self) {
        let mut command = self.mounts.command(self.scratch.program());
        command.args(["--once", "--max-delete", "100%", "source", "cut/replica"]);
        Daemon::run(command).expect(0);
        assert_twins(&self.scratch.source(), &self.left());
    }

    fn left(&self) -> PathBuf {
        self.mounts.inside(&self.scratch.path("cut/replica"))
    }
}

fn seed() -> u64 {
    let seed = how_many("TWINDIR_SEED", fastrand::u64(..));
    println!("seed {seed}");
    seed
}

fn cuts() -> u64 {
    how_many("TWINDIR_CUTS", 30)
}

/// Cuts the power of a disk that has no cache; `None` where that cannot be done here.
#[track_caller]
fn cut_power(mkfs: &str, mount: &str, options: &[&str]) -> Option<Found> {
    let machine = Machine::start(mkfs, options)?;
    let mut rng = Rng::with_seed(seed());
    let churn = Churn::start(&machine.scratch, rng.u64(..));
    let mut found = Found::default();
    for _ in 0..cuts() {
        // At any moment, and so a time that is meant.
        std::thread::sleep(Duration::from_millis(rng.u64(300..2_500)));
        let before = machine.scratch.log_lines();
        machine.mounts.sh("cp --reflink=always back/image back/cut");
        machine.mounts.sh(&format!("mount -o loop,{mount} back/cut cut"));
        // What was done before the cut is said by now.
        std::thread::sleep(Duration::from_millis(500));
        let later = machine.scratch.log_lines().split_off(before.len());
        let touched: BTreeSet<&str> =
            later.iter().flat_map(|line| [line.get("path"), line.get("from")]).collect();
        let is_old = |name: &str| touched.iter().any(|path| is_at_or_below(name, path));
        found.see(&machine.left(), &Ledger::of(&before), is_old);
        machine.mounts.sh("umount cut; rm back/cut");
    }
    println!("{mkfs} {options:?}: {} versions, {found:?}", churn.stop().version);
    Some(found)
}

/// Cuts the power of a disk that loses its cache.
#[track_caller]
fn cut_power_and_lose_the_cache(mkfs: &str, mount: &str, options: &[&str]) -> Option<Found> {
    let mut rng = Rng::with_seed(seed());
    let mut found = Found::default();
    for _ in 0..cuts() {
        let machine = Machine::start(mkfs, options)?;
        let churn = Churn::start(&machine.scratch, rng.u64(..));
        std::thread::sleep(Duration::from_millis(rng.u64(3_500..6_000)));
        machine.mounts.sh("xfs_io -x -c shutdown back");
        let end = Instant::now();
        let churn = churn.stop();
        machine.daemon.signal(Signal::KILL);
        let ledger = Ledger::of(&machine.scratch.log_lines());
        let remount =
            "for at in disk back; do until umount $at 2>umount.log; do sleep 0.1; done; done
            mount -o loop back.image back";
        machine.mounts.sh(&format!("{remount}; mount -o loop,{mount} back/image cut"));
        // What the log speaks of last is what the source has, where that was left alone since.
        let rests = |path: &str| {
            let late = churn.touched.iter().rev().take_while(|(when, _)| *when + REST > end);
            !late.into_iter().any(|(_, touched)| is_at_or_below(path, touched))
        };
        let is_old = |name: &str| {
            let length = fs::metadata(churn.source.join(name)).ok().map(|found| found.len());
            length != ledger.files.get(name).copied() || (length.is_none() && !rests(name))
        };
        found.see(&machine.left(), &ledger, is_old);
        machine.start_again();
    }
    println!("{mkfs} {options:?}, without its cache: {found:?}");
    Some(found)
}

type Cut = fn(&str, &str, &[&str]) -> Option<Found>;

const CUTS: [Cut; 2] = [cut_power, cut_power_and_lose_the_cache];

#[track_caller]
fn what_is_said_survives(mkfs: &str, mount: &str) {
    for cut in CUTS {
        let Some(found) = cut(mkfs, mount, &["--durable"]) else { return };
        assert!(found.said > 0, "{found:?}");
        let lost = [found.missing, found.old, found.back, found.empty, found.torn];
        assert_eq!(lost, [0; 5], "missing, old, back, empty, torn");
    }
}

#[test]
#[ignore = "takes five minutes; TWINDIR_CUTS says how many times the power is cut"]
fn what_the_log_says_survives_power_cuts_on_ext4() {
    what_is_said_survives("mkfs.ext4 -q", "defaults");
}

#[test]
#[ignore = "takes five minutes; TWINDIR_CUTS says how many times the power is cut"]
fn what_the_log_says_survives_power_cuts_on_xfs() {
    what_is_said_survives("mkfs.xfs -q", "nouuid");
}

/// So the tests before would find what is lost.
#[test]
#[ignore = "takes ten minutes; TWINDIR_CUTS says how many times the power is cut"]
fn power_cuts_take_something_where_durability_was_not_asked_for() {
    for (mkfs, mount) in [("mkfs.ext4 -q", "defaults"), ("mkfs.xfs -q", "nouuid")] {
        for cut in CUTS {
            let Some(found) = cut(mkfs, mount, &[]) else { return };
            assert!(found.missing + found.old + found.empty + found.torn > 0, "{mkfs}: {found:?}");
        }
    }
}
