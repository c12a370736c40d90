//! `--dry-run` and `--check`: what they say, and that they change nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use crate::histories::world::World;
use crate::support::{
    Run, Scratch, Snapshot, Tree, assert_same, is_root, set_mode, set_mtime, skip, xattr,
};

const ALL: [&str; 2] = ["--max-delete", "100%"];

fn dry_run(scratch: &Scratch, arguments: &[&str]) -> Run {
    scratch.run(["--dry-run", "source", "replica"].iter().chain(arguments))
}

fn check(scratch: &Scratch) -> Run {
    scratch.run(["--check", "source", "replica"])
}

/// What is done to which entry and why, sorted; without the time and the mark of a dry run.
#[track_caller]
fn actions(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    for line in run.stdout.lines() {
        let (time, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no time: {line}\n{run}"));
        assert_eq!((time.len(), time.matches(':').count()), (8, 2), "no time: {line}\n{run}");
        let rest = rest.strip_prefix("(dry run) ").unwrap_or(rest);
        if ["created ", "updated ", "removed "].iter().any(|word| rest.starts_with(word)) {
            found.push(rest.to_owned());
        }
    }
    found.sort();
    found
}

/// Inode, mtime and ctime of every entry below a folder.
fn stamps(root: &Path) -> BTreeMap<PathBuf, [i64; 5]> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(at) = waiting.pop() {
        let metadata = fs::symlink_metadata(&at).unwrap();
        if metadata.is_dir() {
            // One that is locked says nothing.
            waiting
                .extend(fs::read_dir(&at).into_iter().flatten().map(|entry| entry.unwrap().path()));
        }
        let (mtime, ctime) = (metadata.mtime_nsec(), metadata.ctime_nsec());
        let inode = i64::try_from(metadata.ino()).unwrap();
        found.insert(at, [inode, metadata.mtime(), mtime, metadata.ctime(), ctime]);
    }
    found
}

/// Runs it, and fails where anything in the test's folder has changed.
#[track_caller]
fn unchanged(scratch: &Scratch, action: impl FnOnce() -> Run) -> Run {
    let before = stamps(scratch.root());
    let run = action();
    let after = stamps(scratch.root());
    let differ =
        before.iter().filter(|(at, stamp)| after.get(*at) != Some(stamp)).map(|(at, _)| at);
    let new = after.keys().filter(|at| !before.contains_key(*at));
    let changed: Vec<_> = differ.chain(new).collect();
    assert!(changed.is_empty(), "it has changed {changed:?}\n{run}");
    run
}

/// Fails where the lines of the two are not the same.
#[track_caller]
fn assert_foretold(foretold: &Run, done: &Run) {
    // How many entries a directory holds is counted for a short time only.
    let uncounted = |run: &Run| -> Vec<String> {
        let cut = |line: String| line.split(" (removed, ").next().unwrap_or_default().to_owned();
        actions(run).into_iter().map(cut).collect()
    };
    let (mut foretold, mut done) = (uncounted(foretold), uncounted(done));
    let both: Vec<String> = foretold.iter().filter(|line| done.contains(line)).cloned().collect();
    for list in [&mut foretold, &mut done] {
        list.retain(|line| !both.contains(line));
    }
    assert!(foretold == done, "only foretold: {foretold:#?}\nonly done: {done:#?}");
}

fn foretell(seed: u64) {
    let scratch = Scratch::new().with_source(&Tree::new().file("first", "text"));
    let mut world = World::new(&scratch, seed);
    world.plant(30);
    // For some, all is new.
    if !seed.is_multiple_of(5) {
        scratch.once(&ALL).expect(0);
        world.operate(25);
        world.tamper(8);
    }
    let result = catch_unwind(AssertUnwindSafe(|| {
        let foretold = unchanged(&scratch, || dry_run(&scratch, &ALL)).expect(0);
        let done = scratch.once(&ALL).expect(0);
        assert_foretold(&foretold, &done);
        assert!(!actions(&done).is_empty(), "nothing to tell\n{done}");
        scratch.assert_twins();
        let rest = unchanged(&scratch, || dry_run(&scratch, &ALL)).expect(0);
        assert!(actions(&rest).is_empty(), "{rest}");
        let same = unchanged(&scratch, || check(&scratch)).expect(0);
        assert!(differences(&same).is_empty(), "{same}");
    }));
    if let Err(failure) = result {
        eprintln!("seed {seed}, the last operations:\n{}", world.story(40));
        resume_unwind(failure);
    }
}

#[test]
fn a_run_does_what_the_dry_run_before_it_has_said() {
    for seed in 0..20 {
        foretell(seed);
    }
}

#[test]
#[ignore = "takes minutes; TWINDIR_SEEDS says how many"]
fn many_runs_do_what_the_dry_runs_before_them_have_said() {
    let seeds = crate::support::how_many("TWINDIR_SEEDS", 300);
    for seed in 1000..1000 + seeds {
        foretell(seed);
    }
}

/// What a run itself does to the mtime of a directory, and undoes, is no difference.
#[test]
fn a_directory_with_other_metadata_and_contents_is_told_in_the_same_words() {
    let mut tree = Tree::new();
    for name in ["contents", "goes", "comes", "locked", "unlocked", "mtime"] {
        tree = tree.file(format!("{name}/file"), "before").file(format!("{name}/stays"), "text");
    }
    let scratch = Scratch::ordinary().with_source(&tree);
    scratch.sync();
    let at = |name: &str| scratch.source().join(name);
    for name in ["contents", "locked", "unlocked", "mtime"] {
        // The directory keeps its mtime.
        fs::write(at(name).join("file"), "BEFORE").unwrap();
    }
    fs::remove_file(at("goes/file")).unwrap();
    fs::write(at("comes/new"), "text").unwrap();
    scratch.own(&scratch.source());
    for name in ["contents", "goes", "comes"] {
        set_mode(&at(name), 0o700);
    }
    set_mode(&at("locked"), 0o555);
    set_mode(&scratch.replica().join("unlocked"), 0o555);
    set_mtime(&at("mtime"), 5, 5);
    let foretold = unchanged(&scratch, || dry_run(&scratch, &[])).expect(0);
    let done = scratch.once(&[]).expect(0);
    scratch.assert_twins();
    assert_foretold(&foretold, &done);
}

#[test]
fn each_line_of_a_dry_run_is_marked() {
    let tree = Tree::new().file("new", "text").file("sub/size", "longer").symlink("link", "target");
    let old = Tree::new()
        .file("sub/size", "short")
        .file("sub/gone", "text")
        .file("gone/a", "")
        .file("gone/b", "");
    let scratch = Scratch::new().with_source(&tree).with_replica(&old);
    let run = unchanged(&scratch, || dry_run(&scratch, &ALL)).expect(0);
    let lines: Vec<&str> = run.stdout.lines().filter(|line| line.contains(" (dry run) ")).collect();
    assert_eq!(lines.len(), 5, "{run}");
    for end in [
        "created  new (new, 4 B)",
        "created  link (new, symlink to target)",
        "updated  sub/size (size, 6 B)",
        "removed  sub/gone (removed)",
        "removed  gone/ (removed, 3 entries)",
    ] {
        assert!(
            lines.iter().any(|line| line.ends_with(&format!(" (dry run) {end}"))),
            "{end}\n{run}"
        );
    }
    assert_eq!(actions(&run).len(), lines.len(), "an action without a mark\n{run}");
    assert!(run.stdout.contains("5 actions"), "{run}");
}

#[test]
fn held_deletions_are_held_in_both() {
    let tree =
        Tree::new().file("stays", "text").file("changed", "longer than before").file("new", "text");
    let tree = tree.file("becomes a file", "text").dir("becomes a dir");
    // A share holds nothing below a hundred.
    let old = Tree::new()
        .file("stays", "text")
        .file("changed", "before")
        .files("goes", 120)
        .file("goes too", "");
    let old = old.file("becomes a file/inside", "text").file("becomes a dir", "text");
    let scratch = Scratch::new().with_source(&tree).with_replica(&old);
    for (limit, code) in [(&["--max-delete", "3"][..], 1), (&[], 1), (&ALL, 0)] {
        let foretold = unchanged(&scratch, || dry_run(&scratch, limit)).expect(code);
        let copy = scratch.path("copy");
        let mut command = std::process::Command::new("cp");
        command.arg("-a").args([scratch.replica(), copy.clone()]);
        crate::support::Daemon::run(command).expect(0);
        let done = scratch.once(limit).expect(code);
        assert_foretold(&foretold, &done);
        let removed = actions(&done).iter().any(|line| line.starts_with("removed"));
        assert_eq!(removed, code == 0, "{done}");
        // As it was.
        fs::remove_dir_all(scratch.replica()).unwrap();
        fs::rename(&copy, scratch.replica()).unwrap();
    }
}

#[test]
fn a_missing_replica_is_not_made() {
    let tree =
        Tree::new().file("a/b/c", "text").symlink("link", "a").file("big", vec![b'x'; 2_000_000]);
    let scratch = Scratch::ordinary().with_source(&tree);
    let foretold = unchanged(&scratch, || dry_run(&scratch, &["60", "log"])).expect(0);
    assert!(!scratch.replica().exists());
    assert!(!scratch.log().exists(), "a dry run writes no log");
    let done = scratch.once(&[]).expect(0);
    assert_foretold(&foretold, &done);
    assert_eq!(actions(&done).len(), 5, "{done}");
}

#[test]
fn a_dry_run_and_a_check_write_no_log() {
    let scratch =
        Scratch::new().with_source(&Tree::new().file("a", "text")).with_replica(&Tree::new());
    for mode in ["--dry-run", "--check"] {
        unchanged(&scratch, || scratch.run([mode, "source", "replica", "60", "log"]));
        unchanged(&scratch, || scratch.run([mode, "source", "replica", "-l", "sub/log"]));
        assert!(!scratch.log().exists());
    }
    fs::write(scratch.log(), "what was there\n").unwrap();
    unchanged(&scratch, || dry_run(&scratch, &["60", "log"])).expect(0);
}

#[test]
fn both_work_beside_a_daemon_on_the_same_replica() {
    let scratch = Scratch::new().with_source(&Tree::new().file("a", "text").file("b", "text"));
    let mut daemon = scratch.daemon("600");
    daemon.wait_settled(1);
    let run = unchanged(&scratch, || dry_run(&scratch, &[])).expect(0);
    assert!(actions(&run).is_empty(), "{run}");
    check(&scratch).expect(0);
    fs::write(scratch.source().join("a"), "TEXT").unwrap();
    let run = unchanged(&scratch, || dry_run(&scratch, &[])).expect(0);
    assert_eq!(actions(&run), ["updated  a (md5, 4 B)"]);
    unchanged(&scratch, || check(&scratch)).expect(1);
    // While the daemon holds the replica, one that writes may not.
    scratch.once(&[]).expect(2);
    assert!(daemon.is_running());
}

#[test]
fn a_replica_that_may_only_be_read_is_looked_at() {
    let tree = Tree::new().file("dir/file", "text").file("dir/second", "text");
    let scratch = Scratch::ordinary().with_source(&tree);
    scratch.sync();
    fs::write(scratch.source().join("dir/file"), "TEXT").unwrap();
    for name in ["dir/file", "dir/second", "dir", ""] {
        let at = scratch.replica().join(name);
        set_mode(&at, if at.is_dir() { 0o555 } else { 0o444 });
    }
    let run = unchanged(&scratch, || check(&scratch)).expect(1);
    assert!(differences(&run).iter().any(|line| line.starts_with("dir/file (md5")), "{run}");
    let run = unchanged(&scratch, || dry_run(&scratch, &[])).expect(0);
    assert!(actions(&run).contains(&"updated  dir/file (md5, 4 B)".to_owned()), "{run}");
}

#[test]
fn wrong_use_is_refused() {
    let scratch = Scratch::new().with_source(&Tree::new().file("a", "text"));
    for arguments in [
        &["--dry-run", "--check", "source", "replica"][..],
        &["--once", "--check", "source", "replica"],
        &["--dry-run", "nowhere", "replica"],
        &["--check", "nowhere", "replica"],
        &["--check", "source", "source"],
        &["--dry-run", "source", "source/inside"],
        &["--dry-run", "--no-create", "source", "replica"],
    ] {
        unchanged(&scratch, || scratch.run(arguments)).expect(2);
    }
    // With `--once`, a dry run is the dry run of that.
    unchanged(&scratch, || scratch.run(["--once", "--dry-run", "source", "replica"])).expect(0);
}

#[test]
fn what_cannot_be_read_makes_a_dry_run_and_a_check_fail() {
    let tree = Tree::new().file("bad", "text").file("dir/inside", "text").file("good", "text");
    let scratch = Scratch::ordinary().with_source(&tree);
    scratch.sync();
    for name in ["bad", "dir"] {
        let at = scratch.source().join(name);
        let mode = fs::metadata(&at).unwrap().mode() & 0o7777;
        set_mode(&at, 0);
        for run in [
            unchanged(&scratch, || dry_run(&scratch, &[])),
            unchanged(&scratch, || check(&scratch)),
        ] {
            let run = run.expect(1);
            assert_eq!(
                run.stderr.lines().filter(|line| line.contains(&format!(" {name}: "))).count(),
                1,
                "{run}"
            );
            assert!(actions(&run).is_empty(), "nothing is known to be done\n{run}");
        }
        set_mode(&at, mode);
    }
    check(&scratch).expect(0);
}

#[test]
fn a_dry_run_says_which_new_files_cannot_be_read() {
    let scratch = Scratch::ordinary()
        .with_source(&Tree::new().file("new", "text").mode(0).file("good", "text"));
    let run = dry_run(&scratch, &[]).expect(1);
    assert!(run.stderr.contains(" new: cannot open the file in the source"), "{run}");
    assert_eq!(actions(&run).len(), 1, "{run}");
}

/// What a check has said of each entry: path and what differs.
fn differences(run: &Run) -> Vec<String> {
    let said = |line: &str| {
        line.split_once(' ')?.1.strip_prefix("differs ").map(|rest| rest.trim().to_owned())
    };
    let mut found: Vec<String> = run.stdout.lines().filter_map(said).collect();
    found.sort();
    found
}

/// Something that makes a replica differ, and what a check says of it.
type Spoil = (&'static str, fn(&Path), &'static str);

const SPOILS: [Spoil; 17] = [
    ("sub/missing", |at| fs::remove_file(at).unwrap(), "sub/missing (missing)"),
    ("sub/missing dir", |at| fs::remove_dir_all(at).unwrap(), "sub/missing dir/ (missing)"),
    ("sub/missing link", |at| fs::remove_file(at).unwrap(), "sub/missing link (missing)"),
    ("sub/extra", |at| fs::write(at, "extra").unwrap(), "sub/extra (extra)"),
    ("sub/extra dir", |at| fs::create_dir_all(at.join("a/b")).unwrap(), "sub/extra dir/ (extra"),
    ("sub/size", |at| rewrite(at, b"longer than before"), "sub/size (size)"),
    ("sub/md5", |at| rewrite(at, b"bEfore"), "sub/md5 (md5)"),
    ("sub/big", |at| flip(at, 1_500_000), "sub/big (md5)"),
    ("sub/mode", |at| set_mode(at, 0o600), "sub/mode (metadata: mode)"),
    ("sub/mtime", |at| set_mtime(at, 5, 5), "sub/mtime (metadata: mtime)"),
    (
        "sub/both",
        |at| (set_mode(at, 0o600), set_mtime(at, 5, 5)).1,
        "sub/both (metadata: mode mtime)",
    ),
    ("sub/link", |at| relink(at, "behind"), "sub/link (target)"),
    ("sub/link mtime", |at| set_mtime(at, 5, 5), "sub/link mtime (metadata: mtime)"),
    ("sub/kind", |at| relink(at, "before"), "sub/kind (kind)"),
    ("sub/dir mode", |at| set_mode(at, 0o700), "sub/dir mode/ (metadata: mode)"),
    ("sub/dir mtime", |at| set_mtime(at, 5, 5), "sub/dir mtime/ (metadata: mtime)"),
    (
        "sub/dir kind",
        |at| (fs::remove_dir(at).unwrap(), fs::write(at, "x").unwrap()).1,
        "sub/dir kind/ (kind)",
    ),
];

/// Other bytes, the old mtime.
fn rewrite(at: &Path, bytes: &[u8]) {
    let metadata = fs::metadata(at).unwrap();
    fs::write(at, bytes).unwrap();
    set_mtime(at, metadata.mtime(), metadata.mtime_nsec());
}

fn flip(at: &Path, place: usize) {
    let mut bytes = fs::read(at).unwrap();
    bytes[place] ^= 1;
    rewrite(at, &bytes);
}

/// A symlink in the place of a file or symlink, with its mtime.
fn relink(at: &Path, target: &str) {
    let metadata = fs::symlink_metadata(at).unwrap();
    fs::remove_file(at).unwrap();
    symlink(target, at).unwrap();
    set_mtime(at, metadata.mtime(), metadata.mtime_nsec());
}

fn checked_tree() -> Tree {
    let files =
        ["missing", "size", "md5", "mode", "mtime", "both", "kind", "xattr", "same", "owner"];
    let mut tree = files
        .into_iter()
        .fold(Tree::new(), |tree, name| tree.file(format!("sub/{name}"), "before"));
    for name in ["dir mode", "dir mtime", "dir kind", "dir xattr"] {
        tree = tree.dir(format!("sub/{name}"));
    }
    for name in ["missing link", "link", "link mtime"] {
        tree = tree.symlink(format!("sub/{name}"), "before");
    }
    tree.dir("sub/missing dir").file("sub/big", vec![b'x'; 2_000_000]).dir("sub")
}

/// Does it to the replica; the directory keeps its mtime.
fn spoil(scratch: &Scratch, spoils: &[Spoil]) {
    for (name, action, _) in spoils {
        action(&scratch.replica().join(name));
    }
    scratch.own(&scratch.replica());
    let metadata = fs::metadata(scratch.source().join("sub")).unwrap();
    set_mtime(&scratch.replica().join("sub"), metadata.mtime(), metadata.mtime_nsec());
}

#[track_caller]
fn assert_said(run: &Run, spoils: &[Spoil]) {
    let found = differences(run);
    for (_, _, wanted) in spoils {
        let count = found.iter().filter(|line| line.starts_with(wanted)).count();
        assert_eq!(count, 1, "{wanted}\n{run}");
    }
    assert_eq!(found.len(), spoils.len(), "{found:#?}\n{run}");
}

#[test]
fn equal_trees_pass_the_check() {
    let scratch = Scratch::ordinary().with_source(&checked_tree());
    scratch.sync();
    let run = unchanged(&scratch, || check(&scratch)).expect(0);
    assert!(differences(&run).is_empty() && run.stderr.is_empty(), "{run}");
}

#[test]
fn each_difference_alone_is_said_once_with_its_word() {
    let scratch = Scratch::new().with_source(&checked_tree());
    for one in &SPOILS {
        println!("{}", one.0);
        scratch.once(&[]).expect(0);
        spoil(&scratch, std::slice::from_ref(one));
        let run = unchanged(&scratch, || check(&scratch)).expect(1);
        assert_said(&run, std::slice::from_ref(one));
    }
}

#[test]
fn all_differences_at_once_are_said_once_each() {
    let scratch = Scratch::ordinary().with_source(&checked_tree());
    scratch.sync();
    spoil(&scratch, &SPOILS);
    let run = unchanged(&scratch, || check(&scratch)).expect(1);
    assert_said(&run, &SPOILS);
    assert!(run.stdout.contains(&format!("{} differences", SPOILS.len())), "{run}");
    scratch.once(&[]).expect(0);
    scratch.assert_twins();
    check(&scratch).expect(0);
}

#[test]
fn attributes_and_owners_that_differ_are_said() {
    let scratch = Scratch::new().with_source(&checked_tree());
    scratch.sync();
    let mut wanted: Vec<Spoil> = Vec::new();
    if xattr::keeps(scratch.root(), "user.x") {
        wanted.push((
            "sub/xattr",
            |at| xattr::set_xattr(at, "user.x", "y").unwrap(),
            "sub/xattr (metadata: attributes)",
        ));
        let dir = |at: &Path| xattr::set_xattr(at, "user.x", "y").unwrap();
        wanted.push(("sub/dir xattr", dir, "sub/dir xattr/ (metadata: attributes)"));
    }
    if is_root() {
        let give = |at: &Path| std::os::unix::fs::lchown(at, Some(12), Some(34)).unwrap();
        wanted.push(("sub/owner", give, "sub/owner (metadata: owner group)"));
        wanted.push(("sub/link", give, "sub/link (metadata: owner group)"));
    }
    if wanted.is_empty() {
        return skip("no attributes, and no right to give files away");
    }
    spoil(&scratch, &wanted);
    let run = unchanged(&scratch, || check(&scratch)).expect(1);
    assert_said(&run, &wanted);
}

fn silent_lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.contains(" silent ")).collect()
}

#[test]
fn a_flipped_byte_is_found_by_a_check_and_repaired_with_a_warning() {
    // Of "sample" and of "samplf".
    let sums = ["5e8ff9bf55ba3508199d22e984129be6", "9a55dd347e6be93ef0e69bac5d76a874"];
    let scratch = Scratch::ordinary()
        .with_source(&Tree::new().file("sub/file", "sample").file("other", "text"));
    scratch.sync();
    let replica = scratch.replica().join("sub/file");
    let good = Snapshot::of(&scratch.replica());
    rewrite(&replica, b"samplf");
    let run = unchanged(&scratch, || check(&scratch)).expect(1);
    assert_eq!(differences(&run), ["sub/file (md5)"]);
    let said = silent_lines(&run.stderr);
    assert_eq!(said.len(), 1, "{run}");
    assert!(sums.iter().all(|sum| said[0].contains(sum)), "both MD5s are named\n{run}");

    let run = scratch.once(&["60", "log"]).expect(0);
    assert_eq!(actions(&run), ["updated  sub/file (md5, 6 B)"]);
    assert_same("repaired", &good, &Snapshot::of(&scratch.replica()));
    let log = fs::read_to_string(scratch.log()).unwrap();
    for text in [&run.stderr, &log] {
        let said = silent_lines(text);
        assert_eq!(said.len(), 1, "{text}");
        assert!(said[0].contains("sub/file"), "{text}");
        assert!(sums.iter().all(|sum| said[0].contains(sum)), "{text}");
    }
    assert!(log.contains(" WARN silent path=\"sub/file\""), "{log}");
    check(&scratch).expect(0);
}
