//! What its mode or the file system locks: as an ordinary user, twindir opens it up, and locks it
//! again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Run, Scratch, Snapshot, Tree, assert_same, is_root, set_mode, skip};

/// The mode of an entry, changed for a while.
fn unlocked(at: &Path, action: impl FnOnce()) {
    let mode = fs::symlink_metadata(at).unwrap().mode() & 0o7777;
    set_mode(at, 0o755);
    action();
    set_mode(at, mode);
}

/// They become equal, and a second run has nothing to do and changes nothing.
#[track_caller]
fn sync(scratch: &Scratch) -> Run {
    scratch.own(&scratch.source());
    let run = scratch.sync();
    let before = Snapshot::with_inodes(&scratch.replica());
    let again = scratch.once(&[]).expect(0);
    assert!(again.actions().is_empty(), "it had not settled\n{again}");
    assert_same("the run after", &before, &Snapshot::with_inodes(&scratch.replica()));
    run
}

fn locked_dirs() -> Tree {
    Tree::new()
        .file("locked/file", "text")
        .file("locked/read-only", "text")
        .mode(0o444)
        .file("locked/gone", "text")
        .symlink("locked/link", "file")
        .file("locked/deep/file", "text")
        .dir("locked/deep")
        .mode(0o555)
        .dir("locked")
        .mode(0o555)
        .dir("empty")
        .mode(0o555)
}

#[test]
fn a_locked_directory_is_filled_and_locked_again() {
    let scratch = Scratch::ordinary().with_source(&locked_dirs());
    sync(&scratch);
    let new = scratch.source().join("locked/deep");
    unlocked(&new, || {
        fs::write(new.join("second"), "text").unwrap();
        fs::create_dir_all(new.join("sub/sub")).unwrap();
        set_mode(&new.join("sub"), 0o500);
    });
    let empty = scratch.source().join("empty");
    unlocked(&empty, || fs::write(empty.join("no longer"), "text").unwrap());
    sync(&scratch);
}

#[test]
fn what_lies_in_a_locked_directory_is_changed_and_removed() {
    let scratch = Scratch::ordinary().with_source(&locked_dirs());
    sync(&scratch);
    let dir = scratch.source().join("locked");
    unlocked(&dir, || {
        fs::write(dir.join("file"), "TEXT").unwrap();
        set_mode(&dir.join("read-only"), 0o644);
        fs::write(dir.join("read-only"), "longer than before").unwrap();
        set_mode(&dir.join("read-only"), 0o400);
        fs::remove_file(dir.join("gone")).unwrap();
        fs::remove_file(dir.join("link")).unwrap();
        std::os::unix::fs::symlink("gone", dir.join("link")).unwrap();
    });
    sync(&scratch);
    // The mode of the directory has stayed: its line would be one too many.
    unlocked(&dir, || fs::write(dir.join("file"), "text").unwrap());
    let run = sync(&scratch);
    assert_eq!(run.actions().len(), 1, "{run}");
}

#[test]
fn a_locked_directory_is_emptied_moved_and_removed() {
    let scratch = Scratch::ordinary().with_source(&locked_dirs().file("stays", "text"));
    sync(&scratch);
    let dir = scratch.source().join("locked");
    let deep = dir.join("deep");
    unlocked(&dir, || {
        unlocked(&deep, || fs::remove_file(deep.join("file")).unwrap());
    });
    sync(&scratch);
    fs::rename(&dir, scratch.source().join("moved")).unwrap();
    sync(&scratch);
    let moved = scratch.source().join("moved");
    set_mode(&moved, 0o755);
    set_mode(&moved.join("deep"), 0o755);
    fs::remove_dir_all(&moved).unwrap();
    sync(&scratch);
    assert!(scratch.temporaries().is_empty());
}

#[test]
fn a_locked_directory_becomes_a_file_and_back() {
    let tree = locked_dirs()
        .file("file", "text")
        .mode(0o400)
        .file("stays", "text")
        .file("stays too", "text");
    let scratch = Scratch::ordinary().with_source(&tree);
    sync(&scratch);
    let dir = scratch.source().join("locked");
    set_mode(&dir, 0o755);
    set_mode(&dir.join("deep"), 0o755);
    fs::remove_dir_all(&dir).unwrap();
    fs::write(&dir, "a file").unwrap();
    set_mode(&dir, 0o444);
    let file = scratch.source().join("file");
    fs::remove_file(&file).unwrap();
    Tree::new().file("file/inside", "text").dir("file").mode(0o555).make(&scratch.source());
    scratch.own(&scratch.source());
    let run = scratch.once(&["--max-delete", "100%"]).expect(0);
    scratch.assert_twins();
    assert!(scratch.temporaries().is_empty(), "{run}");
    sync(&scratch);
}

#[test]
fn the_root_of_the_replica_may_be_locked() {
    let scratch =
        Scratch::ordinary().with_source(&Tree::new().file("file", "text").file("sub/file", "text"));
    set_mode(&scratch.source(), 0o555);
    sync(&scratch);
    let source = scratch.source();
    unlocked(&source, || fs::write(source.join("second"), "text").unwrap());
    sync(&scratch);
}

#[test]
fn directories_of_the_replica_without_any_right_are_opened_up() {
    let tree = Tree::new()
        .file("same/file", "text")
        .file("same/deep/file", "text")
        .file("changed/file", "text")
        .file("goes/a/b/file", "text")
        .file("becomes a file/inside", "text")
        .file("stays/a", "text")
        .file("stays/b", "text")
        .file("stays/c", "text");
    for mode in [0, 0o111, 0o222, 0o444, 0o555] {
        println!("mode {mode:o}");
        let scratch = Scratch::ordinary().with_source(&tree);
        sync(&scratch);
        let source = scratch.source();
        fs::write(source.join("changed/file"), "longer than before").unwrap();
        fs::write(source.join("changed/second"), "text").unwrap();
        fs::remove_dir_all(source.join("goes")).unwrap();
        fs::remove_dir_all(source.join("becomes a file")).unwrap();
        fs::write(source.join("becomes a file"), "text").unwrap();
        for dir in ["same/deep", "same", "changed", "goes/a/b", "goes/a", "goes", "becomes a file"]
        {
            set_mode(&scratch.replica().join(dir), mode);
        }
        scratch.own(&source);
        let run = scratch.once(&["--max-delete", "100%"]).expect(0);
        scratch.assert_twins();
        assert!(scratch.temporaries().is_empty(), "{run}");
        sync(&scratch);
    }
}

#[test]
fn files_of_the_replica_without_any_right_are_replaced() {
    let mut tree = Tree::new().file("dir/stays", "text");
    for name in ["same", "contents", "size", "goes", "kind", "dir/deep"] {
        tree = tree.file(name, "before");
    }
    for mode in [0, 0o200, 0o400, 0o111] {
        println!("mode {mode:o}");
        let scratch = Scratch::ordinary().with_source(&tree);
        sync(&scratch);
        let at = |name: &str| scratch.source().join(name);
        fs::write(at("contents"), "BEFORE").unwrap();
        fs::write(at("size"), "longer than before").unwrap();
        fs::remove_file(at("goes")).unwrap();
        fs::remove_file(at("kind")).unwrap();
        fs::create_dir(at("kind")).unwrap();
        for name in ["same", "contents", "size", "goes", "kind", "dir/deep"] {
            set_mode(&scratch.replica().join(name), mode);
        }
        sync(&scratch);
    }
}

#[test]
fn files_of_another_owner_in_the_replica_are_replaced() {
    if !is_root() {
        return skip("an entry of another user takes root to make");
    }
    let tree = Tree::new()
        .file("same", "text")
        .file("contents", "before")
        .file("mode", "text")
        .symlink("link", "a");
    let scratch = Scratch::ordinary().with_source(&tree);
    sync(&scratch);
    let source = scratch.source();
    fs::write(source.join("contents"), "BEFORE").unwrap();
    set_mode(&source.join("mode"), 0o600);
    crate::support::set_mtime(&source.join("link"), 5, 5);
    for name in ["same", "contents", "mode", "link"] {
        std::os::unix::fs::lchown(scratch.replica().join(name), Some(1), Some(1)).unwrap();
    }
    for name in ["same", "contents", "mode"] {
        set_mode(&scratch.replica().join(name), 0);
    }
    sync(&scratch);
}

#[test]
fn read_only_files_are_copied_changed_and_removed() {
    let mut tree = Tree::new().file("stays", "text");
    for mode in [0o444, 0o400, 0o555, 0o4555] {
        for name in ["same", "contents", "size", "mtime", "goes"] {
            tree = tree.file(format!("{name} {mode:o}"), "before").mode(mode);
        }
        tree = tree.file(format!("big {mode:o}"), vec![b'x'; 9_000_000]).mode(mode);
    }
    let scratch = Scratch::ordinary().with_source(&tree);
    sync(&scratch);
    for mode in [0o444, 0o400, 0o555, 0o4555] {
        let at = |name: &str| scratch.source().join(format!("{name} {mode:o}"));
        for (name, text) in
            [("contents", "BEFORE"), ("size", "longer than before"), ("big", "small")]
        {
            set_mode(&at(name), 0o600);
            fs::write(at(name), text).unwrap();
            set_mode(&at(name), mode);
        }
        crate::support::set_mtime(&at("mtime"), 5, 5);
        fs::remove_file(at("goes")).unwrap();
    }
    sync(&scratch);
}

#[test]
fn the_root_user_mirrors_what_nobody_may_read() {
    if !is_root() {
        return skip("only root reads what nobody may");
    }
    let tree = Tree::new()
        .file("file", "text")
        .mode(0)
        .file("dir/file", "text")
        .mode(0)
        .dir("dir")
        .mode(0);
    let scratch = Scratch::new().with_source(&tree);
    sync(&scratch);
    fs::write(scratch.source().join("dir/file"), "longer than before").unwrap();
    fs::write(scratch.source().join("dir/second"), "text").unwrap();
    sync(&scratch);
}

/// An entry that cannot be changed while this lives.
struct Locked(PathBuf);

impl Locked {
    /// Not to be changed at all. None where there is no such thing.
    fn immutable(at: PathBuf) -> Option<Self> {
        Self::new("+i", at)
    }

    /// Only to be added to. None where there is no such thing.
    fn append_only(at: PathBuf) -> Option<Self> {
        Self::new("+a", at)
    }

    fn new(flag: &str, at: PathBuf) -> Option<Self> {
        let done = Command::new("chattr").arg(flag).arg(&at).output();
        done.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-ia").arg(&self.0).output();
    }
}

#[track_caller]
fn problems_of(run: &Run) -> Vec<&str> {
    run.stderr.lines().filter(|line| line.split_whitespace().nth(1) == Some("problem")).collect()
}

#[test]
fn an_immutable_entry_of_the_replica_is_a_problem_with_its_name() {
    let names = ["contents", "mode", "goes", "dir/goes", "becomes a dir"];
    let mut tree = Tree::new()
        .file("good", "before")
        .file("dir/stays", "text")
        .file("immutable dir/stays", "text");
    for name in names {
        tree = tree.file(name, "before");
    }
    let scratch = Scratch::new().with_source(&tree);
    sync(&scratch);
    let mut held = Vec::new();
    for name in names.into_iter().chain(["immutable dir"]) {
        match Locked::immutable(scratch.replica().join(name)) {
            Some(entry) => held.push(entry),
            None => return skip("no entry can be made immutable here"),
        }
    }
    let at = |name: &str| scratch.source().join(name);
    fs::write(at("good"), "longer than before").unwrap();
    fs::write(at("contents"), "BEFORE").unwrap();
    set_mode(&at("mode"), 0o600);
    fs::remove_file(at("goes")).unwrap();
    fs::remove_file(at("dir/goes")).unwrap();
    fs::remove_file(at("becomes a dir")).unwrap();
    fs::create_dir(at("becomes a dir")).unwrap();
    fs::write(at("immutable dir/new"), "text").unwrap();

    for _ in 0..2 {
        let run = scratch.once(&[]).expect(1);
        for name in names.into_iter().chain(["immutable dir/new"]) {
            let about =
                problems_of(&run).into_iter().filter(|line| line.contains(&format!(" {name}: ")));
            assert_eq!(about.count(), 1, "{name}\n{run}");
        }
        assert!(!run.stdout.contains("in sync as of"), "{run}");
        let read = |name: &str| fs::read(scratch.replica().join(name)).unwrap();
        assert_eq!(read("good"), b"longer than before");
        for name in names {
            assert_eq!(read(name), b"before", "{name}");
        }
        assert!(scratch.temporaries().is_empty(), "{:?}\n{run}", scratch.temporaries());
    }
    drop(held);
    sync(&scratch);
}

#[test]
fn a_check_of_what_it_may_not_read_is_not_taken_for_equal() {
    let scratch =
        Scratch::ordinary().with_source(&Tree::new().file("dir/file", "text").file("file", "text"));
    sync(&scratch);
    for name in ["file", "dir"] {
        let at = scratch.replica().join(name);
        set_mode(&at, 0);
        scratch.run(["--check", "source", "replica"]).expect(1);
        set_mode(&at, if name == "dir" { 0o755 } else { 0o644 });
        scratch.run(["--check", "source", "replica"]).expect(0);
    }
}

/// A directory of the replica that is filled and changed while it can only be added to.
fn append_only() -> Option<(Scratch, Locked)> {
    let tree =
        Tree::new().file("d/changed", "before").file("d/stays", "text").file("other", "text");
    let scratch = Scratch::new().with_source(&tree);
    sync(&scratch);
    let lock = Locked::append_only(scratch.replica().join("d"))?;
    let at = |name: &str| scratch.source().join("d").join(name);
    fs::write(at("changed"), "longer than before").unwrap();
    fs::write(at("big"), crate::support::noise(1, 9_000_000)).unwrap();
    fs::write(at("small"), "text").unwrap();
    fs::hard_link(at("small"), at("linked")).unwrap();
    std::os::unix::fs::symlink("small", at("link")).unwrap();
    Some((scratch, lock))
}

/// Nothing is left in it, and what was there is as it was.
#[track_caller]
fn assert_nothing_added(scratch: &Scratch) {
    let names =
        fs::read_dir(scratch.replica().join("d")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["changed", "stays"]);
    assert_eq!(fs::read(scratch.replica().join("d/changed")).unwrap(), b"before");
}

#[test]
fn nothing_is_left_in_an_append_only_directory_and_one_line_says_why() {
    let Some((scratch, lock)) = append_only() else {
        return skip("nothing can be made append-only here");
    };
    for _ in 0..2 {
        let run = scratch.once(&[]).expect(1);
        assert_eq!(problems_of(&run).len(), 1, "{run}");
        assert!(problems_of(&run)[0].contains("perhaps it is append-only, see lsattr"), "{run}");
        assert_nothing_added(&scratch);
    }
    drop(lock);
    sync(&scratch);
}

#[test]
fn nothing_is_left_where_a_file_in_an_append_only_directory_is_a_directory_in_the_source() {
    let scratch = Scratch::new().with_source(&Tree::new().file("d/f", "text"));
    sync(&scratch);
    let Some(lock) = Locked::append_only(scratch.replica().join("d")) else {
        return skip("nothing can be made append-only here");
    };
    fs::remove_file(scratch.source().join("d/f")).unwrap();
    Tree::new().file("d/f/new", "text").make(&scratch.source());
    for _ in 0..2 {
        let run = scratch.once(&[]).expect(1);
        assert_eq!(problems_of(&run).len(), 1, "{run}");
        assert_eq!(fs::read_dir(scratch.replica().join("d")).unwrap().count(), 1);
        assert_eq!(fs::read(scratch.replica().join("d/f")).unwrap(), b"text");
    }
    drop(lock);
    sync(&scratch);
}

#[test]
fn an_append_only_directory_takes_no_more_however_often_it_is_tried_and_all_once_it_can() {
    let Some((scratch, lock)) = append_only() else {
        return skip("nothing can be made append-only here");
    };
    let daemon = scratch.daemon("1");
    daemon.wait_sweeps(4);
    assert_nothing_added(&scratch);
    assert_eq!(daemon.stderr().matches(" problem ").count(), 1, "{}", daemon.stderr());
    drop(lock);
    scratch.wait_twins();
    let resolved = || daemon.stdout().contains(" resolved ");
    crate::support::wait_until("it is said that it is over", crate::support::DEADLINE, resolved);
}

#[test]
fn a_dry_run_and_the_run_after_it_say_the_same_of_what_is_locked() {
    let changes = [
        "mv d/sub d/renamed",
        "mv d/f d/renamed",
        "rm d/f",
        "rm -r d/sub; echo now a file > d/sub",
        "echo more > d/f",
        "echo new > d/new",
        "mkdir d/new; echo new > d/new/f",
        "ln -s f d/new",
        "chmod 700 d",
        "echo more > d/sub/f; rm d/f",
        "rm -r d",
        "rm -r d; echo now a file > d",
        "mv d e",
        "rm d/f; mkdir d/f; echo new > d/f/new",
    ];
    let files = ["rm d/f", "echo more > d/f", "chmod 600 d/f", "rm d/f; mkdir d/f", "mv d/f d/g"];
    let all =
        changes.map(|change| (change, "d")).into_iter().chain(files.map(|change| (change, "d/f")));
    let each = all.flat_map(|(change, locked)| ["+a", "+i"].map(|flag| (change, locked, flag)));
    for (change, locked, flag) in each {
        let scratch =
            Scratch::new().with_source(&Tree::new().file("d/sub/f", "text").file("d/f", "text"));
        sync(&scratch);
        let Some(_lock) = Locked::new(flag, scratch.replica().join(locked)) else {
            return skip("nothing can be locked here");
        };
        let done = Command::new("sh").args(["-c", change]).current_dir(scratch.source()).status();
        assert!(done.unwrap().success());
        let [dry, run] = ["--dry-run", "--once"]
            .map(|mode| scratch.run([mode, "source", "replica", "--max-delete", "100%"]).expect(1));
        for run in [&dry, &run] {
            assert!(!problems_of(run).is_empty(), "{change}\n{run}");
        }
        // Without the mark and the time.
        let actions = |run: &Run, skipped: usize| -> BTreeSet<String> {
            let words =
                |line: &str| line.split_whitespace().skip(skipped).collect::<Vec<_>>().join(" ");
            let actions = run.stdout.lines().map(words);
            actions
                .filter(|line| {
                    ["created", "updated", "removed"].iter().any(|word| line.starts_with(word))
                })
                .collect()
        };
        assert_eq!(actions(&dry, 3), actions(&run, 1), "{change}, {flag} {locked}\n{dry}\n{run}");
    }
}
