//! How the two roots and the log may be named, and what is made for them.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use crate::support::script::each_way;
use crate::support::{
    DEADLINE, Daemon, EXIT_LIMIT, Scratch, Snapshot, Tree, assert_twins, holds_for, wait_until,
};

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

/// A daemon for `top/in/source` and `real` through symlinks. One of them is made to lead elsewhere;
/// then `other` has said so, nothing has changed below `top` and `real`, and all goes on once it
/// leads where it did.
#[track_caller]
fn refuses_to_go_on(root: &str, elsewhere: &str, other: &str) {
    each_way(|how| {
        let scratch = Scratch::new();
        let tree = Tree::new()
            .file("in/source/f", "x")
            .file("in/source/sub/g", "x")
            .file("docs/precious", "x");
        tree.make(&scratch.path("top"));
        fs::create_dir(scratch.path("real")).unwrap();
        let link = |name: &str, to: &str| {
            let next = scratch.path("next");
            symlink(to, &next).unwrap();
            fs::rename(next, scratch.path(name)).unwrap();
        };
        link("source", "top/in/source");
        link("replica", "real");
        let how = Some(how).filter(|how| !how.is_empty());
        let daemon =
            Daemon::spawn(scratch.command(["source", "replica", "0.2"].into_iter().chain(how)));
        daemon.wait_settled(1);
        let both = || ["top", "real"].map(|name| Snapshot::of(&scratch.path(name)));
        let before = both();
        link(root, elsewhere);
        wait_until("it says so", DEADLINE, || daemon.stderr().contains(other));
        holds_for("nothing is changed", Duration::from_secs(3), || both() == before);
        link(root, if root == "source" { "top/in/source" } else { "real" });
        fs::write(scratch.path("top/in/source/new"), "x").unwrap();
        wait_until("it goes on", DEADLINE, || scratch.path("real/new").exists());
        assert_eq!(
            daemon.stderr().lines().filter(|line| line.contains(other)).count(),
            1,
            "{}",
            daemon.stderr()
        );
    });
}

#[test]
fn a_replica_that_comes_to_hold_the_source_is_refused_while_it_runs() {
    refuses_to_go_on("replica", "top", "lies inside the replica");
}

#[test]
fn a_replica_that_comes_to_lie_in_the_source_is_refused_while_it_runs() {
    refuses_to_go_on("replica", "top/in/source/sub", "lies inside the source");
}

#[test]
fn a_source_that_comes_to_lie_in_the_replica_is_refused_while_it_runs() {
    refuses_to_go_on("source", "real/sub", "lies inside the replica");
}

#[test]
fn a_source_that_comes_to_be_the_replica_is_refused_while_it_runs() {
    refuses_to_go_on("source", "real", "are the same directory");
}

#[test]
fn each_reason_why_a_root_is_refused_is_said() {
    let scratch = Scratch::new();
    Tree::new().file("f", "x").make(&scratch.path("real"));
    let lead = |to: &str| {
        symlink(to, scratch.path("next")).unwrap();
        fs::rename(scratch.path("next"), scratch.source()).unwrap();
    };
    lead("real");
    let daemon = Daemon::spawn(scratch.command(["source", "replica", "0.2"]));
    daemon.wait_settled(1);
    for (to, why) in [
        ("nowhere", "cannot be opened"),
        ("replica", "are the same directory"),
        (".", "lies inside"),
    ] {
        lead(to);
        wait_until(why, DEADLINE, || daemon.stderr().contains(why));
    }
    lead("real");
    fs::write(scratch.path("real/later"), "x").unwrap();
    wait_until("it goes on", DEADLINE, || scratch.replica().join("later").exists());
}

/// The run goes on in the new one.
#[test]
fn a_replica_that_goes_in_the_middle_of_a_single_run_is_made_again_and_filled() {
    let scratch = Scratch::new().with_source(&Tree::new().files("d", 3_000).files("e", 3_000));
    let daemon = Daemon::spawn(scratch.command(["--once", "source", "replica"]));
    wait_until("something is there", DEADLINE, || {
        fs::read_dir(scratch.replica().join("d")).is_ok_and(|mut dir| dir.next().is_some())
    });
    fs::rename(scratch.replica(), scratch.path("away")).unwrap();
    let run = daemon.wait(DEADLINE);
    assert!(run.stderr.contains("it is made again and filled"), "{run}");
    run.expect(0);
    scratch.assert_twins();
}
