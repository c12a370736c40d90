//! No path is lost: whatever happens in the source is in the replica soon, with no sweep to help.
//!
//! Each change is made on a live daemon with an interval of one hour. The promise is two seconds;
//! what is waited for here is longer, for machines under load.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::xattr::{remove_xattr, set_xattr, xattrs};
use crate::support::{
    DEADLINE, Daemon, Scratch, Tree, noise, set_mode, set_mtime, skip, wait_until,
};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, renameat_with};

/// A source with something of each kind, and a daemon that watches it.
struct Live {
    scratch: Scratch,
    daemon: Daemon,
}

impl Live {
    fn new() -> Self {
        Self::of(
            &Tree::new()
                .file("f", "f one")
                .file("h", "h two")
                .file("same", "before")
                .files("d", 5)
                .files("e", 3)
                .file("d/deep/er/x", "x")
                .symlink("l", "f"),
        )
    }

    fn of(tree: &Tree) -> Self {
        Self::with(tree, &[])
    }

    fn with(tree: &Tree, options: &[&str]) -> Self {
        let scratch = Scratch::new().with_source(tree);
        let daemon = scratch.watcher(options);
        scratch.assert_twins();
        Self { scratch, daemon }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.scratch.source().join(name)
    }

    #[track_caller]
    fn wait(&self) {
        self.scratch.wait_twins();
        assert_eq!(self.daemon.sweeps(), 1, "a sweep has helped\n{}", self.daemon.stdout());
        let complaints = self.daemon.stderr();
        let harmless = |line: &str| line.contains(" silent ") || line.contains(" links ");
        assert!(complaints.lines().all(harmless), "{complaints}");
    }

    /// Runs a shell script in the source.
    #[track_caller]
    fn sh(&self, script: &str) {
        self.scratch.sh(script);
    }

    #[track_caller]
    fn exchange(&self, one: &str, other: &str) {
        renameat_with(CWD, self.at(one), CWD, self.at(other), RenameFlags::EXCHANGE).unwrap();
    }
}

#[test]
fn a_file_is_created_written_appended_to_and_truncated() {
    let live = Live::new();
    fs::write(live.at("new"), "new").unwrap();
    live.wait();
    OpenOptions::new().append(true).open(live.at("new")).unwrap().write_all(b" and more").unwrap();
    live.wait();
    File::options().write(true).open(live.at("new")).unwrap().write_all_at(b"NEW", 0).unwrap();
    live.wait();
    File::options().write(true).open(live.at("new")).unwrap().set_len(2).unwrap();
    live.wait();
    fs::remove_file(live.at("new")).unwrap();
    live.wait();
}

#[test]
fn a_change_of_neither_size_nor_mtime_is_found() {
    let live = Live::new();
    fs::write(live.at("same"), "afters").unwrap();
    set_mtime(&live.at("same"), 1_600_000_000, 1);
    live.wait();
    fs::write(live.at("same"), "before").unwrap();
    set_mtime(&live.at("same"), 1_600_000_000, 1);
    live.wait();
}

#[test]
fn a_file_that_stays_open_is_mirrored_with_each_write() {
    let live = Live::new();
    let file = File::create(live.at("log")).unwrap();
    for number in 0..5 {
        (&file).write_all(format!("line {number}\n").as_bytes()).unwrap();
        live.wait();
    }
}

#[test]
fn a_store_through_a_mapping_is_found() {
    let live = Live::of(&Tree::new().file("mapped", noise(1, 8192)));
    let script = "
import mmap
with open('mapped', 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0)
    m[5000:5005] = b'store'
    m.flush()
    m.close()
";
    let run =
        Command::new("python3").args(["-c", script]).current_dir(live.scratch.source()).status();
    if !run.is_ok_and(|status| status.success()) {
        return crate::support::skip("no python3");
    }
    live.wait();
}

#[test]
fn a_sweep_finds_what_a_mapping_has_hidden_and_blames_a_disk_only_for_what_is_old() {
    const OLD: i64 = 1_600_000_000;
    let tree = Tree::new().file("mapped", noise(1, 8192)).file("rotten", "before").mtime(OLD, 1);
    let scratch = Scratch::new().with_source(&tree);
    let daemon = scratch.daemon("1");
    daemon.wait_sweeps(2);
    let script = "
import mmap, sys
with open('mapped', 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0)
    for number in range(3):
        m[number] = m[number] ^ 255
        print(number, flush=True)
        sys.stdin.readline()
";
    let mut python = Command::new("python3");
    python.args(["-c", script]).current_dir(scratch.source());
    let python = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut python) = python else { return crate::support::skip("no python3") };
    let (mut go, done) = (python.stdin.take().unwrap(), python.stdout.take().unwrap());
    for number in BufReader::new(done).lines() {
        scratch.wait_twins();
        daemon.wait_sweeps(1);
        println!("found: {}", number.unwrap());
        go.write_all(b"\n").unwrap();
    }
    assert!(python.wait().unwrap().success());
    assert!(!daemon.stderr().contains(" silent "), "{}", daemon.stderr());

    let rotten = scratch.replica().join("rotten");
    fs::write(&rotten, "bEfore").unwrap();
    set_mtime(&rotten, OLD, 1);
    scratch.wait_twins();
    wait_until("the disk is blamed", DEADLINE, || daemon.stderr().contains("silent   rotten"));
}

#[test]
fn modes_times_and_attributes_are_followed_without_reading() {
    let live = Live::new();
    for path in ["f", "d", "d/deep/er/x"] {
        let mode = fs::metadata(live.at(path)).unwrap().permissions().mode();
        set_mode(&live.at(path), mode ^ 0o005);
        live.wait();
        set_mtime(&live.at(path), 1_234_567_890, 987_654_321);
        live.wait();
    }
    if set_xattr(&live.at("f"), "user.colour", "red").is_err() {
        return crate::support::skip("the file system has no user attributes");
    }
    for path in ["f", "d"] {
        set_xattr(&live.at(path), "user.colour", "blue").unwrap();
        let copy = live.scratch.replica().join(path);
        wait_until("the attribute is there", DEADLINE, || xattrs(&live.at(path)) == xattrs(&copy));
        remove_xattr(&live.at(path), "user.colour");
        wait_until("the attribute is gone", DEADLINE, || xattrs(&copy).is_empty());
    }
    live.wait();
}

#[test]
fn editors_save_as_they_like() {
    let live = Live::new();
    // A temporary file that takes the place of the old one.
    live.sh("echo atomic >.f.tmp; mv .f.tmp f");
    live.wait();
    // The old one put aside, a new one written, the old one removed.
    live.sh("mv f f~; echo vim >f; rm f~");
    live.wait();
    // A link to the old one as a backup.
    live.sh("ln f f.bak; echo linked >f.new; mv f.new f");
    live.wait();
    live.sh("sed -i s/linked/edited/ f");
    live.wait();
    live.sh("echo other >>f.bak");
    live.wait();
}

#[test]
fn names_of_one_inode_are_followed_one_by_one() {
    let live = Live::new();
    fs::hard_link(live.at("f"), live.at("d/link")).unwrap();
    live.wait();
    fs::remove_file(live.at("f")).unwrap();
    live.wait();
}

#[test]
fn a_change_through_one_name_is_followed_for_the_others() {
    let live = Live::new();
    // The kernel tells nothing of the first name, neither that it has a second one now, nor of what
    // is written through that.
    fs::hard_link(live.at("f"), live.at("d/link")).unwrap();
    live.wait();
    for text in ["written", "through the second name"] {
        fs::write(live.at("d/link"), text).unwrap();
        live.wait();
    }
    set_mode(&live.at("d/link"), 0o600);
    live.wait();
    fs::hard_link(live.at("d/link"), live.at("e/third")).unwrap();
    fs::write(live.at("f"), "and through the first").unwrap();
    live.wait();
    // The name through which it was written is gone before anybody could look.
    live.sh("mv d/link d/other; echo gone >>d/other; rm d/other");
    live.wait();
}

/// What is written through a descriptor is told under the name by which the file was opened,
/// wherever that leads by now.
fn is_followed_through(live: &Live, open: &File, copy: &str) {
    let mut whole = fs::read(live.scratch.replica().join(copy)).unwrap_or_default();
    for number in 0..3 {
        let text = format!("{number} more\n");
        { open }.write_all(text.as_bytes()).unwrap();
        whole.extend(text.as_bytes());
        let is_there =
            || fs::read(live.scratch.replica().join(copy)).is_ok_and(|text| text == whole);
        wait_until(&format!("{text:?} is in {copy}"), DEADLINE, is_there);
    }
    live.wait();
}

fn appending(live: &Live, name: &str) -> File {
    OpenOptions::new().append(true).open(live.at(name)).unwrap()
}

#[test]
fn what_is_written_under_a_name_that_has_gone_is_followed_under_the_other() {
    for at_once in [true, false] {
        let live = Live::new();
        let step = || {
            if !at_once {
                live.wait();
            }
        };
        let log = appending(&live, "f");
        fs::hard_link(live.at("f"), live.at("f.1")).unwrap();
        step();
        fs::remove_file(live.at("f")).unwrap();
        live.wait();
        is_followed_through(&live, &log, "f.1");

        // In another directory, and another file takes the name.
        let log = appending(&live, "h");
        fs::hard_link(live.at("h"), live.at("d/h.1")).unwrap();
        step();
        fs::rename(live.at("same"), live.at("h")).unwrap();
        live.wait();
        is_followed_through(&live, &log, "d/h.1");

        // The other name goes on.
        fs::rename(live.at("d/h.1"), live.at("e/h.2")).unwrap();
        live.wait();
        is_followed_through(&live, &log, "e/h.2");
    }
}

#[test]
fn what_is_written_under_a_name_that_has_gone_is_followed_where_only_a_scan_has_met_the_other() {
    let live = Live::new();
    // The other name lies in a directory that is new.
    let log = appending(&live, "f");
    fs::create_dir(live.at("new")).unwrap();
    fs::hard_link(live.at("f"), live.at("new/f.1")).unwrap();
    fs::remove_file(live.at("f")).unwrap();
    live.wait();
    is_followed_through(&live, &log, "new/f.1");

    // It lies in one that was renamed twice, under the name that one has just left which was
    // renamed too.
    let log = appending(&live, "h");
    fs::rename(live.at("d/deep"), live.at("e/went")).unwrap();
    fs::hard_link(live.at("h"), live.at("d/deep")).unwrap();
    fs::remove_file(live.at("h")).unwrap();
    fs::rename(live.at("d"), live.at("e/once")).unwrap();
    fs::rename(live.at("e/once"), live.at("new/twice")).unwrap();
    live.wait();
    is_followed_through(&live, &log, "new/twice/deep");
}

#[test]
fn a_file_that_is_being_written_has_no_size_that_lies() {
    let live = Live::new();
    for number in 0..3 {
        let mut file = File::create(live.at(&format!("up{number}"))).unwrap();
        (0..300_000).for_each(|_| file.write_all(&[7; 64]).unwrap());
    }
    live.wait();
    let said = live.daemon.stdout() + &live.daemon.stderr();
    assert!(!said.contains(" note "), "{said}");
}

#[test]
fn one_file_after_another_whose_first_name_has_gone_is_followed_as_soon_as_the_first_one() {
    let live = Live::new();
    let mut worst = Duration::ZERO;
    for number in 0..12 {
        let (name, other) = (format!("f{number}"), format!("d/other{number}"));
        fs::write(live.at(&name), "text").unwrap();
        let mut log = appending(&live, &name);
        fs::hard_link(live.at(&name), live.at(&other)).unwrap();
        fs::remove_file(live.at(&name)).unwrap();
        live.wait();
        log.write_all(b"more\n").unwrap();
        let begun = Instant::now();
        live.wait();
        worst = worst.max(begun.elapsed());
    }
    // With a wait that doubles each time it would be ten.
    assert!(worst < Duration::from_secs(4), "{worst:?}");
}

#[test]
fn what_is_written_under_a_name_that_is_another_files_by_now_is_followed_also_where_the_first_was_never_seen()
 {
    let live = Live::new();
    let log = appending(&live, "f");
    fs::hard_link(live.at("f"), live.at("f.1")).unwrap();
    fs::rename(live.at("h"), live.at("f")).unwrap();
    live.wait();
    is_followed_through(&live, &log, "f.1");
}

#[test]
fn what_is_written_to_a_file_that_was_made_without_a_name_is_followed() {
    let live = Live::new();
    for (dir, name) in [("d", "d/named"), ("e", "d/deep/named")] {
        let made = rustix::fs::open(
            live.at(dir),
            OFlags::TMPFILE | OFlags::WRONLY | OFlags::APPEND,
            Mode::RUSR,
        );
        let Ok(made) = made else { return skip("the file system makes no files without a name") };
        let by = format!("/proc/self/fd/{}", made.as_raw_fd());
        rustix::fs::linkat(CWD, by, CWD, live.at(name), AtFlags::SYMLINK_FOLLOW).unwrap();
        live.wait();
        is_followed_through(&live, &File::from(made), name);
    }
}

#[test]
fn a_symlink_is_replaced() {
    let live = Live::new();
    live.sh("ln -sfn d l");
    live.wait();
    live.sh("rm l; mkdir l; echo in >l/in");
    live.wait();
    live.sh("rm -r l; ln -s nowhere l");
    live.wait();
}

#[test]
fn kinds_change_there_and_back() {
    let live = Live::new();
    live.sh("rm f; mkdir f; echo x >f/x");
    live.wait();
    live.sh("rm -r f; echo file >f");
    live.wait();
    live.sh("rm -r d; echo file >d");
    live.wait();
    live.sh("rm d; mkdir -p d/a/b; echo x >d/a/b/c");
    live.wait();
    live.sh("echo more >>d/a/b/c");
    live.wait();
}

/// What the debouncer alone would lose, each within one window.
#[test]
fn what_is_renamed_and_removed_at_once_is_not_forgotten() {
    let live =
        Live::of(&Tree::new().file("r", "r").file("cur/x", "x").file("a", "a").file("p", "p"));
    for script in [
        "mv r r2; rm r2",
        "mv cur cur.old; rm -rf cur.old",
        "mv a b; mv b c",
        "echo t >t; mv t p; mv p p.bak",
        "echo 1 >a; mv a b; echo 2 >a; mv a c; rm b",
        "mkdir q; mv q q2; mkdir q; touch q/f; mv q2 q/q2",
    ] {
        live.sh(script);
        live.wait();
    }
}

#[test]
fn files_and_directories_are_exchanged() {
    let live = Live::new();
    for (one, other) in [("f", "h"), ("d", "e"), ("f", "d"), ("e/deep", "h")] {
        live.exchange(one, other);
        live.wait();
        // Both are watched where they are now.
        for dir in ["d", "e", "f", "h", "e/deep", "h/er"] {
            if live.at(dir).is_dir() {
                fs::write(live.at(dir).join("after"), format!("{one} {other}")).unwrap();
            }
        }
        live.wait();
    }
}

#[test]
fn what_is_removed_and_made_again_at_once_is_the_new_one() {
    let live = Live::new();
    for round in 0..5 {
        live.sh(&format!("rm -r d; mkdir d; echo {round} >d/f0; rm f; echo {round} >f"));
        live.wait();
        fs::write(live.at("d/later"), format!("{round}")).unwrap();
        live.wait();
    }
}

#[test]
fn a_renamed_directory_is_watched_under_its_new_name() {
    let live = Live::new();
    fs::rename(live.at("d"), live.at("e/moved")).unwrap();
    live.wait();
    fs::write(live.at("e/moved/deep/er/x"), "changed").unwrap();
    live.wait();
    fs::create_dir(live.at("d")).unwrap();
    fs::write(live.at("d/f0"), "another").unwrap();
    live.wait();
    fs::write(live.at("e/moved/f0"), "not that one").unwrap();
    live.wait();
}

#[test]
fn what_is_moved_in_and_out_is_followed() {
    let live = Live::new();
    let outside = live.scratch.path("outside");
    fs::rename(live.at("d"), &outside).unwrap();
    live.wait();
    fs::write(outside.join("f0"), "changed outside").unwrap();
    fs::rename(&outside, live.at("back")).unwrap();
    live.wait();
    fs::write(live.at("back/deep/er/x"), "changed inside").unwrap();
    live.wait();
}

#[test]
fn directories_that_are_filled_while_they_are_found_lose_nothing() {
    let live = Live::new();
    let outside = live.scratch.path("outside");
    Tree::new().files("t/one", 20).files("t/two/three", 20).make(&outside);
    for round in 0..30 {
        live.sh(&format!("mkdir -p r{round}/a/b/c && touch r{round}/a/b/c/f"));
        live.sh(&format!(
            "cp -r ../outside/t c{round}; mv ../outside/t m{round}; cp -r m{round} ../outside/t"
        ));
        if round % 10 == 9 {
            live.wait();
            live.sh("rm -r r* c* m*");
        }
    }
    live.wait();
}

#[test]
fn names_may_be_odd() {
    let live = Live::new();
    for name in
        [&b"new\nline"[..], b"\xff\xfe", b" ", b"-rf", b"\\", "\u{1f600}".as_bytes(), &[b'n'; 255]]
    {
        let at = live.scratch.source().join(OsStr::from_bytes(name));
        fs::create_dir(&at).unwrap();
        fs::write(at.join(OsStr::from_bytes(name)), name).unwrap();
    }
    live.wait();
    fs::write(live.scratch.source().join(OsStr::from_bytes(b"\xff\xfe")).join("x"), "x").unwrap();
    live.wait();
}

#[test]
fn a_tree_that_is_unpacked_and_removed_is_followed() {
    let live = Live::new();
    let outside = live.scratch.path("outside");
    let mut tree = Tree::new();
    for number in 0..40 {
        tree = tree.files(&format!("pack/{}/{number}", number % 7), 25);
    }
    tree.make(&outside);
    live.sh("tar cf ../pack.tar -C ../outside pack; tar xf ../pack.tar");
    live.wait();
    live.sh("rm -rf pack");
    live.wait();
}

#[test]
fn git_is_followed() {
    let live = Live::new();
    if Command::new("git").arg("--version").output().is_err() {
        return crate::support::skip("no git");
    }
    let git = "git -c user.name=t -c user.email=t@t -c init.defaultBranch=main";
    live.sh(&format!(
        "{git} init -q ../repo; cd ../repo; mkdir a b; for i in 1 2 3 4 5 6 7 8 9; do echo $i >a/$i; echo $i >b/$i; \
         done; {git} add .; {git} commit -qm one; {git} checkout -qb far; {git} rm -rq a; mkdir -p c/d; echo x >c/d/x; \
         echo changed >b/1; {git} add .; {git} commit -qm two"
    ));
    live.sh(&format!("{git} clone -q ../repo clone"));
    live.wait();
    for branch in ["main", "far", "main"] {
        live.sh(&format!("cd clone; {git} checkout -q {branch}"));
        live.wait();
    }
    live.sh(&format!("cd clone; {git} gc -q"));
    live.wait();
}

#[test]
fn without_a_debounce_nothing_is_lost_either() {
    let live = Live::with(&Tree::new().files("d", 5), &["--debounce", "0"]);
    for round in 0..20 {
        live.sh(&format!(
            "mkdir -p n/{round}; cp -r d n/{round}/; mv d e; mv e d; echo {round} >d/f0; rm -r n"
        ));
        live.sh(&format!("echo {round} >d/.tmp; mv d/.tmp d/f1"));
    }
    live.wait();
    fs::write(live.at("d/f0"), "last").unwrap();
    live.wait();
}

#[test]
fn a_long_debounce_waits_and_then_follows() {
    let live = Live::with(&Tree::new().file("f", "one"), &["--debounce", "0.5"]);
    fs::write(live.at("f"), "three").unwrap();
    let copy = live.scratch.replica().join("f");
    assert_eq!(fs::read(&copy).unwrap(), b"one", "followed at once");
    live.wait();
}

#[test]
fn what_changes_during_the_first_scan_is_not_lost() {
    let mut tree = Tree::new();
    for number in 0..60 {
        tree = tree.files(&format!("d{number}"), 50);
    }
    let scratch = Scratch::new().with_source(&tree);
    let daemon = scratch.starting_watcher(&[]);
    wait_until("it has begun", DEADLINE, || scratch.replica().join("d0").exists());
    for number in 0..60 {
        let dir = scratch.source().join(format!("d{number}"));
        fs::write(dir.join("f3"), format!("changed {number}")).unwrap();
        fs::write(dir.join("new"), "new").unwrap();
        fs::remove_file(dir.join("f4")).unwrap();
    }
    fs::rename(scratch.source().join("d1"), scratch.source().join("renamed")).unwrap();
    scratch.wait_twins();
    daemon.wait_settled(1);
    scratch.assert_twins();
}

/// Files copied and MD5s computed since this was last reported.
fn effort(said: &str) -> Option<(usize, usize)> {
    let line = said.lines().rfind(|line| line.contains(" effort "))?;
    let before = |word: &str| line.split(word).next()?.split_whitespace().last()?.parse().ok();
    Some((before(" files copied")?, before(" MD5s")?))
}

#[test]
fn a_save_is_copied_once() {
    let live = Live::with(&Tree::new().file("f", "f"), &["-v"]);
    let mut once = 0;
    for number in 0..10 {
        let said = live.daemon.settled();
        live.sh(&format!("echo save number {number}, longer each time $(seq {number}) >f"));
        live.wait();
        live.daemon.wait_settled(said + 1);
        once += usize::from(effort(&live.daemon.stdout()) == Some((1, 0)));
    }
    // A save may come in two parts where the machine is slow.
    assert!(
        once >= 7,
        "only {once} of 10 saves were one copy and no hash\n{}",
        live.daemon.stdout()
    );
}

#[test]
fn what_is_unpacked_is_copied_once() {
    const FILES: usize = 4_000;
    let live = Live::with(&Tree::new(), &["-v"]);
    let mut tree = Tree::new();
    for number in 0..40 {
        tree = tree.files(&format!("pack/{number}"), FILES / 40);
    }
    tree.make(&live.scratch.path("outside"));
    let said = live.daemon.settled();
    live.sh("tar cf ../pack.tar -C ../outside pack; tar xf ../pack.tar");
    live.wait();
    live.daemon.wait_settled(said + 1);
    let (copied, hashed) = effort(&live.daemon.stdout()).expect("the counters");
    assert!(
        (FILES..=FILES + FILES / 20).contains(&copied),
        "{copied} copies of {FILES} files, {hashed} hashed"
    );
}

#[test]
fn our_own_reading_makes_no_event() {
    let scratch = Scratch::new().with_source(&Tree::new().files("d", 300));
    let daemon = Daemon::spawn(scratch.command(["-v", "source", "replica", "0.3"]));
    daemon.wait_sweeps(4);
    let rounds = || daemon.stdout().lines().filter(|line| line.contains(" round ")).count();
    let before = rounds();
    daemon.wait_sweeps(6);
    assert_eq!(rounds(), before, "rounds without a change\n{}", daemon.stdout());
}

#[test]
fn a_directory_that_becomes_readable_is_mirrored_then() {
    let tree = Tree::new().file("locked/in/f", "text").file("open", "text");
    let scratch = Scratch::ordinary().with_source(&tree);
    set_mode(&scratch.source().join("locked"), 0);
    let _daemon = scratch.starting_watcher(&[]);
    wait_until("the rest is there", DEADLINE, || scratch.replica().join("open").exists());
    set_mode(&scratch.source().join("locked"), 0o755);
    scratch.wait_twins();
    fs::write(scratch.source().join("locked/in/f"), "changed").unwrap();
    scratch.wait_twins();
}

#[test]
fn links_in_the_source_are_not_followed() {
    let live = Live::new();
    let outside = live.scratch.path("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, live.at("out")).unwrap();
    live.wait();
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::write(live.at("f"), "after").unwrap();
    live.wait();
}
