//! Replicas on other file systems, each in an image of its own, by root.

mod support;

use std::fs;
use std::process::Command;

use support::{Daemon, Scratch, Tree, is_root, skip, xattr};

/// Makes `image`, mounts it at `mnt`, and runs twindir some times from `source` to `mnt/replica`. What run number N
/// says is in `out.N` and `err.N`, its exit code in `code.N`. Exits with 77 where this cannot be had here.
const SCRIPT: &str = r#"
    lacking() { echo "$1"; exit 77; }
    mkdir mnt
    command -v "${MKFS%% *}" >mkfs.log || lacking "no ${MKFS%% *}"
    [ -z "$FUSE" ] || { command -v "$FUSE" >mkfs.log && [ -e /dev/fuse ]; } || lacking "no $FUSE"
    truncate -s 400M image
    $MKFS image >mkfs.log 2>&1 || { cat mkfs.log; exit 97; }
    loop=
    trap '[ -z "$loop" ] || losetup -d "$loop"' EXIT
    case $FUSE in
        '') set -- mount -t "$TYPE" -o loop image mnt ;;
        *ntfs*) set -- "$FUSE" image mnt ;;
        *) loop=$(losetup -f --show image 2>mount.log) || lacking "$(cat mount.log)"
           set -- "$FUSE" "$loop" mnt ;;
    esac
    "$@" >mount.log 2>&1 || lacking "cannot mount $TYPE: $(cat mount.log)"
    trap 'umount mnt; [ -z "$loop" ] || losetup -d "$loop"' EXIT

    number=0
    twindir() {
        number=$((number + 1)) code=0
        "$TWINDIR" "$1" source mnt/replica >out.$number 2>err.$number || code=$?
        echo $code >code.$number
    }
    for run in $RUNS; do twindir "$run"; done
    diff -r --no-dereference source mnt/replica >differences || true
    for root in source mnt/replica; do
        (cd $root; find . -printf '%p %y %m %T@ %l\n' | sort) >"$(basename $root).list"
    done
"#;

struct FileSystem {
    kind: &'static str,
    mkfs: &'static str,
    /// The program that mounts it where the kernel does not.
    fuse: &'static str,
}

const fn kernel(kind: &'static str, mkfs: &'static str) -> FileSystem {
    FileSystem { kind, mkfs, fuse: "" }
}

/// One run of twindir, as the script left it.
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Said {
    #[track_caller]
    fn did_nothing(&self) {
        let actions = ["created", "updated", "removed"];
        let acted = |line: &&str| line.split_whitespace().nth(1).is_some_and(|word| actions.contains(&word));
        let acted: Vec<_> = self.stdout.lines().filter(acted).collect();
        assert!(acted.is_empty(), "{acted:#?}\n{}", self.stderr);
    }

    /// The one line that says what is not kept; empty where there is none.
    #[track_caller]
    fn lacks(&self) -> &str {
        let lines: Vec<_> = self.stderr.lines().filter(|line| line.contains("does not keep")).collect();
        assert!(lines.len() <= 1, "{lines:#?}");
        lines.first().copied().unwrap_or_default()
    }

    fn problems(&self) -> usize {
        self.stderr.lines().filter(|line| line.split_whitespace().nth(1) == Some("problem")).count()
    }
}

/// Runs twindir with each of these options; `None`, and a line that says why, where that cannot be done here.
#[track_caller]
fn runs(file_system: &FileSystem, scratch: &Scratch, options: &[&str]) -> Option<Vec<Said>> {
    if !is_root() {
        skip("other file systems need root");
        return None;
    }
    let mut command = Command::new("unshare");
    scratch.prepare(&mut command);
    command.args(["-m", "sh", "-ec", SCRIPT]);
    command.env("TWINDIR", scratch.program()).env("RUNS", options.join(" "));
    command.env("TYPE", file_system.kind).env("MKFS", file_system.mkfs).env("FUSE", file_system.fuse);
    let run = Daemon::run(command);
    if run.code == Some(77) || run.stderr.starts_with("unshare:") {
        skip(&format!("{}: {}{}", file_system.kind, run.stdout.trim(), run.stderr.trim()));
        return None;
    }
    let run = run.expect(0);
    assert_eq!(run.stderr, "", "of the script");
    let said = |number: usize| {
        let read = |name: &str| fs::read_to_string(scratch.path(format!("{name}.{number}"))).unwrap();
        Said { code: read("code").trim().parse().unwrap(), stdout: read("out"), stderr: read("err") }
    };
    Some((1..=options.len()).map(said).collect())
}

fn scratch() -> Scratch {
    let tree = Tree::new()
        .file("plain", "plain")
        .file("empty", "")
        .file("dir/script", "#!/bin/sh\n")
        .mode(0o755)
        .file("dir/secret", "secret")
        .mode(0o600)
        .file("dir/deep/big", support::noise(1, 300_000))
        .mtime(1_555_555_555, 987_654_321)
        .dir("dir")
        .mode(0o750)
        .dir("hollow")
        .symlink("link", "dir/script");
    let scratch = Scratch::new().with_source(&tree);
    // Where the tests' own file system keeps none, the rest is tested all the same.
    let _ = xattr::set_xattr(&scratch.path("source/plain"), "user.note", "kept");
    scratch
}

/// A small tree is made equal, stays equal, and is equal by MD5. `lacking`: all that is said not to be kept.
#[track_caller]
fn is_mirrored(file_system: &FileSystem, lacking: &[&str]) {
    let scratch = scratch();
    let Some(said) = runs(file_system, &scratch, &["--once", "--once", "--check"]) else {
        return;
    };
    for run in &said {
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    }
    for run in &said[..2] {
        assert_lacks(run, lacking);
    }
    // A comparison alone says nothing of it.
    assert_lacks(&said[2], &[]);
    assert!(said[1].stdout.contains("nothing to do"), "{}", said[1].stdout);
    said[1].did_nothing();
    assert_eq!(fs::read_to_string(scratch.path("differences")).unwrap(), "");
    if lacking.is_empty() {
        let [source, replica] = ["source", "replica"]
            .map(|root| fs::read_to_string(scratch.path(format!("{root}.list"))).unwrap());
        assert_eq!(source, replica);
    }
}

#[track_caller]
fn assert_lacks(run: &Said, lacking: &[&str]) {
    let line = run.lacks();
    let words = line.split_once("does not keep: ").map_or("", |(_, rest)| rest);
    let words = words.split_once(". They").map_or(words, |(words, _)| words);
    let words: Vec<_> = words.split(", ").filter(|word| !word.is_empty()).collect();
    assert_eq!(words, lacking, "{line}");
}

#[test]
fn ext4_keeps_all() {
    is_mirrored(&kernel("ext4", "mkfs.ext4 -q"), &[]);
}

#[test]
fn ext4_with_small_inodes_keeps_times_to_the_second() {
    is_mirrored(&kernel("ext4", "mkfs.ext4 -q -I 128"), &["times finer than 1 s"]);
}

#[test]
fn xfs_keeps_all() {
    is_mirrored(&kernel("xfs", "mkfs.xfs -q"), &[]);
}

#[test]
fn btrfs_keeps_all() {
    is_mirrored(&kernel("btrfs", "mkfs.btrfs -q"), &[]);
}

#[test]
fn ntfs_keeps_what_ntfs_3g_keeps() {
    let ntfs = FileSystem { kind: "ntfs", mkfs: "mkfs.ntfs -Q -F", fuse: "ntfs-3g" };
    is_mirrored(&ntfs, &["permission bits", "owners", "ACLs", "times finer than 100 ns"]);
}

const EXFAT_FUSE: FileSystem = FileSystem { kind: "exfat", mkfs: "mkfs.exfat", fuse: "mount.exfat-fuse" };

/// Simple file systems: only what both sides can hold is asked for.
#[track_caller]
fn is_mirrored_without_links(file_system: &FileSystem) {
    let scratch = scratch();
    let Some(said) = runs(file_system, &scratch, &["--once", "--once", "--once"]) else {
        return;
    };
    for run in &said {
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        for word in ["owners", "symlinks", "user attributes", "ACLs", "upper and lower case"] {
            assert!(run.lacks().contains(word), "{word}: {}", run.stderr);
        }
        assert_eq!(run.problems(), 0, "{}", run.stderr);
    }
    said[1].did_nothing();
    assert_eq!(fs::read_to_string(scratch.path("differences")).unwrap(), "Only in source: link\n");
}

#[track_caller]
fn names_that_collide_are_one_problem(file_system: &FileSystem) {
    let tree = Tree::new().file("Name", "one").file("name", "two").file("other", "three");
    let scratch = Scratch::new().with_source(&tree);
    let Some(said) = runs(file_system, &scratch, &["--once"; 4]) else {
        return;
    };
    for run in &said {
        assert_eq!(run.code, 1, "{}{}", run.stdout, run.stderr);
        assert_eq!(run.problems(), 1, "{}", run.stderr);
    }
    for run in &said[1..] {
        run.did_nothing();
        assert_eq!(run.stderr.lines().count(), said[0].stderr.lines().count(), "{}", run.stderr);
    }
    let list = fs::read_to_string(scratch.path("replica.list")).unwrap();
    let names = list.lines().filter(|line| line.to_lowercase().starts_with("./name "));
    assert_eq!(names.count(), 1, "{list}");
}

#[test]
fn a_file_above_the_limit_of_the_file_system_is_a_problem() {
    // With blocks of 1 kB and without extents, 16 GB are the limit.
    let ext4 = kernel("ext4", "mkfs.ext4 -q -b 1024 -O ^extent,^64bit,^metadata_csum");
    let scratch = Scratch::new().with_source(&Tree::new().file("small", "small"));
    let huge = fs::File::create(scratch.path("source/huge")).unwrap();
    if huge.set_len(20 << 30).is_err() {
        return skip("the tests' own file system takes no such file");
    }
    let Some(said) = runs(&ext4, &scratch, &["--once"; 2]) else {
        return;
    };
    for run in &said {
        assert_eq!((run.code, run.problems()), (1, 1), "{}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains("huge") && run.stderr.contains("so large a file"), "{}", run.stderr);
    }
    said[1].did_nothing();
    assert_eq!(fs::read_to_string(scratch.path("differences")).unwrap(), "Only in source: huge\n");
}

#[test]
fn exfat_by_fuse_holds_files_and_directories() {
    is_mirrored_without_links(&EXFAT_FUSE);
}

#[test]
fn exfat_by_the_kernel_holds_files_and_directories() {
    is_mirrored_without_links(&kernel("exfat", "mkfs.exfat"));
}

#[test]
fn vfat_holds_files_and_directories() {
    is_mirrored_without_links(&kernel("vfat", "mkfs.vfat"));
}

#[test]
fn names_that_differ_in_case_alone_do_not_flap() {
    for file_system in [EXFAT_FUSE, kernel("exfat", "mkfs.exfat"), kernel("vfat", "mkfs.vfat")] {
        names_that_collide_are_one_problem(&file_system);
    }
}
