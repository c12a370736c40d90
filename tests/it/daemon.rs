//! The long-running program: intervals, signals, and roots that come and go.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{
    DEADLINE, Daemon, EXIT_LIMIT, Scratch, Snapshot, Tree, holds_for, noise, skip, wait_until,
};
use rustix::process::Signal;

fn scratch() -> Scratch {
    Scratch::new().with_source(&Tree::new().files("sub", 5).file("top", "text").symlink("l", "sub"))
}

#[test]
fn a_change_is_followed_at_the_next_sweep() {
    let scratch = scratch();
    let daemon = scratch.daemon("0.2");
    daemon.wait_settled(1);
    scratch.assert_twins();
    for round in 2..6 {
        fs::write(scratch.source().join("top"), format!("round {round}")).unwrap();
        fs::write(scratch.source().join(format!("sub/{round}")), "new").unwrap();
        fs::remove_file(scratch.source().join(format!("sub/f{}", round - 2))).unwrap();
        scratch.wait_twins();
    }
}

#[test]
fn sweeps_are_an_interval_apart() {
    let scratch = scratch();
    let daemon = Daemon::spawn(scratch.command(["source", "replica", "500ms", "log"]));
    daemon.wait_sweeps(4);
    daemon.signal(Signal::TERM);
    daemon.wait(EXIT_LIMIT).expect(0);
    let log = fs::read_to_string(scratch.log()).unwrap();
    let times: Vec<f64> = log
        .lines()
        .filter(|line| line.contains(" sweep task=full "))
        .map(|line| {
            // 2026-11-20T14:03:10.123+01:00
            let minutes: f64 = line[14..16].parse().unwrap();
            let seconds: f64 = line[17..23].parse().unwrap();
            minutes * 60.0 + seconds
        })
        .collect();
    assert!(times.len() >= 4, "{log}");
    for pair in times.windows(2) {
        let apart = (pair[1] - pair[0]).rem_euclid(3600.0);
        assert!(apart >= 0.49, "{apart} s between two sweeps\n{log}");
    }
}

#[test]
fn equal_is_said_once_until_something_changes() {
    let scratch = scratch();
    let daemon = scratch.daemon("0.1");
    daemon.wait_settled(1);
    daemon.wait_sweeps(5);
    assert_eq!(daemon.settled(), 1, "{}", daemon.stdout());
    fs::write(scratch.source().join("top"), "changed").unwrap();
    daemon.wait_settled(2);
    scratch.assert_twins();
    daemon.wait_sweeps(5);
    assert_eq!(daemon.settled(), 2, "{}", daemon.stdout());
}

#[test]
fn equal_is_said_only_when_it_is() {
    let scratch =
        Scratch::new().with_source(&Tree::new().files("a", 500).file("top", noise(1, 20_000_000)));
    let daemon = scratch.daemon("3600");
    daemon.wait_settled(1);
    scratch.assert_twins();
}

#[test]
fn at_rest_it_holds_nothing_open_in_either_tree() {
    let scratch = scratch();
    let daemon = scratch.daemon("3600");
    daemon.wait_settled(1);
    wait_until("no descriptor is held in the trees", DEADLINE, || {
        !daemon.holds_open(&scratch.source()) && !daemon.holds_open(&scratch.replica())
    });
}

/// Whether whoever started the tests has it that a SIGHUP ends nothing: what they start does not
/// end by it either.
fn is_hangup_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 == 1
}

#[test]
fn each_signal_ends_an_idle_daemon_with_exit_0() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        if signal == Signal::HUP && is_hangup_ignored() {
            skip("the tests were started by nohup");
            continue;
        }
        let scratch = scratch();
        let daemon = scratch.daemon("3600");
        daemon.wait_settled(1);
        daemon.signal(signal);
        daemon.wait(EXIT_LIMIT).expect(0);
        assert!(scratch.temporaries().is_empty());
        scratch.assert_twins();
    }
}

/// A source that takes seconds to copy: one file under many names, since only the replica must be
/// big.
fn big_source() -> Scratch {
    let scratch = Scratch::roomy().with_source(&Tree::new());
    let first = scratch.source().join("0");
    fs::write(&first, noise(1, 600 << 20)).unwrap();
    for number in 1..16 {
        fs::hard_link(&first, scratch.source().join(format!("{number}"))).unwrap();
    }
    scratch
}

#[test]
fn a_signal_in_the_middle_of_a_big_copy_ends_it_and_leaves_no_temporary_file() {
    let scratch = big_source();
    let cases =
        [(vec!["source", "replica", "3600"], 0), (vec!["--once", "source", "replica"], 130)];
    for (arguments, code) in cases {
        let _ = fs::remove_dir_all(scratch.replica());
        let daemon = Daemon::spawn(scratch.command(&arguments));
        wait_until("a copy is under way", DEADLINE, || !scratch.temporaries().is_empty());
        daemon.signal(Signal::INT);
        daemon.wait(EXIT_LIMIT).expect(code);
        assert!(scratch.temporaries().is_empty());
        whole_files_only(&scratch);
    }
}

/// Of a copy that was interrupted, each file is whole or not there.
fn whole_files_only(scratch: &Scratch) {
    let size = fs::metadata(scratch.source().join("0")).unwrap().len();
    let files: Vec<_> = fs::read_dir(scratch.replica()).unwrap().collect();
    assert!(files.len() < 16, "it copied on to the end");
    for file in files {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().len(), size, "{file:?}");
    }
}

#[test]
fn a_signal_in_the_middle_of_hashing_ends_it() {
    let scratch = big_source();
    fs::create_dir(scratch.replica()).unwrap();
    let other = scratch.path("other");
    fs::copy(scratch.source().join("0"), &other).unwrap();
    for number in 0..16 {
        fs::hard_link(&other, scratch.replica().join(format!("{number}"))).unwrap();
    }
    let daemon = scratch.daemon("3600");
    let big = scratch.source();
    wait_until("it reads", DEADLINE, || {
        daemon.holds_open(&big.join("0")) || daemon.holds_open(&other) || daemon.settled() > 0
    });
    daemon.signal(Signal::TERM);
    daemon.wait(EXIT_LIMIT).expect(0);
}

#[test]
fn a_killed_run_leaves_nothing_that_the_next_does_not_clean_up() {
    let scratch = Scratch::new().with_source(
        &Tree::new()
            .files("a", 300)
            .file("top", noise(1, 30_000_000))
            .file("b/big", noise(2, 9_000_000)),
    );
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..8 {
        let _ = fs::remove_dir_all(scratch.replica());
        let daemon = scratch.daemon("0.1");
        wait_until("it works", DEADLINE, || scratch.replica().exists());
        std::thread::sleep(Duration::from_millis(rng.u64(0..60)));
        drop(daemon);
        scratch.sync();
    }
}

#[test]
fn a_replica_that_is_deleted_meanwhile_is_made_again_and_filled() {
    let scratch = scratch();
    let mut daemon = scratch.daemon("0.2");
    for _ in 0..3 {
        scratch.wait_twins();
        // Renamed first, since it may be filled again while it is being removed.
        let away = scratch.path("away");
        fs::rename(scratch.replica(), &away).unwrap();
        fs::remove_dir_all(&away).unwrap();
        scratch.wait_twins();
    }
    assert!(daemon.is_running());
}

fn unchanged(scratch: &Scratch, before: &Snapshot) -> bool {
    Snapshot::try_with_inodes(&scratch.replica()).is_ok_and(|now| now == *before)
}

#[test]
fn a_source_that_vanishes_deletes_nothing_and_is_followed_again_when_it_is_back() {
    let scratch = scratch();
    let mut daemon = scratch.daemon("0.2");
    scratch.wait_twins();
    daemon.wait_settled(1);
    let before = Snapshot::with_inodes(&scratch.replica());
    let away = scratch.path("away");
    fs::rename(scratch.source(), &away).unwrap();
    wait_until("it says so", DEADLINE, || !daemon.stderr().is_empty());
    // Many intervals, and the second after which the roots are looked at again.
    holds_for("nothing is written", Duration::from_millis(2500), || unchanged(&scratch, &before));
    let stderr = daemon.stderr();
    assert_eq!(stderr.lines().count(), 1, "one error line\n{stderr}");
    assert!(stderr.contains("source"), "{stderr}");

    fs::rename(&away, scratch.source()).unwrap();
    fs::write(scratch.source().join("top"), "back again").unwrap();
    fs::remove_file(scratch.source().join("sub/f0")).unwrap();
    scratch.wait_twins();
    assert!(daemon.is_running());
}

#[test]
fn another_directory_at_the_sources_path_is_adopted_once_it_has_stood_for_two_seconds() {
    let scratch = scratch();
    let daemon = scratch.daemon("0.1");
    scratch.wait_twins();
    daemon.wait_settled(1);
    let before = Snapshot::with_inodes(&scratch.replica());
    let next = scratch.path("next");
    Tree::new().file("top", "of another").file("new/file", "x").files("sub", 3).make(&next);
    fs::rename(scratch.source(), scratch.path("away")).unwrap();
    let start = Instant::now();
    fs::rename(&next, scratch.source()).unwrap();
    holds_for("not adopted yet", Duration::from_millis(1500), || unchanged(&scratch, &before));
    scratch.wait_twins();
    assert!(start.elapsed() >= Duration::from_millis(1900));
}

#[test]
fn a_directory_that_stands_for_the_source_for_a_moment_is_not_believed() {
    let scratch = scratch();
    let daemon = scratch.daemon("0.1");
    scratch.wait_twins();
    daemon.wait_settled(1);
    let before = Snapshot::with_inodes(&scratch.replica());
    let away = scratch.path("away");
    for _ in 0..3 {
        fs::rename(scratch.source(), &away).unwrap();
        fs::create_dir(scratch.source()).unwrap();
        holds_for("nothing is deleted", Duration::from_millis(400), || {
            unchanged(&scratch, &before)
        });
        fs::remove_dir(scratch.source()).unwrap();
        fs::rename(&away, scratch.source()).unwrap();
    }
    fs::write(scratch.source().join("top"), "still followed").unwrap();
    scratch.wait_twins();
}

#[test]
fn a_replica_that_becomes_a_file_is_left_alone() {
    let scratch = scratch();
    let mut daemon = scratch.daemon("0.1");
    scratch.wait_twins();
    daemon.wait_settled(1);
    fs::rename(scratch.replica(), scratch.path("away")).unwrap();
    fs::write(scratch.replica(), "somebody's").unwrap();
    wait_until("it says so", DEADLINE, || !daemon.stderr().is_empty());
    assert_eq!(fs::read(scratch.replica()).unwrap(), b"somebody's");
    assert!(daemon.is_running());
    fs::remove_file(scratch.replica()).unwrap();
    scratch.wait_twins();
}

#[test]
fn a_check_that_nobody_reads_ends_by_a_signal_all_the_same() {
    let tree =
        Tree::new().files("a directory with a rather long name, so that its lines are long", 3_000);
    for option in ["--check", "--dry-run"] {
        let scratch = Scratch::new().with_source(&tree);
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = scratch.command([option, "source", "replica"]);
        command.stdout(writer).stderr(Stdio::null());
        let daemon = Daemon::spawn_as_is(command);
        // It takes 64 kB, or hardly half of that where each page of it holds one write.
        wait_until("the pipe is filled", DEADLINE, || {
            rustix::io::ioctl_fionread(&reader).unwrap() > 25_000
        });
        daemon.signal(Signal::TERM);
        daemon.wait(EXIT_LIMIT).expect(130);
    }
}

#[test]
fn a_hangup_that_is_to_be_ignored_is() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let mut command = Command::new("nohup");
    scratch.prepare(&mut command);
    command.arg(scratch.program()).args(["source", "replica", "60"]);
    let mut daemon = Daemon::spawn(command);
    daemon.wait_settled(1);
    daemon.signal(Signal::HUP);
    fs::write(scratch.source().join("f"), "goes on").unwrap();
    scratch.wait_twins();
    assert!(daemon.is_running());
    daemon.signal(Signal::TERM);
    daemon.wait(EXIT_LIMIT).expect(0);
}
