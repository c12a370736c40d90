//! That sweeps leave the machine to others, where they are told to.

use std::time::{Duration, Instant};

use crate::support::{DEADLINE, Daemon, Scratch, Tree, Usage, set_mode, wait_until};

#[test]
fn a_sweep_reads_no_more_in_a_second_than_it_may() {
    let tree = Tree::new().file("big", vec![1; 1 << 20]).files("small", 100);
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    // Both sides of a mebibyte, at one a second.
    let begun = Instant::now();
    let run = scratch.once(&["--sweep-rate", "1MiB"]).expect(0);
    assert!(begun.elapsed() > Duration::from_millis(1900), "{:?}\n{run}", begun.elapsed());
    // What is to be copied is copied as fast as ever.
    Tree::new().file("new", vec![1; 10 << 20]).make(&scratch.source());
    scratch.once(&["--sweep-rate", "100MiB"]).expect(0);
    scratch.assert_twins();
}

/// Sees that a daemon uses next to nothing.
#[track_caller]
fn assert_at_rest(daemon: &Daemon) {
    let cpu = || Usage::of(daemon.pid()).cpu;
    // It may still end what it did: of several seconds one is quiet.
    let mut spent = Vec::new();
    for _ in 0..8 {
        let (before, begun) = (cpu(), Instant::now());
        crate::support::holds_for("it runs", Duration::from_secs(1), || true);
        spent.push(cpu().saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64());
        if spent.last().is_some_and(|share| *share < 0.05) {
            return;
        }
    }
    panic!("it used these shares of a core: {spent:?}\n{}{}", daemon.stdout(), daemon.stderr());
}

#[test]
fn what_cannot_be_done_now_keeps_nobody_busy() {
    let scratch =
        Scratch::ordinary().with_source(&Tree::new().file("locked", "text").file("f", "text"));
    set_mode(&scratch.source().join("locked"), 0);
    let daemon = scratch.starting_watcher(&[]);
    wait_until("a sweep has ended", DEADLINE, || daemon.sweeps() > 0);
    wait_until("the problem is said", DEADLINE, || daemon.stderr().contains("problem"));
    assert_at_rest(&daemon);
}

#[test]
fn held_deletions_keep_nobody_busy() {
    for options in [&[][..], &["--interval-only"]] {
        let scratch =
            Scratch::new().with_source(&Tree::new()).with_replica(&Tree::new().files("d", 150));
        let daemon = scratch.starting_watcher(options);
        wait_until("it says so", DEADLINE, || daemon.stderr().contains("held"));
        wait_until("a sweep has ended", DEADLINE, || daemon.sweeps() > 0);
        assert_at_rest(&daemon);
    }
}

#[test]
fn a_sweep_that_takes_longer_than_the_interval_is_said_once() {
    let scratch = Scratch::new().with_source(&Tree::new().file("big", vec![1; 100_000]));
    scratch.sync();
    let arguments = ["--interval-only", "--sweep-rate", "500KiB", "source", "replica", "0.1"];
    let daemon = Daemon::spawn(scratch.command(arguments));
    let said = || daemon.stderr().matches("longer than the interval").count();
    wait_until("it says so", DEADLINE, || said() > 0);
    daemon.wait_sweeps(3);
    assert_eq!(said(), 1, "{}", daemon.stderr());
}
