//! File systems that are mounted and unmounted in and under the two trees, in a mount namespace of
//! its own. By root.

use std::fs;

use crate::support::script::{assert_said, each_way, lines, script, script_each_way};
use crate::support::{Scratch, Snapshot, Tree, assert_same, skip};

#[test]
fn what_an_unmounted_file_system_held_is_kept_until_it_is_mounted_again() {
    script_each_way(
        || Scratch::new().with_source(&Tree::new().file("a", "a").dir("in")),
        r"
        mount -t tmpfs none source/in
        mkdir source/in/d
        echo x >source/in/d/x
        echo y >source/in/y
        start_settled $HOW 0.3
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
        |run| {
            assert_said(
                run,
                &[
                    "unmounted: ./a ./in ./in/d ./in/d/x ./in/y",
                    "mounted: ./a ./in ./in/z",
                    "code: 0",
                ],
            );
            let kept = lines(run, "kept in the replica");
            assert_eq!(kept.len(), 1, "{run}");
            assert!(kept[0].contains(" warning "), "{run}");
        },
    );
}

#[test]
fn nothing_is_written_below_the_mount_point_of_an_unmounted_replica() {
    let tree = Tree::new().file("a", "a").file("d/b", "b");
    script_each_way(
        || Scratch::new().with_source(&tree).with_replica(&Tree::new()),
        r#"
        mount -t tmpfs none replica
        start_settled $HOW 0.3
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
        |run| {
            assert_said(
                run,
                &["filled: ./a ./d ./d/b", "errors: 1", "again: ./a ./d ./d/b", "code: 0"],
            );
            assert_eq!(lines(run, "is gone").len(), 1, "{run}");
            assert_eq!(lines(run, " problem "), [""; 0], "{run}");
        },
    );
}

#[test]
fn a_directory_with_a_mount_in_it_stays_until_that_is_unmounted() {
    script_each_way(
        || Scratch::new().with_source(&Tree::new().file("a", "a").file("d/b", "b")),
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
        |run| {
            let mounted = "mounted: ./a ./d ./d/m ./d/m/precious";
            assert_said(run, &[mounted, "precious", "unmounted: ./a", "code: 0"]);
            let problems = lines(run, " problem ");
            assert_eq!(problems.len(), 1, "{run}");
            assert!(problems[0].contains(" d: ") || problems[0].contains(" d/m: "), "{run}");
        },
    );
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
fn a_disk_that_is_mounted_in_the_place_of_another_is_noticed_whatever_its_numbers() {
    script_each_way(
        || Scratch::new().with_source(&Tree::new()),
        r#"
        mount -t tmpfs none source
        before=$(stat -c %d:%i source)
        mkdir source/d
        for number in $(seq 12); do echo $number >source/d/$number; done
        start_settled $HOW 0.3
        # At once, so that nobody sees it gone.
        until_true 'umount source 2>umount.log && mount -t tmpfs none source'
        [ $(stat -c %d:%i source) = $before ] && same=yes || same=no
        until_true '[ $(count held err) -ge 1 ]'
        sweeps 2
        echo "adopted: $(count ' adopted ' err), files: $(ls replica/d | wc -l)"
        stop
        echo "same numbers: $same" >&2
        "#,
        |run| {
            assert_said(run, &["adopted: 1, files: 12", "code: 0"]);
            if run.stderr.contains("same numbers: no") {
                skip("this kernel gave the second tmpfs other numbers");
            }
        },
    );
}

#[test]
fn at_rest_the_disks_of_both_trees_can_be_unmounted() {
    script_each_way(
        || Scratch::new().with_source(&Tree::new()).with_replica(&Tree::new()),
        r#"
        mount -t tmpfs none source
        mount -t tmpfs none replica
        mkdir -p source/d/e
        echo x >source/d/e/x
        start $HOW 3600
        until_true '[ $(count synced out) -ge 1 ]'
        rest
        umount source && echo "source unmounted"
        umount replica && echo "replica unmounted"
        stop
        "#,
        |run| assert_said(run, &["source unmounted", "replica unmounted", "code: 0"]),
    );
}

#[test]
fn what_is_mounted_in_the_replica_is_never_entered() {
    each_way(|how| {
        let tree = Tree::new().file("d/m/x", "of the source").dir("d/m/in").file("d/y", "y");
        let scratch = Scratch::new().with_source(&tree);
        Tree::new()
            .file("x", "outside")
            .mode(0o600)
            .file("in/z", "z")
            .make(&scratch.path("outside"));
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

#[test]
fn a_dry_run_says_of_a_mount_in_the_replica_what_a_run_says() {
    let scratch = Scratch::new()
        .with_source(&Tree::new().file("f", "x").file("turned", "a file now"))
        .with_replica(
            &Tree::new().file("f", "x").file("gone/m/x", "x").file("turned/m/x", "x").dir("bare"),
        );
    fs::write(scratch.replica().join("bound"), "x").unwrap();
    let text = r#"
        mount --bind source/f replica/bound
        mount -t tmpfs none replica/gone/m
        mount -t tmpfs none replica/turned/m
        for how in --dry-run --once --check; do
            code=0
            "$TWINDIR" $how source replica >out 2>err || code=$?
            echo "$how: $code, $(grep -c ' problem  gone: cannot move a directory with a mount' err)" \
                "$(grep -c ' problem  turned: ' err) $(grep -c ' problem  bound: ' err) $(grep -c 'removed  bare' out) $(grep -c 'differs  gone/' out)"
        done
        umount replica/gone/m replica/turned/m replica/bound
    "#;
    let Some(run) = script(&scratch, "", text) else { return };
    assert_said(
        &run,
        &["--dry-run: 1, 1 1 1 1 0", "--once: 1, 1 1 1 1 0", "--check: 1, 0 0 0 0 1"],
    );
}
