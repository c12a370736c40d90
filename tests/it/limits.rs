//! Limits on what a process may use: with little it works, and with too little it is refused at
//! once and told why.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::support::{Daemon, Live, Run, Scratch, Tree, is_root, skip};

/// What two threads take at least: threads with the main one, open files, and bytes of address
/// space.
const ENOUGH: [&str; 3] = ["--nproc=12", "--nofile=240", "--as=1283457024"];

fn scratch() -> Scratch {
    let mut tree = Tree::new();
    for number in 0..50 {
        tree = tree.files(&format!("d{number}"), 10);
    }
    Scratch::ordinary().with_source(&tree)
}

/// The program under these limits; `None`, and a line that says why, where nothing can limit it.
/// The limit on processes counts all of one's own: root lets it run as a user of whom nothing else
/// does.
fn limited(scratch: &Scratch, limits: &[&str], arguments: &[&str]) -> Option<Command> {
    if !Command::new("prlimit").arg("--version").output().is_ok_and(|run| run.status.success()) {
        skip("there is no prlimit");
        return None;
    }
    let mut command = Command::new("prlimit");
    scratch.prepare(&mut command);
    command
        .args(limits)
        .arg(scratch.program())
        .args(["--threads", "2", "source", "replica"])
        .args(arguments);
    if is_root() {
        let newcomer = 1_000_000 + fastrand::u32(..1_000_000);
        chown(scratch.root(), Some(newcomer), None).unwrap();
        command.uid(newcomer);
    }
    Some(command)
}

/// It has worked, or was refused with this advice before it changed anything. Whether it has
/// worked.
#[track_caller]
fn worked(scratch: &Scratch, run: Run, advice: &str) -> bool {
    if run.code == Some(2) {
        run.stderr_has(advice);
        assert!(!scratch.replica().exists(), "refused, and at work");
        return false;
    }
    run.expect(0);
    scratch.assert_twins();
    true
}

/// Tries one limit after the other. From some number on it works.
#[track_caller]
fn each(name: &str, numbers: &[u64], advice: &str) {
    let mut before = false;
    for number in numbers {
        let scratch = scratch();
        let limit = format!("--{name}={number}");
        let Some(command) = limited(&scratch, &[&limit], &["--once"]) else { return };
        let works = worked(&scratch, Daemon::run(command), advice);
        assert!(works || !before, "{limit} is refused, and less is not");
        before = works;
    }
    assert!(before, "it never works");
}

#[test]
fn too_few_open_files_are_refused() {
    each("nofile", &[16, 64, 239, 240, 1024], "ulimit -n 240");
}

#[test]
fn too_little_address_space_is_refused() {
    each("as", &[64 << 20, 256 << 20, 512 << 20, 1 << 30, 2 << 30], "ulimit -v");
}

#[test]
fn too_little_data_is_refused() {
    each("data", &[1 << 20, 8 << 20, 24 << 20, 30 << 20, 56 << 20, 256 << 20], "ulimit -d");
}

#[test]
fn too_small_a_stack_is_refused() {
    each("stack", &[64 << 10, 500 << 10, 512 << 10, 8 << 20], "ulimit -s");
}

#[test]
fn too_few_processes_are_refused() {
    if !is_root() {
        return skip(
            "the limit on processes counts all of one's own: only root can be somebody else",
        );
    }
    each("nproc", &[1, 2, 3, 4, 6, 8, 10, 11, 12, 16], "ulimit -u");
}

#[test]
fn with_just_enough_a_daemon_follows_what_is_saved() {
    let scratch = scratch();
    let limits = if is_root() { &ENOUGH[..] } else { &ENOUGH[1..] };
    let Some(command) = limited(&scratch, limits, &["5"]) else { return };
    let daemon = Daemon::spawn(command);
    daemon.wait_settled(1);
    let live = Live { daemon, scratch };
    for number in 0..50 {
        live.answer(&format!("d{number}/f0"));
    }
    assert_eq!(live.daemon.stderr(), "");
}
