//! Shell scripts that mount and unmount under a daemon, in a mount namespace of their own. By root.

use std::process::Command;

use super::{Daemon, Run, Scratch, is_root, skip};

/// What the scripts share. A daemon's output is in `out` and `err`.
const PRELUDE: &str = r#"
    until_true() {
        tries=0
        until eval "$1"; do
            tries=$((tries + 1))
            [ $tries -lt 200 ] || { echo "waited in vain: $1"; cat out err; exit 98; }
            sleep 0.1
        done
    }
    # Options, the interval last.
    start() {
        "$TWINDIR" source replica "$@" >out 2>err &
        pid=$!
        trap 'kill $pid' EXIT
    }
    start_settled() {
        start "$@"
        until_true '[ $(count synced out) -ge 1 ]'
    }
    # Makes a loop device of an image: `$loop`. Another script may take the free one first.
    attach() {
        tries=0
        until loop=$(losetup -f --show $1 2>losetup.log); do
            tries=$((tries + 1))
            [ $tries -lt 50 ] || { echo "lacking: loop devices" >&2; exit; }
            sleep 0.1
        done
    }
    # Longer than another directory has to stand at the path of a root until it is one.
    holds() {
        for time in $(seq 30); do
            eval "$1" || { echo "no longer true: $1"; cat out err; exit 98; }
            sleep 0.1
        done
    }
    count() { grep -c "$1" "$2" || true; }
    # After two sweeps more, one of them began after the call.
    sweeps() {
        goal=$(($(count ' sweep    full, ' out) + $1))
        until_true '[ $(count " sweep    full, " out) -ge $goal ]'
    }
    # A sweep may be under way, and then it has something open: at rest it has not.
    unmount() { until_true "umount $1 2>umount.log"; }
    # Once nothing is open in the trees any more, nothing is until the next sweep.
    rest() { until_true '! readlink /proc/$pid/fd/* | grep -q "^$PWD/[sr]"'; }
    # What lies in a tree, in one line, but for what is being removed.
    list() { echo "$1: $(cd "$2"; find . -mindepth 1 -name '.twindir.*.tmp' -prune -o -mindepth 1 -print | sort | tr '\n' ' ')"; }
    stop() {
        trap - EXIT
        kill $pid
        code=0
        wait $pid || code=$?
        echo "code: $code"
        cat err >&2
    }
"#;

/// Runs a test for a daemon that sweeps only, and beside it for one that watches too. It is told
/// the option.
pub fn each_way(test: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        scope.spawn(|| test("--interval-only"));
        test("");
    });
}

/// Runs a script [each way](each_way), in a folder of its own, and checks what has come of it.
pub fn script_each_way(make: impl Fn() -> Scratch + Sync, text: &str, check: impl Fn(&Run) + Sync) {
    each_way(|how| {
        let scratch = make();
        if let Some(run) = script(&scratch, how, text) {
            check(&run);
        }
    });
}

/// Runs a script, in which `$HOW` is what it says; `None`, and a line that says why, where that
/// cannot be done here, or where the script has said what is lacking.
#[track_caller]
pub fn script(scratch: &Scratch, how: &str, script: &str) -> Option<Run> {
    let probe = Command::new("unshare").args(["-m", "true"]).output();
    if !is_root() || !probe.is_ok_and(|output| output.status.success()) {
        skip("mounts need root and a mount namespace");
        return None;
    }
    let mut command = Command::new("unshare");
    scratch.prepare(&mut command);
    command
        .args(["-m", "sh", "-ec", &format!("{PRELUDE}{script}")])
        .env("TWINDIR", scratch.program())
        .env("HOW", how);
    let run = Daemon::run(command).expect(0);
    if run.stderr.contains("lacking: ") {
        skip(&run.stderr);
        return None;
    }
    Some(run)
}

/// The script has printed exactly these lines.
#[track_caller]
pub fn assert_said(run: &Run, lines: &[&str]) {
    let said: Vec<_> = run.stdout.lines().map(str::trim_end).collect();
    assert_eq!(said, lines, "{run}");
}

/// The lines of stderr that hold a text.
pub fn lines<'a>(run: &'a Run, text: &str) -> Vec<&'a str> {
    run.stderr.lines().filter(|line| line.contains(text)).collect()
}
