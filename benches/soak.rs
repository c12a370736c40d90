//! An hour of changes and faults: whether the replica is equal after each of them, and what twindir
//! uses meanwhile.
//!
//! ```sh
//! cargo bench --bench soak
//! ```
//!
//! By root, since the replica lies on a small file system of its own, in a private mount namespace.
//! Rounds follow each other: the operations of the random histories change the source for some
//! seconds; one fault comes in their midst; then all rests, and the two trees must become equal,
//! contents and metadata. A sweep comes every 20 s all the while. Prints Markdown; ends with an
//! error where the trees do not become equal, a temporary name is left, or the daemon ends.
//!
//! | environment variable | meaning                             | default |
//! | -------------------- | ----------------------------------- | ------- |
//! | `TWINDIR_MINUTES`    | how long it goes on                 | 60      |
//! | `TWINDIR_SEED`       | which operations, and which moments | random  |

#[path = "../tests/it/support/mod.rs"]
mod support;
#[path = "../tests/it/histories/world/mod.rs"]
mod world;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::xattr::have_same_xattrs;
use support::{
    Daemon, EXIT_LIMIT, Mounts, Peak, Scratch, Tree, Usage, are_twins, how_many, set_mode,
    temporaries,
};
use world::{World, weight};

/// Above this the tree is pruned, so that there is time for more changes than comparisons.
const MOST_ENTRIES: usize = 3_000;
const MOST_BYTES: u64 = 100_000_000;

/// The replica's file system, with room for the tree and for copies of it under way.
const DISK: &str = "mkdir -p disk; mount -t tmpfs -o size=400m none disk";

/// After so much time the replica will not become equal any more.
const DEADLINE: Duration = Duration::from_secs(180);

/// More files, each with some events, than the kernel's queue holds events.
const FLOOD: usize = 8_000;

/// What happens in the midst of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FsError {
    None,
    /// It is killed, and started again a while later.
    Killed,
    /// It sleeps for some seconds.
    Stopped,
    /// It sleeps while more happens than the kernel's queue holds.
    Overflowed,
    /// Nothing fits on the replica's file system.
    Full,
    /// Parts of the source cannot be read.
    Locked,
}

const FAULTS: [FsError; 6] = [
    FsError::None,
    FsError::Killed,
    FsError::Stopped,
    FsError::Overflowed,
    FsError::Full,
    FsError::Locked,
];

/// What came of the rounds with one fault.
#[derive(Clone, Copy, Default)]
struct Rounds {
    number: u32,
    worst: Duration,
}

/// What the daemons have said.
#[derive(Default)]
struct Said {
    actions: usize,
    sweeps: usize,
    overflows: usize,
    problems: usize,
    resolved: usize,
    panics: usize,
}

impl Said {
    fn hear(&mut self, out: &str, err: &str) {
        let of = |text: &str, word: &str| {
            let is_it = |line: &&str| line.split_whitespace().nth(1) == Some(word);
            text.lines().filter(is_it).count()
        };
        self.actions += ["created", "updated", "renamed", "removed"]
            .iter()
            .map(|word| of(out, word))
            .sum::<usize>();
        self.sweeps += out.matches(" sweep    full, ").count();
        self.overflows += of(err, "watch");
        self.problems += of(err, "problem") + err.matches(" out of space ").count();
        self.resolved += of(out, "resolved");
        self.panics += err.matches("panicked").count();
    }
}

struct Soak {
    daemon: Option<Daemon>,
    mounts: Mounts,
    world: World,
    scratch: Scratch,
    begun: Instant,
    length: Duration,
    operations: usize,
    left_by_kills: usize,
    peaks: [Peak; 3],
    rounds: [Rounds; FAULTS.len()],
    said: Said,
}

fn main() {
    // `cargo test --benches` comes by without `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: to be run by cargo bench");
        return;
    }
    let minutes = how_many("TWINDIR_MINUTES", 60);
    let seed = how_many("TWINDIR_SEED", fastrand::u64(..));
    println!("## Soak: {minutes} minutes, seed {seed}\n");
    let Some(mut soak) = Soak::start(seed, Duration::from_secs(60 * minutes)) else { return };
    let mut faults = FAULTS.iter().cycle();
    while soak.begun.elapsed() < soak.length {
        soak.round(*faults.next().expect("they never end"));
    }
    soak.finish();
}

impl Soak {
    fn start(seed: u64, length: Duration) -> Option<Self> {
        let scratch = Scratch::roomy().with_source(&Tree::new().file("still", "here"));
        let mounts = Mounts::of(&scratch)?;
        mounts.sh(DISK);
        let mut world = World::new(&scratch, seed);
        world.plant(100);
        let mut soak = Self {
            daemon: None,
            mounts,
            world,
            scratch,
            begun: Instant::now(),
            length,
            operations: 0,
            left_by_kills: 0,
            peaks: [Peak::default(); 3],
            rounds: [Rounds::default(); FAULTS.len()],
            said: Said::default(),
        };
        soak.start_daemon();
        Some(soak)
    }

    /// It is root, so that all owners can be mirrored, and yet modes hold for it.
    fn start_daemon(&mut self) {
        let mut command = self.mounts.command("setpriv");
        command.arg("--bounding-set=-dac_override,-dac_read_search").arg(self.scratch.program());
        command.args(["--max-delete", "100%", "source", "disk/replica", "20", "log"]);
        self.daemon = Some(Daemon::spawn(command));
    }

    fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("it was started")
    }

    fn replica(&self) -> PathBuf {
        self.mounts.inside(&self.scratch.path("disk/replica"))
    }

    /// Changes, a fault, and rest; and again without a fault.
    fn round(&mut self, error: FsError) {
        self.churn(3, 6);
        match error {
            FsError::None => {}
            FsError::Killed => self.kill_for_a_while(),
            FsError::Stopped => self.stop_for_a_while(|soak| soak.churn(2, 6)),
            FsError::Overflowed => self.stop_for_a_while(Self::flood),
            FsError::Full => self.fill_for_a_while(),
            FsError::Locked => self.lock_for_a_while(),
        }
        let took = self.wait_equal();
        let rounds =
            &mut self.rounds[FAULTS.iter().position(|each| *each == error).expect("one of them")];
        rounds.number += 1;
        rounds.worst = rounds.worst.max(took);
        self.churn(0, 4);
        self.wait_equal();
        // As long as until the next sweep, now and then.
        let quiet = if self.world.rng.u8(..4) == 0 { 25 } else { self.world.rng.u64(..3) };
        self.watch_for(Duration::from_secs(quiet));
    }

    /// Changes for some seconds.
    fn churn(&mut self, least: u64, most: u64) {
        let end =
            Instant::now() + Duration::from_millis(self.world.rng.u64(1_000 * least..1_000 * most));
        while Instant::now() < end {
            let burst = self.world.rng.usize(1..60);
            self.world.operate(burst);
            self.operations += burst;
            self.look();
            std::thread::sleep(Duration::from_millis(self.world.rng.u64(..100)));
        }
        self.world.prune(MOST_ENTRIES, MOST_BYTES);
    }

    /// Sees what the daemon uses, and that it is there.
    fn look(&mut self) {
        let third = 3 * self.begun.elapsed().as_secs() / self.length.as_secs();
        let third = usize::try_from(third).expect("a few").min(2);
        let Some(daemon) = &mut self.daemon else { return };
        assert!(daemon.is_running(), "it has ended by itself");
        self.peaks[third].see(Usage::of(daemon.pid()));
    }

    fn watch_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.look();
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn end_daemon(&mut self, signal: Signal) {
        let daemon = self.daemon.take().expect("it was started");
        daemon.signal(signal);
        let run = daemon.wait(EXIT_LIMIT + Duration::from_secs(10));
        self.said.hear(&run.stdout, &run.stderr);
    }

    fn kill_for_a_while(&mut self) {
        self.end_daemon(Signal::KILL);
        self.left_by_kills += temporaries(&self.replica()).len();
        self.churn(0, 2);
        self.start_daemon();
    }

    fn stop_for_a_while(&mut self, meanwhile: impl FnOnce(&mut Self)) {
        self.daemon().signal(Signal::STOP);
        meanwhile(self);
        self.daemon().signal(Signal::CONT);
    }

    fn flood(&mut self) {
        for number in 0..FLOOD {
            // In a directory that is watched already.
            let at = self.scratch.source().join(format!("flood {number}"));
            fs::write(&at, "one of many").unwrap();
            fs::remove_file(&at).unwrap();
        }
        self.operations += 2 * FLOOD;
    }

    fn fill_for_a_while(&mut self) {
        self.mounts.sh("dd if=/dev/zero of=disk/ballast bs=64k 2>/dev/null || true");
        self.churn(3, 8);
        self.mounts.sh("rm disk/ballast");
    }

    fn lock_for_a_while(&mut self) {
        let (mut locked, count) = (Vec::new(), self.world.rng.usize(1..10));
        for _ in 0..count {
            let Some(at) = self.world.pick(|entry| entry.is_file() || entry.is_dir()) else {
                continue;
            };
            let before = fs::metadata(&at).unwrap().permissions();
            set_mode(&at, 0);
            locked.push((fs::File::open(&at).unwrap(), before));
        }
        self.churn(2, 6);
        // By descriptor, since some have another name by now; and in this order, since some were
        // locked twice.
        for (file, before) in locked.into_iter().rev() {
            file.set_permissions(before).unwrap();
        }
        // What was saved anew meanwhile has the mode of what it replaced.
        let source = self.scratch.source();
        let find = Command::new("find")
            .arg(source)
            .args(["-perm", "0000", "-exec", "chmod", "u+rwx", "{}", "+"])
            .status();
        assert!(find.unwrap().success());
    }

    /// How long it takes until both trees are equal.
    fn wait_equal(&mut self) -> Duration {
        let (source, replica) = (self.scratch.source(), self.replica());
        let begun = Instant::now();
        loop {
            let looked = begun.elapsed();
            if are_twins(&source, &replica) && have_same_xattrs(&source, &replica) {
                return looked;
            }
            if looked > DEADLINE {
                eprintln!("the last operations:\n{}", self.world.story(40));
                support::assert_twins(&source, &replica);
                support::xattr::assert_same_xattrs(&source, &replica);
                panic!("equal, but only just now");
            }
            self.look();
        }
    }

    fn finish(mut self) {
        let took = self.wait_equal();
        let size = weight(&self.scratch.source());
        self.end_daemon(Signal::TERM);
        let left = temporaries(&self.replica());
        self.print(took, size, left.len());
        assert!(left.is_empty() && self.said.panics == 0);
    }

    fn print(&self, took: Duration, (entries, bytes): (usize, u64), left: usize) {
        println!("| fault | rounds | worst time to equal |\n| --- | ---: | ---: |");
        for (error, Rounds { number, worst }) in FAULTS.iter().zip(self.rounds) {
            println!("| {error:?} | {number} | {:.2} s |", worst.as_secs_f64());
        }
        println!(
            "\n| third | resident, MB | descriptors | threads |\n| --- | ---: | ---: | ---: |"
        );
        for (third, peak) in self.peaks.iter().enumerate() {
            let megabytes = peak.memory as f64 / 1e6;
            println!(
                "| {} | {megabytes:.1} | {} | {} |",
                third + 1,
                peak.descriptors,
                peak.threads
            );
        }
        println!("\n| | |\n| --- | ---: |");
        let rows = [
            ("changes made", self.operations),
            ("actions", self.said.actions),
            ("sweeps", self.said.sweeps),
            ("queues that overflowed", self.said.overflows),
            ("problems said", self.said.problems),
            ("and resolved", self.said.resolved),
            ("panics", self.said.panics),
            ("temporary names found after kills", self.left_by_kills),
            ("temporary names left at the end", left),
            ("entries at the end", entries),
        ];
        for (what, number) in rows {
            println!("| {what} | {number} |");
        }
        println!("| bytes at the end | {bytes} |");
        println!("| time to equal at the end | {:.2} s |", took.as_secs_f64());
    }
}
