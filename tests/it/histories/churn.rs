//! Thousands of operations on a tree that a daemon watches; equal as soon after the last one as is
//! promised.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use fastrand::Rng;

use super::world::{World, weight};
use crate::support::xattr::{assert_same_xattrs, have_same_xattrs};
use crate::support::{
    Daemon, Kind, PROMISE, Scratch, Snapshot, Tree, are_twins, how_many, path, time_until_seen,
};

/// Above this the tree is pruned: a comparison must not take longer than what it is to measure.
const MOST_ENTRIES: usize = 3_000;
const MOST_BYTES: u64 = 100_000_000;

/// Operations from one look at the tree's size to the next; with pauses, from one comparison to the
/// next.
const STRETCH: usize = 250;

/// Seeds of the gate, which are few and short, and of the long test.
pub const SHORT: u64 = 3_000;
pub const LONG: u64 = 1_000_000;
const SHORT_OPERATIONS: usize = 500;

/// Every second seed pauses now and then, and compares in between. The others work as fast as they
/// can to the end.
pub fn churn(seed: u64) {
    let operations = if seed < LONG {
        SHORT_OPERATIONS
    } else {
        usize::try_from(how_many("TWINDIR_OPERATIONS", 5_000)).unwrap()
    };
    // In memory everything goes faster, on a disk it takes more turns.
    let scratch = if (seed / 2).is_multiple_of(2) { Scratch::roomy() } else { Scratch::new() };
    let scratch = scratch.with_source(&Tree::new().file("still", "here"));
    let mut world = World::new(&scratch, seed);
    world.plant(100);
    let debounce: &[&str] = if seed.is_multiple_of(3) { &["--debounce", "0"] } else { &[] };
    let daemon = scratch.watcher(&[&["--max-delete", "100%"], debounce].concat());
    let has_pauses = seed % 2 == 1;
    let mut pauses = has_pauses.then(|| Rng::with_seed(seed));
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut left = operations;
        while left > 0 {
            let stretch = left.min(STRETCH);
            operate(&mut world, stretch, pauses.as_mut());
            left -= stretch;
            if left > 0 {
                world.prune(MOST_ENTRIES, MOST_BYTES);
            }
            if has_pauses || left == 0 {
                let took = wait_promised(&scratch);
                let (entries, bytes) = weight(&scratch.source());
                println!(
                    "churn seed {seed}, {left} operations left: equal after at most {took:.2?}, \
                     {entries} entries, {bytes} bytes"
                );
            }
        }
        assert_no_sweep_helped(&daemon);
        // What resolves by itself within ten seconds is worth no line. What an ordinary user may
        // not read is named at once.
        let said = daemon.stderr();
        let is_problem =
            |line: &&str| line.contains(" problem ") && !line.contains("Permission denied");
        let problems: Vec<_> = said.lines().filter(is_problem).collect();
        assert_eq!(problems, [""; 0]);
    }));
    if let Err(failure) = result {
        eprintln!("churn seed {seed}, the last operations:\n{}", world.story(40));
        tell_of_differences(&scratch, &world);
        resume_unwind(failure);
    }
}

fn operate(world: &mut World, count: usize, pauses: Option<&mut Rng>) {
    let Some(rng) = pauses else {
        return world.operate(count);
    };
    for _ in 0..count {
        world.operate(1);
        match rng.u16(..1_000) {
            0..100 => sleep(Duration::from_millis(rng.u64(..30))),
            // Long enough for the daemon to come to rest.
            100..102 => sleep(Duration::from_millis(rng.u64(500..1_500))),
            _ => {}
        }
    }
}

/// Where it takes longer, this goes on waiting, so that a failure says whether something came late
/// or never.
#[track_caller]
fn wait_promised(scratch: &Scratch) -> Duration {
    let (source, replica) = (scratch.source(), scratch.replica());
    let took =
        time_until_seen(|| are_twins(&source, &replica) && have_same_xattrs(&source, &replica));
    if took.is_none() {
        scratch.assert_twins();
        assert_same_xattrs(&source, &replica);
    }
    let took = took.expect("equal, if only just now");
    assert!(took <= PROMISE, "equal, but only after {took:.2?}");
    took
}

#[track_caller]
fn assert_no_sweep_helped(daemon: &Daemon) {
    assert_eq!(daemon.sweeps(), 1, "a sweep has helped");
}

/// What was done to the first entries that differ.
fn tell_of_differences(scratch: &Scratch, world: &World) {
    let (source, replica) = (scratch.source(), scratch.replica());
    let [Ok(left), Ok(right)] = [&source, &replica].map(|root| Snapshot::try_with_inodes(root))
    else {
        return;
    };
    let left = left.without_inodes().without(|_, entry| entry.kind == Kind::Special);
    let right = right.without_inodes();
    let names: BTreeSet<_> = left.entries.keys().chain(right.entries.keys()).collect();
    let differing = names.into_iter().filter(|name| left.get(name) != right.get(name));
    let differing: Vec<PathBuf> = differing.map(|name| path(&source, name)).collect();
    for at in differing.iter().take(5) {
        eprintln!("what was done to {at:?}:\n{}", world.story_of(at, 15));
    }
}
