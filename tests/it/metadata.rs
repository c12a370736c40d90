//! Modes with their upper bits, times, owners; and what is changed in place and what is not.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, lchown};
use std::path::Path;
use std::process::Command;

use crate::support::{
    Daemon, Scratch, Snapshot, Tree, assert_same, is_root, owners, set_mode, set_mtime, skip, xattr,
};

fn inode(at: &Path) -> u64 {
    fs::symlink_metadata(at).unwrap().ino()
}

/// A second run has nothing to do, and changes nothing.
#[track_caller]
fn assert_settled(scratch: &Scratch) {
    let before = Snapshot::with_inodes(&scratch.replica());
    let run = scratch.once(&[]).expect(0);
    assert!(run.actions().is_empty(), "it had not settled\n{run}");
    assert_same("the run after", &before, &Snapshot::with_inodes(&scratch.replica()));
}

#[test]
fn setuid_setgid_and_sticky_bits_are_mirrored() {
    let mut tree = Tree::new();
    let modes = [0o4755, 0o2755, 0o6711, 0o1644, 0o7777, 0o4444, 0o2600];
    for mode in modes {
        tree = tree.file(format!("file {mode:o}"), "text").mode(mode);
        // Copied in another way than a small one.
        tree = tree.file(format!("big file {mode:o}"), vec![b'x'; 300_000]).mode(mode);
    }
    for mode in [0o1777, 0o2755, 0o3775, 0o4755, 0o6755] {
        tree = tree
            .dir(format!("dir {mode:o}"))
            .mode(mode)
            .file(format!("dir {mode:o}/inside"), "text");
    }
    for scratch in [Scratch::new(), Scratch::ordinary()] {
        let scratch = scratch.with_source(&tree);
        scratch.sync();
        assert_settled(&scratch);
        // Each gets the mode of its neighbour: bits come and go, and one that only loses some stays
        // the same file.
        let before = inode(&scratch.replica().join("file 7777"));
        for (index, mode) in modes.iter().enumerate() {
            let next = modes[(index + 1) % modes.len()];
            set_mode(&scratch.source().join(format!("file {mode:o}")), next);
        }
        scratch.sync();
        assert_eq!(before, inode(&scratch.replica().join("file 7777")));
        assert_settled(&scratch);
    }
}

#[test]
fn a_setuid_file_keeps_its_bits_when_its_contents_change() {
    let tree =
        Tree::new().file("same size", "before").mode(0o4755).file("longer", "before").mode(0o6755);
    let scratch = Scratch::ordinary().with_source(&tree);
    scratch.sync();
    for (name, text, mode) in [("same size", "BEFORE", 0o4755), ("longer", "behind it", 0o6755)] {
        let at = scratch.source().join(name);
        fs::write(&at, text).unwrap();
        // Writing takes the bits away from an ordinary user's file.
        set_mode(&at, mode);
    }
    scratch.sync();
    assert_settled(&scratch);
}

#[test]
fn what_is_made_in_a_setgid_directory_inherits_nothing_that_its_source_lacks() {
    let tree = Tree::new().dir("shared").mode(0o2775).dir("shared/old").mode(0o755);
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    let later = Tree::new()
        .file("shared/file", "text")
        .dir("shared/plain")
        .dir("shared/plain/deep")
        .dir("shared/setgid")
        .mode(0o2755)
        .symlink("shared/link", "file");
    later.make(&scratch.source());
    set_mode(&scratch.source().join("shared"), 0o2775);
    if is_root() {
        lchown(scratch.source().join("shared"), Some(0), Some(4321)).unwrap();
        set_mode(&scratch.source().join("shared"), 0o2775);
        scratch.sync();
        // Entries of the group 0 in a directory of the group 4321.
        Tree::new().file("shared/second", "text").dir("shared/dir").make(&scratch.source());
        for name in ["second", "dir"] {
            lchown(scratch.source().join("shared").join(name), Some(0), Some(0)).unwrap();
        }
    }
    scratch.sync();
    if is_root() {
        assert_eq!(owners(&scratch.source()), owners(&scratch.replica()));
    }
    assert_settled(&scratch);
}

#[test]
fn mtimes_are_exact_to_the_nanosecond_for_each_kind() {
    let times = [
        (0, 0),
        (0, 1),
        (1, 999_999_999),
        (1_600_000_000, 123_456_789),
        (4_000_000_000, 7),
        (-5, 3),
    ];
    let mut tree = Tree::new();
    for (number, (seconds, nanoseconds)) in times.into_iter().enumerate() {
        tree = tree
            .file(format!("file {number}"), "text")
            .mtime(seconds, nanoseconds)
            .dir(format!("dir {number}"))
            .mtime(seconds, nanoseconds)
            .symlink(format!("link {number}"), "nowhere")
            .mtime(seconds, nanoseconds);
    }
    let scratch = Scratch::ordinary().with_source(&tree);
    scratch.sync();
    assert_settled(&scratch);
    let link = scratch.replica().join("link 3");
    let before = inode(&link);
    // By one nanosecond.
    for name in ["file 3", "dir 3", "link 3"] {
        set_mtime(&scratch.source().join(name), 1_600_000_000, 123_456_790);
    }
    scratch.sync();
    assert_eq!(before, inode(&link), "the symlink was made anew");
    assert_settled(&scratch);
}

#[test]
fn a_change_of_metadata_alone_keeps_the_inode() {
    let tree = Tree::new()
        .file("mode", "text")
        .file("mtime", "text")
        .file("xattr", "text")
        .file("big", vec![b'x'; 2_000_000])
        .dir("dir")
        .file("dir/inside", "text")
        .symlink("link", "target")
        .file("owner", "text")
        .dir("owner dir");
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    let names =
        ["mode", "mtime", "xattr", "big", "dir", "dir/inside", "link", "owner", "owner dir"];
    let inodes = || names.map(|name| inode(&scratch.replica().join(name)));
    let before = inodes();
    let at = |name: &str| scratch.source().join(name);
    set_mode(&at("mode"), 0o711);
    set_mtime(&at("mtime"), 5, 5);
    set_mtime(&at("link"), 6, 6);
    set_mode(&at("big"), 0o400);
    set_mode(&at("dir"), 0o700);
    if xattr::keeps(scratch.root(), "user.probe") {
        xattr::set_xattr(&at("xattr"), "user.name", "value").unwrap();
        xattr::set_xattr(&at("dir"), "user.name", "value").unwrap();
    }
    if is_root() {
        chown(at("owner"), Some(1234), Some(4321)).unwrap();
        chown(at("owner dir"), Some(1234), Some(4321)).unwrap();
    }
    scratch.sync();
    xattr::assert_same_xattrs(&scratch.source(), &scratch.replica());
    assert_eq!(before, inodes(), "inodes of {names:?}");
    assert_settled(&scratch);
}

#[test]
fn a_snapshot_of_hard_links_does_not_change_with_the_replica() {
    let names =
        ["mode", "mtime", "xattr", "same size", "longer", "empty", "removed", "dir/deep", "owner"];
    let mut tree = Tree::new()
        .symlink("link", "target")
        .symlink("link mtime", "target")
        .symlink("own", "target");
    for name in names {
        tree = tree.file(name, "before");
    }
    tree = tree.file("big mode", vec![b'x'; 2_000_000]).file("big", vec![b'x'; 2_000_000]);
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    let at = |name: &str| scratch.source().join(name);
    let with_xattrs = xattr::keeps(scratch.root(), "user.probe");
    let mut copy = Command::new("cp");
    copy.arg("-al").args([scratch.replica(), scratch.path("snapshot")]);
    Daemon::run(copy).expect(0);
    let snapshot = scratch.path("snapshot");
    let (before, owned) = (Snapshot::with_inodes(&snapshot), owners(&snapshot));

    set_mode(&at("mode"), 0o600);
    set_mode(&at("big mode"), 0o600);
    set_mtime(&at("mtime"), 5, 5);
    set_mtime(&at("link mtime"), 5, 5);
    if with_xattrs {
        xattr::set_xattr(&at("xattr"), "user.name", "value").unwrap();
    }
    if is_root() {
        chown(at("owner"), Some(1234), Some(4321)).unwrap();
        lchown(at("own"), Some(1234), Some(4321)).unwrap();
    }
    fs::write(at("same size"), "BEFORE").unwrap();
    fs::write(at("longer"), "longer than before").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("big"), vec![b'y'; 2_000_000]).unwrap();
    fs::write(at("dir/deep"), "BEFORE").unwrap();
    fs::remove_file(at("removed")).unwrap();
    fs::remove_file(at("link")).unwrap();
    std::os::unix::fs::symlink("behind", at("link")).unwrap();

    scratch.sync();
    xattr::assert_same_xattrs(&scratch.source(), &scratch.replica());
    assert_same("the snapshot", &before, &Snapshot::with_inodes(&snapshot));
    assert_eq!(owned, owners(&snapshot));
    assert!(xattr::all_xattrs(&snapshot).is_empty(), "attributes came into the snapshot");
    assert_settled(&scratch);
}

#[test]
fn owner_and_group_are_mirrored_by_root() {
    if !is_root() {
        return skip("only root may give files away");
    }
    let tree = Tree::new()
        .file("file", "text")
        .file("big", vec![b'x'; 300_000])
        .file("setuid", "text")
        .mode(0o6755)
        .dir("dir")
        .dir("setgid")
        .mode(0o2755)
        .symlink("link", "file")
        .symlink("dangling", "/nowhere");
    let scratch = Scratch::new().with_source(&tree);
    let give = |name: &str, uid, gid| {
        let at = scratch.source().join(name);
        let mode = fs::symlink_metadata(&at).unwrap().mode() & 0o7777;
        lchown(&at, Some(uid), Some(gid)).unwrap();
        if !at.is_symlink() {
            // The change of owner has cleared the upper bits.
            set_mode(&at, mode);
        }
    };
    let names = ["file", "big", "setuid", "dir", "setgid", "link", "dangling"];
    for (uid, name) in (1000..).zip(names) {
        give(name, uid, uid + 500);
    }
    give("", 77, 88);
    scratch.sync();
    assert_eq!(owners(&scratch.source()), owners(&scratch.replica()));
    assert_settled(&scratch);

    for (uid, name) in (3000..).zip(names) {
        // The user alone, the group alone.
        if uid % 2 == 0 {
            give(name, uid, 1500 + uid - 3000);
        } else {
            give(name, 1000 + uid - 3000, uid);
        }
    }
    let target = scratch.path("target");
    fs::write(&target, "not to be given away").unwrap();
    let run = scratch.sync();
    assert_eq!(run.actions().len(), names.len(), "{run}");
    assert_eq!(owners(&scratch.source()), owners(&scratch.replica()));
    assert_settled(&scratch);
}

#[test]
fn a_file_that_its_former_owner_may_hold_open_does_not_become_setuid() {
    if !is_root() {
        return skip("only root gives files away");
    }
    let tree = |mode| Tree::new().file("tool", "runs as root").mode(mode);
    let scratch = Scratch::new().with_source(&tree(0o4755)).with_replica(&tree(0o755));
    let copy = scratch.replica().join("tool");
    chown(&copy, Some(1234), Some(1234)).unwrap();
    let held = fs::File::options().write(true).open(&copy).unwrap();
    scratch.sync();
    let metadata = held.metadata().unwrap();
    assert_ne!(metadata.ino(), inode(&copy), "whoever holds it open can still write to it");
    assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (1234, 0o755));
    assert_settled(&scratch);
}

#[test]
fn an_ordinary_user_leaves_out_the_owner_in_silence() {
    if !is_root() {
        return skip("a tree of another user takes root to make");
    }
    let tree = Tree::new()
        .file("file", "text")
        .file("dir/deep", "text")
        .file("setuid", "text")
        .mode(0o755)
        .symlink("link", "file");
    let scratch = Scratch::ordinary().with_source(&tree);
    for name in ["file", "dir", "dir/deep", "setuid", "link"] {
        lchown(scratch.source().join(name), Some(0), Some(0)).unwrap();
    }
    let run = scratch.sync();
    assert_eq!(run.stderr, "", "nothing to complain of");
    for (path, owner) in owners(&scratch.replica()) {
        assert_eq!(owner, (65_534, 65_534), "{}", path.display());
    }
    assert_settled(&scratch);
    scratch.run(["--check", "source", "replica"]).expect(0);
}

/// A group of this process that is not its first, if it has one.
fn supplementary_group() -> Option<u32> {
    let first = rustix::process::getegid().as_raw();
    let groups = rustix::process::getgroups().unwrap_or_default();
    groups.into_iter().map(rustix::process::Gid::as_raw).find(|group| *group != first)
}

#[test]
fn an_ordinary_user_gives_what_groups_it_is_in() {
    let scratch = Scratch::ordinary().with_source(
        &Tree::new()
            .file("file", "text")
            .file("setgid", "text")
            .mode(0o2755)
            .dir("dir")
            .symlink("link", "file"),
    );
    let (group, prefix): (u32, &[&str]) = if is_root() {
        (4242, &["setpriv", "--reuid", "65534", "--regid", "65534", "--groups", "4242"])
    } else {
        match supplementary_group() {
            Some(group) => (group, &["env"]),
            None => return skip("this user is in one group only"),
        }
    };
    if is_root() && Command::new("setpriv").arg("--version").output().is_err() {
        return skip("no setpriv here");
    }
    let names = ["file", "setgid", "dir", "link"];
    for name in names {
        lchown(scratch.source().join(name), None, Some(group)).unwrap();
    }
    set_mode(&scratch.source().join("setgid"), 0o2755);
    if is_root() {
        // A group that it is not in: left out.
        let at = scratch.source().join("foreign");
        fs::write(&at, "text").unwrap();
        chown(&at, Some(65_534), Some(4343)).unwrap();
    }
    let once = || {
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).arg(scratch.program()).args(["--once", "source", "replica"]);
        command.current_dir(scratch.root()).env_remove("XDG_RUNTIME_DIR");
        Daemon::run(command).expect(0)
    };
    once();
    scratch.assert_twins();
    let found = owners(&scratch.replica());
    for name in names {
        assert_eq!(found[Path::new(name)].1, group, "{name}");
    }
    let run = once();
    assert!(run.actions().is_empty(), "it had not settled\n{run}");
}
