//! Replicas on other file systems, each in an image of its own, by root.

use std::fs;
use std::process::Command;

use crate::support::{Daemon, Scratch, Tree, is_root, skip, xattr};

/// Makes `image`, mounts it at `mnt`, and runs twindir some times from `source` to `mnt/replica`.
/// What run number N says is in `out.N` and `err.N`, its exit code in `code.N`. Exits with 77 where
/// this cannot be had here.
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
        let acted = |line: &&str| {
            line.split_whitespace().nth(1).is_some_and(|word| actions.contains(&word))
        };
        let acted: Vec<_> = self.stdout.lines().filter(acted).collect();
        assert!(acted.is_empty(), "{acted:#?}\n{}", self.stderr);
    }

    /// The one line that says what is not kept; empty where there is none.
    #[track_caller]
    fn lacks(&self) -> &str {
        let lines: Vec<_> =
            self.stderr.lines().filter(|line| line.contains("does not keep")).collect();
        assert!(lines.len() <= 1, "{lines:#?}");
        lines.first().copied().unwrap_or_default()
    }

    fn problems(&self) -> usize {
        self.stderr.lines().filter(|line| line.split_whitespace().nth(1) == Some("problem")).count()
    }
}

/// Runs twindir with each of these options; `None`, and a line that says why, where that cannot be
/// done here.
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
    command
        .env("TYPE", file_system.kind)
        .env("MKFS", file_system.mkfs)
        .env("FUSE", file_system.fuse);
    let run = Daemon::run(command);
    if run.code == Some(77) || run.stderr.starts_with("unshare:") {
        skip(&format!("{}: {}{}", file_system.kind, run.stdout.trim(), run.stderr.trim()));
        return None;
    }
    let run = run.expect(0);
    assert_eq!(run.stderr, "", "of the script");
    let said = |number: usize| {
        let read =
            |name: &str| fs::read_to_string(scratch.path(format!("{name}.{number}"))).unwrap();
        Said {
            code: read("code").trim().parse().unwrap(),
            stdout: read("out"),
            stderr: read("err"),
        }
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
        .file("dir/deep/big", crate::support::noise(1, 300_000))
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

/// A small tree is made equal, stays equal, and is equal by MD5. `lacking`: all that is said not to
/// be kept.
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
    is_mirrored(
        &kernel("ext4", "mkfs.ext4 -q -I 128"),
        &["times finer than 1 s", "times after 2038-01-19"],
    );
}

#[test]
fn xfs_without_bigtime_keeps_times_to_2038() {
    is_mirrored(&kernel("xfs", "mkfs.xfs -q -m bigtime=0"), &["times after 2038-01-19"]);
}

#[test]
fn a_time_that_a_file_system_cannot_store_is_the_nearest_and_settles() {
    for file_system in [
        kernel("xfs", "mkfs.xfs -q -m bigtime=0"),
        kernel("ext4", "mkfs.ext4 -q -I 128"),
        kernel("ext4", "mkfs.ext4 -q"),
        kernel("vfat", "mkfs.vfat"),
        FileSystem { kind: "ntfs", mkfs: "mkfs.ntfs -Q -F", fuse: "ntfs-3g" },
    ] {
        let mut tree = Tree::new();
        for (name, year) in [
            ("1601", -11_644_473_600),
            ("1901", -2_177_452_801),
            ("2039", 2_177_452_801),
            ("3000", 32_503_680_000),
        ] {
            tree = tree.file(name, "x").mtime(year, 5).dir(format!("d{name}")).mtime(year, 5);
        }
        let scratch = Scratch::roomy().with_source(&tree);
        let stored = fs::metadata(scratch.source().join("3000")).unwrap();
        if std::os::unix::fs::MetadataExt::mtime(&stored) != 32_503_680_000 {
            return skip("the tests' own file system stores no such times");
        }
        let Some(said) = runs(&file_system, &scratch, &["--once", "--once", "--check"]) else {
            continue;
        };
        for run in &said {
            assert_eq!(run.code, 0, "{}: {}{}", file_system.kind, run.stdout, run.stderr);
        }
        let notes = said[0].stdout.lines().filter(|line| line.contains(" note "));
        // NTFS begins in 1601.
        let wanted = usize::from(file_system.kind != "ntfs");
        assert_eq!(notes.count(), wanted, "{}: {}", file_system.kind, said[0].stdout);
        assert!(
            said[1].stdout.contains("nothing to do"),
            "{}: {}",
            file_system.kind,
            said[1].stdout
        );
        said[1].did_nothing();
    }
}

/// ramfs has modes, and no ACLs.
#[test]
fn without_acls_the_group_gets_what_its_own_entry_gives_and_not_the_mask() {
    let scratch = Scratch::new().with_source(&Tree::new());
    let text = r"
        command -v setfacl >/dev/null || { echo 'lacking: setfacl' >&2; exit; }
        touch source/secret source/shared source/plain
        mkdir source/dir
        chmod 600 source/secret; chmod 700 source/dir; chmod 640 source/shared; chmod 664 source/plain
        setfacl -m u:1234:rw source/secret source/shared 2>acl.log || { echo 'lacking: ACLs' >&2; exit; }
        setfacl -m u:1234:rwx source/dir
        mkdir mnt
        mount -t ramfs none mnt
        mkdir mnt/replica
        $TWINDIR --once source mnt/replica >out 2>err
        $TWINDIR --once source mnt/replica >out 2>err
        grep -c 'nothing to do' out
        cd mnt/replica
        stat -c '%n %a' dir plain secret shared
        cd ../..
        $TWINDIR --check source mnt/replica >out 2>err
        # With the ACL gone, what was its mask is the group's.
        setfacl -b source/secret
        chmod 660 source/secret
        $TWINDIR --once source mnt/replica >out 2>err
        stat -c '%a' mnt/replica/secret
        umount mnt
    ";
    let Some(run) = crate::support::script::script(&scratch, "", text) else { return };
    crate::support::script::assert_said(
        &run,
        &["1", "dir 700", "plain 664", "secret 600", "shared 640", "660"],
    );
}

/// XFS takes targets of 1,023 bytes.
#[test]
fn a_symlink_with_too_long_a_target_is_called_that() {
    let scratch = Scratch::new().with_source(&Tree::new().file("plain", "x"));
    std::os::unix::fs::symlink("t/".repeat(600), scratch.source().join("long")).unwrap();
    let Some(said) = runs(&kernel("xfs", "mkfs.xfs -q"), &scratch, &["--once"]) else { return };
    assert_eq!((said[0].code, said[0].problems()), (1, 1), "{}", said[0].stderr);
    assert!(
        said[0].stderr.contains("perhaps the symlink's target is longer"),
        "{}",
        said[0].stderr
    );
}

/// An old temporary name in the source may be somebody's file.
#[test]
fn a_temporary_name_in_the_source_is_named_once_it_has_been_there_for_a_minute() {
    let scratch = Scratch::new();
    let text = r"
        for tool in debugfs mkfs.ext4; do command -v $tool >tools.log || { echo 'lacking: debugfs' >&2; exit; }; done
        truncate -s 20M image
        mkfs.ext4 -q image >mkfs.log 2>&1
        mkdir source
        mount -o loop image source 2>mount.log || { echo 'lacking: loop devices' >&2; exit; }
        touch source/.twindir.0123456789abcdef.tmp source/.twindir.fedcba9876543210.tmp
        umount source
        debugfs -w -R 'set_inode_field .twindir.0123456789abcdef.tmp ctime 202001010000' image >debugfs.log 2>&1
        mount -o loop image source
        $TWINDIR --once -q source replica 2>err
        sed 's/^[^ ]* //' err
        umount source
    ";
    let Some(run) = crate::support::script::script(&scratch, "", text) else { return };
    let line = "warning  .twindir.0123456789abcdef.tmp: not mirrored: its name has the form of twindir's own temporary names";
    crate::support::script::assert_said(&run, &[line]);
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

const EXFAT_FUSE: FileSystem =
    FileSystem { kind: "exfat", mkfs: "mkfs.exfat", fuse: "mount.exfat-fuse" };

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
        assert!(
            run.stderr.contains("huge") && run.stderr.contains("so large a file"),
            "{}",
            run.stderr
        );
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
