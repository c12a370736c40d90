//! Hooks, settings from a file, and what is generated.

use std::fs;
use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use crate::support::{DEADLINE, Daemon, EXIT_LIMIT, Scratch, Tree, is_root, set_mode, wait_until};

#[test]
fn a_hook_runs_after_changes_and_gets_their_paths() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let out = scratch.path("out");
    let hook = format!(
        "tr '\\0' '\\n' >> '{0}'; echo \"$TWINDIR_CREATED $TWINDIR_REMOVED $TWINDIR_REPLICA\" >> '{0}'; exit 3",
        out.display()
    );
    let daemon = scratch.watcher(&["--on-sync", &hook]);
    let said = || fs::read_to_string(&out).unwrap_or_default();
    wait_until("it ran after the first copy", DEADLINE, || said().contains("f\n1 0 /"));
    for name in ["a b", "c"] {
        fs::write(scratch.source().join(name), "x").unwrap();
    }
    wait_until("it ran again", DEADLINE, || said().contains("a b\n") && said().contains("c\n"));
    wait_until("its failure is a line", DEADLINE, || {
        daemon.stderr().contains("--on-sync failed, exit status: 3")
    });
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(EXIT_LIMIT).code, Some(0));
}

#[test]
fn a_single_run_waits_for_its_hook() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let ran = scratch.path("ran");
    let hook = format!("sleep 0.3; touch '{}'", ran.display());
    scratch.run(["--once", "source", "replica", "--on-sync", &hook]).expect(0);
    assert!(ran.exists());
}

#[test]
fn a_problem_is_told_when_it_begins_and_when_it_ends() {
    let scratch = if is_root() { Scratch::ordinary() } else { Scratch::new() }
        .with_source(&Tree::new().file("f", "x"));
    let out = scratch.path("out");
    scratch.own(scratch.root());
    let hook = format!(
        "echo \"$TWINDIR_EVENT $TWINDIR_KIND $TWINDIR_PROBLEMS $TWINDIR_TEXT\" >> '{}'",
        out.display()
    );
    let _daemon = scratch.watcher(&["--on-problem", &hook]);
    let said = || fs::read_to_string(&out).unwrap_or_default();
    set_mode(&scratch.source().join("f"), 0o000);
    fs::write(scratch.source().join("g"), "y").unwrap();
    wait_until("it is told", DEADLINE, || said().contains("begin problem 1 f: "));
    set_mode(&scratch.source().join("f"), 0o600);
    wait_until("its end is told", DEADLINE, || said().contains("end problem 0"));
}

#[test]
fn a_hook_that_never_ends_stops_nothing() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let daemon = scratch.watcher(&["--on-sync", "sleep 1000"]);
    for number in 0..3 {
        fs::write(scratch.source().join("f"), number.to_string()).unwrap();
        scratch.wait_twins();
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(EXIT_LIMIT).code, Some(0));
}

#[test]
fn settings_come_from_a_file_and_the_command_line_wins() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x").file("o.o", "x"));
    fs::write(
        scratch.path("twindir.toml"),
        "source = \"source\"\nreplica = \"replica\"\ninterval = \"1h\"\nexclude = [\"*.o\"]\nquiet = true\n",
    )
    .unwrap();
    let run = scratch.run(["--config", "twindir.toml", "--once"]).expect(0);
    assert!(run.stdout.is_empty(), "{run}");
    assert!(scratch.replica().join("f").exists() && !scratch.replica().join("o.o").exists());
    let run =
        scratch.run(["--config", "twindir.toml", "--once", "-v", "source", "other"]).expect(0);
    assert!(run.stdout.contains("/other, once"), "{run}");
    // What the file has may be what an option of the command line needs; and both are checked.
    fs::write(
        scratch.path("backup.toml"),
        format!(
            "source = \"source\"\nreplica = \"replica\"\nbackup-dir = \"{}\"\n",
            scratch.path("old").display()
        ),
    )
    .unwrap();
    scratch.run(["--config", "backup.toml", "--once", "--backup-keep", "30d"]).expect(0);
    let run = scratch.run(["--config", "backup.toml", "--once", "--no-such"]).expect(2);
    assert!(run.stderr.contains("--no-such"), "{run}");
    for (text, words) in [
        ("sorce = \"a\"\n", ["line 1, column 1", "sorce"]),
        ("\nthreads = 0\n", ["line 2, column 11", "threads"]),
        ("interval = \"never\"\n", ["line 1, column 12", "interval"]),
        ("source = [\n", ["line", "column"]),
    ] {
        fs::write(scratch.path("wrong.toml"), text).unwrap();
        let run = scratch.run(["--config", "wrong.toml", "--once"]).expect(2);
        assert!(words.iter().all(|word| run.stderr.contains(word)), "{text}: {run}");
    }
    let run = scratch.run(["--config", "none.toml"]).expect(2);
    assert!(run.stderr.contains("none.toml"), "{run}");
    fs::write(scratch.path("empty.toml"), "").unwrap();
    let run = scratch.run(["--config", "empty.toml"]).expect(2);
    assert!(run.stderr.contains("SOURCE and REPLICA"), "{run}");
}

#[test]
fn a_man_page_and_completions_are_generated() {
    let scratch = Scratch::new();
    let made = |kind: &str| scratch.run(["--generate", kind]).expect(0).stdout;
    assert!(made("man").contains(".TH twindir 1"));
    for kind in ["complete-bash", "complete-zsh", "complete-fish"] {
        assert!(made(kind).contains("max-delete"), "{kind}");
    }
}

#[test]
fn options_of_other_tools_are_answered() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    for (option, words) in [
        ("--delete", "deletes from REPLICA"),
        ("-a", "keeps modes"),
        ("-av", "keeps modes"),
        ("-r", "mirrors all"),
        ("--recursive", "mirrors all"),
        ("--archive", "keeps modes"),
        ("--watch", "watches SOURCE"),
    ] {
        let run = scratch.run(["source", "replica", option]).expect(2);
        assert!(run.stderr.contains(words) && run.stderr.contains("leave"), "{option}: {run}");
        assert!(!scratch.replica().exists());
    }
}

#[test]
fn a_service_manager_is_told() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let at = scratch.path("notify");
    let socket = UnixDatagram::bind(&at).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = scratch.command(["source", "replica", "60"]);
    command.env("NOTIFY_SOCKET", &at).env("WATCHDOG_USEC", "900000");
    let daemon = Daemon::spawn(command);
    let mut heard = String::new();
    let mut wait_for = |word: &str| {
        let mut buffer = [0; 4096];
        while !heard.contains(word) {
            let length =
                socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}: {heard}"));
            heard.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
            heard.push('\n');
        }
    };
    wait_for("READY=1");
    wait_for("STATUS=in sync since");
    wait_for("WATCHDOG=1");
    daemon.signal(Signal::TERM);
    wait_for("STOPPING=1");
    assert_eq!(daemon.wait(EXIT_LIMIT).code, Some(0));
}

#[test]
fn a_hook_that_leaves_something_in_the_background_runs_again() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let out = scratch.path("out");
    let hook = format!("echo ran >> '{}'; sleep 100 &", out.display());
    let _daemon = scratch.watcher(&["--on-sync", &hook]);
    let runs = || fs::read_to_string(&out).unwrap_or_default().lines().count();
    wait_until("it ran after the first copy", DEADLINE, || runs() == 1);
    fs::write(scratch.source().join("f"), "changed").unwrap();
    wait_until("it ran again", DEADLINE, || runs() == 2);
}
