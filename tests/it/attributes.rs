//! Extended attributes of users, and POSIX ACLs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::xattr::{
    ACCESS, DEFAULT, acl, assert_same_xattrs, keeps, remove_xattr, set_xattr, xattrs,
};
use crate::support::{Run, Scratch, Tree, is_root, noise, set_mode, skip};

/// Makes them equal, attributes too; then a second run has nothing to do.
#[track_caller]
fn sync(scratch: &Scratch) -> Run {
    let run = scratch.sync();
    assert_same_xattrs(&scratch.source(), &scratch.replica());
    let again = scratch.sync();
    assert!(again.actions().is_empty(), "it had not settled\n{again}");
    assert_same_xattrs(&scratch.source(), &scratch.replica());
    run
}

#[track_caller]
fn set(at: &Path, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    set_xattr(at, name, value).unwrap();
}

/// A source of this tree where attributes of this kind are kept.
fn on(scratch: Scratch, name: &str, tree: &Tree) -> Option<Scratch> {
    if !keeps(scratch.root(), name) {
        skip(&format!("the file system keeps no {name}"));
        return None;
    }
    Some(scratch.with_source(tree))
}

fn some_of_each() -> Tree {
    Tree::new()
        .file("file", "text")
        .file("big", vec![b'x'; 2_000_000])
        .file("empty", "")
        .dir("dir")
        .file("dir/inside", "text")
        .symlink("link", "file")
}

const NAMES: [&str; 6] = ["file", "big", "empty", "dir", "dir/inside", ""];

#[test]
fn attributes_are_mirrored_when_they_come_change_and_go() {
    let Some(scratch) = on(Scratch::ordinary(), "user.x", &some_of_each()) else { return };
    let at = |name: &str| scratch.source().join(name);
    // With the copy.
    for name in NAMES {
        set(&at(name), "user.first", name);
    }
    sync(&scratch);
    // Beside it.
    for name in NAMES {
        set(&at(name), "user.second", "value");
    }
    let run = sync(&scratch);
    assert_eq!(run.actions().len(), NAMES.len(), "{run}");
    assert!(run.stdout.contains("metadata"), "{run}");
    for name in NAMES {
        set(&at(name), "user.second", "other");
        remove_xattr(&at(name), "user.first");
    }
    sync(&scratch);
    for name in NAMES {
        remove_xattr(&at(name), "user.second");
    }
    sync(&scratch);
    for name in NAMES {
        assert!(xattrs(&scratch.replica().join(name)).is_empty(), "{name}");
    }
}

#[test]
fn attributes_that_the_replica_got_of_somebody_else_go() {
    let Some(scratch) = on(Scratch::new(), "user.x", &some_of_each()) else { return };
    sync(&scratch);
    for name in NAMES {
        set(&scratch.replica().join(name), "user.foreign", "x");
    }
    sync(&scratch);
}

#[test]
fn many_and_large_and_odd_attributes_are_mirrored() {
    let tree =
        Tree::new().file("many", "text").file("large", "text").file("odd", "text").dir("dir");
    let Some(scratch) = on(Scratch::ordinary(), "user.x", &tree) else { return };
    let at = |name: &str| scratch.source().join(name);
    for number in 0..50 {
        for name in ["many", "dir"] {
            set(&at(name), format!("user.number {number}"), format!("value {number}"));
        }
    }
    // An ext4 of 4 kB blocks takes no more in one value.
    set(&at("large"), "user.large", noise(1, 4000));
    set(&at("odd"), "user.empty", "");
    set(&at("odd"), b"user.\xff\n\"=\\", b"\0\xff\n");
    set(&at("odd"), format!("user.{:x<250}", ""), "the longest name");
    sync(&scratch);
    assert_eq!(xattrs(&scratch.replica().join("many")).len(), 50);
    for number in (0..50).step_by(3) {
        remove_xattr(&at("many"), format!("user.number {number}"));
    }
    set(&at("large"), "user.large", noise(2, 4000));
    sync(&scratch);
}

#[test]
fn attributes_of_entries_that_are_read_only_are_mirrored() {
    let tree = Tree::new()
        .file("locked/file", "text")
        .mode(0o444)
        .file("locked/none", "text")
        .mode(0o400)
        .dir("locked")
        .mode(0o555);
    let Some(scratch) = on(Scratch::ordinary(), "user.x", &tree) else { return };
    let names = ["locked/file", "locked/none", "locked"];
    for round in 0..3 {
        for name in names {
            let at = scratch.source().join(name);
            let mode = fs::metadata(&at).unwrap().mode() & 0o7777;
            set_mode(&at, 0o755);
            set(&at, "user.round", [round]);
            set_mode(&at, mode);
        }
        sync(&scratch);
    }
}

#[test]
fn contents_and_attributes_that_change_at_once_are_both_mirrored() {
    let Some(scratch) = on(Scratch::ordinary(), "user.x", &some_of_each()) else { return };
    sync(&scratch);
    for (name, text) in
        [("file", "TEXT"), ("empty", "no longer"), ("dir/inside", "longer than before")]
    {
        let at = scratch.source().join(name);
        fs::write(&at, text).unwrap();
        set(&at, "user.new", text);
    }
    sync(&scratch);
}

#[test]
fn attributes_of_the_system_are_left_alone() {
    if !is_root() {
        return skip("trusted attributes are root's");
    }
    let Some(scratch) = on(Scratch::new(), "trusted.x", &some_of_each()) else { return };
    set(&scratch.source().join("file"), "trusted.mine", "x");
    sync(&scratch);
    let mut value = [0; 8];
    let found = rustix::fs::lgetxattr(scratch.replica().join("file"), "trusted.mine", &mut value);
    assert_eq!(found, Err(rustix::io::Errno::NODATA));
}

#[test]
fn access_acls_are_mirrored_when_they_come_change_and_go() {
    for scratch in [Scratch::new(), Scratch::ordinary()] {
        let Some(scratch) = on(scratch, ACCESS, &some_of_each()) else { return };
        let at = |name: &str| scratch.source().join(name);
        for name in NAMES {
            set(&at(name), ACCESS, acl([7, 6, 5, 7, 5]));
        }
        sync(&scratch);
        let before = fs::metadata(scratch.replica().join("file")).unwrap().ino();
        for name in NAMES {
            set(&at(name), ACCESS, acl([7, 4, 5, 5, 1]));
        }
        sync(&scratch);
        assert_eq!(before, fs::metadata(scratch.replica().join("file")).unwrap().ino());
        // The mode's group bits are the mask of the ACL.
        for name in NAMES {
            set_mode(&at(name), 0o2751);
        }
        sync(&scratch);
        for name in NAMES {
            remove_xattr(&at(name), ACCESS);
        }
        sync(&scratch);
        for name in NAMES {
            assert!(xattrs(&scratch.replica().join(name)).is_empty(), "{name}");
        }
    }
}

#[test]
fn default_acls_of_directories_are_mirrored_when_they_come_change_and_go() {
    for scratch in [Scratch::new(), Scratch::ordinary()] {
        let Some(scratch) = on(scratch, DEFAULT, &some_of_each()) else { return };
        for name in ["dir", ""] {
            let at = scratch.source().join(name);
            set(&at, DEFAULT, acl([7, 6, 5, 7, 5]));
        }
        sync(&scratch);
        for name in ["dir", ""] {
            let at = scratch.source().join(name);
            set(&at, DEFAULT, acl([7, 1, 5, 5, 0]));
            set(&at, ACCESS, acl([7, 5, 5, 5, 5]));
        }
        sync(&scratch);
        for name in ["dir", ""] {
            remove_xattr(&scratch.source().join(name), DEFAULT);
        }
        sync(&scratch);
    }
}

#[test]
fn nothing_is_inherited_from_a_default_acl_that_its_source_lacks() {
    for scratch in [Scratch::new(), Scratch::ordinary()] {
        let Some(scratch) = on(scratch, DEFAULT, &some_of_each()) else { return };
        let rule = acl([7, 7, 7, 7, 7]);
        for name in ["dir", ""] {
            set(&scratch.source().join(name), DEFAULT, &rule);
        }
        sync(&scratch);
        // Now both sides hand their ACL down to what is made; the source's is taken away.
        let names =
            ["new file", "new dir", "new dir/deep", "dir/new file", "dir/new dir", "dir/new big"];
        Tree::new()
            .file("new file", "text")
            .mode(0o640)
            .file("new dir/deep", "text")
            .file("dir/new file", "text")
            .mode(0o600)
            .file("dir/new big", vec![b'x'; 2_000_000])
            .dir("dir/new dir")
            .mode(0o700)
            .symlink("dir/new link", "target")
            .make(&scratch.source());
        for name in names {
            let at = scratch.source().join(name);
            let mode = fs::metadata(&at).unwrap().mode() & 0o7777;
            for kind in xattrs(&at).keys() {
                remove_xattr(&at, kind);
            }
            set_mode(&at, mode);
        }
        scratch.own(&scratch.source());
        sync(&scratch);
        for name in names {
            assert!(xattrs(&scratch.replica().join(name)).is_empty(), "{name} has inherited");
        }
        // And contents that change are copied into a file of its own in that directory.
        fs::write(scratch.source().join("dir/new file"), "longer than before").unwrap();
        fs::write(scratch.source().join("new file"), "TEXT").unwrap();
        sync(&scratch);
    }
}

#[test]
fn a_default_acl_of_the_replica_alone_goes_and_leaves_no_trace() {
    let Some(scratch) = on(Scratch::ordinary(), DEFAULT, &some_of_each()) else { return };
    let scratch = scratch.with_replica(&Tree::new().dir("dir"));
    for name in ["dir", ""] {
        set(&scratch.replica().join(name), DEFAULT, acl([7, 7, 7, 7, 7]));
        set(&scratch.replica().join(name), ACCESS, acl([7, 7, 7, 7, 7]));
    }
    sync(&scratch);
}
