//! The kernel's queue of events, overflowed: said once for each time, mended by one quick sweep, and
//! never a loop.
//!
//! A daemon that is stopped by a signal reads no events, so that the queue overflows at its
//! ordinary length. The length itself, `fs.inotify.max_queued_events`, is one for the whole
//! machine, whatever user namespace it is written from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::{
    Background, Churn, DEADLINE, Live, Tree, Usage, holds_for, how_many, is_root, is_stopped, skip,
    wait_until,
};
use rustix::fs::FlockOperation;
use rustix::process::Signal;

/// The length of the queue, of each watch that is started from now on.
const LENGTH: &str = "/proc/sys/fs/inotify/max_queued_events";

/// Beyond this it takes too long to fill.
const LONGEST: u64 = 200_000;

fn queue_length() -> Option<u64> {
    let length = fs::read_to_string(LENGTH).ok()?.trim().parse().ok()?;
    if length > LONGEST {
        skip(&format!("a queue of {length} events takes too long to fill"));
        return None;
    }
    Some(length)
}

/// Makes more events in a watched directory than the queue holds. They come in threes that the
/// kernel cannot merge.
fn overfill(dir: &Path, length: u64) {
    for number in 0..length / 3 + 100 {
        let file = dir.join(format!("passing{}", number % 7));
        drop(File::create(&file).unwrap());
        fs::remove_file(&file).unwrap();
    }
}

/// Does something while the daemon reads no events, more of which come than are kept.
#[track_caller]
fn unseen(live: &Live, length: u64, change: impl FnOnce()) {
    live.daemon.signal(Signal::STOP);
    wait_until("it is stopped", DEADLINE, || is_stopped(live.daemon.pid()));
    overfill(&live.at("noise"), length);
    change();
    live.daemon.signal(Signal::CONT);
}

fn said(text: &str, word: &str) -> usize {
    text.lines().filter(|line| line.contains(word)).count()
}

fn overflows(live: &Live) -> usize {
    said(&live.daemon.stderr(), "overflowed")
}

/// Quick sweeps of everything that have ended.
fn scans(live: &Live) -> usize {
    said(&live.daemon.stdout(), " sweep    quick, ")
}

fn live() -> Live {
    let tree = Tree::new()
        .dir("noise")
        .files("a", 10)
        .files("c", 10)
        .file("a/x/deep/f", "deep")
        .file("f", "f");
    Live::of(&tree)
}

#[test]
fn an_overflow_is_one_line_and_one_quick_scan() {
    let Some(length) = queue_length() else { return };
    let live = live();
    let before = scans(&live);
    for round in 1..=2 {
        let equal = live.daemon.settled();
        unseen(&live, length, || {
            live.sh(&format!("echo {round} >f; rm -r c; mkdir c; echo {round} >c/new"));
        });
        live.wait();
        live.daemon.wait_settled(equal + 1);
        wait_until("the overflow is said", DEADLINE, || overflows(&live) == round);
        assert_eq!(live.daemon.stderr().lines().count(), round, "{}", live.daemon.stderr());
        assert_eq!(scans(&live), before + round, "{}", live.daemon.stdout());
        for name in ["f", "a/x/deep/f", "c/new"] {
            live.answer(name);
        }
        live.daemon.wait_settled(equal + 2);
    }
    holds_for("no further scan", Duration::from_secs(1), || scans(&live) == before + 2);
}

#[test]
fn directories_that_were_renamed_unseen_are_watched_under_their_new_names() {
    let Some(length) = queue_length() else { return };
    let live = live();
    fs::write(live.at("c/x"), "of c").unwrap();
    live.wait();
    unseen(&live, length, || live.sh("mv a b; mv c a"));
    live.wait();
    for name in ["a/x", "a/f0", "b/f0", "b/x/deep/f", "a/new"] {
        live.answer(name);
    }
    live.wait();
    wait_until("the overflow is said", DEADLINE, || overflows(&live) == 1);
    assert_eq!(overflows(&live), 1, "{}", live.daemon.stderr());
}

#[test]
fn directories_that_are_renamed_while_the_scan_after_it_runs_are_watched_too() {
    let Some(length) = queue_length() else { return };
    let mut tree = Tree::new().dir("noise");
    for number in 0..100 {
        tree = tree.files(&format!("d{number}/in"), 20);
    }
    let live = Live::of(&tree);
    unseen(&live, length, || {});
    for number in 0..100 {
        fs::rename(live.at(&format!("d{number}")), live.at(&format!("e{number}"))).unwrap();
    }
    live.wait();
    for number in (0..100).step_by(7) {
        live.answer(&format!("e{number}/in/f3"));
    }
    live.wait();
}

/// What is going on in the source, and lasts.
fn churn(live: &Live) -> Background<Churn> {
    Background::start(Churn::new(live.scratch.source(), 11), Churn::step)
}

/// Lets the queue overflow again and again under churn. Fails where there were more scans than
/// overflows could ask for.
#[track_caller]
fn assert_bounded(length: u64, time: Duration) {
    let live = live();
    let before = scans(&live);
    let churn = churn(&live);
    let begun = Instant::now();
    let mut times = 0;
    while begun.elapsed() < time {
        unseen(&live, length, || {});
        times += 1;
        // The watch may have been replaced just then, so that not every time is an overflow; but it
        // goes on.
        live.answer("f");
    }
    let steps = churn.stop().steps;
    let equal = live.daemon.settled();
    live.scratch.wait_twins();
    live.daemon.wait_settled(equal + 1);
    let scans_made = scans(&live) - before;
    println!(
        "{times} times in {:.1?}: {} overflows, {steps} changes, {scans_made} scans",
        begun.elapsed(),
        overflows(&live)
    );
    assert!((1..=times + 1).contains(&overflows(&live)), "{}", live.daemon.stderr());
    assert!(scans_made <= overflows(&live), "{scans_made} scans\n{}", live.daemon.stderr());
    assert_at_rest(&live);
}

/// No scan comes any more, nothing is spent, and saves are followed.
#[track_caller]
fn assert_at_rest(live: &Live) {
    let (scans_made, spent) = (scans(live), Usage::of(live.daemon.pid()).cpu);
    holds_for("no further scan", Duration::from_secs(2), || scans(live) == scans_made);
    let spent = Usage::of(live.daemon.pid()).cpu.saturating_sub(spent);
    assert!(spent < Duration::from_millis(500), "{spent:?} on a core while nothing happens");
    live.answer("f");
    live.scratch.wait_twins();
}

#[test]
fn a_storm_of_overflows_is_a_scan_for_each_at_most_and_ends_with_it() {
    let Some(length) = queue_length() else { return };
    assert_bounded(length, Duration::from_secs(3));
}

#[test]
#[ignore = "takes a minute"]
fn a_long_storm_of_overflows_is_a_scan_for_each_at_most_and_ends_with_it() {
    let Some(length) = queue_length() else { return };
    assert_bounded(length, Duration::from_secs(how_many("TWINDIR_SECONDS", 60)));
}

/// A queue of 64 events, for every watch that any program of the machine starts until this goes.
struct Short {
    before: String,
    _lock: File,
}

impl Short {
    /// `None`, and why, where that may not be had. One at a time, whichever test or process asks.
    fn begin() -> Option<Self> {
        if std::env::var_os("TWINDIR_MAY_SHORTEN_QUEUES").is_none() || !is_root() {
            skip(
                "a short queue concerns the whole machine: to be allowed by TWINDIR_MAY_SHORTEN_QUEUES, as root",
            );
            return None;
        }
        let lock = File::create(std::env::temp_dir().join("twindir-queue-length.lock")).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
        let before = fs::read_to_string(LENGTH).unwrap();
        let short = Self { before, _lock: lock };
        if let Err(error) = fs::write(LENGTH, "64") {
            skip(&format!("the length of the queue cannot be set: {error}"));
            return None;
        }
        Some(short)
    }
}

impl Drop for Short {
    fn drop(&mut self) {
        // Before the lock goes.
        let _ = fs::write(LENGTH, &self.before);
    }
}

/// Many directories, so that a scan takes its time.
fn many_directories() -> Tree {
    (0..300).fold(Tree::new().file("f", "f"), |tree, number| tree.files(&format!("t/{number}"), 20))
}

#[test]
#[ignore = "takes a minute, and sets a limit of the whole machine for that time"]
fn a_storm_on_a_queue_of_64_events_is_scanned_half_of_the_time_at_most() {
    let Some(short) = Short::begin() else { return };
    let live = Live::roomy(&many_directories());
    let before = (scans(&live), overflows(&live));
    let time = Duration::from_secs(how_many("TWINDIR_SECONDS", 60));
    let writers = [churn(&live), second_churn(live.at("t"))];
    std::thread::sleep(time);
    live.sh("mkdir a c; echo a >a/x; echo c >c/x; mv a b; mv c a");
    let steps: u64 = writers.map(|writer| writer.stop().steps).iter().sum();
    drop(short);
    live.scratch.wait_twins();
    let (made, overflowed) = (scans(&live) - before.0, overflows(&live) - before.1);
    let longest = longest_scan(&live);
    println!(
        "{steps} changes, {overflowed} overflows said, {made} scans of {longest:.2} s at most"
    );
    assert!(overflowed > 0, "the queue never overflowed");
    // A scan is followed by a rest as long as itself; the shortest counts a tenth of a second here.
    assert!(made as f64 <= time.as_secs_f64() / 0.1 + 5.0, "{made} scans");
    for name in ["a/x", "b/x"] {
        live.answer(name);
    }
    // The last overflow may have to wait for its turn.
    let said = live.daemon.settled();
    live.answer("f");
    live.daemon.wait_settled(said + 1);
    assert_at_rest(&live);
}

fn second_churn(root: PathBuf) -> Background<Churn> {
    Background::start(Churn::new(root, 12), Churn::step)
}

/// In seconds, by the lines of the scans.
fn longest_scan(live: &Live) -> f64 {
    let stdout = live.daemon.stdout();
    let took = |line: &str| line.split(" in ").nth(1)?.split(' ').next()?.parse().ok();
    stdout
        .lines()
        .filter(|line| line.contains(" sweep    quick, "))
        .filter_map(took)
        .fold(0.0, f64::max)
}
