//! The log file and the console.

use std::fs::{self, File};
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{
    DEADLINE, Daemon, EXIT_LIMIT, Live, LogLine, Run, Scratch, Tree, set_mode, set_mtime,
    wait_until,
};
use rustix::process::Signal;

/// `--once` with a log, which must end well.
#[track_caller]
fn logged(scratch: &Scratch) -> (Run, Vec<LogLine>) {
    let before = fs::read_to_string(scratch.log()).unwrap_or_default();
    let run = scratch.once(&["60", "log"]).expect(0);
    let log = fs::read_to_string(scratch.log()).expect("valid UTF-8");
    assert!(log.ends_with('\n'), "the last line is not whole");
    let new = log.strip_prefix(&before).expect("appended to what was there");
    (run, LogLine::parse_all(new))
}

/// The one line about this path.
#[track_caller]
fn only<'a>(lines: &'a [LogLine], path: &str) -> &'a LogLine {
    let found: Vec<_> =
        lines.iter().filter(|line| line.is_action() && line.get("path") == path).collect();
    assert_eq!(found.len(), 1, "lines about {path}: {found:?}\nof {lines:?}");
    found[0]
}

#[track_caller]
fn assert_action(lines: &[LogLine], path: &str, operation: &str, reason: &str) {
    let line = only(lines, path);
    let found = (line.level.as_str(), line.operation.as_str(), line.get("reason"));
    assert_eq!(found, ("INFO", operation, reason), "{line:?}");
    assert_eq!(line.get("detector"), "sweep", "{line:?}");
    line.get("lag").parse::<f64>().expect("a lag in seconds");
}

#[test]
fn every_entry_created_is_a_line_with_its_fields() {
    let tree = Tree::new()
        .file("docs/guide.md", [b'x'; 12_300])
        .file("docs/empty", "")
        .symlink("docs/link", "guide.md")
        .dir("a dir/with space");
    let scratch = Scratch::new().with_source(&tree);
    let (run, lines) = logged(&scratch);
    for path in ["docs", "docs/guide.md", "docs/empty", "docs/link", "a dir", "a dir/with space"] {
        assert_action(&lines, path, "created", "new");
    }
    assert_eq!(only(&lines, "docs/guide.md").get("bytes"), "12300");
    assert_eq!(only(&lines, "docs/empty").get("bytes"), "0");
    let log = fs::read_to_string(scratch.log()).unwrap();
    assert!(log.contains(" path=\"docs/guide.md\""), "always quoted\n{log}");
    let sweeps = lines.iter().filter(|line| line.operation == "sweep");
    assert_eq!(sweeps.count(), 1, "{run}");
}

#[test]
fn the_reason_of_each_change_is_said() {
    let mut tree = Tree::new();
    for name in ["size", "md5", "mode", "mtime", "kind", "gone"] {
        tree = tree.file(format!("sub/{name}"), "before");
    }
    let scratch = Scratch::new().with_source(&tree);
    logged(&scratch);
    let at = |name: &str| scratch.source().join("sub").join(name);
    fs::write(at("size"), "longer than before").unwrap();
    fs::write(at("md5"), "BEFORE").unwrap();
    set_mode(&at("mode"), 0o600);
    set_mtime(&at("mtime"), 7, 7);
    fs::remove_file(at("kind")).unwrap();
    fs::create_dir(at("kind")).unwrap();
    fs::remove_file(at("gone")).unwrap();

    let (_, lines) = logged(&scratch);
    assert_action(&lines, "sub/size", "updated", "size");
    assert_action(&lines, "sub/md5", "updated", "md5");
    assert_action(&lines, "sub/mode", "updated", "metadata");
    assert_action(&lines, "sub/mtime", "updated", "metadata");
    assert_action(&lines, "sub/gone", "removed", "removed");
    assert_eq!(only(&lines, "sub/kind").get("reason"), "kind");
}

#[test]
fn a_directorys_mtime_alone_is_not_an_action() {
    let scratch = Scratch::new().with_source(&Tree::new().file("sub/file", "text"));
    logged(&scratch);
    fs::write(scratch.source().join("sub/new"), "new").unwrap();
    let (run, lines) = logged(&scratch);
    let actions = lines.iter().filter(|line| line.is_action()).count();
    assert_eq!((actions, run.actions().len()), (1, 1), "{run}\n{lines:?}");
    assert_action(&lines, "sub/new", "created", "new");
}

#[test]
fn a_run_that_finds_nothing_logs_only_its_sweep() {
    let scratch = Scratch::new().with_source(&Tree::new().files("sub", 5));
    logged(&scratch);
    let (run, lines) = logged(&scratch);
    assert!(run.actions().is_empty(), "{run}");
    assert!(!lines.iter().any(LogLine::is_action), "{lines:?}");
    assert!(lines.iter().any(|line| line.operation == "sweep"));
    assert!(run.stdout.contains("in sync as of "), "{run}");
}

#[test]
fn a_removed_directory_is_one_line_with_the_number_of_its_entries() {
    let tree = Tree::new().files("keep", 3).files("tree", 10).files("tree/sub", 10);
    let scratch = Scratch::new().with_source(&tree);
    logged(&scratch);
    fs::remove_dir_all(scratch.source().join("tree")).unwrap();
    let (run, lines) = logged(&scratch);
    assert_action(&lines, "tree", "removed", "removed");
    assert_eq!(lines.iter().filter(|line| line.is_action()).count(), 1);
    assert_eq!(run.actions().len(), 1, "{run}");
    // With or without itself: 21 lie within.
    let entries = only(&lines, "tree").get("entries");
    assert!(["21", "22"].contains(&entries), "{entries}");
}

#[test]
fn the_console_says_time_action_path_and_reason() {
    let scratch = Scratch::new().with_source(&Tree::new().file("docs/guide.md", [b'x'; 12_300]));
    let run = scratch.sync();
    let line =
        run.actions().into_iter().find(|line| line.contains("docs/guide.md")).expect("a line");
    let (time, rest) = line.split_at(8);
    let shape = time.replace(|c: char| c.is_ascii_digit(), "0");
    assert_eq!(shape, "00:00:00", "{line}");
    assert!(rest.starts_with(" created"), "{line}");
    assert!(line.ends_with("docs/guide.md (new, 12.3 kB)"), "{line}");
    assert!(!run.stdout.contains('\x1b'), "colour, but no terminal\n{run}");
    assert!(run.stdout.lines().any(|line| line.contains("sweep")), "{run}");
    assert!(run.stderr.is_empty(), "{run}");
}

#[test]
fn quiet_says_no_actions_but_logs_them() {
    let scratch = Scratch::new().with_source(&Tree::new().file("file", "text").fifo("a-fifo"));
    let run = scratch.once(&["-q", "60", "log"]).expect(0);
    assert!(run.actions().is_empty(), "{run}");
    let lines = LogLine::parse_all(&fs::read_to_string(scratch.log()).unwrap());
    assert_action(&lines, "file", "created", "new");
}

#[test]
fn names_are_escaped_so_that_a_line_is_a_line() {
    let names: [(&[u8], &str); 6] = [
        (b"line\nbreak", "line\\nbreak"),
        (b"not utf-8 \xff", "not utf-8 \\xff"),
        (b"forged\n2026-01-01T00:00:00.000Z INFO removed", "forged\\n2026"),
        (b"\x1b[31mred", "[31mred"),
        (b"return\rhere", "return\\rhere"),
        ("zażółć 🦀".as_bytes(), "zażółć 🦀"),
    ];
    let mut tree = Tree::new();
    for (name, _) in &names {
        tree = tree.file(name, "text");
    }
    let scratch = Scratch::new().with_source(&tree.file("quote\" path=\"x", "text"));
    let (run, lines) = logged(&scratch);
    let created = lines.iter().filter(|line| line.operation == "created");
    assert_eq!(created.count(), names.len() + 1);
    assert_eq!(run.actions().len(), names.len() + 1, "{run}");
    let log = fs::read_to_string(scratch.log()).unwrap();
    for text in [&log, &run.stdout] {
        for (_, escaped) in &names {
            assert!(text.contains(escaped), "no {escaped} in\n{text}");
        }
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(control), "{text:?}");
    }
    assert!(!log.contains('\u{fffd}'), "a name was made up\n{log}");
}

#[test]
fn a_log_that_exists_is_appended_to() {
    let scratch = Scratch::new().with_source(&Tree::new().file("file", "text"));
    fs::write(scratch.log(), "somebody's first line\n").unwrap();
    set_mode(&scratch.log(), 0o640);
    logged(&scratch);
    let log = fs::read_to_string(scratch.log()).unwrap();
    assert!(log.starts_with("somebody's first line\n"), "{log}");
    assert!(log.lines().count() >= 3, "{log}");
    assert!(!scratch.path("log.1").exists());
}

/// So many files with names of 250 bytes that their lines are more than half a megabyte.
fn many_long_names() -> Tree {
    let mut tree = Tree::new();
    for number in 0..2500 {
        tree = tree.file(format!("{number:0>250}"), "");
    }
    tree
}

/// Something that looks like a log of `size` bytes.
fn old_log(mark: &str, size: usize) -> String {
    let mut text = String::new();
    while text.len() < size {
        text += "2026-01-01T00:00:00.000+00:00 INFO created path=\"";
        text += mark;
        text += "\"\n";
    }
    text
}

#[test]
fn nothing_is_lost_at_the_end_of_a_run() {
    let scratch = Scratch::new().with_source(&many_long_names());
    let (run, lines) = logged(&scratch);
    let created = lines.iter().filter(|line| line.operation == "created");
    assert_eq!(created.count(), 2500);
    assert_eq!(run.actions().len(), 2500);
}

#[test]
fn a_full_log_is_rotated_and_no_other_file_is_touched() {
    let scratch = Scratch::new().with_source(&many_long_names());
    // Short of ten million bytes; the run takes it past ten times 2^20.
    let old = old_log("before", 9_990_000);
    fs::write(scratch.log(), &old).unwrap();
    let neighbours =
        ["log.old", "log.99", "log.1.gz", "log.01", "log.1x", "logs", "log.-1", "a.log.1"];
    for name in neighbours {
        fs::write(scratch.path(name), name).unwrap();
    }
    fs::write(scratch.path("log.1"), "was one").unwrap();
    fs::write(scratch.path("log.2"), "was two").unwrap();
    scratch.once(&["60", "log"]).expect(0);

    let read = |name: &str| fs::read_to_string(scratch.path(name)).unwrap();
    let (full, newest) = (read("log.1"), read("log"));
    assert!(full.starts_with(&old), "log.1 is not what was the log");
    assert!(full.len() < 10 * (1 << 20) + 2000, "{} bytes", full.len());
    assert!(full.ends_with('\n'), "a line was cut in two");
    assert_eq!(read("log.2"), "was one");
    assert_eq!(read("log.3"), "was two");
    for name in neighbours {
        assert_eq!(read(name), name);
    }
    let new = full[old.len()..].to_owned() + &newest;
    let lines = LogLine::parse_all(&new);
    let created = lines.iter().filter(|line| line.operation == "created");
    assert_eq!(created.count(), 2500, "a line was lost on the way");
}

#[test]
fn old_logs_are_kept_to_a_number() {
    let scratch = Scratch::new().with_source(&many_long_names());
    fs::write(scratch.log(), old_log("before", 9_990_000)).unwrap();
    for number in 1..=10 {
        fs::write(scratch.path(format!("log.{number}")), format!("{number}")).unwrap();
    }
    scratch.once(&["60", "log"]).expect(0);
    assert!(!scratch.path("log.11").exists(), "one more than are kept");
    for number in 2..=9 {
        let text = fs::read_to_string(scratch.path(format!("log.{number}"))).unwrap();
        assert_eq!(text, format!("{}", number - 1));
    }
}

#[test]
fn a_console_that_is_closed_does_not_stop_the_mirroring() {
    let scratch = Scratch::new().with_source(&many_long_names());
    for arguments in [
        ["--once", "source", "replica", "60", "log"].as_slice(),
        &["--interval-only", "source", "replica", "0.1", "log"],
        &["source", "replica", "3600", "log"],
    ] {
        let _ = fs::remove_dir_all(scratch.replica());
        let _ = fs::remove_file(scratch.source().join("later"));
        let mut command = scratch.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut daemon = Daemon::spawn_as_is(command);
        drop(daemon.child().stdout.take());
        drop(daemon.child().stderr.take());
        if arguments[0] == "--once" {
            daemon.wait(DEADLINE).expect(0);
            scratch.assert_twins();
            continue;
        }
        wait_entries(&scratch, 2500);
        fs::write(scratch.source().join("later"), "text").unwrap();
        wait_entries(&scratch, 2501);
        daemon.signal(Signal::TERM);
        daemon.wait(EXIT_LIMIT).expect(0);
    }
}

#[test]
fn a_console_that_blocks_does_not_stop_the_mirroring_nor_the_end() {
    let scratch = Scratch::new().with_source(&many_long_names());
    let mut command = scratch.command(["--interval-only", "source", "replica", "0.1", "log"]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut daemon = Daemon::spawn_as_is(command);
    // More than the pipe takes; nobody reads.
    let mut unread = daemon.child().stdout.take();
    wait_entries(&scratch, 2500);
    fs::write(scratch.source().join("later"), "text").unwrap();
    wait_entries(&scratch, 2501);
    daemon.signal(Signal::TERM);
    daemon.wait(EXIT_LIMIT + Duration::from_secs(1)).expect(0);
    let mut text = Vec::new();
    unread.as_mut().unwrap().read_to_end(&mut text).unwrap();
    assert!(!text.is_empty());
    scratch.assert_twins();
}

#[track_caller]
fn wait_entries(scratch: &Scratch, count: usize) {
    wait_until("all is copied", DEADLINE, || {
        let entries = fs::read_dir(scratch.replica()).into_iter().flatten().flatten();
        entries.filter(|entry| !crate::support::is_temporary_name(&entry.file_name())).count()
            == count
    });
}

#[test]
fn a_console_on_a_full_disk_does_not_stop_the_mirroring() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        return crate::support::skip("there is no /dev/full");
    };
    let scratch = Scratch::new().with_source(&Tree::new().files("sub", 50));
    let mut command = scratch.command(["--once", "source", "replica"]);
    command.stdout(full);
    Daemon::spawn_as_is(command).wait(DEADLINE).expect(0);
    scratch.assert_twins();
}

#[test]
fn a_daemon_logs_on_after_its_folder_was_renamed_away() {
    let scratch = Scratch::new().with_source(&Tree::new().file("one", "text"));
    let daemon = Daemon::spawn(scratch.command(["source", "replica", "0.1", "logs/log"]));
    daemon.wait_settled(1);
    fs::rename(scratch.path("logs"), scratch.path("away")).unwrap();
    fs::write(scratch.source().join("two"), "text").unwrap();
    daemon.wait_settled(2);
    scratch.assert_twins();
}

#[test]
fn a_log_that_somebody_replaces_by_a_symlink_is_not_written_through_it() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "text"));
    let daemon = scratch.watcher(&[]);
    let other = scratch.path("other");
    fs::write(&other, "of no concern").unwrap();
    fs::remove_file(scratch.log()).unwrap();
    std::os::unix::fs::symlink(&other, scratch.log()).unwrap();
    fs::write(scratch.source().join("f"), "changed").unwrap();
    wait_until("it says so", DEADLINE, || daemon.stderr().contains("cannot write the log"));
    scratch.wait_twins();
    assert_eq!(fs::read(&other).unwrap(), b"of no concern");
    fs::remove_file(scratch.log()).unwrap();
    fs::write(scratch.source().join("f"), "changed again").unwrap();
    wait_until("it is begun anew", DEADLINE, || scratch.log().exists());
}

#[test]
fn the_log_has_no_line_in_sync_for_each_save() {
    let live = Live::of(&Tree::new().file("f", "text"));
    let in_log = || live.lines().iter().filter(|line| line.operation == "synced").count();
    wait_until("the first sync is in the log", DEADLINE, || in_log() == 1);
    for number in 0..3 {
        let before = live.daemon.settled();
        let changed = live.actions_of(|| fs::write(live.at("f"), number.to_string()).unwrap());
        assert!(!changed.is_empty());
        live.daemon.wait_settled(before + 1);
    }
    assert_eq!(in_log(), 1, "{:?}", live.lines());
}
