//! What the integration tests share: trees as data, snapshots, and the real binary.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]

mod background;
pub mod json;
mod live;
mod logline;
mod mounts;
mod run;
mod scratch;
pub mod script;
mod snapshot;
mod tree;
mod usage;
pub mod xattr;

pub use background::{Background, Churn, guard};
pub use live::Live;
pub use logline::LogLine;
pub use mounts::Mounts;
pub use run::{Daemon, Run};
pub use scratch::{Scratch, temporaries};
pub use snapshot::{
    Entry, Kind, Snapshot, are_twins, assert_same, assert_twins, differences, owners,
};
pub use tree::{Tree, is_temporary_name, noise, path, set_mode, set_mtime};
pub use usage::{Peak, Usage, is_stopped};

use std::time::{Duration, Instant};

/// How long a condition may take to come true. Far above what it takes, for machines under load.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The promise is two seconds; the third is for a machine that runs all tests at once.
pub const EXIT_LIMIT: Duration = Duration::from_secs(3);

/// How soon after the last change both sides are to be equal. Without optimisation everything takes
/// several times as long.
pub const PROMISE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 2 });

const POLL: Duration = Duration::from_millis(5);

/// What an environment variable says of the length of a long test; `default` where it is not set.
pub fn how_many(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Waits for `condition`, and fails with `what` when it has not come true by the deadline.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "not within {deadline:?}: waited until {what}");
        std::thread::sleep(POLL);
    }
}

/// How long after this call the look at `condition` began that found it true; None where none did
/// by the deadline. The look takes its time too, if it compares two trees, and is not counted.
pub fn time_until_seen(mut condition: impl FnMut() -> bool) -> Option<Duration> {
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        let begun = start.elapsed();
        if condition() {
            return Some(begun);
        }
    }
    None
}

/// Fails when `condition` is false once within `time`. For what must _not_ happen, where there is
/// nothing to wait for.
#[track_caller]
pub fn holds_for(what: &str, time: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(condition(), "no longer true: {what}");
        std::thread::sleep(POLL);
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says why a test proves nothing here.
pub fn skip(reason: &str) {
    use std::io::Write;
    // Past the test harness, which keeps what a passing test prints to itself.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
