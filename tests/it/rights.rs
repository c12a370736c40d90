//! Who is let in: nothing in the replica is open to more people than in the source, at any instant,
//! whatever its owners do meanwhile. Most of it by root, which gives files to others.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{
    Background, DEADLINE, Live, Scratch, Tree, guard, is_root, owners, set_mode, set_mtime, skip,
    wait_until,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Somebody who owns a part of both trees.
const ALICE: u32 = 1_234;

const SECRET: &[u8] = b"for root's eyes";

fn mode(at: &Path) -> u32 {
    fs::symlink_metadata(at).unwrap().permissions().mode() & 0o7777
}

/// Gives an entry away, and its mode back, which that takes from it.
fn give(at: &Path, to: u32) {
    let before = mode(at);
    chown(at, Some(to), Some(to)).unwrap();
    set_mode(at, before);
}

#[test]
fn a_program_of_somebody_elses_does_not_come_to_run_as_the_one_who_mirrors_it() {
    if !is_root() {
        return skip("a program of another user takes root to make");
    }
    let tree = Tree::new()
        .file("theirs", "x")
        .mode(0o6755)
        .file("own", "x")
        .mode(0o6711)
        .dir("d")
        .mode(0o2755);
    let scratch = Scratch::ordinary().with_source(&tree);
    for name in ["theirs", "d"] {
        give(&scratch.source().join(name), ALICE);
    }
    let run = scratch.once(&[]).expect(0);
    let modes = ["theirs", "own", "d"].map(|name| mode(&scratch.replica().join(name)));
    assert_eq!(modes, [0o755, 0o6711, 0o2755], "{run}");
    let again = scratch.once(&[]).expect(0);
    assert!(again.actions().is_empty(), "{again}");
    scratch.run(["--check", "source", "replica"]).expect(0);
}

#[test]
fn a_file_that_comes_to_run_as_its_owner_is_made_anew() {
    for special in [0o4755, 0o2755] {
        let scratch = Scratch::new().with_source(&Tree::new().file("tool", "text").mode(0o755));
        scratch.sync();
        let copy = scratch.replica().join("tool");
        let held = File::options().write(true).open(&copy).unwrap();
        set_mode(&scratch.source().join("tool"), special);
        scratch.sync();
        let (held, now) = (held.metadata().unwrap(), fs::metadata(&copy).unwrap());
        assert_ne!(held.ino(), now.ino(), "whoever holds it open can still write to it");
        assert_eq!((held.mode() & 0o7777, now.mode() & 0o7777), (0o755, special));
    }
}

/// Alice has a file in the source, for all to read, and one of root's beside its twin in the
/// replica. She exchanges the two all the time.
#[test]
fn what_is_put_in_the_place_of_a_file_does_not_get_the_mode_of_that() {
    if !is_root() {
        return skip("a file of root's takes root to make");
    }
    let live = Live::of(&Tree::new().file("d/f", SECRET).mode(0o600));
    give(&live.at("d/f"), ALICE);
    live.scratch.wait_twins();
    let (twin, roots) = (live.copy("d/f"), live.copy("d/roots"));
    fs::write(&roots, SECRET).unwrap();
    set_mode(&roots, 0o600);
    // So that neither has to be read.
    set_mtime(&roots, 1_700_000_000, 0);
    set_mtime(&live.at("d/f"), 1_700_000_000, 0);
    let mtime = |at: &Path| fs::symlink_metadata(at).unwrap().mtime();
    wait_until("it has its time", DEADLINE, || mtime(&twin) == mtime(&roots));
    let held = File::open(&roots).unwrap();
    let attack = Background::start((twin, roots), |(twin, roots)| {
        // There and back, so that it is where it was as often as not.
        for _ in 0..2 {
            let _ = renameat_with(CWD, &*twin, CWD, &*roots, RenameFlags::EXCHANGE);
            for _ in 0..fastrand::u16(..2_000) {
                std::hint::spin_loop();
            }
        }
    });
    let end = Instant::now() + Duration::from_secs(3);
    for round in 0.. {
        set_mode(&live.at("d/f"), if round % 2 == 0 { 0o4777 } else { 0o600 });
        std::thread::sleep(Duration::from_millis(20));
        let stands = held.metadata().unwrap();
        assert!(stands.uid() != 0 || stands.mode() & 0o7777 == 0o600, "mode {:o}", stands.mode());
        if Instant::now() > end {
            break;
        }
    }
    attack.stop();
    let Live { daemon, scratch } = live;
    drop(daemon);
    scratch.sync();
    assert_eq!(owners(&scratch.source()), owners(&scratch.replica()));
}

/// A directory of the source for everybody, and in its place in the replica one of root's, with a
/// secret in it.
fn displaced(more: &Tree) -> Scratch {
    let open = more.clone().dir("d").mode(0o777).file("d/f", "public");
    let closed =
        more.clone().dir("d").mode(0o700).file("d/secret", SECRET).file("d/in/secret", SECRET);
    let scratch = Scratch::new().with_source(&open).with_replica(&closed);
    if is_root() {
        give(&scratch.source().join("d"), ALICE);
    }
    open_to_all(&scratch);
    scratch
}

/// Everybody may rename what lies in both trees.
fn open_to_all(scratch: &Scratch) {
    set_mode(&scratch.source(), 0o777);
    set_mode(&scratch.replica(), 0o777);
}

#[test]
fn a_directory_is_opened_to_others_only_when_what_they_may_not_see_has_gone() {
    for options in [&[][..], &["--quick"]] {
        let scratch = displaced(&Tree::new());
        let guards = ["secret", "in"].map(|entry| guard(&scratch.replica().join("d"), entry));
        scratch.once(options).expect(0);
        for guard in guards {
            guard.stop();
        }
        scratch.assert_twins();
    }
}

#[test]
fn a_directory_that_is_moved_in_the_place_of_another_is_opened_only_when_it_holds_what_that_did() {
    let live = Live::of(
        &Tree::new()
            .dir("all")
            .mode(0o777)
            .dir("all/d")
            .mode(0o700)
            .file("all/d/f", "public")
            .dir("all/roots")
            .mode(0o700)
            .file("all/roots/secret", SECRET),
    );
    let (d, roots) = (live.copy("all/d"), live.copy("all/roots"));
    fs::rename(&d, live.copy("all/away")).unwrap();
    fs::rename(&roots, &d).unwrap();
    let guard = guard(&d, "secret");
    set_mode(&live.at("all/d"), 0o755);
    wait_until("it is open", DEADLINE, || mode(&d) == 0o755);
    guard.stop();
    assert!(!d.join("secret").exists());
}

#[test]
fn a_directory_stays_closed_while_what_it_holds_is_held() {
    let scratch = displaced(&Tree::new().files("many", 150));
    fs::remove_dir_all(scratch.source().join("many")).unwrap();
    scratch.once(&[]).expect(1).stderr_has(" held ");
    assert_eq!(mode(&scratch.replica().join("d")), 0o700);
    assert!(scratch.replica().join("d/secret").exists());
    scratch.once(&["--max-delete", "100%"]).expect(0);
    scratch.assert_twins();
}

/// Gives one directory after the other to somebody else, or to another group, and saves a secret in
/// it at once. In the replica nobody sees it as long as the directory is whose it was.
#[test]
fn what_is_saved_in_a_directory_that_was_given_away_is_not_in_one_that_was_not() {
    if !is_root() {
        return skip("only root gives directories away");
    }
    let names: Vec<String> = (0..40).map(|number| format!("d{number}")).collect();
    let tree = names.iter().fold(Tree::new(), |tree, name| {
        tree.file(format!("{name}/f"), "public").dir(name).mode(0o770)
    });
    let scratch = Scratch::new().with_source(&tree);
    for name in &names {
        give(&scratch.source().join(name), ALICE);
    }
    let daemon = scratch.watcher(&[]);
    let live = Live { daemon, scratch };
    let copies: Vec<_> = names.iter().map(|name| live.copy(name)).collect();
    let watcher = Background::start(copies, |copies| {
        for dir in copies {
            let is_secret = fs::read(dir.join("f")).is_ok_and(|text| text == SECRET);
            let now = fs::symlink_metadata(&dir).unwrap();
            let is_hers = now.uid() == ALICE || (now.gid() == ALICE && now.mode() & 0o070 != 0);
            assert!(
                !is_secret || !is_hers,
                "{}: {:?}",
                dir.display(),
                (now.uid(), now.gid(), now.mode())
            );
        }
    });
    for (number, name) in (0..).zip(&names) {
        let dir = live.at(name);
        let owner = Some(0).filter(|_| number % 2 == 0);
        chown(&dir, owner, Some(0)).unwrap();
        if owner.is_none() {
            chown(&dir, Some(0), None).unwrap();
        }
        fs::write(dir.join("f"), SECRET).unwrap();
        live.scratch.wait_twins();
    }
    watcher.stop();
}

#[test]
fn a_tree_that_is_given_away_is_followed_by_the_watch_and_by_a_sweep() {
    if !is_root() {
        return skip("only root gives files away");
    }
    let tree = Tree::new()
        .file("a/b/c/f", "x")
        .files("a/b/many", 300)
        .file("a/f", "x")
        .symlink("a/l", "f");
    let live = Live::of(&tree);
    let chown = |who: &str| live.sh(&format!("chown -hR {who} a; chmod 750 a/b"));
    let is_followed = || owners(&live.scratch.source()) == owners(&live.scratch.replica());
    for who in ["1234:1234", "0:1234", "2000:0"] {
        chown(who);
        wait_until("the owners are the same", DEADLINE, is_followed);
        live.wait();
    }
    let Live { daemon, scratch } = live;
    drop(daemon);
    for who in ["1234:1234", "0:0"] {
        let run =
            std::process::Command::new("chown").args(["-hR", who]).arg(scratch.source()).status();
        assert!(run.unwrap().success());
        let run = scratch.sync();
        assert_eq!(run.stderr, "");
        assert_eq!(owners(&scratch.source()), owners(&scratch.replica()));
    }
}

/// Root's directory and everybody's have the same names in them, of the same size, mode and age.
#[test]
fn two_directories_that_change_places_are_opened_only_with_what_they_are_to_hold() {
    let of = |public: &str, secret: &str, mode: u32| {
        Tree::new()
            .dir("public")
            .mode(mode)
            .file("public/f", public)
            .dir("secret")
            .mode(0o700)
            .file("secret/f", secret)
    };
    let public = "for all to see.";
    assert_eq!(public.len(), SECRET.len());
    let secret = str::from_utf8(SECRET).unwrap();
    // In the replica each lies where the other should, and both are closed.
    let scratch = Scratch::new()
        .with_source(&of(public, secret, 0o755))
        .with_replica(&of(secret, public, 0o700));
    open_to_all(&scratch);
    let dir = scratch.replica().join("public");
    let watcher = Background::start((File::open(&dir).unwrap(), dir.join("f")), |(dir, file)| {
        // In this order: what is there after it was open can be seen.
        let strangers = dir.metadata().unwrap().mode() & 0o077;
        let is_secret = fs::read(file).is_ok_and(|text| text == SECRET);
        assert!(strangers == 0 || !is_secret, "open with the secret in it: {strangers:o}");
    });
    scratch.once(&[]).expect(0);
    watcher.stop();
    scratch.assert_twins();
}

/// Who owns a directory of the source says what is excluded in it, but not whose entries are shown.
#[test]
fn what_the_owner_of_a_directory_excludes_does_not_open_it() {
    if !is_root() {
        return skip("a directory of another user takes root to make");
    }
    let scratch = displaced(&Tree::new());
    fs::write(scratch.source().join("d/.gitignore"), "*\n").unwrap();
    let copy = scratch.replica().join("d");
    let daemon = scratch.starting_watcher(&["--gitignore"]);
    wait_until("it is told of", DEADLINE, || {
        daemon.stderr().contains("d: it stays restricted in the replica")
    });
    assert_eq!((mode(&copy), fs::read(copy.join("secret")).unwrap()), (0o700, SECRET.to_vec()));
    drop(daemon);
    fs::remove_dir_all(copy.join("in")).unwrap();
    fs::remove_file(copy.join("secret")).unwrap();
    scratch.once(&["--gitignore"]).expect(0);
    assert_eq!(mode(&copy), 0o777);
}

/// Where others can write, a file of the same size and age need not be the one.
#[test]
fn a_file_that_was_put_in_the_place_of_another_is_read_before_its_mode_is_set() {
    let live =
        Live::of(&Tree::new().dir("d").mode(0o777).file("d/f", "for all to see.").mode(0o600));
    let (twin, roots) = (live.copy("d/f"), live.copy("roots"));
    let shown = fs::symlink_metadata(&twin).unwrap();
    fs::write(&roots, SECRET).unwrap();
    set_mode(&roots, 0o600);
    set_mtime(&roots, shown.mtime(), shown.mtime_nsec());
    let held = File::open(&roots).unwrap();
    fs::rename(&roots, &twin).unwrap();
    set_mode(&live.at("d/f"), 0o644);
    wait_until("it is the source's", DEADLINE, || mode(&twin) == 0o644);
    assert_eq!(fs::read(&twin).unwrap(), b"for all to see.");
    assert_eq!(held.metadata().unwrap().mode() & 0o7777, 0o600);
}

/// As soon as a directory is made, another is in its place.
#[test]
fn what_is_put_in_the_place_of_a_new_directory_is_not_opened() {
    let live = Live::of(&Tree::new().dir("all").mode(0o777).file("all/stays", "x"));
    let (roots, new) = (live.copy("all/.secrets"), live.copy("all/d"));
    fs::create_dir(&roots).unwrap();
    set_mode(&roots, 0o700);
    fs::write(roots.join("secret"), SECRET).unwrap();
    let held = File::open(&roots).unwrap();
    let attack = Background::start(0, move |taken| {
        if renameat_with(CWD, &roots, CWD, &new, RenameFlags::EXCHANGE).is_ok() {
            *taken += 1;
        }
    });
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        live.sh("mkdir all/d; chmod 777 all/d; echo x >all/d/f");
        for _ in 0..20 {
            let stands = held.metadata().unwrap();
            let is_there = stands.nlink() != 0
                && fs::read(format!("/proc/self/fd/{}/secret", held.as_raw_fd())).is_ok();
            let strangers = stands.mode() & 0o077;
            assert!(strangers == 0 || !is_there, "{:o}", stands.mode());
            std::thread::yield_now();
        }
        live.sh("rm -r all/d");
    }
    assert_ne!(attack.stop(), 0);
}

#[test]
fn a_directory_in_which_files_are_saved_all_the_time_is_given_away_at_once() {
    if !is_root() {
        return skip("only root gives files away");
    }
    let scratch = Scratch::new().with_source(&Tree::new().dir("d").mode(0o750).files("d", 20));
    scratch.sync();
    let saves = Background::start((scratch.source().join("d/hot"), 0_u32), |(file, saves)| {
        *saves += 1;
        fs::write(file, saves.to_string()).unwrap();
    });
    // It knows of no directory yet, and no walk finds this one equal.
    let live = Live { daemon: scratch.starting_watcher(&[]), scratch };
    for (owner, mode_of) in [(ALICE, 0o750), (0, 0o777), (ALICE, 0o700)] {
        chown(live.at("d"), Some(owner), Some(owner)).unwrap();
        set_mode(&live.at("d"), mode_of);
        wait_until("the replica's is, too", DEADLINE, || {
            let now = fs::symlink_metadata(live.copy("d")).unwrap();
            (now.uid(), now.gid(), now.mode() & 0o7777) == (owner, owner, mode_of)
        });
    }
    saves.stop();
    live.scratch.wait_twins();
}

/// Alice has a directory of her own in the place of root's, into which root moves files; and it is
/// in her directory.
#[test]
fn what_is_moved_into_a_directory_that_somebody_has_exchanged_is_not_seen_there() {
    if !is_root() {
        return skip("a directory of another user takes root to make");
    }
    let live = Live::of(&Tree::new().dir("all").mode(0o777).files("all/one", 300).dir("all/other"));
    live.sh("chmod 700 all/one all/other");
    live.wait();
    fs::rename(live.copy("all/other"), live.copy("all/away")).unwrap();
    fs::create_dir(live.copy("all/other")).unwrap();
    set_mode(&live.copy("all/other"), 0o777);
    chown(live.copy("all/other"), Some(ALICE), Some(ALICE)).unwrap();
    let watcher = Background::start(File::open(live.copy("all/other")).unwrap(), |dir| {
        // In this order: what is there before it is open can be seen.
        let holds_any =
            fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd())).unwrap().next().is_some();
        let now = dir.metadata().unwrap();
        assert!(
            (now.uid(), now.mode() & 0o7777) == (0, 0o700) || !holds_any,
            "{} {:o}",
            now.uid(),
            now.mode()
        );
    });
    live.sh("mv all/one/* all/other");
    wait_until("all have come", DEADLINE, || {
        fs::read_dir(live.copy("all/other")).unwrap().count() == 300
    });
    watcher.stop();
}

#[test]
fn what_is_copied_while_deletions_are_held_is_seen_by_nobody_else() {
    if !is_root() {
        return skip("a directory of another user takes root to make");
    }
    let tree = Tree::new().dir("all").mode(0o777).files("many", 150).file("all/d/f", "first");
    let scratch = Scratch::new().with_source(&tree.clone().dir("all/d").mode(0o700));
    scratch.sync();
    // Hers is in its place.
    let (dir, file) = (scratch.replica().join("all/d"), scratch.replica().join("all/d/f"));
    fs::remove_dir_all(&dir).unwrap();
    tree.make(&scratch.replica());
    chown(&dir, Some(ALICE), Some(ALICE)).unwrap();
    fs::remove_dir_all(scratch.source().join("many")).unwrap();
    fs::write(scratch.source().join("all/d/f"), SECRET).unwrap();
    scratch.once(&[]).expect(1).stderr_has(" held ");
    assert_eq!(fs::read(&file).unwrap(), SECRET);
    assert_eq!((fs::metadata(&dir).unwrap().uid(), mode(&dir)), (0, 0o700));
}

#[test]
fn what_is_being_removed_is_seen_by_nobody() {
    let live =
        Live::of(&Tree::new().files("d/sub", 5_000).dir("d").mode(0o700).files("more", 6_000));
    live.sh("mkdir ../away; mv d/sub ../away; chmod 755 d");
    let mut removed = 0;
    wait_until("it has gone", DEADLINE, || {
        let entries = fs::read_dir(live.copy("d")).unwrap();
        for aside in entries.filter_map(|entry| entry.unwrap().metadata().ok()) {
            removed += 1;
            let is_open = fs::metadata(live.copy("d")).unwrap().mode() & 0o077 != 0;
            let strangers = aside.mode() & 0o077;
            assert!(!is_open || strangers == 0, "{strangers:o}");
        }
        removed > 0 && live.scratch.temporaries().is_empty()
    });
}

/// Somebody has given the replica's directory another group; or it has an ACL, and is locked.
#[test]
fn a_directory_that_differs_is_right_again_after_a_save_in_it() {
    let tree = Tree::new().file("d/f", "first").file("locked/f", "first").dir("locked").mode(0o555);
    let live = Live::of(&tree);
    let named = crate::support::xattr::acl([7, 5, 5, 5, 5]);
    let has_acl =
        crate::support::xattr::set_xattr(&live.at("locked"), "system.posix_acl_access", named)
            .is_ok();
    live.wait();
    let group = if is_root() { 7 } else { rustix::process::getgid().as_raw() };
    chown(live.copy("d"), None, Some(group)).unwrap();
    for name in ["d/f", "locked/f"] {
        fs::write(live.at(name), "second").unwrap();
    }
    live.scratch.wait_twins();
    assert_eq!(owners(&live.scratch.source()), owners(&live.scratch.replica()));
    assert!(has_acl || !is_root(), "the file system knows no ACLs");
}

#[test]
fn a_single_run_that_leaves_a_directory_closed_sweeps_once() {
    let scratch = displaced(&Tree::new());
    let run = scratch
        .once(&["--exclude", "secret"])
        .expect(1)
        .stderr_has("d: it stays restricted in the replica");
    assert_eq!(run.stdout.matches(" sweep ").count(), 1, "{run}");
}
