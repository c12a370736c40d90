//! When directories are opened to others: not before all that stands in them and above them is as
//! closed as in the source.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::support::{
    Background, DEADLINE, Daemon, Live, Scratch, Tree, guard, is_root, set_mode, skip, wait_until,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};

const SECRET: &[u8] = b"not for strangers";

/// Somebody besides the one who mirrors.
const ALICE: u32 = 1_234;

/// What others may do with an entry; nothing where it is not there.
fn strangers(at: &Path) -> u32 {
    fs::symlink_metadata(at).map_or(0, |found| found.permissions().mode() & 0o077)
}

#[test]
fn what_is_saved_is_not_seen_through_a_directory_above_that_somebody_has_exchanged() {
    let tree = Tree::new()
        .file("all/private/q/old", "x")
        .dir("all/private")
        .mode(0o700)
        .file("all/public/q/old", "x")
        .dir("all")
        .mode(0o777);
    let live = Live::of(&tree);
    let [private, public] = ["all/private", "all/public"].map(|name| live.copy(name));
    renameat_with(CWD, &private, CWD, &public, RenameFlags::EXCHANGE).unwrap();
    fs::write(live.at("all/private/q/new"), SECRET).unwrap();
    wait_until("it is copied", DEADLINE, || private.join("q/new").exists());
    assert_eq!(strangers(&private), 0);
    set_mode(&live.at("all/public"), 0o711);
    wait_until("that is closed, too", DEADLINE, || strangers(&public) == 0o011);
}

#[test]
fn a_new_directory_is_not_opened_while_the_one_in_its_place_holds_what_that_did() {
    for script in [
        "mv d ../away; mkdir -m 755 d",
        "mv d x; mv x ../away; mkdir -m 755 d x",
        "mkdir -m 755 new; mv d ../away; mv new d",
    ] {
        let live =
            Live::of(&Tree::new().files("d", 300).file("d/secret", SECRET).dir("d").mode(0o700));
        let guard = guard(&live.copy("d"), "secret");
        live.sh(&format!("{script}; echo public >d/public"));
        live.scratch.wait_twins();
        guard.stop();
    }
}

#[test]
fn a_directory_is_not_opened_while_a_big_file_in_it_is_not_yet_copied() {
    let live = Live::roomy(&Tree::new().file("d/big", SECRET).dir("d").mode(0o700));
    let write = |name: &str, text: &[u8]| {
        let path = live.scratch.path(name);
        fs::write(&path, text).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(200_000_000).unwrap();
        fs::rename(path, live.at("d/big")).unwrap();
    };
    write("first", SECRET);
    live.scratch.wait_twins();
    let copy = live.copy("d");
    let spy = Background::start((copy.clone(), copy.join("big")), |(dir, big)| {
        let is_open = strangers(dir) != 0;
        let mut text = [0; SECRET.len()];
        File::open(big).unwrap().read_exact(&mut text).unwrap();
        assert!(!is_open || text != SECRET, "open with the old version in it");
    });
    write("second", b"for everybody to read");
    set_mode(&live.at("d"), 0o755);
    live.scratch.wait_twins();
    spy.stop();
}

#[test]
fn the_replica_itself_is_not_opened_while_it_holds_what_the_source_does_not() {
    for options in [&[][..], &["--quick"]] {
        let scratch = Scratch::new()
            .with_source(&Tree::new().files("new", 500).files("", 500))
            .with_replica(&Tree::new().file("secret", SECRET));
        set_mode(&scratch.source(), 0o755);
        set_mode(&scratch.replica(), 0o700);
        let guard = guard(&scratch.replica(), "secret");
        scratch.once(options).expect(0);
        guard.stop();
        scratch.assert_twins();
    }
}

#[test]
fn what_is_moved_to_where_others_can_see_it_is_closed_before() {
    let tree = Tree::new().files("private", 40).dir("private").mode(0o700).dir("public");
    let tree = (0..40).fold(tree, |tree, n| tree.file(format!("private/d{n}/e/f"), SECRET));
    let live = Live::of(&tree);
    let spy = Background::start(live.copy("public"), |public: &mut PathBuf| {
        for number in 0..40 {
            let at = |name: &str| public.join(name.replace('#', &number.to_string()));
            assert_eq!(strangers(&at("f#")), 0, "f{number}");
            let is_open = strangers(&at("d#")) != 0;
            assert!(!is_open || strangers(&at("d#/e")) == 0, "d{number}");
        }
    });
    for number in 0..40 {
        set_mode(&live.at(&format!("private/f{number}")), 0o600);
        set_mode(&live.at(&format!("private/d{number}/e")), 0o700);
        live.sh(&format!("mv private/f{number} private/d{number} public"));
    }
    live.scratch.wait_twins();
    spy.stop();
}

#[test]
fn a_directory_is_not_opened_while_what_is_to_go_from_it_cannot() {
    let scratch =
        Scratch::new().with_source(&Tree::new().file("d/secret", SECRET).dir("d").mode(0o700));
    let backup = scratch.path("backup");
    fs::create_dir(&backup).unwrap();
    let daemon =
        Daemon::spawn(scratch.command(["source", "replica", "1h", "--backup-dir", "backup"]));
    daemon.wait_settled(1);
    let guard = guard(&scratch.replica().join("d"), "secret");
    fs::remove_dir_all(&backup).unwrap();
    fs::remove_file(scratch.source().join("d/secret")).unwrap();
    set_mode(&scratch.source().join("d"), 0o755);
    wait_until("it is a problem", DEADLINE, || daemon.stderr().contains("d/secret"));
    fs::create_dir(&backup).unwrap();
    scratch.wait_twins();
    guard.stop();
}

#[test]
fn nothing_is_saved_in_a_directory_that_a_stranger_has_put_in_the_place_of_another() {
    if !is_root() {
        return skip("a directory of somebody else's takes root to make");
    }
    let tree = Tree::new().file("all/d/f", "x").dir("all/d").mode(0o700).dir("all").mode(0o777);
    for mode in [0o777, 0o700] {
        let scratch = Scratch::ordinary().with_source(&tree);
        let daemon = scratch.watcher(&[]);
        let copy = scratch.replica().join("all/d");
        fs::rename(&copy, scratch.path("away")).unwrap();
        fs::create_dir(&copy).unwrap();
        set_mode(&copy, mode);
        chown(&copy, Some(ALICE), Some(ALICE)).unwrap();
        fs::write(scratch.source().join("all/d/new"), SECRET).unwrap();
        wait_until("it is a problem", DEADLINE, || daemon.stderr().contains(" all/d: "));
        assert_eq!(fs::read_dir(&copy).unwrap().count(), 0);
    }
}

/// Directories that a group shares, one in the other, closed to others until twindir was started
/// again.
#[test]
fn nested_directories_are_opened_together() {
    let path = |depth: usize| vec!["d"; depth].join("/");
    let tree = (1..=12).fold(Tree::new(), |tree, depth| {
        tree.file(format!("{}/f", path(depth)), "x").mode(0o600).dir(path(depth)).mode(0o2770)
    });
    let scratch = Scratch::new().with_source(&tree);
    drop(scratch.watcher(&[]));
    for depth in 1..=12 {
        set_mode(&scratch.source().join(path(depth)), 0o2775);
        set_mode(&scratch.source().join(path(depth)).join("f"), 0o644);
    }
    let daemon = scratch.watcher(&[]);
    scratch.assert_twins();
    assert!(!daemon.stderr().contains("others are not let into it"), "{}", daemon.stderr());
}

#[test]
fn what_kept_a_directory_closed_is_not_waited_for_longer_than_it_lasts() {
    let scratch =
        Scratch::ordinary().with_source(&Tree::new().file("d/x/y/f", "x").dir("d").mode(0o700));
    let daemon = scratch.watcher(&[]);
    let (at, copy) = (|name: &str| scratch.source().join(name), scratch.replica().join("d"));
    fs::write(at("d/x/y/f"), "longer").unwrap();
    set_mode(&at("d/x/y/f"), 0o044);
    wait_until("it is a problem", DEADLINE, || daemon.stderr().contains("d/x/y/f: "));
    set_mode(&at("d"), 0o755);
    // It is looked into again and again, at growing distances.
    crate::support::holds_for("it is closed", std::time::Duration::from_secs(4), || {
        strangers(&copy) == 0
    });
    set_mode(&at("d/x/y/f"), 0o644);
    let begun = std::time::Instant::now();
    scratch.wait_twins();
    assert!(begun.elapsed() < crate::support::PROMISE, "{:?}", begun.elapsed());
}

#[test]
fn a_file_that_cannot_be_read_any_more_is_closed_all_the_same() {
    let scratch = Scratch::ordinary().with_source(&Tree::new().file("f", SECRET).mode(0o644));
    let daemon = scratch.watcher(&[]);
    set_mode(&scratch.source().join("f"), 0o200);
    let copy = scratch.replica().join("f");
    if is_root() {
        wait_until("it is a problem", DEADLINE, || daemon.stderr().contains(" f: "));
    }
    wait_until("it is closed", DEADLINE, || strangers(&copy) == 0);
    assert_eq!(fs::metadata(&copy).unwrap().size(), SECRET.len() as u64);
}
