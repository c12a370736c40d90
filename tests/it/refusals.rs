//! What twindir refuses, and that a refusal creates and changes nothing.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::{Daemon, Run, Scratch, Snapshot, Tree, is_root, skip};

/// A test's folder with a source and, beside it, a file.
fn scratch() -> Scratch {
    let scratch = Scratch::new().with_source(&Tree::new().file("sub/file", "text"));
    fs::write(scratch.path("a-file"), "not a directory").unwrap();
    scratch
}

/// Runs it, and expects exit code 2, a message in form, and the whole test's folder untouched.
#[track_caller]
fn refused(scratch: &Scratch, arguments: &[&str]) -> Run {
    refused_command(scratch, scratch.command(arguments))
}

#[track_caller]
fn refused_command(scratch: &Scratch, command: Command) -> Run {
    let shown = format!("{command:?}");
    let before = contents(scratch);
    let run = Daemon::run(command);
    assert_eq!(run.code, Some(2), "{shown}\n{run}");
    assert!(run.stderr.starts_with("error: "), "{shown}\n{run}");
    assert!(run.stdout.is_empty(), "{shown}\n{run}");
    crate::support::assert_same(&shown, &before, &contents(scratch));
    run
}

/// All but the folder's own mtime: something may have been made there and unmade.
fn contents(scratch: &Scratch) -> Snapshot {
    Snapshot::with_inodes(scratch.root()).without(|name, _| name.is_empty())
}

/// Whether some line has these words in this order.
fn has_in_order(text: &str, words: &[&str]) -> bool {
    text.lines().any(|line| {
        let mut rest = line;
        words.iter().all(|word| match rest.find(word) {
            Some(at) => {
                rest = &rest[at + word.len()..];
                true
            }
            None => false,
        })
    })
}

#[test]
fn help_names_every_option_and_gives_examples() {
    for flag in ["-h", "--help"] {
        let run = scratch().run([flag]).expect(0);
        assert!(run.stderr.is_empty(), "{run}");
        for word in [
            "SOURCE",
            "REPLICA",
            "INTERVAL",
            "LOG_FILE",
            "--interval",
            "--log-file",
            "--interval-only",
            "--once",
            "--threads",
            "--max-delete",
            "--no-create",
            "-v",
            "-q",
            "-V",
            "-h",
        ] {
            assert!(run.stdout.contains(word), "no {word} in\n{run}");
        }
        let stdout = run.stdout.to_lowercase();
        assert!(stdout.contains("example"), "no examples in\n{run}");
    }
}

#[test]
fn version_is_the_packages() {
    let expected = format!("twindir {}", env!("CARGO_PKG_VERSION"));
    for flag in ["-V", "--version"] {
        let run = scratch().run([flag]).expect(0);
        assert!(run.stdout.starts_with(&expected), "{run}");
    }
}

#[test]
fn wrong_use_is_refused() {
    let scratch = scratch();
    for arguments in [
        vec![],
        vec!["source"],
        vec!["source", "replica", "60", "log", "more"],
        vec!["source", "replica", "--no-such-option"],
        vec!["source", "replica", "--threads", "many"],
        vec!["source", "replica", "--threads", "-3"],
        vec!["source", "replica", "--max-delete", "few"],
        vec!["source", "replica", "--max-delete", "-1"],
        vec!["source", "replica", "--max-delete", "-5%"],
        vec!["source", "replica", "--max-delete", "%"],
        vec!["source", "replica", "--max-delete", ""],
        vec!["", "replica"],
        vec!["source", ""],
    ] {
        refused(&scratch, &arguments);
    }
}

#[test]
fn an_interval_that_makes_no_sense_is_refused() {
    let scratch = scratch();
    for interval in [
        "0",
        "0s",
        "0.0",
        "-1",
        "-0.5",
        "-1s",
        "abc",
        "",
        " ",
        "1x",
        "s",
        "nan",
        "NaN",
        "inf",
        "infinity",
        "1e300",
        "1e-9",
        "0.05",
        "99ms",
        "0.099",
        "1us",
        "31536001",
        "366d",
        "8761h",
        "99999999999999999999999999",
        "1..5",
        "5 minutes ago",
        "٣",
    ] {
        let by_name = format!("--interval={interval}");
        refused(&scratch, &[&by_name, "source", "replica"]);
        refused(&scratch, &["-i", interval, "source", "replica"]);
        refused(&scratch, &["source", "replica", interval]);
        refused(&scratch, &["--once", "source", "replica", "--", interval]);
    }
}

#[test]
fn an_interval_that_is_refused_is_named() {
    let run = refused(&scratch(), &["source", "replica", "0.05"]);
    assert!(run.stderr.contains("0.1 seconds"), "does not say the least\n{run}");
    let run = refused(&scratch(), &["source", "replica", "fast"]);
    assert!(run.stderr.contains("fast"), "{run}");
}

#[test]
fn a_source_that_is_missing_or_no_directory_is_refused() {
    let scratch = scratch();
    symlink("nowhere", scratch.path("dangling")).unwrap();
    symlink("a-file", scratch.path("to-file")).unwrap();
    for source in ["missing", "a-file", "a-file/below", "dangling", "to-file", "/dev/null"] {
        let run = refused(&scratch, &[source, "replica"]);
        assert!(run.stderr.contains(source), "{run}");
        refused(&scratch, &["--once", source, "replica", "60", "log"]);
    }
}

#[test]
fn a_replica_that_is_no_directory_is_refused() {
    let scratch = scratch();
    symlink("a-file", scratch.path("to-file")).unwrap();
    for replica in ["a-file", "a-file/below", "to-file", "/dev/null"] {
        let run = refused(&scratch, &["source", replica]);
        assert!(run.stderr.contains(replica), "{run}");
    }
}

#[test]
fn a_symlink_that_leads_to_nothing_is_called_so() {
    let scratch = scratch();
    symlink("nowhere", scratch.path("dangling")).unwrap();
    refused(&scratch, &["--once", "source", "dangling"])
        .stderr_has("a symlink that leads to nothing");
    refused(&scratch, &["--once", "dangling", "replica"])
        .stderr_has("a symlink that leads to nothing");
    refused(&scratch, &["--once", "source", "dangling/below"])
        .stderr_has("a symlink above it leads to nothing");
}

#[test]
fn a_log_that_leads_to_what_is_open_is_refused_also_where_that_is_a_file() {
    let scratch = scratch();
    symlink("/dev/stderr", scratch.path("mine")).unwrap();
    for log in ["/dev/stdout", "/dev/fd/2", "/proc/self/fd/1", "mine"] {
        let out = File::create(scratch.path("out")).unwrap();
        let mut command = scratch.command(["--once", "source", "replica", "-l", log]);
        let code = command.stdout(out.try_clone().unwrap()).stderr(out).status().unwrap().code();
        let said = fs::read_to_string(scratch.path("out")).unwrap();
        assert!(code == Some(2) && said.contains("name a file by its own path"), "{log}: {said}");
    }
}

#[test]
fn symlinks_in_a_circle_are_called_so() {
    let scratch = scratch();
    symlink("circle", scratch.path("circle")).unwrap();
    for arguments in [
        ["--once", "source", "circle"],
        ["--once", "circle", "replica"],
        ["--check", "source", "circle"],
    ] {
        refused(&scratch, &arguments)
            .stderr_has("symlinks lead in a circle there: name the directory itself");
    }
}

#[test]
fn a_log_that_is_no_file_is_called_what_it_is() {
    let scratch = scratch();
    rustix::fs::mkfifoat(rustix::fs::CWD, scratch.path("fifo"), rustix::fs::Mode::RWXU).unwrap();
    for (log, what) in [
        ("/dev/stdout", "is the console or another open file"),
        ("fifo", "a pipe"),
        ("/dev/null", "a device"),
        ("source", "a directory"),
    ] {
        refused(&scratch, &["--once", "source", "replica", "-l", log]).stderr_has(what);
    }
}

#[test]
fn a_place_on_another_machine_is_refused() {
    let scratch = scratch();
    for place in [
        "user@host:/data",
        "host:dir",
        "host:",
        "sftp://host/x",
        "s3://bucket/p",
        "ssh://h",
        "rsync://h/m",
    ] {
        for mode in ["--once", "--check", "--dry-run"] {
            let run = refused(&scratch, &[mode, "source", place]).stderr_has("mount it");
            assert!(run.stderr.contains(&format!("write ./{place}")), "{run}");
            refused(&scratch, &[mode, place, "replica"]).stderr_has(&format!("write ./{place}"));
        }
        refused(&scratch, &["--once", "source", "replica", "--backup-dir", place])
            .stderr_has("mount it");
    }
    for log in ["https://host/log", "user@host:/log"] {
        refused(&scratch, &["--once", "source", "replica", "60", log])
            .stderr_has(&format!("write ./{log}"));
    }
    refused(&scratch, &["--once", "source", "file:///data"])
        .stderr_has("is a URL: give the path itself");
    // Who means it says so; and a source that is there is meant, as is a log with a time in its
    // name.
    scratch.run(["--once", "source", "./host:dir", "60", "log-12:30"]).expect(0);
    scratch.run(["--once", "host:dir", "replica"]).expect(0);
    scratch.assert_twins();
    refused(&scratch, &["--once", "source", "host:dir"]).stderr_has("write ./host:dir");
    for local in ["a/b:c", "../a:b", ":a"] {
        scratch.run(["--dry-run", "source", local]).expect(0);
    }
}

#[test]
fn no_create_refuses_a_missing_replica_and_takes_one_that_is_there() {
    let scratch = scratch();
    refused(&scratch, &["--no-create", "source", "replica"]);
    refused(&scratch, &["--no-create", "--once", "source", "a/b"]);
    fs::create_dir(scratch.replica()).unwrap();
    scratch.once(&["--no-create"]).expect(0);
    scratch.assert_twins();
}

#[test]
fn the_same_directory_is_refused_by_any_spelling() {
    let scratch = scratch();
    symlink("source", scratch.path("link")).unwrap();
    symlink("link", scratch.path("link-to-link")).unwrap();
    symlink(".", scratch.path("here")).unwrap();
    let absolute = scratch.source();
    for other in [
        "source",
        "source/",
        "./source",
        "source/.",
        "source//",
        "source/sub/..",
        "source/../source",
        "link",
        "link/",
        "link-to-link",
        "here/source",
        "here/here/link",
        absolute.to_str().unwrap(),
    ] {
        refused(&scratch, &["source", other]);
        refused(&scratch, &[other, "source"]);
        refused(&scratch, &["--once", other, other]);
    }
}

#[test]
fn one_root_inside_the_other_is_refused() {
    let scratch = scratch();
    symlink("source/sub", scratch.path("link")).unwrap();
    symlink("source", scratch.path("up")).unwrap();
    for inner in [
        "source/sub",
        "source/sub/",
        "link",
        "up/sub",
        "./source/../source/sub",
        // Not there yet: it would be made inside.
        "source/missing",
        "source/missing/deeper",
        "link/missing",
    ] {
        refused(&scratch, &["source", inner]);
    }
    for inner in ["source/sub", "link", "up/sub/."] {
        refused(&scratch, &[inner, "source"]);
        refused(&scratch, &[inner, "."]);
    }
}

#[test]
fn a_root_whose_name_begins_like_the_other_is_not_inside_it() {
    let scratch = scratch();
    let run = scratch.run(["--once", "source", "source-replica"]).expect(0);
    crate::support::assert_twins(&scratch.source(), &scratch.path("source-replica"));
    assert!(run.stderr.is_empty(), "{run}");
}

#[test]
fn a_log_inside_the_replica_is_refused() {
    let scratch = scratch().with_replica(&Tree::new().file("sub/file", "text"));
    symlink("replica/sub", scratch.path("link")).unwrap();
    for log in [
        "replica/log",
        "./replica/log",
        "replica/missing/log",
        "replica/sub/file",
        "link/log",
        "source/../replica/log",
    ] {
        refused(&scratch, &["source", "replica", "60", log]);
        refused(&scratch, &["--once", "-l", log, "source", "replica"]);
        refused(&scratch, &["--log-file", log, "source", "replica/"]);
    }
    // And in one that is still to be made.
    refused(&scratch, &["source", "other", "60", "other/log"]);
    refused(&scratch, &["source", "x/y", "60", "x/y/logs/log"]);
}

#[test]
fn a_backup_inside_a_root_is_refused() {
    let scratch = scratch();
    scratch.once(&[]).expect(0);
    symlink("source/sub", scratch.path("way")).unwrap();
    for dir in [
        "source",
        "source/sub",
        "source/new/dir",
        "replica",
        "replica/new",
        "way",
        "way/new",
        "./source/../source",
    ] {
        for mode in ["--once", "--check", "--dry-run"] {
            let run = refused(&scratch, &[mode, "source", "replica", "--backup-dir", dir]);
            assert!(run.stderr.contains("backup folder"), "{run}");
        }
    }
    // Also in a replica that does not exist yet.
    refused(&scratch, &["--once", "source", "elsewhere", "--backup-dir", "elsewhere/backup"]);
    refused(&scratch, &["--once", "source", "replica", "--backup-dir", "a-file"]);
    refused(&scratch, &["--once", "source", "replica", "--backup-keep", "30d"]);
    for keep in ["-1d", "soon", ""] {
        refused(
            &scratch,
            &["--once", "source", "replica", "--backup-dir", "backup", "--backup-keep", keep],
        );
    }
}

#[test]
fn a_log_that_cannot_be_written_is_refused() {
    let scratch = scratch();
    fs::create_dir(scratch.path("a-dir")).unwrap();
    symlink("a-dir", scratch.path("to-dir")).unwrap();
    for log in ["a-dir", "a-dir/", "to-dir", "a-file/log", "missing/"] {
        let run = refused(&scratch, &["--once", "source", "replica", "60", log]);
        assert!(run.stderr.contains(log.trim_end_matches('/')), "{run}");
    }
}

#[test]
fn a_log_that_an_ordinary_user_may_not_write_is_refused() {
    let scratch = Scratch::ordinary().with_source(&Tree::new().file("f", "text"));
    fs::create_dir(scratch.path("closed")).unwrap();
    fs::write(scratch.path("read-only"), "kept").unwrap();
    for name in ["closed", "read-only"] {
        scratch.own(&scratch.path(name));
        crate::support::set_mode(&scratch.path(name), 0o400);
    }
    crate::support::set_mode(&scratch.path("closed"), 0o555);
    for log in ["closed/log", "read-only"] {
        refused(&scratch, &["--once", "source", "replica", "60", log]);
    }
}

#[test]
fn the_order_of_another_script_is_answered_with_the_right_one() {
    let right = ["src", "dst", "60", "log.txt"];
    for log_exists in [false, true] {
        for source_exists in [true, false] {
            let scratch = Scratch::new();
            if log_exists {
                fs::write(scratch.path("log.txt"), "kept").unwrap();
            }
            if source_exists {
                Tree::new().file("f", "x").make(&scratch.path("src"));
            }
            let run = refused(&scratch, &["log.txt", "src", "dst", "60"]);
            assert!(has_in_order(&run.stderr, &right), "{run}");
        }
    }
}

#[test]
fn a_second_twindir_on_the_same_replica_is_refused_with_the_pid_of_the_first() {
    let scratch = scratch();
    symlink("replica", scratch.path("link")).unwrap();
    Tree::new().file("other", "x").make(&scratch.path("other"));
    let mut first = scratch.daemon("3600");
    first.wait_settled(1);
    let pid = first.pid().to_string();
    for arguments in [
        ["source", "replica", "60"].as_slice(),
        &["source", "./replica/", "60"],
        &["other", "link", "60"],
        &["--once", "source", "replica"],
        &["--once", "other", "replica", "60", "log"],
    ] {
        let run = refused(&scratch, arguments);
        let mut numbers = run.stderr.split(|c: char| !c.is_ascii_digit());
        assert!(numbers.any(|number| number == pid), "no {pid}: {run}");
    }
    assert!(first.is_running());
    scratch.assert_twins();

    // Another replica of the same source is nobody's business.
    scratch.run(["--once", "source", "third"]).expect(0);
    // And a killed one locks nobody out.
    drop(first);
    scratch.sync();
}

/// Runs `mounts`, then twindir with these arguments, in a mount namespace of its own, which ends
/// with it.
fn in_namespace(scratch: &Scratch, mounts: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    scratch.prepare(&mut command);
    let script = format!("set -e; {mounts}; exec \"$0\" \"$@\"");
    command.args(["-m", "sh", "-c", &script]).arg(scratch.program()).args(arguments);
    command
}

fn may_mount() -> bool {
    let probe = Command::new("unshare").args(["-m", "true"]).output();
    let may = is_root() && probe.is_ok_and(|output| output.status.success());
    if !may {
        skip("bind mounts need root and a mount namespace of their own");
    }
    may
}

#[test]
fn the_same_directory_through_a_bind_mount_is_refused() {
    if !may_mount() {
        return;
    }
    let scratch = scratch().with_replica(&Tree::new());
    let bind = "mount --bind source replica";
    for pair in [["source", "replica"], ["replica", "source"]] {
        refused_command(&scratch, in_namespace(&scratch, bind, &pair));
    }
}

#[test]
fn one_root_inside_the_other_through_a_bind_mount_is_refused() {
    if !may_mount() {
        return;
    }
    let scratch = scratch().with_replica(&Tree::new());
    for (bind, pair) in [
        // The replica is a directory of the source.
        ("mount --bind source/sub replica", ["source", "replica"]),
        ("mount --bind source/sub replica", ["replica", "source"]),
        // It is made below such a mount.
        ("mount --bind source replica", ["source", "replica/sub"]),
        ("mount --bind source replica", ["source", "replica/new"]),
    ] {
        refused_command(&scratch, in_namespace(&scratch, bind, &pair));
    }
}

#[test]
fn a_wrong_pattern_is_named_with_its_place_and_without_its_escape_sequences() {
    let scratch = scratch();
    fs::write(scratch.path("patterns"), "fine\n\x1b]0;title\x07[\n").unwrap();
    let run = refused(&scratch, &["--exclude-from", "patterns", "source", "replica"]);
    assert!(run.stderr.contains("in line 2 of patterns"), "{run}");
    let run = refused(&scratch, &["--exclude", "\x1b[31m[", "source", "replica"]);
    assert!(run.stderr.contains("in --exclude"), "{run}");
    assert!(!run.stderr.contains('\x1b'), "{run}");
}

#[test]
fn a_number_of_threads_is_one_or_more() {
    for threads in ["0", "x", "-1"] {
        refused(&scratch(), &["--threads", threads, "source", "replica"])
            .stderr_has("give 1 or more");
    }
}
