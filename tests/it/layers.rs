//! Replicas on file systems of several layers or branches, which cannot rename all that lies there:
//! overlayfs, fuse-overlayfs, mergerfs. By root, where they are to be had.

use crate::support::script::{assert_said, script};
use crate::support::{Run, Scratch, Tree};

/// Mounts `lower`, which a test has filled, under an empty layer at `replica`.
const OVERLAY: &str = r"
    mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work replica 2>mount.log \
        || { echo 'lacking: overlayfs' >&2; exit; }";

const FUSE_OVERLAYFS: &str = r"
    [ -e /dev/fuse ] && command -v fuse-overlayfs >tools.log || { echo 'lacking: fuse-overlayfs' >&2; exit; }
    fuse-overlayfs -o lowerdir=lower,upperdir=upper,workdir=work replica 2>mount.log \
        || { echo 'lacking: fuse-overlayfs' >&2; exit; }";

/// What lies in the first branch stays there; what is new goes to the second.
const MERGERFS: &str = r"
    [ -e /dev/fuse ] && command -v mergerfs >tools.log || { echo 'lacking: mergerfs' >&2; exit; }
    mergerfs -o category.create=lus,cache.files=off lower:upper replica >mount.log 2>&1 \
        || { echo 'lacking: mergerfs' >&2; exit; }";

/// Runs a script where the replica is such a file system.
#[track_caller]
fn layered(mount: &str, scratch: &Scratch, text: &str) -> Option<Run> {
    let text = format!(
        r#"
        mkdir -p replica upper work
        {mount}
        trap 'umount -l replica' EXIT
        run() {{
            code=0
            "$TWINDIR" "$@" >>out 2>>err || code=$?
            echo "$1: $code"
        }}
        {text}
        "#
    );
    script(scratch, "", &text)
}

/// All that was in the lower layer, by what is to become of it.
fn lower() -> Tree {
    Tree::new()
        .file("goes/deep/er/f", "x")
        .file("goes/f", "x")
        .file("becomes-file/f", "x")
        .file("becomes-file/deep/er/f", "x")
        .file("becomes-link/f", "x")
        .file("becomes-dir", "x")
        .file("stays/f", "old")
        .file("stays/g", "same")
        .file("plain", "old")
        .symlink("link", "plain")
}

fn source() -> Tree {
    Tree::new()
        .file("becomes-file", "a file now")
        .symlink("becomes-link", "plain")
        .file("becomes-dir/f", "x")
        .file("stays/f", "new")
        .file("stays/g", "same")
        .file("plain", "new")
        .symlink("link", "stays")
        .file("new/f", "x")
}

fn scratch() -> Scratch {
    let scratch = Scratch::new().with_source(&source());
    lower().make(&scratch.path("lower"));
    scratch
}

#[test]
fn what_lies_in_a_lower_layer_is_removed_and_replaced_like_anything_else() {
    for mount in [OVERLAY, FUSE_OVERLAYFS, MERGERFS] {
        let text = r"
            run --once source replica
            run --once source replica
            run --check source replica
            diff -r --no-dereference source replica && echo same
            grep -c ' removed  goes/ (removed, 5 entries)' out
            ! grep problem err
        ";
        let Some(run) = layered(mount, &scratch(), text) else { continue };
        assert_said(&run, &["--once: 0", "--once: 0", "--check: 0", "same", "1"]);
    }
}

#[test]
fn what_is_removed_from_a_lower_layer_is_kept_first() {
    for mount in [OVERLAY, FUSE_OVERLAYFS, MERGERFS] {
        let text = r"
            run --once source replica --backup-dir kept
            diff -r --no-dereference source replica && echo same
            (cd kept/*; find . -type f | sort)
        ";
        let Some(run) = layered(mount, &scratch(), text) else { continue };
        let kept = [
            "becomes-dir",
            "becomes-file/deep/er/f",
            "becomes-file/f",
            "becomes-link/f",
            "goes/deep/er/f",
            "goes/f",
            "plain",
            "stays/f",
        ];
        let said = ["--once: 0", "same"].map(str::to_owned);
        let lines: Vec<String> =
            said.into_iter().chain(kept.map(|name| format!("./{name}"))).collect();
        assert_said(&run, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_renamed_in_a_lower_layer_is_followed() {
    let tree = Tree::new().files("d/in", 50).file("d/f", "x").file("e/f", "x").file("other", "x");
    for mount in [OVERLAY, FUSE_OVERLAYFS, MERGERFS] {
        let scratch = Scratch::new().with_source(&tree);
        tree.make(&scratch.path("lower"));
        let text = r"
            start_settled 3600
            trap 'kill $pid; umount -l replica' EXIT
            same() { diff -r source replica >differences 2>&1; }
            until_true same
            mv source/d source/moved
            until_true same
            mv source/moved/in source/in
            mkdir source/moved/in
            until_true same
            rm -r source/e
            echo x >source/e
            until_true same
            echo same
            ! grep problem err
        ";
        let Some(run) = layered(mount, &scratch, text) else { continue };
        assert_said(&run, &["same"]);
    }
}

/// A save elsewhere does not wait for all of it.
#[test]
fn a_wide_directory_of_a_lower_layer_is_removed_in_turns() {
    let many = Tree::new().files("many", 3_000).file("beside", "x");
    let scratch = Scratch::roomy().with_source(&many);
    many.make(&scratch.path("lower"));
    let text = r"
        start_settled 3600
        trap 'kill $pid; umount -l replica' EXIT
        rm -r source/many
        echo saved >source/beside
        until_true '[ $(cat replica/beside) = saved ]'
        until_true '[ ! -e replica/many ]'
        until_true 'grep -q removed out'
        sed -n 's/.* removed /removed /p' out
        ! grep problem err
    ";
    let Some(run) = layered(OVERLAY, &scratch, text) else { return };
    // Of those that the watch has told of some may go singly.
    assert!(run.stdout.lines().any(|line| line.starts_with("removed  many/")), "{run}");
}

#[test]
fn a_mount_in_a_lower_layer_is_no_reason_to_empty_it() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    Tree::new()
        .file("f", "x")
        .file("goes/m/x", "x")
        .file("goes/f", "x")
        .make(&scratch.path("lower"));
    let text = r"
        mount -t tmpfs none replica/goes/m
        touch replica/goes/m/mine
        run --once source replica
        find replica/goes | sort
        umount replica/goes/m
        run --once source replica
        ls replica
    ";
    let Some(run) = layered(OVERLAY, &scratch, text) else { return };
    let kept = ["replica/goes", "replica/goes/f", "replica/goes/m", "replica/goes/m/mine"];
    assert_said(&run, &["--once: 1", kept[0], kept[1], kept[2], kept[3], "--once: 0", "f"]);
}

#[test]
fn a_replica_that_is_itself_a_directory_of_a_lower_layer_is_mirrored_to_and_locked() {
    for mount in [OVERLAY, FUSE_OVERLAYFS, MERGERFS] {
        for (mode, code) in [("--once", 0), ("--dry-run", 0), ("--check", 1)] {
            let scratch = Scratch::new().with_source(&source());
            lower().make(&scratch.path("lower/it"));
            let text = format!(
                r#"
                run {mode} source replica/it
                run --once source replica/it
                diff -r --no-dereference source replica/it && echo same
                touch source/more
                "$TWINDIR" source replica/it >watched 2>&1 &
                for _ in $(seq 300); do grep -q synced watched && break; sleep 0.1; done
                run --once source replica/it
                kill $!
                wait $! || true
                grep -c adopted watched || true
                ! grep 'stopped half-way' err
                "#
            );
            let Some(run) = layered(mount, &scratch, &text) else { continue };
            let first = format!("{mode}: {code}");
            assert_said(&run, &[&first, "--once: 0", "same", "--once: 2", "0"]);
        }
    }
}
