//! What one sweep makes of files and directories, seen from outside. Kinds, links and times have
//! files of their own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::{Scratch, Snapshot, Tree, noise, path, set_mode, set_mtime};
use rustix::fs::{AtFlags, Mode, OFlags};

const MB: usize = 1 << 20;

fn inode(at: &Path) -> u64 {
    fs::symlink_metadata(at).unwrap().ino()
}

fn mtime(at: &Path) -> (i64, i64) {
    let metadata = fs::symlink_metadata(at).unwrap();
    (metadata.mtime(), metadata.mtime_nsec())
}

/// Overwrites a file and puts its mtime back.
fn overwrite_in_silence(at: &Path, bytes: &[u8]) {
    let (seconds, nanoseconds) = mtime(at);
    fs::write(at, bytes).unwrap();
    set_mtime(at, seconds, nanoseconds);
}

#[test]
fn a_missing_replica_is_made_and_filled() {
    let tree = Tree::new()
        .file("readme", "hello")
        .file("empty file", "")
        .file("docs/deep/er/guide.md", "# guide")
        .dir("empty directory")
        .symlink("link", "readme");
    Scratch::new().with_source(&tree).sync();
}

#[test]
fn an_empty_source_gives_an_empty_replica() {
    Scratch::new().with_source(&Tree::new()).sync();
}

#[test]
fn a_second_run_touches_nothing() {
    let tree = Tree::new()
        .files("docs", 20)
        .file("big", noise(1, 9 * MB))
        .dir("empty")
        .symlink("link", "docs");
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    let before = Snapshot::with_inodes(&scratch.replica());
    let changed = fs::metadata(scratch.replica().join("docs/f0")).unwrap();

    let run = scratch.sync();
    assert!(run.actions().is_empty(), "{run}");
    let after = Snapshot::with_inodes(&scratch.replica());
    crate::support::assert_same("replica before and after", &before, &after);
    let now = fs::metadata(scratch.replica().join("docs/f0")).unwrap();
    let ctimes = [&changed, &now].map(|file| (file.ctime(), file.ctime_nsec()));
    assert_eq!(ctimes[0], ctimes[1], "an unchanged file was written to");
}

#[test]
fn a_change_of_one_file_leaves_the_others_their_inodes() {
    let scratch = Scratch::new().with_source(&Tree::new().files("", 10));
    scratch.sync();
    let before = Snapshot::with_inodes(&scratch.replica());
    fs::write(scratch.source().join("f3"), "another text").unwrap();
    scratch.sync();
    let after = Snapshot::with_inodes(&scratch.replica());
    for number in 0..10 {
        let name = format!("f{number}");
        let kept = before.get(&name).unwrap().inode == after.get(&name).unwrap().inode;
        assert_eq!(kept, number != 3, "{name}");
    }
}

#[test]
fn a_change_of_the_same_size_with_the_mtime_put_back_is_found() {
    for size in [1, 100, 70_000, 8 * MB + 1] {
        let old = noise(7, size);
        let scratch = Scratch::new().with_source(&Tree::new().file("sub/file", &old));
        scratch.sync();
        let mut new = old;
        *new.last_mut().unwrap() ^= 1;
        overwrite_in_silence(&scratch.source().join("sub/file"), &new);
        scratch.sync();
    }
}

#[test]
fn a_change_in_the_replica_with_the_mtime_put_back_is_repaired() {
    let scratch = Scratch::new().with_source(&Tree::new().file("a", "right").file("b", "same"));
    scratch.sync();
    overwrite_in_silence(&scratch.replica().join("a"), b"wrong");
    scratch.sync();
}

#[test]
fn files_of_every_interesting_size_are_copied_and_repaired() {
    let sizes = [
        0,
        1,
        2,
        63,
        64,
        65,
        4095,
        4096,
        4097,
        65_535,
        65_536,
        65_537,
        256_000,
        262_145,
        1_000_000,
        MB - 1,
        MB,
        MB + 1,
        8_000_000,
        8_000_001,
        8 * MB - 1,
        8 * MB,
        8 * MB + 1,
        20 * MB,
    ];
    let mut tree = Tree::new();
    for (seed, size) in (0..).zip(sizes) {
        tree = tree.file(format!("{size}"), noise(seed, size));
    }
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    for (size, place) in sizes.into_iter().filter(|size| *size > 0).zip(0_usize..) {
        let at = scratch.replica().join(format!("{size}"));
        let mut bytes = fs::read(&at).unwrap();
        // At the front, in the middle, at the end, in turn.
        bytes[[0, size / 2, size - 1][place % 3]] ^= 0x80;
        overwrite_in_silence(&at, &bytes);
    }
    scratch.sync();
}

#[test]
fn a_file_that_grew_and_one_that_shrank_are_replaced() {
    let tree = Tree::new()
        .file("grows", "short")
        .file("shrinks", noise(1, 100_000))
        .file("emptied", "full")
        .file("filled", "");
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    for (name, bytes) in [
        ("grows", noise(2, 100_000)),
        ("shrinks", noise(3, 10)),
        ("emptied", Vec::new()),
        ("filled", noise(4, 1)),
    ] {
        fs::write(scratch.source().join(name), bytes).unwrap();
    }
    scratch.sync();
}

#[test]
fn what_only_the_replica_has_is_removed() {
    let shared = Tree::new().file("keep/file", "kept").symlink("link", "keep");
    let more = Tree::new()
        .file("keep/file", "kept")
        .file("keep/extra", "gone")
        .file("tree/a/b/c", "gone")
        .dir("tree/empty")
        .dir("empty")
        .symlink("dangling", "nowhere")
        .symlink("tree/up", "../keep")
        .fifo("pipe")
        .file("read-only", "gone")
        .mode(0o400)
        .file("locked/file", "gone")
        .dir("locked")
        .mode(0o555);
    let scratch = Scratch::ordinary().with_replica(&more).with_source(&shared);
    scratch.sync();
}

#[test]
fn empty_directories_are_made_and_removed() {
    let scratch = Scratch::new().with_source(&Tree::new().dir("a/b/c").dir("d"));
    scratch.sync();
    fs::remove_dir(scratch.source().join("a/b/c")).unwrap();
    fs::remove_dir(scratch.source().join("d")).unwrap();
    fs::create_dir(scratch.source().join("a/e")).unwrap();
    scratch.sync();
}

/// Names that have broken mirrors. A single directory holds all of them.
fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        b"line\nbreak".as_slice(),
        b"\n",
        b"carriage\rreturn",
        b"tab\t",
        b"\x1b[31mred",
        b"\x01\x7f",
        b"not utf-8 \xff\xfe",
        b"\xff",
        b"half a char \xc3",
        b"-rf",
        b"--once",
        b" ",
        b" leading and trailing ",
        b"...",
        b".hidden",
        b"~",
        b"*?[a]{b}$HOME`x`!&|;<>",
        b"quote\"s'",
        b"back\\slash",
        b"\\xff",
        b"\\n",
        b"%s%n",
        b"CON",
        b"file.",
        "zażółć 文件 🦀".as_bytes(),
        // Composed and decomposed: two names.
        "\u{e9}".as_bytes(),
        "e\u{301}".as_bytes(),
        b"Case",
        b"case",
        // Nearly, but not quite, the program's own names.
        b".twindir.0123456789abcde.tmp",
        b".twindir.0123456789abcdef0.tmp",
        b".twindir.0123456789abcdeg.tmp",
        b".twindir.0123456789abcdef.tm",
        b".twindir.tmp",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    names.push(vec![b'x'; 255]);
    names.push(vec![0xfe; 255]);
    names
}

#[test]
fn names_of_any_bytes_are_mirrored_and_removed() {
    let mut tree = Tree::new();
    for name in odd_names() {
        tree = tree.file(&name, &name);
        for parent in odd_names().into_iter().take(10) {
            let below = [b"dirs/", parent.as_slice(), b"/", name.as_slice()].concat();
            tree = tree.symlink(below, &name);
        }
    }
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    for name in odd_names() {
        fs::remove_file(path(&scratch.source(), &name)).unwrap();
    }
    scratch.sync();
}

#[test]
fn odd_names_change_their_kind_too() {
    let [mut files, mut dirs] = [Tree::new(), Tree::new()];
    for name in odd_names() {
        files = files.file(&name, "a file");
        dirs = dirs.file([name.as_slice(), b"/inside"].concat(), "below");
    }
    Scratch::new().with_source(&files).with_replica(&dirs).sync();
    Scratch::new().with_source(&dirs).with_replica(&files).sync();
}

#[test]
fn a_path_longer_than_path_max_is_mirrored() {
    const LEVELS: usize = 25;
    let name = "d".repeat(200);
    let scratch = Scratch::new().with_source(&Tree::new());
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let mut dir = rustix::fs::open(scratch.source(), flags, Mode::empty()).unwrap();
    for _ in 0..LEVELS {
        rustix::fs::mkdirat(&dir, &*name, Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, &*name, flags, Mode::empty()).unwrap();
    }
    let create = OFlags::CREATE | OFlags::WRONLY;
    let file = rustix::fs::openat(&dir, "bottom", create, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"down here").unwrap();
    scratch.once(&[]).expect(0);

    let mut dir = rustix::fs::open(scratch.replica(), flags, Mode::empty()).unwrap();
    for _ in 0..LEVELS {
        dir = rustix::fs::openat(&dir, &*name, flags, Mode::empty()).unwrap();
    }
    let stat = rustix::fs::statat(&dir, "bottom", AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert_eq!(stat.st_size, 9);

    // And away again, in one go.
    fs::remove_dir_all(scratch.source().join(&name)).unwrap();
    scratch.once(&["--max-delete", "100%"]).expect(0);
    scratch.assert_twins();
}

#[test]
fn a_wide_directory_is_mirrored() {
    let scratch = Scratch::new().with_source(&Tree::new().files("", 3000).files("sub", 1000));
    scratch.sync();
}

#[test]
fn the_number_of_threads_makes_no_difference() {
    let tree = Tree::new().files("a/b", 50).files("c", 50).dir("d");
    for threads in ["1", "2", "7"] {
        let scratch = Scratch::new().with_source(&tree);
        scratch.once(&["--threads", threads]).expect(0);
        scratch.assert_twins();
    }
}

#[test]
fn two_names_of_one_source_file_are_two_files_in_the_replica() {
    let scratch = Scratch::new().with_source(&Tree::new().file("one", "text"));
    fs::hard_link(scratch.source().join("one"), scratch.source().join("two")).unwrap();
    scratch.sync();
    let [one, two] = ["one", "two"].map(|name| inode(&scratch.replica().join(name)));
    assert_ne!(one, two);
}

#[test]
fn a_replica_file_that_cannot_be_read_is_replaced() {
    let scratch = Scratch::ordinary()
        .with_source(&Tree::new().file("file", "text"))
        .with_replica(&Tree::new().file("file", "text").mode(0));
    scratch.sync();
}

#[test]
fn what_lies_about_in_a_replica_from_a_killed_run_is_removed() {
    let leftovers = Tree::new()
        .file(".twindir.0123456789abcdef.tmp", "half a file")
        .file("sub/.twindir.00000000000000ff.tmp/deep/tree", "put aside")
        .symlink("sub/.twindir.fedcba9876543210.tmp", "../elsewhere");
    let scratch =
        Scratch::new().with_source(&Tree::new().file("sub/file", "text")).with_replica(&leftovers);
    scratch.sync();
    assert!(scratch.temporaries().is_empty());
}

#[test]
fn temporary_names_in_the_source_are_not_mirrored_and_no_news_while_they_are_young() {
    let name = ".twindir.0123456789abcdef.tmp";
    let scratch = Scratch::new().with_source(&Tree::new().file("sub/file", "text"));
    // Before it is written, so that the directory has its final time.
    fs::write(scratch.source().join("sub").join(name), "not ours").unwrap();
    let run = scratch.once(&[]).expect(0);
    assert!(run.stderr.is_empty(), "{run}");
    assert!(scratch.temporaries().is_empty());
    let source = Snapshot::of(&scratch.source()).without(|at, _| at.ends_with(name.as_bytes()));
    crate::support::assert_same(
        "all but the reserved name",
        &source,
        &Snapshot::of(&scratch.replica()),
    );
}

#[test]
fn a_directory_that_its_mode_locks_is_still_mirrored_into() {
    let scratch = Scratch::ordinary().with_source(
        &Tree::new()
            .file("locked/sub/old", "old")
            .dir("locked/sub")
            .mode(0o555)
            .dir("locked")
            .mode(0o555),
    );
    scratch.sync();
    let sub = scratch.source().join("locked/sub");
    set_mode(&sub, 0o755);
    fs::write(sub.join("new"), "new").unwrap();
    fs::remove_file(sub.join("old")).unwrap();
    scratch.own(&sub);
    set_mode(&sub, 0o555);
    scratch.sync();
}
