//! A replica's disk that is full, read-only or failing, and a log's that is full. In a mount
//! namespace, by root.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::{
    Background, DEADLINE, Daemon, LogLine, Mounts, Run, Scratch, Tree, are_twins, assert_twins,
    holds_for, noise, temporaries, wait_until, xattr,
};

/// How soon after there is room again both sides are to be equal. Without optimisation, and beside
/// other tests, everything takes longer.
const SOON: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 5 });

/// A watched source whose replica lies on a disk of its own, at `disk/replica`.
struct Disk {
    // In the order in which they are to end.
    _daemon: Daemon,
    mounts: Mounts,
    scratch: Scratch,
}

impl Disk {
    /// `mount`: a script that mounts a small file system at `disk`, with 20 MB of room at least.
    #[track_caller]
    fn mounted(mount: &str, tree: &Tree) -> Option<Self> {
        Self::with(mount, tree, &[])
    }

    #[track_caller]
    fn with(mount: &str, tree: &Tree, options: &[&str]) -> Option<Self> {
        Self::within(Scratch::new(), mount, tree, options)
    }

    #[track_caller]
    fn within(scratch: Scratch, mount: &str, tree: &Tree, options: &[&str]) -> Option<Self> {
        let scratch = scratch.with_source(tree);
        let mounts = Mounts::of(&scratch)?;
        fs::create_dir(scratch.path("disk")).unwrap();
        mounts.try_sh(mount)?;
        let disk = Self { _daemon: watcher(&scratch, &mounts, options), mounts, scratch };
        disk.wait_equal();
        Some(disk)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.source().join(name)
    }

    fn replica(&self) -> PathBuf {
        self.mounts.inside(&self.scratch.path("disk/replica"))
    }

    fn copy(&self, name: &str) -> PathBuf {
        self.replica().join(name)
    }

    fn are_equal(&self) -> bool {
        are_twins(&self.scratch.source(), &self.replica())
    }

    #[track_caller]
    fn wait_equal(&self) {
        wait_until("both are equal", DEADLINE, || self.are_equal());
    }

    /// Waits for it, and fails where it comes too late.
    #[track_caller]
    fn wait_equal_soon(&self, what: &str) {
        let begun = Instant::now();
        self.wait_equal();
        let took = begun.elapsed();
        println!("equal {took:.1?} after {what}");
        assert!(took <= SOON, "equal, but only {took:.1?} after {what}");
    }

    /// Takes all the room that there is.
    #[track_caller]
    fn fill(&self) {
        // A block at a time at the end, so that not even a small file fits.
        let ballast = "dd if=/dev/zero of=disk/ballast bs=1M 2>&1 || true
            dd if=/dev/zero of=disk/ballast bs=1k oflag=append conv=notrunc 2>&1 || true";
        self.mounts.sh(ballast);
    }

    #[track_caller]
    fn free(&self) {
        self.mounts.sh("rm disk/ballast; sync -f disk");
    }

    /// The lines of the log that say that something is wrong.
    fn errors(&self) -> Vec<LogLine> {
        self.scratch.log_lines().into_iter().filter(|line| line.level == "ERROR").collect()
    }

    #[track_caller]
    fn wait_error(&self) {
        wait_until("it says that something is wrong", DEADLINE, || !self.errors().is_empty());
    }

    fn has_temporaries(&self) -> bool {
        !temporaries(&self.replica()).is_empty()
    }
}

#[track_caller]
fn watcher(scratch: &Scratch, mounts: &Mounts, options: &[&str]) -> Daemon {
    let mut command = mounts.command(scratch.program());
    command.args(["--max-delete", "100%", "source", "disk/replica", "3600", "log"]).args(options);
    Daemon::spawn(command)
}

const TMPFS: &str = "mount -t tmpfs -o size=24m none disk";

/// An image of so many megabytes with a file system of this kind.
fn image(mkfs: &str, megabytes: usize) -> String {
    format!("truncate -s {megabytes}M image; {mkfs} image; mount -o loop image disk")
}

/// Some files that grow when there is no room, a thousand that come, some that go.
#[track_caller]
fn room_runs_out(mount: &str) {
    let tree = Tree::new().files("old", 20).files("gone", 20).file("large", noise(1, 3_000_000));
    let Some(disk) = Disk::mounted(mount, &tree) else { return };
    disk.fill();
    for number in 0..20 {
        fs::write(disk.at(&format!("old/f{number}")), noise(number, 40_000)).unwrap();
    }
    Tree::new().files("new", 1_000).make(&disk.scratch.source());
    for number in 0..1_000 {
        fs::write(disk.at(&format!("new/f{number}")), noise(number, 16_000)).unwrap();
    }
    disk.wait_error();
    // What is removed makes some room, but not nearly enough.
    for number in 0..20 {
        fs::remove_file(disk.at(&format!("gone/f{number}"))).unwrap();
    }
    let is_gone = || fs::read_dir(disk.copy("gone")).unwrap().count() == 0;
    wait_until("what went is removed", DEADLINE, is_gone);
    let is_whole = |number: usize| {
        let read = |at| fs::read(at).unwrap();
        let name = format!("old/f{number}");
        let copy = read(disk.copy(&name));
        copy == format!("file {number}").as_bytes() || copy == read(disk.at(&name))
    };
    holds_for("old files are whole", Duration::from_secs(1), || (0..20).all(is_whole));
    assert!(!disk.are_equal(), "all that did not fit is there");
    wait_until("no temporary file is left", DEADLINE, || !disk.has_temporaries());
    let errors = disk.errors().len();
    assert!(errors <= 5, "{errors} lines for one full disk");

    disk.free();
    disk.wait_equal_soon("there was room");
    assert!(!disk.has_temporaries());
    let errors = disk.errors().len();
    assert!(errors <= 5, "{errors} lines for one full disk");
}

#[test]
fn room_runs_out_on_a_tmpfs() {
    room_runs_out(TMPFS);
}

#[test]
fn room_runs_out_on_ext4() {
    room_runs_out(&image("mkfs.ext4 -q", 48));
}

#[test]
fn room_runs_out_on_xfs() {
    room_runs_out(&image("mkfs.xfs -q", 320));
}

#[test]
fn room_runs_out_on_btrfs() {
    room_runs_out(&image("mkfs.btrfs -q --mixed", 128));
}

#[test]
fn a_quota_is_used_up() {
    let quota = "btrfs quota enable disk; btrfs qgroup limit 24M disk";
    room_runs_out(&format!("{}; {quota}", image("mkfs.btrfs -q", 200)));
}

#[test]
fn names_run_out() {
    let tree = Tree::new().files("old", 20);
    let Some(disk) = Disk::mounted("mount -t tmpfs -o nr_inodes=60 none disk", &tree) else {
        return;
    };
    Tree::new().files("new", 1_000).make(&disk.scratch.source());
    disk.wait_error();
    disk.mounts.sh("mount -o remount,nr_inodes=2000 disk");
    disk.wait_equal_soon("there was room");
    let errors = disk.errors().len();
    assert!(errors <= 5, "{errors} lines for one full disk");
}

/// A directory that goes is renamed before it is deleted, and a full file system may refuse that.
#[track_caller]
fn a_directory_goes_without_room(mount: &str) {
    let Some(disk) = Disk::mounted(mount, &Tree::new().files("gone", 200).file("other", "other"))
    else {
        return;
    };
    disk.fill();
    fs::remove_dir_all(disk.at("gone")).unwrap();
    disk.wait_equal_soon("a directory went");
}

/// Not from a full btrfs, which has no room for the rename.
#[test]
fn directories_go_from_full_disks() {
    for mount in [TMPFS, &image("mkfs.ext4 -q", 48), &image("mkfs.xfs -q", 320)] {
        a_directory_goes_without_room(mount);
    }
}

#[test]
fn a_disk_becomes_read_only_for_a_while() {
    let Some(disk) = Disk::mounted(TMPFS, &Tree::new().files("old", 20)) else { return };
    disk.mounts.sh("mount -o remount,ro disk");
    for number in 0..20 {
        fs::write(disk.at(&format!("old/f{number}")), "newer").unwrap();
    }
    fs::remove_file(disk.at("old/f0")).unwrap();
    disk.wait_error();
    assert!(!disk.are_equal());
    disk.mounts.sh("mount -o remount,rw disk");
    disk.wait_equal_soon("it could be written to");
    assert!(!disk.has_temporaries());
}

#[test]
fn a_disk_that_fails_is_waited_for() {
    let Some(disk) = Disk::mounted(&image("mkfs.xfs -q", 320), &Tree::new().files("old", 20))
    else {
        return;
    };
    // From here on every system call on it fails with EIO.
    if disk.mounts.try_sh("sync -f disk; xfs_io -x -c shutdown disk").is_none() {
        return;
    }
    fs::write(disk.at("old/f0"), "newer").unwrap();
    fs::remove_file(disk.at("old/f1")).unwrap();
    disk.wait_error();
    // Held open, the device keeps its number.
    disk.mounts.sh("device=$(findmnt -no SOURCE disk); exec 3<$device
        until umount disk; do sleep 0.1; done; mount $device disk");
    disk.wait_equal_soon("it was mounted again");
    assert!(!disk.has_temporaries());
}

#[test]
fn what_cannot_give_way_to_a_directory_is_not_copied_to_the_backup_again_and_again() {
    let few = "mount -t tmpfs -o nr_inodes=30 none disk";
    let tree = Tree::new().files("old", 5).file("turns", "text");
    let Some(disk) = Disk::with(few, &tree, &["--backup-dir", "backup"]) else { return };
    disk.mounts.sh("i=0; while true >disk/ballast$i; do i=$((i + 1)); done 2>ballast.log || true");
    fs::remove_file(disk.at("turns")).unwrap();
    fs::create_dir(disk.at("turns")).unwrap();
    disk.wait_error();
    // It is tried again after one, two and four seconds.
    holds_for("nothing is copied", Duration::from_secs(4), || {
        fs::read_dir(disk.scratch.path("backup")).unwrap().count() == 0
    });
    disk.mounts.sh("rm disk/ballast*");
    disk.wait_equal_soon("there was room");
}

#[test]
fn a_file_that_is_rewritten_all_the_time_on_a_full_disk_is_not_said_each_time() {
    let Some(disk) =
        Disk::with(TMPFS, &Tree::new().file("hot", noise(1, 50_000)), &["--debounce", "5ms"])
    else {
        return;
    };
    disk.fill();
    let hot = disk.at("hot");
    let writer = Background::start(0_u64, move |round| {
        // Empty at one moment, and too large at the next.
        fs::write(&hot, noise(*round, 100_000)).unwrap();
        *round += 1;
        std::thread::sleep(Duration::from_millis(10));
    });
    disk.wait_error();
    let begun = Instant::now();
    wait_until("it went on for a while", DEADLINE, || begun.elapsed() > Duration::from_secs(4));
    writer.stop();
    let errors = disk.errors().len();
    assert!(errors <= 5, "{errors} lines for one full disk");
    disk.free();
    disk.wait_equal_soon("there was room");
}

#[test]
fn attributes_that_are_too_large_are_no_full_disk() {
    let ext4 = image("mkfs.ext4 -q", 48);
    let Some(disk) = Disk::within(Scratch::roomy(), &ext4, &Tree::new().file("a", "a"), &[]) else {
        return;
    };
    if xattr::set_xattr(&disk.at("a"), "user.large", "x".repeat(8_000)).is_err() {
        return crate::support::skip("the source's file system takes no attributes of that size");
    }
    disk.wait_error();
    let first = disk.errors().remove(0);
    assert_eq!((first.operation.as_str(), first.get("path")), ("problem", "a"));
    fs::write(disk.at("b"), "b").unwrap();
    wait_until("the rest goes on", DEADLINE, || disk.copy("b").exists());
}

#[test]
fn a_single_run_tries_again_what_its_own_deletions_make_room_for() {
    let scratch = Scratch::new()
        .with_source(&Tree::new().file("gone", noise(1, 2_000_000)).file("kept", "x"));
    let Some(mounts) = Mounts::of(&scratch) else { return };
    mounts.sh("mkdir disk; mount -t tmpfs -o size=4m none disk");
    let once = |options: &[&str]| {
        let mut command = mounts.command(scratch.program());
        command.args(["--once", "source", "disk/replica"]).args(options);
        Daemon::run(command)
    };
    once(&[]).expect(0);
    mounts.sh("dd if=/dev/zero of=disk/ballast bs=64k 2>&1 || true");
    fs::remove_file(scratch.source().join("gone")).unwrap();
    fs::write(scratch.source().join("new"), noise(2, 500_000)).unwrap();
    once(&["--max-delete", "100%"]).expect(0);
    assert_twins(&scratch.source(), &mounts.inside(&scratch.path("disk/replica")));
}

/// `--once` where one of the two roots is a btrfs image, and what it has of the file `bad` was
/// spoiled after a first run: then reading it fails with EIO, since the file system knows its
/// checksum.
#[track_caller]
fn run_with_spoiled(root: &str) -> Option<(Scratch, Mounts, Run)> {
    let bad = noise(7, 64_000);
    let scratch = Scratch::new();
    let mounts = Mounts::of(&scratch)?;
    for name in ["source", "replica"] {
        fs::create_dir(scratch.path(name)).unwrap();
    }
    let mount = format!("mount -o loop image {root}");
    mounts
        .try_sh(&format!("truncate -s 128M image; mkfs.btrfs -q --data single image; {mount}"))?;
    let tree = Tree::new().file("bad", &bad).file("changed", "old").file("good", "good");
    tree.make(&mounts.inside(&scratch.source()));
    let once = || {
        let mut command = mounts.command(scratch.program());
        command.args(["--once", "source", "replica"]);
        Daemon::run(command)
    };
    once().expect(0);
    mounts.sh(&format!("umount {root}"));
    let image = fs::File::options().read(true).write(true).open(scratch.path("image")).unwrap();
    let mut bytes = Vec::new();
    (&image).read_to_end(&mut bytes).unwrap();
    let at =
        bytes.chunks(4096).position(|block| block == &bad[..4096]).expect("it lies in the image");
    image.write_all_at(b"spoiled", 4096 * at as u64).unwrap();
    mounts.sh(&mount);
    fs::write(mounts.inside(&scratch.path("source/changed")), "newer").unwrap();
    let run = once();
    Some((scratch, mounts, run))
}

#[test]
fn a_file_that_the_sources_disk_cannot_read_is_kept_in_the_replica() {
    let Some((scratch, mounts, run)) = run_with_spoiled("source") else { return };
    let run = run.expect(1).stderr_has("bad: ").stderr_has("Input/output error");
    let read = |name: &str| fs::read(mounts.inside(&scratch.replica()).join(name)).unwrap();
    assert_eq!(read("bad"), noise(7, 64_000), "{run}");
    assert_eq!(read("changed"), b"newer", "{run}");
}

#[test]
fn a_file_that_the_replicas_disk_cannot_read_is_copied_anew() {
    let Some((scratch, mounts, run)) = run_with_spoiled("replica") else { return };
    let run = run.expect(0).stderr_has(" warning  bad: ").stderr_has("Input/output error");
    let read = |name: &str| fs::read(mounts.inside(&scratch.replica()).join(name)).unwrap();
    assert_eq!(read("bad"), noise(7, 64_000), "{run}");
    assert_eq!(read("changed"), b"newer", "{run}");
}

#[test]
fn a_log_on_a_full_disk_is_said_once_and_goes_on_when_there_is_room() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "f"));
    let Some(mounts) = Mounts::of(&scratch) else { return };
    fs::create_dir(scratch.path("logs")).unwrap();
    mounts.sh("mount -t tmpfs -o size=64k none logs");
    let mut command = mounts.command(scratch.program());
    command.args(["source", "replica", "3600", "logs/log"]);
    let daemon = Daemon::spawn(command);
    daemon.wait_settled(1);
    mounts.sh("dd if=/dev/zero of=logs/ballast bs=4k 2>&1 || true");
    Tree::new().files("many", 500).make(&scratch.source());
    scratch.wait_twins();
    let complaints =
        |text: &str| daemon.stderr().lines().filter(|line| line.contains(text)).count();
    wait_until("it says so", DEADLINE, || complaints("cannot write the log") == 1);
    Tree::new().files("more", 500).make(&scratch.source());
    scratch.wait_twins();

    mounts.sh("rm logs/ballast");
    Tree::new().files("last", 100).make(&scratch.source());
    wait_until("the log goes on", DEADLINE, || complaints("is written again") == 1);
    assert_eq!(complaints("cannot write the log"), 1);
    let log = mounts.inside(&scratch.path("logs/log"));
    let lines = || LogLine::parse_all(&fs::read_to_string(&log).unwrap());
    wait_until("it has the last line", DEADLINE, || {
        lines().iter().any(|line| line.get("path") == "last/f99")
    });
    scratch.wait_twins();
}
