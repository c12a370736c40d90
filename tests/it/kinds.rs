//! Every kind of entry that becomes another, symlinks, special files, modes and times.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::support::{
    Background, Live, Run, Scratch, Snapshot, Tree, is_root, set_mode, set_mtime, skip,
};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, renameat_with};

const KINDS: [&str; 5] = ["absent", "file", "empty-dir", "full-dir", "symlink"];

/// Adds an entry of this kind. `side` makes that files, links and trees of two sides differ.
fn with(tree: Tree, name: &str, kind: &str, side: &str) -> Tree {
    match kind {
        "absent" => tree,
        "file" => tree.file(name, format!("a file of the {side}")),
        "empty-dir" => tree.dir(name),
        "full-dir" => tree
            .file(format!("{name}/same"), "same")
            .file(format!("{name}/{side}"), side)
            .dir(format!("{name}/deep/{side}/empty"))
            .symlink(format!("{name}/deep/link"), side),
        "symlink" => tree.symlink(name, format!("target/of/{side}")),
        other => unreachable!("{other}"),
    }
}

fn remove(at: &Path) {
    match fs::symlink_metadata(at) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(at).unwrap(),
        Ok(_) => fs::remove_file(at).unwrap(),
        Err(_) => {}
    }
}

#[test]
fn every_kind_becomes_every_other_when_all_change_at_once() {
    let [mut source, mut replica] = [Tree::new(), Tree::new()];
    for from in KINDS {
        for to in KINDS {
            let name = format!("{from} to {to}");
            replica = with(replica, &name, from, "replica");
            source = with(source, &name, to, "source");
        }
    }
    let scratch = Scratch::new().with_source(&source).with_replica(&replica);
    scratch.sync();
    assert!(scratch.sync().actions().is_empty(), "it had not settled");
}

#[test]
fn every_kind_becomes_every_other_by_itself() {
    for from in KINDS {
        for to in KINDS {
            let old = with(Tree::new().file("beside", "it"), "sub/it", from, "old");
            let scratch = Scratch::new().with_source(&old.dir("sub"));
            scratch.sync();
            remove(&scratch.source().join("sub/it"));
            with(Tree::new(), "sub/it", to, "new").make(&scratch.source());
            println!("{from} to {to}");
            scratch.sync();
        }
    }
}

#[test]
fn a_name_that_changes_its_kind_again_and_again_is_followed() {
    let scratch = Scratch::new().with_source(&Tree::new().dir("sub").file("beside", "x"));
    for step in 0..12 {
        remove(&scratch.source().join("sub"));
        let kind = KINDS[(step * 2 + step / 5) % KINDS.len()];
        with(Tree::new(), "sub", kind, "x").make(&scratch.source());
        println!("step {step}: {kind}");
        scratch.sync();
    }
}

#[test]
fn symlinks_are_mirrored_as_symlinks() {
    let long = "a/".repeat(1500);
    let tree = Tree::new()
        .file("dir/file", "text")
        .symlink("to file", "dir/file")
        .symlink("to directory", "dir")
        .symlink("to itself", "to itself")
        .symlink("to the top", ".")
        .symlink("dangling", "no/such/thing")
        .symlink("absolute", "/etc/passwd")
        .symlink("dir/out", "../../../../../../etc")
        .symlink("odd target", b"\xff\n \x01")
        .symlink("long target", &long)
        .symlink("old", "dir")
        .mtime(1, 1);
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    let before = Snapshot::with_inodes(&scratch.replica());
    assert!(scratch.sync().actions().is_empty());
    crate::support::assert_same(
        "the second run",
        &before,
        &Snapshot::with_inodes(&scratch.replica()),
    );
}

#[test]
fn a_symlink_with_another_target_is_replaced_and_one_with_another_mtime_corrected() {
    let tree = Tree::new().symlink("target", "before").symlink("mtime", "same").file("before", "");
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    let target = scratch.source().join("target");
    fs::remove_file(&target).unwrap();
    // As long as before, and with the old mtime.
    symlink("behind", &target).unwrap();
    set_mtime(&target, 1_600_000_000, 123_456_789);
    set_mtime(&scratch.source().join("mtime"), 5, 999_999_999);
    scratch.sync();
}

fn named_once(run: &Run, name: &str) {
    let lines =
        run.stdout.lines().filter(|line| line.contains(name) && line.contains("not mirrored"));
    assert_eq!(lines.count(), 1, "{name}\n{run}");
}

#[test]
fn special_files_are_named_once_and_never_opened_nor_mirrored() {
    let tree = Tree::new()
        .file("file", "text")
        .fifo("a-fifo")
        .fifo("sub/over-a-file")
        .fifo("sub/over-a-directory");
    let stale = Tree::new()
        .file("sub/over-a-file", "stale")
        .file("sub/over-a-directory/inside", "stale")
        .file("a-socket", "stale");
    let scratch = Scratch::new().with_source(&tree).with_replica(&stale);
    let listener = UnixListener::bind(scratch.source().join("a-socket")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut names = vec!["a-fifo", "over-a-file", "over-a-directory", "a-socket"];
    if is_root() {
        let device = scratch.source().join("a-device");
        // The null device; where a sandbox forbids it, the rest is still proved.
        let null = rustix::fs::makedev(1, 3);
        let kind = FileType::CharacterDevice;
        if rustix::fs::mknodat(CWD, device, kind, Mode::RUSR, null).is_ok() {
            names.push("a-device");
        }
    }
    // A FIFO opened for reading would block, and the run would not end.
    let run = scratch.sync();
    for name in names {
        named_once(&run, name);
    }
    assert!(listener.accept().is_err(), "somebody connected");
}

#[test]
fn what_is_said_at_every_run_is_no_warning() {
    let tree = Tree::new().file("file", "text").fifo("a-fifo");
    let scratch = Scratch::new().with_source(&tree);
    let _socket = UnixListener::bind(scratch.source().join("a-socket")).unwrap();
    fs::hard_link(scratch.source().join("file"), scratch.source().join("link")).unwrap();
    for _ in 0..2 {
        let run = scratch.once(&["-q"]).expect(0);
        assert!(run.stdout.is_empty() && run.stderr.is_empty(), "{run}");
    }
    let run = scratch.once(&[]).expect(0);
    assert!(run.stdout.contains(" links ") && run.stdout.contains(" note "), "{run}");
}

#[test]
fn a_daemon_names_a_special_file_once_not_at_each_sweep() {
    let scratch = Scratch::new().with_source(&Tree::new().file("file", "text").fifo("a-fifo"));
    let daemon = scratch.daemon("0.1");
    daemon.wait_settled(1);
    daemon.wait_sweeps(4);
    assert_eq!(daemon.stdout().matches("a-fifo").count(), 1, "{}", daemon.stdout());
}

#[test]
fn a_special_file_that_becomes_a_file_is_mirrored_and_back() {
    let scratch = Scratch::new().with_source(&Tree::new().fifo("it").file("f", "text"));
    scratch.sync();
    fs::remove_file(scratch.source().join("it")).unwrap();
    Tree::new().file("it", "a file now").make(&scratch.source());
    scratch.sync();
    fs::remove_file(scratch.source().join("it")).unwrap();
    Tree::new().fifo("it").make(&scratch.source());
    scratch.sync();
}

#[test]
fn all_mode_bits_of_files_and_directories_are_mirrored() {
    let mut tree = Tree::new();
    for mode in [0o400, 0o444, 0o600, 0o666, 0o700, 0o777, 0o1644, 0o2755, 0o4755, 0o6711, 0o7777] {
        tree = tree.file(format!("file-{mode:o}"), "text").mode(mode);
    }
    for mode in [0o500, 0o555, 0o700, 0o777, 0o1777, 0o2750, 0o3777] {
        tree = tree.file(format!("dir-{mode:o}/inside"), "text");
        tree = tree.dir(format!("dir-{mode:o}")).mode(mode);
    }
    let scratch = Scratch::ordinary().with_source(&tree);
    scratch.sync();
    // Root may chown, which clears bits that must come back.
    Scratch::new().with_source(&tree).sync();
    assert!(scratch.sync().actions().is_empty());
}

#[test]
fn the_umask_of_the_program_leaves_no_trace() {
    let scratch = Scratch::new().with_source(&Tree::new().file("a/b", "text").mode(0o666));
    let mut command = std::process::Command::new("sh");
    scratch.prepare(&mut command);
    command.args(["-c", "umask 077; exec \"$0\" --once source replica"]);
    command.arg(scratch.program());
    crate::support::Daemon::run(command).expect(0);
    scratch.assert_twins();
}

#[test]
fn mtimes_are_mirrored_to_the_nanosecond() {
    let tree = Tree::new()
        .file("one-ns", "a")
        .mtime(1_700_000_000, 1)
        .file("most-ns", "b")
        .mtime(1_700_000_000, 999_999_999)
        .file("epoch", "c")
        .mtime(0, 0)
        .file("before-the-epoch", "d")
        .mtime(-86_400, 500_000_001)
        .file("future", "e")
        .mtime(4_000_000_000, 42)
        .file("dir/inside", "f")
        .dir("dir")
        .mtime(1_234_567_890, 987_654_321)
        .dir("dir/empty")
        .mtime(1, 2)
        .symlink("link", "dir")
        .mtime(3, 4);
    let scratch = Scratch::new().with_source(&tree);
    set_mtime(&scratch.source(), 1_500_000_000, 111_222_333);
    scratch.sync();
}

#[test]
fn mode_and_mtime_of_the_root_are_mirrored() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "text"));
    for (mode, seconds) in [(0o755, 1_000_000_000), (0o700, 5), (0o1777, 2_000_000_000)] {
        set_mode(&scratch.source(), mode);
        set_mtime(&scratch.source(), seconds, 77);
        scratch.sync();
    }
}

#[test]
fn a_directorys_mtime_is_right_also_after_its_entries_changed() {
    let tree = Tree::new().files("a/b", 3).files("a/c", 3);
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    let at = |name: &str| scratch.source().join(name);
    fs::write(at("a/b/f0"), "longer than before").unwrap();
    fs::remove_file(at("a/b/f1")).unwrap();
    fs::write(at("a/b/new"), "new").unwrap();
    // Only an entry changed, and its directory says nothing of it.
    fs::write(at("a/c/f0"), "FILE 0").unwrap();
    set_mtime(&at("a/b"), 1_111_111_111, 111_111_111);
    set_mtime(&at("a"), 1_222_222_222, 222_222_222);
    scratch.sync();
}

#[test]
fn a_changed_mode_or_mtime_is_set_in_place() {
    let tree = Tree::new().file("mode", "text").file("mtime", "text").file("both", "text");
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    let before = Snapshot::with_inodes(&scratch.replica());
    set_mode(&scratch.source().join("mode"), 0o600);
    set_mtime(&scratch.source().join("mtime"), 9, 9);
    set_mode(&scratch.source().join("both"), 0o751);
    set_mtime(&scratch.source().join("both"), 10, 10);
    scratch.sync();
    let after = Snapshot::with_inodes(&scratch.replica());
    for name in ["mode", "mtime", "both"] {
        let [old, new] = [&before, &after].map(|tree| tree.get(name).unwrap().inode);
        assert_eq!(old, new, "{name} was copied anew");
    }
}

#[test]
fn a_snapshot_that_shares_the_replicas_inodes_is_never_changed() {
    let tree = Tree::new()
        .file("mode", "text")
        .file("mtime", "text")
        .file("contents", "text")
        .file("kept", "text");
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    let snapshot = scratch.path("snapshot");
    fs::create_dir(&snapshot).unwrap();
    for name in ["mode", "mtime", "contents", "kept"] {
        fs::hard_link(scratch.replica().join(name), snapshot.join(name)).unwrap();
    }
    let before = Snapshot::with_inodes(&snapshot);
    set_mode(&scratch.source().join("mode"), 0o600);
    set_mtime(&scratch.source().join("mtime"), 9, 9);
    fs::write(scratch.source().join("contents"), "TEXT").unwrap();
    scratch.sync();
    crate::support::assert_same("the snapshot", &before, &Snapshot::with_inodes(&snapshot));
    let kept = [&snapshot, &scratch.replica()].map(|dir| fs::metadata(dir.join("kept")).unwrap());
    assert_eq!(kept[0].ino(), kept[1].ino(), "no need to copy this one");
}

#[test]
fn modes_and_times_changed_in_the_replica_are_put_right() {
    let tree = Tree::new().file("a/b", "text").dir("c").symlink("l", "c");
    let scratch = Scratch::new().with_source(&tree);
    scratch.sync();
    for name in ["a/b", "a", "c", ""] {
        set_mode(&scratch.replica().join(name), 0o711);
        set_mtime(&scratch.replica().join(name), 77, 77);
    }
    set_mtime(&scratch.replica().join("l"), 77, 77);
    scratch.sync();
}

#[test]
fn root_mirrors_owner_and_group() {
    if !is_root() {
        return skip("only root may give files away");
    }
    let scratch = Scratch::new().with_source(&Tree::new().file("a/b", "x").symlink("l", "a"));
    for name in ["a", "a/b", "l"] {
        let at = scratch.source().join(name);
        std::os::unix::fs::lchown(at, Some(1234), Some(4321)).unwrap();
    }
    set_mode(&scratch.source().join("a/b"), 0o6755);
    scratch.sync();
    for name in ["a", "a/b", "l"] {
        let metadata = fs::symlink_metadata(scratch.replica().join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (1234, 4321), "{name}");
    }
}

#[test]
fn names_that_change_their_kind_all_the_time_are_no_problem() {
    let live = Live::of(
        &Tree::new().file("d/file", "text").symlink("d/link", "target").file("d/dir/in it", "x"),
    );
    let exchange =
        |one: &Path, other: &Path| renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
    let [file, link, dir, fresh] =
        ["d/file", "d/link", "d/dir", "d/fresh"].map(|name| live.at(name));
    if exchange(&file, &link).is_err() {
        return skip("this file system exchanges no names");
    }
    let pairs = [(file.clone(), link.clone()), (link, dir.clone()), (dir, file)];
    let flips = pairs
        .map(|pair| Background::start(pair, move |(one, other)| exchange(one, other).unwrap()));
    let makes = Background::start(fresh, |at| {
        fs::write(&*at, "a file").unwrap();
        remove(at);
        symlink("a link", &*at).unwrap();
        remove(at);
        fs::create_dir(&*at).unwrap();
        remove(at);
    });
    for save in 0..12 {
        live.answer(&format!("save{save}"));
    }
    for flip in flips {
        flip.stop();
    }
    makes.stop();
    live.scratch.wait_twins();
    let problems: Vec<_> =
        live.lines().into_iter().filter(|line| line.operation == "problem").collect();
    assert!(problems.is_empty(), "{problems:#?}");
}
