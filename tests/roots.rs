//! How the two roots and the log may be named, and what is made for them.

mod support;

use std::fs;
use std::os::unix::fs::symlink;

use support::{Daemon, EXIT_LIMIT, Scratch, Snapshot, Tree, assert_twins};

fn scratch() -> Scratch {
    let tree = Tree::new().file("sub/file", "text").symlink("link", "sub");
    Scratch::new().with_source(&tree)
}

#[test]
fn the_scripts_command_line_makes_replica_and_log_folder_and_syncs_at_once() {
    let scratch = scratch();
    let daemon = Daemon::spawn(scratch.command([
        "./source",
        "./made/on/the/way/replica",
        "60",
        "./logs/of/it/logfile.log",
    ]));
    daemon.wait_settled(1);
    assert_twins(&scratch.source(), &scratch.path("made/on/the/way/replica"));
    daemon.signal(rustix::process::Signal::INT);
    daemon.wait(EXIT_LIMIT).expect(0);
    let log = fs::read_to_string(scratch.path("logs/of/it/logfile.log")).unwrap();
    assert!(log.contains("sub/file"), "{log}");
}

#[test]
fn interval_and_log_may_be_given_by_name() {
    for arguments in [
        ["-i", "0.2", "-l", "logs/log", "source", "replica"],
        ["source", "replica", "--interval", "200ms", "-l", "logs/log"],
        ["--interval=0.2", "--log-file=logs/log", "--interval-only", "source", "replica", "-v"],
    ]
    .map(|list| list.to_vec())
    {
        let scratch = scratch();
        let daemon = Daemon::spawn(scratch.command(&arguments));
        daemon.wait_settled(1);
        fs::write(scratch.source().join("later"), "text").unwrap();
        daemon.wait_settled(2);
        scratch.assert_twins();
        assert!(scratch.path("logs/log").is_file());
    }
}

#[test]
fn every_sensible_interval_is_taken() {
    let scratch = scratch();
    for interval in ["0.1", "100ms", "0.5", "1", "60", "90s", "5m", "1h", "31536000", "8760h"] {
        scratch.once(&[interval]).expect(0);
    }
}

#[test]
fn any_spelling_of_the_roots_works() {
    for (source, replica) in [
        ("source/", "replica/"),
        ("./source/.", "./replica/."),
        ("source//", "replica//"),
        ("source/sub/..", "source/../replica"),
        ("to-source", "to-replica"),
        ("to-source/", "to-replica/"),
        ("here/to-source", "here/here/replica"),
    ] {
        let scratch = scratch().with_replica(&Tree::new().file("extra", "gone"));
        symlink("source", scratch.path("to-source")).unwrap();
        symlink(scratch.replica(), scratch.path("to-replica")).unwrap();
        symlink(".", scratch.path("here")).unwrap();
        println!("{source} {replica}");
        scratch.run(["--once", source, replica]).expect(0);
        scratch.assert_twins();
        let link = fs::symlink_metadata(scratch.path("to-replica")).unwrap();
        assert!(link.is_symlink(), "the link to the root was replaced");
    }
}

#[test]
fn the_current_directory_may_be_either_root() {
    let scratch = scratch().with_replica(&Tree::new());
    let mut command = scratch.command(["--once", ".", "../replica"]);
    command.current_dir(scratch.source());
    Daemon::run(command).expect(0);
    scratch.assert_twins();
    fs::write(scratch.source().join("more"), "text").unwrap();
    let mut command = scratch.command(["--once", "../source", "."]);
    command.current_dir(scratch.replica());
    Daemon::run(command).expect(0);
    scratch.assert_twins();
}

#[test]
fn roots_with_odd_names_work() {
    for name in ["-source", "with space", "line\nbreak", "ünï", "a'b\"c", "60"] {
        let scratch = Scratch::new();
        Tree::new().file("f", "text").make(&scratch.path(name));
        let replica = format!("{name} replica");
        scratch.run(["--once", "--", name, &replica]).expect(0);
        assert_twins(&scratch.path(name), &scratch.path(&replica));
    }
}

#[test]
fn a_log_inside_the_source_is_left_out_with_its_siblings_and_a_warning() {
    let tree = Tree::new()
        .file("logs/log.1", "rotated")
        .file("logs/log.2", "rotated")
        .file("logs/log.10", "rotated")
        .file("logs/log.old", "somebody else's")
        .file("logs/log.1.gz", "somebody else's")
        .file("logs/another", "a file");
    let scratch = Scratch::new().with_source(&tree);
    let run = scratch.once(&["60", "source/logs/log"]).expect(0);
    assert!(run.stderr.contains("warning"), "{run}");
    assert!(run.stderr.contains("log"), "{run}");
    let replica = Snapshot::of(&scratch.replica());
    for name in ["log", "log.1", "log.2", "log.10"] {
        assert!(replica.get(format!("logs/{name}")).is_none(), "{name}");
    }
    let source = Snapshot::of(&scratch.source());
    for name in ["logs/log.old", "logs/log.1.gz", "logs/another"] {
        assert!(replica.get(name) == source.get(name), "{name}");
    }
}

#[test]
fn a_daemon_with_its_log_in_the_source_comes_to_rest() {
    let scratch = scratch();
    let arguments = ["--interval-only", "source", "replica", "0.1", "source/log"];
    let daemon = Daemon::spawn(scratch.command(arguments));
    daemon.wait_settled(1);
    daemon.wait_sweeps(4);
    let stdout = daemon.stdout();
    assert_eq!(daemon.settled(), 1, "its own log keeps it busy\n{stdout}");
    assert!(!scratch.replica().join("log").exists());
}
