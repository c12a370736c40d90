//! A panic in any thread, provoked in a debug build: it ends the process with a message, and no
//! temporary file stays.

use std::fs;
use std::io::PipeReader;
use std::process::Stdio;

use crate::support::{DEADLINE, Daemon, Scratch, Tree, noise, skip, wait_until};
use rustix::fs::OFlags;

/// A daemon of which one thread panics when it meets an entry of that name, at the start or once
/// `meet` was called.
#[track_caller]
fn ends_when(thread: &str, meet: impl FnOnce(&Scratch, &Daemon)) {
    if !cfg!(debug_assertions) {
        return skip("only a debug build can be made to panic");
    }
    let mut tree = Tree::new().file("big", noise(1, 12_000_000));
    for number in 0..50 {
        tree = tree.files(&format!("d{number}"), 5).file(format!("d{number}/panic here"), "text");
    }
    let scratch = Scratch::new().with_source(&tree);
    // Others must not take all the files away from that thread.
    let threads = if ["main", "twindir-sweep"].contains(&thread) { "1" } else { "4" };
    let mut command = scratch.command(["source", "replica", "0.2", "log", "--threads", threads]);
    command.env("TWINDIR_PANICS_IN", thread);
    let daemon = Daemon::spawn(command);
    meet(&scratch, &daemon);
    let run = daemon.wait(DEADLINE).expect(70).stderr_has("this is a bug in twindir");
    assert!(run.stderr.contains(&format!("thread '{thread}'")), "{run}");
    // A tree that was put aside is left to the next start.
    let files: Vec<_> = scratch.temporaries().into_iter().filter(|at| at.is_file()).collect();
    assert!(files.is_empty(), "left behind: {files:?}\n{run}");
    scratch.once(&["--max-delete", "100%"]).expect(0);
    scratch.assert_twins();
}

#[test]
fn a_panic_in_a_round_ends_the_process() {
    ends_when("main", |_, _| {});
    ends_when("twindir-round", |_, _| {});
}

#[test]
fn a_panic_in_a_sweep_ends_the_process() {
    ends_when("twindir-sweep", |_, _| {});
    ends_when("twindir-walk", |_, _| {});
}

#[test]
fn a_panic_in_the_trash_thread_ends_the_process() {
    ends_when("twindir-trash", |scratch, daemon| {
        daemon.wait_settled(1);
        // Not removed one by one: a directory that goes at once is the trash thread's.
        for number in 0..50 {
            let away = scratch.path(format!("away{number}"));
            fs::rename(scratch.source().join(format!("d{number}")), away).unwrap();
        }
        wait_until("it panics", DEADLINE, || daemon.stderr().contains("panicked"));
    });
}

/// A stderr that nobody reads, full already.
fn blocked() -> (PipeReader, Stdio) {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer.into())
}

/// Such a thread, in a run of its own: it ends with 70 and without temporary files, although nobody
/// reads why.
#[track_caller]
fn ends_unread(thread: &str, options: &[&str], is_equal: bool) {
    let mut tree = Tree::new();
    for number in 0..50 {
        tree = tree.files(&format!("d{number}"), 5).file(format!("d{number}/panic here"), "text");
    }
    let mut scratch = Scratch::new().with_source(&tree);
    if is_equal {
        scratch = scratch.with_replica(&tree);
    }
    let (_reader, stderr) = blocked();
    let mut command = scratch.command(options.iter().chain(&["source", "replica"]));
    command.env("TWINDIR_PANICS_IN", thread).stdout(Stdio::null()).stderr(stderr);
    let mut daemon = Daemon::spawn_as_is(command);
    let mut code = None;
    wait_until(&format!("a panic in {thread} ends it"), DEADLINE, || {
        code = daemon.child().try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.and_then(|status| status.code()), Some(70), "{thread} {options:?}");
    let files: Vec<_> = scratch.temporaries().into_iter().filter(|at| at.is_file()).collect();
    assert!(files.is_empty(), "left behind: {files:?}");
}

#[test]
fn a_panic_ends_the_process_also_where_nobody_reads_of_it() {
    if !cfg!(debug_assertions) {
        return skip("only a debug build can be made to panic");
    }
    // Where others could take all the files away from that thread, a run that has an end tells so.
    ends_unread("main", &["--threads", "1"], false);
    ends_unread("twindir-round", &["--once", "--threads", "4"], false);
    ends_unread("twindir-sweep", &["--threads", "1"], true);
    ends_unread("twindir-walk", &["--check", "--threads", "4"], true);
}
