//! The kernel's limit on watches: said once, what is not watched is scanned, and all is well again
//! when it is raised.

use std::fs;
use std::process::Command;

use crate::support::{DEADLINE, Daemon, Scratch, Tree, is_root, skip, wait_until};

/// The limit of a user namespace of its own, so that nobody else is disturbed.
const LIMIT: &str = "/proc/sys/user/max_inotify_watches";

/// A daemon in such a namespace; `None`, and a line that says why, where that cannot be had.
fn limited(scratch: &Scratch, watches: u32) -> Option<Daemon> {
    if !is_root() {
        skip("a user namespace with limits of its own needs root");
        return None;
    }
    let script =
        format!("echo {watches} >{LIMIT} || exit 77; exec \"$TWINDIR\" source replica 3600");
    let mut command = Command::new("unshare");
    scratch.prepare(&mut command);
    command.args(["-Ur", "sh", "-c", &script]).env("TWINDIR", scratch.program());
    let mut daemon = Daemon::spawn(command);
    wait_until("it runs or ends", DEADLINE, || !daemon.stdout().is_empty() || !daemon.is_running());
    if daemon.is_running() {
        return Some(daemon);
    }
    skip(&format!("no user namespace with limits of its own: {}", daemon.stderr().trim()));
    None
}

fn raise(daemon: &Daemon, watches: u32) {
    let pid = daemon.pid().to_string();
    let script = format!("echo {watches} >{LIMIT}");
    let arguments = ["-t", &pid, "-U", "--preserve-credentials", "sh", "-c", &script];
    assert!(Command::new("nsenter").args(arguments).status().unwrap().success());
}

#[test]
fn directories_that_come_when_the_limit_is_reached_are_scanned() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "f"));
    let Some(daemon) = limited(&scratch, 20) else { return };
    daemon.wait_settled(1);
    for number in 0..40 {
        fs::create_dir(scratch.source().join(format!("d{number}"))).unwrap();
        fs::write(scratch.source().join(format!("d{number}/f")), "one").unwrap();
    }
    scratch.wait_twins();
    for text in ["two", "three"] {
        for number in 0..40 {
            fs::write(scratch.source().join(format!("d{number}/f")), text).unwrap();
        }
        scratch.wait_twins();
    }
    assert_eq!(daemon.sweeps(), 1, "a sweep has helped");
}

#[test]
fn what_is_not_watched_is_scanned_and_watched_once_the_limit_is_raised() {
    let mut tree = Tree::new();
    for number in 0..60 {
        tree = tree.file(format!("d{number}/deep/f"), "one");
    }
    let scratch = Scratch::new().with_source(&tree);
    let Some(daemon) = limited(&scratch, 50) else { return };
    daemon.wait_settled(1);
    scratch.assert_twins();
    let told = |word: &str| daemon.stderr().lines().filter(|line| line.contains(word)).count();
    assert_eq!(
        told("the limit on watches is reached (user.max_inotify_watches = 50)"),
        1,
        "{}",
        daemon.stderr()
    );
    assert_eq!(told("as root in this container: sysctl user.max_inotify_watches=1048576"), 1);
    for number in 0..60 {
        fs::write(scratch.source().join(format!("d{number}/deep/f")), "two").unwrap();
        fs::write(scratch.source().join(format!("d{number}/new")), "new").unwrap();
    }
    scratch.wait_twins();
    raise(&daemon, 10_000);
    wait_until("all is watched", DEADLINE, || {
        daemon.stdout().contains("all directories are watched again")
    });
    for number in 0..60 {
        fs::write(scratch.source().join(format!("d{number}/deep/f")), "three").unwrap();
    }
    scratch.wait_twins();
    assert_eq!(told("the limit on watches is reached"), 1, "{}", daemon.stderr());
    assert_eq!(daemon.sweeps(), 1, "a sweep has helped");
}
