//! What is renamed in the source is renamed in the replica: the inodes stay, no byte is copied, and
//! the log has one line for it. Afterwards it is watched where it is now.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Live, LogLine, Snapshot, Tree, assert_same, noise};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// What has no optimisation, or shares its cores with all other tests, takes several times as long.
const FAST: Duration = Duration::from_millis(if cfg!(debug_assertions) { 2_000 } else { 200 });

/// A directory `name` with files at three depths.
fn stocked(tree: Tree, name: &str) -> Tree {
    tree.files(name, 10)
        .files(&format!("{name}/x"), 5)
        .file(format!("{name}/x/deep/f"), noise(3, 70_000))
}

fn live() -> Live {
    let tree = stocked(Tree::new().file("still", "here").dir("other"), "a");
    Live::of(&tree)
}

fn of<'a>(lines: &'a [LogLine], operation: &str) -> Vec<&'a LogLine> {
    lines.iter().filter(|line| line.operation == operation).collect()
}

/// The `renamed` lines as pairs, in the order of their new names.
fn renames(lines: &[LogLine]) -> Vec<(&str, &str)> {
    let mut pairs: Vec<_> =
        of(lines, "renamed").iter().map(|line| (line.get("from"), line.get("path"))).collect();
    pairs.sort_by_key(|(_, to)| *to);
    pairs
}

/// Fails where anything was done but these renames.
#[track_caller]
fn assert_renamed(lines: &[LogLine], pairs: &[(&str, &str)]) {
    assert_eq!(renames(lines), pairs, "{lines:#?}");
    assert_only_renamed(lines);
}

/// Fails where anything was done but renames, or a byte was copied.
#[track_caller]
fn assert_only_renamed(lines: &[LogLine]) {
    assert!(lines.iter().all(|line| line.operation == "renamed"), "{lines:#?}");
    assert!(lines.iter().all(|line| matches!(line.get("bytes"), "" | "0")), "{lines:#?}");
}

/// A save at each depth of a directory is answered without a sweep.
#[track_caller]
fn assert_watched(live: &Live, dir: &str) {
    for name in ["f0", "x/f1", "x/deep/f", "x/deep/new"] {
        live.answer(&format!("{dir}/{name}"));
    }
    live.wait();
}

type Act = dyn Fn(&Live, u64) + Sync;

/// Someone goes on and on at full speed, until what is done beside has ended.
fn storm(live: &Live, act: impl Fn(&Live, u64) + Sync, beside: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                act(live, number);
                number += 1;
            }
        });
        // Also if that fails.
        let _ended = Ended(&is_over);
        beside();
    });
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_file_that_is_renamed_all_the_time_holds_up_nobody() {
    fn rename(live: &Live, from: &str, to: &str) {
        fs::rename(live.at(from), live.at(to)).unwrap();
    }
    let acts: [&Act; 4] = [
        &|live, number| rename(live, &format!("a/n{number}"), &format!("a/n{}", number + 1)),
        &|live, _| {
            renameat_with(CWD, live.at("a/f1"), CWD, live.at("a/f2"), RenameFlags::EXCHANGE)
                .unwrap();
        },
        &|live, number| {
            rename(live, &format!("other/n{number}"), &format!("other/n{}", number + 1));
        },
        &|live, number| {
            fs::write(live.at("a/being saved"), number.to_string()).unwrap();
            rename(live, "a/being saved", "a/f3");
        },
    ];
    for act in acts {
        let live = live();
        live.sh("echo hot >a/n0; mkdir other/n0; echo below >other/n0/below");
        live.wait();
        storm(&live, act, || {
            for _ in 0..20 {
                live.answer("still");
            }
        });
        live.wait();
        live.answer("a/x/f1");
    }
}

#[test]
fn many_files_that_are_renamed_one_by_one_are_renamed_and_hold_up_nobody() {
    let live = Live::of(&Tree::new().files("d", 1_000).file("still", "here"));
    let lines = live.actions_of(|| {
        for number in 0..1_000 {
            fs::rename(live.at(&format!("d/f{number}")), live.at(&format!("d/g{number}"))).unwrap();
        }
        live.answer("still");
        live.wait();
    });
    // Where the machine stops one between the two halves of a rename, that file is copied.
    let renamed = of(&lines, "renamed").len();
    assert!(renamed > 900, "{renamed}: {:#?}", &lines[..20]);
}

/// The directory `from` becomes `to` by this script and stays the same entries; the actions of the
/// log.
#[track_caller]
fn moved(live: &Live, script: &str, from: &str, to: &str) -> Vec<LogLine> {
    let before = Snapshot::with_inodes(&live.copy(from));
    let lines = live.actions_of(|| live.sh(script));
    assert_same(script, &before, &Snapshot::with_inodes(&live.copy(to)));
    lines
}

#[test]
fn a_directory_is_renamed_in_place() {
    let live = live();
    let lines = moved(&live, "mv a b", "a", "b");
    assert_renamed(&lines, &[("a", "b")]);
    assert_watched(&live, "b");
}

#[test]
fn a_directory_is_moved_into_another() {
    let live = live();
    let lines = moved(&live, "mv a other/b", "a", "other/b");
    assert_renamed(&lines, &[("a", "other/b")]);
    assert_watched(&live, "other/b");
}

#[test]
fn a_directory_is_moved_into_one_made_before() {
    let live = live();
    let lines = live.actions_of(|| live.sh("mkdir d"));
    assert_eq!(of(&lines, "created").len(), 1, "{lines:#?}");
    live.actions_of(|| _ = live.answer("d/first"));
    let lines = moved(&live, "mv a d/a", "a", "d/a");
    assert_renamed(&lines, &[("a", "d/a")]);
    assert_watched(&live, "d/a");
}

/// Nobody watches the new directory yet: what comes into it may be copied, but is not lost.
#[test]
fn a_directory_is_moved_into_one_made_a_moment_before() {
    let live = live();
    live.actions_of(|| live.sh("mkdir d; mv a d/a"));
    live.scratch.wait_twins();
    assert_watched(&live, "d/a");
}

#[test]
fn a_directory_within_one_that_moves_is_moved_out_of_it() {
    let live = live();
    let inner = Snapshot::with_inodes(&live.copy("a/x"));
    let files: Vec<_> =
        (0..10).map(|number| live.copy(&format!("a/f{number}"))).map(inode).collect();
    let lines = live.actions_of(|| live.sh("mv a/x y; mv a b"));
    assert_same("the inner one", &inner, &Snapshot::with_inodes(&live.copy("y")));
    let after: Vec<_> =
        (0..10).map(|number| live.copy(&format!("b/f{number}"))).map(inode).collect();
    assert_eq!(files, after, "{lines:#?}");
    // The inner one may go first, or out of the outer one's new name.
    assert_only_renamed(&lines);
    assert_eq!(
        renames(&lines).iter().map(|(_, to)| *to).collect::<Vec<_>>(),
        ["b", "y"],
        "{lines:#?}"
    );
    for name in ["b/f0", "y/f0", "y/deep/f"] {
        live.answer(name);
    }
}

fn inode(path: std::path::PathBuf) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).unwrap().ino()
}

/// Renames so soon after each other that no round can see what is between them. What one sees in
/// the midst of it may have to be copied: where the machine was too busy for that, it is tried
/// anew, with another source.
#[track_caller]
fn at_once<T>(
    prepare: impl Fn() -> (Live, T),
    renames: &[(&str, &str)],
) -> (Live, T, Vec<LogLine>) {
    for _ in 0..20 {
        let (live, before) = prepare();
        let mut took = Duration::MAX;
        let lines = live.actions_of(|| {
            let begun = Instant::now();
            for (from, to) in renames {
                fs::rename(live.at(from), live.at(to)).unwrap();
            }
            took = begun.elapsed();
        });
        live.scratch.assert_twins();
        if took < Duration::from_millis(3) {
            return (live, before, lines);
        }
    }
    panic!("a few renames take longer than 3 ms each time");
}

#[test]
fn a_directory_that_is_renamed_twice_at_once_stays_the_same() {
    let prepare = || {
        let live = live();
        let before = Snapshot::with_inodes(&live.copy("a"));
        (live, before)
    };
    let (live, before, lines) = at_once(prepare, &[("a", "b"), ("b", "c")]);
    assert_same("what was moved", &before, &Snapshot::with_inodes(&live.copy("c")));
    // Two lines where it was looked at between the two.
    assert_only_renamed(&lines);
    assert!(matches!(renames(&lines)[..], [("a", "c")] | [("a", "b"), ("b", "c")]), "{lines:#?}");
    assert_watched(&live, "c");
}

/// Two directories that are to trade names.
fn traders() -> (Live, [Snapshot; 2]) {
    let live = Live::of(&stocked(stocked(Tree::new(), "a"), "b").file("b/only", "in b"));
    let before = ["a", "b"].map(|dir| Snapshot::with_inodes(&live.copy(dir)));
    (live, before)
}

#[track_caller]
fn assert_traded(live: &Live, [one, other]: [Snapshot; 2], lines: &[LogLine]) {
    assert_same("what was a", &one, &Snapshot::with_inodes(&live.copy("b")));
    assert_same("what was b", &other, &Snapshot::with_inodes(&live.copy("a")));
    assert_only_renamed(lines);
    assert!(matches!(lines.len(), 1..=3), "{lines:#?}");
    assert_watched(live, "a");
    assert_watched(live, "b");
}

#[test]
fn two_directories_trade_names_by_a_third() {
    let (live, before, lines) = at_once(traders, &[("a", "t"), ("b", "a"), ("t", "b")]);
    assert_traded(&live, before, &lines);
}

#[test]
fn two_directories_are_exchanged() {
    let (live, before) = traders();
    let lines = live.actions_of(|| {
        renameat_with(CWD, live.at("a"), CWD, live.at("b"), RenameFlags::EXCHANGE).unwrap();
    });
    assert_traded(&live, before, &lines);
}

#[test]
fn a_directory_of_logs_is_rotated() {
    let live = Live::of(&stocked(Tree::new(), "cur"));
    for round in 0..3 {
        let old = format!("old{round}");
        let before = Snapshot::with_inodes(&live.copy("cur"));
        let lines =
            live.actions_of(|| live.sh(&format!("mv cur {old}; mkdir cur; echo {round} >cur/log")));
        assert_same("the old logs", &before, &Snapshot::with_inodes(&live.copy(&old)));
        assert_eq!(renames(&lines), [("cur", old.as_str())], "{lines:#?}");
        let mut made: Vec<_> = of(&lines, "created").iter().map(|line| line.get("path")).collect();
        made.sort_unstable();
        assert_eq!(made, ["cur", "cur/log"], "{lines:#?}");
        assert!(of(&lines, "removed").is_empty(), "{lines:#?}");
        live.answer(&format!("{old}/log"));
        live.answer("cur/log");
        // Its times are set after what is in it.
        live.scratch.wait_twins();
    }
}

#[test]
fn saves_right_before_and_after_a_rename_are_all_that_is_copied() {
    let live = live();
    let before = Snapshot::with_inodes(&live.copy("a"));
    let lines = live
        .actions_of(|| live.sh("echo before >a/x/f0; mv a b; echo after >b/x/f1; echo new >b/new"));
    let touched = |name: &[u8]| [&b""[..], b"x/f0", b"x/f1", b"new"].contains(&name);
    let after = Snapshot::with_inodes(&live.copy("b"));
    assert_same(
        "what was not saved",
        &before.without(|name, _| touched(name)),
        &after.without(|name, _| touched(name)),
    );
    assert_eq!(renames(&lines), [("a", "b")], "{lines:#?}");
    assert!(of(&lines, "removed").is_empty(), "{lines:#?}");
    let created: Vec<_> = of(&lines, "created").iter().map(|line| line.get("path")).collect();
    assert_eq!(created, ["b/new"], "{lines:#?}");
    let is_saved =
        |line: &&LogLine| ["a/x/f0", "b/x/f0", "b/x/f1", "b/new"].contains(&line.get("path"));
    assert!(of(&lines, "updated").iter().all(is_saved), "{lines:#?}");
    assert_watched(&live, "b");
}

#[test]
fn a_big_file_that_is_renamed_keeps_its_inode() {
    let live = Live::of(&Tree::new().file("big", noise(1, 20_000_000)).dir("other"));
    let before = inode(live.copy("big"));
    for (from, to) in [("big", "bigger"), ("bigger", "other/big")] {
        let lines = live.actions_of(|| fs::rename(live.at(from), live.at(to)).unwrap());
        assert_eq!(inode(live.copy(to)), before, "{lines:#?}");
        assert_renamed(&lines, &[(from, to)]);
    }
    live.answer("other/big");
}

#[test]
fn a_directory_that_leaves_the_source_goes_and_one_that_enters_comes() {
    let live = live();
    let outside = live.scratch.path("outside");
    let lines = live.actions_of(|| fs::rename(live.at("a"), &outside).unwrap());
    let removed: Vec<_> =
        lines.iter().map(|line| (line.operation.as_str(), line.get("path"))).collect();
    assert_eq!(removed, [("removed", "a")], "{lines:#?}");
    fs::write(outside.join("f0"), "written outside").unwrap();
    let lines = live.actions_of(|| fs::rename(&outside, live.at("back")).unwrap());
    assert!(lines.iter().all(|line| line.operation == "created"), "{lines:#?}");
    assert!(lines.iter().any(|line| line.get("path") == "back/x/deep/f"), "{lines:#?}");
    assert_watched(&live, "back");
}

#[test]
fn a_directory_that_leaves_while_another_takes_its_name_is_not_mixed_up_with_it() {
    let live = Live::of(&stocked(stocked(Tree::new(), "a"), "b").file("b/only", "in b"));
    let outside = live.scratch.path("outside");
    live.actions_of(|| {
        fs::rename(live.at("a"), &outside).unwrap();
        fs::rename(live.at("b"), live.at("a")).unwrap();
    });
    live.scratch.wait_twins();
    assert_watched(&live, "a");
}

/// 10,000 files in 100 directories.
fn ten_thousand(dir: &str) -> Tree {
    (0..100).fold(Tree::new(), |tree, number| {
        tree.files(&format!("{dir}/{}/{number}", number % 10), 100)
    })
}

#[test]
#[ignore = "takes many seconds"]
fn a_directory_of_ten_thousand_files_is_renamed_as_fast_as_one_of_few() {
    let live = Live::roomy(&ten_thousand("a").dir("other"));
    for (from, to) in [("a", "b"), ("b", "other/b"), ("other/b", "a")] {
        let before = Snapshot::with_inodes(&live.copy(from));
        let mut shown = Duration::MAX;
        let lines = live.actions_of(|| {
            let begun = Instant::now();
            fs::rename(live.at(from), live.at(to)).unwrap();
            crate::support::wait_until("it is there", crate::support::DEADLINE, || {
                live.copy(to).join("9/99/f99").exists()
            });
            shown = begun.elapsed();
            let save = live.answer(&format!("{to}/3/33/f33"));
            println!(
                "{from} -> {to}: in the replica after {shown:.1?}, a save in it after {save:.1?}"
            );
            assert!(save < FAST, "a save in it took {save:?}");
        });
        let saved = |name: &[u8]| [&b"3/33/f33"[..], b"3/33"].contains(&name);
        let after = Snapshot::with_inodes(&live.copy(to));
        assert_same(
            "all but the save",
            &before.without(|name, _| saved(name)),
            &after.without(|name, _| saved(name)),
        );
        assert_eq!(renames(&lines), [(from, to)], "{} lines", lines.len());
        assert!(lines.len() <= 3, "{} lines", lines.len());
        assert!(shown < FAST, "it took {shown:?}");
    }
}
