//! One bad entry does not stop the rest, costs nothing that the replica has, and is tried again.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{
    DEADLINE, Daemon, Run, Scratch, Snapshot, Tree, holds_for, is_root, set_mode, skip, wait_until,
};

/// A line `HH:MM:SS problem  path: operation: reason; what twindir did` about this path.
#[track_caller]
fn assert_problem(run: &Run, path: &str) {
    let found = run.stderr.lines().any(|line| {
        let rest = line.get(8..).unwrap_or("").trim_start();
        rest.strip_prefix("problem").is_some_and(|rest| {
            let rest = rest.trim_start();
            rest.starts_with(path) && rest.matches(": ").count() >= 2 && rest.contains("; ")
        })
    });
    assert!(found, "no problem line about {path}\n{run}");
}

fn bytes(scratch: &Scratch, name: &str) -> Vec<u8> {
    fs::read(scratch.replica().join(name)).unwrap()
}

#[test]
fn an_unreadable_file_is_a_problem_and_the_rest_goes_on() {
    let tree = Tree::new().file("sub/bad", "old").file("sub/good", "old").file("z", "old");
    let scratch = Scratch::ordinary().with_source(&tree);
    scratch.sync();
    for name in ["sub/bad", "sub/good", "z"] {
        fs::write(scratch.source().join(name), "newer").unwrap();
    }
    set_mode(&scratch.source().join("sub/bad"), 0);
    let run = scratch.once(&["60", "log"]).expect(1);
    assert_problem(&run, "sub/bad");
    assert!(!run.stdout.contains("in sync as of"), "it is not equal\n{run}");
    let kept = ["sub/bad", "sub/good", "z"].map(|name| bytes(&scratch, name));
    assert_eq!(kept, [&b"old"[..], b"newer", b"newer"]);
    assert!(scratch.temporaries().is_empty());
    let log = fs::read_to_string(scratch.log()).unwrap();
    let said = |line: &str| line.contains("path=\"sub/bad\"") && !line.contains(" INFO ");
    assert!(log.lines().any(said), "{log}");

    set_mode(&scratch.source().join("sub/bad"), 0o644);
    scratch.sync();
}

#[test]
fn an_unreadable_file_that_the_replica_lacks_is_a_problem_each_time() {
    let tree = Tree::new().file("bad", "text").mode(0).file("good", "text");
    let scratch = Scratch::ordinary().with_source(&tree);
    for _ in 0..2 {
        let run = scratch.once(&[]).expect(1);
        assert_problem(&run, "bad");
        assert!(!scratch.replica().join("bad").exists());
        assert_eq!(bytes(&scratch, "good"), b"text");
    }
}

#[test]
fn an_unreadable_directory_deletes_nothing() {
    // 0: not to be listed. 0o111: not to be listed, but its names may be reached. 0o444: the other
    // way round.
    for mode in [0, 0o111, 0o444] {
        let tree = Tree::new()
            .file("bad/file", "old")
            .file("bad/deep/file", "old")
            .file("good/file", "old");
        let scratch = Scratch::ordinary().with_source(&tree);
        scratch.sync();
        let before = Snapshot::with_inodes(&scratch.replica().join("bad"));
        fs::write(scratch.source().join("good/file"), "newer").unwrap();
        set_mode(&scratch.source().join("bad"), mode);
        let run = scratch.once(&[]).expect(1);
        assert_problem(&run, "bad");
        assert_eq!(bytes(&scratch, "good/file"), b"newer");

        set_mode(&scratch.source().join("bad"), 0o755);
        set_mode(&scratch.replica().join("bad"), 0o755);
        let after = Snapshot::with_inodes(&scratch.replica().join("bad"));
        crate::support::assert_same("what it held", &before, &after);
        scratch.sync();
    }
}

#[test]
fn an_unreadable_source_deletes_nothing() {
    let scratch = Scratch::ordinary().with_source(&Tree::new().files("sub", 5));
    scratch.sync();
    let before = Snapshot::with_inodes(&scratch.replica().join("sub"));
    set_mode(&scratch.source(), 0);
    let run = scratch.once(&[]);
    assert!(matches!(run.code, Some(1 | 2)), "{run}");
    assert!(!run.stderr.is_empty());
    set_mode(&scratch.source(), 0o755);
    set_mode(&scratch.replica(), 0o755);
    let after = Snapshot::with_inodes(&scratch.replica().join("sub"));
    crate::support::assert_same("the replica", &before, &after);
}

#[test]
fn a_directory_of_somebody_else_in_the_replica_is_a_problem() {
    if !is_root() {
        return skip("only root can make a directory that belongs to somebody else");
    }
    let tree =
        Tree::new().file("closed/file", "new").file("closed/more", "new").file("open/file", "new");
    let scratch =
        Scratch::ordinary().with_source(&tree).with_replica(&Tree::new().file("open/file", "old"));
    // Not given to the user that the program runs as.
    Tree::new().file("closed/file", "old").file("closed/extra", "old").make(&scratch.replica());
    let closed = scratch.replica().join("closed");
    let before = Snapshot::with_inodes(&closed);
    let run = scratch.once(&[]).expect(1);
    assert_problem(&run, "closed");
    assert_eq!(bytes(&scratch, "open/file"), b"new");
    crate::support::assert_same("the closed one", &before, &Snapshot::with_inodes(&closed));

    scratch.own(&scratch.replica());
    scratch.sync();
}

#[test]
fn a_file_of_somebody_else_in_the_replica_is_replaced() {
    if !is_root() {
        return skip("only root can make a file that belongs to somebody else");
    }
    let scratch = Scratch::ordinary()
        .with_source(&Tree::new().file("contents", "new").file("mode", "same").mode(0o600))
        .with_replica(&Tree::new());
    Tree::new().file("contents", "old").file("mode", "same").make(&scratch.replica());
    // The directory is the user's, the files are root's, and may be read.
    scratch.sync();
}

#[test]
fn a_daemon_tries_again_and_says_a_problem_once() {
    let scratch = Scratch::ordinary().with_source(&Tree::new().file("bad", "text").mode(0));
    let daemon = scratch.daemon("0.1");
    wait_until("it says so", DEADLINE, || daemon.stderr().contains("problem"));
    daemon.wait_sweeps(5);
    let stderr = daemon.stderr();
    let lines = stderr.lines().filter(|line| line.contains("problem"));
    assert_eq!(lines.count(), 1, "{stderr}");
    assert_eq!(daemon.settled(), 0, "{}", daemon.stdout());

    set_mode(&scratch.source().join("bad"), 0o600);
    daemon.wait_settled(1);
    scratch.assert_twins();
}

#[test]
fn entries_that_vanish_while_they_are_read_do_no_harm() {
    let scratch = Scratch::new().with_source(&Tree::new().files("still", 200));
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, root) = (Arc::clone(&stop), scratch.source().join("churn"));
    let churn = std::thread::spawn(move || {
        let mut rng = fastrand::Rng::with_seed(3);
        while !stopped.load(Ordering::Relaxed) {
            let dir = root.join(format!("{}", rng.u8(0..4)));
            for _ in 0..10 {
                let deep = dir.join(format!("{}", rng.u8(0..4)));
                let _ = fs::create_dir_all(&deep);
                let _ =
                    fs::write(deep.join(format!("{}", rng.u8(0..9))), vec![1; rng.usize(0..9000)]);
            }
            let _ = fs::remove_dir_all(&dir);
        }
    });
    for _ in 0..15 {
        let run = scratch.once(&["--max-delete", "100%"]);
        assert!(matches!(run.code, Some(0 | 1)), "{run}");
        let still = fs::read_dir(scratch.replica().join("still")).unwrap();
        assert_eq!(still.count(), 200);
        assert!(scratch.temporaries().is_empty(), "{run}");
    }
    stop.store(true, Ordering::Relaxed);
    churn.join().unwrap();
    scratch.sync();
}

#[test]
fn a_full_disk_is_a_problem_for_what_does_not_fit() {
    let probe = Command::new("unshare").args(["-m", "true"]).output();
    if !is_root() || !probe.is_ok_and(|output| output.status.success()) {
        return skip("a small file system needs root and a mount namespace");
    }
    let tree = Tree::new().file("a", "small").file("big", vec![1; 12 << 20]).file("z", "small");
    let scratch = Scratch::new().with_source(&tree).with_replica(&Tree::new());
    let mut command = Command::new("unshare");
    scratch.prepare(&mut command);
    let script = "mount -t tmpfs -o size=4m none replica || exit 99
        \"$0\" --once source replica; code=$?; ls -A replica; exit $code";
    command.args(["-m", "sh", "-c", script]).arg(scratch.program());
    let run = Daemon::run(command).expect(1);
    let full: Vec<&str> =
        run.stderr.lines().filter(|line| line.contains(" out of space big: ")).collect();
    assert_eq!(full.len(), 1, "{run}");
    assert!(full[0].contains(" big: needs 12.6 MB, ") && full[0].contains(" are free: "), "{run}");
    let names: Vec<&str> = run.stdout.lines().filter(|line| !line.contains(' ')).collect();
    assert_eq!(names, ["a", "z"], "{run}");
}

#[test]
fn a_part_that_cannot_go_of_a_directory_that_stays_is_one_problem() {
    if !is_root() {
        return skip("a directory of somebody else's takes root to make");
    }
    let scratch =
        Scratch::ordinary().with_source(&Tree::new().file("d/keep.o", "x").file("d/a", "x"));
    scratch.sync();
    let daemon = scratch.watcher(&["--exclude", "*.o"]);
    std::os::unix::fs::chown(scratch.replica().join("d"), Some(0), Some(0)).unwrap();
    fs::remove_dir_all(scratch.source().join("d")).unwrap();
    wait_until("it is a problem", DEADLINE, || daemon.stderr().contains(" problem "));
    // It is tried again after one and two seconds.
    holds_for("it is said once", Duration::from_secs(4), || {
        daemon.stderr().matches(" problem ").count() == 1 && !daemon.stdout().contains("resolved")
    });
    std::os::unix::fs::chown(scratch.replica().join("d"), Some(65_534), Some(65_534)).unwrap();
    wait_until("it is over", DEADLINE, || daemon.stdout().contains("resolved"));
    assert!(!scratch.replica().join("d/a").exists() && scratch.replica().join("d/keep.o").exists());
}

#[test]
fn what_is_still_open_is_named_again_at_each_full_sweep() {
    let scratch = if crate::support::is_root() { Scratch::ordinary() } else { Scratch::new() }
        .with_source(&Tree::new().file("f", "x").file("g", "x"));
    let daemon = scratch.daemon("0.5");
    set_mode(&scratch.source().join("f"), 0o000);
    wait_until("it is a problem", DEADLINE, || daemon.stderr().contains("problem  f: "));
    wait_until("it is named again", DEADLINE, || {
        daemon.stderr().matches("still    f: ").count() >= 2
    });
    assert_eq!(daemon.stderr().matches("problem  f: ").count(), 1);
    set_mode(&scratch.source().join("f"), 0o600);
    wait_until("it is over", DEADLINE, || daemon.stdout().contains("resolved f"));
}
