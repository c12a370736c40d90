//! That sweeps leave the machine to others, where they are told to.

mod support;

use std::time::{Duration, Instant};

use support::{DEADLINE, Daemon, Scratch, Tree, wait_until};

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
