//! Properties that hold for any input, tried with random cases. Those of private parts are tested
//! in the modules of these parts.
//!
//! `cargo test` tries the same few hundred cases each time.
//! `TWINDIR_MINUTES=10 cargo test --lib properties` tries others, each property for 10 minutes, and
//! prints the smallest case that fails.

mod arguments;
mod deciding;
mod digesting;
mod names;
mod queueing;

use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestRunner};

/// Tries a property with random cases.
///
/// # Panics
/// If the property panics for a case.
pub fn holds<S: Strategy>(cases: &S, property: impl Fn(S::Value)) {
    // Leaves 60 s to find the smallest case that fails.
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: u32::MAX,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let minutes: Option<u64> =
        std::env::var("TWINDIR_MINUTES").ok().map(|text| text.parse().unwrap());
    let Some(minutes) = minutes else {
        let rng = TestRunner::deterministic().new_rng();
        return try_some(TestRunner::new_with_rng(config, rng), cases, &property);
    };
    let (begun, mut number) = (Instant::now(), 0_u64);
    while begun.elapsed() < Duration::from_secs(60 * minutes) {
        try_some(TestRunner::new(config.clone()), cases, &property);
        number += u64::from(config.cases);
    }
    println!("{number} cases in {minutes} minutes");
}

fn try_some<S: Strategy>(mut runner: TestRunner, cases: &S, property: &impl Fn(S::Value)) {
    let tried = runner.run(cases, |case| {
        property(case);
        Ok(())
    });
    if let Err(failure) = tried {
        panic!("{failure}");
    }
}
