//! `--backup-dir`: what is removed or overwritten in the replica is kept first.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::support::{
    DEADLINE, Daemon, Entry, Kind, Mounts, Scratch, Snapshot, Tree, set_mode, wait_until,
};

/// The folders of a backup, the oldest first.
fn folders(backup: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(backup) else { return Vec::new() };
    let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

/// The one folder there is.
#[track_caller]
fn folder(backup: &Path) -> PathBuf {
    let mut folders = folders(backup);
    assert_eq!(folders.len(), 1, "{folders:?}");
    let name = folders[0].file_name().unwrap().to_string_lossy().into_owned();
    assert!(
        name.starts_with("twindir-2") && name.len() == "twindir-2026-11-21T08-15-30.123+0100".len(),
        "{name}"
    );
    folders.remove(0)
}

/// A pair with an entry of each kind, equal.
fn pair(scratch: Scratch) -> Scratch {
    let tree = Tree::new()
        .file("kept", "same")
        .file("d/file", "first")
        .mode(0o640)
        .mtime(1_000_000_000, 123)
        .file("d/e/deep", "deep")
        .file("big", vec![7; 3 << 20])
        .file("becomes a directory", "text")
        .dir("becomes a file/in it")
        .file("becomes a file/in it/file", "within")
        .symlink("link", "first target");
    let scratch = scratch.with_source(&tree);
    scratch.sync();
    scratch
}

/// Changes all of it but `kept`.
fn change(source: &Path) {
    fs::write(source.join("big"), "small").unwrap();
    fs::remove_dir_all(source.join("d")).unwrap();
    fs::remove_file(source.join("becomes a directory")).unwrap();
    fs::create_dir(source.join("becomes a directory")).unwrap();
    fs::remove_dir_all(source.join("becomes a file")).unwrap();
    fs::write(source.join("becomes a file"), "file").unwrap();
    fs::remove_file(source.join("link")).unwrap();
    symlink("second target", source.join("link")).unwrap();
}

/// What lies in the backup is what the replica had, but for the folder itself and the times of
/// directories in which something was put.
#[track_caller]
fn assert_kept(before: &Snapshot, folder: &Path) {
    let kept = |name: &[u8]| !name.is_empty() && name != b"kept";
    let before = before.clone().without(|name, _| !kept(name));
    let after = Snapshot::of(folder).without(|name, _| !kept(name));
    crate::support::assert_same("the backup", &before, &after);
}

#[test]
fn what_is_removed_or_overwritten_lies_in_the_backup() {
    for durable in [&["--backup-dir", "backup"][..], &["--backup-dir", "backup", "--durable"]] {
        let scratch = pair(Scratch::new());
        let before = Snapshot::of(&scratch.replica());
        let big = fs::metadata(scratch.replica().join("big")).unwrap().ino();
        change(&scratch.source());
        let run = scratch.once(durable).expect(0);
        scratch.assert_twins();
        let folder = folder(&scratch.path("backup"));
        assert_kept(&before, &folder);
        assert_eq!(fs::metadata(folder.join("big")).unwrap().ino(), big, "it is the very file");
        assert_eq!(fs::metadata(folder.join("big")).unwrap().nlink(), 1);
        assert_eq!(
            fs::metadata(&folder).unwrap().mode() & 0o777,
            0o700,
            "nobody else may look into it"
        );
        assert!(run.stdout.contains(folder.to_str().unwrap()), "{run}");
        let again = scratch.once(durable).expect(0);
        assert!(again.actions().is_empty(), "{again}");
        assert_eq!(folders(&scratch.path("backup")).len(), 1, "nothing went, nothing was begun");
    }
}

#[test]
fn on_another_file_system_it_is_copied() {
    let memory = Path::new("/dev/shm");
    let scratch = pair(Scratch::new());
    let device = |path: &Path| fs::metadata(path).map(|data| data.dev()).ok();
    if device(memory).is_none() || device(memory) == device(scratch.root()) {
        return crate::support::skip("no second file system at /dev/shm");
    }
    let backup = tempfile::tempdir_in(memory).unwrap();
    let before = Snapshot::of(&scratch.replica());
    change(&scratch.source());
    scratch.once(&["--backup-dir", backup.path().to_str().unwrap()]).expect(0);
    scratch.assert_twins();
    assert_kept(&before, &folder(backup.path()));
}

#[test]
fn a_path_that_goes_again_begins_a_new_folder() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "0").file("g", "0"));
    scratch.sync();
    let daemon = scratch.watcher(&["--backup-dir", "backup"]);
    for version in 1..=4 {
        // At once: a file that is written in two steps may be seen in between.
        fs::write(scratch.path("next"), version.to_string()).unwrap();
        fs::rename(scratch.path("next"), scratch.source().join("f")).unwrap();
        wait_until("it is followed", DEADLINE, || {
            fs::read_to_string(scratch.replica().join("f")).unwrap() == version.to_string()
        });
    }
    fs::remove_file(scratch.source().join("f")).unwrap();
    fs::remove_file(scratch.source().join("g")).unwrap();
    scratch.wait_twins();
    let folders = folders(&scratch.path("backup"));
    let kept: Vec<_> =
        folders.iter().map(|folder| fs::read_to_string(folder.join("f")).unwrap()).collect();
    assert_eq!(kept, ["0", "1", "2", "3", "4"], "{}", daemon.stdout());
    assert_eq!(folders.iter().filter(|folder| folder.join("g").exists()).count(), 1);
}

#[test]
fn what_a_rename_overwrites_is_kept_too() {
    let scratch = Scratch::new()
        .with_source(&Tree::new().file("old", "old").file("new", "new").files("d", 3));
    scratch.sync();
    let _daemon = scratch.watcher(&["--backup-dir", "backup"]);
    fs::rename(scratch.source().join("new"), scratch.source().join("old")).unwrap();
    scratch.wait_twins();
    fs::rename(scratch.source().join("d"), scratch.source().join("e")).unwrap();
    scratch.wait_twins();
    let folder = folder(&scratch.path("backup"));
    assert_eq!(fs::read_to_string(folder.join("old")).unwrap(), "old");
    assert!(!folder.join("d").exists(), "what is renamed is not lost");
}

#[test]
fn where_it_cannot_be_kept_the_change_is_not_made() {
    let scratch = pair(Scratch::ordinary());
    let before = Snapshot::with_inodes(&scratch.replica());
    let backup = scratch.path("backup");
    fs::create_dir(&backup).unwrap();
    scratch.own(&backup);
    let daemon = scratch.watcher(&["--backup-dir", "backup"]);
    set_mode(&backup, 0o500);
    change(&scratch.source());
    fs::write(scratch.source().join("new"), "new").unwrap();
    wait_until("what is new is copied", DEADLINE, || scratch.replica().join("new").exists());
    let problems = |text: &str| text.lines().filter(|line| line.contains(" problem ")).count();
    wait_until("each is a problem", DEADLINE, || problems(&daemon.stderr()) >= 5);
    let after = Snapshot::with_inodes(&scratch.replica());
    // A directory's mtime is set also where what it holds could not go.
    let times = |name: &[u8], entry: &Entry| name == b"new" || entry.kind == Kind::Dir;
    crate::support::assert_same("the replica", &before.without(times), &after.without(times));
    set_mode(&backup, 0o700);
    scratch.wait_twins();
    assert!(
        daemon.stderr().contains("in the backup folder: Permission denied"),
        "{}",
        daemon.stderr()
    );
}

#[test]
fn pruning_spares_a_folder_that_holds_a_root() {
    let old = "backup/twindir-2020-01-01T00-00-00.000+0000/notes";
    for (source, replica) in [(old, "work"), ("work", old), ("link", "work")] {
        let scratch = Scratch::new();
        Tree::new().file("todo", "old").make(&scratch.path(old));
        Tree::new().file("todo", "newer").make(&scratch.path("work"));
        symlink(old, scratch.path("link")).unwrap();
        let options = ["--backup-dir", "backup", "--backup-keep", "30d"];
        let run = scratch.run([&["--once", source, replica][..], &options].concat()).expect(0);
        assert!(run.stderr.contains("it is not pruned"), "{run}");
        let real = fs::canonicalize(scratch.path(source)).unwrap();
        crate::support::assert_twins(&real, &scratch.path(replica));
    }
}

#[test]
fn pruning_removes_what_twindir_put_there_and_nothing_else() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "1"));
    let backup = scratch.path("backup");
    let others = [
        "mine/f",
        "2020-01-01T00-00-00.000/f",
        "twindir-2020-01-01/f",
        "twindir-2020-01-01T00-00-00.000+0000.old/f",
        "twindir-2020-01-01T00-00-00.000-file",
    ];
    let old = [
        "twindir-2020-01-01T00-00-00.000+0000/a/locked/f",
        "twindir-2025-12-31T23-59-59.999-0330/f",
    ];
    for file in others.iter().chain(&old) {
        fs::create_dir_all(backup.join(file).parent().unwrap()).unwrap();
        fs::write(backup.join(file), "x").unwrap();
    }
    set_mode(&backup.join("twindir-2020-01-01T00-00-00.000+0000/a/locked"), 0o500);
    symlink("mine", backup.join("twindir-2020-01-01T00-00-00.001+0000")).unwrap();
    scratch.once(&["--backup-dir", "backup"]).expect(0);
    assert!(old.iter().all(|file| backup.join(file).exists()), "without --backup-keep all stays");
    scratch.once(&["--backup-dir", "backup", "--backup-keep", "30d"]).expect(0);
    assert!(others.iter().all(|file| backup.join(file).exists()));
    assert_eq!(folders(&backup).len(), others.len() + 1, "{:?}", folders(&backup));
    assert!(backup.join("mine/f").exists(), "a symlink is not followed");
}

#[test]
fn a_locked_directory_that_takes_the_place_of_an_empty_one_is_as_locked_again() {
    let scratch = Scratch::ordinary();
    let scratch = scratch
        .with_source(&Tree::new().dir("locked").mode(0o555).file("locked/f", "text").dir("empty"));
    let daemon = scratch.watcher(&["--backup-dir", "backup"]);
    fs::rename(scratch.source().join("locked"), scratch.source().join("empty")).unwrap();
    wait_until("it is renamed there, too", DEADLINE, || daemon.stdout().contains(" renamed "));
    scratch.wait_twins();
    assert_eq!(daemon.stderr(), "");
}

#[test]
fn a_locked_directory_that_is_kept_does_not_lock_out_what_comes_after_it() {
    let scratch = Scratch::ordinary().with_source(&Tree::new().file("d/f", "0"));
    set_mode(&scratch.source().join("d"), 0o555);
    let _daemon = scratch.watcher(&["--backup-dir", "backup"]);
    for version in ["1", "2"] {
        set_mode(&scratch.source().join("d"), 0o755);
        fs::remove_dir_all(scratch.source().join("d")).unwrap();
        scratch.wait_twins();
        Tree::new().file("d/f", version).make(&scratch.source());
        scratch.own(&scratch.source());
        set_mode(&scratch.source().join("d"), 0o555);
        scratch.wait_twins();
        fs::write(scratch.source().join("d/f"), format!("{version}, and more")).unwrap();
        scratch.wait_twins();
    }
    let mut kept: Vec<_> = folders(&scratch.path("backup"))
        .iter()
        .filter_map(|folder| fs::read_to_string(folder.join("d/f")).ok())
        .collect();
    kept.sort();
    assert_eq!(kept, ["0", "1", "1, and more", "2"]);
}

#[test]
fn a_directory_stays_and_is_a_problem_while_the_backup_folder_is_missing() {
    let scratch = pair(Scratch::new());
    let daemon = scratch.watcher(&["--backup-dir", "backup"]);
    let (backup, away) = (scratch.path("backup"), scratch.path("away"));
    fs::rename(&backup, &away).unwrap();
    fs::remove_dir_all(scratch.source().join("d")).unwrap();
    for text in
        ["cannot open the root in the backup folder", "mount its disk, or make that folder again"]
    {
        wait_until(&format!("it says: {text}"), DEADLINE, || daemon.stderr().contains(text));
    }
    assert!(scratch.replica().join("d/e/deep").exists());
    assert_eq!(daemon.settled(), 1, "it is not equal");
    fs::rename(&away, &backup).unwrap();
    scratch.wait_twins();
    assert!(folder(&backup).join("d/e/deep").exists());
}

#[test]
fn what_may_not_leave_its_place_begins_no_folder_after_the_other() {
    if !crate::support::is_root() {
        return crate::support::skip("a directory of somebody else's takes root to make");
    }
    let scratch = Scratch::ordinary().with_source(&Tree::new().files("d", 20).file("f", "x"));
    let daemon =
        Daemon::spawn(scratch.command(["source", "replica", "0.2", "--backup-dir", "backup"]));
    daemon.wait_settled(1);
    std::os::unix::fs::chown(scratch.replica().join("d"), Some(0), Some(0)).unwrap();
    for number in 0..20 {
        fs::remove_file(scratch.source().join(format!("d/f{number}"))).unwrap();
    }
    let problem = "in the replica: Permission denied";
    wait_until("each is a problem", DEADLINE, || daemon.stderr().matches(problem).count() >= 20);
    daemon.wait_sweeps(4);
    assert!(folders(&scratch.path("backup")).len() <= 1, "{:?}", folders(&scratch.path("backup")));
}

#[test]
fn a_folder_inside_a_root_is_refused_by_whatever_path() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x").file("sub/g", "x"));
    symlink(".", scratch.path("here")).unwrap();
    let refused = |dir: &str| {
        scratch.once(&["--backup-dir", dir]).expect(2);
        let made =
            ["nodir", "source/backup", "replica/backup"].map(|name| scratch.path(name).exists());
        assert_eq!(made, [false; 3], "{dir}");
    };
    // The replica does not exist at first.
    for dir in ["here/replica/backup", "replica/backup", "nodir/../replica/backup", "replica"] {
        refused(dir);
        let _ = fs::remove_dir(scratch.replica());
    }
    scratch.sync();
    for dir in [
        "here/replica/backup",
        "here/source/sub/x",
        "nodir/../replica/backup",
        "source",
        "replica/.",
    ] {
        refused(dir);
    }
    scratch.once(&["--backup-dir", "here/sub/../other"]).expect(2);
    scratch.once(&["--backup-dir", "here/other"]).expect(0);
}

#[test]
fn a_folder_that_is_seen_in_the_source_through_a_mount_is_refused() {
    let scratch = Scratch::new().with_source(&Tree::new().dir("mnt").file("f", "x"));
    let Some(mounts) = Mounts::of(&scratch) else { return };
    mounts.sh("mkdir outer; mount --bind outer source/mnt");
    let once = |dir: &str| {
        let mut command = mounts.command(scratch.program());
        command.args(["--once", "source", "replica", "--backup-dir", dir]);
        Daemon::run(command)
    };
    once("outer/backup").expect(2).stderr_has("lies inside");
    once("other/backup").expect(0);
}

#[test]
fn another_disk_in_the_place_of_the_backups_gets_nothing() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "0"));
    let Some(mounts) = Mounts::of(&scratch) else { return };
    mounts.sh("mkdir disk; mount -t tmpfs none disk");
    let mut command = mounts.command(scratch.program());
    command.args(["source", "replica", "3600", "--backup-dir", "disk/backup"]);
    let daemon = Daemon::spawn(command);
    daemon.wait_settled(1);
    mounts.sh("umount disk; mount -t tmpfs none disk; mkdir disk/backup");
    fs::write(scratch.source().join("f"), "1").unwrap();
    wait_until("it is a problem", DEADLINE, || {
        daemon.stderr().contains("another directory stands at its path")
    });
    assert_eq!(fs::read_to_string(scratch.replica().join("f")).unwrap(), "0");
    assert_eq!(mounts.sh("ls disk/backup").stdout, "");
}

#[test]
fn a_folder_whose_path_comes_to_lead_into_a_root_takes_nothing() {
    for (root, begins_before) in [("source", false), ("replica", true)] {
        let scratch = pair(Scratch::new());
        let daemon = scratch.watcher(&["--backup-dir", "backup"]);
        let (backup, away) = (scratch.path("backup"), scratch.path("away"));
        if begins_before {
            fs::write(scratch.source().join("f"), "newer").unwrap();
            scratch.wait_twins();
        }
        fs::rename(&backup, &away).unwrap();
        symlink(root, &backup).unwrap();
        fs::remove_dir_all(scratch.source().join("d")).unwrap();
        wait_until("it is a problem", DEADLINE, || {
            daemon.stderr().contains("d: cannot keep what goes")
        });
        let is_folder =
            |at: &PathBuf| at.file_name().unwrap().to_string_lossy().starts_with("twindir-");
        assert!(!folders(&scratch.path(root)).iter().any(is_folder), "{root}");
        assert!(scratch.replica().join("d").exists());
        // Made anew elsewhere, it is the folder.
        fs::remove_file(&backup).unwrap();
        fs::create_dir(&backup).unwrap();
        scratch.wait_twins();
        assert!(!folders(&backup).is_empty());
    }
}
