//! What is excluded is neither mirrored, nor removed, nor walked, nor watched.

use std::fs;
use std::path::Path;

use crate::support::{DEADLINE, Daemon, Scratch, Tree, are_twins, holds_for, wait_until};

/// The names of all entries below a root, directories with a slash.
fn names(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let is_dir = entry.file_type().unwrap().is_dir();
            let name = entry.path().strip_prefix(root).unwrap().display().to_string();
            found.push(name + if is_dir { "/" } else { "" });
            waiting.extend(is_dir.then(|| entry.path()));
        }
    }
    found.sort();
    found
}

fn tree() -> Tree {
    Tree::new()
        .file("src/main.c", "main")
        .file("src/main.o", "object")
        .file("src/keep.o", "kept")
        .file("node_modules/a/b/c.js", "js")
        .file("sub/node_modules/d.js", "js")
        .file("build", "a file of that name")
        .file("sub/build/out", "out")
}

#[test]
fn patterns_on_the_command_line_leave_names_alone() {
    let scratch = Scratch::new().with_source(&tree());
    let options = [
        "--exclude",
        "*.o",
        "--exclude",
        "!keep.o",
        "--exclude",
        "node_modules",
        "--exclude",
        "build/",
    ];
    scratch.once(&options).expect(0);
    let wanted = ["build", "src/", "src/keep.o", "src/main.c", "sub/"];
    assert_eq!(names(&scratch.replica()), wanted);
    scratch.run(["--check", "source", "replica"].iter().chain(&options)).expect(0);
    let again = scratch.once(&options).expect(0);
    assert!(again.actions().is_empty(), "{again}");
}

#[test]
fn patterns_come_from_files_too_and_the_command_line_comes_after_them() {
    let scratch = Scratch::new().with_source(&tree());
    fs::write(scratch.path("patterns"), "# objects\n*.o\n\nnode_modules/\nbuild\n").unwrap();
    scratch.once(&["--exclude-from", "patterns", "--exclude", "!main.o"]).expect(0);
    assert_eq!(names(&scratch.replica()), ["src/", "src/main.c", "src/main.o", "sub/"]);
}

#[test]
fn what_is_excluded_stays_in_the_replica_as_it_is() {
    let scratch = Scratch::new().with_source(&tree());
    let replica = Tree::new()
        .file("src/other.o", "only here")
        .file("node_modules/z", "only here")
        .file("stale", "x");
    let scratch = scratch.with_replica(&replica);
    let run = scratch
        .once(&["--exclude", "*.o", "--exclude", "node_modules", "--max-delete", "100%"])
        .expect(0);
    let left = names(&scratch.replica());
    assert!(
        left.contains(&"src/other.o".to_owned()) && left.contains(&"node_modules/z".to_owned()),
        "{run}"
    );
    assert!(!left.contains(&"stale".to_owned()), "{run}");
}

#[test]
fn a_directory_that_holds_what_is_excluded_is_not_removed() {
    let scratch = Scratch::new().with_source(&Tree::new().file("gone/f", "f").file("other", "x"));
    scratch.sync();
    fs::write(scratch.replica().join("gone/mine.o"), "mine").unwrap();
    fs::remove_dir_all(scratch.source().join("gone")).unwrap();
    fs::create_dir_all(scratch.replica().join("gone/deep/er")).unwrap();
    fs::write(scratch.replica().join("gone/deep/er/own.o"), "mine").unwrap();
    let dry = scratch.run(["-n", "source", "replica", "--exclude", "*.o"]).expect(0);
    assert_eq!(dry.stdout.matches(" removed ").count(), 1, "{dry}");
    scratch.run(["--check", "source", "replica", "--exclude", "*.o"]).expect(1);
    let kept =
        ["gone/", "gone/deep/", "gone/deep/er/", "gone/deep/er/own.o", "gone/mine.o", "other"];
    for _ in 0..2 {
        let run = scratch.once(&["--exclude", "*.o"]).expect(0);
        assert!(
            run.stdout.contains("entries in it that are excluded") && run.stderr.is_empty(),
            "{run}"
        );
        assert_eq!(names(&scratch.replica()), kept);
    }
    scratch.run(["--check", "source", "replica", "--exclude", "*.o"]).expect(0);
    // It does not give way to a file either, and that is a problem.
    fs::write(scratch.source().join("gone"), "a file now").unwrap();
    scratch
        .run(["-n", "source", "replica", "--exclude", "*.o"])
        .expect(1)
        .stderr_has("exclude the name too");
    scratch.once(&["--exclude", "*.o"]).expect(1).stderr_has("exclude the name too");
    assert_eq!(names(&scratch.replica()), kept);
    scratch.sync();
}

#[test]
fn what_a_vanished_directorys_own_patterns_exclude_stays() {
    let tree =
        Tree::new().file("keep", "x").file("proj/.gitignore", "build/\n").file("proj/sub/c", "c");
    let scratch = Scratch::new().with_source(&tree);
    let artifact = scratch.replica().join("proj/build/artifact");
    let left = ["keep", "proj/", "proj/.gitignore", "proj/build/", "proj/build/artifact"];
    for watched in [false, true] {
        scratch.once(&["--gitignore"]).expect(0);
        fs::create_dir_all(artifact.parent().unwrap()).unwrap();
        fs::write(&artifact, "mine").unwrap();
        let daemon = watched.then(|| scratch.watcher(&["--gitignore"]));
        fs::rename(scratch.source().join("proj"), scratch.path("away")).unwrap();
        if daemon.is_none() {
            scratch.once(&["--gitignore"]).expect(0);
        }
        wait_until("the rest is gone", DEADLINE, || names(&scratch.replica()) == left);
        drop(daemon);
        fs::rename(scratch.path("away"), scratch.source().join("proj")).unwrap();
    }
}

#[test]
fn a_pattern_that_is_none_is_refused() {
    let scratch = Scratch::new().with_source(&tree());
    scratch.run(["source", "replica", "--exclude", "[z-a]"]).expect(2).stderr_has("--exclude");
    for pattern in ["", "!", "/", "  ", "a[", "x\n*.o"] {
        scratch.run(["source", "replica", "--exclude", pattern]).expect(2).stderr_has("--exclude");
    }
    scratch.run(["source", "replica", "--exclude-from", "nowhere"]).expect(2).stderr_has("nowhere");
    assert!(!scratch.replica().exists());
}

fn repository() -> Tree {
    Tree::new()
        .file(".git/info/exclude", "*.secret\n")
        .file(".gitignore", "*.log\n/out/\n")
        .file("sub/.gitignore", "!important.log\n")
        .file("sub/.ignore", "*.tmp\n")
        .file("a.log", "log")
        .file("a.secret", "secret")
        .file("a.txt", "text")
        .file("out/x", "x")
        .file("sub/important.log", "log")
        .file("sub/other.log", "log")
        .file("sub/b.tmp", "tmp")
        .file("sub/out/x", "x")
}

#[test]
fn the_sources_own_files_are_heeded_on_request() {
    let scratch = Scratch::new().with_source(&repository());
    scratch.once(&["--gitignore"]).expect(0);
    let wanted = [
        ".git/",
        ".git/info/",
        ".git/info/exclude",
        ".gitignore",
        "a.txt",
        "sub/",
        "sub/.gitignore",
        "sub/.ignore",
        "sub/important.log",
        "sub/out/",
        "sub/out/x",
    ];
    assert_eq!(names(&scratch.replica()), wanted);
    scratch.run(["--check", "--gitignore", "source", "replica"]).expect(0);
    let dry = scratch.run(["--dry-run", "--gitignore", "source", "replica"]).expect(0);
    assert!(dry.stdout.contains(" 0 actions"), "{dry}");
    scratch.sync();
}

/// A daemon that is told to heed the source's files, and waits until a name is in the replica, or
/// is not.
struct Heeding {
    scratch: Scratch,
    _daemon: Daemon,
}

impl Heeding {
    fn new(options: &[&str]) -> Self {
        let scratch = Scratch::new().with_source(&repository());
        let arguments = [&["--gitignore", "source", "replica", "3600"], options].concat();
        let daemon = Daemon::spawn(scratch.command(if options.is_empty() {
            arguments
        } else {
            [&["--gitignore", "source", "replica"], options].concat()
        }));
        daemon.wait_settled(1);
        Self { scratch, _daemon: daemon }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.scratch.source().join(name), text).unwrap();
    }

    #[track_caller]
    fn comes(&self, name: &str, text: &str) {
        let at = self.scratch.replica().join(name);
        wait_until(&format!("{name} is there"), DEADLINE, || {
            fs::read(&at).is_ok_and(|bytes| bytes == text.as_bytes())
        });
    }

    #[track_caller]
    fn goes(&self, name: &str) {
        let at = self.scratch.replica().join(name);
        wait_until(&format!("{name} is gone"), DEADLINE, || !at.exists());
    }

    /// Waits for a change that comes after.
    #[track_caller]
    fn rest(&self) {
        self.write("a.txt", "another");
        self.comes("a.txt", "another");
        self.write("a.txt", "text");
        self.comes("a.txt", "text");
    }

    fn has(&self, name: &str) -> bool {
        self.scratch.replica().join(name).exists()
    }
}

fn rules_that_change_take_effect_both_ways(live: &Heeding) {
    live.write(".gitignore", "/out/\n*.new\n");
    live.comes("a.log", "log");
    live.comes("sub/other.log", "log");
    live.write("b.new", "new");
    live.write("a.log", "followed");
    live.comes("a.log", "followed");
    live.rest();
    assert!(!live.has("b.new"));
    // Excluded again: what the replica has stays as it is.
    live.write(".gitignore", "*.log\n");
    live.comes("b.new", "new");
    live.comes("out/x", "x");
    live.write("a.log", "not followed");
    fs::remove_file(live.scratch.source().join("sub/other.log")).unwrap();
    live.rest();
    assert_eq!(fs::read(live.scratch.replica().join("a.log")).unwrap(), b"followed");
    assert!(live.has("sub/other.log"));
    fs::remove_file(live.scratch.source().join(".gitignore")).unwrap();
    live.comes("a.log", "not followed");
    live.goes("sub/other.log");
    live.write(".git/info/exclude", "");
    live.comes("a.secret", "secret");
}

#[test]
fn the_rules_of_an_excluded_repository_take_effect_too() {
    let scratch = Scratch::new().with_source(&repository());
    let _daemon = scratch.watcher(&["--gitignore", "--exclude", ".git"]);
    assert!(
        !scratch.replica().join(".git").exists() && !scratch.replica().join("a.secret").exists()
    );
    fs::write(scratch.source().join(".git/info/exclude"), "a.txt\n").unwrap();
    wait_until("it is there", DEADLINE, || scratch.replica().join("a.secret").exists());
}

#[test]
fn rules_that_change_take_effect_at_once_while_watching() {
    rules_that_change_take_effect_both_ways(&Heeding::new(&[]));
}

#[test]
fn rules_that_change_take_effect_with_the_next_sweep() {
    rules_that_change_take_effect_both_ways(&Heeding::new(&["--interval-only", "-i", "0.2"]));
}

fn renames_across_the_border_come_out_right(live: &Heeding) {
    let at = |name: &str| live.scratch.source().join(name);
    fs::rename(at("a.txt"), at("a2.log")).unwrap();
    live.goes("a.txt");
    fs::rename(at("a2.log"), at("a.txt")).unwrap();
    live.comes("a.txt", "text");
    live.rest();
    assert!(!live.has("a2.log"));
    fs::rename(at("sub"), at("out/sub")).unwrap();
    live.goes("sub");
    assert!(!live.has("out"));
    fs::rename(at("out/sub"), at("sub3")).unwrap();
    live.comes("sub3/important.log", "log");
    live.rest();
    assert!(!live.has("sub3/other.log") && !live.has("sub3/b.tmp"));
    fs::rename(at("out"), at("in")).unwrap();
    live.comes("in/x", "x");
    live.write("in/y", "y");
    live.comes("in/y", "y");
}

#[test]
fn renames_across_the_border_are_seen_by_the_watch() {
    renames_across_the_border_come_out_right(&Heeding::new(&[]));
}

#[test]
fn renames_across_the_border_are_seen_by_sweeps() {
    renames_across_the_border_come_out_right(&Heeding::new(&["--interval-only", "-i", "0.2"]));
}

/// Watches of a process, as the kernel counts them.
fn watches(daemon: &Daemon) -> usize {
    let folder = format!("/proc/{}/fdinfo", daemon.pid());
    let infos = fs::read_dir(folder).unwrap().flatten();
    let texts = infos.filter_map(|info| fs::read_to_string(info.path()).ok());
    texts.map(|text| text.lines().filter(|line| line.starts_with("inotify ")).count()).sum()
}

#[test]
fn an_excluded_directory_costs_no_watch() {
    let mut tree = tree();
    for number in 0..50 {
        tree = tree.file(format!("node_modules/{number}/deep/x"), "x");
    }
    let scratch = Scratch::new().with_source(&tree);
    // The root, src, sub and sub/build.
    let daemon = scratch.watcher(&["--exclude", "node_modules"]);
    assert_eq!(watches(&daemon), 4);
    fs::write(scratch.source().join("node_modules/0/deep/y"), "y").unwrap();
    fs::create_dir_all(scratch.source().join("src/node_modules/e")).unwrap();
    fs::create_dir_all(scratch.source().join("src/lib")).unwrap();
    wait_until("the new directory is watched", DEADLINE, || watches(&daemon) == 5);
    holds_for("no other is", std::time::Duration::from_millis(200), || watches(&daemon) == 5);
    assert!(
        scratch.replica().join("src/lib").exists()
            && !scratch.replica().join("src/node_modules").exists()
    );
    drop(daemon);
    let all = scratch.watcher(&[]);
    assert!(watches(&all) > 100);
    assert!(are_twins(&scratch.source(), &scratch.replica()));
}

#[test]
fn a_class_does_not_take_the_slash_of_a_path() {
    let tree = Tree::new()
        .file("data/keep", "x")
        .file("data1", "x")
        .file("dataX", "x")
        .file("foo/bar", "x");
    let tree = tree.file("fooXbar", "x").file("foo-bar", "x");
    let scratch = Scratch::new().with_source(&tree);
    fs::write(scratch.source().join(".gitignore"), "data[!0-9]*\nfoo[^a-z]bar\n").unwrap();
    scratch.once(&["--gitignore"]).expect(0);
    assert_eq!(
        names(&scratch.replica()),
        [".gitignore", "data/", "data/keep", "data1", "foo/", "foo/bar"]
    );
}

#[test]
fn a_pattern_that_is_none_is_refused_with_its_place() {
    let scratch = Scratch::new().with_source(&tree());
    for (pattern, why) in [
        ("a[b", "the class that begins with `[` is not closed"),
        ("[z-a]", "a range in `[...]` ends before it begins"),
        ("[[:vowel:]]", "names no class of characters"),
        ("a\\", "escapes nothing"),
    ] {
        scratch.once(&["--exclude", pattern]).expect(2).stderr_has(why).stderr_has(pattern);
        fs::write(scratch.path("patterns"), format!("*.o\n{pattern}\n")).unwrap();
        let run = scratch.once(&["--exclude-from", "patterns"]).expect(2).stderr_has(why);
        run.stderr_has("line 2 of");
        assert!(!scratch.replica().exists());
    }
}

#[test]
fn a_pattern_of_the_source_that_cannot_be_heeded_is_named_once() {
    let scratch = Scratch::new().with_source(&tree());
    fs::write(scratch.source().join(".gitignore"), format!("*.o\n{}\n", "*a".repeat(70))).unwrap();
    let run = scratch.once(&["--gitignore"]).expect(0);
    let said = "warning  .gitignore: the pattern in line 2 is ignored, since it has more than 63 groups of stars";
    assert_eq!(run.stderr.matches(said).count(), 1, "{run}");
    assert!(!scratch.replica().join("src/main.o").exists());
}
