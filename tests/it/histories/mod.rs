//! Random histories: operations on a live tree between two sweeps, then the whole replica is
//! compared.
//!
//! A failure prints its seed;
//! `TWINDIR_SEED=<seed> cargo test histories::one_seed -- --ignored` runs it alone.

#![allow(
    clippy::unnecessary_debug_formatting,
    reason = "the names hold newlines and bytes that are no UTF-8"
)]

mod churn;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use crate::support::{Scratch, Tree};
use world::World;

/// Sweeps in a history, and the operations before each.
const SWEEPS: usize = 5;
const OPERATIONS: usize = 15;

fn history(seed: u64) {
    let scratch = Scratch::new().with_source(&Tree::new());
    let mut world = World::new(&scratch, seed);
    world.plant(40);
    let result = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..SWEEPS {
            // The guard is for people; here most of a tree may go at once.
            scratch.once(&["--max-delete", "100%"]).expect(0);
            scratch.assert_twins();
            world.operate(OPERATIONS);
            world.tamper(3);
        }
        scratch.once(&["--max-delete", "100%"]).expect(0);
        scratch.assert_twins();
        let run = scratch.once(&["--max-delete", "100%"]).expect(0);
        assert!(run.actions().is_empty(), "it had not settled\n{run}");
    }));
    if let Err(failure) = result {
        eprintln!("seed {seed}, the last operations:\n{}", world.story(40));
        resume_unwind(failure);
    }
}

#[test]
fn a_dozen_random_histories_end_equal() {
    for seed in 0..12 {
        history(seed);
    }
}

#[test]
fn a_daemon_follows_a_random_history_while_it_happens() {
    for seed in 1000..1003 {
        let scratch = Scratch::new().with_source(&Tree::new().file("still", "here"));
        let mut world = World::new(&scratch, seed);
        world.plant(40);
        let arguments = ["--max-delete", "100%", "source", "replica", "0.1"];
        let daemon = crate::support::Daemon::spawn(scratch.command(arguments));
        daemon.wait_settled(1);
        for _ in 0..40 {
            // With no regard to sweeps: some fall into the middle of one.
            world.operate(10);
            std::thread::yield_now();
        }
        println!("seed {seed}");
        scratch.wait_twins();
    }
}

/// A history that the watch alone has to follow: bursts of all sizes, with and without pauses.
fn watched_history(seed: u64) {
    let scratch = Scratch::new().with_source(&Tree::new().file("still", "here"));
    let mut world = World::new(&scratch, seed);
    world.plant(40);
    let mut rng = fastrand::Rng::with_seed(seed);
    let daemon = scratch.watcher(if seed.is_multiple_of(3) { &["--debounce", "0"] } else { &[] });
    let result = catch_unwind(AssertUnwindSafe(|| {
        for burst in [1, 1, 3, 20, 5, 100, 2, 400, 1] {
            for _ in 0..burst {
                world.operate(1);
                // Most operations follow upon each other at once.
                if rng.u8(..10) == 0 {
                    std::thread::sleep(Duration::from_millis(rng.u64(..30)));
                }
            }
            scratch.wait_twins();
        }
        assert_eq!(daemon.sweeps(), 1, "a sweep has helped");
    }));
    if let Err(failure) = result {
        eprintln!("watched seed {seed}, the last operations:\n{}", world.story(60));
        resume_unwind(failure);
    }
}

#[test]
fn the_watch_alone_follows_random_histories() {
    for seed in 2000..2003 {
        watched_history(seed);
    }
}

#[test]
#[ignore = "takes minutes; TWINDIR_SEEDS says how many"]
fn the_watch_alone_follows_many_random_histories() {
    let seeds = crate::support::how_many("TWINDIR_SEEDS", 100);
    for seed in 20_000..20_000 + seeds {
        watched_history(seed);
    }
}

#[test]
fn the_watch_alone_follows_churn() {
    for seed in churn::SHORT..churn::SHORT + 2 {
        churn::churn(seed);
    }
}

#[test]
#[ignore = "takes minutes; TWINDIR_SEEDS says how many, TWINDIR_OPERATIONS how long each is"]
fn the_watch_alone_follows_much_churn_within_the_promised_time() {
    let seeds = crate::support::how_many("TWINDIR_SEEDS", 30);
    for seed in churn::LONG..churn::LONG + seeds {
        churn::churn(seed);
    }
}

#[test]
#[ignore = "takes minutes; TWINDIR_SEEDS says how many"]
fn many_random_histories_end_equal() {
    let seeds = crate::support::how_many("TWINDIR_SEEDS", 300);
    for seed in 10_000..10_000 + seeds {
        history(seed);
    }
}

#[test]
#[ignore = "for one seed, in TWINDIR_SEED"]
fn one_seed() {
    if let Ok(seed) = std::env::var("TWINDIR_SEED") {
        let seed = seed.parse().unwrap();
        if seed >= churn::LONG || (churn::SHORT..churn::SHORT + 100).contains(&seed) {
            churn::churn(seed);
        } else if (20_000..churn::LONG).contains(&seed) || (2_000..2_100).contains(&seed) {
            watched_history(seed);
        } else {
            history(seed);
        }
    }
}
