//! The quick scan: what it reads, and what it leaves unread.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::json::Json;
use support::xattr::{assert_same_xattrs, set_xattr, xattrs};
use support::{Scratch, Tree, set_mtime};

const OLD: i64 = 1_600_000_000;

fn synced() -> Scratch {
    let tree = Tree::new().files("sub", 20).file("same", "before").mtime(OLD, 1).symlink("l", "sub");
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    scratch
}

/// Pairs of files that a quick run has read.
fn quick(scratch: &Scratch) -> String {
    let run = scratch.once(&["--quick", "--log-format", "json"]).expect(0);
    let lines = Json::parse_lines(&run.stdout);
    let sweep = lines.iter().find(|line| line.text("op") == "sweep").expect("a summary");
    sweep.number("hashed").expect("a number").to_string()
}

/// Writes other bytes of the same length and puts the mtime back.
fn edit_unseen(at: &Path) {
    fs::write(at, "afters").unwrap();
    set_mtime(at, OLD, 1);
}

#[test]
fn what_has_not_changed_since_it_was_copied_is_not_read() {
    let scratch = synced();
    assert_eq!(quick(&scratch), "0");
}

#[test]
fn a_change_of_neither_size_nor_mtime_is_found() {
    let scratch = synced();
    edit_unseen(&scratch.source().join("same"));
    assert_eq!(quick(&scratch), "1");
    scratch.assert_twins();
}

#[test]
fn what_was_found_equal_is_not_read_again() {
    let scratch = synced();
    let file = scratch.source().join("same");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    assert_eq!(quick(&scratch), "1");
    assert_eq!(quick(&scratch), "0");
    scratch.assert_twins();
}

#[test]
fn attributes_that_changed_are_found() {
    let scratch = synced();
    let file = scratch.source().join("sub/f3");
    if set_xattr(&file, "user.colour", "red").is_err() {
        return support::skip("the file system has no user attributes");
    }
    quick(&scratch);
    assert_eq!(xattrs(&scratch.replica().join("sub/f3")), xattrs(&file));
    assert_same_xattrs(&scratch.source(), &scratch.replica());
}

#[test]
fn a_file_of_the_replica_that_was_tampered_with_is_left_to_the_full_sweep() {
    let scratch = synced();
    edit_unseen(&scratch.replica().join("same"));
    assert_eq!(quick(&scratch), "0");
    let found = scratch.run(["--check", "source", "replica"]).expect(1);
    assert!(found.stdout.contains("same"), "{found}");
    scratch.run(["--check", "--quick", "source", "replica"]).expect(0);
    scratch.sync();
    scratch.assert_twins();
}

#[test]
fn a_directory_that_was_moved_to_the_place_of_another_is_read() {
    let tree = Tree::new().file("cur/deep/f", "one").mtime(OLD, 1).file("next/deep/f", "two").mtime(OLD, 1);
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    // Inodes, mtimes and ctimes of the files are what they were.
    let at = |name: &str| scratch.source().join(name);
    fs::rename(at("cur"), at("old")).unwrap();
    fs::rename(at("next"), at("cur")).unwrap();
    fs::rename(at("old"), at("next")).unwrap();
    assert_eq!(quick(&scratch), "2");
    scratch.assert_twins();
}

#[test]
fn it_is_for_single_runs() {
    let scratch = synced();
    scratch.run(["--quick", "source", "replica"]).expect(2).stderr_has("--once");
}
