//! Files that are written to all the time: a log, and a file that is rewritten in the middle. What
//! is copied of them is whole, soon enough, and does not cost much; nothing else waits for them.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::{
    Background, Daemon, Live, Scratch, Tree, Usage, are_twins, holds_for, how_many, noise, skip,
    wait_until,
};

const SECOND: Duration = Duration::from_secs(1);

/// Where nothing is optimised, or all tests run at once, times prove little: this is how much
/// longer they may be there.
const SLACK: u32 = if cfg!(debug_assertions) { 10 } else { 1 };

/// Copies of one file in a second, at most, in the long run.
const MOST_COPIES: f64 = 20.0;

/// Copies that a file which was at rest may have beyond that: the first saves in a row are followed
/// at once. And one more for the last of all.
const AT_ONCE: f64 = 5.0;

/// How a log is appended to.
#[derive(Clone, Copy)]
enum Appending {
    /// By one descriptor that stays open.
    Open,
    /// By one that is opened each time.
    Reopened,
}

/// Something that is appended to a thousand times a second, or as often as the machine allows.
struct Log {
    path: PathBuf,
    file: Option<File>,
    line: Vec<u8>,
    pause: Duration,
    begun: Instant,
    /// When it had which size.
    sizes: Vec<(Instant, u64)>,
}

impl Log {
    fn new(path: PathBuf, how: Appending, line: usize, pause: Duration) -> Self {
        let file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let size = file.metadata().unwrap().len();
        let file = matches!(how, Appending::Open).then_some(file);
        let begun = Instant::now();
        Self { path, file, line: vec![b'l'; line], pause, begun, sizes: vec![(begun, size)] }
    }

    fn append(&mut self) {
        match &mut self.file {
            Some(file) => file.write_all(&self.line).unwrap(),
            None => OpenOptions::new()
                .append(true)
                .open(&self.path)
                .unwrap()
                .write_all(&self.line)
                .unwrap(),
        }
        let (_, size) = *self.sizes.last().unwrap();
        self.sizes.push((Instant::now(), size + self.line.len() as u64));
        // By the clock, so that a slow moment is made up for.
        let due = self.begun + self.pause * u32::try_from(self.sizes.len()).unwrap();
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }

    /// How far behind a copy of this size was at that moment: how long the source had had more.
    fn behind(&self, size: u64, at: Instant) -> Duration {
        let next = self.sizes.partition_point(|(_, had)| *had <= size);
        self.sizes
            .get(next)
            .map_or(Duration::ZERO, |(since, _)| at.saturating_duration_since(*since))
    }
}

/// What the replica was seen to have, and when.
struct Checks {
    path: PathBuf,
    seen: Vec<(Instant, u64)>,
}

impl Checks {
    fn start(path: PathBuf) -> Background<Self> {
        Background::start(Self { path, seen: Vec::new() }, |looks| {
            if let Ok(found) = fs::metadata(&looks.path) {
                looks.seen.push((Instant::now(), found.len()));
            }
            std::thread::sleep(Duration::from_millis(10));
        })
    }
}

/// What a storm of appends has come to.
#[derive(Debug)]
struct Outcome {
    took: Duration,
    appends: usize,
    copies: usize,
    /// How far the replica was behind at the worst moment.
    behind: Duration,
    /// From the last append until both were equal.
    rest: Duration,
    cpu: Duration,
    /// How long the saves of another file took.
    answers: Vec<Duration>,
}

impl Outcome {
    fn slowest(&self) -> Duration {
        self.answers.iter().max().copied().unwrap_or_default()
    }
}

fn copies(live: &Live, name: &str) -> usize {
    live.lines().iter().filter(|line| line.is_action() && line.get("path") == name).count()
}

/// Appends for `time` while another file is saved now and then.
#[track_caller]
fn storm(live: &Live, log: Log, time: Duration) -> Outcome {
    let before = (copies(live, "log"), Usage::of(live.daemon.pid()).cpu);
    let looks = Checks::start(live.copy("log"));
    let begun = Instant::now();
    let writer = Background::start(log, Log::append);
    let mut answers = Vec::new();
    while begun.elapsed() < time {
        answers.push(live.answer("other"));
        std::thread::sleep(time / 20);
    }
    let log = writer.stop();
    let took = begun.elapsed();
    let rested = Instant::now();
    let (_, size) = *log.sizes.last().unwrap();
    wait_until("all of the log is there", crate::support::DEADLINE, || {
        fs::metadata(live.copy("log")).is_ok_and(|copy| copy.len() == size)
    });
    let rest = rested.elapsed();
    live.wait();
    let behind = looks.stop().seen.iter().map(|(at, size)| log.behind(*size, *at)).max().unwrap();
    let cpu = Usage::of(live.daemon.pid()).cpu.saturating_sub(before.1);
    let copies = copies(live, "log") - before.0;
    Outcome { took, appends: log.sizes.len() - 1, copies, behind, rest, cpu, answers }
}

const MEGABYTE: usize = 1_000_000;

/// A log of so many bytes, that is appended to a thousand times a second for `time`.
#[track_caller]
fn hot_log(how: Appending, size: usize, time: Duration) -> Outcome {
    let live =
        Live::roomy(&Tree::new().file("log", noise(7, size)).file("other", "other").files("d", 5));
    // What starts empty comes to a megabyte within the time.
    let each =
        if size == 0 { MEGABYTE / (1_000 * usize::try_from(time.as_secs()).unwrap()) } else { 30 };
    let log = Log::new(live.at("log"), how, each, Duration::from_millis(1));
    let outcome = storm(&live, log, time);
    println!(
        "{} appends in {:.1?}: {} copies, {:.0?} behind, equal after {:.0?}, {:.0} % of a core, saves of another {:.0?}",
        outcome.appends,
        outcome.took,
        outcome.copies,
        outcome.behind,
        outcome.rest,
        100.0 * outcome.cpu.as_secs_f64() / outcome.took.as_secs_f64(),
        outcome.slowest(),
    );
    assert!(live.daemon.stderr().is_empty(), "{}", live.daemon.stderr());
    outcome
}

/// What holds on any machine.
#[track_caller]
fn assert_moderate(outcome: &Outcome) {
    // Copies are counted until the last of them is there.
    let time = outcome.took + outcome.rest;
    assert!(outcome.copies as f64 <= MOST_COPIES * time.as_secs_f64() + AT_ONCE, "{outcome:?}");
    assert!(outcome.copies > 1, "nothing was copied before it rested: {outcome:?}");
    assert!(outcome.answers.len() >= 2, "{outcome:?}");
}

#[test]
fn a_log_that_stays_open_is_followed_and_not_copied_for_each_line() {
    assert_moderate(&hot_log(Appending::Open, 0, 3 * SECOND));
}

#[test]
fn a_log_that_is_opened_for_each_line_is_followed_and_not_copied_for_each() {
    assert_moderate(&hot_log(Appending::Reopened, MEGABYTE, 3 * SECOND));
}

/// The figures that are promised, on a machine that does nothing else.
#[track_caller]
fn assert_as_promised(how: Appending, size: usize) {
    let time = Duration::from_secs(how_many("TWINDIR_SECONDS", 30));
    let outcome = hot_log(how, size, time);
    assert_moderate(&outcome);
    assert!(outcome.behind <= SECOND * SLACK, "{outcome:?}");
    assert!(outcome.rest <= SLACK * Duration::from_millis(200), "{outcome:?}");
    assert!(outcome.cpu <= SLACK * outcome.took / 4, "more than a quarter of a core: {outcome:?}");
    assert!(outcome.slowest() <= SLACK * Duration::from_millis(200), "{outcome:?}");
}

#[test]
#[ignore = "takes half a minute"]
fn a_growing_log_that_stays_open_costs_a_quarter_of_a_core_at_most() {
    assert_as_promised(Appending::Open, 0);
}

#[test]
#[ignore = "takes half a minute"]
fn a_growing_log_that_is_opened_for_each_line_costs_a_quarter_of_a_core_at_most() {
    assert_as_promised(Appending::Reopened, 0);
}

#[test]
#[ignore = "takes half a minute"]
fn a_log_of_a_megabyte_that_stays_open_costs_a_quarter_of_a_core_at_most() {
    assert_as_promised(Appending::Open, MEGABYTE);
}

#[test]
#[ignore = "takes half a minute"]
fn a_log_of_a_megabyte_that_is_opened_for_each_line_costs_a_quarter_of_a_core_at_most() {
    assert_as_promised(Appending::Reopened, MEGABYTE);
}

#[test]
#[ignore = "takes half a minute, and 400 MB of memory"]
fn a_long_log_is_never_more_than_twelve_bare_copies_behind() {
    let live =
        Live::roomy(&Tree::new().file("log", vec![b'l'; 200 * MEGABYTE]).file("other", "other"));
    let one = Log::new(live.at("log"), Appending::Open, 100, Duration::from_millis(1));
    let one = single_copy(&live, one);
    let log = Log::new(live.at("log"), Appending::Open, 100, Duration::from_millis(1));
    let outcome = storm(&live, log, Duration::from_secs(how_many("TWINDIR_SECONDS", 30)));
    println!("one copy takes {one:.0?}; {outcome:.0?}");
    // What has grown meanwhile is read a second time: twindir takes two bare copies for one, is
    // five of its own behind, and needs a little for the way.
    assert!(outcome.behind <= 12 * one * SLACK, "one copy takes {one:?}: {outcome:?}");
}

/// How long it takes until one append to a log at rest is in the replica.
#[track_caller]
fn single_copy(live: &Live, mut log: Log) -> Duration {
    log.append();
    let (begun, size) = *log.sizes.last().unwrap();
    wait_until("it is copied", crate::support::DEADLINE, || {
        fs::metadata(live.copy("log")).is_ok_and(|copy| copy.len() == size)
    });
    begun.elapsed()
}

const BLOCK: usize = 4_096;

/// A file that is rewritten block by block, in an order that jumps about. Each block says with
/// which write it came, so that anybody who sees all of them can tell whether they ever stood in
/// the file together.
struct Restless {
    file: File,
    blocks: u64,
    writes: u64,
}

impl Restless {
    fn new(path: &Path, blocks: u64) -> Self {
        let mut restless = Self { file: File::create(path).unwrap(), blocks, writes: 0 };
        for _ in 0..blocks {
            restless.write();
        }
        restless
    }

    fn write(&mut self) {
        let block = self.writes.to_le_bytes().repeat(BLOCK / 8);
        self.file.write_all_at(&block, place(self.writes, self.blocks) * BLOCK as u64).unwrap();
        self.writes += 1;
    }
}

#[test]
fn a_file_that_is_saved_again_at_once_does_not_wait_longer_for_the_sweeps_that_find_it_too() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "text"));
    let daemon = Daemon::spawn(scratch.command(["source", "replica", "0.1"]));
    daemon.wait_settled(1);
    let live = Live { daemon, scratch };
    for _ in 0..60 {
        live.answer("f");
    }
}

/// Where the write of this number goes.
fn place(write: u64, blocks: u64) -> u64 {
    // No divisor in common with the number of blocks, so each comes once in a turn.
    (write * 7_919) % blocks
}

/// Fails unless the file had exactly these contents after one of the writes.
#[track_caller]
fn assert_whole(bytes: &[u8], blocks: u64) {
    assert_eq!(bytes.len() as u64, blocks * BLOCK as u64);
    let number = |block: &[u8]| u64::from_le_bytes(block[..8].try_into().unwrap());
    let last = bytes.chunks(BLOCK).map(number).max().unwrap();
    // Each block's last write that was not after that one.
    let writes = (0..blocks).map(|back| last - back);
    let expected: HashMap<u64, u64> = writes.map(|write| (place(write, blocks), write)).collect();
    for (at, block) in (0..).zip(bytes.chunks(BLOCK)) {
        assert!(block[8..] == block[..BLOCK - 8], "block {at} is torn");
        assert_eq!(
            number(block),
            expected[&at],
            "block {at} is of another moment than write {last}"
        );
    }
}

/// A reader of the replica, who counts how often it read.
fn read_on(path: PathBuf, blocks: u64) -> Background<usize> {
    Background::start(0, move |times| {
        assert_whole(&fs::read(&path).unwrap(), blocks);
        *times += 1;
        std::thread::sleep(Duration::from_millis(50));
    })
}

/// A file of so many blocks, so large that to read it takes longer than its writer ever pauses.
#[track_caller]
fn assert_kept_whole(blocks: u64) {
    let live = Live::roomy(&Tree::new().file("other", "other"));
    if !live.scratch.root().starts_with("/dev/shm") {
        return skip("a file system that shares blocks copies it all the same");
    }
    let restless = Restless::new(&live.at("restless"), blocks);
    live.wait();
    let reader = read_on(live.copy("restless"), blocks);
    let writer = Background::start(restless, |restless| {
        restless.write();
        std::thread::sleep(Duration::from_micros(200));
    });
    let problems =
        || live.daemon.stderr().lines().filter(|line| line.contains(" problem ")).count();
    wait_until("it is a problem", crate::support::DEADLINE, || problems() > 0);
    live.answer("other");
    holds_for("it is said once", 3 * SECOND, || problems() == 1);
    drop(writer.stop());
    let rested = Instant::now();
    wait_until("it is right", crate::support::DEADLINE, || {
        are_twins(&live.scratch.source(), &live.scratch.replica())
    });
    println!("right {:.1?} after it came to rest", rested.elapsed());
    wait_until("that is said", crate::support::DEADLINE, || {
        live.daemon.stdout().contains("resolved")
    });
    assert!(reader.stop() > 3, "the reader came to read too seldom");
    assert_eq!(live.daemon.sweeps(), 1, "a sweep has helped");
}

#[test]
fn a_file_that_never_rests_stays_whole_and_is_one_problem() {
    assert_kept_whole(2_000);
}

#[test]
#[ignore = "reads much, which takes long without optimisation"]
fn a_big_file_that_never_rests_stays_whole_and_is_one_problem() {
    assert_kept_whole(20_000);
}
