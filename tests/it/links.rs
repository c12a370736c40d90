//! Hard links in the source are files of their own in the replica.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use crate::support::{Live, Scratch, Snapshot, Tree, set_mode, set_mtime};

const NAMES: [&str; 4] = ["first", "second", "sub/third", "sub/deep/fourth"];

/// One file under four names, and a symlink under two; mirrored once.
fn linked(contents: &[u8]) -> Scratch {
    let tree = Tree::new()
        .file(NAMES[0], contents)
        .dir("sub/deep")
        .symlink("symlink", "first")
        .file("x", "other");
    let scratch = Scratch::ordinary().with_source(&tree);
    for name in &NAMES[1..] {
        fs::hard_link(scratch.source().join(NAMES[0]), scratch.source().join(name)).unwrap();
    }
    fs::hard_link(scratch.source().join("symlink"), scratch.source().join("sub/symlink")).unwrap();
    sync(&scratch);
    scratch
}

/// They become equal, each a file of its own, and a second run has nothing to do.
#[track_caller]
fn sync(scratch: &Scratch) {
    scratch.sync();
    let again = scratch.sync();
    assert!(again.actions().is_empty(), "it had not settled\n{again}");
    for (name, entry) in Snapshot::of(&scratch.replica()).entries {
        let at = crate::support::path(&scratch.replica(), &name);
        let links = fs::symlink_metadata(&at).unwrap().nlink();
        if entry.kind != crate::support::Kind::Dir {
            assert_eq!(links, 1, "{}", at.display());
        }
    }
}

fn at(scratch: &Scratch, name: &str) -> PathBuf {
    scratch.source().join(name)
}

#[test]
fn hard_links_are_mirrored_as_separate_files() {
    for contents in [
        &b""[..],
        b"text",
        &crate::support::noise(1, 300_000),
        &crate::support::noise(2, 9_000_000),
    ] {
        let scratch = linked(contents);
        for name in NAMES {
            assert_eq!(fs::read(scratch.replica().join(name)).unwrap(), contents, "{name}");
        }
    }
}

#[test]
fn a_change_through_one_name_changes_all() {
    let scratch = linked(b"before");
    fs::write(at(&scratch, "sub/third"), "longer than before").unwrap();
    sync(&scratch);
    // The same size, and the mtime put back.
    fs::write(at(&scratch, "second"), "LONGER THAN BEFORE").unwrap();
    set_mtime(&at(&scratch, "second"), 1_600_000_000, 1);
    sync(&scratch);
    let mut file = fs::File::options().append(true).open(at(&scratch, "first")).unwrap();
    file.write_all(b"and more").unwrap();
    sync(&scratch);
}

#[test]
fn metadata_set_through_one_name_is_that_of_all() {
    let scratch = linked(b"before");
    set_mode(&at(&scratch, "second"), 0o600);
    set_mtime(&at(&scratch, "first"), 5, 5);
    set_mtime(&at(&scratch, "sub/symlink"), 6, 6);
    sync(&scratch);
}

#[test]
fn the_time_of_a_symlink_set_through_one_name_is_that_of_all() {
    let live = Live::of(&Tree::new().symlink("first", "x").dir("sub"));
    fs::hard_link(live.at("first"), live.at("sub/second")).unwrap();
    live.wait();
    set_mtime(&live.at("sub/second"), 6, 6);
    live.wait();
}

#[test]
fn a_name_that_goes_leaves_the_others() {
    let scratch = linked(b"before");
    for name in ["first", "sub/deep/fourth", "second", "sub/third", "symlink"] {
        fs::remove_file(at(&scratch, name)).unwrap();
        sync(&scratch);
    }
}

#[test]
fn a_name_that_becomes_another_file_leaves_the_others() {
    let scratch = linked(b"before");
    // As editors save: the link is broken.
    fs::write(at(&scratch, "saved"), "behind").unwrap();
    fs::rename(at(&scratch, "saved"), at(&scratch, "second")).unwrap();
    sync(&scratch);
    fs::remove_file(at(&scratch, "sub/third")).unwrap();
    fs::create_dir(at(&scratch, "sub/third")).unwrap();
    sync(&scratch);
    fs::remove_file(at(&scratch, "first")).unwrap();
    symlink("second", at(&scratch, "first")).unwrap();
    sync(&scratch);
}

#[test]
fn names_that_are_linked_later_or_moved_are_followed() {
    let scratch = linked(b"before");
    fs::hard_link(at(&scratch, "x"), at(&scratch, "sub/y")).unwrap();
    // Over a name of another file, which becomes a link.
    fs::remove_file(at(&scratch, "second")).unwrap();
    fs::hard_link(at(&scratch, "x"), at(&scratch, "second")).unwrap();
    sync(&scratch);
    fs::rename(at(&scratch, "sub/third"), at(&scratch, "moved")).unwrap();
    fs::rename(at(&scratch, "sub"), at(&scratch, "moved dir")).unwrap();
    sync(&scratch);
}

#[test]
fn links_within_the_replica_are_taken_apart_where_they_differ() {
    let tree = Tree::new()
        .file("a", "text of a")
        .file("b", "text of b")
        .file("c", "longer")
        .file("d", "same");
    let scratch =
        Scratch::ordinary().with_source(&tree).with_replica(&Tree::new().file("a", "stale tex"));
    for name in ["b", "c"] {
        fs::hard_link(scratch.replica().join("a"), scratch.replica().join(name)).unwrap();
    }
    scratch.sync();
    let again = scratch.sync();
    assert!(again.actions().is_empty(), "it had not settled\n{again}");
}

#[test]
fn a_daemon_follows_links_that_change() {
    let scratch = linked(b"before");
    let daemon = scratch.daemon("0.1");
    daemon.wait_settled(1);
    for (round, name) in NAMES.iter().enumerate().take(3) {
        fs::write(at(&scratch, name), format!("round {round}")).unwrap();
        scratch.wait_twins();
        fs::remove_file(at(&scratch, name)).unwrap();
        scratch.wait_twins();
        fs::hard_link(at(&scratch, NAMES[3]), at(&scratch, name)).unwrap();
        scratch.wait_twins();
    }
}
