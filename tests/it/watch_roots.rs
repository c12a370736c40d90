//! What happens to the source's root while it is watched: nothing is deleted for it, and the watch
//! goes on by itself when a source stands there again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::{
    DEADLINE, Daemon, Scratch, Snapshot, Tree, are_twins, assert_same, holds_for, wait_until,
};

/// How long it is seen that nothing happens: longer than another directory has to stand to be
/// believed.
const LONG: Duration = Duration::from_millis(2_600);

struct Live {
    scratch: Scratch,
    daemon: Daemon,
    before: Snapshot,
}

impl Live {
    fn new() -> Self {
        let scratch = Scratch::new().with_source(&Tree::new().files("d", 120).file("f", "text"));
        let daemon = scratch.watcher(&[]);
        let before = Snapshot::with_inodes(&scratch.replica());
        Self { scratch, daemon, before }
    }

    /// The source put somewhere else.
    fn away(&self) -> PathBuf {
        let away = self.scratch.path("away");
        fs::rename(self.scratch.source(), &away).unwrap();
        away
    }

    #[track_caller]
    fn nothing_is_deleted(&self) {
        holds_for("the replica is as it was", LONG, || {
            Snapshot::try_with_inodes(&self.scratch.replica()).is_ok_and(|now| now == self.before)
        });
        assert_same("the replica", &self.before, &Snapshot::with_inodes(&self.scratch.replica()));
    }

    fn lines(&self, word: &str) -> usize {
        let said = self.daemon.stderr();
        said.lines().filter(|line| line.split_whitespace().nth(1) == Some(word)).count()
    }

    /// Everything is followed again, and by the watch.
    #[track_caller]
    fn goes_on(&self) {
        self.scratch.wait_twins();
        for number in 0..3 {
            let settled = self.daemon.stdout().lines().count();
            fs::write(self.scratch.source().join("after"), format!("after {number}")).unwrap();
            fs::create_dir_all(self.scratch.source().join(format!("new{number}/deep"))).unwrap();
            self.scratch.wait_twins();
            wait_until("it said so", DEADLINE, || self.daemon.stdout().lines().count() > settled);
        }
    }
}

#[test]
fn a_source_that_is_renamed_away_and_back() {
    let live = Live::new();
    let away = live.away();
    live.nothing_is_deleted();
    assert_eq!(live.lines("source"), 1, "{}", live.daemon.stderr());
    fs::write(away.join("f"), "changed while it was away").unwrap();
    fs::rename(away, live.scratch.source()).unwrap();
    live.goes_on();
}

#[test]
fn a_source_that_is_removed_and_made_again() {
    let live = Live::new();
    fs::remove_dir_all(live.away()).unwrap();
    live.nothing_is_deleted();
    // Empty as it is, it is taken for the source, and not believed.
    fs::create_dir(live.scratch.source()).unwrap();
    wait_until("deletions are held", DEADLINE, || live.lines("held") == 1);
    holds_for("nothing is deleted", LONG, || {
        let left = fs::read_dir(live.scratch.replica().join("d")).map(Iterator::count);
        left.is_ok_and(|left| left == 120) && live.scratch.replica().join("f").exists()
    });
    Tree::new().files("d", 120).file("f", "text").file("g", "more").make(&live.scratch.source());
    live.goes_on();
}

/// Nothing is to be deleted any more when the watch tells of it: what is new is all that waits.
#[test]
fn an_emptied_source_that_comes_back_by_renames_with_one_file_more() {
    let live = Live::new();
    let away = live.away();
    live.nothing_is_deleted();
    fs::create_dir(live.scratch.source()).unwrap();
    wait_until("deletions are held", DEADLINE, || live.lines("held") == 1);
    wait_until("a sweep has ended", DEADLINE, || {
        live.daemon.stdout().lines().filter(|line| line.contains(" sweep    full, ")).count() == 2
    });
    for name in ["d", "f"] {
        fs::rename(away.join(name), live.scratch.source().join(name)).unwrap();
    }
    Tree::new().file("g", "more").make(&live.scratch.source());
    live.goes_on();
}

#[test]
fn a_source_that_is_replaced_by_another_directory() {
    let live = Live::new();
    let other = live.scratch.path("other");
    Tree::new().files("d", 120).file("g", "another").make(&other);
    live.away();
    fs::rename(other, live.scratch.source()).unwrap();
    live.goes_on();
    wait_until("it says so once", DEADLINE, || live.lines("adopted") == 1);
}

#[test]
fn a_source_that_is_replaced_by_a_symlink_to_itself() {
    let live = Live::new();
    let away = live.away();
    symlink(&away, live.scratch.source()).unwrap();
    for text in ["one", "another"] {
        fs::write(away.join("f"), text).unwrap();
        wait_until("it is followed", DEADLINE, || are_twins(&away, &live.scratch.replica()));
    }
}

#[test]
fn a_symlink_to_the_source_that_points_elsewhere_now() {
    let scratch = Scratch::new();
    for version in ["one", "two"] {
        Tree::new().files("d", 5).file("f", version).make(&scratch.path(version));
    }
    symlink("one", scratch.source()).unwrap();
    let daemon = scratch.watcher(&[]);
    symlink("two", scratch.path("next")).unwrap();
    fs::rename(scratch.path("next"), scratch.source()).unwrap();
    wait_until("the other is mirrored", DEADLINE, || {
        are_twins(&scratch.path("two"), &scratch.replica())
    });
    fs::write(scratch.path("one/f"), "of no interest").unwrap();
    fs::write(scratch.path("two/f"), "followed").unwrap();
    wait_until("the other is followed", DEADLINE, || {
        are_twins(&scratch.path("two"), &scratch.replica())
    });
    drop(daemon);
}

#[test]
fn a_symlink_to_the_source_that_points_to_an_empty_directory_now_is_doubted() {
    for options in [&["--interval-only"][..], &[]] {
        let scratch = Scratch::new();
        Tree::new().files("d", 20).make(&scratch.path("full"));
        fs::create_dir(scratch.path("empty")).unwrap();
        symlink("full", scratch.source()).unwrap();
        let roots = ["source", "replica", "0.2"];
        let daemon = Daemon::spawn(scratch.command(options.iter().chain(&roots)));
        daemon.wait_settled(1);
        let before = Snapshot::with_inodes(&scratch.replica());
        symlink("empty", scratch.path("next")).unwrap();
        fs::rename(scratch.path("next"), scratch.source()).unwrap();
        wait_until("deletions are held", DEADLINE, || daemon.stderr().contains("held"));
        daemon.wait_sweeps(2);
        assert_eq!(fs::read_dir(scratch.replica().join("d")).unwrap().count(), 20);
        symlink("full", scratch.path("next")).unwrap();
        fs::rename(scratch.path("next"), scratch.source()).unwrap();
        daemon.wait_settled(2);
        assert_same("the replica", &before, &Snapshot::with_inodes(&scratch.replica()));
    }
}

#[test]
fn a_source_that_becomes_a_file() {
    let live = Live::new();
    let away = live.away();
    fs::write(live.scratch.source(), "a file").unwrap();
    live.nothing_is_deleted();
    fs::remove_file(live.scratch.source()).unwrap();
    fs::rename(away, live.scratch.source()).unwrap();
    live.goes_on();
}

#[test]
fn a_parent_of_the_source_that_is_renamed_away_and_back() {
    let scratch = Scratch::new();
    Tree::new().files("d", 5).make(&scratch.path("parent/source"));
    symlink("parent/source", scratch.source()).unwrap();
    let daemon = scratch.watcher(&[]);
    let before = Snapshot::with_inodes(&scratch.replica());
    fs::rename(scratch.path("parent"), scratch.path("elsewhere")).unwrap();
    fs::remove_file(scratch.path("elsewhere/source/d/f0")).unwrap();
    wait_until("it is said", DEADLINE, || daemon.stderr().contains("nothing is deleted"));
    assert_same("the replica", &before, &Snapshot::with_inodes(&scratch.replica()));
    fs::rename(scratch.path("elsewhere"), scratch.path("parent")).unwrap();
    let source = scratch.path("parent/source");
    wait_until("it goes on", DEADLINE, || are_twins(&source, &scratch.replica()));
    fs::write(source.join("d/f1"), "followed").unwrap();
    wait_until("it is followed", DEADLINE, || are_twins(&source, &scratch.replica()));
}

#[test]
fn a_source_that_is_emptied_while_it_is_watched_is_followed() {
    let live = Live::new();
    fs::remove_dir_all(live.scratch.source().join("d")).unwrap();
    fs::remove_file(live.scratch.source().join("f")).unwrap();
    live.scratch.wait_twins();
    assert_eq!(live.lines("held"), 0);
}

#[test]
fn at_rest_the_watch_holds_no_descriptor_in_either_tree() {
    let live = Live::new();
    fs::write(live.scratch.source().join("f"), "changed").unwrap();
    live.scratch.wait_twins();
    wait_until("no descriptor is held in the trees", DEADLINE, || {
        !live.daemon.holds_open(&live.scratch.source())
            && !live.daemon.holds_open(&live.scratch.replica())
    });
}
