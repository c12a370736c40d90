//! What people read, word for word: the help, each refusal and each line of the console. The files
//! are in `tests/it/golden/`; `SNAPSHOTS=overwrite cargo test` writes them anew.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use snapbox::Assert;
use snapbox::data::Data;

use crate::support::{Run, Scratch, Tree, set_mode, set_mtime, skip};

#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(name);
    Assert::new().action_env("SNAPSHOTS").eq(text, Data::read_from(&at, None));
}

/// What differs from run to run is named instead.
fn steady(scratch: &Scratch, text: &str) -> String {
    let root = scratch.root().to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_twindir");
    let text = text.replace(root, "[ROOT]").replace(program, "[TWINDIR]");
    let text = text.replace(scratch.program().to_str().unwrap(), "[TWINDIR]");
    let is_time = |word: &str| {
        word.len() == 8
            && word.bytes().enumerate().all(|(at, byte)| match at {
                2 | 5 => byte == b':',
                _ => byte.is_ascii_digit(),
            })
    };
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut words: Vec<&str> = line.split(' ').collect();
        for at in 0..words.len() {
            if is_time(words[at]) {
                words[at] = "[TIME]";
            }
            if words[at].starts_with("20") && words[at].contains('T') {
                words[at] = "[WHEN]";
            }
            // `in 0.01 s`
            if at > 0
                && words[at - 1] == "in"
                && words.get(at + 1).is_some_and(|s| s.starts_with("s:"))
            {
                words[at] = "[TOOK]";
            }
        }
        lines.push(words.join(" "));
    }
    lines.join("\n") + "\n"
}

fn said(scratch: &Scratch, arguments: &[&str], run: &Run) -> String {
    let code = run.code.map_or("a signal".to_owned(), |code| code.to_string());
    // Which of what a run finds is said first is chance.
    let rank = |line: &&str| {
        let word = line.split_whitespace().nth(1).unwrap_or_default();
        ["start", "", "sweep", "synced", "silent", "held"]
            .iter()
            .position(|known| *known == word)
            .unwrap_or(1)
    };
    let mut lines: Vec<&str> = run.stdout.lines().chain(run.stderr.lines()).collect();
    if run.code != Some(2) {
        lines.sort_by_key(|line| (rank(line), *line));
    }
    let text =
        format!("$ twindir {}\n{}\n(exit code {code})\n", arguments.join(" "), lines.join("\n"));
    steady(scratch, &text) + "\n"
}

#[test]
fn the_help_is_as_it_is_here() {
    let scratch = Scratch::new();
    for (flag, name) in [("-h", "short-help.txt"), ("--help", "help.txt")] {
        let mut command = scratch.command([flag]);
        command.env("COLUMNS", "100");
        let help = crate::support::Daemon::run(command).stdout;
        assert_golden(name, &help);
        assert!(flag != "-h" || help.lines().count() <= 60, "it is one screen");
    }
}

#[test]
fn each_refusal_is_as_it_is_here() {
    let scratch = Scratch::new().with_source(&Tree::new().file("sub/file", "text"));
    fs::write(scratch.path("a-file"), "no directory").unwrap();
    fs::create_dir_all(scratch.path("other")).unwrap();
    symlink("nothing", scratch.path("dangling")).unwrap();
    fs::write(scratch.path("wrong.toml"), "source = \"source\"\nintervall = 60\n").unwrap();
    let commands: [&[&str]; 38] = [
        &[],
        &["source"],
        &["missing", "replica"],
        &["a-file", "replica"],
        &["source", "a-file"],
        &["source", "dangling"],
        &["dangling", "replica"],
        &["source", "source"],
        &["source", "source/sub/replica"],
        &["source/sub", "source"],
        &["source", "nowhere/../replica"],
        &["--no-create", "source", "replica"],
        &["source", "replica", "60", "replica/log"],
        &["source", "replica", "soon"],
        &["source", "replica", "0"],
        &["source", "replica", "--debounce", "2h"],
        &["source", "replica", "--max-delete", "many"],
        &["source", "replica", "--threads", "0"],
        &["source", "replica", "--sweep-rate", "fast"],
        &["source", "replica", "--backup-keep", "30d"],
        &["source", "replica", "--backup-dir", "source/backup"],
        &["source", "replica", "--backup-dir", "a-file"],
        &["source", "replica", "--exclude", ""],
        &["source", "replica", "--exclude-from", "missing"],
        &["source", "user@host:/data"],
        &["source", "s3://bucket/prefix"],
        &["source", "file:///tmp/x"],
        &["source", "replica", "--once", "--check"],
        &["source", "replica", "--quick"],
        &["log.txt", "source", "replica", "60"],
        &["source", "replica", "--delete"],
        &["source", "replica", "--include=*.c"],
        &["source", "replica", "--watch"],
        &["source", "replica", "-q9"],
        &["source", "replica", "1", "h"],
        &["--config", "wrong.toml"],
        &["--status", "replica"],
        &["--timeout", "3", "source", "replica"],
    ];
    let mut text = String::new();
    for arguments in commands {
        text += &said(&scratch, arguments, &scratch.run(arguments).expect(2));
        assert!(!scratch.replica().exists(), "{arguments:?}");
    }
    assert_golden("refusals.txt", &text);
}

#[test]
fn each_line_of_the_console_is_as_it_is_here() {
    if !rustix::process::geteuid().is_root() {
        return skip("what modes keep out of differs from user to user");
    }
    let tree =
        Tree::new().file("d/a", "one").file("d/b", "two").symlink("link", "d/a").fifo("pipe");
    let scratch = Scratch::new().with_source(&tree);
    let mut text = String::new();
    let mut run = |arguments: &[&str], code| {
        text += &said(&scratch, arguments, &scratch.run(arguments).expect(code));
    };
    let once = ["--once", "--threads", "1", "source", "replica"];
    run(&["--dry-run", "--threads", "1", "source", "replica"], 0);
    run(&once, 0);
    run(&once, 0);
    fs::write(scratch.source().join("d/a"), "another").unwrap();
    set_mode(&scratch.source().join("d/b"), 0o600);
    fs::remove_file(scratch.source().join("link")).unwrap();
    fs::create_dir(scratch.source().join("link")).unwrap();
    run(&["--check", "--threads", "1", "source", "replica"], 1);
    run(&once, 0);
    // The same size and time, and other contents.
    fs::write(scratch.replica().join("d/a"), "ANOTHER").unwrap();
    set_mtime(&scratch.source().join("d/a"), 1_000_000_000, 0);
    set_mtime(&scratch.replica().join("d/a"), 1_000_000_000, 0);
    run(&once, 0);
    fs::remove_dir_all(scratch.source().join("d")).unwrap();
    fs::remove_dir(scratch.source().join("link")).unwrap();
    run(&once, 1);
    run(&["--once", "--max-delete", "100%", "source", "replica"], 0);
    assert_golden("console.txt", &text);
}
