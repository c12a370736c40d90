//! What takes long on a live daemon that watches: many files, many rounds, a real build. Equal
//! within two seconds, as promised, on a machine that does nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{
    DEADLINE, Daemon, Live, PROMISE, Scratch, Tree, Usage, are_twins, how_many, skip,
    time_until_seen, wait_until,
};

fn live() -> Live {
    Live::roomy(&Tree::new().file("still", "here"))
}

/// Runs a shell script in the source and waits for the replica.
#[track_caller]
fn follow(scratch: &Scratch, script: &str) {
    scratch.sh(script);
    let took = time_until_seen(|| are_twins(&scratch.source(), &scratch.replica()));
    let Some(took) = took else {
        return scratch.assert_twins();
    };
    println!("{script}: equal after at most {took:.2?}");
    assert!(took <= PROMISE, "{script}: equal, but only after {took:.2?}");
}

#[test]
#[ignore = "takes half a minute"]
fn a_hundred_thousand_files_are_unpacked_and_removed() {
    let live = live();
    let scratch = &live.scratch;
    pack(scratch);
    follow(scratch, "tar xf ../pack.tar");
    follow(scratch, "rm -rf pack");
}

/// Makes `pack.tar` beside the source, of 100,000 files.
fn pack(scratch: &Scratch) {
    let outside = scratch.path("outside");
    for number in 0..1_000 {
        Tree::new().files("", 100).make(&outside.join(format!("pack/{}/{number}", number % 7)));
    }
    timed("tar cf pack.tar -C outside pack", scratch.root());
}

/// How long a shell script takes in this directory.
#[track_caller]
fn timed(script: &str, dir: &Path) -> Duration {
    let begun = Instant::now();
    assert!(
        Command::new("sh").args(["-ec", script]).current_dir(dir).status().unwrap().success(),
        "{script}"
    );
    begun.elapsed()
}

/// Without optimisation, what shares the cores with a program is slowed by more.
const SLOWED: f64 = if cfg!(debug_assertions) { 10.0 } else { 2.2 };

#[test]
#[ignore = "takes half a minute"]
fn unpacking_is_slowed_to_little_more_than_half_its_speed() {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
        return skip("on one core, both share it");
    }
    let scratch = Scratch::roomy().with_source(&Tree::new().file("still", "here"));
    pack(&scratch);
    fs::create_dir(scratch.path("alone")).unwrap();
    let _daemon = scratch.watcher(&[]);
    let unpack = |dir: &Path| {
        let took = timed("tar xf ../pack.tar", dir);
        scratch.wait_twins();
        timed("rm -rf pack", dir);
        scratch.wait_twins();
        took
    };
    // By turns, so that what else goes on disturbs both alike. The daemon rests while the first is
    // unpacked.
    let pairs: Vec<_> =
        (0..5).map(|_| (unpack(&scratch.path("alone")), unpack(&scratch.source()))).collect();
    let (alone, watched): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let [alone, watched] = [alone, watched].map(|times| times.into_iter().min().unwrap());
    let ratio = watched.as_secs_f64() / alone.as_secs_f64();
    println!(
        "tar alone takes {alone:.2?}, into the source {watched:.2?}: {ratio:.2} times as long"
    );
    assert!(ratio <= SLOWED, "{ratio:.2} times as long");
}

/// So long the replica may hold what is removed in the source.
const REMOVED: Duration = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 5 });

/// After so long it is at rest again.
const RESTED: Duration = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 10 });

/// So long a save elsewhere may take meanwhile.
const ANSWERED: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

#[test]
#[ignore = "takes half a minute"]
fn fifty_thousand_directories_are_removed_and_saves_elsewhere_do_not_wait() {
    let scratch = Scratch::roomy().with_source(&Tree::new().file("still", "here"));
    for number in 0..how_many("TWINDIR_DIRS", 50_000) {
        let dir = format!("many/{}/{}/{number}", number % 50, number / 50 % 50);
        fs::create_dir_all(scratch.source().join(dir)).unwrap();
    }
    let daemon = scratch.starting_watcher(&[]);
    wait_until("it rests", 10 * DEADLINE, || daemon.settled() >= 1);
    let live = Live { daemon, scratch };
    let source = live.scratch.source();
    let removal = std::thread::spawn(move || timed("rm -rf many", &source));
    let mut slowest = Duration::ZERO;
    while !removal.is_finished() {
        slowest = slowest.max(live.answer("still"));
    }
    let took = removal.join().unwrap();
    let done = Instant::now();
    // What lies there under a temporary name counts too.
    while fs::read_dir(live.scratch.replica()).unwrap().count() > 1 {
        slowest = slowest.max(live.answer("still"));
        assert!(done.elapsed() < DEADLINE.max(REMOVED), "not removed");
    }
    let removed = done.elapsed();
    slowest = slowest.max(live.answer("still"));
    println!(
        "rm took {took:.2?}, the replica {removed:.2?} more; saves elsewhere {slowest:.0?} at most"
    );
    assert!(removed <= REMOVED, "the replica was empty {removed:?} after the source");
    assert!(slowest <= ANSWERED, "a save elsewhere took {slowest:?}");
    wait_for_rest(&live.daemon);
    live.wait();
}

/// Waits until two seconds cost it next to nothing.
#[track_caller]
fn wait_for_rest(daemon: &Daemon) {
    let begun = Instant::now();
    let cpu = || Usage::of(daemon.pid()).cpu;
    let mut seen = vec![(begun, cpu())];
    wait_until("it is at rest", RESTED, || {
        let now = Instant::now();
        seen.push((now, cpu()));
        let (_, then) =
            *seen.iter().rfind(|(at, _)| now - *at >= Duration::from_secs(2)).unwrap_or(&seen[0]);
        now - begun >= Duration::from_secs(2)
            && seen.last().unwrap().1.saturating_sub(then) <= Duration::from_millis(40)
    });
    println!(
        "at rest after {:.1?}, and {:.1?} on a core",
        begun.elapsed(),
        cpu().saturating_sub(seen[0].1)
    );
}

#[test]
#[ignore = "takes half a minute"]
fn directories_that_are_filled_while_they_are_found_lose_nothing_in_three_hundred_rounds() {
    let live = live();
    let scratch = &live.scratch;
    let outside = scratch.path("outside");
    Tree::new().files("t/one", 20).files("t/two/three", 20).make(&outside);
    for round in 0..300 {
        follow(
            scratch,
            &format!(
                "mkdir -p r{round}/a/b/c && touch r{round}/a/b/c/f; cp -r ../outside/t c{round}; \
                 mv ../outside/t m{round}; cp -r m{round} ../outside/t"
            ),
        );
        if round % 10 == 9 {
            follow(scratch, "rm -r r* c* m*");
        }
    }
}

#[test]
#[ignore = "takes half a minute"]
fn a_cargo_build_is_followed() {
    let live = live();
    let scratch = &live.scratch;
    if Command::new("cargo").arg("--version").output().is_err() {
        return skip("no cargo");
    }
    follow(scratch, "cargo -q init --vcs none --name built built");
    for build in [
        "cargo -q build --offline",
        "cargo -q test --offline",
        "cargo -q build --offline --release",
    ] {
        follow(scratch, &format!("cd built; env -u CARGO_TARGET_DIR {build}"));
    }
    follow(scratch, "cd built; env -u CARGO_TARGET_DIR cargo -q clean --offline");
}
