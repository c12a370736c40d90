//! File systems that are mounted and unmounted in and under the two trees, in a mount namespace of its own. By root.

mod support;

use std::process::Command;

use support::{Daemon, Run, Scratch, Snapshot, Tree, assert_same, is_root, skip};

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
        goal=$(($(count ' sweep ' out) + $1))
        until_true '[ $(count " sweep " out) -ge $goal ]'
    }
    # A sweep may be under way, and then it has something open: at rest it has not.
    unmount() { until_true "umount $1 2>umount.log"; }
    # Once nothing is open in the trees any more, nothing is until the next sweep.
    rest() { until_true '! readlink /proc/$pid/fd/* | grep -q "^$PWD/[sr]"'; }
    # What lies in a tree, in one line.
    list() { echo "$1: $(cd "$2"; find . -mindepth 1 | sort | tr '\n' ' ')"; }
    stop() {
        trap - EXIT
        kill $pid
        code=0
        wait $pid || code=$?
        echo "code: $code"
        cat err >&2
    }
"#;

/// Runs a test for a daemon that sweeps only, and beside it for one that watches too. It is told the option.
fn each_way(test: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        scope.spawn(|| test("--interval-only"));
        test("");
    });
}

/// Runs a script, in which `$HOW` is what it says; `None`, and a line that says why, where that cannot be done here.
#[track_caller]
fn script(scratch: &Scratch, how: &str, script: &str) -> Option<Run> {
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
    Some(Daemon::run(command).expect(0))
}

/// The script has printed exactly these lines.
#[track_caller]
fn assert_said(run: &Run, lines: &[&str]) {
    let said: Vec<_> = run.stdout.lines().map(str::trim_end).collect();
    assert_eq!(said, lines, "{run}");
}

/// The lines of stderr that hold a text.
fn lines<'a>(run: &'a Run, text: &str) -> Vec<&'a str> {
    run.stderr.lines().filter(|line| line.contains(text)).collect()
}

#[test]
fn what_an_unmounted_file_system_held_is_kept_until_it_is_mounted_again() {
    each_way(|how| {
        let scratch = Scratch::new().with_source(&Tree::new().file("a", "a").dir("in"));
        let Some(run) = script(
            &scratch,
            how,
            r"
            mount -t tmpfs none source/in
            mkdir source/in/d
            echo x >source/in/d/x
            echo y >source/in/y
            start $HOW 0.3
            until_true '[ $(count settled out) -ge 1 ]'
            unmount source/in
            until_true '[ $(count kept err) -ge 1 ]'
            sweeps 3
            list unmounted replica
            mount -t tmpfs none source/in
            echo z >source/in/z
            until_true '[ -e replica/in/z ] && [ ! -e replica/in/y ] && [ ! -e replica/in/d ]'
            sweeps 2
            list mounted replica
            stop
            ",
        ) else {
            return;
        };
        assert_said(
            &run,
            &["unmounted: ./a ./in ./in/d ./in/d/x ./in/y", "mounted: ./a ./in ./in/z", "code: 0"],
        );
        let kept = lines(&run, "kept in the replica");
        assert_eq!(kept.len(), 1, "{run}");
        assert!(kept[0].contains(" warning "), "{run}");
    });
}

#[test]
fn nothing_is_written_below_the_mount_point_of_an_unmounted_replica() {
    each_way(|how| {
        let tree = Tree::new().file("a", "a").file("d/b", "b");
        let scratch = Scratch::new().with_source(&tree).with_replica(&Tree::new());
        let Some(run) = script(
            &scratch,
            how,
            r#"
            mount -t tmpfs none replica
            start $HOW 0.3
            until_true '[ $(count settled out) -ge 1 ]'
            list filled replica
            unmount replica
            until_true '[ $(count "is gone" err) -ge 1 ]'
            holds '[ -z "$(ls -A replica)" ]'
            echo "errors: $(count ' replica .* is gone' err)"
            mount -t tmpfs none replica
            until_true '[ -e replica/a ] && [ -e replica/d/b ]'
            sweeps 2
            list again replica
            stop
            "#,
        ) else {
            return;
        };
        assert_said(&run, &["filled: ./a ./d ./d/b", "errors: 1", "again: ./a ./d ./d/b", "code: 0"]);
        assert_eq!(lines(&run, "is gone").len(), 1, "{run}");
        assert_eq!(lines(&run, " problem "), [""; 0], "{run}");
    });
}

#[test]
fn a_directory_with_a_mount_in_it_stays_until_that_is_unmounted() {
    each_way(|how| {
        let scratch = Scratch::new().with_source(&Tree::new().file("a", "a").file("d/b", "b"));
        let Some(run) = script(
            &scratch,
            how,
            r"
            mkdir -p replica/d/m
            mount -t tmpfs none replica/d/m
            echo precious >replica/d/m/precious
            rm -r source/d
            start $HOW 0.3
            until_true '[ $(count problem err) -ge 1 ]'
            sweeps 3
            list mounted replica
            mountpoint -q replica/d/m && cat replica/d/m/precious
            unmount replica/d/m
            until_true '[ ! -e replica/d ]'
            sweeps 2
            list unmounted replica
            stop
            ",
        ) else {
            return;
        };
        let mounted = "mounted: ./a ./d ./d/m ./d/m/precious";
        assert_said(&run, &[mounted, "precious", "unmounted: ./a", "code: 0"]);
        let problems = lines(&run, " problem ");
        assert_eq!(problems.len(), 1, "{run}");
        assert!(problems[0].contains(" d: ") || problems[0].contains(" d/m: "), "{run}");
    });
}

#[test]
fn a_source_in_which_the_replica_is_mounted_does_not_grow_without_end() {
    let tree = Tree::new().file("a", "a").file("in/b", "b").dir("in/again");
    let scratch = Scratch::new().with_source(&tree).with_replica(&Tree::new());
    let Some(run) = script(
        &scratch,
        "",
        r#"
        mount --bind replica source/in/again
        for run in first second; do
            code=0
            timeout 30 "$TWINDIR" --once source replica >out 2>>err || code=$?
            echo "code: $code"
            list $run replica
        done
        echo "nothing: $(count 'nothing to do' out)"
        cat err >&2
        "#,
    ) else {
        return;
    };
    let held = "./a ./in ./in/b";
    let [first, second] = ["first", "second"].map(|run| format!("{run}: {held}"));
    assert_said(&run, &["code: 0", &first, "code: 0", &second, "nothing: 1"]);
}

#[test]
fn an_unmounted_source_deletes_nothing_however_little_there_is() {
    each_way(|how| {
        let scratch = Scratch::new().with_source(&Tree::new().file("beneath", "the disk"));
        let Some(run) = script(
            &scratch,
            how,
            r#"
            mount -t tmpfs none source
            mkdir source/d
            echo x >source/d/x
            start $HOW 0.3
            until_true '[ $(count settled out) -ge 1 ]'
            unmount source
            until_true '[ $(count "is unmounted" err) -ge 1 ]'
            holds '[ "$(list kept replica)" = "kept: ./d ./d/x " ]'
            mount -t tmpfs none source
            mkdir source/d
            echo x >source/d/x
            echo y >source/d/y
            until_true '[ -e replica/d/y ]'
            rm source/d/x
            until_true '[ ! -e replica/d/x ]'
            list again replica
            stop
            echo "removed: $(count ' removed ' out)"
            "#,
        ) else {
            return;
        };
        assert_said(&run, &["again: ./d ./d/y", "code: 0", "removed: 1"]);
        assert_eq!(lines(&run, "is unmounted").len(), 1, "{run}");
        assert_eq!(lines(&run, " held "), [""; 0], "{run}");
    });
}

#[test]
fn a_source_below_a_mount_point_is_not_taken_for_the_directory_beneath_its_disk() {
    each_way(|how| {
        let scratch = Scratch::new().with_source(&Tree::new());
        let Some(run) = script(
            &scratch,
            how,
            r#"
            rmdir source
            mkdir -p disk/data/d
            ln -s disk/data source
            mount -t tmpfs none disk
            mkdir -p disk/data/d
            echo x >disk/data/d/x
            start $HOW 0.3
            until_true '[ $(count settled out) -ge 1 ]'
            unmount disk
            until_true '[ $(count "is unmounted" err) -ge 1 ]'
            holds '[ "$(list kept replica)" = "kept: ./d ./d/x " ]'
            # The symlink leads elsewhere now: that is the source.
            mkdir other
            echo y >other/y
            ln -sfn other source
            until_true '[ -e replica/y ] && [ ! -e replica/d ]'
            list other replica
            stop
            "#,
        ) else {
            return;
        };
        assert_said(&run, &["other: ./y", "code: 0"]);
        assert_eq!(lines(&run, " adopted ").len(), 1, "{run}");
    });
}

#[test]
fn a_disk_that_is_mounted_in_the_place_of_another_is_noticed_whatever_its_numbers() {
    each_way(|how| {
        let scratch = Scratch::new().with_source(&Tree::new());
        let Some(run) = script(
            &scratch,
            how,
            r#"
            mount -t tmpfs none source
            before=$(stat -c %d:%i source)
            mkdir source/d
            for number in $(seq 12); do echo $number >source/d/$number; done
            start $HOW 0.3
            until_true '[ $(count settled out) -ge 1 ]'
            # At once, so that nobody sees it gone.
            until_true 'umount source 2>umount.log && mount -t tmpfs none source'
            [ $(stat -c %d:%i source) = $before ] && same=yes || same=no
            until_true '[ $(count held err) -ge 1 ]'
            sweeps 2
            echo "adopted: $(count ' adopted ' err), files: $(ls replica/d | wc -l)"
            stop
            echo "same numbers: $same" >&2
            "#,
        ) else {
            return;
        };
        assert_said(&run, &["adopted: 1, files: 12", "code: 0"]);
        if run.stderr.contains("same numbers: no") {
            skip("this kernel gave the second tmpfs other numbers");
        }
    });
}

#[test]
fn at_rest_the_disks_of_both_trees_can_be_unmounted() {
    each_way(|how| {
        let scratch = Scratch::new().with_source(&Tree::new()).with_replica(&Tree::new());
        let Some(run) = script(
            &scratch,
            how,
            r#"
            mount -t tmpfs none source
            mount -t tmpfs none replica
            mkdir -p source/d/e
            echo x >source/d/e/x
            start $HOW 3600
            until_true '[ $(count settled out) -ge 1 ]'
            rest
            umount source && echo "source unmounted"
            umount replica && echo "replica unmounted"
            stop
            "#,
        ) else {
            return;
        };
        assert_said(&run, &["source unmounted", "replica unmounted", "code: 0"]);
    });
}

#[test]
fn what_is_mounted_in_the_replica_is_never_entered() {
    each_way(|how| {
        let tree = Tree::new().file("d/m/x", "of the source").dir("d/m/in").file("d/y", "y");
        let scratch = Scratch::new().with_source(&tree);
        Tree::new().file("x", "outside").mode(0o600).file("in/z", "z").make(&scratch.path("outside"));
        let before = Snapshot::with_inodes(&scratch.path("outside"));
        let Some(run) = script(
            &scratch,
            how,
            r#"
            mkdir -p replica/d/m
            mount --bind outside replica/d/m
            start $HOW 0.3
            until_true '[ $(count " problem " err) -ge 1 ]'
            echo changed >source/d/m/x
            rmdir source/d/m/in
            chmod 700 source/d/m
            sweeps 3
            mv source/d source/e
            until_true '[ -e replica/e/m/x ]'
            sweeps 3
            echo text >source/d
            sweeps 3
            mountpoint -q replica/d/m && echo mounted
            umount replica/d/m
            until_true 'cmp source/d replica/d'
            stop
            "#,
        ) else {
            return;
        };
        let said: Vec<_> = run.stdout.lines().filter(|line| !line.starts_with("cmp:")).collect();
        assert_eq!(said, ["mounted", "code: 0"], "{run}");
        assert_same("the outside", &before, &Snapshot::with_inodes(&scratch.path("outside")));
    });
}

#[test]
fn a_file_that_is_mounted_in_the_replica_is_left_alone() {
    each_way(|how| {
        let tree = Tree::new().file("f", "text").file("g", "text");
        let scratch = Scratch::new().with_source(&tree).with_replica(&tree);
        Tree::new().file("f", "text").mode(0o600).make(&scratch.path("outside"));
        let before = Snapshot::with_inodes(&scratch.path("outside"));
        let Some(run) = script(
            &scratch,
            how,
            r#"
            mount --bind outside/f replica/f
            start $HOW 0.3
            until_true '[ $(count " problem " err) -ge 1 ]'
            sweeps 2
            echo longer >source/f
            sweeps 2
            rm source/f
            sweeps 2
            cat replica/f && echo
            umount replica/f
            until_true '[ ! -e replica/f ]'
            stop
            "#,
        ) else {
            return;
        };
        assert_said(&run, &["text", "code: 0"]);
        assert_same("the outside", &before, &Snapshot::with_inodes(&scratch.path("outside")));
    });
}
